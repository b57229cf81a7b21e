//! Bad input: each piece gets the right status and code, and changes nothing.

use crate::support::{
    Exchange, Raw, TestRegistry,
    client::finish,
    image::{Blob, Image, OCI_MANIFEST, random_bytes, sha256},
};

/// A request as it goes over the wire, and its answer. `{digest}` is a digest nobody pushed.
struct Row {
    request: &'static str,
    status: u16,
    code: &'static str,
}

const fn row(request: &'static str, status: u16, code: &'static str) -> Row {
    Row {
        request,
        status,
        code,
    }
}

const PATHS: &[Row] = &[
    // Names that would climb out of the store, plain and percent-encoded.
    row("GET /v2/../etc/passwd/manifests/v1", 400, "NAME_INVALID"),
    row("GET /v2/acme/../app/manifests/v1", 400, "NAME_INVALID"),
    row("GET /v2/acme/./app/manifests/v1", 400, "NAME_INVALID"),
    row("GET /v2/%2e%2e/app/manifests/v1", 400, "NAME_INVALID"),
    row("GET /v2/%2E%2E%2Fapp/manifests/v1", 400, "NAME_INVALID"),
    row("GET /v2/acme%2f..%2fapp/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/acme%5c..%5capp/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/acme/app%00/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/acme//app/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/_local/app/manifests/v1", 400, "NAME_INVALID"),
    row("GET /v2/acme/_blobs/tags/list", 400, "NAME_INVALID"),
    row("POST /v2/../app/blobs/uploads/", 400, "NAME_INVALID"),
    row("POST /v2/acme/%2e%2e/blobs/uploads/", 400, "NAME_INVALID"),
    row("PUT /v2/%2e%2e/app/manifests/v1", 400, "NAME_INVALID"),
    // Names outside the grammar.
    row("GET /v2/Acme/app/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/acme/app-/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/acme/.app/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/acme/a___b/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/acme/a..b/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/acme/caf%c3%a9/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/acme/%ff/tags/list", 400, "NAME_INVALID"),
    row("GET /v2/acme/a%20b/tags/list", 400, "NAME_INVALID"),
    // Digests.
    row("GET /v2/acme/app/blobs/sha256:abc", 400, "DIGEST_INVALID"),
    row("GET /v2/acme/app/blobs/latest", 400, "DIGEST_INVALID"),
    row(
        "GET /v2/acme/app/blobs/sha256:..%2f..%2f..%2fetc",
        400,
        "DIGEST_INVALID",
    ),
    row("GET /v2/acme/app/blobs/%2e%2e", 400, "DIGEST_INVALID"),
    row("GET /v2/acme/app/blobs/md5:00", 400, "DIGEST_INVALID"),
    row(
        "GET /v2/acme/app/manifests/sha256:abc",
        400,
        "DIGEST_INVALID",
    ),
    row(
        "PUT /v2/acme/app/manifests/sha256:abc",
        400,
        "DIGEST_INVALID",
    ),
    row(
        "POST /v2/acme/app/blobs/uploads/?digest=sha256:abc",
        400,
        "DIGEST_INVALID",
    ),
    row(
        "POST /v2/acme/app/blobs/uploads/?digest-algorithm=md5",
        400,
        "DIGEST_INVALID",
    ),
    // Upload ids.
    row(
        "GET /v2/acme/app/blobs/uploads/00000000-0000-4000-8000-000000000000",
        404,
        "BLOB_UPLOAD_UNKNOWN",
    ),
    row(
        "GET /v2/acme/app/blobs/uploads/x",
        404,
        "BLOB_UPLOAD_UNKNOWN",
    ),
    row(
        "PATCH /v2/acme/app/blobs/uploads/%2e%2e",
        404,
        "BLOB_UPLOAD_UNKNOWN",
    ),
    row(
        "PUT /v2/acme/app/blobs/uploads/..%2f..%2fversion?digest={digest}",
        404,
        "BLOB_UPLOAD_UNKNOWN",
    ),
    row(
        "DELETE /v2/acme/app/blobs/uploads/..%2f..%2fblobs",
        404,
        "BLOB_UPLOAD_UNKNOWN",
    ),
    // Methods and paths that do not exist.
    row("POST /v2/acme/app/manifests/v1", 405, "UNSUPPORTED"),
    row("DELETE /v2/acme/app/tags/list", 405, "UNSUPPORTED"),
];

#[tokio::test]
async fn paths_that_no_client_should_send() {
    let registry = TestRegistry::start().await;
    let before = registry.store().listing();
    let digest = sha256(b"nobody pushed this");
    for row in PATHS {
        let request = row.request.replace("{digest}", &digest);
        let answer = Raw::exchange(
            registry.address(),
            &format!("{request}\nContent-Length: 0"),
            b"",
        )
        .await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (row.status, row.code),
            "{request}: {answer:?}"
        );
        assert_eq!(registry.store().listing(), before, "{request}");
    }
    assert!(!registry.home().parent().unwrap().join("app").exists());
    registry.client().get("/v2/").answer().await.expect(200);
    registry.stop().await;
}

#[tokio::test]
async fn what_is_no_request_of_ours_is_answered_as_any_web_server_would() {
    let registry = TestRegistry::start().await;
    for (request, status) in [
        ("GET /", 404),
        ("GET /v1/search", 404),
        ("GET /v2/acme", 404),
        ("GET /v2/acme/app/nothing/v1", 404),
        ("GET /../../etc/passwd", 404),
    ] {
        let answer = Raw::exchange(registry.address(), request, b"").await;
        assert_eq!(answer.status, status, "{request}: {answer:?}");
    }
    for garbage in ["hello\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        let mut raw = registry.raw().await;
        raw.send(garbage.as_bytes()).await;
        if let Some(answer) = raw.try_answer().await {
            assert_eq!(answer.status, 400, "{garbage:?}");
        }
    }
    registry.client().get("/v2/").answer().await.expect(200);
}

#[tokio::test]
async fn tags_at_the_grammars_boundaries() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(1);
    client.push_image("acme/app", "v1", &image).await;
    let (longest, too_long) = ("a".repeat(128), "a".repeat(129));
    for good in ["_", "0", "A.b-c_d", "v1..2", "a-", &longest] {
        let pushed = client.put_manifest("acme/app", good, &image.manifest).await;
        pushed.expect(201);
        client.head_manifest("acme/app", good).await.expect(200);
    }
    let before = registry.store().visible();
    for bad in [".a", "-a", "%2e%2e", "a%20b", "%c3%a9", "a%2fb", &too_long] {
        let head = format!(
            "PUT /v2/acme/app/manifests/{bad}\nContent-Type: {OCI_MANIFEST}\nContent-Length: {}",
            image.manifest.bytes.len()
        );
        let answer = Raw::exchange(registry.address(), &head, &image.manifest.bytes).await;
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
        assert_eq!(answer.code(), "MANIFEST_INVALID", "{bad}: {answer:?}");
        assert_eq!(registry.store().visible(), before, "{bad}");
    }
}

#[tokio::test]
async fn names_at_the_grammars_boundaries() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    // A file name holds 255 bytes and not one more.
    let (one, deep) = ("a".repeat(255), ["a"; 128].join("/"));
    assert_eq!((one.len(), deep.len()), (255, 255));
    for name in [one.as_str(), &deep, "a", "0/0", "a__b/c-----d/e.f_g"] {
        client.push_image(name, "v1", &Image::small(2)).await;
        client.pull_image(name, "v1", &Image::small(2)).await;
        assert_eq!(client.tags(name).await, ["v1"], "{name}");
    }
    let before = registry.store().visible();
    for name in [format!("{one}a"), format!("{deep}/"), format!("{deep}a")] {
        let path = format!("/v2/{name}/blobs/uploads/");
        let refused = client.post(&path).answer().await;
        refused.refused(400, "NAME_INVALID");
    }
    assert_eq!(registry.store().visible(), before);
}

#[tokio::test]
async fn a_digest_that_does_not_match() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let before = registry.store().visible();
    let blob = Blob::random(3, 10_000);
    let claimed = sha256(b"something else");

    // Each way of finishing an upload.
    let monolithic = client.start_upload("acme/app").await;
    let put = client.put(&finish(&monolithic, &claimed));
    let refused = put.body(blob.bytes.clone()).answer().await;
    let refused = refused.refused(400, "DIGEST_INVALID");
    assert!(refused.message().contains(&claimed), "{refused:?}");
    assert!(refused.message().contains(&blob.digest), "{refused:?}");

    let post = client.post(&format!("/v2/acme/app/blobs/uploads/?digest={claimed}"));
    let refused = post.body(blob.bytes.clone()).answer().await;
    refused.refused(400, "DIGEST_INVALID");

    let chunked = client.start_upload("acme/app").await;
    let patch = client.patch(&chunked).body(blob.bytes.clone());
    patch.answer().await.expect(202);
    let refused = client.put(&finish(&chunked, &claimed)).answer().await;
    refused.refused(400, "DIGEST_INVALID");

    for digest in [&claimed, &blob.digest] {
        client.head_blob("acme/app", digest).await.expect(404);
    }
    assert_eq!(registry.store().visible(), before);
    // The true digest is welcome afterwards.
    client.push_blob("acme/app", &blob).await;
    let registry = registry.restart().await;
    registry.store().assert_sound();
}

#[tokio::test]
async fn a_digest_that_is_none_leaves_the_session_alone() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(4, 1000);
    let location = client.start_upload("acme/app").await;
    for bad in ["", "sha256:", "sha256:zz", "latest", "..%2f..%2fetc"] {
        let put = client.put(&finish(&location, bad));
        let refused = put.body(blob.bytes.clone()).answer().await;
        refused.refused(400, "DIGEST_INVALID");
    }
    // A PUT without any.
    let refused = client
        .put(&location)
        .body(blob.bytes.clone())
        .answer()
        .await;
    refused.refused(400, "DIGEST_INVALID");
    let status = client.get(&location).answer().await.expect(204);
    assert_eq!(status.header("range"), "0-0");
    let put = client.put(&finish(&location, &blob.digest));
    put.body(blob.bytes.clone()).answer().await.expect(201);
}

#[tokio::test]
async fn a_body_longer_than_its_length_ends_at_its_length() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let bytes = random_bytes(5, 2000);
    let declared = Blob::new(bytes.slice(..1000));
    let whole = Blob::new(bytes.clone());
    for (digest, status) in [(&declared.digest, 201), (&whole.digest, 400)] {
        let location = client.start_upload("acme/app").await;
        let mut raw = registry.raw().await;
        let put = finish(&location, digest);
        raw.head(&format!("PUT {put}\nContent-Length: 1000")).await;
        raw.send(&bytes).await;
        // What follows the body is no request, and a server may close the connection on it before it has answered.
        if let Some(answer) = raw.try_answer().await {
            assert_eq!(answer.status, status, "{answer:?}");
        }
        raw.closed().await;
    }
    // Nobody ever sees more than was declared.
    client
        .head_blob("acme/app", &whole.digest)
        .await
        .expect(404);
    client.push_blob("acme/app", &declared).await;
    let there = client.get_blob("acme/app", &declared.digest).await;
    assert_eq!(there.expect(200).body, declared.bytes);
    let registry = registry.restart().await;
    registry.store().assert_sound();
}

#[tokio::test]
async fn a_finished_upload_is_finished() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(6, 1000);
    let location = client.start_upload("acme/app").await;
    let put = finish(&location, &blob.digest);
    let body = || blob.bytes.clone();
    client.put(&put).body(body()).answer().await.expect(201);
    let before = registry.store().listing();
    for again in [
        client.put(&put).body(body()),
        client.put(&put),
        client.patch(&location).body(body()),
        client.get(&location),
        client.delete(&location),
    ] {
        let answer = again.answer().await;
        answer.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    assert_eq!(registry.store().listing(), before);
    client.head_blob("acme/app", &blob.digest).await.expect(200);
}

#[tokio::test]
async fn a_session_does_not_outlive_a_restart() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let before = registry.store().listing();
    let blob = Blob::random(7, 1000);
    let location = client.start_upload("acme/app").await;
    let patch = client.patch(&location).body(blob.bytes.clone());
    patch.answer().await.expect(202);

    let registry = registry.restart().await;
    assert_eq!(registry.store().listing(), before, "staging is freed");
    let client = registry.client();
    let put = client.put(&finish(&location, &blob.digest)).answer().await;
    put.refused(404, "BLOB_UPLOAD_UNKNOWN");
    client.push_blob("acme/app", &blob).await;
}

#[tokio::test]
async fn an_ns_that_is_no_host() {
    let registry = TestRegistry::start().await;
    let before = registry.store().listing();
    for ns in ["", "..", "a/b", "%2e%2e%2f", "quay.io:0", "-a", "a%20b"] {
        let request = format!("POST /v2/acme/app/blobs/uploads/?ns={ns}\nContent-Length: 0");
        let answer = Raw::exchange(registry.address(), &request, b"").await;
        assert_eq!(answer.status, 400, "{ns}: {answer:?}");
        assert_eq!(answer.code(), "NAME_INVALID", "{ns}: {answer:?}");
    }
    let twice = "GET /v2/acme/app/tags/list?ns=quay.io&ns=ghcr.io";
    let answer = Raw::exchange(registry.address(), twice, b"").await;
    assert_eq!(answer.status, 400, "{answer:?}");
    // Equal repeats do occur.
    let same = "GET /v2/acme/app/tags/list?ns=quay.io&ns=quay.io";
    let answer = Raw::exchange(registry.address(), same, b"").await;
    assert_eq!(
        (answer.status, answer.code()),
        (404, "NAME_UNKNOWN".to_owned())
    );
    assert_eq!(registry.store().listing(), before);
}

#[tokio::test]
async fn a_refusal_says_who_refused_and_is_logged_in_one_line() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(8, 1000);
    let claimed = sha256(b"something else");
    let location = client.start_upload("acme/refused").await;
    let before = registry.log().lines().len();
    let put = client.put(&finish(&location, &claimed));
    let refused = put.body(blob.bytes.clone()).answer().await;
    let message = refused.refused(400, "DIGEST_INVALID").message();
    assert!(message.contains("standin"), "{message}");
    let line = registry.log().line_with(&["acme/refused", &claimed]).await;
    let registry_log = registry.log().lines();
    assert_eq!(registry_log.len() - before, 1, "{registry_log:?}");
    assert!(line.contains(&blob.digest), "{line}");
    // What a client sends can't forge a line.
    let forged = "GET /v2/acme/app/blobs/sha256:%0aERROR%20forged";
    Raw::exchange(registry.address(), forged, b"").await;
    registry.log().line_with(&["forged"]).await;
    let lines = registry.log().lines();
    assert!(
        !lines.iter().any(|line| line.starts_with("ERROR")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn the_log_tells_each_request_in_one_line_at_level_debug() {
    let registry = TestRegistry::builder()
        .env("RUST_LOG", "standin=debug")
        .start()
        .await;
    let client = registry.client();
    for path in [
        "/v2/",
        "/v2/acme/one/manifests/v1",
        "/v2/ACME/tags/list",
        "/healthz",
        "/nowhere",
    ] {
        let status = client.get(path).answer().await.status;
        let head = client.head(path).answer().await.status;
        for (method, status) in [("GET", status), ("HEAD", head)] {
            let line = format!(" {method} {path}: {status}");
            registry.log().line_with(&[&line]).await;
            assert_eq!(registry.log().count(&[&line]), 1, "{line}");
        }
    }
}
