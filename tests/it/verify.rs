//! `standin verify`: what is wrong with a data directory is found, told of and set aside, and what is right stays served.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{
    FakeUpstream, TestRegistry, eventually,
    image::{Image, ImageBuilder, OCI_INDEX, index, sha256},
    program::{json, refused, standin, told},
    registry::Builder,
    store::{content, flip},
};

/// acme/app:1 was pushed and quay.io/acme/tool:1 pulled; the standin has ended.
struct Scene {
    upstream: FakeUpstream,
    pushed: Image,
    pulled: Image,
    /// Pushed as well, and nothing that is done concerns it.
    bystander: Image,
    builder: Builder,
}

const APP: &str = "docker.io/acme/app:1";
const TOOL: &str = "quay.io/acme/tool:1";

impl Scene {
    async fn new() -> Self {
        let upstream = FakeUpstream::start().await;
        let [pushed, pulled, bystander] =
            [1, 2, 3].map(|seed| ImageBuilder::new(seed).layer(5000).layer(100).build());
        upstream.add_image("acme/tool", "1", &pulled);
        let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
        let registry = builder.start().await;
        let client = registry.client();
        client.push_image("acme/app", "1", &pushed).await;
        client.push_image("acme/bystander", "1", &bystander).await;
        client.pull_image("quay.io/acme/tool", "1", &pulled).await;
        Self {
            upstream,
            pushed,
            pulled,
            bystander,
            builder: registry.stop().await,
        }
    }

    fn data(&self) -> PathBuf {
        self.builder.data()
    }

    fn verify(&self, args: &[&str], status: i32) -> Value {
        json(&self.data(), &[&["verify"], args].concat(), status)
    }

    /// All is right again, and what was never damaged is served.
    async fn assert_sound(&self) -> TestRegistry {
        let verified = self.verify(&[], 0);
        assert_eq!(verified["sound"], true, "{verified}");
        let registry = self.builder.clone().start().await;
        let client = registry.client();
        client
            .pull_image("acme/bystander", "1", &self.bystander)
            .await;
        registry
    }
}

/// The only fault there is.
#[track_caller]
fn fault(verified: &Value) -> &Value {
    let faults = verified["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 1, "{verified}");
    &faults[0]
}

fn hurts(fault: &Value) -> BTreeSet<(&str, bool)> {
    let hurts = fault["hurts"].as_array().unwrap().iter();
    let hurt = |hurt: &'_ Value| hurt["local"].as_bool().unwrap();
    hurts
        .map(|one| (one["image"].as_str().unwrap(), hurt(one)))
        .collect()
}

type Harm = fn(&Path);

fn truncate(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}

/// It can be listed, and not be read by anybody.
fn obstruct(file: &Path) {
    fs::remove_file(file).unwrap();
    symlink(file, file).unwrap();
}

fn replace_by_directory(file: &Path) {
    fs::remove_file(file).unwrap();
    fs::create_dir(file).unwrap();
}

const HARMS: [(&str, &str, Harm); 4] = [
    ("content", "hash to", flip),
    ("content", "hash to", truncate),
    ("unreadable", "can't be read", obstruct),
    ("unreadable", "directory in its place", replace_by_directory),
];

#[tokio::test]
async fn damaged_content_that_was_pulled_is_set_aside_and_fetched_anew() {
    for (kind, what, harm) in HARMS {
        for layer in [true, false] {
            let scene = Scene::new().await;
            let digest = match layer {
                true => &scene.pulled.layers[0].digest,
                false => &scene.pulled.manifest.digest,
            };
            let file = content(digest);
            harm(&scene.data().join(&file));
            let before = scene.builder.store().listing();
            let found = scene.verify(&[], 1);
            assert_eq!(
                scene.builder.store().listing(),
                before,
                "{kind}: only looked"
            );
            let faults = found["faults"].as_array().unwrap();
            let of_file = faults.iter().find(|fault| fault["file"] == *file);
            let of_file = of_file.unwrap_or_else(|| panic!("{kind}: {found}"));
            assert_eq!(of_file["kind"], kind, "{found}");
            assert!(of_file["what"].as_str().unwrap().contains(what), "{found}");
            assert_eq!(hurts(of_file), BTreeSet::from([(TOOL, false)]), "{kind}");
            assert_eq!(of_file["repaired"], false);
            assert_eq!(faults.len(), 1, "{found}");

            // With nothing lost, that is no failure.
            let repaired = scene.verify(&["--repair"], 0);
            let place = repaired["faults"][0]["quarantined"].as_str().unwrap();
            assert_eq!(place, format!("quarantine/1/{file}"));
            let moved = fs::symlink_metadata(scene.data().join(place)).unwrap();
            assert_eq!(moved.is_symlink(), what == "can't be read", "{kind}");
            assert_eq!(repaired["lost"], Value::Array(Vec::new()));
            let asked = scene.upstream.requests().len();
            let registry = scene.assert_sound().await;
            let client = registry.client();
            client
                .pull_image("quay.io/acme/tool", "1", &scene.pulled)
                .await;
            assert!(scene.upstream.requests().len() > asked, "fetched anew");
            registry.stop().await;
            scene.verify(&[], 0);
        }
    }
}

#[tokio::test]
async fn a_pushed_image_that_is_not_whole_is_taken_out_of_sight_until_it_is_pushed_again() {
    let missing: Harm = |file| fs::remove_file(file).unwrap();
    let harms = HARMS.into_iter().chain([("missing", "not here", missing)]);
    for (kind, what, harm) in harms {
        for layer in [true, false] {
            let scene = Scene::new().await;
            let digest = match layer {
                true => &scene.pushed.layers[0].digest,
                false => &scene.pushed.manifest.digest,
            };
            let file = content(digest);
            harm(&scene.data().join(&file));
            let found = scene.verify(&[], 1);
            let found = fault(&found);
            assert_eq!(
                (&found["kind"], &found["file"]),
                (&kind.into(), &file.into())
            );
            assert!(found["what"].as_str().unwrap().contains(what), "{found}");
            assert_eq!(hurts(found), BTreeSet::from([(APP, true)]));

            // Something was lost, which a job must hear of.
            let repaired = scene.verify(&["--repair"], 1);
            assert_eq!(repaired["lost"], serde_json::json!([APP]));
            assert_eq!(fault(&repaired)["repaired"], true);
            let registry = scene.assert_sound().await;
            let client = registry.client();
            for reference in ["1", &scene.pushed.manifest.digest] {
                let gone = client.get_manifest("acme/app", reference).await;
                gone.refused(404, "MANIFEST_UNKNOWN");
            }
            // A client asks for each blob, and sends those that are not there.
            let layer = &scene.pushed.layers[0].digest;
            let head = client.head_blob("acme/app", layer).await;
            assert_eq!(head.status == 404, digest == layer, "{kind}");
            client.push_image("acme/app", "1", &scene.pushed).await;
            client.pull_image("acme/app", "1", &scene.pushed).await;
            registry.stop().await;
            scene.verify(&[], 0);
        }
    }
}

#[tokio::test]
async fn an_index_goes_with_a_child_that_is_not_whole_and_the_other_child_stays() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let children = [10, 11].map(Image::small);
    for child in &children {
        let digest = &child.manifest.digest;
        client.push_image("acme/multi", digest, child).await;
    }
    let all = index(OCI_INDEX, &[&children[0].manifest, &children[1].manifest]);
    let put = client.put_manifest("acme/multi", "all", &all).await;
    put.expect(201);
    let builder = registry.stop().await;
    let layer = &children[0].layers[0].digest;
    flip(&builder.data().join(content(layer)));
    let repaired = json(&builder.data(), &["verify", "--repair"], 1);
    let lost = repaired["lost"].as_array().unwrap();
    let child = format!("docker.io/acme/multi@{}", children[0].manifest.digest);
    assert_eq!(*lost, ["docker.io/acme/multi:all", &child]);
    told(&standin(&builder.data(), &["verify"]), 0);
    let registry = builder.start().await;
    let client = registry.client();
    for reference in ["all", &all.digest, &children[0].manifest.digest] {
        let gone = client.get_manifest("acme/multi", reference).await;
        gone.refused(404, "MANIFEST_UNKNOWN");
    }
    let whole = &children[1].manifest.digest;
    client.pull_image("acme/multi", whole, &children[1]).await;
}

#[tokio::test]
async fn entries_are_checked_and_written_anew_where_manifests_tell_what_they_held() {
    let local = "namespaces/_local/docker.io/acme/app";
    let remove: Harm = |file| fs::remove_file(file).unwrap();
    let scribble: Harm = |file| fs::write(file, "no entry").unwrap();
    for (harm, kind) in [(remove, "no-entry"), (scribble, "entry")] {
        let scene = Scene::new().await;
        let named = |digest: &str| digest.replace(':', "-");
        let layer = named(&scene.pushed.layers[0].digest);
        let manifest = named(&scene.pushed.manifest.digest);
        let member = format!("{local}/_blobs/{layer}/{manifest}");
        let holders = scene.data().join("holders").join(&layer);
        let holder = fs::read_dir(&holders).unwrap().next().unwrap().unwrap();
        let holder = format!("holders/{layer}/{}", holder.file_name().to_str().unwrap());
        for entry in [member, holder] {
            harm(&scene.data().join(&entry));
            let found = scene.verify(&[], 1);
            let found = fault(&found);
            assert_eq!(
                (&found["kind"], &found["file"]),
                (&kind.into(), &entry.into())
            );
            assert_eq!(hurts(found), BTreeSet::from([(APP, true)]));
            let repaired = scene.verify(&["--repair"], 0);
            assert_eq!(fault(&repaired)["repaired"], true);
            let client = scene.assert_sound().await;
            let pull = client.client();
            pull.pull_image("acme/app", "1", &scene.pushed).await;
            client.stop().await;
        }
    }
}

#[tokio::test]
async fn a_tag_that_names_nothing_and_one_that_is_no_entry() {
    let absent = format!(r#"{{"digest":"{}"}}"#, sha256(b"nobody pushed this"));
    for (kind, what, text) in [
        ("tag", "no manifest of", &*absent),
        ("entry", "no entry", "{"),
    ] {
        let scene = Scene::new().await;
        let file = "namespaces/_local/docker.io/acme/app/_tags/1";
        fs::write(scene.data().join(file), text).unwrap();
        let found = scene.verify(&[], 1);
        let found = fault(&found);
        assert_eq!(
            (&found["kind"], &found["file"]),
            (&kind.into(), &file.into())
        );
        assert!(found["what"].as_str().unwrap().contains(what), "{found}");
        assert_eq!(hurts(found), BTreeSet::from([(APP, true)]));
        let repaired = scene.verify(&["--repair"], 1);
        assert_eq!(repaired["lost"], serde_json::json!([APP]));
        assert!(
            !scene
                .data()
                .join("namespaces/_local/docker.io/acme/app/_tags")
                .exists()
        );
        let moved = scene.data().join("quarantine/1").join(file);
        assert_eq!(fs::read_to_string(moved).unwrap(), *text);
        let registry = scene.assert_sound().await;
        let client = registry.client();
        let gone = client.get_manifest("acme/app", "1").await;
        gone.refused(404, "MANIFEST_UNKNOWN");
        // The image itself is whole.
        let digest = &scene.pushed.manifest.digest;
        client.pull_image("acme/app", digest, &scene.pushed).await;
    }
}

#[tokio::test]
async fn files_that_are_none_of_standin_s_are_found_and_moved_away_each_repair_for_itself() {
    let scene = Scene::new().await;
    let files = [
        "notes.txt",
        "blobs/sha256/ab/.DS_Store",
        "namespaces/quay.io/acme/tool/_tags/.lock",
        "namespaces/quay.io/acme/notes",
    ];
    for repair in ["1", "2"] {
        for file in files {
            let path = scene.data().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, repair).unwrap();
        }
        // What others put into any directory, and what was under way when a process was killed, is nothing wrong.
        fs::write(scene.data().join(".gitignore"), "*").unwrap();
        fs::write(scene.data().join("uploads/left"), "").unwrap();
        let found = scene.verify(&[], 1);
        let listed = found["faults"].as_array().unwrap().iter();
        let listed: BTreeSet<&str> = listed
            .inspect(|fault| assert_eq!(fault["kind"], "foreign", "{found}"))
            .map(|fault| fault["file"].as_str().unwrap())
            .collect();
        assert_eq!(listed, BTreeSet::from(files));
        scene.verify(&["--repair"], 0);
        for file in files {
            let moved = scene.data().join("quarantine").join(repair).join(file);
            assert_eq!(fs::read_to_string(moved).unwrap(), repair);
        }
    }
    scene.assert_sound().await;
}

#[tokio::test]
async fn what_is_wrong_is_found_beside_a_standin_and_repaired_only_without() {
    let scene = Scene::new().await;
    let registry = scene.builder.clone().start().await;
    let layer = content(&scene.pulled.layers[0].digest);
    flip(&scene.data().join(&layer));
    // An entry that it meets, it tells of in its log, with the way on.
    let tag = "namespaces/_local/docker.io/acme/app/_tags/1";
    let entry = fs::read(scene.data().join(tag)).unwrap();
    fs::write(scene.data().join(tag), "no entry").unwrap();
    let pull = registry.client().get_manifest("acme/app", "1").await;
    assert_eq!(pull.status, 500);
    let line = [tag, "is damaged", "standin verify"];
    registry.log().line_with(&line).await;
    fs::write(scene.data().join(tag), entry).unwrap();
    let before = registry.store().listing();
    let found = scene.verify(&[], 1);
    assert_eq!(fault(&found)["file"], layer);
    let said = refused(&standin(&scene.data(), &["verify", "--repair"]), 1);
    let pid = registry.pid().as_raw_nonzero().to_string();
    for fragment in [&pid, "standin stop", "without --repair"] {
        assert!(said.contains(fragment), "no {fragment}: {said}");
    }
    assert_eq!(registry.store().listing(), before);
    let text = told(&standin(&scene.data(), &["verify"]), 1);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with(&format!("{layer}: its 5000 bytes hash to")),
        "{text}"
    );
    assert_eq!(lines[1], format!("  hurts {TOOL} (cached)"));
    assert!(lines[2].starts_with("checked 12 contents"), "{text}");
    assert!(
        lines[2].ends_with(", 3 manifests and 3 tags: 1 fault"),
        "{text}"
    );
}

#[tokio::test]
async fn content_that_an_upstream_still_owes_is_not_missing() {
    let upstream = FakeUpstream::start().await;
    let image = Image::small(120);
    upstream.add_image("acme/base", "1", &image);
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let registry = builder.start().await;
    let client = registry.client();
    // The upstream has the blobs, and breaks off whenever it is asked for the layer.
    let path = format!("/v2/acme/base/blobs/{}", image.layers[0].digest);
    let broken = std::iter::repeat_n(crate::support::Reply::Truncated { after: 10 }, 100);
    upstream.script("GET", &path, broken);
    let put = client.put_manifest("quay.io/acme/base", "mine", &image.manifest);
    put.await.expect(201);
    let (data, store) = (registry.again().data(), registry.store());
    eventually("the config is here", || async {
        store.holds(&image.config.digest)
    })
    .await;
    assert!(!store.holds(&image.layers[0].digest));
    let verified = json(&data, &["verify"], 0);
    assert_eq!(verified["faults"], Value::Array(Vec::new()));
    let listing = json(&data, &["list"], 0);
    assert_eq!(listing["images"][0]["missing"], 1, "{listing}");

    // Once nobody owes it any more, it is.
    let builder = registry.kill().await;
    fs::remove_dir_all(data.join("owed")).unwrap();
    let found = json(&data, &["verify"], 1);
    assert_eq!(fault(&found)["kind"], "missing");
    json(&data, &["verify", "--allow-sparse"], 0);
    drop(builder);
}

#[tokio::test]
async fn what_this_user_may_not_read_is_told_of_and_left_where_it_is() {
    let scene = Scene::new().await;
    let layer = content(&scene.pushed.layers[0].digest);
    let file = scene.data().join(&layer);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let before = scene.builder.store().listing();
    let binary = env!("CARGO_BIN_EXE_standin");
    for args in [&["verify"][..], &["verify", "--repair"]] {
        // Root may read anything, unless that right is taken from it.
        let mut command = match rustix::process::getuid().is_root() {
            false => Command::new(binary),
            true => {
                let mut command = Command::new("setpriv");
                command.arg("--bounding-set=-dac_override,-dac_read_search");
                command.arg(binary);
                command
            }
        };
        command.args(args).args(["--json", "--data"]);
        let output = command.arg(scene.data()).output().unwrap();
        let found: Value = serde_json::from_str(&told(&output, 1)).unwrap();
        let found = fault(&found);
        assert_eq!(
            (&found["kind"], &found["file"]),
            (&"forbidden".into(), &layer.as_str().into())
        );
        assert_eq!(found["repaired"], false);
    }
    assert_eq!(scene.builder.store().listing(), before);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    scene.assert_sound().await;
}
