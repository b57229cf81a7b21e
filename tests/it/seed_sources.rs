//! Images from what docker, podman, buildah and other registries have, and from a pipe.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{
    FakeUpstream, TestRegistry, eventually,
    image::Image,
    job::pid,
    registry::Builder,
    saved::{Layer, Saved},
    seeding::{Place, output_of, refused, told},
    within,
};

#[test]
fn standard_input_is_for_one() {
    let layer = Layer::plain(1, 1000);
    let whole = Saved::of(&[(&["acme/app:1"], &[&layer])]).bytes();
    let place = Place::new();
    let twice = place.piped(&["docker-archive:-", "oci-archive:-"], &whole);
    let said = String::from_utf8_lossy(&twice.stderr);
    assert_eq!(twice.status.code(), Some(2), "{said}");
    assert!(said.contains("read once"), "{said}");
    // The command's own.
    let mut run = Command::new(env!("CARGO_BIN_EXE_standin"));
    run.args(["run", "--seed", "docker-archive:-", "--", "cat"]);
    let run = run.env_clear().stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(said.contains("standin seed docker-archive:-"), "{said}");
    // A server that is left running has read it before.
    let directories = |command: &mut Command| {
        let (data, state) = (place.builder.data(), place.builder.state());
        command.arg("--data").arg(data).arg("--state").arg(state);
    };
    let mut serve = Command::new(env!("CARGO_BIN_EXE_standin"));
    serve.args([
        "serve",
        "--detach",
        "--listen",
        "127.0.0.1:0",
        "--seed",
        "docker-archive:-",
    ]);
    directories(serve.env_clear());
    let told = output_of(&mut serve, &whole);
    assert!(told.status.success(), "{told:?}");
    let mut export = Command::new(env!("CARGO_BIN_EXE_standin"));
    export.args(["export", "acme/app:1", "oci-archive:-"]);
    directories(export.env_clear());
    let exported = export.output().unwrap();
    let mut stop = Command::new(env!("CARGO_BIN_EXE_standin"));
    stop.arg("stop");
    directories(stop.env_clear());
    assert!(stop.status().unwrap().success());
    assert!(exported.status.success(), "{exported:?}");
}

#[tokio::test]
async fn a_signal_ends_a_seed_that_waits_for_its_input() {
    let layer = Layer::plain(1, 3_000_000);
    let whole = Saved::of(&[(&["acme/app:1"], &[&layer])]).bytes();
    let place = Place::new();
    let mut command = tokio::process::Command::from(place.command(&["docker-archive:-"]));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than a pipe holds: once it is written, somebody has read.
    tokio::io::AsyncWriteExt::write_all(&mut stdin, &whole[..1_000_000])
        .await
        .unwrap();
    let pid = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = within("the end of the seed", child.wait_with_output())
        .await
        .unwrap();
    let said = refused(&output);
    assert!(said.contains("interrupted"), "{said}");
    place.assert_untouched(&said);
    drop(stdin);
}

#[tokio::test]
async fn a_signal_ends_a_seed_that_waits_for_a_client() {
    for (name, source) in [
        ("docker", "docker-daemon:app:1"),
        ("buildah", "containers-storage:app:1"),
    ] {
        let place = Place::new();
        let begun = place.file("begun");
        let script = format!(
            "echo $$ >{0}.new; /bin/mv {0}.new {0}; exec /bin/sleep 1h 1<>/dev/stdout",
            begun.display()
        );
        let bin = place.program(name, &script);
        let mut command = tokio::process::Command::from(place.command(&[source]));
        command.env("PATH", bin);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        eventually("the client is asked", || async { begun.exists() }).await;
        let ours = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        kill_process(ours, Signal::TERM).unwrap();
        let output = within("the end of the seed", child.wait_with_output())
            .await
            .unwrap();
        let said = refused(&output);
        assert!(said.contains("interrupted"), "{name}: {said}");
        place.assert_untouched(&said);
        let client = pid(&std::fs::read_to_string(&begun).unwrap());
        assert!(test_kill_process(client).is_err(), "{name} goes on");
    }
}

/// Only what the test has put into `bin` is docker, podman or buildah.
fn with_path(place: &Place, bin: &Path, source: &str) -> Output {
    let mut command = place.command(&[source]);
    command.env("PATH", bin).output().unwrap()
}

#[test]
fn images_of_docker_podman_and_buildah_come_by_their_own_export() {
    let layer = Layer::plain(1, 300_000);
    let saved = Saved::of(&[(&["localhost/app:1"], &[&layer])]);
    let place = Place::new();
    place.saved("app.tar", &saved);
    let archive = place.file("app.tar");
    let archive = archive.display();
    let bin = place.program(
        "docker",
        &format!("[ \"$*\" = 'save -- app:1' ] && /bin/cat {archive}"),
    );
    let seeded = told(&with_path(&place, &bin, "docker-daemon:app:1"));
    assert_eq!(seeded[0].0, "app:1");

    // podman is not there, so buildah is asked, which writes to a path, and opens it for reading as well.
    let script = format!(
        "[ \"$*\" = 'push --quiet -- app:1 docker-archive:/dev/stdout:app:1' ] && exec /bin/cat {archive} 1<>/dev/stdout"
    );
    let place = Place::new();
    let bin = place.program("buildah", &script);
    let output = with_path(&place, &bin, "containers-storage:app:1");
    assert_eq!(told(&output), seeded);

    for (script, fragment) in [
        (
            "echo 'no such image: app' >&2; exit 3",
            "docker says: no such image: app",
        ),
        ("exit 3", "docker ended with exit status: 3"),
        ("/usr/bin/head -c 1000 /dev/urandom", "no tar archive"),
    ] {
        let place = Place::new();
        let bin = place.program("docker", script);
        let said = refused(&with_path(&place, &bin, "docker-daemon:app"));
        assert!(said.contains(fragment), "{said}");
        assert!(said.contains("docker-daemon:app"), "{said}");
        place.assert_untouched(&said);
    }
    let place = Place::new();
    let bin = place.file("nothing");
    let said = refused(&with_path(&place, &bin, "containers-storage:app"));
    assert!(said.contains("podman or buildah"), "{said}");
}

// The upstream answers while a command is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_another_registry_becomes_the_jobs_own() {
    let image = Image::small(7);
    let upstream = FakeUpstream::start().await;
    upstream.add_image("acme/tool", "1", &image);
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let at = |source: &str, builder: &Builder| {
        Command::new(env!("CARGO_BIN_EXE_standin"))
            .args(["seed", "--data", builder.data().to_str().unwrap()])
            .args(["--state", builder.state().to_str().unwrap(), source])
            .env_clear()
            .env("STANDIN_REGISTRY", format!("quay.io={}", upstream.url()))
            .output()
            .unwrap()
    };
    let own = |name: &str| [(name.to_owned(), image.manifest.digest.clone())];
    // Into the directory, and then through the one that runs.
    let seeded = told(&at("docker://quay.io/acme/tool:1", &builder));
    assert_eq!(seeded, own("quay.io/acme/tool:1"));
    let registry = builder.clone().start().await;
    let seeded = told(&at("docker://quay.io/acme/tool:1=mine:2", &builder));
    assert_eq!(seeded, own("mine:2"));
    let by_digest = format!("docker://quay.io/acme/tool@{}", image.manifest.digest);
    assert!(refused(&at(&by_digest, &builder)).contains("no tag"));
    let seeded = told(&at(&format!("{by_digest}=mine:3"), &builder));
    assert_eq!(seeded, own("mine:3"));
    let said = refused(&at("docker://quay.io/acme/none:1", &builder));
    assert!(said.contains("quay.io/acme/none"), "{said}");
    // From now on nobody has to be asked.
    drop(upstream);
    let client = registry.client();
    for (name, tag) in [("quay.io/acme/tool", "1"), ("mine", "2"), ("mine", "3")] {
        client.pull_image(name, tag, &image).await;
    }
    registry.store().assert_sound();
}
