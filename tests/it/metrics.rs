//! `/metrics`: what it counts of pulls and pushes, and that nothing on it grows with what clients send.

use std::collections::BTreeMap;

use crate::support::{
    Exchange, FakeUpstream, Reply, TestRegistry, eventually,
    image::{Image, ImageBuilder},
    samples::samples,
};

fn answers(samples: &BTreeMap<String, f64>, content: &str, from: &str) -> f64 {
    let name = format!("standin_answers_total{{content=\"{content}\",from=\"{from}\"}}");
    samples.get(&name).copied().unwrap_or_default()
}

#[tokio::test]
async fn a_job_can_be_read_from_it() {
    let upstream = FakeUpstream::start().await;
    let pulled = ImageBuilder::new(1).layer(100_000).build();
    upstream.add_image("acme/app", "v1", &pulled);
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .args(["--negative-ttl", "0"])
        .start()
        .await;
    let client = registry.client();

    client.pull_image("quay.io/acme/app", "v1", &pulled).await;
    let bytes: usize = pulled.blobs().map(|blob| blob.bytes.len()).sum();
    let blobs = pulled.blobs().count() as f64;
    let cold = samples(&client).await;
    assert_eq!(answers(&cold, "manifest", "upstream"), 1.0);
    assert_eq!(answers(&cold, "blob", "upstream"), blobs);
    let content = (bytes + pulled.manifest.bytes.len()) as f64;
    let from_upstream = r#"standin_upstream_received_bytes_total{registry="quay.io"}"#;
    assert_eq!(cold[from_upstream], content);
    assert_eq!(cold["standin_sent_bytes_total"], content);
    assert_eq!(cold["standin_cache_used_bytes"], content);
    assert!(cold["standin_cache_limit_bytes"] > content);
    let answered = r#"standin_upstream_requests_total{registry="quay.io",outcome="answered"}"#;
    assert_eq!(cold[answered], 1.0 + blobs);
    eventually("the fills are over", || async {
        samples(&client).await["standin_fills"] == 0.0
    })
    .await;

    client.pull_image("quay.io/acme/app", "v1", &pulled).await;
    let warm = samples(&client).await;
    assert_eq!(answers(&warm, "manifest", "cache"), 1.0);
    assert_eq!(answers(&warm, "blob", "cache"), blobs);
    assert_eq!(warm[from_upstream], content, "nothing more was fetched");
    assert_eq!(warm["standin_sent_bytes_total"], 2.0 * content);

    let pushed = Image::small(2);
    client.push_image("quay.io/acme/app", "v1", &pushed).await;
    client.push_image("other.test/app", "v1", &pushed).await;
    client
        .get_manifest("quay.io/acme/app", "v1")
        .await
        .expect(200);
    client
        .get_manifest("other.test/app", "v1")
        .await
        .expect(200);
    client
        .get_manifest("quay.io/acme/app", "v9")
        .await
        .expect(404);
    upstream.fail(Reply::Status(403));
    client
        .get_manifest("quay.io/acme/app", "v8")
        .await
        .expect(404);
    let busy = samples(&client).await;
    for (from, expected) in [
        ("shadow", 1.0),
        ("local", 1.0),
        ("nowhere", 1.0),
        ("failed", 1.0),
    ] {
        assert_eq!(answers(&busy, "manifest", from), expected, "{from}");
    }
    let unauthorized =
        r#"standin_upstream_requests_total{registry="quay.io",outcome="unauthorized"}"#;
    assert_eq!(busy[unauthorized], 1.0);
    let received: usize = pushed.blobs().map(|blob| blob.bytes.len()).sum();
    let received = 2.0 * (received + pushed.manifest.bytes.len()) as f64;
    assert_eq!(busy["standin_received_bytes_total"], received);
}

#[tokio::test]
async fn its_labels_are_few_whatever_clients_send() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let names = || async { samples(&client).await.into_keys().collect::<Vec<_>>() };
    client.get("/v2/a/manifests/1").answer().await;
    client.get("/nowhere").answer().await;
    // The first look counts itself for the second.
    names().await;
    let before = names().await;
    for n in 0..20 {
        client
            .get(&format!("/v2/a{n}.test/b/manifests/{n}"))
            .answer()
            .await;
        client.get(&format!("/nowhere/{n}")).answer().await;
    }
    assert_eq!(names().await, before);
}

#[tokio::test]
async fn it_is_read_and_not_written() {
    let registry = TestRegistry::start().await;
    let refused = registry
        .client()
        .post("/metrics")
        .answer()
        .await
        .expect(405);
    assert_eq!(refused.header("allow"), "GET, HEAD");
}
