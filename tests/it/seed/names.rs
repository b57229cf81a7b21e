//! What an archive's images are called: which of them is meant, and which may not have one name.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{
    TestRegistry,
    image::{Blob, DOCKER_MANIFEST, Image, OCI_MANIFEST, sha256},
    saved::{Entry, Layer, Saved},
    seeding::{Place, refused, told},
};

/// A seed of `source` into a standin that runs.
fn over(registry: &TestRegistry, source: &str) -> std::process::Output {
    let url = format!("http://{}", registry.address());
    Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["seed", "--to", &url, source])
        .env_clear()
        .output()
        .unwrap()
}

/// An OCI layout of these images in an archive, each by its annotation.
fn layout(images: &[(&str, &Image)]) -> Saved {
    let mut saved = Saved::default();
    let blob = |digest: &str| format!("blobs/sha256/{}", &digest["sha256:".len()..]);
    let mut entries = Vec::new();
    for (name, image) in images {
        for held in image.blobs() {
            saved.put(&blob(&held.digest), &held.bytes);
        }
        saved.put(&blob(&image.manifest.digest), &image.manifest.bytes);
        let mut entry = image.manifest.descriptor();
        if !name.is_empty() {
            entry["annotations"] = json!({"io.containerd.image.name": name});
        }
        entries.push(entry);
    }
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    saved.put("index.json", index.as_bytes());
    saved.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    saved
}

#[tokio::test]
async fn two_images_of_one_name_are_refused_however_it_is_spelled() {
    let (one, other) = (Layer::plain(1, 1000), Layer::plain(2, 1000));
    let (first, second) = (Image::small(1), Image::small(2));
    let registry = TestRegistry::start().await;
    let spellings = [
        "app:1",
        "library/app:1",
        "docker.io/app:1",
        "docker.io/library/app:1",
        "index.docker.io/library/app:1",
        "localhost/app:1",
    ];
    for spelled in spellings {
        let archive = Saved::of(&[(&["app:1"], &[&one]), (&[spelled], &[&other])]);
        let oci = layout(&[("app:1", &first), (spelled, &second)]);
        let place = Place::new();
        let archive = place.saved("app.tar", &archive);
        let oci = place.saved("oci.tar", &oci).replacen("docker", "oci", 1);
        for source in [archive, oci] {
            for output in [place.seed(&[&source]), over(&registry, &source)] {
                let said = refused(&output);
                assert!(said.contains("two of its images"), "{spelled}: {said}");
                assert!(said.contains("app:1"), "{spelled}: {said}");
            }
            place.assert_untouched(spelled);
        }
    }
    let said = {
        let archive = Saved::of(&[(&["app:1"], &[&one]), (&["docker.io/app:1"], &[&other])]);
        let place = Place::new();
        refused(&place.seed(&[&place.saved("app.tar", &archive)]))
    };
    assert!(
        said.contains("called docker.io/app:1, which app:1 means as well"),
        "{said}"
    );

    // One image may have one name twice, and others are others.
    let archive = Saved::of(&[
        (&["app:1", "docker.io/library/app:1", "app:2"], &[&one]),
        (&["quay.io/library/app:1", "acme/app:1"], &[&other]),
    ]);
    let place = Place::new();
    let source = place.saved("app.tar", &archive);
    for output in [place.seed(&[&source]), over(&registry, &source)] {
        assert_eq!(told(&output).len(), 5);
    }
}

#[test]
fn a_number_is_an_images_place_in_manifest_json_whatever_the_index_says() {
    let images = [Image::small(1), Image::small(2), Image::small(3)];
    let [named, twice, nameless] = &images;
    let blob = |digest: &str| format!("blobs/sha256/{}", &digest["sha256:".len()..]);
    // As docker may write the two, each in an order of its own.
    let mut saved = layout(&[
        ("", nameless),
        ("docker.io/acme/twice:1", twice),
        ("docker.io/library/named:1", named),
        ("docker.io/acme/twice:2", twice),
    ]);
    let entry = |image: &Image, tags: Value| {
        let layers = image.layers.iter().map(|layer| blob(&layer.digest));
        json!({
            "Config": blob(&image.config.digest), "RepoTags": tags, "Layers": layers.collect::<Vec<_>>(),
        })
    };
    let listing = json!([
        entry(named, json!(["named:1"])),
        entry(nameless, Value::Null),
        entry(twice, json!(["acme/twice:1", "acme/twice:2"])),
    ]);
    saved.put("manifest.json", listing.to_string().as_bytes());
    let place = Place::new();
    let source = place.saved("images.tar", &saved);
    for (nth, image) in [named, nameless, twice].iter().enumerate() {
        let seeded = place.seeded(&[&format!("{source}:@{nth}=x:{nth}")]);
        assert_eq!(seeded.len(), 1, "@{nth}");
        assert_eq!(seeded[0].1, image.manifest.digest, "@{nth}");
    }
    let said = refused(&place.seed(&[&format!("{source}:@3=x:3")]));
    assert!(said.contains("no image @3"), "{said}");

    // Where there is none, it is the index that counts.
    saved.remove("manifest.json");
    let source = place.saved("alone.tar", &saved);
    for (nth, image) in [nameless, twice, named].iter().enumerate() {
        let seeded = place.seeded(&[&format!("{source}:@{nth}=y:{nth}")]);
        assert_eq!(seeded[0].1, image.manifest.digest, "@{nth}");
    }
}

#[test]
fn a_number_finds_an_index_by_the_config_of_the_image_that_was_saved() {
    let (whole, other) = (Image::small(1), Image::small(2));
    let mut saved = layout(&[("", &whole), ("", &other)]);
    let blob = |digest: &str| format!("blobs/sha256/{}", &digest["sha256:".len()..]);
    let absent = json!({"mediaType": OCI_MANIFEST, "size": 500, "digest": sha256(b"not saved")});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [absent, whole.manifest.descriptor()],
    })
    .to_string();
    let digest = sha256(index.as_bytes());
    saved.put(&blob(&digest), index.as_bytes());
    let root = json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": index.len()});
    let entries = json!({"schemaVersion": 2, "manifests": [root, other.manifest.descriptor()]});
    saved.put("index.json", entries.to_string().as_bytes());
    let entry = |image: &Image| json!({"Config": blob(&image.config.digest), "RepoTags": null, "Layers": []});
    let listing = json!([entry(&other), entry(&whole)]).to_string();
    saved.put("manifest.json", listing.as_bytes());
    let place = Place::new();
    let source = place.saved("images.tar", &saved);
    for (nth, image) in [&other, &whole].iter().enumerate() {
        let seeded = place.seeded(&[&format!("{source}:@{nth}=x:{nth}")]);
        assert_eq!(seeded[0].1, image.manifest.digest, "@{nth}");
    }
}

#[test]
fn an_archive_names_so_many_tags_and_no_more() {
    let layer = Layer::plain(1, 1000);
    for (count, taken) in [(100, true), (10_001, false)] {
        // Of two images together.
        let tags = |from: usize, to: usize| -> Vec<String> {
            (from..to).map(|nth| format!("app:{nth}")).collect()
        };
        let (low, high) = (tags(0, count / 2), tags(count / 2, count));
        let mut saved = Saved::of(&[(&["app:1"], &[&layer]), (&["app:2"], &[&layer])]);
        saved.listing(|listing| {
            listing[0]["RepoTags"] = json!(low);
            listing[1]["RepoTags"] = json!(high);
        });
        let place = Place::new();
        let output = place.seed(&[&place.saved("app.tar", &saved)]);
        match taken {
            true => assert_eq!(told(&output).len(), count),
            false => {
                let said = refused(&output);
                assert!(said.contains("names 10001 tags, and 10000"), "{said}");
                place.assert_untouched(&said);
            }
        }
    }
}

#[test]
fn names_in_a_listing_are_those_of_entries_however_they_are_spelled() {
    let layer = Layer::plain(1, 1000);
    let mut saved = Saved::of(&[(&["acme/app:1"], &[&layer])]);
    let change = |listing: &mut Value| {
        let config = listing[0]["Config"].as_str().unwrap();
        listing[0]["Config"] = json!(format!("./{config}"));
        let layer = listing[0]["Layers"][0].as_str().unwrap();
        listing[0]["Layers"][0] = json!(format!(".//{layer}"));
    };
    saved.listing(change);
    let place = Place::new();
    assert_eq!(place.seeded(&[&place.saved("app.tar", &saved)]).len(), 1);
}

#[test]
fn lists_are_no_objects() {
    let layer = Layer::plain(1, 1000);
    let right = Saved::of(&[(&["acme/app:1"], &[&layer])]);
    let config = right.named(".json");
    let Some((_, Entry::File(bytes))) = right.entries.iter().find(|(name, _)| *name == config)
    else {
        panic!("no config");
    };
    let rootfs: Value = serde_json::from_slice(bytes).unwrap();
    let diff_ids = &rootfs["rootfs"]["diff_ids"];
    let mut listed = right.clone();
    listed.listing(|listing| {
        let entry = &listing[0];
        *listing = json!([[entry["Config"], entry["RepoTags"], entry["Layers"], null]]);
    });
    let with = |config: Value| {
        let mut saved = right.clone();
        saved.put("c.json", config.to_string().as_bytes());
        saved.listing(|listing| listing[0]["Config"] = json!("c.json"));
        saved
    };
    for (saved, file) in [
        (listed, "manifest.json"),
        (with(json!([{"diff_ids": diff_ids}])), "c.json"),
        (with(json!({"rootfs": [diff_ids]})), "c.json"),
    ] {
        let place = Place::new();
        let said = refused(&place.seed(&[&place.saved("app.tar", &saved)]));
        assert!(said.contains(file), "{said}");
        assert!(said.contains("expected a JSON object"), "{said}");
        place.assert_untouched(&said);
    }
}

#[tokio::test]
async fn an_image_of_another_platform_than_asked_for_is_refused() {
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}});
    let config = Blob::new(config.to_string().into_bytes());
    let place = Place::new();
    let directory = place.file("app");
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": config.digest, "size": config.bytes.len()},
    })
    .to_string();
    let digest = sha256(manifest.as_bytes());
    for (digest, bytes) in [
        (&config.digest, &*config.bytes),
        (&digest, manifest.as_bytes()),
    ] {
        std::fs::write(blobs.join(&digest["sha256:".len()..]), bytes).unwrap();
    }
    let root = json!({"mediaType": DOCKER_MANIFEST, "digest": digest, "size": manifest.len()});
    let index = json!({"schemaVersion": 2, "manifests": [root]}).to_string();
    std::fs::write(directory.join("index.json"), index).unwrap();
    std::fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    let source = format!("oci:{}", directory.display());
    let said = refused(&place.seed(&["--platform", "linux/arm64", &source]));
    assert!(
        said.contains("it is for linux/amd64, and not for linux/arm64"),
        "{said}"
    );
    assert!(said.contains(&digest["sha256:".len()..]), "{said}");
    assert_eq!(
        place.seeded(&["--platform", "linux/amd64", &source])[0].1,
        digest
    );

    // Through the registry that is seeded, it is the same.
    let registry = place.builder.clone().start().await;
    let asked = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["seed", "--to", &format!("http://{}", registry.address())])
        .args(["--platform", "linux/arm64", "docker://app:latest=other:1"])
        .env_clear()
        .output()
        .unwrap();
    let said = refused(&asked);
    assert!(said.contains("and not for linux/arm64"), "{said}");
    registry
        .client()
        .head_manifest("other", "1")
        .await
        .expect(404);
}
