//! Exports to where something is already: another export, what a killed one has left, damage, links.

use std::{
    fs::{self, File},
    mem::MaybeUninit,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    process::{Command, Output, Stdio},
};

use rustix::fs::{FlockOperation, flock, inotify};

use crate::support::{TestRegistry, eventually, fixture, image::sha256, within};

/// One with three images.
async fn registry() -> TestRegistry {
    let seeds = [
        ("hello", "acme/hello:1"),
        ("hello", "acme/again:2"),
        ("multi", "acme/multi:3"),
    ];
    let seeds = seeds.map(|(name, to)| {
        let source = format!("oci:{}={to}", fixture(name).display());
        ["--seed".to_owned(), source]
    });
    TestRegistry::builder().args(seeds.concat()).start().await
}

fn command(from: &TestRegistry, image: &str, to: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_standin"));
    command
        .args(["export", "--from", &format!("http://{}", from.address())])
        .args([image, to])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn done(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn export(from: &TestRegistry, image: &str, to: &str) {
    done(&command(from, image, to).output().unwrap());
}

fn oci(path: &Path) -> String {
    format!("oci:{}", path.display())
}

fn names(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// What a layout holds by name, all of whose blobs are what they are called.
fn sound(layout: &Path) -> Vec<String> {
    assert_eq!(names(layout), ["blobs", "index.json", "oci-layout"]);
    let blobs = layout.join("blobs/sha256");
    for name in names(&blobs) {
        let bytes = fs::read(blobs.join(&name)).unwrap();
        assert_eq!(sha256(&bytes), format!("sha256:{name}"));
    }
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let entries = index["manifests"].as_array().unwrap().iter();
    let named = entries.map(|entry| {
        let hex = entry["digest"].as_str().unwrap().replace("sha256:", "");
        assert!(blobs.join(hex).exists(), "{entry}");
        let name = &entry["annotations"]["io.containerd.image.name"];
        name.as_str().unwrap().to_owned()
    });
    let mut named: Vec<String> = named.collect();
    named.sort();
    named
}

#[tokio::test]
async fn exports_into_one_layout_at_once_take_turns() {
    let (from, place) = (registry().await, tempfile::tempdir().unwrap());
    let layout = place.path().join("layout");
    export(&from, "acme/hello:1", &oci(&layout));
    // Both have all at hand, and neither has read the index, when they may.
    let turn = File::open(&layout).unwrap();
    flock(&turn, FlockOperation::LockExclusive).unwrap();
    let export = |image| {
        let command = command(&from, image, &oci(&layout));
        tokio::process::Command::from(command).spawn().unwrap()
    };
    let both = ["acme/again:2", "acme/multi:3"].map(export);
    let inode = format!(":{} ", fs::metadata(&layout).unwrap().ino());
    eventually("both wait for their turn", || async {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let waits = |line: &&str| line.contains("-> FLOCK") && line.contains(&inode);
        locks.lines().filter(waits).count() == 2
    })
    .await;
    drop(turn);
    for child in both {
        done(&within("its turn", child.wait_with_output()).await.unwrap());
    }
    assert_eq!(
        sound(&layout),
        ["again:2", "hello:1", "multi:3"].map(|name| format!("docker.io/acme/{name}"))
    );
}

/// Whatever kills an export, its directory is one that the next takes.
#[tokio::test]
async fn an_empty_directory_is_a_layout_before_it_holds_anything() {
    let (from, place) = (registry().await, tempfile::tempdir().unwrap());
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    let comes = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, place.path(), comes).unwrap();
    export(&from, "acme/hello:1", &oci(place.path()));
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    let mut come = Vec::new();
    while let Ok(event) = events.next() {
        let name = event.file_name().unwrap().to_str().unwrap();
        if !name.starts_with(".standin-export-") {
            come.push(name.to_owned());
        }
    }
    assert_eq!(come, ["oci-layout", "blobs", "index.json"]);
    // As far as one got that was killed at a blob.
    fs::remove_file(place.path().join("index.json")).unwrap();
    let blobs = place.path().join("blobs/sha256");
    for name in names(&blobs).iter().skip(1) {
        fs::remove_file(blobs.join(name)).unwrap();
    }
    let left = ".standin-export-0b0e3bd1-5a3c-4a8c-9d6e-0f2f3f6f7a11";
    fs::create_dir_all(place.path().join(left).join("blobs/sha256")).unwrap();
    export(&from, "acme/hello:1", &oci(place.path()));
    assert_eq!(sound(place.path()), ["docker.io/acme/hello:1"]);
}

#[tokio::test]
async fn a_damaged_blob_of_the_right_size_is_replaced() {
    let (from, place) = (registry().await, tempfile::tempdir().unwrap());
    let layout = place.path().join("layout");
    export(&from, "acme/hello:1", &oci(&layout));
    let blobs = layout.join("blobs/sha256");
    for name in names(&blobs) {
        let size = fs::metadata(blobs.join(&name)).unwrap().len();
        fs::write(blobs.join(&name), vec![0; size as usize]).unwrap();
        export(&from, "acme/hello:1", &oci(&layout));
        assert_eq!(sound(&layout), ["docker.io/acme/hello:1"], "{name}");
    }
    let mut again = command(&from, "acme/hello:1", &oci(&layout));
    let output = again.arg("--json").output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told[0]["blobs"], 0, "what is right is written again");
}

#[tokio::test]
async fn a_link_is_followed_whether_or_not_anything_is_there() {
    let (from, place) = (registry().await, tempfile::tempdir().unwrap());
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at("elsewhere")).unwrap();
    for transport in ["oci", "oci-archive", "docker-archive"] {
        let (link, target) = (at(transport), at("elsewhere").join(transport));
        // By way of another one, and relative to where it lies.
        symlink(Path::new("elsewhere").join("next"), &link).unwrap();
        symlink(transport, at("elsewhere/next")).unwrap();
        let to = format!("{transport}:{}", link.display());
        for _ in ["when nothing is there", "and when it is"] {
            export(&from, "acme/hello:1", &to);
            assert!(link.is_symlink() && !target.is_symlink(), "{transport}");
            assert!(target.exists(), "{transport}");
        }
        fs::remove_file(at("elsewhere/next")).unwrap();
        fs::remove_file(&link).unwrap();
        let nowhere = at("no").join("where");
        symlink(&nowhere, &link).unwrap();
        let output = command(&from, "acme/hello:1", &to).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for fragment in [nowhere.to_str().unwrap(), "make its directory first"] {
            assert!(said.contains(fragment), "{transport}: {said}");
        }
        assert_eq!(fs::read_link(&link).unwrap(), nowhere, "{transport}");
    }
    let three = ["docker-archive", "oci", "oci-archive"];
    assert_eq!(names(&at("elsewhere")), three);
}

#[tokio::test]
async fn what_goes_to_standard_output_is_put_together_where_tmpdir_says() {
    let (from, place) = (registry().await, tempfile::tempdir().unwrap());
    let nowhere = place.path().join("no/where");
    for transport in ["oci-archive", "docker-archive"] {
        let mut command = command(&from, "acme/hello:1", &format!("{transport}:-"));
        let output = command.env("TMPDIR", &nowhere).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for fragment in [nowhere.to_str().unwrap(), "TMPDIR", "No such file"] {
            assert!(said.contains(fragment), "{said}");
        }
        let output = command.env("TMPDIR", place.path()).output().unwrap();
        done(&output);
        assert!(!output.stdout.is_empty());
    }
    assert_eq!(names(place.path()), [""; 0]);
}
