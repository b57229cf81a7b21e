//! Referrers: what is about a manifest, local and upstream in one (end-12), and `OCI-Subject` of a push (end-7).

use serde_json::{Value, json};

use crate::support::{
    Client, Exchange, FakeUpstream, Reply, TestRegistry,
    image::{Blob, Image, Manifest, OCI_INDEX, OCI_MANIFEST},
    table::{exchange, pages},
};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const SBOM: &str = "application/vnd.acme.sbom+json";
const SIGNATURE: &str = "application/vnd.acme.signature";

/// An artifact of the given type about `subject`; differs for every `turn`.
fn about(subject: &Manifest, artifact_type: &str, turn: u32) -> Manifest {
    let empty = Blob::new("{}");
    let body = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": empty.descriptor(EMPTY),
        "layers": [empty.descriptor(EMPTY)],
        "subject": subject.descriptor(),
        "annotations": {"turn": turn.to_string()},
    });
    Manifest::new(OCI_MANIFEST, &body)
}

/// The artifact as a listing shows it.
fn listed(artifact: &Manifest, artifact_type: &str) -> Value {
    let body: Value = serde_json::from_slice(&artifact.bytes).unwrap();
    let mut descriptor = artifact.descriptor();
    descriptor["artifactType"] = artifact_type.into();
    descriptor["annotations"] = body["annotations"].clone();
    descriptor
}

fn by_digest(mut descriptors: Vec<Value>) -> Vec<Value> {
    descriptors.sort_by_key(|descriptor| descriptor["digest"].as_str().unwrap().to_owned());
    descriptors
}

async fn push_artifact(client: &Client, name: &str, subject: &Manifest, artifact: &Manifest) {
    client.push_blob(name, &Blob::new("{}")).await;
    let pushed = client.put_manifest(name, &artifact.digest, artifact).await;
    let pushed = pushed.expect(201);
    assert_eq!(pushed.header("oci-subject"), subject.digest);
}

fn path(name: &str, subject: &Manifest) -> String {
    format!("/v2/{name}/referrers/{}", subject.digest)
}

#[tokio::test]
async fn what_is_about_a_manifest_by_type_and_in_pages() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(1);
    // The subject may come after what is about it, or never.
    let mut all = Vec::new();
    for turn in 0..5 {
        let kind = if turn < 3 { SBOM } else { SIGNATURE };
        let artifact = about(&image.manifest, kind, turn);
        push_artifact(&client, "acme/app", &image.manifest, &artifact).await;
        all.push(listed(&artifact, kind));
    }
    client.push_image("acme/app", "v1", &image).await;
    let all = by_digest(all);
    let path = path("acme/app", &image.manifest);
    let answer = client.get(&path).answer().await.expect(200);
    assert_eq!(answer.header("content-type"), OCI_INDEX);
    let index = answer.json();
    assert_eq!(index["schemaVersion"], 2);
    assert_eq!(index["mediaType"], OCI_INDEX);
    assert_eq!(index["manifests"], json!(all));
    assert!(!answer.headers.contains_key("oci-filters-applied"));

    for (artifact_type, spelled) in [
        (SBOM, "application%2Fvnd.acme.sbom%2Bjson"),
        (SIGNATURE, SIGNATURE),
        ("application/nothing", "application/nothing"),
    ] {
        let wanted: Vec<Value> = all
            .iter()
            .filter(|descriptor| descriptor["artifactType"] == artifact_type)
            .cloned()
            .collect();
        let filtered = format!("{path}?artifactType={spelled}");
        let answer = client.get(&filtered).answer().await.expect(200);
        assert_eq!(answer.header("oci-filters-applied"), "artifactType");
        assert_eq!(answer.json()["manifests"], json!(wanted), "{artifact_type}");
        for n in [1, 2, 5] {
            let filtered = format!("{filtered}&n={n}");
            let pages = pages(&client, &filtered, "manifests").await;
            assert!(pages.iter().all(|page| page.len() <= n), "{pages:?}");
            assert_eq!(pages.concat(), wanted, "{filtered}");
        }
    }
    for n in 1..7 {
        let pages = pages(&client, &format!("{path}?n={n}"), "manifests").await;
        assert_eq!(pages.len(), all.len().div_ceil(n), "n={n}");
        assert_eq!(pages.concat(), all, "n={n}");
    }
    let registry = registry.restart().await;
    let answer = registry.client().get(&path).answer().await.expect(200);
    assert_eq!(answer.json()["manifests"], json!(all));
}

#[tokio::test]
async fn the_type_is_the_configs_where_there_is_no_other() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(2);
    let mut body: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    body["subject"] = Image::small(3).manifest.descriptor();
    let subject = Image::small(3).manifest;
    let artifact = Manifest::new(OCI_MANIFEST, &body);
    for blob in image.blobs() {
        client.push_blob("acme/app", blob).await;
    }
    push_artifact(&client, "acme/app", &subject, &artifact).await;
    // An index can be about something, too.
    let body = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "artifactType": SBOM,
        "manifests": [],
        "subject": subject.descriptor(),
    });
    let index = Manifest::new(OCI_INDEX, &body);
    push_artifact(&client, "acme/app", &subject, &index).await;
    let answer = client.get(&path("acme/app", &subject)).answer().await;
    let found = answer.expect(200).json()["manifests"].clone();
    for (artifact, kind) in [
        (&artifact, "application/vnd.oci.image.config.v1+json"),
        (&index, SBOM),
    ] {
        let descriptor = found.as_array().unwrap().iter();
        let mut descriptor = descriptor.filter(|found| found["digest"] == artifact.digest);
        let descriptor = descriptor.next().unwrap();
        assert_eq!(descriptor["artifactType"], kind, "{found}");
        assert_eq!(descriptor["mediaType"], artifact.media_type, "{found}");
        assert_eq!(descriptor["size"], artifact.bytes.len(), "{found}");
    }
}

#[tokio::test]
async fn nothing_is_about_what_nobody_has() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(4);
    client.push_image("acme/app", "v1", &image).await;
    for name in ["acme/app", "acme/nowhere", "quay.io/acme/nowhere"] {
        for query in ["", "?n=1", "?n=0", "?artifactType=a%2Fb"] {
            let path = format!("{}{query}", path(name, &image.manifest));
            let answer = client.get(&path).answer().await.expect(200);
            assert_eq!(answer.header("content-type"), OCI_INDEX, "{path}");
            assert_eq!(answer.json()["manifests"], json!([]), "{path}");
            assert!(!answer.headers.contains_key("link"), "{path}");
        }
    }
    exchange(
        &client,
        &[],
        &[
            (
                "GET /v2/acme/app/referrers/sha256:abc",
                400,
                "DIGEST_INVALID",
            ),
            ("GET /v2/acme/app/referrers/latest", 400, "DIGEST_INVALID"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_referrer_goes_with_its_manifest() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(5);
    client.push_image("acme/app", "v1", &image).await;
    let (gone, stays) = (
        about(&image.manifest, SBOM, 1),
        about(&image.manifest, SBOM, 2),
    );
    for artifact in [&gone, &stays] {
        push_artifact(&client, "acme/app", &image.manifest, artifact).await;
    }
    let referrers = path("acme/app", &image.manifest);
    for (deleted, left) in [(&gone, vec![listed(&stays, SBOM)]), (&stays, vec![])] {
        let path = format!("/v2/acme/app/manifests/{}", deleted.digest);
        client.delete(&path).answer().await.expect(202);
        let answer = client.get(&referrers).answer().await.expect(200);
        assert_eq!(answer.json()["manifests"], json!(left));
    }
    // What is about a manifest that is deleted stays.
    push_artifact(&client, "acme/app", &image.manifest, &stays).await;
    let subject = format!("/v2/acme/app/manifests/{}", image.manifest.digest);
    client.delete(&subject).answer().await.expect(202);
    let answer = client.get(&referrers).answer().await.expect(200);
    assert_eq!(answer.json()["manifests"], json!([listed(&stays, SBOM)]));
}

#[tokio::test]
async fn the_union_with_an_upstreams_listing_and_with_its_fallback_tag() {
    let image = Image::small(6);
    let (local, remote, shared) = (
        about(&image.manifest, SBOM, 1),
        about(&image.manifest, SIGNATURE, 2),
        about(&image.manifest, SBOM, 3),
    );
    let theirs = [listed(&remote, SIGNATURE), listed(&shared, SBOM)];
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": theirs});
    let all = by_digest(vec![
        listed(&local, SBOM),
        listed(&remote, SIGNATURE),
        listed(&shared, SBOM),
    ]);
    for api in [true, false] {
        let upstream = FakeUpstream::start().await;
        if api {
            upstream.add_answer(&path("acme/app", &image.manifest), OCI_INDEX, &index);
        } else {
            let tag = image.manifest.digest.replace(':', "-");
            upstream.add_manifest("acme/app", &tag, &Manifest::new(OCI_INDEX, &index));
        }
        let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
        let registry = builder.start().await;
        let client = registry.client();
        for artifact in [&local, &shared] {
            push_artifact(&client, "quay.io/acme/app", &image.manifest, artifact).await;
        }
        let path = path("quay.io/acme/app", &image.manifest);
        for n in [1, 2, 3, 9] {
            let pages = pages(&client, &format!("{path}?n={n}"), "manifests").await;
            assert_eq!(pages.concat(), all, "n={n}, api: {api}");
        }
        let filtered = format!("{path}?artifactType={SIGNATURE}");
        let answer = client.get(&filtered).answer().await.expect(200);
        let expected = json!([listed(&remote, SIGNATURE)]);
        assert_eq!(answer.json()["manifests"], expected, "api: {api}");

        upstream.fail(Reply::Status(503));
        let answer = client.get(&path).answer().await.expect(200);
        let warning = answer.header("warning");
        assert!(warning.starts_with("299 - \""), "{warning}");
        let found = answer.json()["manifests"].clone();
        let own = listed(&local, SBOM);
        assert!(found.as_array().unwrap().contains(&own), "{found}");
    }
}
