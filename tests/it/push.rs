//! Pushing blobs: every way the spec knows, and what a session tells about itself (end-4 to end-6).

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, header::CONTENT_LENGTH};

use crate::support::{
    Exchange, Raw, TestRegistry,
    client::finish,
    image::{Blob, random_bytes, sha512},
    raw::BEYOND_BUFFERS,
};

#[tokio::test]
async fn post_then_put() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(1, 100_000);

    let opened = client.post("/v2/acme/app/blobs/uploads/").answer().await;
    let opened = opened.expect(202);
    let location = opened.header("location");
    let session = location
        .strip_prefix("/v2/acme/app/blobs/uploads/")
        .unwrap_or_else(|| panic!("Location: {location}"));
    assert!(!session.is_empty() && !session.contains('/'), "{location}");
    assert_eq!(opened.header("content-length"), "0");

    let done = client
        .put(&finish(location, &blob.digest))
        .body(blob.bytes.clone())
        .answer()
        .await
        .expect(201);
    let path = format!("/v2/acme/app/blobs/{}", blob.digest);
    assert_eq!(done.header("location"), path);
    assert_eq!(done.header("docker-content-digest"), blob.digest);

    let there = client.get(&path).answer().await.expect(200);
    assert_eq!(there.body, blob.bytes);
}

#[tokio::test]
async fn post_with_digest_is_a_whole_push() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(2, 100_000);
    let done = client
        .post(&format!(
            "/v2/acme/app/blobs/uploads/?digest={}",
            blob.digest
        ))
        .body(blob.bytes.clone())
        .answer()
        .await
        .expect(201);
    let path = format!("/v2/acme/app/blobs/{}", blob.digest);
    assert_eq!(done.header("location"), path);
    assert_eq!(done.header("docker-content-digest"), blob.digest);
    let there = client.get(&path).answer().await.expect(200);
    assert_eq!(there.body, blob.bytes);
}

#[tokio::test]
async fn chunks_in_order_with_their_ranges() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(3, 2500);
    let mut location = client.start_upload("acme/app").await;

    for (from, to) in [(0, 1000), (1000, 2000), (2000, 2400)] {
        let answer = client
            .patch(&location)
            .header("content-range", format!("{from}-{}", to - 1))
            .body(blob.bytes.slice(from..to))
            .answer()
            .await
            .expect(202);
        assert_eq!(answer.header("range"), format!("0-{}", to - 1));
        location = answer.header("location").to_owned();
        assert!(location.starts_with("/v2/acme/app/blobs/uploads/"));

        let status = client.get(&location).answer().await.expect(204);
        assert_eq!(status.header("range"), format!("0-{}", to - 1));
        assert!(!status.header("location").is_empty());
    }
    // The last chunk may come with the PUT.
    client
        .put(&finish(&location, &blob.digest))
        .header("content-range", "2400-2499")
        .body(blob.bytes.slice(2400..))
        .answer()
        .await
        .expect(201);
    let there = client.get_blob("acme/app", &blob.digest).await.expect(200);
    assert_eq!(there.body, blob.bytes);
}

#[tokio::test]
async fn a_new_session_has_received_nothing() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let location = client.start_upload("acme/app").await;
    let status = client.get(&location).answer().await.expect(204);
    // The spec has no way to write an empty range; this is how registries write it.
    assert_eq!(status.header("range"), "0-0");
}

#[tokio::test]
async fn a_chunk_out_of_order_is_refused_and_the_session_goes_on() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(4, 300);
    let location = client.start_upload("acme/app").await;
    let chunk = |range: &'static str, bytes: Bytes| {
        client
            .patch(&location)
            .header("content-range", range)
            .body(bytes)
    };
    let (one, two, three) = (
        blob.bytes.slice(..100),
        blob.bytes.slice(100..200),
        blob.bytes.slice(200..),
    );

    chunk("100-199", two.clone()).answer().await.expect(416);
    chunk("0-99", one.clone()).answer().await.expect(202);
    for (range, bytes) in [("200-299", &three), ("0-99", &one), ("99-198", &two)] {
        let answer = chunk(range, bytes.clone()).answer().await.expect(416);
        assert_eq!(answer.header("range"), "0-99", "after {range}");
        let status = client.get(&location).answer().await.expect(204);
        assert_eq!(status.header("range"), "0-99", "after {range}");
    }
    chunk("100-199", two).answer().await.expect(202);
    chunk("200-299", three).answer().await.expect(202);
    let done = client.put(&finish(&location, &blob.digest)).answer().await;
    done.expect(201);
    let there = client.get_blob("acme/app", &blob.digest).await.expect(200);
    assert_eq!(there.body, blob.bytes);
}

#[tokio::test]
async fn a_chunk_whose_range_is_not_its_length_is_refused() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    for range in ["0-98", "0-100", "5", "b-a", "99-0"] {
        let location = client.start_upload("acme/app").await;
        let answer = client
            .patch(&location)
            .header("content-range", range)
            .body(random_bytes(5, 100))
            .answer()
            .await;
        assert!(
            answer.status == 400 || answer.status == 416,
            "{range}: {answer:?}"
        );
        let status = client.get(&location).answer().await.expect(204);
        assert_eq!(status.header("range"), "0-0", "after {range}");
    }
}

#[tokio::test]
async fn a_streamed_patch_of_unknown_length() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(6, 3 << 20);
    let location = client.start_upload("acme/app").await;

    let pieces: Vec<_> = (0..blob.bytes.len())
        .step_by(100_000)
        .map(|at| blob.bytes.slice(at..blob.bytes.len().min(at + 100_000)))
        .map(Ok::<_, std::io::Error>)
        .collect();
    let answer = client
        .patch(&location)
        .body(Body::wrap_stream(stream::iter(pieces)))
        .answer()
        .await
        .expect(202);
    let last = blob.bytes.len() - 1;
    assert_eq!(answer.header("range"), format!("0-{last}"));
    client
        .put(&finish(answer.header("location"), &blob.digest))
        .header(CONTENT_LENGTH, "0")
        .answer()
        .await
        .expect(201);
    let there = client.get_blob("acme/app", &blob.digest).await.expect(200);
    assert!(there.body == blob.bytes);
}

#[tokio::test]
async fn the_empty_blob() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::new("");
    client.push_blob("acme/app", &blob).await;
    let there = client.head_blob("acme/app", &blob.digest).await.expect(200);
    assert_eq!(there.header("content-length"), "0");
}

#[tokio::test]
async fn sha512_is_as_good() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let bytes = random_bytes(7, 100_000);
    let digest = sha512(&bytes);

    // Named at the end only, when the session has hashed another algorithm …
    let location = client.start_upload("acme/late").await;
    client
        .patch(&location)
        .body(bytes.slice(..60_000))
        .answer()
        .await
        .expect(202);
    let done = client
        .put(&finish(&location, &digest))
        .body(bytes.slice(60_000..))
        .answer()
        .await
        .expect(201);
    assert_eq!(done.header("docker-content-digest"), digest);

    // … and named before.
    let opened = client.post("/v2/acme/early/blobs/uploads/?digest-algorithm=sha512");
    let opened = opened.answer().await.expect(202);
    client
        .put(&finish(opened.header("location"), &digest))
        .body(bytes.clone())
        .answer()
        .await
        .expect(201);

    for name in ["acme/late", "acme/early"] {
        let there = client.get_blob(name, &digest).await.expect(200);
        assert_eq!(there.header("docker-content-digest"), digest);
        assert_eq!(there.body, bytes);
    }
    assert!(registry.store().blobs().contains(&digest));
}

#[tokio::test]
async fn a_cancelled_session_is_gone_with_its_bytes() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let before = registry.store().listing();
    let location = client.start_upload("acme/app").await;
    let chunk = client.patch(&location).body(random_bytes(8, 100_000));
    chunk.answer().await.expect(202);
    assert_ne!(registry.store().listing(), before, "staged somewhere");

    client.delete(&location).answer().await.expect(204);
    assert_eq!(registry.store().listing(), before);
    for again in [client.delete(&location), client.get(&location)] {
        let answer = again.answer().await;
        answer.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
}

#[tokio::test]
async fn a_blob_belongs_to_the_repository_it_was_pushed_to() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(9, 1000);
    client.push_blob("acme/app", &blob).await;
    let elsewhere = client.get_blob("acme/other", &blob.digest).await;
    elsewhere.refused(404, "BLOB_UNKNOWN");
    client
        .head_blob("acme/other", &blob.digest)
        .await
        .expect(404);

    client.push_blob("acme/other", &blob).await;
    client
        .head_blob("acme/other", &blob.digest)
        .await
        .expect(200);
    assert_eq!(registry.store().blobs().len(), 1, "stored once");
}

#[tokio::test]
async fn a_mount_is_answered_with_a_session() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(10, 1000);
    let path = format!(
        "/v2/acme/app/blobs/uploads/?mount={}&from=acme/nowhere",
        blob.digest
    );
    let opened = client.post(&path).answer().await.expect(202);
    client
        .put(&finish(opened.header("location"), &blob.digest))
        .body(blob.bytes.clone())
        .answer()
        .await
        .expect(201);
    client.head_blob("acme/app", &blob.digest).await.expect(200);
}

#[tokio::test]
async fn what_a_client_expects_to_be_told_it_is_told() {
    // curl and some Go clients hold back a large body until the server says that it wants it.
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(11, 100_000);
    let location = client.start_upload("acme/app").await;
    let mut raw = registry.raw().await;
    raw.head(&format!(
        "PUT {}\nExpect: 100-continue\nContent-Length: {}",
        finish(&location, &blob.digest),
        blob.bytes.len()
    ))
    .await;
    assert_eq!(raw.answer().await.status, 100);
    raw.send(&blob.bytes).await;
    assert_eq!(raw.answer().await.status, 201);
}

#[tokio::test]
async fn of_two_patches_at_once_the_second_is_refused() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(12, BEYOND_BUFFERS + 1000);
    let location = client.start_upload("acme/app").await;

    let mut first = registry.raw().await;
    let head = format!("PATCH {location}\nContent-Length: {}", blob.bytes.len());
    first.head(&head).await;
    first.send(&blob.bytes[..BEYOND_BUFFERS]).await;

    let second = client.patch(&location).body(random_bytes(13, 1000));
    let second = second.answer().await.expect(416);
    assert_eq!(second.header("range"), "0-0", "nothing is committed yet");
    let early = client.put(&finish(&location, &blob.digest)).answer().await;
    assert!((400..500).contains(&early.status), "{early:?}");

    first.send(&blob.bytes[BEYOND_BUFFERS..]).await;
    assert_eq!(first.answer().await.status, 202);
    let done = client.put(&finish(&location, &blob.digest)).answer().await;
    done.expect(201);
    let there = client.head_blob("acme/app", &blob.digest).await.expect(200);
    let length = blob.bytes.len().to_string();
    assert_eq!(there.header("content-length"), length);
}

#[tokio::test]
async fn one_connection_carries_a_whole_push() {
    let registry = TestRegistry::start().await;
    let blob = Blob::random(14, 5000);
    let mut raw = Raw::connect(registry.address()).await;
    raw.head("POST /v2/acme/app/blobs/uploads/\nContent-Length: 0")
        .await;
    let opened = raw.answer().await;
    let location = opened.header("location").unwrap().to_owned();
    raw.head(&format!("PATCH {location}\nContent-Length: 5000"))
        .await;
    raw.send(&blob.bytes).await;
    assert_eq!(raw.answer().await.status, 202);
    let put = finish(&location, &blob.digest);
    raw.head(&format!("PUT {put}\nContent-Length: 0")).await;
    assert_eq!(raw.answer().await.status, 201);
    let get = format!("GET /v2/acme/app/blobs/{}", blob.digest);
    raw.head(&get).await;
    let there = raw.answer().await;
    assert_eq!((there.status, there.body), (200, blob.bytes.to_vec()));
}
