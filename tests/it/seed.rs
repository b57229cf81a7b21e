//! `--seed`: images that are there before the first client.

mod names;

use serde_json::Value;

use crate::support::{
    FakeUpstream, TestRegistry, fixture,
    image::{OCI_INDEX, sha256},
};

/// The only manifest that a fixture's index.json names.
fn manifest_of(name: &str) -> (String, Vec<u8>) {
    let layout = fixture(name);
    let index = std::fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let hex = digest.strip_prefix("sha256:").unwrap();
    let bytes = std::fs::read(layout.join("blobs/sha256").join(hex)).unwrap();
    (digest.to_owned(), bytes)
}

fn source(name: &str) -> String {
    format!("oci:{}", fixture(name).display())
}

#[tokio::test]
async fn a_layout_is_named_after_its_directory_and_annotation() {
    let builder = TestRegistry::builder().args(["--seed".to_owned(), source("hello")]);
    let registry = builder.start().await;
    let client = registry.client();
    let (digest, bytes) = manifest_of("hello");
    for name in ["hello", "library/hello", "docker.io/library/hello"] {
        let pulled = client.get_manifest(name, "latest").await.expect(200);
        assert_eq!(pulled.header("docker-content-digest"), digest, "{name}");
        assert_eq!(pulled.body, bytes, "{name}");
        let manifest = pulled.json();
        for blob in [&manifest["config"], &manifest["layers"][0]] {
            let digest = blob["digest"].as_str().unwrap();
            let pulled = client.get_blob(name, digest).await.expect(200);
            assert_eq!(sha256(&pulled.body), digest);
        }
    }
    assert_eq!(client.tags("hello").await, ["latest"]);
    registry.store().assert_sound();
}

#[tokio::test]
async fn a_seed_may_choose_the_tag_and_the_name() {
    let rows = [
        (":latest", "hello", "latest"),
        ("=acme/app", "acme/app", "latest"),
        ("=acme/app:v1", "acme/app", "v1"),
        (":latest=quay.io/acme/app:v2", "quay.io/acme/app", "v2"),
    ];
    let mut builder = TestRegistry::builder();
    for (suffix, _, _) in rows {
        let source = format!("{}{suffix}", source("hello"));
        builder = builder.args(["--seed".to_owned(), source]);
    }
    let registry = builder.start().await;
    let client = registry.client();
    let (digest, _) = manifest_of("hello");
    for (suffix, name, tag) in rows {
        let there = client.head_manifest(name, tag).await.expect(200);
        assert_eq!(there.header("docker-content-digest"), digest, "{suffix}");
    }
    assert_eq!(client.tags("acme/app").await, ["latest", "v1"]);
    let once: Vec<_> = registry.store().blobs().into_iter().collect();
    assert!(once.len() <= 3, "stored once: {once:?}");
}

#[tokio::test]
async fn an_index_comes_with_its_children() {
    let builder = TestRegistry::builder().args(["--seed".to_owned(), source("multi")]);
    let registry = builder.start().await;
    let client = registry.client();
    let (digest, bytes) = manifest_of("multi");
    let pulled = client.get_manifest("multi", "latest").await.expect(200);
    assert_eq!(pulled.header("docker-content-digest"), digest);
    assert_eq!(pulled.header("content-type"), OCI_INDEX);
    assert_eq!(pulled.body, bytes);
    let index = pulled.json();
    let children = index["manifests"].as_array().unwrap();
    assert_eq!(children.len(), 2);
    for child in children {
        let child = child["digest"].as_str().unwrap();
        let manifest = client.get_manifest("multi", child).await.expect(200);
        let manifest = manifest.json();
        for blob in [&manifest["config"], &manifest["layers"][0]] {
            let digest = blob["digest"].as_str().unwrap();
            client.get_blob("multi", digest).await.expect(200);
        }
    }
}

#[tokio::test]
async fn a_seed_shadows_the_upstream_image() {
    let upstream = FakeUpstream::start().await;
    let registry = TestRegistry::builder()
        .registry("docker.io", &upstream.url())
        .args(["--seed".to_owned(), source("hello")])
        .start()
        .await;
    let client = registry.client();
    let (digest, _) = manifest_of("hello");
    let there = client.get_manifest("hello", "latest").await.expect(200);
    assert_eq!(there.header("docker-content-digest"), digest);
    assert_eq!(upstream.requests(), [""; 0]);
}

#[tokio::test]
async fn seeding_again_changes_nothing() {
    let builder = TestRegistry::builder().args(["--seed".to_owned(), source("hello")]);
    let registry = builder.start().await;
    let before = registry.store().listing();
    let registry = registry.restart().await;
    assert_eq!(registry.store().listing(), before);
}

#[tokio::test]
async fn a_corrupt_layout_is_refused_and_nothing_of_it_is_visible() {
    let (hello, _) = manifest_of("hello");
    let layer = {
        let (_, manifest) = manifest_of("hello");
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
    };
    let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    for (name, wrong) in [
        ("corrupt-layer", hex(&layer)),
        ("corrupt-size", hex(&layer)),
        ("corrupt-missing", hex(&layer)),
        ("corrupt-manifest", hex(&hello)),
        ("corrupt-index", "index.json".to_owned()),
    ] {
        let builder = TestRegistry::builder().args(["--seed".to_owned(), source(name)]);
        let again = builder.clone().plain();
        let (status, said) = builder.fails_to_start().await;
        assert_eq!(status.code(), Some(1), "{name}: {said}");
        assert!(said.contains(name), "{name}: {said}");
        assert!(said.contains(&wrong), "{name}: {said}");

        let registry = again.start().await;
        let client = registry.client();
        client.head_manifest(name, "latest").await.expect(404);
        client.head_manifest(name, &hello).await.expect(404);
        client.head_blob(name, &layer).await.expect(404);
        registry.store().assert_sound();
    }
}

#[tokio::test]
async fn a_source_that_is_none_is_refused_by_name() {
    let nowhere = TestRegistry::builder().home().join("nowhere");
    let rows = [
        (format!("oci:{}", nowhere.display()), 1, "nowhere"),
        (format!("{}:v9", source("hello")), 1, "v9"),
        ("dir:fixtures/hello".to_owned(), 2, "oci:"),
        ("fixtures/hello".to_owned(), 2, "oci:"),
        (format!("{}=Not/A/Name", source("hello")), 2, "Not/A/Name"),
    ];
    for (source, status, fragment) in rows {
        let builder = TestRegistry::builder().args(["--seed", &source]);
        let (exit, said) = builder.fails_to_start().await;
        assert_eq!(exit.code(), Some(status), "{source}: {said}");
        assert!(said.contains(fragment), "{source}: {said}");
    }
}

#[tokio::test]
async fn an_archive_of_a_layout_is_seeded_as_the_layout_is() {
    let first = TestRegistry::builder().args(["--seed".to_owned(), source("multi")]);
    let (data, archive) = (first.data(), first.home().join("handed-on.tar"));
    let registry = first.start().await;
    let pulled = registry.client().get_manifest("multi", "latest").await;
    let digest = pulled
        .expect(200)
        .header("docker-content-digest")
        .to_owned();
    let _first = registry.stop().await;
    let exported = std::process::Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["export", "--offline", "--data", data.to_str().unwrap()])
        .args([
            "multi:latest",
            &format!("oci-archive:{}", archive.display()),
        ])
        .env_clear()
        .output()
        .unwrap();
    assert!(exported.status.success(), "{exported:?}");

    let seed = |path: &std::path::Path| format!("oci-archive:{}", path.display());
    let second = TestRegistry::builder().args(["--seed".to_owned(), seed(&archive)]);
    let registry = second.start().await;
    let pulled = registry.client().get_manifest("multi", "latest").await;
    let pulled = pulled.expect(200);
    assert_eq!(pulled.header("docker-content-digest"), digest);
    registry.store().assert_sound();
    registry.stop().await;

    // One that was cut off is named, and nothing of it is held.
    let whole = std::fs::read(&archive).unwrap();
    for length in [whole.len() / 2, 700] {
        std::fs::write(&archive, &whole[..length]).unwrap();
        let third = TestRegistry::builder().args(["--seed".to_owned(), seed(&archive)]);
        let store = third.store();
        let (status, said) = third.fails_to_start().await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("handed-on.tar"), "{said}");
        assert_eq!(store.below("namespaces"), Default::default(), "{said}");
    }
}

fn seed(args: &[&str]) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_standin"))
        .arg("seed")
        .args(args)
        .env_clear()
        .output()
        .unwrap()
}

#[tokio::test]
async fn seed_goes_to_the_one_that_runs_to_a_url_or_into_the_directory() {
    let (digest, _) = manifest_of("hello");
    let builder = TestRegistry::builder();
    let (data, state) = (builder.data(), builder.state());
    let at = [
        "--data",
        data.to_str().unwrap(),
        "--state",
        state.to_str().unwrap(),
    ];
    let told = |output: std::process::Output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };

    // Nobody runs: into the directory.
    let before = source("hello") + "=acme/before:1";
    let output = seed(&[&at[..], &[&before]].concat());
    assert_eq!(told(output), format!("acme/before:1 {digest}\n"));

    // One runs on it: to that one, which would not share it.
    let registry = builder.start().await;
    let client = registry.client();
    let pulled = client.get_manifest("acme/before", "1").await.expect(200);
    assert_eq!(pulled.header("docker-content-digest"), digest);
    let amid = source("hello") + "=acme/amid:1";
    let output = told(seed(&[&at[..], &["--json", &amid]].concat()));
    let json: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(json[0]["name"], "acme/amid:1");
    assert_eq!(json[0]["digest"], digest.as_str());
    let pulled = client.get_manifest("acme/amid", "1").await.expect(200);
    assert_eq!(pulled.header("docker-content-digest"), digest);

    // By its URL, over TLS; what is there is not sent again.
    let url = format!("https://{}", registry.address());
    let to = [
        "--to",
        &url,
        "--ca",
        registry.ca().to_str().unwrap(),
        "--json",
    ];
    let again = source("hello") + "=acme/amid:2";
    let json: Value = serde_json::from_str(&told(seed(&[&to[..], &[&again]].concat()))).unwrap();
    assert_eq!(json[0]["bytes"], 0, "{json}");
    client.get_manifest("acme/amid", "2").await.expect(200);
    let registry = registry.restart().await;
    registry.store().assert_sound();
}

#[tokio::test]
async fn what_can_not_be_seeded_leaves_nothing() {
    let registry = TestRegistry::builder()
        .args(["--user", "ci:secret:write"])
        .start()
        .await;
    let url = format!("http://{}", registry.address());
    let hello = source("hello");
    let damaged = source("corrupt-layer");
    for (args, status, fragment) in [
        (vec!["dir:x"], 2, "cannot be seeded"),
        (vec!["docker-archive:/no/such.tar"], 1, "/no/such.tar"),
        (
            vec!["--to", &url, "oci:/no/such/layout"],
            1,
            "/no/such/layout",
        ),
        (vec!["--to", &url, "--user", "ci:wrong", &hello], 1, "401"),
        (
            vec!["--to", &url, "--user", "ci:secret", &damaged],
            1,
            "corrupt",
        ),
        (vec!["--to", "http://127.0.0.1:9", &hello], 1, "127.0.0.1:9"),
    ] {
        let output = seed(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
        assert!(said.contains(fragment), "{args:?}: {said}");
        // Blobs that came whole before the damaged one may stay, as of any push; no image is there.
        let visible = registry.store().visible();
        let image = |key: &&String| key.contains("/_manifests/") || key.contains("/_tags/");
        assert_eq!(visible.iter().find(image), None, "{args:?}");
    }
}
