//! Pulling what was pushed, and the tags list (end-1 to end-3, end-8).

use std::collections::BTreeSet;

use crate::support::{
    Exchange, TestRegistry,
    image::{Blob, Image, ImageBuilder, sha256},
};

#[tokio::test]
async fn the_version_check() {
    let registry = TestRegistry::start().await;
    for client in [registry.client(), registry.tls_client()] {
        let answer = client.get("/v2/").answer().await.expect(200);
        assert_eq!(answer.header("content-type"), "application/json");
        assert!(answer.json().is_object());
    }
}

#[tokio::test]
async fn head_tells_what_get_gives() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = ImageBuilder::new(1).layer(0).layer(70_000).build();
    client.push_image("acme/app", "v1", &image).await;
    let mut paths = vec![
        "/v2/acme/app/manifests/v1".to_owned(),
        format!("/v2/acme/app/manifests/{}", image.manifest.digest),
    ];
    for blob in image.blobs() {
        paths.push(format!("/v2/acme/app/blobs/{}", blob.digest));
    }
    for path in &paths {
        let got = client.get(path).answer().await.expect(200);
        let head = client.head(path).answer().await.expect(200);
        for header in ["content-length", "content-type", "docker-content-digest"] {
            assert_eq!(head.header(header), got.header(header), "{path}: {header}");
        }
        let length = got.body.len().to_string();
        assert_eq!(got.header("content-length"), length, "{path}");
        assert_eq!(
            got.header("docker-content-digest"),
            sha256(&got.body),
            "{path}"
        );
    }
    client.pull_image("acme/app", "v1", &image).await;
}

#[tokio::test]
async fn accept_changes_nothing() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = ImageBuilder::new(2).docker().layer(100).build();
    client.push_image("acme/app", "v1", &image).await;
    for accept in [
        "application/vnd.oci.image.index.v1+json",
        "text/html",
        "*/*",
    ] {
        let answer = client
            .get("/v2/acme/app/manifests/v1")
            .header("accept", accept)
            .answer()
            .await
            .expect(200);
        assert_eq!(answer.header("content-type"), image.manifest.media_type);
        assert_eq!(answer.body, image.manifest.bytes);
    }
}

#[tokio::test]
async fn a_blob_is_never_compressed_on_the_way() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::new(vec![b'a'; 100_000]);
    client.push_blob("acme/app", &blob).await;
    let answer = client
        .get(&format!("/v2/acme/app/blobs/{}", blob.digest))
        .header("accept-encoding", "zstd, gzip")
        .answer()
        .await
        .expect(200);
    assert!(!answer.headers.contains_key("content-encoding"));
    assert_eq!(answer.body, blob.bytes);
}

#[tokio::test]
async fn the_tags_list_is_in_byte_order_under_the_clients_own_name() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(4);
    client.push_image("quay.io/acme/app", "b", &image).await;
    for tag in ["a", "B", "10", "9", "_x", "a.1", "a-1", "Z"] {
        let pushed = client.put_manifest("quay.io/acme/app", tag, &image.manifest);
        pushed.await.expect(201);
    }
    // An untagged manifest is no tag.
    let other = Image::small(5);
    client
        .push_image("quay.io/acme/app", &other.manifest.digest, &other)
        .await;

    let sorted = ["10", "9", "B", "Z", "_x", "a", "a-1", "a.1", "b"];
    for (path, name) in [
        ("/v2/quay.io/acme/app/tags/list", "quay.io/acme/app"),
        ("/v2/acme/app/tags/list?ns=quay.io", "acme/app"),
    ] {
        let body = client.get(path).answer().await.expect(200).json();
        assert_eq!(body["name"], name);
        assert_eq!(body["tags"], serde_json::json!(sorted), "{path}");
    }
}

#[tokio::test]
async fn the_tags_list_in_pages() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(6);
    client.push_image("acme/app", "t0", &image).await;
    for n in 1..7 {
        let tag = format!("t{n}");
        let pushed = client.put_manifest("acme/app", &tag, &image.manifest);
        pushed.await.expect(201);
    }
    let mut path = "/v2/acme/app/tags/list?n=3".to_owned();
    let mut pages = Vec::new();
    loop {
        let answer = client.get(&path).answer().await.expect(200);
        let tags = answer.json()["tags"].clone();
        pages.push(serde_json::from_value::<Vec<String>>(tags).unwrap());
        if !answer.headers.contains_key("link") {
            break;
        }
        let link = answer.header("link");
        assert!(link.ends_with(">; rel=\"next\""), "{link}");
        path = link[1..link.find('>').unwrap()].to_owned();
        assert!(path.starts_with("/v2/acme/app/tags/list?"), "{link}");
    }
    let expected: [&[&str]; 3] = [&["t0", "t1", "t2"], &["t3", "t4", "t5"], &["t6"]];
    assert_eq!(pages, expected);
    let rest = client.get("/v2/acme/app/tags/list?last=t4").answer().await;
    let rest = rest.expect(200).json();
    assert_eq!(rest["tags"], serde_json::json!(["t5", "t6"]));
}

#[tokio::test]
async fn what_nobody_pushed_is_unknown() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    client.push_image("acme/app", "v1", &Image::small(7)).await;
    let digest = sha256(b"nobody pushed this");
    let rows = [
        (format!("/v2/acme/app/blobs/{digest}"), "BLOB_UNKNOWN"),
        (format!("/v2/acme/new/blobs/{digest}"), "BLOB_UNKNOWN"),
        (
            format!("/v2/acme/app/manifests/{digest}"),
            "MANIFEST_UNKNOWN",
        ),
        ("/v2/acme/app/manifests/v2".to_owned(), "MANIFEST_UNKNOWN"),
        ("/v2/acme/new/manifests/v1".to_owned(), "MANIFEST_UNKNOWN"),
        ("/v2/acme/new/tags/list".to_owned(), "NAME_UNKNOWN"),
    ];
    for (path, code) in rows {
        client.get(&path).answer().await.refused(404, code);
        if code != "NAME_UNKNOWN" {
            let head = client.head(&path).answer().await.expect(404);
            assert!(head.body.is_empty(), "{path}");
        }
    }
}

#[tokio::test]
async fn what_is_pushed_outlives_a_restart() {
    let registry = TestRegistry::start().await;
    let image = Image::small(8);
    registry.client().push_image("acme/app", "v1", &image).await;
    let before: BTreeSet<String> = registry.store().listing();
    let registry = registry.restart().await;
    registry.client().pull_image("acme/app", "v1", &image).await;
    assert_eq!(registry.client().tags("acme/app").await, ["v1"]);
    assert_eq!(registry.store().listing(), before);
    registry.store().assert_sound();
}
