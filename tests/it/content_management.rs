//! Content management: deleting tags, manifests and blobs, and mounting blobs of other repositories (end-9 to end-11).

use crate::support::{
    Client, Exchange, FakeUpstream, Gate, Reply, TestRegistry,
    client::finish,
    eventually,
    image::{Blob, Image, Manifest, sha256},
    table::exchange,
};

#[tokio::test]
async fn a_tag_that_is_deleted_is_gone_and_nothing_else() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(1);
    for tag in ["v1", "v2"] {
        client.push_image("acme/app", tag, &image).await;
    }
    client.push_image("acme/other", "v1", &image).await;
    let words = [("manifest", image.manifest.digest.as_str())];
    exchange(
        &client,
        &words,
        &[
            ("DELETE /v2/acme/app/manifests/v1", 202, ""),
            ("GET /v2/acme/app/manifests/v1", 404, "MANIFEST_UNKNOWN"),
            ("HEAD /v2/acme/app/manifests/v1", 404, ""),
            ("DELETE /v2/acme/app/manifests/v1", 404, "MANIFEST_UNKNOWN"),
            ("GET /v2/acme/app/manifests/v2", 200, ""),
            ("GET /v2/acme/app/manifests/{manifest}", 200, ""),
            ("GET /v2/acme/other/manifests/v1", 200, ""),
        ],
    )
    .await;
    assert_eq!(client.tags("acme/app").await, ["v2"]);
    client.pull_image("acme/app", "v2", &image).await;
    let registry = registry.restart().await;
    assert_eq!(registry.client().tags("acme/app").await, ["v2"]);
}

#[tokio::test]
async fn a_manifest_is_deleted_with_its_tags() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let (gone, stays) = (Image::small(2), Image::small(3));
    for tag in ["a", "b"] {
        client.push_image("acme/app", tag, &gone).await;
    }
    client.push_image("acme/app", "c", &stays).await;
    client.push_image("acme/other", "a", &gone).await;
    let words = [("manifest", gone.manifest.digest.as_str())];
    exchange(
        &client,
        &words,
        &[
            ("DELETE /v2/acme/app/manifests/{manifest}", 202, ""),
            ("GET /v2/acme/app/manifests/a", 404, "MANIFEST_UNKNOWN"),
            ("HEAD /v2/acme/app/manifests/b", 404, ""),
            (
                "GET /v2/acme/app/manifests/{manifest}",
                404,
                "MANIFEST_UNKNOWN",
            ),
            (
                "DELETE /v2/acme/app/manifests/{manifest}",
                404,
                "MANIFEST_UNKNOWN",
            ),
        ],
    )
    .await;
    assert_eq!(client.tags("acme/app").await, ["c"]);
    client.pull_image("acme/app", "c", &stays).await;
    client.pull_image("acme/other", "a", &gone).await;
    // It can come again.
    client.push_image("acme/app", "b", &gone).await;
    assert_eq!(client.tags("acme/app").await, ["b", "c"]);
    client.pull_image("acme/app", "b", &gone).await;
}

#[tokio::test]
async fn a_blob_is_deleted_once_no_manifest_names_it() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(4);
    let lone = Blob::random(5, 1000);
    client.push_image("acme/app", "v1", &image).await;
    client.push_blob("acme/app", &lone).await;
    client.push_blob("acme/other", &lone).await;
    let layer = &image.layers[0].digest;
    let words = [
        ("manifest", image.manifest.digest.as_str()),
        ("layer", layer),
        ("config", &image.config.digest),
        ("lone", &lone.digest),
    ];
    exchange(
        &client,
        &words,
        &[
            ("DELETE /v2/acme/app/blobs/{lone}", 202, ""),
            ("HEAD /v2/acme/app/blobs/{lone}", 404, ""),
            ("GET /v2/acme/app/blobs/{lone}", 404, "BLOB_UNKNOWN"),
            ("DELETE /v2/acme/app/blobs/{lone}", 404, "BLOB_UNKNOWN"),
            ("GET /v2/acme/other/blobs/{lone}", 200, ""),
            ("DELETE /v2/acme/app/blobs/{layer}", 405, "DENIED"),
            ("DELETE /v2/acme/app/blobs/{config}", 405, "DENIED"),
            // A tag that goes takes no manifest along.
            ("DELETE /v2/acme/app/manifests/v1", 202, ""),
            ("DELETE /v2/acme/app/blobs/{layer}", 405, "DENIED"),
            ("GET /v2/acme/app/blobs/{layer}", 200, ""),
        ],
    )
    .await;
    let path = format!("/v2/acme/app/blobs/{layer}");
    let refused = client.delete(&path).answer().await.expect(405);
    let message = refused.message();
    assert!(message.contains(&image.manifest.digest), "{message}");
    exchange(
        &client,
        &words,
        &[
            ("DELETE /v2/acme/app/manifests/{manifest}", 202, ""),
            ("DELETE /v2/acme/app/blobs/{layer}", 202, ""),
            ("GET /v2/acme/app/blobs/{layer}", 404, "BLOB_UNKNOWN"),
            ("DELETE /v2/acme/app/blobs/{config}", 202, ""),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_two_manifests_name_stays_for_the_second() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(6);
    client.push_image("acme/app", "v1", &image).await;
    let mut body: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    body["annotations"] = serde_json::json!({"turn": "2"});
    let second = Manifest::new(&image.manifest.media_type, &body);
    let pushed = client.put_manifest("acme/app", "v2", &second).await;
    pushed.expect(201);
    let words = [
        ("first", image.manifest.digest.as_str()),
        ("second", &second.digest),
        ("layer", &image.layers[0].digest),
    ];
    exchange(
        &client,
        &words,
        &[
            ("DELETE /v2/acme/app/manifests/{first}", 202, ""),
            ("DELETE /v2/acme/app/blobs/{layer}", 405, "DENIED"),
            ("GET /v2/acme/app/blobs/{layer}", 200, ""),
            ("DELETE /v2/acme/app/manifests/{second}", 202, ""),
            ("DELETE /v2/acme/app/blobs/{layer}", 202, ""),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_only_an_upstream_has_is_not_deleted() {
    let upstream = FakeUpstream::start().await;
    let image = Image::small(7);
    upstream.add_image("acme/app", "v1", &image);
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let registry = builder.start().await;
    let client = registry.client();
    let (manifest, layer) = (&image.manifest.digest, &image.layers[0].digest);
    for turn in ["not cached", "cached"] {
        for (rest, code) in [
            ("manifests/v1".to_owned(), "MANIFEST_UNKNOWN"),
            (format!("manifests/{manifest}"), "MANIFEST_UNKNOWN"),
            (format!("blobs/{layer}"), "BLOB_UNKNOWN"),
        ] {
            let path = format!("/v2/quay.io/acme/app/{rest}");
            let refused = client.delete(&path).answer().await.refused(404, code);
            let message = refused.message();
            assert!(message.contains("nothing local to delete"), "{message}");
            assert!(message.contains("quay.io"), "{turn}: {message}");
        }
        client.pull_image("quay.io/acme/app", "v1", &image).await;
    }
    let writes = |r: &String| !r.starts_with("GET ") && !r.starts_with("HEAD ");
    assert!(!upstream.requests().iter().any(writes));
}

#[tokio::test]
async fn deleting_uncovers_what_the_upstream_has() {
    let upstream = FakeUpstream::start().await;
    let (remote, local) = (Image::small(8), Image::small(9));
    upstream.add_image("acme/app", "v1", &remote);
    upstream.add_image("acme/app", "v2", &remote);
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let registry = builder.start().await;
    let client = registry.client();
    for (tag, by) in [("v1", "v1"), ("v2", local.manifest.digest.as_str())] {
        client.push_image("quay.io/acme/app", tag, &local).await;
        client.pull_image("quay.io/acme/app", tag, &local).await;
        let path = format!("/v2/quay.io/acme/app/manifests/{by}");
        client.delete(&path).answer().await.expect(202);
        client.pull_image("quay.io/acme/app", tag, &remote).await;
    }
    assert_eq!(client.tags("quay.io/acme/app").await, ["v1", "v2"]);
}

/// Asks for a mount; what it is answered.
async fn mount(client: &Client, to: &str, digest: &str, more: &str) -> u16 {
    let path = format!("/v2/{to}/blobs/uploads/?mount={digest}{more}");
    let answer = client.post(&path).answer().await;
    let ns = path.split("&ns=").nth(1);
    let location = answer.header("location").to_owned();
    match answer.status {
        201 => {
            assert_eq!(answer.header("docker-content-digest"), digest);
            assert!(location.starts_with(&format!("/v2/{to}/blobs/{digest}")));
        }
        // The session is one that works.
        202 => {
            assert!(location.starts_with(&format!("/v2/{to}/blobs/uploads/")));
            client.delete(&location).answer().await.expect(204);
        }
        _ => panic!("{answer:?}"),
    }
    assert_eq!(location.contains("ns="), ns.is_some(), "{location}");
    answer.status
}

#[tokio::test]
async fn a_mount_from_a_repository_that_has_it_and_from_one_that_has_not() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(10);
    let lone = Blob::random(11, 1000);
    client.push_image("acme/app", "v1", &image).await;
    client.push_blob("acme/app", &lone).await;
    client.push_blob("quay.io/acme/app", &lone).await;
    client.push_blob("acme/away", &lone).await;
    let away = format!("/v2/acme/away/blobs/{}", lone.digest);
    client.delete(&away).answer().await.expect(202);
    let (layer, lone) = (&image.layers[0].digest, &lone.digest);
    let nobodys = &sha256(b"nobody pushed this");
    let before = registry.store().blobs();
    for (to, digest, more, status) in [
        ("acme/a", lone, "&from=acme/app", 201),
        ("acme/b", layer, "&from=acme/app", 201),
        ("acme/c", lone, "&from=acme/a", 201),
        ("acme/d", lone, "&from=docker.io/acme/app", 201),
        ("acme/e", lone, "&from=quay.io/acme/app", 201),
        ("quay.io/acme/f", layer, "&from=acme/app", 201),
        ("acme/g", lone, "&from=acme/app&ns=quay.io", 201),
        // It is in our store, and not that repository's.
        ("acme/h", layer, "&from=acme/app&ns=quay.io", 202),
        ("acme/h", layer, "&from=quay.io/acme/app", 202),
        ("acme/h", lone, "&from=acme/away", 202),
        ("acme/h", lone, "&from=acme/nowhere", 202),
        ("acme/h", lone, "&from=registry.example.com/a", 202),
        ("acme/h", lone, "&from=Not/A/Name", 202),
        ("acme/h", lone, "&from=..%2f..%2fetc", 202),
        ("acme/h", nobodys, "&from=acme/app", 202),
        // Without a source any repository will do.
        ("acme/i", lone, "", 201),
        ("acme/j", layer, "&from=", 201),
        ("acme/k", nobodys, "", 202),
        // A repository that has it already.
        ("acme/app", lone, "&from=acme/nowhere", 202),
        ("acme/app", lone, "&from=acme/app", 201),
    ] {
        let ns = more.split("&ns=").nth(1);
        let ns = ns.map(|ns| format!("?ns={ns}")).unwrap_or_default();
        let path = format!("/v2/{to}/blobs/{digest}{ns}");
        let had = client.head(&path).answer().await.status;
        let row = format!("{to} {more}");
        assert_eq!(mount(&client, to, digest, more).await, status, "{row}");
        let now = if status == 201 { 200 } else { had };
        let answer = client.get(&path).answer().await;
        assert_eq!(answer.status, now, "{row}");
        if now == 200 {
            assert_eq!(&sha256(&answer.body), digest, "{row}");
        }
    }
    assert_eq!(registry.store().blobs(), before, "content is there once");
    let bad = client.post("/v2/acme/app/blobs/uploads/?mount=sha256:abc&from=acme/app");
    bad.answer().await.expect(202);
}

#[tokio::test]
async fn a_mounted_blob_is_its_new_repositorys_own() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(12);
    client.push_image("acme/app", "v1", &image).await;
    for blob in image.blobs() {
        let status = mount(&client, "acme/copy", &blob.digest, "&from=acme/app").await;
        assert_eq!(status, 201);
    }
    let pushed = client.put_manifest("acme/copy", "v1", &image.manifest);
    pushed.await.expect(201);
    let path = format!("/v2/acme/app/manifests/{}", image.manifest.digest);
    client.delete(&path).answer().await.expect(202);
    for blob in image.blobs() {
        let path = format!("/v2/acme/app/blobs/{}", blob.digest);
        client.delete(&path).answer().await.expect(202);
    }
    client.pull_image("acme/copy", "v1", &image).await;
    let registry = registry.restart().await;
    let client = registry.client();
    client.pull_image("acme/copy", "v1", &image).await;
    registry.store().assert_sound();
}

#[tokio::test]
async fn a_mount_from_an_upstream_is_a_promise_that_is_kept_in_the_background() {
    let (quay, hub) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let blob = Blob::random(13, 100_000);
    quay.add_blob("acme/app", &blob.digest, blob.bytes.clone());
    let upstream_path = format!("/v2/acme/app/blobs/{}", blob.digest);
    let gate = Gate::new();
    let gated = Reply::Gated {
        before: 1000,
        gate: gate.clone(),
    };
    quay.script("GET", &upstream_path, [gated]);
    let registry = TestRegistry::builder()
        .registry("quay.io", &quay.url())
        .registry("docker.io", &hub.url())
        .start()
        .await;
    let client = registry.client();
    let status = mount(&client, "acme/mine", &blob.digest, "&from=quay.io/acme/app").await;
    assert_eq!(status, 201);
    assert_eq!(quay.count("HEAD", &upstream_path), 1);
    // Nobody has asked for its bytes, and they come.
    gate.reached().await;
    let path = format!("/v2/acme/mine/blobs/{}", blob.digest);
    let early = client.get(&path).send().await.unwrap();
    assert_eq!(early.status(), 200);
    assert!(!registry.store().blobs().contains(&blob.digest));
    gate.open();
    assert_eq!(early.bytes().await.unwrap(), blob.bytes);
    eventually("the blob is kept", || async {
        registry.store().blobs().contains(&blob.digest)
    })
    .await;
    let got = client.get_blob("acme/mine", &blob.digest).await.expect(200);
    assert_eq!(got.body, blob.bytes);
    assert_eq!(quay.count("GET", &upstream_path), 1);
    assert_eq!(hub.requests(), [""; 0]);
}

#[tokio::test]
async fn a_mount_from_an_upstream_that_has_it_not_or_fails_is_an_upload() {
    let upstream = FakeUpstream::start().await;
    let blob = Blob::random(14, 1000);
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let registry = builder.start().await;
    let client = registry.client();
    for reply in [
        None,
        Some(Reply::Status(401)),
        Some(Reply::Status(404)),
        Some(Reply::Status(500)),
    ] {
        if let Some(reply) = reply {
            upstream.fail(reply);
        }
        for more in ["&from=quay.io/acme/app", ""] {
            let status = mount(&client, "acme/mine", &blob.digest, more).await;
            assert_eq!(status, 202, "{more}");
        }
        client
            .head_blob("acme/mine", &blob.digest)
            .await
            .expect(404);
    }
    // The session that stands in for the mount takes the blob.
    let path = format!(
        "/v2/acme/mine/blobs/uploads/?mount={}&from=quay.io/acme/app",
        blob.digest
    );
    let session = client.post(&path).answer().await.expect(202);
    let put = client.put(&finish(session.header("location"), &blob.digest));
    put.body(blob.bytes.clone()).answer().await.expect(201);
}
