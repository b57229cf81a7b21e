//! A disk that is full or read only: clear answers, nothing visible, nothing left.
//!
//! Each server runs in a mount namespace of its own, so that its data directory can be made what the test wants.

use std::path::PathBuf;

use crate::support::{
    Exchange, FakeUpstream, TestRegistry,
    client::finish,
    image::{Blob, ImageBuilder},
    may_mount,
    store::Store,
};

const MIB: usize = 1 << 20;

/// The data directory lies on a disk of 8 MiB.
const SMALL_DISK: &str =
    "mkdir -p \"$DATA\"; mount -t tmpfs -o size=8m,mode=700 standin-test \"$DATA\"";

/// The store as the server sees it: its mount is in no other namespace.
fn store_of(registry: &TestRegistry) -> Store {
    let data = registry.home().join("data");
    let pid = registry.pid().as_raw_nonzero();
    Store::at(PathBuf::from(format!("/proc/{pid}/root{}", data.display())))
}

#[tokio::test]
async fn a_blob_that_cannot_fit_is_refused_before_its_body() {
    if !may_mount() {
        return;
    }
    let registry = TestRegistry::builder()
        .own_mounts()
        .shell(SMALL_DISK)
        .start()
        .await;
    let client = registry.client();
    let before = store_of(&registry).listing();
    let blob = Blob::random(1, 10 * MIB);
    let location = client.start_upload("acme/app").await;
    let mut raw = registry.raw().await;
    let length = blob.bytes.len();
    let put = finish(&location, &blob.digest);
    raw.head(&format!("PUT {put}\nContent-Length: {length}"))
        .await;
    // Not one byte of the body is sent.
    let answer = raw.answer().await;
    assert_eq!(answer.status, 507, "{answer:?}");
    client.delete(&location).answer().await.expect(204);
    assert_eq!(store_of(&registry).listing(), before);
}

#[tokio::test]
async fn a_disk_that_fills_up_under_a_stream() {
    if !may_mount() {
        return;
    }
    let registry = TestRegistry::builder()
        .own_mounts()
        .shell(SMALL_DISK)
        .start()
        .await;
    let client = registry.client();
    let small = Blob::random(2, MIB);
    client.push_blob("acme/app", &small).await;
    let before = store_of(&registry).listing();

    // Of unknown length, so nothing can be told beforehand.
    let location = client.start_upload("acme/app").await;
    let mut raw = registry.raw().await;
    raw.head(&format!("PATCH {location}\nTransfer-Encoding: chunked"))
        .await;
    let piece = Blob::random(3, MIB).bytes;
    for _ in 0..10 {
        raw.send(format!("{:x}\r\n", piece.len()).as_bytes()).await;
        raw.send(&piece).await;
        raw.send(b"\r\n").await;
    }
    raw.send(b"0\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 507, "{answer:?}");
    // The bytes are given back at once, and with them the session.
    let status = client.get(&location).answer().await;
    status.refused(404, "BLOB_UPLOAD_UNKNOWN");
    registry.log().line_with(&["BLOB_UPLOAD_UNKNOWN"]).await;
    assert_eq!(registry.log().count(&["No space left"]), 1, "told once");
    assert_eq!(store_of(&registry).listing(), before);
    // There is room again.
    client
        .push_blob("acme/app", &Blob::random(4, 4 * MIB))
        .await;
    let there = client.get_blob("acme/app", &small.digest).await.expect(200);
    assert!(there.body == small.bytes);
}

#[tokio::test]
async fn a_pull_through_a_full_disk_still_streams() {
    if !may_mount() {
        return;
    }
    let upstream = FakeUpstream::start().await;
    let image = ImageBuilder::new(5).layer(10 * MIB).layer(1000).build();
    upstream.add_image("acme/app", "v1", &image);
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .own_mounts()
        .shell(SMALL_DISK)
        .start()
        .await;
    let client = registry.client();
    for _ in 0..2 {
        client.pull_image("quay.io/acme/app", "v1", &image).await;
    }
    let large = format!("/v2/acme/app/blobs/{}", image.layers[0].digest);
    assert_eq!(upstream.count("GET", &large), 2, "unstored, so asked twice");
    let small = format!("/v2/acme/app/blobs/{}", image.layers[1].digest);
    assert_eq!(
        upstream.count("GET", &small),
        1,
        "there is room for this one"
    );
    assert!(
        !store_of(&registry)
            .blobs()
            .contains(&image.layers[0].digest)
    );
}

#[tokio::test]
async fn a_read_only_data_directory_is_refused_by_name() {
    if !may_mount() {
        return;
    }
    let builder = TestRegistry::start().await.stop().await;
    let data = builder.data();
    let (status, said) = builder
        .own_mounts()
        .shell("mount --bind \"$DATA\" \"$DATA\"; mount -o remount,bind,ro \"$DATA\"")
        .fails_to_start()
        .await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(data.to_str().unwrap()), "{said}");
    assert!(said.to_lowercase().contains("read-only"), "{said}");
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_refused_by_name() {
    let builder = TestRegistry::builder();
    let data = builder.data();
    std::fs::write(&data, "not a directory").unwrap();
    let (status, said) = builder.clone().fails_to_start().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(data.to_str().unwrap()), "{said}");
    assert_eq!(std::fs::read(&data).unwrap(), b"not a directory");
}
