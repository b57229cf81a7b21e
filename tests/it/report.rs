//! `/status` and `--report`: what a job did, by name, in three forms whose numbers are those of `/metrics`.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Client, Exchange, FakeUpstream, Reply, TestRegistry,
    image::{DOCKER_LIST, Image, ImageBuilder, index},
    markup::Document,
    samples::{Samples, samples},
};

/// A job: pulls from the upstream, the cache, from what it pushed, in place of the upstream; failures, and a 429.
struct Job {
    upstream: FakeUpstream,
    registry: TestRegistry,
    client: Client,
}

impl Job {
    async fn done(args: &[&str]) -> Self {
        let upstream = FakeUpstream::start().await;
        let registry = TestRegistry::builder()
            .registry("quay.io", &upstream.url())
            .args(args.iter().copied())
            .start()
            .await;
        let client = registry.client();
        let pulled = ImageBuilder::new(1).layer(100_000).layer(20_000).build();
        upstream.add_image("acme/app", "v1", &pulled);
        client.pull_image("quay.io/acme/app", "v1", &pulled).await;
        client.pull_image("quay.io/acme/app", "v1", &pulled).await;

        let own = Image::small(2);
        client.push_image("quay.io/acme/own", "v1", &own).await;
        client.pull_image("quay.io/acme/own", "v1", &own).await;
        client.push_image("local.test/own", "v1", &own).await;
        client.pull_image("local.test/own", "v1", &own).await;

        let limited = Image::small(3);
        upstream.add_image("acme/limited", "v1", &limited);
        let path = "/v2/acme/limited/manifests/v1";
        let busy = Reply::Raw(
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n".into(),
        );
        upstream.script("GET", path, [busy]);
        client
            .pull_image("quay.io/acme/limited", "v1", &limited)
            .await;

        client
            .get_manifest("quay.io/acme/gone", "v1")
            .await
            .expect(404);
        let path = "/v2/acme/refused/manifests/v1";
        upstream.script("GET", path, [Reply::Status(403)]);
        client
            .get_manifest("quay.io/acme/refused", "v1")
            .await
            .expect(404);
        Self {
            upstream,
            registry,
            client,
        }
    }

    async fn json(&self) -> Value {
        let answer = self
            .client
            .get("/status?format=json")
            .answer()
            .await
            .expect(200);
        assert_eq!(answer.header("content-type"), "application/json");
        answer.json()
    }
}

/// The entry of an image.
fn image<'a>(report: &'a Value, list: &str, name: &str) -> &'a Value {
    let images = report[list].as_array().unwrap();
    let found = images.iter().find(|image| image["image"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {images:#?}"))
}

/// Asserts that what `/metrics` counts is what the report says.
fn assert_counted(report: &Value, metrics: &Samples) {
    let number = |value: &Value| value.as_f64().unwrap();
    let totals = &report["totals"];
    for (field, sample) in [
        ("sent_bytes", "standin_sent_bytes_total"),
        ("received_bytes", "standin_received_bytes_total"),
        ("cached_bytes", "standin_cache_used_bytes"),
        ("cache_limit_bytes", "standin_cache_limit_bytes"),
        ("evicted_manifests", "standin_cache_evicted_manifests_total"),
        ("evicted_bytes", "standin_cache_evicted_bytes_total"),
        ("waited_seconds", "standin_upstream_waited_seconds_total"),
    ] {
        assert_eq!(number(&totals[field]), metrics[sample], "{field}");
    }
    for (field, content) in [("manifests", "manifest"), ("blobs", "blob")] {
        for (from, count) in report["answers"][field].as_object().unwrap() {
            let sample = format!("standin_answers_total{{content=\"{content}\",from=\"{from}\"}}");
            let counted = metrics.get(&sample).copied().unwrap_or_default();
            assert_eq!(number(count), counted, "{sample}");
        }
    }
    let mut fetched = 0.0;
    for upstream in report["upstreams"].as_array().unwrap() {
        let registry = upstream["registry"].as_str().unwrap();
        for request in upstream["requests"].as_array().unwrap() {
            let outcome = request[0].as_str().unwrap();
            let labels = format!("registry=\"{registry}\",outcome=\"{outcome}\"");
            let sample = format!("standin_upstream_requests_total{{{labels}}}");
            assert_eq!(number(&request[1]), metrics[&sample], "{sample}");
        }
        let sample = format!("standin_upstream_received_bytes_total{{registry=\"{registry}\"}}");
        assert_eq!(
            number(&upstream["received_bytes"]),
            metrics[&sample],
            "{sample}"
        );
        fetched += metrics[&sample];
    }
    assert_eq!(number(&totals["fetched_bytes"]), fetched);
    let saved = (metrics["standin_sent_bytes_total"] - fetched).max(0.0);
    assert_eq!(number(&totals["saved_bytes"]), saved);
}

#[tokio::test]
async fn status_tells_a_job_by_name() {
    let job = Job::done(&[]).await;
    let metrics = samples(&job.client).await;
    let report = job.json().await;
    assert_eq!(report["version"], 1);
    assert_eq!(report["running"], true);
    assert_counted(&report, &metrics);
    let totals = &report["totals"];
    assert_eq!(totals["images_pulled"], 4);
    assert_eq!(totals["pulls"], 5);
    assert_eq!(totals["images_pushed"], 2);
    assert_eq!(totals["rate_limited"], 1);
    for (from, count) in [
        ("local", 1),
        ("shadow", 1),
        ("cache", 1),
        ("stale", 0),
        ("upstream", 2),
        ("nowhere", 1),
        ("failed", 1),
    ] {
        assert_eq!(totals["from"][from], count, "{from}");
    }

    let app = image(&report, "pulled", "quay.io/acme/app:v1");
    assert_eq!(app["pulls"], 2);
    assert_eq!(
        (&app["from"]["upstream"], &app["from"]["cache"]),
        (&1.into(), &1.into())
    );
    let (sent, fetched) = (
        app["bytes"].as_u64().unwrap(),
        app["fetched_bytes"].as_u64().unwrap(),
    );
    assert_eq!(sent, 2 * fetched, "{app}");
    assert!(app["waited_seconds"].as_f64().unwrap() <= app["slowest_seconds"].as_f64().unwrap());
    assert_eq!(app["times"].as_array().unwrap().len(), 2);
    let own = image(&report, "pushed", "quay.io/acme/own:v1");
    assert_eq!(own["bytes"], own["uploaded_bytes"], "{own}");
    let gone = image(&report, "pulled", "quay.io/acme/gone:v1");
    let why = gone["error"].as_str().unwrap();
    assert!(why.contains("neither in standin nor at quay.io"), "{why}");

    let upstream = &report["upstreams"][0];
    let kinds: Vec<&str> = upstream["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["rate_limited", "unauthorized"], "{upstream}");
    let first = upstream["errors"][0]["first_message"].as_str().unwrap();
    assert!(first.contains("429"), "{first}");
    let story = report["summary"].to_string();
    assert!(
        story.starts_with(r#"["4 images pulled in 5 pulls: 2 from what was pushed"#),
        "{story}"
    );
    drop(job.upstream);
}

#[tokio::test]
async fn the_page_is_well_formed_and_says_what_metrics_says() {
    let job = Job::done(&[]).await;
    let metrics = samples(&job.client).await;
    let page = job.client.get("/status").answer().await.expect(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("cache-control"), "no-store");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert_page(&text, &metrics);
    let refreshed = job
        .client
        .get("/status?refresh=5")
        .answer()
        .await
        .expect(200);
    let text = String::from_utf8(refreshed.body.to_vec()).unwrap();
    let document = Document::parse(&text);
    let refresh = document.all("meta").into_iter();
    let mut refresh = refresh.filter(|meta| meta.attribute("http-equiv") == Some("refresh"));
    assert_eq!(refresh.next().unwrap().attribute("content"), Some("5"));
}

/// A page that a browser and any XML parser read alike, that loads nothing, and whose numbers are those.
fn assert_page(text: &str, metrics: &Samples) {
    let document = Document::parse(text);
    for element in document.elements() {
        assert!(
            !["script", "iframe", "img", "object"].contains(&element.name()),
            "{element:?}"
        );
        for (name, value) in element.attributes() {
            let loads = matches!(
                name,
                "src" | "href" | "srcset" | "data" | "action" | "style"
            );
            let here = value.starts_with("/status") || value == "data:,";
            assert!(!loads || here, "{element:?}");
            assert!(!name.starts_with("on"), "{element:?}");
        }
    }
    assert!(!text.contains("url("), "a style that loads something");
    let value = |id: &str| {
        document
            .by_id(id)
            .attribute("value")
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    for (id, sample) in [
        ("sent_bytes", "standin_sent_bytes_total"),
        ("received_bytes", "standin_received_bytes_total"),
        ("waited_seconds", "standin_upstream_waited_seconds_total"),
        ("cached_bytes", "standin_cache_used_bytes"),
        ("cache_limit_bytes", "standin_cache_limit_bytes"),
        ("evicted_bytes", "standin_cache_evicted_bytes_total"),
    ] {
        assert_eq!(value(id), metrics[sample], "{id}");
    }
    let fetched = metrics[r#"standin_upstream_received_bytes_total{registry="quay.io"}"#];
    assert_eq!(value("fetched_bytes"), fetched);
    assert_eq!(
        value("saved_bytes"),
        metrics["standin_sent_bytes_total"] - fetched
    );
    let mut seen = 0;
    for data in document.all("data") {
        let (Some(key), Some(of)) = (data.attribute("data-key"), data.attribute("data-of")) else {
            continue;
        };
        let sample = match key {
            "manifest" | "blob" => {
                format!("standin_answers_total{{content=\"{key}\",from=\"{of}\"}}")
            }
            "received" => format!("standin_upstream_received_bytes_total{{registry=\"{of}\"}}"),
            "rate_limited" => {
                format!("standin_upstream_requests_total{{registry=\"{of}\",outcome=\"{key}\"}}")
            }
            _ => continue,
        };
        let counted = metrics.get(&sample).copied().unwrap_or_default();
        assert_eq!(
            data.attribute("value").unwrap().parse::<f64>().unwrap(),
            counted,
            "{sample}"
        );
        seen += 1;
    }
    assert_eq!(seen, 2 * 7 + 2, "what was compared");
    for (table, rows) in [
        ("pulled", 4),
        ("missed", 2),
        ("pushed", 2),
        ("errors", 2),
        ("waterfall", 4),
    ] {
        assert_eq!(document.by_id(table).all("tr").len(), rows + 1, "{table}");
    }
    let bars = document.by_id("waterfall").all("rect");
    let colours: Vec<&str> = bars
        .iter()
        .filter_map(|bar| bar.attribute("class"))
        .collect();
    assert_eq!(
        colours,
        ["upstream", "cache", "shadow", "local", "upstream"]
    );
}

#[tokio::test]
async fn reports_are_written_when_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let files = [at("r.json"), at("r.md"), at("r.html")];
    let args: Vec<&str> = files
        .iter()
        .flat_map(|file| ["--report", file.to_str().unwrap()])
        .collect();
    let job = Job::done(&args).await;
    let metrics = samples(&job.client).await;
    assert!(
        files.iter().all(|file| !file.exists()),
        "they are whole or not there"
    );
    job.registry.stop().await;
    let [json, markdown, html] = files.map(|file| fs::read_to_string(file).unwrap());
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["running"], false);
    assert_counted(&report, &metrics);
    assert_page(&html, &metrics);
    assert!(!html.contains("href=\"/status"), "a file leads nowhere");
    assert!(
        markdown.contains("- 4 images pulled in 5 pulls"),
        "{markdown}"
    );
    assert!(markdown.contains("quay.io/acme/app&#58;v1"), "{markdown}");
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[tokio::test]
async fn a_step_summary_keeps_what_others_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let summary = directory.path().join("summary.md");
    fs::write(&summary, "# mine").unwrap();
    let registry = TestRegistry::builder()
        .env("GITHUB_STEP_SUMMARY", summary.to_str().unwrap())
        .start()
        .await;
    let client = registry.client();
    client.push_image("acme/app", "v1", &Image::small(1)).await;
    registry.stop().await;
    let text = fs::read_to_string(&summary).unwrap();
    assert!(text.starts_with("# mine\n## standin\n"), "{text}");
    assert!(text.contains("1 image pushed"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_written_is_told_before_the_job_or_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("no/such/report.html");
    let (status, said) = with_report(&nowhere).fails_to_start().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("no/such/report.html") && said.contains("No such file"),
        "{said}"
    );
    let (status, said) = with_report(Path::new("report.txt")).fails_to_start().await;
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(
        said.contains("report.txt") && said.contains(".json, .md or .html"),
        "{said}"
    );

    let inside = directory.path().join("in");
    fs::create_dir(&inside).unwrap();
    let other = directory.path().join("other.json");
    let builder = with_report(&inside.join("report.md"));
    let builder = builder.args(["--report", other.to_str().unwrap()]);
    let ready = directory.path().join("ready.json");
    let mut registry = builder
        .args(["--ready-file", ready.to_str().unwrap()])
        .start()
        .await;
    fs::remove_dir(&inside).unwrap();
    registry.signal(Signal::TERM);
    assert_eq!(registry.exited().await.code(), Some(1));
    registry
        .log()
        .line_with(&["the report can't be written as Markdown to", "in/report.md"])
        .await;
    assert!(other.exists() && !ready.exists(), "the rest was done");
}

fn with_report(file: &Path) -> crate::support::registry::Builder {
    TestRegistry::builder().args(["--report", file.to_str().unwrap()])
}

#[tokio::test]
async fn a_pull_by_digests_is_called_by_its_tag() {
    // As containerd and today's docker pull: HEAD of the tag, then all by digests.
    let upstream = FakeUpstream::start().await;
    let image = ImageBuilder::new(1).layer(5000).build();
    let index = index(DOCKER_LIST, &[&image.manifest]);
    upstream.add_image("acme/app", "amd64", &image);
    upstream.add_manifest("acme/app", "v1", &index);
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .start()
        .await;
    let client = registry.client();
    for _ in 0..2 {
        client
            .head("/v2/quay.io/acme/app/manifests/v1")
            .answer()
            .await
            .expect(200);
        for digest in [&index.digest, &image.manifest.digest] {
            client
                .get_manifest("quay.io/acme/app", digest)
                .await
                .expect(200);
        }
        for blob in image.blobs() {
            client
                .get_blob("quay.io/acme/app", &blob.digest)
                .await
                .expect(200);
        }
    }
    // One that has it already pulls nothing.
    client
        .head("/v2/quay.io/acme/app/manifests/v1")
        .answer()
        .await
        .expect(200);
    let first = registry
        .log()
        .line_with(&["quay.io/acme/app:v1: pulled from quay.io, "])
        .await;
    assert!(!first.contains("pull number"), "{first}");
    registry
        .log()
        .line_with(&[
            "quay.io/acme/app:v1: pulled from the cache, ",
            "pull number 2",
        ])
        .await;
    let status = client
        .get("/status?format=json")
        .answer()
        .await
        .expect(200)
        .json();
    assert_eq!(status["pulled"].as_array().unwrap().len(), 1, "{status:#}");
    assert_eq!(status["pulled"][0]["image"], "quay.io/acme/app:v1");
    assert_eq!(status["pulled"][0]["pulls"], 2);
    assert_eq!(status["pulled"][0]["digest"], index.digest.as_str());
}
