//! `standin list`: what is in a data directory, while a standin works on it and afterwards.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use serde_json::{Value, json};

use crate::support::{
    Exchange, FakeUpstream, TestRegistry,
    image::{Blob, Image, ImageBuilder, OCI_INDEX, OCI_MANIFEST, index},
    program::{json, refused, standin, told},
    registry::Builder,
};

struct Scene {
    upstream: FakeUpstream,
    /// A layer of both.
    base: Blob,
    pushed: Image,
    pulled: Image,
}

impl Scene {
    /// acme/app:1 and :latest pushed, quay.io/acme/tool:1 pulled.
    async fn start() -> (Self, TestRegistry) {
        let upstream = FakeUpstream::start().await;
        let base = Blob::random(1, 50_000);
        let image = |seed| ImageBuilder::new(seed).shared(&base).layer(10_000).build();
        let (pushed, pulled) = (image(2), image(3));
        upstream.add_image("acme/tool", "1", &pulled);
        let registry = TestRegistry::builder()
            .registry("quay.io", &upstream.url())
            .start()
            .await;
        let client = registry.client();
        client.push_image("acme/app", "1", &pushed).await;
        let put = client.put_manifest("acme/app", "latest", &pushed.manifest);
        put.await.expect(201);
        client.pull_image("quay.io/acme/tool", "1", &pulled).await;
        let scene = Self {
            upstream,
            base,
            pushed,
            pulled,
        };
        (scene, registry)
    }
}

fn data(registry: &TestRegistry) -> std::path::PathBuf {
    registry.again().data()
}

fn bytes(image: &Image) -> usize {
    let blobs: usize = image.blobs().map(|blob| blob.bytes.len()).sum();
    blobs + image.manifest.bytes.len()
}

/// Every file and directory with what is in it and when it was written.
fn state(directory: &Path) -> BTreeMap<String, (i64, i64, Vec<u8>)> {
    let mut state = BTreeMap::new();
    let mut places = vec![directory.to_owned()];
    while let Some(place) = places.pop() {
        let metadata = fs::metadata(&place).unwrap();
        let mut content = Vec::new();
        if metadata.is_dir() {
            let entries = fs::read_dir(&place).unwrap();
            places.extend(entries.map(|entry| entry.unwrap().path()));
        } else {
            content = fs::read(&place).unwrap();
        }
        let written = (metadata.mtime(), metadata.mtime_nsec(), content);
        state.insert(place.display().to_string(), written);
    }
    state
}

fn image<'a>(listing: &'a Value, name: &str) -> &'a Value {
    let images = listing["images"].as_array().unwrap();
    let found = images.iter().find(|image| image["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {listing}"))
}

/// A sample of `/metrics`.
async fn metric(registry: &TestRegistry, name: &str) -> u64 {
    let page = registry.client().get("/metrics").answer().await.expect(200);
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")));
    value.unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_is_pushed_and_pulled_is_listed_and_the_numbers_are_those_of_metrics_and_the_disk() {
    let (scene, registry) = Scene::start().await;
    let data = data(&registry);
    registry.log().line_with(&["MiB are cached, of"]).await;
    let before = state(&data);
    let listing = json(&data, &["list"], 0);
    assert_eq!(state(&data), before, "a look leaves no trace");

    let (base, pushed, pulled) = (
        scene.base.bytes.len(),
        bytes(&scene.pushed),
        bytes(&scene.pulled),
    );
    let app = image(&listing, "docker.io/acme/app");
    assert_eq!(app["tags"], json!(["1", "latest"]));
    assert_eq!(app["digest"], scene.pushed.manifest.digest);
    assert_eq!(app["media_type"], OCI_MANIFEST);
    assert_eq!((&app["local"], &app["whole"]), (&true.into(), &true.into()));
    assert_eq!(
        (&app["bytes"], &app["missing"]),
        (&pushed.into(), &0.into())
    );
    assert_eq!(app["shared_bytes"], base);
    let tool = image(&listing, "quay.io/acme/tool");
    assert_eq!(tool["digest"], scene.pulled.manifest.digest);
    assert_eq!(
        (&app["registry"], &tool["registry"]),
        (&"docker.io".into(), &"quay.io".into())
    );
    assert_eq!(
        (&tool["local"], &tool["tags"]),
        (&false.into(), &json!(["1"]))
    );
    assert_eq!(
        (&tool["bytes"], &tool["shared_bytes"]),
        (&pulled.into(), &base.into())
    );

    let totals = &listing["totals"];
    assert_eq!(totals["images"], 2);
    assert_eq!(totals["local_bytes"], pushed);
    let cached = metric(&registry, "standin_cache_used_bytes").await;
    assert_eq!(totals["cached_bytes"], cached);
    assert_eq!(cached as usize, pulled - base);
    assert_eq!(totals["shared_bytes"], base);
    assert_eq!(
        (&totals["unnamed_bytes"], &totals["quarantined_bytes"]),
        (&0.into(), &0.into())
    );
    let files = registry.store().below("blobs");
    let sizes = files.iter().map(|file| file.rsplit(' ').next().unwrap());
    let on_disk: u64 = sizes.map(|size| size.parse::<u64>().unwrap()).sum();
    assert_eq!(totals["bytes"], on_disk);

    let _kept = registry.stop().await;
    assert_eq!(json(&data, &["list"], 0), listing, "in use or not");
}

#[tokio::test]
async fn an_index_tells_its_platforms_and_what_is_not_here() {
    let upstream = FakeUpstream::start().await;
    let images = [10, 11].map(Image::small);
    let mut body: Value = serde_json::from_slice(
        &index(OCI_INDEX, &[&images[0].manifest, &images[1].manifest]).bytes,
    )
    .unwrap();
    for (n, architecture) in ["amd64", "arm64"].into_iter().enumerate() {
        body["manifests"][n]["platform"] = json!({"os": "linux", "architecture": architecture});
    }
    let all = crate::support::image::Manifest::new(OCI_INDEX, &body);
    upstream.add_manifest("acme/multi", "all", &all);
    upstream.add_image("acme/multi", "amd", &images[0]);
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .start()
        .await;
    let client = registry.client();
    let name = "quay.io/acme/multi";
    client.get_manifest(name, "all").await.expect(200);
    let by_digest = &images[0].manifest.digest;
    client.pull_image(name, by_digest, &images[0]).await;

    let listing = json(&data(&registry), &["list"], 0);
    assert_eq!(listing["images"].as_array().unwrap().len(), 1, "{listing}");
    let multi = image(&listing, name);
    assert_eq!(
        (&multi["whole"], &multi["missing"]),
        (&false.into(), &1.into())
    );
    let platform = |n: usize, name: &str, whole: bool| json!({"platform": name, "digest": images[n].manifest.digest, "whole": whole});
    let platforms = [
        platform(0, "linux/amd64", true),
        platform(1, "linux/arm64", false),
    ];
    assert_eq!(multi["platforms"], json!(platforms));
    assert_eq!(multi["bytes"], bytes(&images[0]) + all.bytes.len());
    let table = told(&standin(&data(&registry), &["list"]), 0);
    assert!(table.contains("1 of 2 platforms: linux/amd64"), "{table}");
}

#[tokio::test]
async fn the_table_is_lined_up_and_names_are_chosen_by_patterns() {
    let (scene, registry) = Scene::start().await;
    let client = registry.client();
    let untagged = Image::small(20);
    let digest = &untagged.manifest.digest;
    client.push_image("acme/by-digest", digest, &untagged).await;
    let data = data(&registry);
    let table = told(&standin(&data, &["list"]), 0);
    let lines: Vec<&str> = table.lines().collect();
    let column = |name: &str| lines[0].find(name).unwrap();
    let (digests, state) = (column("DIGEST"), column("STATE"));
    let app = scene.pushed.manifest.digest;
    let tool = scene.pulled.manifest.digest;
    for (row, name, digest) in [
        (1, "docker.io/acme/app:1 ", &app),
        (2, "docker.io/acme/app:latest ", &app),
        (3, "docker.io/acme/by-digest ", digest),
        (4, "quay.io/acme/tool:1 ", &tool),
    ] {
        assert!(lines[row].starts_with(name), "{table}");
        assert!(lines[row][digests..].starts_with(&digest[..19]), "{table}");
        assert_eq!(&lines[row][state..], "whole", "{table}");
    }
    assert_eq!((lines[5], lines.len()), ("", 7), "{table}");
    assert!(lines[6].starts_with("3 images, "), "{table}");

    let names = |patterns: &[&str]| -> Vec<String> {
        let listing = json(&data, &[&["list"], patterns].concat(), 0);
        assert_eq!(listing["totals"]["images"], 3, "of the whole directory");
        let images = listing["images"].as_array().unwrap().iter();
        let name = |image: &Value| image["name"].as_str().unwrap().to_owned();
        images.map(name).collect()
    };
    assert_eq!(names(&["acme/app"]), ["docker.io/acme/app"]);
    assert_eq!(names(&["quay.io/**"]), ["quay.io/acme/tool"]);
    assert_eq!(names(&["acme/app", "acme/t*"]).len(), 2);
    assert_eq!(names(&["nobody/**"]), [""; 0]);
    let said = refused(&standin(&data, &["list", "acme/app:1"]), 2);
    assert!(said.contains("no pattern"), "{said}");
}

#[tokio::test]
async fn what_can_not_be_read_is_told_of_and_the_rest_is_listed() {
    let (scene, registry) = Scene::start().await;
    let data = data(&registry);
    let _kept: Builder = registry.stop().await;
    let manifests = data.join("namespaces/quay.io/acme/tool/_manifests");
    let entry = fs::read_dir(manifests).unwrap().next().unwrap().unwrap();
    fs::write(entry.path(), "no entry").unwrap();
    let output = standin(&data, &["list", "--json"]);
    let listing: Value = serde_json::from_str(&told(&output, 0)).unwrap();
    assert_eq!(listing["images"].as_array().unwrap().len(), 1);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("standin verify"), "{said}");

    // A layer that is gone is no longer counted, and its image no longer whole.
    let hex = &scene.pushed.layers[1].digest["sha256:".len()..];
    fs::remove_file(data.join(format!("blobs/sha256/{}/{hex}", &hex[..2]))).unwrap();
    let listing = json(&data, &["list"], 0);
    let app = image(&listing, "docker.io/acme/app");
    assert_eq!((&app["whole"], &app["missing"]), (&false.into(), &1.into()));
    assert_eq!(app["bytes"], bytes(&scene.pushed) - 10_000);
    drop(scene.upstream);
}

#[test]
fn a_directory_that_is_none_of_standin_s_is_refused_and_one_that_is_empty_holds_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (absent, empty) = (home.path().join("absent"), home.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    // A cache step that had nothing to restore leaves one or the other.
    for data in [&absent, &empty] {
        for args in [&["list"][..], &["verify", "--repair"], &["prune"]] {
            let output = standin(data, args);
            told(&output, 0);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("nothing in"), "{said}");
            assert!(said.contains(data.to_str().unwrap()), "{said}");
        }
        let listing = json(data, &["list"], 0);
        assert_eq!(
            (&listing["images"], &listing["totals"]["bytes"]),
            (&json!([]), &0.into())
        );
        assert_eq!(json(data, &["verify"], 0)["sound"], true);
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
    let newer = home.path().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("version"), "99\n").unwrap();
    for command in ["list", "verify", "prune"] {
        let said = refused(&standin(home.path(), &[command]), 1);
        assert!(said.contains("no standin's content"), "{said}");
        assert!(said.contains(home.path().to_str().unwrap()), "{said}");
        let said = refused(&standin(&newer, &[command]), 1);
        assert!(said.contains("use a newer standin"), "{said}");
    }
}
