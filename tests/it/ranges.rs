//! Parts of blobs, for clients that resume a pull or make it with several connections.

use crate::support::{
    Exchange, FakeUpstream, Gate, Reply, TestRegistry,
    image::{Blob, ImageBuilder},
};

#[tokio::test]
async fn a_part_of_a_blob() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(3, 10_000);
    client.push_blob("acme/app", &blob).await;
    let path = format!("/v2/acme/app/blobs/{}", blob.digest);
    let part = |range: &'static str| client.get(&path).header("range", range).answer();
    for (range, from, to) in [
        ("bytes=0-99", 0, 100),
        ("bytes=9000-", 9000, 10_000),
        ("bytes=-10", 9990, 10_000),
        ("bytes=9999-20000", 9999, 10_000),
    ] {
        let answer = part(range).await.expect(206);
        let said = format!("bytes {from}-{}/10000", to - 1);
        assert_eq!(answer.header("content-range"), said, "{range}");
        assert_eq!(answer.body, blob.bytes.slice(from..to), "{range}");
    }
    let beyond = part("bytes=10000-").await.expect(416);
    assert_eq!(beyond.header("content-range"), "bytes */10000");
}

#[tokio::test]
async fn a_part_of_a_blob_that_is_still_coming() {
    let upstream = FakeUpstream::start().await;
    let image = ImageBuilder::new(4).layer(4 << 20).build();
    upstream.add_image("acme/app", "v1", &image);
    let layer = &image.layers[0];
    let gate = Gate::new();
    let gated = Reply::Gated {
        before: 1 << 20,
        gate: gate.clone(),
    };
    let path = format!("/v2/acme/app/blobs/{}", layer.digest);
    upstream.script("GET", &path, [gated]);
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .start()
        .await;
    let client = registry.client();
    let manifest = client.get_manifest("quay.io/acme/app", "v1").await;
    manifest.expect(200);
    let part = |range: &'static str| {
        let path = format!("/v2/quay.io/acme/app/blobs/{}", layer.digest);
        client.get(&path).header("range", range)
    };
    // One that is here already, and one whose headers need not wait for its bytes.
    let early = part("bytes=1000-1999").answer().await.expect(206);
    assert_eq!(early.body, layer.bytes.slice(1000..2000));
    let late = part("bytes=4000000-").send().await.unwrap();
    assert_eq!(late.status(), 206);
    gate.open();
    let late = late.bytes().await.unwrap();
    assert_eq!(late, layer.bytes.slice(4_000_000..));
    assert_eq!(upstream.count("GET", &path), 1);
}
