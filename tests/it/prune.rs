//! `standin prune`: what goes between two jobs, what stays, and that what stays is whole whatever happens.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::support::{
    Exchange, FakeUpstream, TestRegistry,
    image::{Blob, Image, ImageBuilder, Manifest, OCI_INDEX, index},
    program::{copy, json, killed_at, refused, standin, told},
    registry::Builder,
};

const LAYER: usize = 100_000;

/// Three images pulled as quay.io/acme/0 to 2, the last of them used last; two pushed, one of which has a layer of the first
/// that was pulled. The standin has ended.
struct Scene {
    upstream: FakeUpstream,
    pulled: [Image; 3],
    pushed: [Image; 2],
    builder: Builder,
}

impl Scene {
    async fn new() -> Self {
        let upstream = FakeUpstream::start().await;
        let pulled = [0, 1, 2].map(|n| ImageBuilder::new(200 + n).layer(LAYER).build());
        let base = &pulled[0].layers[0];
        let pushed = [
            ImageBuilder::new(210).shared(base).layer(LAYER).build(),
            ImageBuilder::new(211).layer(LAYER).build(),
        ];
        for (n, image) in pulled.iter().enumerate() {
            upstream.add_image(&format!("acme/{n}"), "1", image);
        }
        let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
        let registry = builder.start().await;
        let client = registry.client();
        for (n, image) in pulled.iter().enumerate() {
            let name = format!("quay.io/acme/{n}");
            client.pull_image(&name, "1", image).await;
        }
        for (n, image) in pushed.iter().enumerate() {
            client.push_image(&format!("acme/pr-{n}"), "1", image).await;
        }
        let builder = registry.stop().await;
        let scene = Self {
            upstream,
            pulled,
            pushed,
            builder,
        };
        // A day between each of them and the next.
        for n in 0..3 {
            scene.age(&format!("quay.io/acme/{n}"), 72 - 24 * n);
        }
        scene
    }

    fn data(&self) -> PathBuf {
        self.builder.data()
    }

    /// As if the repository's entries had been written so many hours ago.
    fn age(&self, repository: &str, hours: u64) {
        let then = SystemTime::now() - Duration::from_secs(hours * 3600);
        for kind in ["_manifests", "_tags"] {
            let place = self.data().join("namespaces").join(repository).join(kind);
            for entry in fs::read_dir(place).unwrap() {
                let file = fs::File::open(entry.unwrap().path()).unwrap();
                file.set_modified(then).unwrap();
            }
        }
    }

    fn prune(&self, args: &[&str]) -> Value {
        json(&self.data(), &[&["prune"], args].concat(), 0)
    }

    /// Which of the images that were pulled, and of those that were pushed, can be had without the upstream. Each that can't
    /// is gone without a trace.
    async fn left(&self) -> (Vec<usize>, Vec<usize>) {
        told(&standin(&self.data(), &["verify"]), 0);
        let offline = self.builder.clone().args(["--offline"]);
        let registry = offline.start().await;
        let client = registry.client();
        let mut left = (Vec::new(), Vec::new());
        let pulled = self.pulled.iter().enumerate();
        let pulled = pulled.map(|(n, image)| (format!("quay.io/acme/{n}"), n, image, true));
        let pushed = self.pushed.iter().enumerate();
        let pushed = pushed.map(|(n, image)| (format!("acme/pr-{n}"), n, image, false));
        for (name, n, image, was_pulled) in pulled.chain(pushed) {
            if client.head_manifest(&name, "1").await.status == 404 {
                continue;
            }
            client.pull_image(&name, "1", image).await;
            match was_pulled {
                true => left.0.push(n),
                false => left.1.push(n),
            }
        }
        registry.stop().await.store().assert_sound();
        left
    }
}

/// What went, by name.
fn names(pruned: &Value) -> Vec<&str> {
    let manifests = pruned["manifests"].as_array().unwrap().iter();
    manifests
        .map(|gone| gone["names"][0].as_str().unwrap())
        .collect()
}

fn bytes(image: &Image) -> usize {
    let blobs: usize = image.blobs().map(|blob| blob.bytes.len()).sum();
    blobs + image.manifest.bytes.len()
}

#[tokio::test]
async fn what_was_pulled_goes_by_age_by_size_or_all_and_what_was_pushed_stays() {
    let tool = |n: usize| format!("quay.io/acme/{n}:1");
    let (one, two) = (["--older-than", "60h"], ["--older-than", "36h"]);
    let size = ["--cache-max-size", "150KB"].map(|text| text.replace("KB", "KiB"));
    let size = [size[0].as_str(), &size[1]];
    let both = ["--older-than", "60h", "--cache-max-size", "1TiB"];
    let nothing: [&str; 0] = [];
    for (args, gone) in [
        (&nothing[..], &[][..]),
        (&one, &[0]),
        (&two, &[0, 1]),
        // The first one's layer is local too, so that its going frees little.
        (&size, &[0, 1]),
        (&both, &[0]),
        (&["--all-cached"], &[0, 1, 2]),
        (&["--cache-max-size", "0"], &[0, 1, 2]),
        // Of what is free or cached.
        (&["--cache-max-size", "100%"], &[]),
    ] {
        let scene = Scene::new().await;
        let before = scene.builder.store().listing();
        let rehearsed = scene.prune(&[args, &["--dry-run"]].concat());
        assert_eq!(scene.builder.store().listing(), before, "{args:?}");
        let mut pruned = scene.prune(args);
        let expected: Vec<String> = gone.iter().map(|n| tool(*n)).collect();
        assert_eq!(names(&pruned), expected, "{args:?}");
        let shared = LAYER;
        let freed: usize = gone.iter().map(|n| bytes(&scene.pulled[*n])).sum();
        let freed = freed - if gone.is_empty() { 0 } else { shared };
        assert_eq!(pruned["bytes"], freed, "{args:?}");
        let listing = json(&scene.data(), &["list"], 0);
        assert_eq!(pruned["left_bytes"], listing["totals"]["bytes"]);
        assert_eq!(
            pruned["left_cached_bytes"],
            listing["totals"]["cached_bytes"]
        );
        pruned["dry_run"] = true.into();
        assert_eq!(pruned, rehearsed, "{args:?}: as rehearsed");
        let kept: Vec<usize> = (0..3).filter(|n| !gone.contains(n)).collect();
        assert_eq!(scene.left().await, (kept, vec![0, 1]), "{args:?}");
        if gone.len() == 3 {
            let below = scene.builder.store().below("namespaces/quay.io");
            assert_eq!(below, Default::default(), "no trace is left");
        }
    }
}

#[tokio::test]
async fn what_was_pushed_goes_by_name_and_age_alone() {
    let scene = Scene::new().await;
    scene.age("_local/docker.io/acme/pr-0", 100);
    let local = ["--local", "acme/pr-*", "quay.io/**"];
    let old = [&local[..], &["--older-than", "90h"]].concat();
    let pruned = scene.prune(&old);
    assert_eq!(names(&pruned), ["docker.io/acme/pr-0:1"]);
    // The layer that a pulled image names too is cache from now on.
    assert_eq!(pruned["bytes"], bytes(&scene.pushed[0]) - LAYER);
    assert_eq!(pruned["manifests"][0]["bytes"], pruned["bytes"]);
    assert_eq!(pruned["unnamed"], 0);
    assert_eq!(scene.left().await, (vec![0, 1, 2], vec![1]));
    let pruned = scene.prune(&local);
    assert_eq!(names(&pruned), ["docker.io/acme/pr-1:1"]);
    assert_eq!(scene.left().await, (vec![0, 1, 2], vec![]));
    assert_eq!(
        scene.builder.store().below("namespaces/_local"),
        Default::default()
    );
    let text = told(&standin(&scene.data(), &["prune"]), 0);
    assert!(text.starts_with("removed nothing; "), "{text}");
}

#[tokio::test]
async fn an_index_that_stays_keeps_its_children_and_one_that_goes_takes_them() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let children = [220, 221].map(Image::small);
    for child in &children {
        let digest = &child.manifest.digest;
        client.push_image("acme/multi", digest, child).await;
    }
    let all = index(OCI_INDEX, &[&children[0].manifest, &children[1].manifest]);
    let put = client.put_manifest("acme/multi", "all", &all).await;
    put.expect(201);
    let builder = registry.stop().await;
    let data = builder.data();
    let manifest = |of: &Manifest| {
        let name = of.digest.replace(':', "-");
        data.join("namespaces/_local/docker.io/acme/multi/_manifests")
            .join(name)
    };
    // Children that were pushed long before the index.
    let then = SystemTime::now() - Duration::from_secs(100 * 3600);
    for child in &children {
        let entry = fs::File::open(manifest(&child.manifest)).unwrap();
        entry.set_modified(then).unwrap();
    }
    let args = ["prune", "--local", "acme/**", "--older-than", "50h"];
    assert_eq!(names(&json(&data, &args, 0)), [""; 0]);
    let pruned = json(&data, &args[..3], 0);
    assert_eq!(names(&pruned).len(), 3);
    assert_eq!(names(&pruned)[0], "docker.io/acme/multi:all");
    assert_eq!(builder.store().blobs(), Default::default());
}

#[tokio::test]
async fn what_nothing_names_goes_and_so_does_the_quarantine_if_asked() {
    let scene = Scene::new().await;
    let registry = scene.builder.clone().start().await;
    let client = registry.client();
    // A push that never came to its manifest, and one that was deleted.
    let blob = Blob::random(230, 1000);
    client.push_blob("acme/broken-off", &blob).await;
    let deleted = Image::small(231);
    client.push_image("acme/deleted", "1", &deleted).await;
    let path = format!("/v2/acme/deleted/manifests/{}", deleted.manifest.digest);
    client.delete(&path).answer().await.expect(202);
    registry.stop().await;
    let listing = json(&scene.data(), &["list"], 0);
    let unnamed = 1000 + bytes(&deleted);
    assert_eq!(listing["totals"]["unnamed_bytes"], unnamed);
    let pruned = scene.prune(&[]);
    assert_eq!(
        (&pruned["unnamed_bytes"], &pruned["unnamed"]),
        (&unnamed.into(), &4.into())
    );
    assert_eq!(names(&pruned), [""; 0]);
    assert_eq!(scene.left().await, (vec![0, 1, 2], vec![0, 1]));
    // Places that a process was killed over before it could give them back.
    for place in [
        "holders/sha256-ab",
        "namespaces/quay.io/gone/_blobs/sha256-ab",
    ] {
        fs::create_dir_all(scene.data().join(place)).unwrap();
    }
    scene.prune(&[]);
    assert!(!scene.data().join("holders/sha256-ab").exists());
    assert!(!scene.data().join("namespaces/quay.io/gone").exists());
    for name in ["broken-off", "deleted"] {
        let place = format!("namespaces/_local/docker.io/acme/{name}");
        assert_eq!(scene.builder.store().below(&place), Default::default());
    }

    fs::write(scene.data().join("notes.txt"), "mine").unwrap();
    told(&standin(&scene.data(), &["verify", "--repair"]), 0);
    assert_eq!(scene.prune(&[])["quarantined_bytes"], 0);
    assert!(scene.data().join("quarantine").exists());
    let pruned = scene.prune(&["--quarantine"]);
    assert_eq!(
        (&pruned["quarantined_bytes"], &pruned["bytes"]),
        (&4.into(), &4.into())
    );
    assert!(!scene.data().join("quarantine").exists());
}

#[tokio::test]
async fn what_was_only_heard_of_goes_with_all_else_that_was_pulled() {
    let scene = Scene::new().await;
    scene
        .upstream
        .add_image("acme/heard-of", "1", &scene.pulled[0]);
    let registry = scene.builder.clone().start().await;
    let client = registry.client();
    let head = client.head_manifest("quay.io/acme/heard-of", "1");
    head.await.expect(200);
    registry.stop().await;
    let store = scene.builder.store();
    let heard_of = store.below("namespaces/quay.io/acme/heard-of");
    assert_eq!(heard_of.len(), 1);
    scene.prune(&["--older-than", "1h"]);
    assert_eq!(store.below("namespaces/quay.io/acme/heard-of"), heard_of);
    scene.prune(&["--all-cached"]);
    assert!(!scene.data().join("namespaces/quay.io").exists());
}

#[tokio::test]
async fn beside_a_standin_it_is_only_rehearsed() {
    let scene = Scene::new().await;
    let registry = scene.builder.clone().start().await;
    let before = registry.store().listing();
    let said = refused(&standin(&scene.data(), &["prune", "--all-cached"]), 1);
    let pid = registry.pid().as_raw_nonzero().to_string();
    for fragment in [&pid, "standin stop", "--dry-run"] {
        assert!(said.contains(fragment), "no {fragment}: {said}");
    }
    let text = told(
        &standin(&scene.data(), &["prune", "--all-cached", "--dry-run"]),
        0,
    );
    assert!(text.contains("would remove 3 manifests"), "{text}");
    assert!(text.contains("quay.io/acme/0:1"), "{text}");
    assert_eq!(registry.store().listing(), before);
}

#[tokio::test]
async fn nothing_goes_while_an_entry_can_not_be_read() {
    let scene = Scene::new().await;
    let tag = "namespaces/_local/docker.io/acme/pr-0/_tags/1";
    fs::write(scene.data().join(tag), "no entry").unwrap();
    let before = scene.builder.store().listing();
    let said = refused(&standin(&scene.data(), &["prune", "--all-cached"]), 1);
    assert!(
        said.contains(tag) && said.contains("verify --repair"),
        "{said}"
    );
    assert_eq!(scene.builder.store().listing(), before);
}

#[test]
fn contradictions_are_refused() {
    let home = tempfile::tempdir().unwrap();
    for (args, fragment) in [
        (
            &["--all-cached", "--older-than", "1h"][..],
            "cannot be used with",
        ),
        (&["--older-than", "a week"], "no duration"),
        (&["--cache-max-size", "5GB"], "5GB"),
        (&["--local", "Acme"], "no pattern"),
        (&["--local"], "a value is required"),
    ] {
        let said = refused(&standin(home.path(), &[&["prune"], args].concat()), 2);
        assert!(said.contains(fragment), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn killed_anywhere_it_leaves_what_is_whole_and_the_next_one_goes_on() {
    const MANY: usize = 40;
    let upstream = FakeUpstream::start().await;
    let images: Vec<Image> = (0..MANY as u64).map(|n| Image::small(300 + n)).collect();
    for (n, image) in images.iter().enumerate() {
        upstream.add_image("acme/many", &format!("v{n}"), image);
    }
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .start()
        .await;
    let client = registry.client();
    let kept = ImageBuilder::new(299).shared(&images[0].layers[0]).build();
    client.push_image("acme/kept", "1", &kept).await;
    for (n, image) in images.iter().enumerate() {
        let tag = format!("v{n}");
        client.pull_image("quay.io/acme/many", &tag, image).await;
        client.push_image("acme/many", &tag, image).await;
    }
    let builder = registry.stop().await;
    let all = ["prune", "--all-cached", "--local", "acme/many"];
    let entries = |place: PathBuf| fs::read_dir(place).map_or(0, Iterator::count);
    let mut kills = 0;
    // Before anything went, amid what was pushed, and amid what was pulled.
    for (place, at) in [
        ("_local/docker.io", MANY),
        ("_local/docker.io", MANY - 2),
        ("_local/docker.io", MANY / 2),
        ("quay.io", MANY - 1),
        ("quay.io", MANY / 2),
        ("quay.io", 2),
    ] {
        let data = builder.home().join("copy");
        copy(&builder.data(), &data);
        let manifests = data.join(format!("namespaces/{place}/acme/many/_manifests"));
        if killed_at(&data, &all, || entries(manifests.clone()) <= at) {
            kills += 1;
        }
        told(&standin(&data, &["verify"]), 0);
        let copied = builder.clone().directories(data.clone(), builder.state());
        let registry = copied.args(["--offline"]).start().await;
        let client = registry.client();
        client.pull_image("acme/kept", "1", &kept).await;
        for (n, image) in images.iter().enumerate() {
            let tag = format!("v{n}");
            for name in ["acme/many", "quay.io/acme/many"] {
                if client.head_manifest(name, &tag).await.status == 200 {
                    client.pull_image(name, &tag, image).await;
                }
            }
        }
        registry.stop().await.store().assert_sound();
        told(&standin(&data, &all), 0);
        let listing = json(&data, &["list"], 0);
        assert_eq!(listing["totals"]["bytes"], bytes(&kept), "{place}, {at}");
        assert_eq!(listing["totals"]["local_bytes"], bytes(&kept));
        assert_eq!(entries(data.join("namespaces/quay.io")), 0, "{place}, {at}");
        assert_eq!(entries(data.join("holders")), 3, "{place}, {at}");
        fs::remove_dir_all(data).unwrap();
    }
    assert!(kills >= 4, "only {kills} were killed in time");
}

#[tokio::test]
async fn what_is_left_is_carried_to_another_place_and_served_offline() {
    let scene = Scene::new().await;
    scene.age("_local/docker.io/acme/pr-1", 100);
    scene.prune(&["--older-than", "36h", "--local", "acme/*"]);
    let moved = scene.builder.home().join("cache/of the job");
    fs::create_dir_all(moved.parent().unwrap()).unwrap();
    fs::rename(scene.data(), &moved).unwrap();
    told(&standin(&moved, &["verify", "--repair"]), 0);
    let state = scene.builder.home().join("other-state");
    let asked = scene.upstream.requests().len();
    let registry = scene
        .builder
        .clone()
        .directories(moved.clone(), state)
        .args(["--offline"])
        .start()
        .await;
    let client = registry.client();
    client
        .pull_image("quay.io/acme/2", "1", &scene.pulled[2])
        .await;
    client.pull_image("acme/pr-0", "1", &scene.pushed[0]).await;
    for name in ["quay.io/acme/0", "quay.io/acme/1", "acme/pr-1"] {
        let gone = client.get_manifest(name, "1").await;
        gone.refused(404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(scene.upstream.requests().len(), asked);
    registry.stop().await;
    let kept = json(&moved, &["list"], 0);
    let kept = kept["images"].as_array().unwrap().iter();
    let kept: Vec<&Value> = kept.map(|image| &image["name"]).collect();
    assert_eq!(
        json!(kept),
        json!(["docker.io/acme/pr-0", "quay.io/acme/2"])
    );
}
