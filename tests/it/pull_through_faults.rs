//! Pulling through when something breaks: what clients see, what is kept, and that the next request starts afresh.

use reqwest::Response;

use crate::support::{
    Client, Exchange, FakeUpstream, Gate, Reply, TestRegistry, eventually,
    image::{Blob, Image, ImageBuilder},
};

const MIB: usize = 1 << 20;

/// An image that quay.io has, and a registry that has seen its manifest and nothing more.
async fn quay(layer: usize) -> (FakeUpstream, Image, TestRegistry) {
    let upstream = FakeUpstream::start().await;
    let image = ImageBuilder::new(layer as u64).layer(layer).build();
    upstream.add_image("acme/app", "v1", &image);
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let registry = builder.start().await;
    let client = registry.client();
    let manifest = client.get_manifest("quay.io/acme/app", "v1").await;
    manifest.expect(200);
    (upstream, image, registry)
}

async fn open(client: &Client, blob: &Blob) -> Response {
    let path = format!("/v2/quay.io/acme/app/blobs/{}", blob.digest);
    client.get(&path).send().await.unwrap()
}

fn path_of(blob: &Blob) -> String {
    format!("/v2/acme/app/blobs/{}", blob.digest)
}

/// Reads a body to its end; whether the end was that of the content.
async fn read(mut response: Response) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return (body, true),
            Err(_) => return (body, false),
        }
    }
}

#[tokio::test]
async fn a_wrong_digest_is_cut_off_and_never_kept() {
    let (upstream, image, registry) = quay(3 * MIB).await;
    let client = registry.client();
    let layer = &image.layers[0];
    let before = registry.store().blobs();
    upstream.script("GET", &path_of(layer), vec![Reply::Corrupt; 20]);
    let (body, whole) = read(open(&client, layer).await).await;
    assert!(!whole, "{} bytes ended as if they were right", body.len());
    assert_eq!(registry.store().blobs(), before);
    registry.log().line_with(&["quay.io", &layer.digest]).await;

    upstream.recover();
    let there = client.get_blob("quay.io/acme/app", &layer.digest).await;
    assert!(there.expect(200).body == layer.bytes);
    let registry = registry.restart().await;
    registry.store().assert_sound();
}

#[tokio::test]
async fn a_body_that_ends_too_early_is_cut_off_and_fetched_anew() {
    let (upstream, image, registry) = quay(3 * MIB).await;
    let client = registry.client();
    let layer = &image.layers[0];
    let before = registry.store().blobs();
    // It gives out in the middle, and for good.
    let mut replies = vec![Reply::Truncated { after: 2 * MIB }];
    replies.resize(20, Reply::Truncated { after: 0 });
    upstream.script("GET", &path_of(layer), replies);
    let (body, whole) = read(open(&client, layer).await).await;
    assert!(!whole && body.len() < layer.bytes.len());
    assert!(body == layer.bytes[..body.len()], "what came was right");
    assert_eq!(registry.store().blobs(), before);

    upstream.recover();
    let there = client.get_blob("quay.io/acme/app", &layer.digest).await;
    assert!(there.expect(200).body == layer.bytes);
    let registry = registry.restart().await;
    registry.store().assert_sound();
}

#[tokio::test]
async fn a_corrupt_manifest_is_not_passed_on() {
    let upstream = FakeUpstream::start().await;
    let image = Image::small(1);
    upstream.add_image("acme/app", "v1", &image);
    let by_digest = format!("/v2/acme/app/manifests/{}", image.manifest.digest);
    for path in [&by_digest, "/v2/acme/app/manifests/v1"] {
        upstream.script("GET", path, vec![Reply::Corrupt; 20]);
    }
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let registry = builder.start().await;
    let client = registry.client();
    let before = registry.store().listing();
    for reference in ["v1", &image.manifest.digest] {
        let refused = client.get_manifest("quay.io/acme/app", reference).await;
        let refused = refused.refused(404, "MANIFEST_UNKNOWN");
        assert!(refused.message().contains("quay.io"), "{refused:?}");
    }
    assert_eq!(registry.store().listing(), before);
    upstream.recover();
    client.pull_image("quay.io/acme/app", "v1", &image).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let (upstream, image, registry) = quay(24 * MIB).await;
    let client = registry.client();
    let layer = &image.layers[0];
    let mut slow = registry.raw().await;
    let path = format!("/v2/quay.io/acme/app/blobs/{}", layer.digest);
    slow.head(&format!("GET {path}")).await;
    assert!(slow.fill().await > 0, "the download is under way");

    let there = client.get_blob("quay.io/acme/app", &layer.digest).await;
    assert!(there.expect(200).body == layer.bytes);
    assert_eq!(upstream.count("GET", &path_of(layer)), 1);
    // It can still have all of it.
    let answer = slow.answer().await;
    assert!(answer.body == layer.bytes);
}

#[tokio::test]
async fn clients_that_go_away_do_not_stop_a_download() {
    let (upstream, image, registry) = quay(4 * MIB).await;
    let client = registry.client();
    let layer = &image.layers[0];
    let gate = Gate::new();
    let gated = Reply::Gated {
        before: MIB,
        gate: gate.clone(),
    };
    upstream.script("GET", &path_of(layer), [gated]);
    for _ in 0..3 {
        let mut response = open(&client, layer).await;
        assert!(response.chunk().await.unwrap().is_some());
    }
    let mut raw = registry.raw().await;
    let path = format!("/v2/quay.io/acme/app/blobs/{}", layer.digest);
    raw.head(&format!("GET {path}")).await;
    assert!(raw.fill().await > 0);
    raw.reset();
    gate.open();
    let store = registry.store();
    eventually("the download is finished for the next client", || async {
        store.blobs().contains(&layer.digest)
    })
    .await;
    let there = client.get_blob("quay.io/acme/app", &layer.digest).await;
    assert!(there.expect(200).body == layer.bytes);
    assert_eq!(upstream.count("GET", &path_of(layer)), 1);
}

#[tokio::test]
async fn clients_that_come_before_the_first_byte_share_the_download() {
    let (upstream, image, registry) = quay(2 * MIB).await;
    let client = registry.client();
    let layer = &image.layers[0];
    let gate = Gate::new();
    let gated = Reply::Gated {
        before: 0,
        gate: gate.clone(),
    };
    upstream.script("GET", &path_of(layer), [gated]);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            let layer = layer.clone();
            tokio::spawn(async move { read(open(&client, &layer).await).await })
        })
        .collect();
    gate.reached().await;
    // Other content is not behind it in a queue.
    let other = client.get_blob("quay.io/acme/app", &image.config.digest);
    other.await.expect(200);
    gate.open();
    for client in waiting {
        let (body, whole) = client.await.unwrap();
        assert!(whole && body == layer.bytes);
    }
    assert_eq!(upstream.count("GET", &path_of(layer)), 1);
}

#[tokio::test]
async fn a_blob_of_another_size_than_its_manifest_names_is_not_passed_on_as_whole() {
    let upstream = FakeUpstream::start().await;
    let image = Image::small(2);
    upstream.add_image("acme/app", "v1", &image);
    let layer = &image.layers[0];
    let longer = Blob::random(3, layer.bytes.len() + 10);
    upstream.add_blob("acme/app", &layer.digest, longer.bytes);
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let registry = builder.start().await;
    let client = registry.client();
    let manifest = client.get_manifest("quay.io/acme/app", "v1").await;
    manifest.expect(200);
    let response = open(&client, layer).await;
    if response.status() == 200 {
        let (_, whole) = read(response).await;
        assert!(!whole);
    } else {
        assert_eq!(response.status(), 404);
    }
    assert!(!registry.store().blobs().contains(&layer.digest));
    let registry = registry.restart().await;
    registry.store().assert_sound();
}

#[tokio::test]
async fn stopped_in_the_middle_nothing_is_left() {
    let (upstream, image, registry) = quay(4 * MIB).await;
    let layer = &image.layers[0];
    let before = registry.store().listing();
    let gate = Gate::new();
    let gated = Reply::Gated {
        before: 2 * MIB,
        gate: gate.clone(),
    };
    upstream.script("GET", &path_of(layer), [gated]);
    let client = registry.client();
    let mut response = open(&client, layer).await;
    assert!(response.chunk().await.unwrap().is_some());
    let registry = registry.kill().await.start().await;
    assert_eq!(registry.store().listing(), before);
    let client = registry.client();
    let there = client.get_blob("quay.io/acme/app", &layer.digest).await;
    assert!(there.expect(200).body == layer.bytes);
    assert!(response.chunk().await.is_err() || read(response).await.0.len() < layer.bytes.len());
}

#[tokio::test]
async fn a_head_says_so_too_when_the_upstream_is_gone() {
    let (upstream, image, registry) = quay(1000).await;
    upstream.fail(Reply::Status(500));
    let client = registry.client();
    // HEAD of a blob knows two answers.
    let head = client.head_blob("quay.io/acme/app", &image.layers[0].digest);
    head.await.expect(200);
    let unknown = Blob::new("nobody has this");
    for host in [None, Some("quay.io")] {
        let mut head = client.head(&format!("/v2/acme/app/blobs/{}", unknown.digest));
        if let Some(host) = host {
            head = head.header("host", host);
        }
        head.answer().await.expect(404);
    }
}

#[tokio::test]
async fn a_login_page_is_no_manifest() {
    let (upstream, image, registry) = quay(1000).await;
    upstream.add_image("acme/other", "v1", &image);
    let before = registry.store().listing();
    upstream.script("GET", "/v2/acme/other/manifests/v1", [Reply::LoginPage]);
    let client = registry.client();
    let page = client.get_manifest("quay.io/acme/other", "v1").await;
    let message = page.refused(404, "MANIFEST_UNKNOWN").message();
    assert!(
        message.contains("quay.io") && message.contains("text/html"),
        "{message}"
    );
    assert_eq!(registry.store().listing(), before);
    let manifest = client.get_manifest("quay.io/acme/other", "v1").await;
    assert_eq!(manifest.expect(200).body, image.manifest.bytes);
}
