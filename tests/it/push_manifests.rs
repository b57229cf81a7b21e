//! Pushing manifests: every kind, and what one that names missing or wrong content is told (end-7).

use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::support::{
    Answer, Client, Exchange, TestRegistry,
    image::{
        Blob, DOCKER_LIST, DOCKER_MANIFEST, Image, ImageBuilder, Manifest, OCI_INDEX, OCI_MANIFEST,
        index, random_bytes, sha512,
    },
};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn every_kind_by_tag_and_by_digest() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let oci = Image::small(1);
    let docker = ImageBuilder::new(2).docker().layer(1000).build();
    for image in [&oci, &docker] {
        for blob in image.blobs() {
            client.push_blob("acme/app", blob).await;
        }
    }
    let children = [&oci.manifest, &docker.manifest];
    let kinds = [
        ("oci", oci.manifest.clone()),
        ("docker", docker.manifest.clone()),
        ("index", index(OCI_INDEX, &children)),
        ("list", index(DOCKER_LIST, &children)),
    ];
    for (tag, manifest) in &kinds {
        for reference in [*tag, &manifest.digest] {
            let pushed = client.put_manifest("acme/app", reference, manifest).await;
            let pushed = pushed.expect(201);
            assert_eq!(pushed.header("docker-content-digest"), manifest.digest);
            let location = pushed.header("location");
            let there = client.get(location).answer().await.expect(200);
            assert_eq!(there.body, manifest.bytes, "{location}");

            let pulled = client.get_manifest("acme/app", reference).await.expect(200);
            assert_eq!(pulled.header("content-type"), manifest.media_type);
            assert_eq!(pulled.header("docker-content-digest"), manifest.digest);
            assert_eq!(pulled.body, manifest.bytes);
        }
    }
    assert_eq!(
        client.tags("acme/app").await,
        ["docker", "index", "list", "oci"]
    );
}

#[tokio::test]
async fn the_type_of_a_manifest_is_its_own_word_else_the_header_else_its_fields() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(3);
    for blob in image.blobs() {
        client.push_blob("acme/app", blob).await;
    }
    let with = parsed(&image.manifest);
    let mut without = with.clone();
    without.as_object_mut().unwrap().remove("mediaType");
    let rows = [
        // body, header, stored type
        (&with, Some("application/json"), OCI_MANIFEST),
        (&with, Some("text/plain; charset=utf-8"), OCI_MANIFEST),
        (&with, None, OCI_MANIFEST),
        (&without, Some(OCI_MANIFEST), OCI_MANIFEST),
        (&without, Some(DOCKER_MANIFEST), DOCKER_MANIFEST),
        (&without, Some("application/json"), OCI_MANIFEST),
        (&without, None, OCI_MANIFEST),
    ];
    for (body, header, stored) in rows {
        let mut put = client.put("/v2/acme/app/manifests/latest");
        if let Some(header) = header {
            put = put.header(CONTENT_TYPE, header);
        }
        put.body(body.to_string()).answer().await.expect(201);
        let pulled = client.get_manifest("acme/app", "latest").await.expect(200);
        assert_eq!(pulled.header("content-type"), stored, "{header:?} {body}");
    }
}

#[tokio::test]
async fn a_type_nobody_knows_is_stored_as_it_is() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let kind = "application/vnd.acme.bundle.v7+json";
    let manifest = Manifest::new(kind, &json!({"mediaType": kind, "anything": [1, 2, 3]}));
    let pushed = client.put_manifest("acme/app", "v7", &manifest).await;
    pushed.expect(201);
    let pulled = client.get_manifest("acme/app", "v7").await.expect(200);
    assert_eq!(pulled.header("content-type"), kind);
    assert_eq!(pulled.body, manifest.bytes);
}

#[tokio::test]
async fn an_unusual_artifact_is_an_oci_manifest_too() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let empty = Blob::new("{}");
    client.push_blob("acme/sbom", &empty).await;
    // `subject` need not be here.
    let manifest = Manifest::new(
        OCI_MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/vnd.acme.sbom",
            "config": empty.descriptor("application/vnd.oci.empty.v1+json"),
            "layers": [empty.descriptor("application/vnd.oci.empty.v1+json")],
            "subject": Blob::new("nowhere").descriptor(OCI_MANIFEST),
        }),
    );
    let pushed = client.put_manifest("acme/sbom", "v1", &manifest).await;
    pushed.expect(201);
}

#[tokio::test]
async fn a_layer_that_registries_need_not_hold_is_not_asked_for() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(4);
    client.push_blob("acme/windows", &image.config).await;
    for kind in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let mut body = parsed(&image.manifest);
        body["layers"][0]["mediaType"] = kind.into();
        let manifest = Manifest::new(OCI_MANIFEST, &body);
        let pushed = client.put_manifest("acme/windows", "v1", &manifest).await;
        pushed.expect(201);
    }
}

#[tokio::test]
async fn missing_blobs_are_all_named() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = ImageBuilder::new(5).layer(10).layer(20).layer(30).build();
    client.push_blob("acme/app", &image.layers[1]).await;
    let before = registry.store().visible();

    let refused = client.put_manifest("acme/app", "v1", &image.manifest).await;
    let refused = refused.refused(400, "MANIFEST_BLOB_UNKNOWN");
    // docker shows its user the message and nothing else.
    let message = refused.message();
    assert!(message.contains(&image.config.digest), "{message}");
    let said = String::from_utf8_lossy(&refused.body).into_owned();
    for missing in [&image.config, &image.layers[0], &image.layers[2]] {
        assert!(said.contains(&missing.digest), "{said}");
    }
    assert!(!said.contains(&image.layers[1].digest), "{said}");

    client.head_manifest("acme/app", "v1").await.expect(404);
    let by_digest = client.head_manifest("acme/app", &image.manifest.digest);
    by_digest.await.expect(404);
    assert_eq!(registry.store().visible(), before);

    // The same push succeeds once they are there.
    client.push_image("acme/app", "v1", &image).await;
}

#[tokio::test]
async fn missing_children_are_all_named() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let (here, absent, gone) = (Image::small(6), Image::small(7), Image::small(8));
    client.push_image("acme/app", "child", &here).await;
    let children = [&here.manifest, &absent.manifest, &gone.manifest];
    for kind in [OCI_INDEX, DOCKER_LIST] {
        let manifest = index(kind, &children);
        let refused = client.put_manifest("acme/app", "all", &manifest).await;
        let refused = refused.refused(400, "MANIFEST_BLOB_UNKNOWN");
        let said = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(said.contains(&absent.manifest.digest), "{said}");
        assert!(said.contains(&gone.manifest.digest), "{said}");
        assert!(!said.contains(&here.manifest.digest), "{said}");
    }
}

#[tokio::test]
async fn content_of_another_repository_is_taken_from_the_store() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(9);
    client.push_image("acme/app", "v1", &image).await;
    let pushed = client
        .put_manifest("acme/copy", "v1", &image.manifest)
        .await;
    pushed.expect(201);
    client.pull_image("acme/copy", "v1", &image).await;
}

#[tokio::test]
async fn sizes_must_agree() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(10);
    client.push_image("acme/app", "v1", &image).await;
    let child = &image.manifest;
    let cases: [(&Manifest, &str); 3] = [
        (&image.manifest, "/config/size"),
        (&image.manifest, "/layers/0/size"),
        (&index(OCI_INDEX, &[child]), "/manifests/0/size"),
    ];
    for (manifest, field) in cases {
        let mut body = parsed(manifest);
        let size = body.pointer_mut(field).unwrap();
        *size = (size.as_u64().unwrap() + 1).into();
        let wrong = Manifest::new(&manifest.media_type, &body);
        let refused = client.put_manifest("acme/app", "wrong", &wrong).await;
        let refused = refused.refused(400, "SIZE_INVALID");
        assert!(refused.message().contains("sha256:"), "{refused:?}");
    }
    client.head_manifest("acme/app", "wrong").await.expect(404);
}

#[tokio::test]
async fn the_limit_is_four_mebibytes() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let kind = "application/vnd.acme.large+json";
    let of_length = |length: usize| {
        let frame = Manifest::new(kind, &json!({"mediaType": kind, "padding": ""}));
        let padding = "x".repeat(length - frame.bytes.len());
        let manifest = Manifest::new(kind, &json!({"mediaType": kind, "padding": padding}));
        assert_eq!(manifest.bytes.len(), length);
        manifest
    };
    let largest = of_length(4 * MIB);
    let pushed = client.put_manifest("acme/app", "largest", &largest).await;
    pushed.expect(201);
    let pulled = client.get_manifest("acme/app", "largest").await.expect(200);
    assert!(pulled.body == largest.bytes);

    let over = of_length(4 * MIB + 1);
    let refused = client.put_manifest("acme/app", "over", &over).await;
    let refused = refused.expect(413);
    assert!(refused.message().contains("4"), "{refused:?}");
    client.head_manifest("acme/app", "over").await.expect(404);
}

#[tokio::test]
async fn what_is_no_manifest_is_refused() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(11);
    client.push_image("acme/app", "v1", &image).await;
    let before = registry.store().visible();
    let good = image.manifest.bytes.as_ref();
    let mut both = parsed(&image.manifest);
    both["manifests"] = json!([]);
    let mut digest = parsed(&image.manifest);
    digest["layers"][0]["digest"] = "sha256:../../../etc/passwd".into();
    let mut negative = parsed(&image.manifest);
    negative["config"]["size"] = (-1).into();
    let rows: [(&str, &str, &[u8]); 9] = [
        ("empty", OCI_MANIFEST, b""),
        ("no JSON", OCI_MANIFEST, b"a manifest"),
        ("cut short", OCI_MANIFEST, &good[..good.len() - 1]),
        ("an array", OCI_MANIFEST, b"[]"),
        ("no UTF-8", OCI_MANIFEST, b"{\"a\":\"\xff\"}"),
        ("body and header disagree", DOCKER_MANIFEST, good),
        ("image and index both", OCI_MANIFEST, &bytes(&both)),
        ("a digest that is none", OCI_MANIFEST, &bytes(&digest)),
        ("a negative size", OCI_MANIFEST, &bytes(&negative)),
    ];
    for (what, kind, body) in rows {
        let put = client.put("/v2/acme/app/manifests/bad");
        let put = put.header(CONTENT_TYPE, kind).body(body.to_vec());
        let answer = put.answer().await;
        assert_eq!(answer.status, 400, "{what}: {answer:?}");
        answer.refused(400, "MANIFEST_INVALID");
        assert_eq!(registry.store().visible(), before, "{what}");
    }
}

#[tokio::test]
async fn schema_1_is_refused() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let body =
        json!({"schemaVersion": 1, "name": "acme/app", "tag": "v1", "fsLayers": [], "history": []});
    for kind in [
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/json",
    ] {
        let manifest = Manifest::new(kind, &body);
        let refused = client.put_manifest("acme/app", "v1", &manifest).await;
        let refused = refused.refused(400, "MANIFEST_INVALID");
        assert!(refused.message().contains("schema 1"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_digest_in_the_path_must_be_the_bodys() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let (image, other) = (Image::small(12), Image::small(13));
    client.push_image("acme/app", "v1", &image).await;
    let before = registry.store().visible();
    let answer = client
        .put_manifest("acme/app", &other.manifest.digest, &image.manifest)
        .await;
    answer.refused(400, "DIGEST_INVALID");
    assert_eq!(registry.store().visible(), before);
}

#[tokio::test]
async fn a_manifest_by_sha512() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(14);
    client.push_image("acme/app", "v1", &image).await;
    let digest = sha512(&image.manifest.bytes);
    let pushed: Answer = client
        .put_manifest("acme/app", &digest, &image.manifest)
        .await;
    assert_eq!(pushed.expect(201).header("docker-content-digest"), digest);
    let pulled = client.get_manifest("acme/app", &digest).await.expect(200);
    assert_eq!(pulled.header("docker-content-digest"), digest);
    assert_eq!(pulled.body, image.manifest.bytes);
}

#[tokio::test]
async fn a_tag_moves_and_the_old_digest_stays() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let (old, new) = (Image::small(15), Image::small(16));
    client.push_image("acme/app", "latest", &old).await;
    client.push_image("acme/app", "latest", &new).await;
    client.pull_image("acme/app", "latest", &new).await;
    client
        .pull_image("acme/app", &old.manifest.digest, &old)
        .await;
    assert_eq!(client.tags("acme/app").await, ["latest"]);
}

#[tokio::test]
async fn an_index_of_buildkits_cache_names_blobs() {
    let registry = TestRegistry::start().await;
    let client: Client = registry.client();
    let layer = Blob::new(random_bytes(17, 500));
    let config = Blob::new("{\"layers\":[]}");
    let body = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            layer.descriptor("application/vnd.oci.image.layer.v1.tar+gzip"),
            config.descriptor("application/vnd.buildkit.cacheconfig.v0"),
        ],
    });
    let manifest = Manifest::new(OCI_INDEX, &body);
    let refused = client.put_manifest("acme/cache", "v1", &manifest).await;
    refused.refused(400, "MANIFEST_BLOB_UNKNOWN");
    client.push_blob("acme/cache", &layer).await;
    client.push_blob("acme/cache", &config).await;
    let pushed = client.put_manifest("acme/cache", "v1", &manifest).await;
    pushed.expect(201);
}

fn parsed(manifest: &Manifest) -> Value {
    serde_json::from_slice(&manifest.bytes).unwrap()
}

fn bytes(body: &Value) -> Vec<u8> {
    body.to_string().into_bytes()
}
