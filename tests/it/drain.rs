//! How it ends: SIGTERM lets what is in flight finish, and a second signal does not wait.

use std::net::SocketAddr;

use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::support::{
    Exchange, FakeUpstream, Gate, Raw, Reply, TestRegistry,
    client::finish,
    eventually,
    image::{Blob, Image, ImageBuilder},
    raw::BEYOND_BUFFERS,
};

/// A PUT that the server is in the middle of: all but the last 1000 bytes are sent.
async fn upload_in_flight(registry: &TestRegistry, blob: &Blob) -> Raw {
    let location = registry.client().start_upload("acme/app").await;
    let mut raw = registry.raw().await;
    let put = finish(&location, &blob.digest);
    let length = blob.bytes.len();
    raw.head(&format!("PUT {put}\nContent-Length: {length}"))
        .await;
    raw.send(&blob.bytes[..length - 1000]).await;
    raw
}

async fn refuses_connections(address: SocketAddr) {
    eventually("the listener closes", || async {
        TcpStream::connect(address).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn an_upload_in_flight_is_finished() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut registry = TestRegistry::start().await;
        let blob = Blob::random(1, BEYOND_BUFFERS + 1000);
        let mut raw = upload_in_flight(&registry, &blob).await;
        registry.signal(signal);
        refuses_connections(registry.address()).await;
        raw.send(&blob.bytes[blob.bytes.len() - 1000..]).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(registry.exited().await.code(), Some(0), "{signal:?}");
        let store = registry.store();
        assert!(store.blobs().contains(&blob.digest));
    }
}

#[tokio::test]
async fn a_pull_through_in_flight_is_finished() {
    let upstream = FakeUpstream::start().await;
    let image = ImageBuilder::new(2).layer(BEYOND_BUFFERS).build();
    upstream.add_image("acme/app", "v1", &image);
    let mut registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .start()
        .await;
    let digest = &image.layers[0].digest;
    let gate = Gate::new();
    let gated = Reply::Gated {
        before: 1000,
        gate: gate.clone(),
    };
    let path = format!("/v2/acme/app/blobs/{digest}");
    upstream.script("GET", &path, [gated]);
    let client = registry.client();
    let manifest = client.get_manifest("quay.io/acme/app", "v1").await;
    manifest.expect(200);
    let path = format!("/v2/quay.io/acme/app/blobs/{digest}");
    let mut response = client.get(&path).send().await.unwrap();
    let mut body = response.chunk().await.unwrap().unwrap().to_vec();
    registry.signal(Signal::TERM);
    refuses_connections(registry.address()).await;
    gate.open();
    while let Some(chunk) = response.chunk().await.unwrap() {
        body.extend_from_slice(&chunk);
    }
    assert!(body == image.layers[0].bytes);
    assert_eq!(registry.exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let mut registry = TestRegistry::builder()
        .args(["--grace", "1h"])
        .start()
        .await;
    let before = registry.store().listing();
    let blob = Blob::random(3, BEYOND_BUFFERS + 1000);
    let mut raw = upload_in_flight(&registry, &blob).await;
    registry.signal(Signal::TERM);
    refuses_connections(registry.address()).await;
    registry.signal(Signal::TERM);
    let status = registry.exited().await;
    assert_ne!(status.code(), Some(0), "work was cut off: {status}");
    assert!(raw.try_answer().await.is_none());
    let registry = registry.again().start().await;
    assert_eq!(registry.store().listing(), before);
}

#[tokio::test]
async fn grace_has_an_end() {
    let mut registry = TestRegistry::builder()
        .args(["--grace", "200ms"])
        .start()
        .await;
    let blob = Blob::random(4, BEYOND_BUFFERS + 1000);
    let mut raw = upload_in_flight(&registry, &blob).await;
    registry.signal(Signal::TERM);
    // The client never sends the rest.
    registry.exited().await;
    assert!(raw.try_answer().await.is_none());
}

#[tokio::test]
async fn connections_that_do_nothing_hold_nobody_up() {
    let mut registry = TestRegistry::builder()
        .args(["--grace", "1h"])
        .start()
        .await;
    let image = Image::small(5);
    let (client, secure) = (registry.client(), registry.tls_client());
    // Idle after a request, plain and TLS; and one that never says a word.
    client.push_image("acme/app", "v1", &image).await;
    secure.get("/v2/").answer().await.expect(200);
    let mut silent = registry.raw().await;
    let mut idle = registry.raw().await;
    idle.head("GET /v2/").await;
    assert_eq!(idle.answer().await.status, 200);
    registry.signal(Signal::TERM);
    assert_eq!(registry.exited().await.code(), Some(0));
    silent.closed().await;
    idle.closed().await;
}
