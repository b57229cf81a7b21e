//! Pulling through: what is fetched, how often, and when its first byte is passed on.

use crate::support::{
    Client, Exchange, FakeUpstream, Gate, Reply, TestRegistry, eventually,
    image::{Image, ImageBuilder, OCI_INDEX, index},
    registry::Builder,
};

const MIB: usize = 1 << 20;

/// An upstream that is quay.io, and how to start a registry in front of it.
async fn quay() -> (FakeUpstream, Builder) {
    let upstream = FakeUpstream::start().await;
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    (upstream, builder)
}

#[tokio::test]
async fn each_piece_is_fetched_once_and_kept() {
    let (upstream, builder) = quay().await;
    let oci = ImageBuilder::new(1).layer(100_000).layer(0).build();
    let docker = ImageBuilder::new(2).docker().layer(100_000).build();
    upstream.add_image("acme/oci", "v1", &oci);
    upstream.add_image("acme/docker", "v1", &docker);
    let mut registry = builder.start().await;
    for turn in 0..3 {
        let client = registry.client();
        for (name, image) in [("acme/oci", &oci), ("acme/docker", &docker)] {
            let spelled = format!("quay.io/{name}");
            client.pull_image(&spelled, "v1", image).await;
            let manifest = client.get_manifest(&spelled, "v1").await;
            assert_eq!(manifest.header("content-type"), image.manifest.media_type);
            let by_digest = client.get_manifest(&spelled, &image.manifest.digest);
            by_digest.await.expect(200);
            for blob in image.blobs() {
                let path = format!("/v2/{name}/blobs/{}", blob.digest);
                assert_eq!(upstream.count("GET", &path), 1, "turn {turn}: {path}");
            }
            let digest = &image.manifest.digest;
            let gets = upstream.count("GET", &format!("/v2/{name}/manifests/v1"))
                + upstream.count("GET", &format!("/v2/{name}/manifests/{digest}"));
            assert_eq!(gets, 1, "turn {turn}: {:?}", upstream.requests());
        }
        registry = registry.restart().await;
    }
    registry.store().assert_sound();
}

#[tokio::test]
async fn eight_clients_share_one_download_and_none_waits_for_its_end() {
    let (upstream, builder) = quay().await;
    let image = ImageBuilder::new(3).layer(4 * MIB).build();
    upstream.add_image("acme/app", "v1", &image);
    let layer = &image.layers[0];
    let path = format!("/v2/acme/app/blobs/{}", layer.digest);
    let gate = Gate::new();
    let gated = Reply::Gated {
        before: MIB,
        gate: gate.clone(),
    };
    upstream.script("GET", &path, [gated]);
    let registry = builder.start().await;
    let client = registry.client();
    let manifest = client.get_manifest("quay.io/acme/app", "v1").await;
    manifest.expect(200);

    let mut downloads = Vec::new();
    for _ in 0..8 {
        let path = format!("/v2/quay.io/acme/app/blobs/{}", layer.digest);
        let mut response = client.get(&path).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.content_length(), Some(layer.bytes.len() as u64));
        let first = response.chunk().await.unwrap().unwrap();
        assert!(!first.is_empty());
        downloads.push((response, first.to_vec()));
    }
    // Nobody has all of it, since the upstream has not sent it.
    gate.open();
    for (mut response, mut body) in downloads {
        while let Some(chunk) = response.chunk().await.unwrap() {
            body.extend_from_slice(&chunk);
        }
        assert!(body == layer.bytes);
    }
    assert_eq!(upstream.count("GET", &path), 1);
}

#[tokio::test]
async fn a_head_of_a_blob_never_asks() {
    let (upstream, builder) = quay().await;
    let image = Image::small(4);
    upstream.add_image("acme/app", "v1", &image);
    let registry = builder.start().await;
    let client = registry.client();
    let layer = &image.layers[0];
    let head = || client.head_blob("quay.io/acme/app", &layer.digest);
    head().await.expect(404);
    assert_eq!(upstream.requests(), [""; 0]);

    // A manifest that came from there names it: now it can be had.
    let manifest = client.get_manifest("quay.io/acme/app", "v1").await;
    manifest.expect(200);
    let asked = upstream.requests().len();
    let there = head().await.expect(200);
    assert_eq!(
        there.header("content-length"),
        layer.bytes.len().to_string()
    );
    assert_eq!(there.header("docker-content-digest"), layer.digest);
    assert_eq!(
        upstream.requests().len(),
        asked,
        "{:?}",
        upstream.requests()
    );

    // Only under that name.
    let elsewhere = client.head_blob("quay.io/acme/other", &layer.digest);
    elsewhere.await.expect(404);
    // And only while the source may be asked, as long as the bytes are not here.
    let registry = registry.stop().await.args(["--offline"]).start().await;
    let offline = registry.client();
    let offline = offline.head_blob("quay.io/acme/app", &layer.digest).await;
    offline.expect(404);
}

#[tokio::test]
async fn a_young_tag_is_believed() {
    let (upstream, builder) = quay().await;
    let (old, new) = (Image::small(5), Image::small(6));
    upstream.add_image("acme/app", "v1", &old);
    let registry = builder.args(["--tag-ttl", "1h"]).start().await;
    let client = registry.client();
    client.pull_image("quay.io/acme/app", "v1", &old).await;
    let asked = upstream.requests().len();
    upstream.add_image("acme/app", "v1", &new);
    client.pull_image("quay.io/acme/app", "v1", &old).await;
    let head = client.head_manifest("quay.io/acme/app", "v1").await;
    let head = head.expect(200);
    assert_eq!(head.header("docker-content-digest"), old.manifest.digest);
    assert_eq!(upstream.requests().len(), asked);
}

#[tokio::test]
async fn an_old_tag_is_asked_after_with_head() {
    let (upstream, builder) = quay().await;
    let (old, new) = (Image::small(7), Image::small(8));
    upstream.add_image("acme/app", "v1", &old);
    let registry = builder.args(["--tag-ttl", "0"]).start().await;
    let client = registry.client();
    let by_tag = "/v2/acme/app/manifests/v1";
    client.pull_image("quay.io/acme/app", "v1", &old).await;
    let fetched = gets_of_manifests(&upstream);
    let heads = upstream.count("HEAD", by_tag);
    client.pull_image("quay.io/acme/app", "v1", &old).await;
    assert_eq!(upstream.count("HEAD", by_tag), heads + 1);
    assert_eq!(gets_of_manifests(&upstream), fetched, "it had not moved");

    upstream.add_image("acme/app", "v1", &new);
    client.pull_image("quay.io/acme/app", "v1", &new).await;
    assert_eq!(gets_of_manifests(&upstream), fetched + 1);
    // The old one is still there by its digest, unasked.
    client
        .pull_image("quay.io/acme/app", &old.manifest.digest, &old)
        .await;
    assert_eq!(gets_of_manifests(&upstream), fetched + 1);
}

fn gets_of_manifests(upstream: &FakeUpstream) -> usize {
    let requests = upstream.requests();
    let get = |r: &&String| r.starts_with("GET ") && r.contains("/manifests/");
    requests.iter().filter(get).count()
}

#[tokio::test]
async fn head_then_get_by_digest_as_containerd_does() {
    let (upstream, builder) = quay().await;
    let image = Image::small(9);
    upstream.add_image("acme/app", "v1", &image);
    let registry = builder.start().await;
    let client = registry.client();
    let head = client
        .head("/v2/acme/app/manifests/v1?ns=quay.io")
        .answer()
        .await
        .expect(200);
    let digest = head.header("docker-content-digest");
    assert_eq!(digest, image.manifest.digest);
    assert_eq!(head.header("content-type"), image.manifest.media_type);
    let length = image.manifest.bytes.len().to_string();
    assert_eq!(head.header("content-length"), length);
    let path = format!("/v2/acme/app/manifests/{digest}?ns=quay.io");
    let got = client.get(&path).answer().await.expect(200);
    assert_eq!(got.body, image.manifest.bytes);
    // By the tag it is known now.
    let asked = upstream.requests().len();
    let by_tag = client.get_manifest("quay.io/acme/app", "v1").await;
    assert_eq!(by_tag.expect(200).body, image.manifest.bytes);
    assert_eq!(
        upstream.requests().len(),
        asked,
        "{:?}",
        upstream.requests()
    );
}

#[tokio::test]
async fn an_index_is_passed_on_without_its_children() {
    let (upstream, builder) = quay().await;
    let (amd64, arm64) = (Image::small(10), Image::small(11));
    let all = index(OCI_INDEX, &[&amd64.manifest, &arm64.manifest]);
    upstream.add_image("acme/app", "amd64", &amd64);
    upstream.add_manifest("acme/app", "all", &all);
    let registry = builder.start().await;
    let client = registry.client();
    let got = client.get_manifest("quay.io/acme/app", "all").await;
    assert_eq!(got.expect(200).body, all.bytes);
    let child = format!("/v2/acme/app/manifests/{}", amd64.manifest.digest);
    assert_eq!(upstream.count("GET", &child), 0);
    client
        .pull_image("quay.io/acme/app", &amd64.manifest.digest, &amd64)
        .await;
}

#[tokio::test]
async fn an_official_image_of_docker_hub() {
    let upstream = FakeUpstream::start().await;
    let image = Image::small(12);
    upstream.add_image("library/debian", "12", &image);
    let builder = TestRegistry::builder().registry("docker.io", &upstream.url());
    let registry = builder.start().await;
    registry.client().pull_image("debian", "12", &image).await;
    registry
        .client()
        .pull_image("docker.io/debian", "12", &image)
        .await;
    let asked_of = |r: &String| r.contains(" /v2/library/debian/");
    assert!(upstream.requests().iter().all(asked_of));
}

#[tokio::test]
async fn content_is_fetched_from_where_the_upstream_says_it_is() {
    let (upstream, builder) = quay().await;
    let image = Image::small(13);
    upstream.add_image("acme/app", "v1", &image);
    let layer = &image.layers[0];
    upstream.add_blob("cdn/of/its/own", &layer.digest, layer.bytes.clone());
    let path = format!("/v2/acme/app/blobs/{}", layer.digest);
    let there = format!("/v2/cdn/of/its/own/blobs/{}", layer.digest);
    let redirect = Reply::Redirect(there.clone());
    upstream.script("GET", &path, [redirect]);
    let registry = builder.start().await;
    registry
        .client()
        .pull_image("quay.io/acme/app", "v1", &image)
        .await;
    assert_eq!(upstream.count("GET", &there), 1);
}

#[tokio::test]
async fn an_upstream_that_does_not_say_how_long_its_answer_is() {
    let (upstream, builder) = quay().await;
    let image = ImageBuilder::new(14).layer(300_000).build();
    upstream.add_image("acme/app", "v1", &image);
    let digest = &image.layers[0].digest;
    for path in [
        "/v2/acme/app/manifests/v1".to_owned(),
        format!("/v2/acme/app/manifests/{}", image.manifest.digest),
        format!("/v2/acme/app/blobs/{digest}"),
    ] {
        upstream.script("GET", &path, [Reply::Chunked]);
    }
    let registry = builder.start().await;
    let client = registry.client();
    client.pull_image("quay.io/acme/app", "v1", &image).await;
    client.pull_image("quay.io/acme/app", "v1", &image).await;
    let path = format!("/v2/acme/app/blobs/{digest}");
    assert_eq!(upstream.count("GET", &path), 1);
}

#[tokio::test]
async fn a_blob_that_no_manifest_here_names_is_asked_for_under_its_own_name() {
    let (upstream, builder) = quay().await;
    let image = Image::small(15);
    upstream.add_image("acme/app", "v1", &image);
    upstream.add_image("acme/private", "v1", &Image::small(16));
    let layer = &image.layers[0];
    let registry = builder.start().await;
    let client = registry.client();
    let direct = client.get_blob("quay.io/acme/app", &layer.digest).await;
    assert_eq!(direct.expect(200).body, layer.bytes);
    // The bytes are here now, but this name never had them.
    let elsewhere = client.get_blob("quay.io/acme/private", &layer.digest).await;
    elsewhere.refused(404, "BLOB_UNKNOWN");
    let local = client.get_blob("acme/app", &layer.digest).await;
    local.refused(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn what_the_upstream_has_need_not_be_pushed() {
    let (upstream, builder) = quay().await;
    let image = ImageBuilder::new(17).layer(1000).layer(2000).build();
    upstream.add_image("acme/app", "v1", &image);
    let registry = builder.start().await;
    let client: Client = registry.client();
    let pushed = client.put_manifest("quay.io/acme/app", "mine", &image.manifest);
    pushed.await.expect(201);
    // Fetched without anybody asking, for the upstream may not have it tomorrow.
    let store = registry.store();
    eventually("the blobs are filled in", || async {
        let here = store.blobs();
        image.blobs().all(|blob| here.contains(&blob.digest))
    })
    .await;
    let registry = registry.stop().await.args(["--offline"]).start().await;
    registry
        .client()
        .pull_image("quay.io/acme/app", "mine", &image)
        .await;
    assert!(upstream.requests().iter().all(|r| !r.starts_with("PUT")));
}

#[tokio::test]
async fn tags_are_the_union_and_without_the_upstream_local_ones_with_a_warning() {
    let (upstream, builder) = quay().await;
    let image = Image::small(18);
    for tag in ["c", "a", "B"] {
        upstream.add_image("acme/app", tag, &image);
    }
    let registry = builder.args(["--tag-ttl", "0"]).start().await;
    let client = registry.client();
    client.push_image("quay.io/acme/app", "b", &image).await;
    client.push_image("quay.io/acme/app", "a", &image).await;
    assert_eq!(client.tags("quay.io/acme/app").await, ["B", "a", "b", "c"]);

    let mut path = "/v2/quay.io/acme/app/tags/list?n=2".to_owned();
    let mut paged: Vec<String> = Vec::new();
    loop {
        let page = client.get(&path).answer().await.expect(200);
        let tags: Vec<String> = serde_json::from_value(page.json()["tags"].clone()).unwrap();
        assert!(tags.len() <= 2);
        paged.extend(tags);
        let Some(link) = page.headers.get("link") else {
            break;
        };
        let link = link.to_str().unwrap();
        path = link[1..link.find('>').unwrap()].to_owned();
    }
    assert_eq!(paged, ["B", "a", "b", "c"]);

    upstream.fail(Reply::Status(503));
    let answer = client.get("/v2/quay.io/acme/app/tags/list").answer().await;
    let answer = answer.expect(200);
    assert_eq!(answer.json()["tags"], serde_json::json!(["a", "b"]));
    let warning = answer.header("warning");
    assert!(warning.starts_with("299 - \""), "{warning}");
    assert!(warning.contains("quay.io"), "{warning}");
}
