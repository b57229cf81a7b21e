//! Tags and their age: how long an answer counts, what is served when nobody can say whether it still holds, and what an
//! absence is worth.

use serde_json::json;

use crate::support::{
    Answer, Client, Exchange, FakeUpstream, Reply, TestRegistry,
    image::{Image, ImageBuilder, Manifest, OCI_INDEX, OCI_MANIFEST, index},
    registry::Builder,
    within,
};

const APP: &str = "quay.io/acme/app";

/// An upstream that is quay.io, and how to start a registry in front of it.
async fn quay() -> (FakeUpstream, Builder) {
    let upstream = FakeUpstream::start().await;
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    (upstream, builder)
}

fn warning(answer: &Answer) -> Option<&str> {
    let warning = answer.headers.get("warning")?;
    Some(warning.to_str().unwrap())
}

#[track_caller]
fn assert_stale(answer: &Answer) {
    let warning = answer.header("warning");
    assert!(warning.starts_with("299 - \"stale: "), "{warning}");
    assert!(warning.contains("quay.io"), "{warning}");
}

fn manifest_requests(upstream: &FakeUpstream, method: &str) -> usize {
    let requests = upstream.requests();
    let such = |r: &&String| r.starts_with(method) && r.contains("/manifests/");
    requests.iter().filter(such).count()
}

/// A warm pull by tag while the upstream can't be asked.
async fn assert_pulled_stale(client: &Client, image: &Image) {
    let got = client.get_manifest(APP, "v1").await.expect(200);
    assert_stale(&got);
    assert_eq!(got.body, image.manifest.bytes);
    let head = client.head_manifest(APP, "v1").await.expect(200);
    assert_stale(&head);
    assert_eq!(head.header("docker-content-digest"), image.manifest.digest);
    let length = image.manifest.bytes.len().to_string();
    assert_eq!(head.header("content-length"), length);
    let get = client.get(&format!("/v2/{APP}/manifests/v1"));
    let get = get.header("if-none-match", head.header("etag"));
    assert_stale(&get.answer().await.expect(304));
    // A digest never changes its meaning.
    let by_digest = client.get_manifest(APP, &image.manifest.digest).await;
    assert_eq!(warning(&by_digest.expect(200)), None);
    client.pull_image(APP, "v1", image).await;
}

#[tokio::test]
async fn an_old_tag_is_better_than_none() {
    let (upstream, builder) = quay().await;
    let image = ImageBuilder::new(1).layer(100_000).build();
    upstream.add_image("acme/app", "v1", &image);
    let registry = builder.args(["--tag-ttl", "0"]).start().await;
    let client = registry.client();
    client.pull_image(APP, "v1", &image).await;
    let fresh = client.get_manifest(APP, "v1").await.expect(200);
    assert_eq!(warning(&fresh), None);
    for reply in [429, 500, 503, 401, 403].map(Reply::Status) {
        upstream.fail(reply);
        assert_pulled_stale(&client, &image).await;
    }
    upstream.fail(Reply::LoginPage);
    assert_pulled_stale(&client, &image).await;
    upstream.recover();
    let fresh = client.get_manifest(APP, "v1").await.expect(200);
    assert_eq!(warning(&fresh), None);
}

#[tokio::test]
async fn a_warm_pull_needs_no_upstream() {
    let (upstream, builder) = quay().await;
    let image = ImageBuilder::new(2).layer(100_000).build();
    upstream.add_image("acme/app", "v1", &image);
    let registry = builder.args(["--tag-ttl", "0"]).start().await;
    registry.client().pull_image(APP, "v1", &image).await;
    let _unplugged = upstream.stop().await;
    let client = registry.client();
    let pull = assert_pulled_stale(&client, &image);
    within("nobody waits for a registry that refuses connections", pull).await;
    let unknown = within("so is a miss", client.get_manifest(APP, "v2")).await;
    let message = unknown.refused(404, "MANIFEST_UNKNOWN").message();
    assert!(message.contains("refused"), "{message}");

    let registry = registry.restart().await;
    assert_pulled_stale(&registry.client(), &image).await;
    let registry = registry.stop().await.args(["--offline"]).start().await;
    let client = registry.client();
    client.pull_image(APP, "v1", &image).await;
    let head = client.head_manifest(APP, "v1").await.expect(200);
    assert_eq!(head.header("docker-content-digest"), image.manifest.digest);
}

#[tokio::test]
async fn what_is_not_here_whole_is_not_served_stale() {
    let (upstream, builder) = quay().await;
    let (whole, other) = (Image::small(3), Image::small(4));
    upstream.add_image("acme/app", "whole", &whole);
    upstream.add_image("acme/app", "other", &other);
    let both = index(OCI_INDEX, &[&whole.manifest, &other.manifest]);
    upstream.add_manifest("acme/app", "both", &both);
    let registry = builder.args(["--tag-ttl", "0"]).start().await;
    let client = registry.client();
    for tag in ["both", "other"] {
        client.get_manifest(APP, tag).await.expect(200);
    }
    upstream.fail(Reply::Status(500));
    for tag in ["both", "other"] {
        let refused = client.get_manifest(APP, tag).await;
        refused.refused(404, "MANIFEST_UNKNOWN");
        client.head_manifest(APP, tag).await.expect(404);
    }
    upstream.recover();
    client.pull_image(APP, "whole", &whole).await;
    upstream.fail(Reply::Status(500));
    // One platform of it can be had.
    assert_stale(&client.get_manifest(APP, "both").await.expect(200));
    let other = client.get_manifest(APP, "other").await;
    other.refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn what_the_upstream_says_is_gone_is_gone() {
    let (upstream, builder) = quay().await;
    let image = Image::small(5);
    upstream.add_image("acme/app", "v1", &image);
    let args = ["--tag-ttl", "0", "--negative-ttl", "0"];
    let registry = builder.args(args).start().await;
    let client = registry.client();
    client.pull_image(APP, "v1", &image).await;
    upstream.fail(Reply::Status(404));
    let gone = client.get_manifest(APP, "v1").await;
    gone.refused(404, "MANIFEST_UNKNOWN");
    // No outage brings it back.
    upstream.fail(Reply::Status(500));
    let gone = client.get_manifest(APP, "v1").await;
    gone.refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_tag_that_moved_and_can_not_be_fetched_is_served_as_it_was() {
    let (upstream, builder) = quay().await;
    let (old, new, newer) = (Image::small(6), Image::small(7), Image::small(8));
    upstream.add_image("acme/app", "v1", &old);
    let registry = builder.args(["--tag-ttl", "0"]).start().await;
    let client = registry.client();
    client.pull_image(APP, "v1", &old).await;
    // HEADs tell that it has moved, twice, and that is all that comes through.
    for moved in [&new, &newer] {
        upstream.add_image("acme/app", "v1", moved);
        let head = client.head_manifest(APP, "v1").await.expect(200);
        assert_eq!(head.header("docker-content-digest"), moved.manifest.digest);
    }
    upstream.fail(Reply::Status(503));
    assert_pulled_stale(&client, &old).await;
    let registry = registry.restart().await;
    assert_pulled_stale(&registry.client(), &old).await;
    upstream.recover();
    let client = registry.client();
    client.pull_image(APP, "v1", &newer).await;
    upstream.fail(Reply::Status(503));
    assert_pulled_stale(&client, &newer).await;
}

#[tokio::test]
async fn what_was_pushed_here_is_never_stale_and_a_push_depends_on_nobody() {
    let (upstream, builder) = quay().await;
    let image = Image::small(9);
    let registry = builder.start().await;
    let client = registry.client();
    upstream.fail(Reply::Status(503));
    // Nothing is here under that name: whoever has no next host hears of the outage.
    let path = "/v2/acme/app/manifests/v2";
    let as_quay = |path: &str| client.head(path).header("host", "quay.io").answer();
    let head = as_quay(path).await;
    assert!([502, 503].contains(&head.status), "{head:?}");

    client.push_image(APP, "mine", &image).await;
    let mine = client.get_manifest(APP, "mine").await.expect(200);
    assert_eq!(warning(&mine), None);
    let asked = upstream.requests().len();
    as_quay(path).await.expect(404);
    client.head_manifest(APP, "v2").await.expect(404);
    assert_eq!(upstream.requests().len(), asked + 2, "one try each");
    // A pull is told the truth all the same.
    let get = client.get(path).header("host", "quay.io").answer().await;
    assert!([502, 503].contains(&get.status), "{get:?}");
}

#[tokio::test]
async fn a_push_may_name_what_only_an_upstream_has_that_can_not_be_asked() {
    let (upstream, builder) = quay().await;
    let image = ImageBuilder::new(10).layer(1000).layer(2000).build();
    upstream.add_image("acme/app", "v1", &image);
    let registry = builder.start().await;
    let client = registry.client();
    // Its manifest was pulled, and not one of its blobs.
    client.get_manifest(APP, "v1").await.expect(200);
    upstream.fail(Reply::Status(503));
    let pushed = client.put_manifest(APP, "mine", &image.manifest).await;
    pushed.expect(201);
    let elsewhere = client.put_manifest("quay.io/acme/other", "mine", &image.manifest);
    elsewhere.await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    let layer = &image.layers[0];
    let wrong = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": image.config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer.digest, "size": layer.bytes.len() + 1,
        }],
    });
    let wrong = Manifest::new(OCI_MANIFEST, &wrong);
    let refused = client.put_manifest(APP, "wrong", &wrong).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    upstream.recover();
    client.pull_image(APP, "mine", &image).await;
}

#[tokio::test]
async fn head_then_get_of_a_fresh_tag_is_one_question_each() {
    for ttl in ["0", "1h"] {
        let (upstream, builder) = quay().await;
        let image = Image::small(11);
        upstream.add_image("acme/app", "v1", &image);
        let registry = builder.args(["--tag-ttl", ttl]).start().await;
        let client = registry.client();
        client.head_manifest(APP, "v1").await.expect(200);
        let got = client.get_manifest(APP, "v1").await.expect(200);
        assert_eq!(got.body, image.manifest.bytes);
        assert_eq!(manifest_requests(&upstream, "GET "), 1, "{ttl}");
        if ttl == "1h" {
            assert_eq!(manifest_requests(&upstream, "HEAD "), 1);
            for _ in 0..3 {
                client.head_manifest(APP, "v1").await.expect(200);
                client.get_manifest(APP, "v1").await.expect(200);
            }
            let asked = upstream.requests();
            assert_eq!(asked.len(), 2, "{asked:?}");
        }
    }
}

#[tokio::test]
async fn a_registry_that_knows_no_head_is_asked_with_get() {
    let (upstream, builder) = quay().await;
    let image = Image::small(12);
    upstream.add_image("acme/app", "v1", &image);
    upstream.script("HEAD", "/v2/acme/app/manifests/v1", [Reply::Status(405)]);
    let registry = builder.start().await;
    let client = registry.client();
    let head = client.head_manifest(APP, "v1").await.expect(200);
    assert_eq!(head.header("docker-content-digest"), image.manifest.digest);
    client.get_manifest(APP, "v1").await.expect(200);
    assert_eq!(manifest_requests(&upstream, "GET "), 1);
}

#[tokio::test]
async fn some_names_are_asked_for_more_often_than_others() {
    let (upstream, builder) = quay().await;
    let image = Image::small(13);
    for name in ["acme/app", "acme/rolling"] {
        upstream.add_image(name, "v1", &image);
    }
    let args = ["--tag-ttl", "1h", "--tag-ttl", "acme/rolling=0"];
    let registry = builder.args(args).start().await;
    let client = registry.client();
    for name in [APP, "quay.io/acme/rolling"] {
        for _ in 0..3 {
            client.get_manifest(name, "v1").await.expect(200);
        }
    }
    assert_eq!(upstream.count("HEAD", "/v2/acme/app/manifests/v1"), 0);
    assert_eq!(upstream.count("HEAD", "/v2/acme/rolling/manifests/v1"), 2);
}

#[tokio::test]
async fn an_absence_is_remembered_for_a_while_and_a_failure_is_not() {
    let (upstream, builder) = quay().await;
    let image = Image::small(14);
    let registry = builder.args(["--negative-ttl", "1h"]).start().await;
    let client = registry.client();
    let path = "/v2/acme/app/manifests/v1";
    upstream.fail(Reply::Status(500));
    client.get_manifest(APP, "v1").await.expect(404);
    upstream.recover();
    let asked = || upstream.count("GET", path) + upstream.count("HEAD", path);
    let before = asked();
    for _ in 0..3 {
        let missing = client.get_manifest(APP, "v1").await;
        missing.refused(404, "MANIFEST_UNKNOWN");
        client.head_manifest(APP, "v1").await.expect(404);
    }
    assert_eq!(asked(), before + 1);
    upstream.add_image("acme/app", "v1", &image);
    client.get_manifest(APP, "v1").await.expect(404);
    // A push changes what may be had under the name, so everything is asked anew.
    client.push_image(APP, "mine", &Image::small(15)).await;
    client.pull_image(APP, "v1", &image).await;
    assert_eq!(asked(), before + 2);
}

#[tokio::test]
async fn an_absence_need_not_be_remembered() {
    let (upstream, builder) = quay().await;
    let registry = builder.args(["--negative-ttl", "0"]).start().await;
    let client = registry.client();
    let path = "/v2/acme/app/manifests/none";
    for times in 1..4 {
        client.get_manifest(APP, "none").await.expect(404);
        assert_eq!(upstream.count("GET", path), times);
    }
}
