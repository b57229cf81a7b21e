//! Images from what `docker save` writes, and podman, skopeo and others after it.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{
    client::Client,
    full,
    image::{DOCKER_MANIFEST, Image, OCI_MANIFEST, random_bytes, sha256},
    saved::{Entry, Layer, Saved, config, gzip},
    seeding::{Place, refused, told},
};

/// Pulls the image and unpacks its layers.
async fn assert_pulls(client: &Client, name: &str, tag: &str, layers: &[&Layer]) -> Value {
    let pulled = client.get_manifest(name, tag).await.expect(200);
    let manifest = pulled.json();
    let digest = manifest["config"]["digest"].as_str().unwrap();
    let held = client.get_blob(name, digest).await.expect(200);
    assert_eq!(held.body, config(layers), "the config of {name}:{tag}");
    let listed = manifest["layers"].as_array().unwrap();
    assert_eq!(listed.len(), layers.len());
    for (descriptor, layer) in listed.iter().zip(layers) {
        let digest = descriptor["digest"].as_str().unwrap();
        let blob = client.get_blob(name, digest).await.expect(200).body;
        assert_eq!(descriptor["size"], blob.len());
        let kind = descriptor["mediaType"].as_str().unwrap();
        let plain = match kind.rsplit(['.', '+']).next().unwrap() {
            "gzip" => {
                let mut plain = Vec::new();
                // Of one member: a client that stops after the first must get all.
                let mut gzip = flate2::read::GzDecoder::new(&*blob);
                std::io::Read::read_to_end(&mut gzip, &mut plain).unwrap();
                plain
            }
            "zstd" => zstd::stream::decode_all(&*blob).unwrap(),
            "tar" => blob.to_vec(),
            other => panic!("{other}"),
        };
        assert!(plain == layer.plain, "a layer of {name}:{tag}");
    }
    manifest
}

#[tokio::test]
async fn what_docker_saves_keeps_its_id_and_becomes_the_same_every_time() {
    let (low, high) = (Layer::plain(1, 3_000_000), Layer::plain(2, 1000));
    let empty = Layer::plain(3, 0);
    // The same layer twice, as docker has it for steps that change nothing.
    let layers = [&low, &high, &empty, &high];
    let saved = Saved::of(&[(&["acme/app:1", "acme/app:latest"], &layers)]);
    let place = Place::new();
    let source = place.saved("app.tar", &saved);
    let first = place.seeded(&[&source]);
    let digest = first[0].1.clone();
    let names: Vec<&str> = first.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["acme/app:1", "acme/app:latest"]);

    // Whatever the way, the place or the number of threads: it is the same image.
    let again = format!("{source}=other:1");
    assert_eq!(place.seeded(&[&again])[0].1, digest);
    let elsewhere = Place::new();
    assert_eq!(elsewhere.seeded(&["--jobs", "1", &source])[0].1, digest);
    let packed = gzip(&saved.bytes());
    let piped = Place::new().piped(&["docker-archive:-"], &packed);
    assert_eq!(told(&piped)[0].1, digest);
    let again = place.seed(&["--json", &source]);
    let json: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(
        (&json[0]["blobs"], &json[0]["bytes"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(json[0]["digest"], *digest);

    let registry = place.builder.start().await;
    let client = registry.client();
    let manifest = assert_pulls(&client, "acme/app", "1", &layers).await;
    // By docker's types: podman reads no HEALTHCHECK of an OCI image.
    assert_eq!(manifest["mediaType"], DOCKER_MANIFEST);
    let id = manifest["config"]["digest"].as_str().unwrap();
    assert_eq!(id, sha256(&config(&layers)));

    // Over HTTP it is the same once more, and nothing has to be sent.
    let url = format!("http://{}", registry.address());
    let over = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["seed", "--json", "--to", &url, &source])
        .env_clear()
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&over.stdout).unwrap();
    assert_eq!(
        (&json[0]["digest"], &json[0]["blobs"]),
        (&json!(digest), &json!(0))
    );
    registry.store().assert_sound();
}

#[tokio::test]
async fn layers_stay_as_they_are_where_they_are_compressed_or_are_to_be_plain() {
    let (plain, gzipped) = (Layer::plain(1, 5000), Layer::gzip(2, 5000));
    let zstd = Layer::zstd(3, 5000);
    let rows: [(&[&str], &[&Layer], &str); 3] = [
        (&[], &[&plain, &gzipped], DOCKER_MANIFEST),
        (&[], &[&gzipped, &zstd], OCI_MANIFEST),
        (
            &["--layers", "uncompressed"],
            &[&plain, &gzipped],
            DOCKER_MANIFEST,
        ),
    ];
    let place = Place::new();
    for (nth, (args, layers, _)) in rows.iter().enumerate() {
        let tag = format!("acme/app:{nth}");
        let saved = Saved::of(&[(&[&tag], layers)]);
        let source = place.saved(&format!("{nth}.tar"), &saved);
        place.seeded(&[args, &[&*source][..]].concat());
    }
    let registry = place.builder.start().await;
    let client = registry.client();
    for (nth, (args, layers, media_type)) in rows.iter().enumerate() {
        let manifest = assert_pulls(&client, "acme/app", &nth.to_string(), layers).await;
        assert_eq!(manifest["mediaType"], *media_type);
        for (descriptor, layer) in manifest["layers"].as_array().unwrap().iter().zip(*layers) {
            let kept = layer.packed != layer.plain || !args.is_empty();
            let same = descriptor["digest"] == *sha256(&layer.packed);
            assert_eq!(same, kept, "{descriptor}");
        }
    }
}

#[tokio::test]
async fn a_list_says_what_becomes_of_each_image() {
    let layer = Layer::plain(1, 5000);
    let saved = Saved::of(&[(&["acme/app:1"], &[&layer])]);
    let place = Place::new();
    place.saved("app.tar", &saved);
    let list = place.file("images.yaml");
    let text = "- docker-archive:app.tar\n\
                - source: docker-archive:app.tar\n  name: acme/plain\n  tags: [a, b]\n  layers: uncompressed\n";
    std::fs::write(&list, text).unwrap();
    let seeded = place.seeded(&[list.to_str().unwrap()]);
    let names: Vec<&str> = seeded.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["acme/app:1", "acme/plain:a", "acme/plain:b"]);
    assert_ne!(seeded[0].1, seeded[1].1);
    assert_eq!(seeded[1].1, seeded[2].1);
}

#[tokio::test]
async fn images_of_an_archive_are_chosen_by_name() {
    let (base, own) = (Layer::plain(1, 2000), Layer::plain(2, 2000));
    let images: [(&[&str], &[&Layer]); 3] = [
        (&["acme/base:1", "acme/base:latest"], &[&base]),
        (&["localhost/tool:2"], &[&base, &own]),
        (&["quay.io/acme/other:3"], &[&own]),
    ];
    let saved = Saved::of(&images);
    let rows: [(&str, &[&str]); 8] = [
        (
            "",
            &[
                "acme/base:1",
                "acme/base:latest",
                "tool:2",
                "quay.io/acme/other:3",
            ],
        ),
        (":acme/base:1", &["acme/base:1"]),
        (":acme/base", &["acme/base:1", "acme/base:latest"]),
        (":docker.io/acme/base:latest", &["acme/base:latest"]),
        (":tool:2", &["tool:2"]),
        (":localhost/tool:2=renamed:9", &["renamed:9"]),
        (":@2", &["quay.io/acme/other:3"]),
        (":@0=first", &["first:1", "first:latest"]),
    ];
    for (suffix, expected) in rows {
        let place = Place::new();
        let source = place.saved("images.tar", &saved) + suffix;
        let seeded = place.seeded(&[&source]);
        let names: Vec<&str> = seeded.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, expected, "{suffix}");
    }
    for (suffix, args, fragment) in [
        (
            ":acme/base:2",
            &[][..],
            "no image acme/base:2; it has acme/base:1, acme/base:latest, tool:2",
        ),
        (":@3", &[], "no image @3"),
        ("=one:1", &[], "3 images"),
        (
            "",
            &["--platform", "linux/arm64"],
            "no image for linux/arm64",
        ),
    ] {
        let place = Place::new();
        let source = place.saved("images.tar", &saved) + suffix;
        let said = refused(&place.seed(&[args, &[&*source]].concat()));
        assert!(said.contains(fragment), "{suffix}: {said}");
        place.assert_untouched(&said);
    }

    // A name that is none here is no loss where another is.
    let odd = Saved::of(&[(&["acme/App:1", "acme/app:1", ""], &[&base])]);
    let place = Place::new();
    let seeded = place.seeded(&[&place.saved("odd.tar", &odd)]);
    assert_eq!(seeded.len(), 1);
    assert_eq!(seeded[0].0, "acme/app:1");

    // One that was saved by its ID has no name but that of the file.
    let nameless = Saved::of(&[(&[], &[&base])]);
    let place = Place::new();
    let source = place.saved("tools.tar", &nameless);
    assert_eq!(place.seeded(&[&source])[0].0, "tools:latest");
    let said = refused(&place.piped(&["docker-archive:-"], &nameless.bytes()));
    assert!(said.contains("=NAME:TAG"), "{said}");
}

/// What docker 25 and newer saves: a layout, and beside it what older ones read.
fn modern(image: &Image, others: &[Value]) -> Saved {
    let mut saved = Saved::default();
    let blob = |digest: &str| format!("blobs/sha256/{}", &digest["sha256:".len()..]);
    for held in image.blobs() {
        saved.put(&blob(&held.digest), &held.bytes);
    }
    let manifest = &image.manifest;
    saved.put(&blob(&manifest.digest), &manifest.bytes);
    let mut root = manifest.descriptor();
    root["platform"] = json!({"os": "linux", "architecture": "amd64"});
    if !others.is_empty() {
        let children: Vec<&Value> = std::iter::once(&root).chain(others).collect();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": children,
        })
        .to_string();
        let digest = sha256(index.as_bytes());
        saved.put(&blob(&digest), index.as_bytes());
        root = json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": index.len()});
    }
    root["annotations"] = json!({
        "io.containerd.image.name": "docker.io/acme/app:1",
        "org.opencontainers.image.ref.name": "1",
    });
    let index = json!({"schemaVersion": 2, "manifests": [root]}).to_string();
    saved.put("index.json", index.as_bytes());
    saved.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let layers: Vec<String> = image
        .layers
        .iter()
        .map(|layer| blob(&layer.digest))
        .collect();
    let listing = json!([{
        "Config": blob(&image.config.digest),
        "RepoTags": ["acme/app:1"],
        "Layers": layers,
    }]);
    saved.put("manifest.json", listing.to_string().as_bytes());
    saved
}

#[tokio::test]
async fn what_a_newer_docker_saves_keeps_its_own_manifest() {
    // Not compressed, and all the same left as docker has them.
    let image = Image::small(1);
    let place = Place::new();
    let source = place.saved("app.tar", &modern(&image, &[]));
    let seeded = place.seeded(&[&source]);
    let own = [(
        "docker.io/acme/app:1".to_owned(),
        image.manifest.digest.clone(),
    )];
    assert_eq!(seeded, own);

    // Of an index the platform that was saved, which is one of those it names.
    let absent = json!({
        "mediaType": OCI_MANIFEST, "size": 500, "digest": sha256(b"not saved"),
        "platform": {"os": "linux", "architecture": "arm64"},
    });
    let place = Place::new();
    let source = place.saved("app.tar", &modern(&image, std::slice::from_ref(&absent)));
    assert_eq!(place.seeded(&[&source]), own);
    let named = source.clone() + ":acme/app:1=mine:1";
    assert_eq!(place.seeded(&[&named])[0].1, image.manifest.digest);
    let said = refused(&place.seed(&["--platform", "linux/s390x", &source]));
    assert!(said.contains("linux/s390x"), "{said}");

    // One image by two names is one image.
    let mut twice = modern(&image, &[]);
    let index = twice.entries.iter().find(|(name, _)| name == "index.json");
    let Some((_, Entry::File(index))) = index else {
        panic!("no index");
    };
    let mut index: Value = serde_json::from_slice(index).unwrap();
    let mut second = index["manifests"][0].clone();
    second["annotations"]["io.containerd.image.name"] = json!("docker.io/acme/app:2");
    index["manifests"].as_array_mut().unwrap().push(second);
    twice.put("index.json", index.to_string().as_bytes());
    for (suffix, expected) in [
        ("", &["docker.io/acme/app:1", "docker.io/acme/app:2"][..]),
        ("=x:1", &["x:1"]),
        (":@0=x:1", &["x:1"]),
    ] {
        let place = Place::new();
        let seeded = place.seeded(&[&(place.saved("twice.tar", &twice) + suffix)]);
        let names: Vec<&str> = seeded.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, expected, "{suffix}");
    }

    // Asked for by the option, layers are compressed as those of an older docker.
    let packed = place.seeded(&["--layers", "gzip", &source]);
    assert_ne!(packed[0].1, image.manifest.digest);
}

#[tokio::test]
async fn a_layer_that_registries_need_not_hold_stays_where_it_is() {
    let (windows, own) = (Layer::plain(1, 1000), Layer::plain(2, 1000));
    let mut saved = Saved::of(&[(&["acme/win:1"], &[&windows, &own])]);
    let source = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "size": 1234, "digest": sha256(b"elsewhere"), "urls": ["https://maker.example.com/layer"],
    });
    let diff_id = windows.diff_id();
    saved.listing(|listing| {
        listing[0]["LayerSources"] = json!({diff_id.clone(): source});
    });
    // Docker leaves the bytes out of what it saves.
    saved.remove(&format!("{}/layer.tar", &diff_id["sha256:".len()..]));
    let place = Place::new();
    place.seeded(&[&place.saved("win.tar", &saved)]);
    let registry = place.builder.start().await;
    let client = registry.client();
    let manifest = client
        .get_manifest("acme/win", "1")
        .await
        .expect(200)
        .json();
    assert_eq!(manifest["layers"][0], source);
    let own = manifest["layers"][1]["digest"].as_str().unwrap();
    client.get_blob("acme/win", own).await.expect(200);
}

#[tokio::test]
async fn layers_are_found_behind_links_within_the_archive() {
    let layer = Layer::plain(1, 5000);
    let mut saved = Saved::of(&[(&["acme/app:1"], &[&layer])]);
    let listed = saved.named("/layer.tar");
    saved.put("kept.tar", &layer.packed);
    saved.set(&listed, Entry::Symlink("../kept.tar".to_owned()));
    let place = Place::new();
    place.seeded(&[&place.saved("app.tar", &saved)]);
    let registry = place.builder.start().await;
    assert_pulls(&registry.client(), "acme/app", "1", &[&layer]).await;
}

#[test]
fn archives_that_are_wrong_are_refused_by_file_and_entry() {
    let layer = Layer::plain(1, 5000);
    let packed = Layer::gzip(2, 5000);
    let right = Saved::of(&[(&["acme/app:1"], &[&layer, &packed])]);
    let (plain_entry, packed_entry) = (
        right.named(&format!("{}/layer.tar", &layer.diff_id()[7..])),
        right.named(&format!("{}/layer.tar", &packed.diff_id()[7..])),
    );
    let config_entry = right.named(".json");
    let with = |change: &dyn Fn(&mut Saved)| {
        let mut saved = right.clone();
        change(&mut saved);
        saved
    };
    let mut torn = packed.packed.clone();
    torn.truncate(torn.len() / 2);
    let xz = b"\xfd7zXZ\0\0 and so on".to_vec();
    let rows: [(&str, Saved, &[&str]); 15] = [
        (
            "no listing",
            with(&|saved| saved.remove("manifest.json")),
            &["no manifest.json"],
        ),
        (
            "an old one",
            with(&|saved| {
                saved.remove("manifest.json");
                saved.put("repositories", b"{}");
            }),
            &["before 1.10"],
        ),
        (
            "no images",
            with(&|saved| saved.put("manifest.json", b"[]")),
            &["no image at all"],
        ),
        (
            "no JSON",
            with(&|saved| saved.put("manifest.json", b"[{")),
            &["manifest.json", "can't be read"],
        ),
        (
            "a listing of another kind",
            with(&|saved| saved.put("manifest.json", b"{\"schemaVersion\":2}")),
            &["manifest.json", "can't be read"],
        ),
        (
            "no config",
            with(&|saved| saved.remove(&config_entry)),
            &[&config_entry, "not there"],
        ),
        (
            "another config",
            with(&|saved| saved.put(&config_entry, b"{}")),
            &[&config_entry, "its name says otherwise"],
        ),
        (
            "no layer",
            with(&|saved| saved.remove(&plain_entry)),
            &[&plain_entry, "not there"],
        ),
        (
            "a layer too many",
            with(&|saved| saved.listing(|listing| listing[0]["Layers"] = json!([&plain_entry]))),
            &["2 layers", "1"],
        ),
        (
            "another layer",
            with(&|saved| saved.put(&plain_entry, &[7; 5000])),
            &[&plain_entry, "its image's config says"],
        ),
        (
            "another packed layer",
            with(&|saved| saved.put(&packed_entry, &gzip(b"another"))),
            &[&packed_entry, "its image's config says"],
        ),
        (
            "a torn layer",
            with(&|saved| saved.put(&packed_entry, &torn)),
            &[&packed_entry, "can't be read"],
        ),
        (
            "xz",
            with(&|saved| saved.put(&packed_entry, &xz)),
            &[&packed_entry, "xz"],
        ),
        (
            "a way out",
            with(&|saved| {
                saved.set(
                    &plain_entry,
                    Entry::Symlink("../../../etc/passwd".to_owned()),
                )
            }),
            &[&plain_entry, "out of the archive"],
        ),
        (
            "a path out",
            with(&|saved| {
                saved.listing(|listing| listing[0]["Config"] = json!("../../etc/passwd"));
            }),
            &["../../etc/passwd", "not there"],
        ),
    ];
    for (what, saved, fragments) in rows {
        let place = Place::new();
        let source = place.saved("images.tar", &saved);
        let said = refused(&place.seed(&[&source]));
        for fragment in fragments.iter().chain(&["images.tar"]) {
            assert!(said.contains(fragment), "{what}: {said}");
        }
        place.assert_untouched(what);
    }
    // As a whole: compressed by what is not read here, and taken for another kind.
    let place = Place::new();
    let file = place.file("images.tar.xz");
    std::fs::write(&file, &xz).unwrap();
    let said = refused(&place.seed(&[&format!("docker-archive:{}", file.display())]));
    assert!(
        said.contains("xz") && said.contains("unpack it first"),
        "{said}"
    );
    let source = place
        .saved("images.tar", &right)
        .replacen("docker", "oci", 1);
    let said = refused(&place.seed(&[&source]));
    assert!(said.contains("docker-archive:FILE"), "{said}");
}

/// Whatever happens to an archive on its way, it is seeded as what it was, or refused with a reason.
#[test]
fn damage_anywhere_is_found_or_does_no_harm() {
    let (plain, packed) = (Layer::plain(1, 900), Layer::gzip(2, 900));
    let archive = |layers: &[&Layer]| Saved::of(&[(&["acme/app:1"], layers)]).bytes();
    let (same, other) = (archive(&[&plain]), archive(&[&plain, &packed]));
    let digest = told(&Place::new().piped(&["docker-archive:-"], &same))[0]
        .1
        .clone();
    let rounds = if full() { 3000 } else { 150 };
    let mut noise = random_bytes(7, rounds * 8).to_vec();
    for round in noise.chunks_exact_mut(8) {
        let mut bytes = match round[5] % 2 {
            0 => same.clone(),
            _ => other.clone(),
        };
        let at = usize::from(u16::from_le_bytes([round[0], round[1]])) % bytes.len();
        match round[2] % 4 {
            0 => bytes[at] ^= round[3] | 1,
            1 => bytes.truncate(at),
            2 => {
                // A block twice, as of an archive that was patched together.
                let block = at / 512 * 512;
                let copy = bytes[block..(block + 512).min(bytes.len())].to_vec();
                bytes.splice(block..block, copy);
            }
            _ => {
                let end = (at + usize::from(round[3])).min(bytes.len());
                bytes[at..end].fill(round[4]);
            }
        }
        let place = Place::new();
        let output = place.piped(&["docker-archive:-"], &bytes);
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            // What changed is nothing that an image is made of: a name, or the end mark. What is compressed has further bytes
            // that are not its layer's.
            Some(0) if round[5] % 2 == 0 => assert_eq!(told(&output)[0].1, digest, "{round:?}"),
            Some(0) => assert_eq!(told(&output).len(), 1, "{round:?}"),
            Some(1) => {
                let told = |line: &str| line.starts_with("standin: error: can't read ");
                assert!(said.lines().any(told), "{round:?}: {said}");
                place.assert_untouched(&format!("{round:?}: {said}"));
            }
            other => panic!("{round:?} ended with {other:?}: {said}"),
        }
    }
}

#[test]
fn an_archive_that_ends_early_is_never_half_there() {
    let layer = Layer::plain(1, 3000);
    let saved = Saved::of(&[(&["acme/app:1"], &[&layer])]);
    let whole = saved.bytes();
    // The listing comes last. What fills up its block, and the end mark, are nothing that could be missed.
    let Some((_, Entry::File(listing))) = saved.entries.last() else {
        panic!("no listing");
    };
    let needed = whole.len() - 1024 - listing.len().next_multiple_of(512) + listing.len();
    for length in (0..needed).step_by(512).chain([1, 700, needed - 1]) {
        let place = Place::new();
        let said = refused(&place.piped(&["docker-archive:-"], &whole[..length]));
        assert!(said.contains("standard input"), "{length}: {said}");
        place.assert_untouched(&said);
    }
    let place = Place::new();
    let packed = gzip(&whole);
    let said = refused(&place.piped(&["docker-archive:-"], &packed[..packed.len() / 2]));
    assert!(said.contains("standard input: it can't be read"), "{said}");
    place.assert_untouched(&said);
    assert_eq!(told(&place.piped(&["docker-archive:-"], &whole)).len(), 1);
}
