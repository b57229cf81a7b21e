//! Downloads that break off: clients must not notice, and where they must, hear it in time. Ranges of what is on its way.

use reqwest::Response;

use crate::support::{
    Exchange, FakeUpstream, Gate, Reply, TestRegistry,
    image::{Blob, Image, ImageBuilder},
    within,
};

const MIB: usize = 1 << 20;

/// quay.io with an image of one layer, and a registry that has seen its manifest and nothing more.
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

fn path_of(blob: &Blob) -> String {
    format!("/v2/acme/app/blobs/{}", blob.digest)
}

/// The ranges that the upstream was asked for.
fn ranges(upstream: &FakeUpstream) -> Vec<String> {
    let lines = upstream.headers().into_iter();
    let lines = lines.map(|line| line.to_ascii_lowercase());
    lines
        .filter_map(|line| line.strip_prefix("range: ").map(str::to_owned))
        .collect()
}

async fn is_cut_off(mut response: Response) -> bool {
    loop {
        match response.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

#[tokio::test]
async fn every_blob_is_cut_twice_and_nobody_notices() {
    let (upstream, image, registry) = quay(3 * MIB).await;
    for blob in image.blobs() {
        let after = blob.bytes.len() / 3;
        let cut = Reply::Truncated { after };
        upstream.script("GET", &path_of(blob), [cut.clone(), cut]);
    }
    let client = registry.client();
    client.pull_image("quay.io/acme/app", "v1", &image).await;
    let layer = &image.layers[0];
    assert_eq!(upstream.count("GET", &path_of(layer)), 3);
    let third = layer.bytes.len() / 3;
    let asked = ranges(&upstream);
    for from in [third, 2 * third] {
        let range = format!("bytes={from}-");
        assert!(asked.contains(&range), "{range} is none of {asked:?}");
    }
    registry
        .log()
        .line_with(&["quay.io/acme/app", &layer.digest, &third.to_string()])
        .await;
    let registry = registry.restart().await;
    registry.store().assert_sound();
    let client = registry.client();
    client.pull_image("quay.io/acme/app", "v1", &image).await;
    assert_eq!(upstream.count("GET", &path_of(layer)), 3);
}

#[tokio::test]
async fn a_body_that_falls_silent_is_cut() {
    let (upstream, image, registry) = quay(2 * MIB).await;
    let layer = &image.layers[0];
    let stalled = Reply::Stalled { after: MIB };
    upstream.script("GET", &path_of(layer), [stalled, Reply::IgnoresRange]);
    let client = registry.client();
    let path = format!("/v2/quay.io/acme/app/blobs/{}", layer.digest);
    let answer = client.get(&path).answer();
    let answer = within("the rest comes on another connection", answer).await;
    assert!(answer.expect(200).body == layer.bytes);
    assert_eq!(upstream.count("GET", &path_of(layer)), 2);
}

#[tokio::test]
async fn who_goes_on_in_the_middle_of_what_can_not_be_had_is_sent_to_the_next_host() {
    for (what, reply) in [
        ("no answer", Reply::Status(503)),
        ("no byte", Reply::Truncated { after: 0 }),
    ] {
        let (upstream, image, registry) = quay(2 * MIB).await;
        let layer = &image.layers[0];
        let client = registry.client();
        let spelled = format!("/v2/quay.io/acme/app/blobs/{}", layer.digest);
        let mut replies = vec![Reply::Truncated { after: MIB }];
        replies.resize(100, reply);
        upstream.script("GET", &path_of(layer), replies);
        let begun = client.get(&spelled).send().await.unwrap();
        assert_eq!(begun.status(), 200, "{what}");
        assert!(is_cut_off(begun).await, "{what}");

        let range = format!("bytes={MIB}-");
        let rest = client.get(&spelled).header("range", &range).answer().await;
        let message = rest.refused(404, "BLOB_UNKNOWN").message();
        assert!(message.contains("quay.io"), "{what}: {message}");
        // This one has no next host.
        let own = client.get(&path_of(layer)).header("host", "quay.io");
        let own = own.header("range", &range).answer().await;
        assert!([502, 503].contains(&own.status), "{what}: {own:?}");

        upstream.recover();
        let rest = client.get(&spelled).header("range", &range).answer().await;
        assert!(rest.expect(206).body == layer.bytes[MIB..], "{what}");
        // As if it had never been here.
        let there = client.get(&spelled).answer().await.expect(200);
        assert!(there.body == layer.bytes);
    }
}

#[tokio::test]
async fn parts_of_what_is_on_its_way() {
    let (upstream, image, registry) = quay(4 * MIB).await;
    let layer = &image.layers[0];
    let size = layer.bytes.len();
    let gate = Gate::new();
    let gated = Reply::Gated {
        before: MIB,
        gate: gate.clone(),
    };
    upstream.script("GET", &path_of(layer), [gated]);
    let client = registry.client();
    let spelled = format!("/v2/quay.io/acme/app/blobs/{}", layer.digest);
    let get = |range: &str| client.get(&spelled).header("range", range);

    // What is here already needs nothing more.
    let inside = within("a part comes", get("bytes=100-199").answer()).await;
    let inside = inside.expect(206);
    assert_eq!(
        inside.header("content-range"),
        format!("bytes 100-199/{size}")
    );
    assert!(inside.body == layer.bytes[100..200]);
    let head = client.head(&spelled).answer().await.expect(200);
    assert_eq!(head.header("content-length"), size.to_string());
    let outside = get(&format!("bytes={size}-")).answer().await;
    let outside = outside.expect(416);
    assert_eq!(outside.header("content-range"), format!("bytes */{size}"));

    let parts = [
        ("bytes=10-".to_owned(), 10..size),
        (format!("bytes={}-", 2 * MIB), 2 * MIB..size),
        (
            format!("bytes={}-{}", 3 * MIB, 3 * MIB),
            3 * MIB..3 * MIB + 1,
        ),
        ("bytes=-100".to_owned(), size - 100..size),
    ];
    // Headers do not wait for ever, wherever the range begins; the bytes come when they are here.
    let asked = parts.map(|(range, part)| {
        let response = get(&range).send();
        (part, tokio::spawn(response))
    });
    let mut waiting = Vec::new();
    for (part, response) in asked {
        let response = within("headers come before the bytes", response).await;
        let response = response.unwrap().unwrap();
        assert_eq!(response.status(), 206);
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        assert_eq!(response.headers()["content-range"], range);
        waiting.push((part, response));
    }
    gate.open();
    for (part, response) in waiting {
        let body = within("the part comes", response.bytes()).await.unwrap();
        assert!(body == layer.bytes[part.clone()], "{part:?}");
    }
    assert_eq!(upstream.count("GET", &path_of(layer)), 1);
}

#[tokio::test]
async fn of_an_unknown_length_there_are_no_parts() {
    let upstream = FakeUpstream::start().await;
    let blob = Blob::random(7, 100_000);
    upstream.add_blob("acme/app", &blob.digest, blob.bytes.clone());
    upstream.script("GET", &path_of(&blob), [Reply::Chunked]);
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let registry = builder.start().await;
    let client = registry.client();
    let spelled = format!("/v2/quay.io/acme/app/blobs/{}", blob.digest);
    let get = || client.get(&spelled).header("range", "bytes=10-");
    let whole = get().answer().await;
    // It may ignore the range, and must not get it wrong.
    assert!(whole.expect(200).body == blob.bytes);
    let part = get().answer().await.expect(206);
    assert!(part.body == blob.bytes[10..]);
}
