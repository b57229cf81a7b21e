//! The limits: what a client is told that goes beyond one, and that nothing of it stays.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    Client, Exchange, FakeUpstream, Raw, TestRegistry,
    client::finish,
    eventually,
    image::{Blob, Image, Manifest, OCI_INDEX, OCI_MANIFEST},
};

async fn limited(option: &str, value: &str) -> TestRegistry {
    let builder = TestRegistry::builder().args([option, value]);
    builder.start().await
}

/// An index of nothing, padded to `size` bytes.
fn manifest_of(size: usize) -> Manifest {
    let body = |padding: usize| {
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [],
            "annotations": { "padding": "x".repeat(padding) },
        })
    };
    let bare = Manifest::new(OCI_INDEX, &body(0)).bytes.len();
    let manifest = Manifest::new(OCI_INDEX, &body(size - bare));
    assert_eq!(manifest.bytes.len(), size);
    manifest
}

#[tokio::test]
async fn a_manifest_has_so_many_bytes_and_no_more() {
    let registry = limited("--max-manifest-size", "2KiB").await;
    let client = registry.client();
    let log = registry.log();
    log.line_with(&["2048 bytes", "--max-manifest-size 4MiB"])
        .await;
    let before = registry.store().listing();

    let over = manifest_of(2049);
    let answer = client.put_manifest("acme/app", "v1", &over).await;
    let answer = answer.refused(413, "MANIFEST_INVALID");
    let message = answer.message();
    assert!(message.contains("2048 bytes"), "{message}");
    assert!(message.contains("--max-manifest-size"), "{message}");

    // Without a length it is found out by reading.
    let mut raw = registry.raw().await;
    raw.head(&format!(
        "PUT /v2/acme/app/manifests/v1\nContent-Type: {OCI_INDEX}\nTransfer-Encoding: chunked"
    ))
    .await;
    raw.send(b"801\r\n").await;
    raw.send(&over.bytes).await;
    raw.send(b"\r\n0\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "MANIFEST_INVALID")
    );
    assert_eq!(registry.store().listing(), before);

    let most = manifest_of(2048);
    let answer = client.put_manifest("acme/app", "v1", &most).await;
    answer.expect(201);
}

#[tokio::test]
async fn the_limit_of_manifests_may_be_raised() {
    let registry = limited("--max-manifest-size", "6MiB").await;
    let client = registry.client();
    let large = manifest_of(5 << 20);
    let answer = client.put_manifest("acme/app", "v1", &large).await;
    answer.expect(201);
    let there = client.get_manifest("acme/app", "v1").await.expect(200);
    assert!(there.body == large.bytes, "it has other bytes");
}

#[tokio::test]
async fn an_upstreams_manifest_has_the_same_limit() {
    let upstream = FakeUpstream::start().await;
    for size in [2048, 2049] {
        upstream.add_manifest("acme/app", &format!("of-{size}"), &manifest_of(size));
    }
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .args(["--max-manifest-size", "2KiB"])
        .start()
        .await;
    let client = registry.client();
    let name = "quay.io/acme/app";
    client.get_manifest(name, "of-2048").await.expect(200);
    let before = registry.store().listing();
    let answer = client.get_manifest(name, "of-2049").await;
    let answer = answer.refused(404, "MANIFEST_UNKNOWN");
    let message = answer.message();
    assert!(message.contains("larger than 2048 bytes"), "{message}");
    assert_eq!(registry.store().listing(), before);
}

#[tokio::test]
async fn a_name_has_so_many_characters_as_the_client_spells_it() {
    let registry = limited("--max-name-length", "16").await;
    let client = registry.client();
    let blob = Blob::random(1, 100);
    let before = registry.store().listing();
    // `quay.io/acme/app` has 16.
    for path in [
        "/v2/quay.io/acme/app2/blobs/uploads/",
        "/v2/acme/application-of-17/blobs/uploads/",
    ] {
        let answer = client.post(path).answer().await;
        let message = answer.refused(400, "NAME_INVALID").message();
        assert!(message.contains("16 characters"), "{message}");
        assert!(message.contains("--max-name-length"), "{message}");
    }
    let answer = client.get("/v2/quay.io/acme/app2/tags/list").answer().await;
    answer.refused(400, "NAME_INVALID");
    assert_eq!(registry.store().listing(), before);
    client.push_blob("quay.io/acme/app", &blob).await;
    client.push_blob("acme/app-with-16", &blob).await;
}

#[tokio::test]
async fn so_many_uploads_are_open_at_once() {
    let registry = limited("--max-uploads", "2").await;
    let client = registry.client();
    let (blob, other) = (Blob::random(1, 1000), Blob::random(2, 1000));
    let first = client.start_upload("acme/app").await;
    let second = client.start_upload("acme/other").await;
    let open = registry.store().listing();

    for _ in 0..3 {
        let answer = client.post("/v2/acme/app/blobs/uploads/").answer().await;
        let message = answer.refused(429, "TOOMANYREQUESTS").message();
        assert!(message.contains("2 uploads are open"), "{message}");
        assert!(message.contains("--max-uploads"), "{message}");
    }
    assert_eq!(registry.store().listing(), open);

    // What opens no session is not held up by those that are open.
    let whole = format!("/v2/acme/app/blobs/uploads/?digest={}", other.digest);
    let pushed = client.post(&whole).body(other.bytes.clone()).answer().await;
    pushed.expect(201);

    // Each way a session ends makes room.
    let last = client.put(&finish(&first, &blob.digest));
    last.body(blob.bytes.clone()).answer().await.expect(201);
    client.start_upload("acme/app").await;
    client.delete(&second).answer().await.expect(204);
    client.start_upload("acme/app").await;
    let answer = client.post("/v2/acme/app/blobs/uploads/").answer().await;
    answer.refused(429, "TOOMANYREQUESTS");
}

#[tokio::test]
async fn uploads_that_nobody_goes_on_with_are_freed() {
    let registry = limited("--upload-lifetime", "300ms").await;
    let client = registry.client();
    let before = registry.store().listing();
    let location = client.start_upload("acme/app").await;
    registry.log().line_with(&["1 uploads", "300ms"]).await;
    let answer = client.get(&location).answer().await;
    let message = answer.refused(404, "BLOB_UPLOAD_UNKNOWN").message();
    assert!(message.contains("--upload-lifetime"), "{message}");
    let store = registry.store();
    eventually("its bytes are freed", || async {
        store.listing() == before
    })
    .await;
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let registry = limited("--head-timeout", "300ms").await;
    let before = registry.store().listing();
    // Not a byte, half a TLS handshake, half a head.
    for sent in [&b""[..], &[0x16, 3, 1], b"GET /v2/ HTTP/1.1\r\n"] {
        let mut raw = registry.raw().await;
        raw.send(sent).await;
        // The default would keep it open for ten seconds, which is told from this by the time alone.
        let closed = tokio::time::timeout(Duration::from_secs(8), raw.closed());
        assert!(closed.await.is_ok(), "after {sent:?} it is open");
    }
    let answer = registry.client().get("/v2/").answer().await;
    answer.expect(200);
    assert_eq!(registry.store().listing(), before);
}

#[tokio::test]
async fn silence_within_a_body_ends_the_request() {
    let registry = limited("--body-timeout", "300ms").await;
    let client = registry.client();
    let blob = Blob::random(1, 2000);
    let location = client.start_upload("acme/app").await;
    let first = client.patch(&location).body(blob.bytes.slice(..1000));
    first.answer().await.expect(202);
    let before = registry.store().listing();

    for (head, code) in [
        (
            format!("PATCH {location}\nContent-Length: 1000"),
            "BLOB_UPLOAD_INVALID",
        ),
        (
            format!(
                "POST /v2/acme/app/blobs/uploads/?digest={}\nContent-Length: 2000",
                blob.digest
            ),
            "BLOB_UPLOAD_INVALID",
        ),
        (
            format!(
                "PUT /v2/acme/app/manifests/v1\nContent-Type: {OCI_MANIFEST}\nContent-Length: 2000"
            ),
            "MANIFEST_INVALID",
        ),
    ] {
        let mut raw = Raw::connect(registry.address()).await;
        raw.head(&head).await;
        raw.send(&blob.bytes[..500]).await;
        let answer = raw.answer().await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, code),
            "{head}"
        );
        let body = String::from_utf8(answer.body).unwrap();
        assert!(body.contains("nothing came for 300ms"), "{head}: {body}");
        let store = registry.store();
        eventually("nothing is left", || async { store.listing() == before }).await;
    }

    let status = client.get(&location).answer().await.expect(204);
    assert_eq!(status.header("range"), "0-999");
    let last = client.put(&finish(&location, &blob.digest));
    last.body(blob.bytes.slice(1000..))
        .answer()
        .await
        .expect(201);
}

/// Every page from `path` on, by `Link`: the entries that `pointer` leads to.
async fn pages(client: &Client, path: &str, pointer: &str) -> Vec<usize> {
    let (mut sizes, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let answer = client.get(&path).answer().await.expect(200);
        let entries = answer.json();
        let entries = entries.pointer(pointer).unwrap().as_array().unwrap();
        sizes.push(entries.len());
        next = answer.headers.get("link").map(|link| {
            let link = link.to_str().unwrap();
            link[1..link.find('>').unwrap()].to_owned()
        });
    }
    sizes
}

#[tokio::test]
async fn a_page_has_so_many_entries() {
    let registry = limited("--page-size", "2").await;
    let client = registry.client();
    let image = Image::small(1);
    for name in ["acme/a", "acme/b", "acme/c"] {
        client.push_image(name, "v1", &image).await;
    }
    for tag in ["v2", "v3"] {
        let tagged = client.put_manifest("acme/a", tag, &image.manifest).await;
        tagged.expect(201);
        let about = json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [],
            "subject": image.manifest.descriptor(),
            "annotations": { "for": tag },
        });
        let about = Manifest::new(OCI_INDEX, &about);
        let pushed = client.put_manifest("acme/a", &about.digest, &about).await;
        pushed.expect(201);
    }
    let third = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [],
        "subject": image.manifest.descriptor(),
    });
    let third = Manifest::new(OCI_INDEX, &third);
    let pushed = client.put_manifest("acme/a", &third.digest, &third).await;
    pushed.expect(201);

    let referrers = format!("/v2/acme/a/referrers/{}", image.manifest.digest);
    for (path, pointer) in [
        ("/v2/acme/a/tags/list", "/tags"),
        ("/v2/_catalog", "/repositories"),
        (referrers.as_str(), "/manifests"),
    ] {
        for (query, expected) in [
            ("", &[2, 1][..]),
            ("?n=1000", &[2, 1]),
            ("?n=1", &[1, 1, 1]),
        ] {
            let path = format!("{path}{query}");
            assert_eq!(pages(&client, &path, pointer).await, expected, "{path}");
        }
    }
}
