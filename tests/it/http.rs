//! HTTP itself: methods, HEAD, connections that outlive errors, conditional and partial requests.

use std::collections::BTreeMap;

use reqwest::Method;

use crate::support::{
    Client, Exchange, TestRegistry,
    client::finish,
    image::{Blob, Image, random_bytes, sha256},
};

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

#[tokio::test]
async fn every_endpoint_says_which_methods_it_has() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(1);
    client.push_image("acme/app", "v1", &image).await;
    let session = client.start_upload("acme/app").await;
    let before = registry.store().listing();
    let layer = &image.layers[0].digest;
    let rows = [
        ("/v2/".to_owned(), "GET, HEAD"),
        ("/v2".to_owned(), "GET, HEAD"),
        ("/v2/_catalog".to_owned(), "GET, HEAD"),
        ("/v2/acme/app/tags/list".to_owned(), "GET, HEAD"),
        (format!("/v2/acme/app/referrers/{layer}"), "GET, HEAD"),
        (format!("/v2/acme/app/blobs/{layer}"), "GET, HEAD, DELETE"),
        (
            "/v2/acme/app/manifests/v1".to_owned(),
            "GET, HEAD, PUT, DELETE",
        ),
        ("/v2/acme/app/blobs/uploads/".to_owned(), "POST"),
        ("/v2/acme/app/blobs/uploads".to_owned(), "POST"),
        (session, "GET, HEAD, PATCH, PUT, DELETE"),
        ("/healthz".to_owned(), "GET, HEAD"),
        ("/ca.pem".to_owned(), "GET, HEAD"),
        ("/auth/token".to_owned(), "GET, HEAD, POST"),
    ];
    for (path, allowed) in &rows {
        for method in METHODS {
            if allowed.split(", ").any(|allowed| allowed == method) {
                continue;
            }
            let method: Method = method.parse().unwrap();
            let shown = format!("{method} {path}");
            let answer = client.request(method.clone(), path).answer().await;
            assert_eq!(answer.status, 405, "{shown}: {answer:?}");
            assert_eq!(answer.header("allow"), *allowed, "{shown}");
            if path.starts_with("/v2") && method != Method::HEAD {
                answer.refused(405, "UNSUPPORTED");
            }
        }
    }
    assert_eq!(registry.store().listing(), before);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(2);
    client.push_image("acme/app", "v1", &image).await;
    let empty = Blob::new("");
    client.push_blob("acme/app", &empty).await;
    let session = client.start_upload("acme/app").await;
    let (manifest, layer) = (&image.manifest.digest, &image.layers[0].digest);
    let nobodys = sha256(b"nobody pushed this");
    let paths = [
        "/v2/".to_owned(),
        "/v2/_catalog".to_owned(),
        "/v2/_catalog?n=0".to_owned(),
        "/v2/_catalog?n=x".to_owned(),
        "/v2/acme/app/manifests/v1".to_owned(),
        "/v2/acme/app/manifests/v1?ns=quay.io".to_owned(),
        "/v2/acme/app/manifests/v1?ns=docker.io".to_owned(),
        format!("/v2/acme/app/manifests/{manifest}"),
        format!("/v2/acme/app/manifests/{nobodys}"),
        "/v2/acme/app/manifests/sha256:abc".to_owned(),
        format!("/v2/acme/app/blobs/{layer}"),
        format!("/v2/acme/app/blobs/{}", empty.digest),
        format!("/v2/acme/app/blobs/{nobodys}"),
        "/v2/acme/app/blobs/sha256:abc".to_owned(),
        "/v2/acme/app/tags/list".to_owned(),
        "/v2/acme/app/tags/list?n=1".to_owned(),
        "/v2/acme/nowhere/tags/list".to_owned(),
        format!("/v2/acme/app/referrers/{manifest}"),
        format!("/v2/acme/app/referrers/{manifest}?artifactType=a%2Fb"),
        "/v2/acme/app/referrers/sha256:abc".to_owned(),
        "/v2/Acme/app/tags/list".to_owned(),
        session,
        "/v2/acme/app/blobs/uploads/x".to_owned(),
        "/v2/acme/app/blobs/uploads/".to_owned(),
        "/v2/acme".to_owned(),
        "/nothing".to_owned(),
        "/healthz".to_owned(),
        "/ca.pem".to_owned(),
    ];
    let mut failed = Vec::new();
    for path in &paths {
        failed.extend(differ(&client, path, &[]).await);
    }
    let etag = format!("\"{layer}\"");
    let path = format!("/v2/acme/app/blobs/{layer}");
    for name in ["if-match", "if-none-match"] {
        for value in [etag.as_str(), "\"other\""] {
            failed.extend(differ(&client, &path, &[(name, value)]).await);
        }
    }
    let builder = TestRegistry::builder().args(["--user", "ci:secret:read"]);
    let registry = builder.start().await;
    let guarded = registry.client();
    for path in &paths {
        failed.extend(differ(&guarded, path, &[]).await);
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// How HEAD differs from GET without the body, if it does.
async fn differ(client: &Client, path: &str, more: &[(&str, &str)]) -> Option<String> {
    let mut answers = Vec::new();
    for method in [Method::GET, Method::HEAD] {
        let mut request = client.request(method, path);
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        answers.push(request.answer().await);
    }
    let headers = |at: usize| -> BTreeMap<String, String> {
        let answer: &crate::support::Answer = &answers[at];
        let all = answer.headers.iter().filter(|(name, _)| *name != "date");
        all.map(|(name, value)| (name.to_string(), format!("{value:?}")))
            .collect()
    };
    let same = answers[0].status == answers[1].status && headers(0) == headers(1);
    (!same || !answers[1].body.is_empty()).then(|| format!("{path} {more:?}: {answers:?}"))
}

/// Requests with a body that are refused, some before it is read: `{session}` and `{digest}` are good ones.
const REFUSED: &[(&str, u16)] = &[
    ("PUT /v2/acme/app/manifests/v1", 400),
    ("PUT /v2/acme/app/manifests/sha256:bad", 400),
    ("PUT /v2/acme/app/manifests/{digest}", 400),
    ("PUT /v2/Acme/app/manifests/v1", 400),
    ("POST /v2/Acme/app/blobs/uploads/", 400),
    ("POST /v2/acme/app/blobs/uploads/?digest=sha256:bad", 400),
    ("POST /v2/acme/app/blobs/uploads/?digest={digest}", 400),
    ("POST /v2/acme/app/blobs/uploads/?digest-algorithm=md5", 400),
    ("PATCH /v2/acme/app/blobs/uploads/nothing", 404),
    (
        "PUT /v2/acme/app/blobs/uploads/nothing?digest={digest}",
        404,
    ),
    ("PUT {session}", 400),
    ("PUT {session}?digest=sha256:bad", 400),
    ("PATCH {session}\nContent-Range: 7-8", 416),
    ("PATCH {session}\nContent-Range: nonsense", 416),
    ("PUT {session}?digest={digest}\nContent-Range: 7-8", 416),
    ("DELETE /v2/acme/app/manifests/v1", 404),
    ("DELETE /v2/acme/app/blobs/{digest}", 404),
    ("GET /v2/acme/app/manifests/v1", 404),
    ("POST /v2/acme/app/manifests/v1", 405),
    ("POST /v2/_catalog", 405),
    ("POST /v2/", 405),
    ("PUT /healthz", 405),
    ("POST /nothing", 404),
];

#[tokio::test]
async fn a_connection_outlives_every_refusal() {
    let registry = TestRegistry::start().await;
    let session = registry.client().start_upload("acme/app").await;
    let mut failed = Vec::new();
    for (request, status) in REFUSED {
        for length in [0, 10, 100_000, 3 << 20] {
            for chunked in [false, true] {
                // An empty body is no manifest, and is a chunk of the right length.
                let too_small = length == 0 && request.contains("Content-Range");
                if too_small || (length == 0 && request.contains("uploads/?digest-")) {
                    continue;
                }
                let request = request.replace("{session}", &session);
                failed.extend(survives(&registry, &request, *status, length, chunked).await);
            }
        }
    }
    for chunked in [false, true] {
        let too_large = "PUT /v2/acme/app/manifests/v1";
        failed.extend(survives(&registry, too_large, 413, 5 << 20, chunked).await);
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let status = registry.client().get(&session).answer().await.expect(204);
    assert_eq!(status.header("range"), "0-0", "nothing has changed it");
}

#[tokio::test]
async fn a_connection_outlives_a_refusal_for_want_of_a_log_in() {
    let builder = TestRegistry::builder().args(["--user", "ci:secret:write"]);
    let registry = builder.start().await;
    let mut failed = Vec::new();
    for request in [
        "POST /v2/acme/app/blobs/uploads/",
        "POST /v2/acme/app/blobs/uploads/?digest={digest}",
        "PATCH /v2/acme/app/blobs/uploads/nothing",
        "PUT /v2/acme/app/manifests/v1",
        "PUT /v2/acme/app/manifests/v1\nAuthorization: Basic nonsense",
        "DELETE /v2/acme/app/manifests/v1",
    ] {
        for length in [0, 10, 3 << 20] {
            for chunked in [false, true] {
                failed.extend(survives(&registry, request, 401, length, chunked).await);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The refused request is sent whole, and the next one on the same connection is answered; else what went wrong.
async fn survives(
    registry: &TestRegistry,
    request: &str,
    status: u16,
    length: usize,
    chunked: bool,
) -> Option<String> {
    let nobodys = sha256(b"nobody pushed this");
    let request = request.replace("{digest}", &nobodys);
    let shown = format!("{request}, {length} bytes, chunked: {chunked}");
    let body = random_bytes(3, length);
    let mut raw = registry.raw().await;
    for turn in 0..2 {
        if chunked {
            let head = format!("{request}\nTransfer-Encoding: chunked");
            raw.head(&head).await;
            if length > 0 {
                raw.send(format!("{length:x}\r\n").as_bytes()).await;
                raw.send(&body).await;
                raw.send(b"\r\n").await;
            }
            raw.send(b"0\r\n\r\n").await;
        } else {
            raw.head(&format!("{request}\nContent-Length: {length}"))
                .await;
            raw.send(&body).await;
        }
        let Some(answer) = raw.try_answer().await else {
            return Some(format!("{shown}: no answer in turn {turn}"));
        };
        if answer.status != status {
            return Some(format!("{shown}: not {status}: {answer:?}"));
        }
        raw.head("GET /healthz").await;
        let Some(next) = raw.try_answer().await else {
            return Some(format!("{shown}: closed in turn {turn}"));
        };
        assert_eq!(next.body, b"ok\n", "{shown}: {next:?}");
    }
    None
}

#[tokio::test]
async fn who_waits_for_leave_to_send_hears_of_the_refusal_first() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let session = client.start_upload("acme/app").await;
    let nobodys = sha256(b"nobody pushed this");
    let announce = async |request: &str, length: usize| {
        let request = request
            .replace("{session}", &session)
            .replace("{digest}", &nobodys);
        let length = format!("Content-Length: {length}");
        let mut raw = registry.raw().await;
        raw.head(&format!("{request}\n{length}\nExpect: 100-continue"))
            .await;
        let answer = raw.answer().await;
        (raw, answer)
    };
    let mut failed = Vec::new();
    for (request, status) in [
        ("PATCH /v2/acme/app/blobs/uploads/nothing", 404),
        ("PATCH {session}\nContent-Range: 7-16", 416),
        ("PUT {session}?digest=sha256:bad", 400),
        ("POST /v2/acme/app/blobs/uploads/?digest=sha256:bad", 400),
        ("POST /v2/acme/app/blobs/uploads/?digest-algorithm=md5", 400),
        ("PUT /v2/acme/app/manifests/sha256:bad", 400),
        ("PUT /v2/acme/app/manifests/{digest}?tag=v1&tag=-v2", 400),
        ("PUT /v2/Acme/app/manifests/v1", 400),
        ("POST /v2/_catalog", 405),
        ("POST /nothing", 404),
    ] {
        let (_raw, answer) = announce(request, 10).await;
        if answer.status != status {
            failed.push(format!("{request}: not {status}: {answer:?}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let (_raw, answer) = announce("PUT /v2/acme/app/manifests/v1", 5 << 20).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    // Who is welcome gets leave.
    let blob = Blob::random(4, 10);
    let put = finish(&session, &blob.digest);
    let (mut raw, leave) = announce(&format!("PUT {put}"), 10).await;
    assert_eq!(leave.status, 100, "{leave:?}");
    raw.send(&blob.bytes).await;
    assert_eq!(raw.answer().await.status, 201);
}

#[tokio::test]
async fn conditions() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(5);
    client.push_image("acme/app", "v1", &image).await;
    let (manifest, layer) = (&image.manifest.digest, &image.layers[0].digest);
    for (path, digest) in [
        ("/v2/acme/app/manifests/v1".to_owned(), manifest),
        (format!("/v2/acme/app/manifests/{manifest}"), manifest),
        (format!("/v2/acme/app/blobs/{layer}"), layer),
    ] {
        let etag = format!("\"{digest}\"");
        let (weak, listed) = (format!("W/{etag}"), format!("\"a\", {etag}, \"b\""));
        let plain = client.get(&path).answer().await.expect(200);
        assert_eq!(plain.header("etag"), etag, "{path}");
        let rows: &[(&[(&str, &str)], u16)] = &[
            (&[("if-match", &etag)], 200),
            (&[("if-match", &listed)], 200),
            (&[("if-match", "*")], 200),
            (&[("if-match", "\"other\"")], 412),
            (&[("if-match", &weak)], 412),
            (&[("if-none-match", &etag)], 304),
            (&[("if-none-match", &weak)], 304),
            (&[("if-none-match", &listed)], 304),
            (&[("if-none-match", "*")], 304),
            (&[("if-none-match", "\"other\"")], 200),
            (&[("if-none-match", "\"a\""), ("if-none-match", &etag)], 304),
            (&[("if-match", "\"a\""), ("if-match", &etag)], 200),
            (&[("if-match", &etag), ("if-none-match", &etag)], 304),
            (&[("if-match", "\"a\""), ("if-none-match", &etag)], 412),
        ];
        for (headers, status) in rows {
            for method in [Method::GET, Method::HEAD] {
                let mut request = client.request(method.clone(), &path);
                for (name, value) in *headers {
                    request = request.header(*name, *value);
                }
                let answer = request.answer().await;
                let shown = format!("{method} {path} {headers:?}: {answer:?}");
                assert_eq!(answer.status, *status, "{shown}");
                assert_eq!(answer.header("etag"), etag, "{shown}");
                if *status != 200 || method == Method::HEAD {
                    assert!(answer.body.is_empty(), "{shown}");
                }
            }
        }
    }
    let unknown = client.get("/v2/acme/app/manifests/v2");
    let unknown = unknown.header("if-none-match", "*").answer().await;
    unknown.refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn ranges() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let (blob, empty) = (Blob::random(6, 1000), Blob::new(""));
    for blob in [&blob, &empty] {
        client.push_blob("acme/app", blob).await;
    }
    let etag = format!("\"{}\"", blob.digest);
    let weak = format!("W/{etag}");
    let path = format!("/v2/acme/app/blobs/{}", blob.digest);
    let rows = [
        // range, if-range, status, first byte and how many
        ("bytes=0-0", "", 206, (0, 1)),
        ("bytes=10-19", "", 206, (10, 10)),
        ("bytes=990-", "", 206, (990, 10)),
        ("bytes=-1", "", 206, (999, 1)),
        ("bytes=-5000", "", 206, (0, 1000)),
        ("bytes=0-999", "", 206, (0, 1000)),
        ("bytes=500-0", "", 416, (0, 0)),
        ("bytes=1000-", "", 416, (0, 0)),
        ("bytes=1000-2000", "", 416, (0, 0)),
        ("bytes=-0", "", 416, (0, 0)),
        ("bytes=99999999999999999999-", "", 416, (0, 0)),
        ("bytes=0-1,4-5", "", 200, (0, 1000)),
        ("bytes=0-1, -1", "", 200, (0, 1000)),
        ("bytes=a-b", "", 200, (0, 1000)),
        ("lines=1-2", "", 200, (0, 1000)),
        ("bytes=10-19", &etag, 206, (10, 10)),
        ("bytes=10-19", &weak, 200, (0, 1000)),
        ("bytes=10-19", "\"other\"", 200, (0, 1000)),
        (
            "bytes=10-19",
            "Wed, 21 Oct 2015 07:28:00 GMT",
            200,
            (0, 1000),
        ),
        ("bytes=1000-", "\"other\"", 200, (0, 1000)),
    ];
    for (range, condition, status, (from, length)) in rows {
        let mut get = client.get(&path).header("range", range);
        if !condition.is_empty() {
            get = get.header("if-range", condition);
        }
        let answer = get.answer().await.expect(status);
        let said = match status {
            206 => Some(format!("bytes {from}-{}/1000", from + length - 1)),
            416 => Some("bytes */1000".to_owned()),
            _ => None,
        };
        let shown = format!("{range} {condition}: {answer:?}");
        let content_range = answer.headers.get("content-range");
        let content_range = content_range.map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(content_range, said, "{shown}");
        if status != 416 {
            assert_eq!(
                answer.body,
                blob.bytes.slice(from..from + length),
                "{shown}"
            );
            assert_eq!(answer.header("accept-ranges"), "bytes", "{shown}");
            assert_eq!(answer.header("etag"), etag, "{shown}");
        }
        // Only a GET has parts.
        let head = client.head(&path).header("range", range).answer().await;
        assert_eq!(head.expect(200).header("content-length"), "1000", "{range}");
    }
    let path = format!("/v2/acme/app/blobs/{}", empty.digest);
    let none = client.get(&path).header("range", "bytes=0-").answer().await;
    assert_eq!(none.expect(416).header("content-range"), "bytes */0");
}
