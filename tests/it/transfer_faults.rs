//! Seeds and exports on days when everything fails: a full disk, a place that can't be written to, a signal, a server that
//! ends. Whatever happens, nothing that is half there can be pulled, and nothing lies about under a final name.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::support::{
    FakeUpstream, Gate, Reply, TestRegistry, fixture,
    image::ImageBuilder,
    saved::{Layer, Saved},
    seeding::{Place, refused},
    within,
};

const MIB: usize = 1 << 20;

/// Runs standin where `mounts`, lines of a shell, were run before; `None` where no mounts are permitted.
fn mounted(mounts: &str, args: &[&str]) -> Option<Output> {
    let may = Command::new("unshare")
        .args(["--map-root-user", "--mount", "true"])
        .output()
        .is_ok_and(|probe| probe.status.success());
    if !may {
        eprintln!("skipped: `unshare --map-root-user --mount` is not permitted here");
        return None;
    }
    let script = format!("set -e; {mounts}; exec \"$@\"");
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .arg(env!("CARGO_BIN_EXE_standin"))
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output();
    Some(output.unwrap())
}

fn names(place: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(place).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_seed_that_does_not_fit_leaves_what_was_there() {
    let place = Place::new();
    let small = Saved::of(&[(&["acme/small:1"], &[&Layer::plain(1, 1000)])]);
    let large = Saved::of(&[(&["acme/large:1"], &[&Layer::plain(2, 12 * MIB)])]);
    let (small, large) = (
        place.saved("small.tar", &small),
        place.saved("large.tar", &large),
    );
    let data = place.builder.data();
    std::fs::create_dir_all(&data).unwrap();
    let (data, state) = (data.display(), place.builder.state());
    // What is seeded first is there, and whatever of the rest can't be: the next command finds so.
    let standin = env!("CARGO_BIN_EXE_standin");
    let mounts = format!(
        "mount -t tmpfs -o size=8m standin-test '{data}'; \
         '{standin}' seed --data '{data}' --state '{}' '{small}'; \
         if '{standin}' seed --data '{data}' --state '{}' '{large}'; then exit 9; fi",
        state.display(),
        state.display()
    );
    let target = place.file("out");
    let to = format!("oci:{}", target.display());
    let args = [
        "export",
        "--offline",
        "--data",
        &data.to_string(),
        "--state",
        state.to_str().unwrap(),
    ];
    let Some(output) = mounted(&mounts, &[&args[..], &["acme/small:1", &to]].concat()) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("large.tar"), "{said}");
    assert!(
        said.contains("No space left") || said.contains("are free"),
        "{said}"
    );
    assert!(target.join("index.json").exists(), "{said}");
}

#[tokio::test]
async fn an_export_that_does_not_fit_or_may_not_be_written_leaves_nothing() {
    let place = Place::new();
    let saved = Saved::of(&[(&["acme/large:1"], &[&Layer::plain(2, 12 * MIB)])]);
    place.seeded(&[&place.saved("large.tar", &saved)]);
    let (data, state) = (place.builder.data(), place.builder.state());
    let target = place.file("target");
    std::fs::create_dir(&target).unwrap();
    let shown = target.display();
    // What is left there is listed by the shell that sees the mount.
    let listing = place.file("listing");
    let standin = env!("CARGO_BIN_EXE_standin");
    for (mount, fragment) in [
        (
            format!("mount -t tmpfs -o size=8m standin-test '{shown}'"),
            "make room",
        ),
        (
            format!("mount -t tmpfs -o ro standin-test '{shown}'"),
            "can be written to",
        ),
    ] {
        for to in ["oci:", "oci-archive:", "docker-archive:"] {
            let to = format!("{to}{shown}/images");
            let script = format!(
                "{mount}; status=0; '{standin}' export --offline --data '{}' --state '{}' acme/large:1 '{to}' || status=$?; \
                 ls -A '{shown}' >'{}'; [ $status = 1 ]",
                data.display(),
                state.display(),
                listing.display()
            );
            let Some(output) = mounted(&script, &["--version"]) else {
                return;
            };
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{to}: {said}");
            assert!(said.contains(fragment), "{to}: {said}");
            assert_eq!(std::fs::read_to_string(&listing).unwrap(), "", "{to}");
        }
    }
}

/// One whose directory a standin has been at.
fn served_before() -> Place {
    let place = Place::new();
    place.seeded(&[&format!("oci:{}=before:1", fixture("hello").display())]);
    place
}

/// A command on the directories of `place`, with an upstream that is quay.io.
fn through(place: &Place, upstream: &FakeUpstream, args: &[&str]) -> tokio::process::Command {
    through_env("--default-signal=HUP", place, upstream, args)
}

/// The same by way of `env`: whoever runs the tests may ignore signals, as `nohup` does, and what is ignored stays so.
fn through_env(
    option: &str,
    place: &Place,
    upstream: &FakeUpstream,
    args: &[&str],
) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("/usr/bin/env");
    command
        .args([option, env!("CARGO_BIN_EXE_standin")])
        .args([args[0], "--data", place.builder.data().to_str().unwrap()])
        .args(["--state", place.builder.state().to_str().unwrap()])
        .args(&args[1..])
        .env_clear()
        .env("TMPDIR", place.builder.home())
        .env("STANDIN_REGISTRY", format!("quay.io={}", upstream.url()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn kill(signal: &str, child: &tokio::process::Child) {
    let pid = child.id().unwrap().to_string();
    let status = Command::new("kill").args([signal, &pid]).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_signal_ends_what_waits_for_an_upstream() {
    let image = ImageBuilder::new(1).layer(3 * MIB).layer(1000).build();
    for signal in ["-TERM", "-INT", "-HUP"] {
        for what in ["seed", "oci:", "oci-archive:", "docker-archive:"] {
            let upstream = FakeUpstream::start().await;
            upstream.add_image("acme/app", "1", &image);
            let gate = Gate::new();
            let path = format!("/v2/acme/app/blobs/{}", image.layers[0].digest);
            let gated = Reply::Gated {
                before: MIB,
                gate: gate.clone(),
            };
            upstream.script("GET", &path, [gated]);
            let place = served_before();
            let out = place.file("out");
            std::fs::create_dir(&out).unwrap();
            let to = format!("{what}{}/images", out.display());
            let args: &[&str] = match what {
                "seed" => &["seed", "docker://quay.io/acme/app:1"],
                _ => &["export", "quay.io/acme/app:1", &to],
            };
            let child = through(&place, &upstream, args).spawn().unwrap();
            gate.reached().await;
            kill(signal, &child);
            let output = within("the end of it", child.wait_with_output())
                .await
                .unwrap();
            let said = refused(&output);
            assert!(said.contains("interrupted"), "{what}: {said}");
            assert_eq!(names(&out), [""; 0], "{what}: {said}");
            let store = place.builder.store();
            let visible = store.visible();
            let app = visible
                .iter()
                .find(|key| key.contains("_local") && key.contains("acme/app"));
            assert_eq!(app, None, "{what}: {said}");
            gate.open();
        }
    }
}

/// One that has sent the beginning of an image's layer, and holds the rest back.
async fn half_sent() -> (FakeUpstream, Gate) {
    let image = ImageBuilder::new(1).layer(3 * MIB).build();
    let upstream = FakeUpstream::start().await;
    upstream.add_image("acme/app", "1", &image);
    let gate = Gate::new();
    let path = format!("/v2/acme/app/blobs/{}", image.layers[0].digest);
    let gated = Reply::Gated {
        before: MIB,
        gate: gate.clone(),
    };
    upstream.script("GET", &path, [gated]);
    (upstream, gate)
}

#[tokio::test]
async fn under_nohup_an_export_outlives_its_terminal() {
    let (upstream, gate) = half_sent().await;
    let place = served_before();
    let to = format!("oci:{}", place.file("out").display());
    let args = ["export", "quay.io/acme/app:1", &to];
    let child = through_env("--ignore-signal=HUP", &place, &upstream, &args).spawn();
    let child = child.unwrap();
    gate.reached().await;
    kill("-HUP", &child);
    gate.open();
    let output = within("the export", child.wait_with_output()).await;
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(place.file("out/index.json").exists());
}

/// What was not there when the export began is added to, if somebody has made it a layout since, and is kept if it is none.
#[tokio::test]
async fn a_destination_that_has_come_meanwhile_is_added_to_or_kept() {
    for meanwhile in ["a layout", "an empty directory", "a directory", "a file"] {
        let (upstream, gate) = half_sent().await;
        let (place, other) = (served_before(), served_before());
        let out = place.file("out");
        let images = out.join("images");
        std::fs::create_dir(&out).unwrap();
        let to = format!("oci:{}", images.display());
        let export = |place: &Place, image: &str| {
            let mut command = through(place, &upstream, &["export", image, &to]);
            command.spawn().unwrap().wait_with_output()
        };
        let waiting = export(&place, "quay.io/acme/app:1");
        gate.reached().await;
        match meanwhile {
            "a layout" => {
                let output = within("the other", export(&other, "before:1")).await;
                assert!(output.unwrap().status.success());
            }
            "a file" => std::fs::write(&images, "mine").unwrap(),
            _ => std::fs::create_dir(&images).unwrap(),
        }
        if meanwhile == "a directory" {
            std::fs::write(images.join("mine"), "mine").unwrap();
        }
        gate.open();
        let output = within("the export", waiting).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(names(&out), ["images"], "{meanwhile}: {said}");
        let refusal = match meanwhile {
            "a directory" => Some("it is no OCI layout, but holds \"mine\": name a new directory"),
            "a file" => Some("it is there, and no directory"),
            _ => None,
        };
        if let Some(refusal) = refusal {
            assert_eq!(output.status.code(), Some(1), "{meanwhile}: {said}");
            assert!(said.contains(refusal), "{meanwhile}: {said}");
            continue;
        }
        assert!(output.status.success(), "{meanwhile}: {said}");
        let index = std::fs::read(images.join("index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let held = index["manifests"].as_array().unwrap().len();
        let both = if meanwhile == "a layout" { 2 } else { 1 };
        assert_eq!(held, both, "{meanwhile}: {index}");
        let seed = Place::new().seeded(&[&format!("oci:{}", images.display())]);
        assert_eq!(seed.len(), both, "{meanwhile}");
    }
}

#[tokio::test]
async fn a_destination_that_ends_halfway_is_named_and_the_seed_goes_on_later() {
    let layers: Vec<Layer> = (0..6).map(|seed| Layer::plain(seed, 3 * MIB)).collect();
    let saved = Saved::of(&[(&["acme/app:1"], &layers.iter().collect::<Vec<_>>())]);
    let place = Place::new();
    let source = place.saved("app.tar", &saved);
    let digest = Place::new().seeded(&[&source])[0].1.clone();
    let registry = TestRegistry::start().await;
    let url = format!("http://{}", registry.address());
    let seed = |url: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_standin"));
        command.args(["seed", "--jobs", "1", "--json", "--to", url, &source]);
        command.env_clear().env("TMPDIR", place.builder.home());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let child = seed(&url);
    // One is sent at a time: with a second one there, the first was acknowledged, and others are to come.
    let store = registry.store();
    crate::support::eventually("blobs", || async { store.blobs().len() > 1 }).await;
    let stopped = registry.kill().await;
    let output = within("the end of the seed", child.wait_with_output())
        .await
        .unwrap();
    let said = refused(&output);
    assert!(said.contains("127.0.0.1"), "{said}");
    let registry = stopped.start().await;
    let held = registry.store().blobs().len();
    assert!(held > 1 && held < 8, "{held}");
    let url = format!("http://{}", registry.address());
    let output = within("the seed", seed(&url).wait_with_output())
        .await
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json[0]["digest"], *digest, "{json}");
    // Config and layers, less those that were acknowledged; the last one may have been on disk and not yet in the repository.
    let sent = json[0]["blobs"].as_u64().unwrap();
    assert!(
        sent == 7 - held as u64 || sent == 8 - held as u64,
        "{held}: {json}"
    );
    registry.store().assert_sound();
}

#[tokio::test]
async fn what_a_killed_export_left_goes_with_the_next() {
    let image = ImageBuilder::new(1).layer(3 * MIB).build();
    let upstream = FakeUpstream::start().await;
    upstream.add_image("acme/app", "1", &image);
    let gate = Gate::new();
    let path = format!("/v2/acme/app/blobs/{}", image.layers[0].digest);
    let gated = || Reply::Gated {
        before: MIB,
        gate: gate.clone(),
    };
    upstream.script("GET", &path, [gated(), gated()]);
    let (place, other) = (served_before(), served_before());
    let out = place.file("out");
    std::fs::create_dir(&out).unwrap();
    let export = |place: &Place, name: &str| {
        let to = format!("oci-archive:{}/{name}", out.display());
        through(place, &upstream, &["export", "quay.io/acme/app:1", &to])
    };
    let mut killed = export(&place, "killed").spawn().unwrap();
    gate.reached().await;
    killed.kill().await.unwrap();
    assert_eq!(names(&out).len(), 1, "what it was writing");
    // One that is at work keeps its own, and only the dead one's goes.
    let living = export(&other, "living").spawn().unwrap();
    crate::support::eventually("only its own is left", || async {
        matches!(&names(&out)[..], [name] if name.starts_with(".standin-"))
    })
    .await;
    let next = Saved::of(&[(&["acme/small:1"], &[&Layer::plain(2, 1000)])]);
    place.seeded(&[&place.saved("small.tar", &next)]);
    let to = format!("oci-archive:{}/small", out.display());
    let small = through(&place, &upstream, &["export", "acme/small:1", &to]);
    let small = within("the small export", { small }.output())
        .await
        .unwrap();
    assert!(small.status.success(), "{small:?}");
    gate.open();
    let living = within("the other export", living.wait_with_output())
        .await
        .unwrap();
    assert!(living.status.success(), "{living:?}");
    assert_eq!(names(&out), ["living", "small"]);
}

/// What an export removes beside its destination is what exports leave, whatever else is called alike.
#[test]
fn an_export_removes_nothing_that_is_not_an_exports() {
    let place = Place::new();
    let saved = Saved::of(&[(&["acme/app:1"], &[&Layer::plain(2, 1000)])]);
    place.seeded(&[&place.saved("app.tar", &saved)]);
    let others = [
        ".standin-data",
        ".standin-export-mine",
        ".standin-0b0e3bd1-5a3c-4a8c-9d6e-0f2f3f6f7a11",
    ];
    for other in others {
        std::fs::create_dir(place.file(other)).unwrap();
        std::fs::write(place.file(other).join("kept"), "kept").unwrap();
    }
    let to = format!("oci:{}", place.file("out").display());
    let output = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["export", "--offline", "acme/app:1", &to])
        .arg("--data")
        .arg(place.builder.data())
        .arg("--state")
        .arg(place.builder.state())
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    for other in others {
        let kept = std::fs::read_to_string(place.file(other).join("kept"));
        assert_eq!(kept.ok().as_deref(), Some("kept"), "{other}");
    }
}
