//! An upstream that fails: the rule that found the source decides whether the client hears of it as an error of ours or
//! as a miss, so that whoever has another host to ask goes on to it at once.

use reqwest::RequestBuilder;

use crate::support::{
    Answer, Exchange, FakeUpstream, Reply, TestRegistry, image::Image, upstream::ClosedPort,
};

/// The four ways to mean docker.io's acme/app, by the rule that finds the source.
const RULES: [(&str, &str, Option<&str>); 4] = [
    ("ns", "/v2/acme/app/manifests/v1?ns=docker.io", None),
    (
        "host",
        "/v2/acme/app/manifests/v1",
        Some("registry-1.docker.io"),
    ),
    ("prefix", "/v2/docker.io/acme/app/manifests/v1", None),
    ("default", "/v2/acme/app/manifests/v1", None),
];

async fn registry_before(upstream: &str) -> TestRegistry {
    TestRegistry::builder()
        .registry("docker.io", upstream)
        .start()
        .await
}

fn with_host(request: RequestBuilder, host: Option<&str>) -> RequestBuilder {
    match host {
        Some(host) => request.header("host", host),
        None => request,
    }
}

/// Asserts what each rule makes of a failure whose cause is told with one of `causes`.
async fn assert_failure(registry: &TestRegistry, what: &str, statuses: &[u16], causes: &[&str]) {
    let client = registry.client();
    let asked = RULES.map(|(rule, path, host)| {
        let request = with_host(client.get(path), host);
        tokio::spawn(async move { (rule, request.answer().await) })
    });
    for answer in asked {
        let (rule, answer): (&str, Answer) = answer.await.unwrap();
        let message = answer.message();
        assert!(message.contains("docker.io"), "{what}, {rule}: {message}");
        let told = causes.iter().any(|cause| message.contains(cause));
        assert!(told, "{what}, {rule}: {message}");
        if rule == "host" {
            assert!(statuses.contains(&answer.status), "{what}: {answer:?}");
        } else {
            answer.refused(404, "MANIFEST_UNKNOWN");
        }
    }
}

#[tokio::test]
async fn nobody_listens() {
    let closed = ClosedPort::reserve();
    let registry = registry_before(&closed.url()).await;
    let causes = ["refused", "connect"];
    assert_failure(&registry, "refused", &[502, 503], &causes).await;
}

#[tokio::test]
async fn it_answers_with_an_error() {
    for (status, said) in [(500, [502, 503]), (503, [502, 503]), (429, [502, 503])] {
        let upstream = FakeUpstream::start().await;
        upstream.add_image("acme/app", "v1", &Image::small(1));
        upstream.fail(Reply::Status(status));
        let registry = registry_before(&upstream.url()).await;
        let what = status.to_string();
        assert_failure(&registry, &what, &said, &[&what]).await;
        // It is forgotten as soon as the upstream is well again.
        upstream.recover();
        for (rule, path, host) in RULES {
            let answer = with_host(registry.client().get(path), host).answer().await;
            assert_eq!(answer.status, 200, "{rule} after {status}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn it_wants_credentials_or_has_no_such_thing() {
    for status in [401, 403] {
        let upstream = FakeUpstream::start().await;
        upstream.fail(Reply::Status(status));
        let registry = registry_before(&upstream.url()).await;
        let client = registry.client();
        for (rule, path, host) in RULES {
            let head = with_host(client.head(path), host).answer().await;
            assert_eq!(head.status, 404, "{rule}: {head:?}");
            let get = with_host(client.get(path), host).answer().await;
            let message = get.refused(404, "MANIFEST_UNKNOWN").message();
            let why = [&status.to_string(), "docker.io", "credentials"];
            let told = why.iter().all(|why| message.contains(*why));
            assert!(told, "{rule}: {message}");
        }
        // Said of one moment only.
        upstream.recover();
        let image = Image::small(1);
        upstream.add_image("acme/app", "v1", &image);
        client.pull_image("acme/app", "v1", &image).await;
    }
}

#[tokio::test]
async fn it_accepts_and_never_answers() {
    let upstream = FakeUpstream::start().await;
    upstream.fail(Reply::Silent);
    let registry = registry_before(&upstream.url()).await;
    // containerd gives up after 30 seconds without headers, so the answer must come before.
    let begin = std::time::Instant::now();
    let causes = ["time", "answer"];
    assert_failure(&registry, "silent", &[504], &causes).await;
    assert!(begin.elapsed() < std::time::Duration::from_secs(29));
}

#[tokio::test]
async fn it_does_not_have_it() {
    let upstream = FakeUpstream::start().await;
    let registry = registry_before(&upstream.url()).await;
    let client = registry.client();
    for (rule, path, host) in RULES {
        let answer = with_host(client.get(path), host).answer().await;
        assert_eq!(answer.status, 404, "{rule}");
        answer.refused(404, "MANIFEST_UNKNOWN");
    }
}

#[tokio::test]
async fn a_blob_is_judged_by_the_same_rule() {
    let upstream = FakeUpstream::start().await;
    let image = Image::small(2);
    upstream.add_image("acme/app", "v1", &image);
    let registry = registry_before(&upstream.url()).await;
    let client = registry.client();
    client.get_manifest("acme/app", "v1").await.expect(200);
    upstream.fail(Reply::Status(500));
    let blob = &image.layers[0].digest;
    let rows = [
        (format!("/v2/acme/app/blobs/{blob}?ns=docker.io"), None),
        (format!("/v2/docker.io/acme/app/blobs/{blob}"), None),
        (format!("/v2/acme/app/blobs/{blob}"), None),
    ];
    for (path, host) in rows {
        let answer = with_host(client.get(&path), host).answer().await;
        let answer = answer.refused(404, "BLOB_UNKNOWN");
        assert!(answer.message().contains("500"), "{path}: {answer:?}");
    }
    let path = format!("/v2/acme/app/blobs/{blob}");
    let real = with_host(client.get(&path), Some("registry-1.docker.io"));
    let real = real.answer().await;
    assert!([502, 503].contains(&real.status), "{real:?}");

    upstream.recover();
    client.pull_image("acme/app", "v1", &image).await;
}

#[tokio::test]
async fn a_secret_in_a_request_is_in_no_log_and_in_no_request_of_ours() {
    let upstream = FakeUpstream::start().await;
    let image = Image::small(3);
    upstream.add_image("acme/app", "v1", &image);
    let registry = TestRegistry::builder()
        .registry("docker.io", &upstream.url())
        .env("RUST_LOG", "trace")
        .start()
        .await;
    let client = registry.client();
    // dockerd sends a mirror its user's Docker Hub credentials.
    let get = client
        .get("/v2/acme/app/manifests/v1")
        .header("authorization", "Basic aHVudGVyMjpodW50ZXIy");
    get.answer().await.expect(200);
    assert_eq!(registry.log().count(&["aHVudGVyMjpodW50ZXIy"]), 0);
    let asked = upstream.headers();
    assert!(!asked.is_empty());
    assert!(
        asked
            .iter()
            .all(|line| !line.contains("aHVudGVyMjpodW50ZXIy"))
    );
}

#[tokio::test]
async fn tags_without_the_upstream_are_those_that_are_known_here_with_a_warning() {
    let upstream = FakeUpstream::start().await;
    let image = Image::small(3);
    upstream.add_image("acme/app", "v1", &image);
    upstream.add_image("acme/app", "v2", &image);
    let registry = registry_before(&upstream.url()).await;
    let client = registry.client();
    client.pull_image("acme/app", "v1", &image).await;
    client.push_image("acme/app", "mine", &image).await;
    upstream.fail(Reply::Status(500));
    let list = client
        .get("/v2/acme/app/tags/list")
        .answer()
        .await
        .expect(200);
    assert_eq!(list.json()["tags"], serde_json::json!(["mine", "v1"]));
    let warning = list.header("warning");
    assert!(
        warning.starts_with("299 - ") && warning.contains("docker.io"),
        "{warning}"
    );
    let unknown = client.get("/v2/acme/other/tags/list").answer().await;
    let message = unknown.refused(404, "NAME_UNKNOWN").message();
    assert!(message.contains("500"), "{message}");
    upstream.recover();
    assert_eq!(client.tags("acme/app").await, ["mine", "v1", "v2"]);
}
