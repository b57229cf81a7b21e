//! Clients that go away in the middle of things: nothing of theirs becomes visible, nothing of theirs stays, and nobody
//! else notices.

use crate::support::{
    Exchange, Raw, TestRegistry,
    client::finish,
    eventually,
    image::{Blob, Image, OCI_MANIFEST, random_bytes},
    raw::BEYOND_BUFFERS,
};

/// How a client goes away.
#[derive(Clone, Copy, Debug)]
enum Exit {
    /// The connection is closed in good order, in the middle of a request.
    Closes,
    /// The connection is reset.
    Resets,
    /// No more bytes come, but the client waits for an answer.
    Stops,
}

const EXITS: [Exit; 3] = [Exit::Closes, Exit::Resets, Exit::Stops];

impl Exit {
    async fn take(self, mut raw: Raw) {
        match self {
            Self::Closes => raw.close(),
            Self::Resets => raw.reset(),
            Self::Stops => {
                raw.half_close().await;
                if let Some(answer) = raw.try_answer().await {
                    assert!(answer.status >= 400, "{answer:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn at_every_stage_of_a_push() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let present = Image::small(1);
    client.push_image("acme/app", "v1", &present).await;
    let before = registry.store().visible();
    let blob = Blob::random(2, 100_000);
    let manifest = &present.manifest;
    let half = &blob.bytes[..50_000];
    let location = client.start_upload("acme/app").await;
    let put = finish(&location, &blob.digest);
    let digest = &blob.digest;
    let stages: [(&str, String, &[u8]); 7] = [
        ("nothing sent", String::new(), b""),
        ("half a head", "POST /v2/acme/ap".to_owned(), b""),
        (
            "half a chunk",
            head(&format!("PATCH {location}"), "Content-Length: 100000"),
            half,
        ),
        (
            "half a chunk of unknown length",
            head(&format!("PATCH {location}"), "Transfer-Encoding: chunked"),
            b"c350\r\nnot so many bytes",
        ),
        (
            "half a PUT",
            head(&format!("PUT {put}"), "Content-Length: 100000"),
            half,
        ),
        (
            "half a POST with digest",
            head(
                &format!("POST /v2/acme/app/blobs/uploads/?digest={digest}"),
                "Content-Length: 100000",
            ),
            half,
        ),
        (
            "half a manifest",
            head(
                "PUT /v2/acme/app/manifests/half",
                &format!("Content-Type: {OCI_MANIFEST}\r\nContent-Length: 400"),
            ),
            &manifest.bytes[..200],
        ),
    ];
    let mut vanished = Vec::new();
    for (stage, head, body) in &stages {
        for exit in EXITS {
            let mut raw = registry.raw().await;
            vanished.push((format!("{stage}, {exit:?}"), format!("{} ", raw.address())));
            raw.send(head.as_bytes()).await;
            raw.send(body).await;
            exit.take(raw).await;
            // The session is as it was, once the server has noticed.
            eventually(
                &format!("{stage}, {exit:?}: the session is free"),
                || async {
                    let probe = client.patch(&location).body("").answer().await;
                    probe.status == 202 && probe.header("range") == "0-0"
                },
            )
            .await;
            assert_eq!(registry.store().visible(), before, "{stage}, {exit:?}");
        }
    }
    client.head_blob("acme/app", digest).await.expect(404);
    client.head_manifest("acme/app", "half").await.expect(404);

    // The session that went through all this still takes the blob.
    let done = client.put(&put).body(blob.bytes.clone()).answer().await;
    done.expect(201);
    let there = client.get_blob("acme/app", digest).await.expect(200);
    assert!(there.body == blob.bytes);
    // A client that goes away is worth one line, which may come when others have been and gone.
    let log = registry.log().lines();
    for (what, address) in vanished {
        let said: Vec<&String> = log.iter().filter(|line| line.contains(&address)).collect();
        assert!(said.len() <= 1, "{what}: {said:?}");
    }
    let registry = registry.restart().await;
    registry.store().assert_sound();
}

#[tokio::test]
async fn an_interrupted_chunk_leaves_the_offset_where_it_was() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(3, BEYOND_BUFFERS + 100_000);
    let location = client.start_upload("acme/app").await;
    let first = client.patch(&location).body(blob.bytes.slice(..50_000));
    first.answer().await.expect(202);

    // So much is sent that the server has some of it, hashed and written.
    let mut raw = registry.raw().await;
    let rest = blob.bytes.slice(50_000..);
    raw.head(&format!("PATCH {location}\nContent-Length: {}", rest.len()))
        .await;
    raw.send(&rest[..BEYOND_BUFFERS]).await;
    raw.reset();

    let chunk = || {
        client
            .patch(&location)
            .header("content-range", format!("50000-{}", blob.bytes.len() - 1))
            .body(rest.clone())
    };
    let status = client.get(&location).answer().await.expect(204);
    assert_eq!(status.header("range"), "0-49999");
    eventually("the session is free again", || async {
        chunk().answer().await.status == 202
    })
    .await;
    let done = client.put(&finish(&location, &blob.digest)).answer().await;
    done.expect(201);
    let there = client.get_blob("acme/app", &blob.digest).await.expect(200);
    assert!(there.body == blob.bytes);
}

#[tokio::test]
async fn in_the_middle_of_a_pull() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let blob = Blob::random(4, BEYOND_BUFFERS);
    client.push_blob("acme/app", &blob).await;
    let before = registry.store().listing();
    for exit in [Exit::Closes, Exit::Resets] {
        for _ in 0..4 {
            let mut raw = registry.raw().await;
            raw.head(&format!("GET /v2/acme/app/blobs/{}", blob.digest))
                .await;
            assert!(raw.fill().await > 0);
            exit.take(raw).await;
        }
    }
    let there = client.get_blob("acme/app", &blob.digest).await.expect(200);
    assert!(there.body == blob.bytes);
    assert_eq!(registry.store().listing(), before);
    registry.stop().await;
}

#[tokio::test]
async fn between_requests_and_before_the_handshake_ends() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    // The first bytes of a ClientHello, which are the first of a TLS record that never comes.
    let hello: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00];
    for bytes in [&hello[..1], hello, &[0x16; 100], &[0x00; 100]] {
        for exit in EXITS {
            let mut raw = registry.raw().await;
            raw.send(bytes).await;
            exit.take(raw).await;
        }
    }
    let mut raw = registry.raw().await;
    raw.head("GET /v2/").await;
    assert_eq!(raw.answer().await.status, 200);
    raw.reset();
    client.get("/v2/").answer().await.expect(200);
    let secure = registry.tls_client();
    secure.get("/v2/").answer().await.expect(200);
    registry.stop().await;
}

#[tokio::test]
async fn sessions_left_behind_are_cleared_by_the_next_start() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    client.push_image("acme/app", "v1", &Image::small(5)).await;
    let before = registry.store().listing();
    for seed in 6..10 {
        let location = client.start_upload("acme/app").await;
        let patch = client.patch(&location).body(random_bytes(seed, 100_000));
        patch.answer().await.expect(202);
    }
    // And one that is in the middle of a chunk when the server is told to stop.
    let location = client.start_upload("acme/app").await;
    let mut raw = registry.raw().await;
    let length = BEYOND_BUFFERS + 1;
    raw.head(&format!("PATCH {location}\nContent-Length: {length}"))
        .await;
    raw.send(&random_bytes(10, BEYOND_BUFFERS)).await;
    assert!(registry.store().listing().len() >= before.len() + 5);
    let registry = registry.kill().await.start().await;
    assert_eq!(registry.store().listing(), before);
    registry.store().assert_sound();
}

fn head(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n\r\n")
}
