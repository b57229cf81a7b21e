//! What a push may say besides: `?tag=`, sha512 wherever sha256 is, and manifests whose content is not here.

use serde_json::{Value, json};

use crate::support::{
    Client, Exchange, TestRegistry,
    client::finish,
    image::{Blob, Image, Manifest, OCI_INDEX, OCI_MANIFEST, index, random_bytes, sha256, sha512},
    table::{exchange, pages},
};

#[tokio::test]
async fn a_manifest_by_digest_with_its_tags() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(1);
    for blob in image.blobs() {
        client.push_blob("acme/app", blob).await;
    }
    let digests = [image.manifest.digest.clone(), sha512(&image.manifest.bytes)];
    for (turn, digest) in digests.iter().enumerate() {
        let (a, b) = (format!("a{turn}"), format!("b.{turn}"));
        let reference = format!("{digest}?tag={a}&tag={b}");
        let pushed = client.put_manifest("acme/app", &reference, &image.manifest);
        let pushed = pushed.await.expect(201);
        assert_eq!(pushed.header("docker-content-digest"), digest);
        let tags: Vec<&str> = pushed
            .headers
            .get_all("oci-tag")
            .iter()
            .flat_map(|line| line.to_str().unwrap().split(',').map(str::trim))
            .collect();
        assert_eq!(tags, [&a, &b]);
        for tag in [&a, &b] {
            let head = client.head_manifest("acme/app", tag).await.expect(200);
            assert_eq!(head.header("docker-content-digest"), digest, "{tag}");
        }
        // A tag that is named is moved.
        let other = Image::small(2 + turn as u64);
        for blob in other.blobs() {
            client.push_blob("acme/app", blob).await;
        }
        let moved = format!("{}?tag={a}", other.manifest.digest);
        let pushed = client.put_manifest("acme/app", &moved, &other.manifest);
        pushed.await.expect(201);
        client.pull_image("acme/app", &a, &other).await;
        client.pull_image("acme/app", &b, &image).await;
    }
    assert_eq!(client.tags("acme/app").await, ["a0", "a1", "b.0", "b.1"]);
}

#[tokio::test]
async fn one_tag_that_is_none_refuses_all() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(3);
    for blob in image.blobs() {
        client.push_blob("acme/app", blob).await;
    }
    let before = registry.store().visible();
    let too_long = "a".repeat(129);
    for bad in ["", "-a", ".a", "a%2Fb", "a%20b", "a,b", &too_long] {
        for query in [
            format!("tag={bad}"),
            format!("tag=good&tag={bad}"),
            format!("tag={bad}&tag=good"),
        ] {
            let reference = format!("{}?{query}", image.manifest.digest);
            let refused = client.put_manifest("acme/app", &reference, &image.manifest);
            refused.await.refused(400, "MANIFEST_INVALID");
            assert_eq!(registry.store().visible(), before, "{query}");
        }
    }
    let good = client.head_manifest("acme/app", "good").await;
    good.expect(404);
}

/// An image whose every digest is sha512.
fn long_image(seed: u64) -> (Vec<Blob>, Manifest) {
    let blobs: Vec<Blob> = (0..2)
        .map(|at| {
            let bytes = random_bytes(seed * 10 + at, 500);
            let digest = sha512(&bytes);
            Blob { digest, bytes }
        })
        .collect();
    let body = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": blobs[0].descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [blobs[1].descriptor("application/vnd.oci.image.layer.v1.tar")],
    });
    let mut manifest = Manifest::new(OCI_MANIFEST, &body);
    manifest.digest = sha512(&manifest.bytes);
    (blobs, manifest)
}

async fn push_by_query(client: &Client, blob: &Blob, query: &str) {
    let path = format!("/v2/acme/app/blobs/uploads/{query}");
    let opened = client.post(&path).answer().await.expect(202);
    let put = client.put(&finish(opened.header("location"), &blob.digest));
    let done = put.body(blob.bytes.clone()).answer().await.expect(201);
    assert_eq!(done.header("docker-content-digest"), blob.digest);
    let location = done.header("location");
    assert_eq!(client.get(location).answer().await.body, blob.bytes);
}

#[tokio::test]
async fn sha512_from_end_to_end() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let (blobs, manifest) = long_image(4);
    push_by_query(&client, &blobs[0], "?digest-algorithm=sha512").await;
    push_by_query(&client, &blobs[1], "").await;
    // Said one, done the other.
    push_by_query(&client, &Blob::random(5, 100), "?digest-algorithm=sha512").await;
    let (at_once, _) = long_image(6);
    let path = format!("/v2/acme/app/blobs/uploads/?digest={}", at_once[0].digest);
    let post = client.post(&path).body(at_once[0].bytes.clone());
    post.answer().await.expect(201);
    client.push_blob("acme/app", &at_once[1]).await;

    let tagged = format!("{}?tag=long", manifest.digest);
    let pushed = client.put_manifest("acme/app", &tagged, &manifest).await;
    pushed.expect(201);
    let children = Manifest {
        digest: manifest.digest.clone(),
        ..manifest.clone()
    };
    let all = index(OCI_INDEX, &[&children]);
    client
        .put_manifest("acme/app", "all", &all)
        .await
        .expect(201);

    let subject = Manifest {
        digest: sha512(b"nobody pushed this"),
        ..manifest.clone()
    };
    let mut about: Value = serde_json::from_slice(&manifest.bytes).unwrap();
    about["subject"] = subject.descriptor();
    about["artifactType"] = "application/vnd.acme.sbom".into();
    let mut about = Manifest::new(OCI_MANIFEST, &about);
    about.digest = sha512(&about.bytes);
    let pushed = client.put_manifest("acme/app", &about.digest, &about).await;
    assert_eq!(pushed.expect(201).header("oci-subject"), subject.digest);
    let path = format!("/v2/acme/app/referrers/{}?n=1", subject.digest);
    let found = pages(&client, &path, "manifests").await.concat();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["digest"], about.digest);

    let registry = registry.restart().await;
    let client = registry.client();
    for reference in ["long", &manifest.digest] {
        let pulled = client.get_manifest("acme/app", reference).await.expect(200);
        assert_eq!(pulled.header("docker-content-digest"), manifest.digest);
        assert_eq!(pulled.header("etag"), format!("\"{}\"", manifest.digest));
        assert_eq!(pulled.body, manifest.bytes);
    }
    // The same bytes under another algorithm are another content, that nobody pushed.
    let short = sha256(&manifest.bytes);
    let other = client.get_manifest("acme/app", &short).await;
    other.refused(404, "MANIFEST_UNKNOWN");
    let words = [
        ("layer", blobs[1].digest.as_str()),
        ("manifest", &manifest.digest),
        ("about", &about.digest),
    ];
    exchange(
        &client,
        &words,
        &[
            (
                "POST /v2/acme/copy/blobs/uploads/?mount={layer}&from=acme/app",
                201,
                "",
            ),
            ("HEAD /v2/acme/copy/blobs/{layer}", 200, ""),
            ("DELETE /v2/acme/app/blobs/{layer}", 405, "DENIED"),
            ("DELETE /v2/acme/app/manifests/{manifest}", 202, ""),
            ("GET /v2/acme/app/manifests/long", 404, "MANIFEST_UNKNOWN"),
            ("DELETE /v2/acme/app/manifests/{about}", 202, ""),
            ("DELETE /v2/acme/app/blobs/{layer}", 202, ""),
            ("GET /v2/acme/app/blobs/{layer}", 404, "BLOB_UNKNOWN"),
            ("GET /v2/acme/copy/blobs/{layer}", 200, ""),
        ],
    )
    .await;
    registry.store().assert_sound();
}

#[tokio::test]
async fn a_wrong_sha512_is_refused() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let (blobs, manifest) = long_image(7);
    let wrong = sha512(b"something else");
    let session = client.start_upload("acme/app").await;
    let put = client.put(&finish(&session, &wrong));
    let refused = put.body(blobs[0].bytes.clone()).answer().await;
    refused.refused(400, "DIGEST_INVALID");
    let refused = client.put_manifest("acme/app", &wrong, &manifest).await;
    refused.refused(400, "DIGEST_INVALID");
    for bad in ["sha512:abc", &format!("sha512:{}", "A".repeat(128))] {
        let refused = client.get_blob("acme/app", bad).await;
        refused.refused(400, "DIGEST_INVALID");
    }
}

#[tokio::test]
async fn a_sparse_manifest_is_taken_where_that_is_allowed() {
    let image = Image::small(8);
    let all = index(OCI_INDEX, &[&image.manifest, &Image::small(9).manifest]);
    for allowed in [false, true] {
        let builder = TestRegistry::builder();
        let builder = if allowed {
            builder.args(["--allow-sparse", "--offline"])
        } else {
            builder
        };
        let registry = builder.start().await;
        let client = registry.client();
        client.push_blob("acme/app", &image.config).await;
        for (tag, manifest, missing) in [
            ("v1", &image.manifest, vec![image.layers[0].digest.clone()]),
            (
                "all",
                &all,
                vec![
                    image.manifest.digest.clone(),
                    Image::small(9).manifest.digest,
                ],
            ),
        ] {
            let pushed = client.put_manifest("acme/sparse", tag, manifest).await;
            if allowed {
                pushed.expect(201);
                let pulled = client.get_manifest("acme/sparse", tag).await.expect(200);
                assert_eq!(pulled.body, manifest.bytes);
            } else {
                let refused = pushed.refused(400, "MANIFEST_BLOB_UNKNOWN");
                for digest in &missing {
                    // docker shows its user nothing but the message.
                    assert!(refused.message().contains(digest), "{refused:?}");
                }
                let unknown = client.get_manifest("acme/sparse", tag).await;
                unknown.refused(404, "MANIFEST_UNKNOWN");
            }
        }
        // What is not here is not there, until somebody pushes it.
        let layer = &image.layers[0];
        client
            .head_blob("acme/sparse", &layer.digest)
            .await
            .expect(404);
        let unknown = client.get_blob("acme/sparse", &layer.digest).await;
        unknown.refused(404, "BLOB_UNKNOWN");
        if allowed {
            client.push_blob("acme/sparse", layer).await;
            client.pull_image("acme/sparse", "v1", &image).await;
        }
    }
}

#[tokio::test]
async fn to_name_a_digest_in_a_sparse_manifest_opens_nothing() {
    let registry = TestRegistry::builder()
        .args(["--allow-sparse", "--offline"])
        .start()
        .await;
    let client = registry.client();
    let theirs = Image::small(31);
    let pushed = client
        .put_manifest("team-a/y", "v1", &theirs.manifest)
        .await;
    pushed.expect(201);
    // Nor does it to name what names it.
    let listed = index(OCI_INDEX, &[&theirs.manifest]);
    let pushed = client.put_manifest("team-a/z", "all", &listed).await;
    pushed.expect(201);
    client.push_image("team-b/x", "v1", &theirs).await;
    for blob in theirs.blobs() {
        for name in ["team-a/y", "team-a/z"] {
            let head = client.head_blob(name, &blob.digest).await;
            head.expect(404);
            let stolen = client.get_blob(name, &blob.digest).await;
            stolen.refused(404, "BLOB_UNKNOWN");
        }
    }
}
