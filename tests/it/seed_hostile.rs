//! Archives that mean harm, places that fail, and what was there before: what a seed believes, holds in memory and says.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::support::{
    TestRegistry, eventually, fixture,
    image::{Blob, DOCKER_MANIFEST, Manifest, sha256},
    saved::{Entry, Layer, Saved, config},
    seeding::{Place, refused, told},
    within,
};

#[tokio::test]
async fn what_is_under_a_tag_says_nothing_of_what_an_archive_becomes() {
    let layer = Layer::plain(1, 5000);
    let saved = Saved::of(&[(&["acme/app:1"], &[&layer])]);
    let place = Place::new();
    let source = place.saved("app.tar", &saved);
    let digest = place.seeded(&[&source])[0].1.clone();
    // Somebody pushes another layer under that config, in the very form that a seed has.
    let registry = place.builder.clone().start().await;
    let client = registry.client();
    let other = Blob::new(crate::support::saved::gzip(b"another layer"));
    client.push_blob("acme/app", &other).await;
    let held = client.get_manifest("acme/app", "1").await.expect(200);
    let text = String::from_utf8(held.body.to_vec()).unwrap();
    let manifest = held.json();
    let ours = &manifest["layers"][0];
    let text = text
        .replace(ours["digest"].as_str().unwrap(), &other.digest)
        .replace(
            &format!("\"size\":{}", ours["size"]),
            &format!("\"size\":{}", other.bytes.len()),
        );
    let pushed = Manifest {
        digest: sha256(text.as_bytes()),
        bytes: text.into(),
        media_type: DOCKER_MANIFEST.to_owned(),
    };
    client
        .put_manifest("acme/app", "1", &pushed)
        .await
        .expect(201);
    let _stopped = registry.stop().await;
    assert_eq!(place.seeded(&[&source])[0].1, digest);
}

/// `standin seed` that may have so much memory, in KiB.
fn limited(place: &Place, kib: usize, source: &str) -> Output {
    let seed = place.command(&[source]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", &format!("ulimit -v {kib}; exec \"$0\" \"$@\"")])
        .arg(seed.get_program())
        .args(seed.get_args())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null());
    limited.output().unwrap()
}

#[test]
fn what_an_archive_says_is_held_once_and_within_bounds() {
    // Many images of one large config: what is in memory is what is in the archive.
    let layer = Layer::plain(1, 10);
    let padded = format!(
        "{}{}",
        String::from_utf8(config(&[&layer])).unwrap().trim_end(),
        " ".repeat(6 << 20)
    );
    let entry = |nth: usize| json!({"Config": "c.json", "RepoTags": [format!("acme/app:{nth}")], "Layers": ["l"]});
    let with = |images: usize| {
        let mut saved = Saved::default();
        saved.put("l", &layer.packed);
        saved.put("c.json", padded.as_bytes());
        let listing: Vec<Value> = (0..images).map(entry).collect();
        saved.put("manifest.json", json!(listing).to_string().as_bytes());
        saved
    };
    let place = Place::new();
    let output = limited(&place, 1_000_000, &place.saved("many.tar", &with(200)));
    assert_eq!(told(&output).len(), 200);
    let place = Place::new();
    let output = limited(&place, 1_000_000, &place.saved("many.tar", &with(1001)));
    let said = refused(&output);
    assert!(said.contains("1001 images"), "{said}");
    place.assert_untouched(&said);
}

#[test]
fn headers_that_say_they_are_enormous_are_not_read() {
    for kind in [tar::EntryType::XHeader, tar::EntryType::GNULongName] {
        let place = Place::new();
        let path = place.file("huge.tar");
        let mut header = tar::Header::new_ustar();
        header.set_path("name").unwrap();
        header.set_entry_type(kind);
        header.set_size(3 << 30);
        header.set_cksum();
        std::fs::write(&path, header.as_bytes()).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len((3 << 30) + 4096).unwrap();
        let source = format!("docker-archive:{}", path.display());
        let said = refused(&limited(&place, 2_000_000, &source));
        assert!(
            said.contains("huge.tar") && said.contains("a header has more than"),
            "{said}"
        );
    }
}

#[test]
fn an_entry_twice_is_none_too_many_if_it_is_the_same() {
    let layer = Layer::plain(1, 1000);
    let mut saved = Saved::of(&[(&["acme/app:1"], &[&layer])]);
    let name = saved.named(".json");
    let bytes = config(&[&layer]);
    saved
        .entries
        .push((name.clone(), Entry::File(bytes.clone())));
    let place = Place::new();
    assert_eq!(place.seeded(&[&place.saved("twice.tar", &saved)]).len(), 1);
    let mut other = bytes;
    other[0] = b'\n';
    saved.entries.push((name.clone(), Entry::File(other)));
    let place = Place::new();
    let said = refused(&place.seed(&[&place.saved("twice.tar", &saved)]));
    assert!(said.contains(&name) && said.contains("twice"), "{said}");
}

#[test]
fn names_in_an_archive_write_no_lines_of_their_own() {
    let layer = Layer::plain(1, 1000);
    let name = "x\u{1b}[31m\n::error::owned\n";
    let mut saved = Saved::of(&[(&["acme/app:1"], &[&layer])]);
    saved.listing(|listing| listing[0]["Config"] = json!(format!("{name}{}", "y".repeat(100_000))));
    let place = Place::new();
    let said = refused(&place.seed(&[&place.saved("app.tar", &saved)]));
    assert!(said.contains("error::owned") && said.len() < 1000, "{said}");
    assert!(
        !said.contains("\n::") && !said.contains('\u{1b}'),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_layer_that_a_layout_lacks_is_missed_whoever_has_it() {
    let place = Place::new();
    let whole = fixture("hello");
    place.seeded(&[&format!("oci:{}=acme/whole:1", whole.display())]);
    let lacking = place.file("lacking");
    copy(&whole, &lacking);
    let blobs = lacking.join("blobs/sha256");
    let largest = std::fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap());
    let largest = largest
        .max_by_key(|entry| entry.metadata().unwrap().len())
        .unwrap();
    std::fs::remove_file(largest.path()).unwrap();
    let said = refused(&place.seed(&[&format!("oci:{}=acme/lacking:1", lacking.display())]));
    assert!(
        said.contains(largest.file_name().to_str().unwrap()),
        "{said}"
    );
    let registry = place.builder.start().await;
    registry
        .client()
        .head_manifest("acme/lacking", "1")
        .await
        .expect(404);
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .arg("-r")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(copied.success());
}

#[tokio::test]
async fn a_pipe_that_nobody_writes_to_keeps_no_signal_from_being_heard() {
    let place = Place::new();
    let pipe = place.file("pipe.tar");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let source = format!("docker-archive:{}", pipe.display());
    let mut command = tokio::process::Command::from(place.command(&[&source]));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id().unwrap();
    let status = format!("/proc/{pid}/status");
    // The signal is waited for once it is caught: SIGTERM is bit 14.
    eventually("it listens", || async {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 14) != 0)
    })
    .await;
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
    let output = within("its end", child.wait_with_output()).await.unwrap();
    assert!(refused(&output).contains("interrupted"));

    // With somebody who writes it is an archive like another.
    let layer = Layer::plain(1, 300_000);
    let bytes = Saved::of(&[(&["acme/app:1"], &[&layer])]).bytes();
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || std::fs::write(pipe, bytes).unwrap())
    };
    assert_eq!(place.seeded(&[&source])[0].0, "acme/app:1");
    writer.join().unwrap();

    // In a layout it is no file.
    let layout = place.file("layout");
    std::fs::create_dir(&layout).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(layout.join("oci-layout"))
            .status()
            .unwrap()
            .success()
    );
    let said = refused(&place.seed(&[&format!("oci:{}", layout.display())]));
    assert!(said.contains("no regular file"), "{said}");
}

#[tokio::test]
async fn a_place_without_room_is_not_told_as_the_fault_of_a_client() {
    let place = Place::new();
    let layer = Layer::plain(1, 3_000_000);
    place.saved("app.tar", &Saved::of(&[(&["app:1"], &[&layer])]));
    let archive = place.file("app.tar");
    let cat = format!("exec /bin/cat {}", archive.display());
    // One that has opened its output for reading too never hears that nobody takes it.
    let deaf = format!("{cat} 1<>/dev/stdout");
    let bin = place.program("docker", &cat);
    place.program("buildah", &deaf);
    let registry = TestRegistry::start().await;
    let url = format!("http://{}", registry.address());
    for source in ["docker-daemon:app:1", "containers-storage:app:1"] {
        let output = Command::new(env!("CARGO_BIN_EXE_standin"))
            .args(["seed", "--to", &url, source])
            .env_clear()
            .env("PATH", &bin)
            .env("TMPDIR", "/no/such/directory")
            .output()
            .unwrap();
        let said = refused(&output);
        assert!(
            said.contains("/no/such/directory") && said.contains("TMPDIR"),
            "{said}"
        );
        assert!(!said.contains(" says: "), "{said}");
    }
}

#[test]
fn json_tells_what_is_there_although_the_rest_failed() {
    let place = Place::new();
    let hello = format!("oci:{}=acme/hello:1", fixture("hello").display());
    let output = place.seed(&["--json", &hello, "oci:/no/such/layout"]);
    assert_eq!(output.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json[0]["name"], "acme/hello:1");
}
