//! `standin export`: what a job hands to the next one.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::support::{
    TestRegistry, fixture,
    image::{Blob, Manifest, OCI_MANIFEST},
};

fn export(data: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_standin"))
        .arg("export")
        .args(["--offline", "--data", data.to_str().unwrap()])
        .args(args)
        .env_clear()
        .output()
        .unwrap()
}

fn done(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output, fragment: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(fragment), "{told}");
}

fn seeds() -> Vec<String> {
    let seed = |name: &str, to: &str| {
        let source = format!("oci:{}={to}", fixture(name).display());
        ["--seed".to_owned(), source]
    };
    [
        seed("hello", "acme/hello:1"),
        seed("multi", "quay.io/acme/multi:2"),
    ]
    .concat()
}

/// What is directly in a directory.
fn names(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_is_exported_is_seeded_with_the_same_names_and_digests() {
    let builder = TestRegistry::builder().args(seeds());
    let (data, place) = (builder.data(), tempfile::tempdir().unwrap());
    let first = builder.start().await;
    let digest = |client: crate::support::Client, name: &'static str, tag: &'static str| async move {
        let there = client.head_manifest(name, tag).await.expect(200);
        there.header("docker-content-digest").to_owned()
    };
    let hello = digest(first.client(), "acme/hello", "1").await;
    let multi = digest(first.client(), "quay.io/acme/multi", "2").await;
    let both = ["acme/hello:1", "quay.io/acme/multi:2"];
    // By the server while it runs, and from the directory afterwards.
    let url = format!("http://{}", first.address());
    let running = place.path().join("running");
    let told = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["export", "--from", &url, both[0], both[1]])
        .arg(format!("oci:{}", running.display()))
        .env_clear()
        .output()
        .unwrap();
    let told = done(&told);
    assert_eq!(
        told,
        format!("acme/hello:1 {hello}\nquay.io/acme/multi:2 {multi}\n")
    );
    let _kept = first.stop().await;
    let layout = place.path().join("layout");
    let to = format!("oci:{}", layout.display());
    done(&export(&data, &[both[0], &to]));
    done(&export(&data, &[both[1], &to]));
    done(&export(&data, &[both[0], &to]));
    let index = |of: &Path| -> Value {
        serde_json::from_slice(&fs::read(of.join("index.json")).unwrap()).unwrap()
    };
    assert_eq!(index(&layout)["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(names(&layout), ["blobs", "index.json", "oci-layout"]);
    for layout in [&running, &layout] {
        let seed = format!("oci:{}", layout.display());
        let second = TestRegistry::builder().args(["--seed".to_owned(), seed]);
        let second = second.start().await;
        assert_eq!(digest(second.client(), "acme/hello", "1").await, hello);
        assert_eq!(
            digest(second.client(), "quay.io/acme/multi", "2").await,
            multi
        );
    }
}

#[tokio::test]
async fn archives_depend_on_their_images_alone_and_docker_s_are_unpacked() {
    let builder = TestRegistry::builder().args(seeds());
    let (data, place) = (builder.data(), tempfile::tempdir().unwrap());
    let _kept = builder.start().await.stop().await;
    for transport in ["oci-archive", "docker-archive"] {
        let file = |nth: usize| place.path().join(format!("{transport}-{nth}.tar"));
        for nth in [1, 2] {
            let to = format!("{transport}:{}", file(nth).display());
            done(&export(&data, &["acme/hello:1", &to]));
        }
        assert_eq!(fs::read(file(1)).unwrap(), fs::read(file(2)).unwrap());
        let output = export(&data, &["acme/hello:1", &format!("{transport}:-")]);
        assert_eq!(done_bytes(&output), fs::read(file(1)).unwrap());
    }
    let listed = |args: &[&str]| {
        let output = Command::new("tar").args(args).output().unwrap();
        done(&output)
    };
    let docker = place.path().join("docker-archive-1.tar");
    let docker = docker.to_str().unwrap();
    let manifest: Value = serde_json::from_str(&listed(&["xOf", docker, "manifest.json"])).unwrap();
    assert_eq!(manifest[0]["RepoTags"][0], "docker.io/acme/hello:1");
    let layer = manifest[0]["Layers"][0].as_str().unwrap();
    assert!(layer.starts_with("d2ef864bbc67"), "{layer}");
    assert_eq!(names(place.path()).len(), 4);
}

fn done_bytes(output: &Output) -> Vec<u8> {
    assert!(output.status.success());
    output.stdout.clone()
}

#[tokio::test]
async fn what_can_not_be_exported_leaves_nothing() {
    let builder = TestRegistry::builder().args(seeds());
    let (data, place) = (builder.data(), tempfile::tempdir().unwrap());
    let registry = builder.start().await;
    // An image whose config is none.
    let (config, client) = (Blob::new("{}"), registry.client());
    client.push_blob("acme/odd", &config).await;
    let kind = "application/vnd.oci.empty.v1+json";
    let body = json!({"schemaVersion": 2, "config": config.descriptor(kind), "layers": []});
    let odd = Manifest::new(OCI_MANIFEST, &body);
    client.put_manifest("acme/odd", "1", &odd).await.expect(201);
    let _kept = registry.stop().await;
    let at = |name: &str| place.path().join(name).display().to_string();
    fs::create_dir(at("strange")).unwrap();
    fs::write(at("strange/file"), "mine").unwrap();
    fs::write(at("file"), "mine").unwrap();
    let before = names(place.path());
    for (image, to, fragment) in [
        ("acme/none:1", format!("oci:{}", at("new")), "acme/none"),
        (
            "acme/hello:2",
            format!("oci:{}", at("new")),
            "has no manifest 2",
        ),
        (
            "acme/hello:1",
            format!("oci:{}", at("strange")),
            "it is no OCI layout, but holds \"file\"",
        ),
        (
            "acme/hello:1",
            format!("oci:{}", at("file")),
            "no directory",
        ),
        (
            "acme/hello:1",
            format!("oci-archive:{}", at("strange")),
            "no file",
        ),
        (
            "acme/hello:1",
            format!("oci:{}", at("no/where")),
            "make its directory first",
        ),
        ("acme/hello:1", "somewhere".to_owned(), "oci:DIR[:TAG]"),
        (
            "acme/odd:1",
            format!("docker-archive:{}", at("new")),
            "no image that docker runs",
        ),
    ] {
        refused(&export(&data, &[image, &to]), fragment);
        assert_eq!(names(place.path()), before, "{to}");
    }
    let to = format!("docker-archive:{}", at("new"));
    let wrong = ["--platform", "linux/s390x", "quay.io/acme/multi:2", &to];
    refused(&export(&data, &wrong), "no image for linux/s390x; it has");
    assert_eq!(names(place.path()), before);
    assert_eq!(names(&place.path().join("strange")), ["file"]);
    refused(&export(place.path(), &["a", &to]), "no standin's content");
}
