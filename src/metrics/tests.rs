//! What is counted is on the page, and can be read back.

#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn what_is_counted_is_on_the_page() {
    let metrics = Metrics::new();
    metrics.request("GET", "blob", 200, Duration::from_millis(3));
    metrics.sent(1000);
    metrics.received(10);
    metrics.answered(Content::Manifest, Origin::Shadow);
    metrics.upstream_request("quay.io", Outcome::RateLimited, Duration::from_secs(1));
    metrics.upstream_request("quay.io", Outcome::Withheld, Duration::ZERO);
    metrics.upstream_received("quay.io").add(77);
    metrics.upstream_resumed("quay.io");
    metrics.upstream_withheld("quay.io", true);
    metrics.pull_limit("docker.io", Some(100), 42);
    metrics.cache(5, 10, 2, 2048);
    let tunnel = metrics.tunnels().begin();
    metrics.tunnels().add_sent(3);
    metrics.tunnels().add_received(4);
    let under_way = metrics.fill();
    let page = metrics.page().unwrap();
    for line in [
        r#"standin_requests_total{method="GET",endpoint="blob",status="200"} 1"#,
        r#"standin_request_duration_seconds_count{endpoint="blob"} 1"#,
        "standin_sent_bytes_total 1000",
        "standin_received_bytes_total 10",
        r#"standin_answers_total{content="manifest",from="shadow"} 1"#,
        "standin_fills 1",
        r#"standin_upstream_requests_total{registry="quay.io",outcome="rate_limited"} 1"#,
        r#"standin_upstream_requests_total{registry="quay.io",outcome="withheld"} 1"#,
        r#"standin_upstream_request_duration_seconds_count{registry="quay.io"} 1"#,
        r#"standin_upstream_received_bytes_total{registry="quay.io"} 77"#,
        r#"standin_upstream_resumes_total{registry="quay.io"} 1"#,
        r#"standin_upstream_withheld{registry="quay.io"} 1"#,
        r#"standin_upstream_pull_limit{registry="docker.io"} 100"#,
        r#"standin_upstream_pulls_remaining{registry="docker.io"} 42"#,
        "standin_cache_used_bytes 5",
        "standin_cache_limit_bytes 10",
        "standin_cache_evicted_manifests_total 2",
        "standin_cache_evicted_bytes_total 2048",
        "standin_tunnels 1",
        "standin_tunnels_opened_total 1",
        "standin_tunnels_sent_bytes_total 3",
        "standin_tunnels_received_bytes_total 4",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "{line} is not on\n{page}"
        );
    }
    drop((under_way, tunnel));
    let page = metrics.page().unwrap();
    assert!(page.contains("\nstandin_fills 0\n"), "{page}");
    assert!(page.contains("\nstandin_tunnels 0\n"), "{page}");
}
