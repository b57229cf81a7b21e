//! A data directory that travels: what one job kept, another finds, at another path, in another process, on another
//! machine's keys. As a CI's cache step does it, that is through an archive.

use std::{fs, path::Path, process::Command};

use crate::support::{FakeUpstream, TestRegistry, image::Image};

/// Through tar, as caches store it, and the first directory is gone.
fn carry(from: &Path, to: &Path) {
    let archive = from.with_extension("tar");
    fs::create_dir_all(to).unwrap();
    for (action, directory) in [("-c", from), ("-x", to)] {
        let mut tar = Command::new("tar");
        tar.args([action, "-f"]).arg(&archive).arg("-C");
        tar.arg(directory);
        if action == "-c" {
            tar.arg(".");
        }
        assert!(tar.status().unwrap().success());
    }
    fs::remove_dir_all(from).unwrap();
}

/// The files below `directory`, with what is in them.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found
}

#[tokio::test]
async fn a_directory_is_moved_and_everything_is_found() {
    let upstream = FakeUpstream::start().await;
    let (pushed, pulled, shadow) = (Image::small(1), Image::small(2), Image::small(3));
    upstream.add_image("acme/base", "1", &pulled);
    upstream.add_image("acme/tool", "1", &pulled);

    let first = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .start()
        .await;
    first.client().push_image("acme/app", "v1", &pushed).await;
    first
        .client()
        .push_image("quay.io/acme/tool", "1", &shadow)
        .await;
    first
        .client()
        .pull_image("quay.io/acme/base", "1", &pulled)
        .await;
    let home = first.home().display().to_string();
    let old_ca = fs::read(first.ca()).unwrap();
    let visible = first.store().visible();
    let first = first.stop().await;

    for (path, bytes) in files(&first.data()) {
        let names_home = bytes
            .windows(home.len())
            .any(|part| part == home.as_bytes());
        assert!(!names_home, "{path} says where the directory was");
        let holds_key = bytes.windows(11).any(|part| part == b"PRIVATE KEY");
        assert!(!holds_key, "{path} is a key that would travel");
    }

    let asked = upstream.requests().len();
    let second = TestRegistry::builder();
    let (data, state) = (second.home().join("cache/of the job"), second.state());
    carry(&first.data(), &data);
    let second = second
        .directories(data, state)
        .registry("quay.io", &upstream.url())
        .args(["--offline"])
        .start()
        .await;
    let client = second.tls_client();
    client.pull_image("acme/app", "v1", &pushed).await;
    client.pull_image("quay.io/acme/tool", "1", &shadow).await;
    client.pull_image("quay.io/acme/base", "1", &pulled).await;
    assert_eq!(upstream.requests().len(), asked, "it was asked again");
    assert_ne!(fs::read(second.ca()).unwrap(), old_ca, "keys stay behind");
    assert_eq!(second.store().visible(), visible);
    second.stop().await.store().assert_sound();
}

#[tokio::test]
async fn a_directory_that_was_copied_while_it_was_in_use_is_sound() {
    let first = TestRegistry::start().await;
    let image = Image::small(4);
    first.client().push_image("acme/app", "v1", &image).await;
    let second = TestRegistry::builder();
    let (data, state) = (second.home().join("copy"), second.state());
    let copied = Command::new("cp")
        .arg("-a")
        .args([&first.again().data(), &data])
        .status();
    assert!(copied.unwrap().success());
    // The lock came along, with the number of a process that runs, and holds something else.
    let second = second.directories(data, state).start().await;
    second.client().pull_image("acme/app", "v1", &image).await;
    first.client().pull_image("acme/app", "v1", &image).await;
}
