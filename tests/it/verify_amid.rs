//! `standin verify` while a standin works on the directory, and interrupted or killed on the way.

use std::{
    fs,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{
    Exchange, FakeUpstream, PATIENCE, TestRegistry, eventually, full,
    image::{Image, ImageBuilder},
    program::{copy, json, killed_at, refused, standin, told},
    store::{content, flip},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_a_standin_does_meanwhile_is_nothing_wrong() {
    let upstream = FakeUpstream::start().await;
    let pulled = [0, 1, 2].map(|n| ImageBuilder::new(100 + n).layer(200_000).build());
    for (n, image) in pulled.iter().enumerate() {
        upstream.add_image(&format!("acme/{n}"), "1", image);
    }
    // A cache in which there is room for one image, so that each pull evicts.
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .args(["--cache-max-size", "300KiB"])
        .start()
        .await;
    let data = registry.again().data();
    let over = Arc::new(AtomicBool::new(false));
    let mut work = JoinSet::new();
    for pusher in 0..4 {
        let (client, over) = (registry.client(), over.clone());
        work.spawn(async move {
            let (name, image) = (format!("acme/app{pusher}"), Image::small(110 + pusher));
            let path = format!("/v2/{name}/manifests/{}", image.manifest.digest);
            for round in 0.. {
                if over.load(Ordering::SeqCst) {
                    return round;
                }
                client.push_image(&name, "1", &image).await;
                client.delete(&path).answer().await.expect(202);
            }
            0
        });
    }
    let (client, ended) = (registry.client(), over.clone());
    work.spawn(async move {
        for round in 0.. {
            for (n, image) in pulled.iter().enumerate() {
                if ended.load(Ordering::SeqCst) {
                    return round;
                }
                let name = format!("quay.io/acme/{n}");
                client.pull_image(&name, "1", image).await;
            }
        }
        0
    });
    let looks = tokio::task::spawn_blocking(move || {
        let rounds = if full() { 100 } else { 20 };
        for _ in 0..rounds {
            let verified = json(&data, &["verify"], 0);
            assert_eq!(verified["faults"], Value::Array(Vec::new()));
            json(&data, &["list"], 0);
            json(&data, &["prune", "--dry-run", "--all-cached"], 0);
        }
    });
    let looked = looks.await;
    over.store(true, Ordering::SeqCst);
    while let Some(rounds) = work.join_next().await {
        assert!(rounds.unwrap() > 1, "nothing was done meanwhile");
    }
    looked.unwrap();
    registry.stop().await.store().assert_sound();
}

#[tokio::test]
async fn a_repair_that_is_killed_anywhere_is_gone_on_with() {
    const MANY: usize = 30;
    let upstream = FakeUpstream::start().await;
    let images: Vec<Image> = (0..MANY as u64).map(|n| Image::small(400 + n)).collect();
    for (n, image) in images.iter().enumerate() {
        upstream.add_image("acme/many", &format!("v{n}"), image);
    }
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let registry = builder.start().await;
    let client = registry.client();
    let kept = Image::small(399);
    client.push_image("acme/kept", "1", &kept).await;
    for (n, image) in images.iter().enumerate() {
        let tag = format!("v{n}");
        client.pull_image("quay.io/acme/many", &tag, image).await;
        client.push_image("acme/many", &tag, image).await;
    }
    let builder = registry.stop().await;
    for image in &images {
        flip(&builder.data().join(content(&image.layers[0].digest)));
    }
    let mut kills = 0;
    // Two entries of each image go, then its layer.
    for at in [1, MANY, 2 * MANY + 5, 3 * MANY - 3] {
        let data = builder.home().join("copy");
        copy(&builder.data(), &data);
        let copied = builder.clone().directories(data.clone(), builder.state());
        let moved = || copied.store().below("quarantine").len() >= at;
        if killed_at(&data, &["verify", "--repair"], moved) {
            kills += 1;
        }
        let left = MANY - copied.store().below("quarantine/1/blobs").len();
        let found = json(&data, &["verify"], i32::from(left > 0));
        assert_eq!(found["faults"].as_array().unwrap().len(), left, "{at}");
        standin(&data, &["verify", "--repair"]);
        told(&standin(&data, &["verify"]), 0);
        let registry = copied.clone().start().await;
        let client = registry.client();
        client.pull_image("acme/kept", "1", &kept).await;
        for (n, image) in images.iter().enumerate() {
            let tag = format!("v{n}");
            let gone = client.get_manifest("acme/many", &tag).await;
            gone.refused(404, "MANIFEST_UNKNOWN");
            client.pull_image("quay.io/acme/many", &tag, image).await;
        }
        registry.stop().await;
        assert_eq!(copied.store().below("quarantine").len(), 3 * MANY, "{at}");
        fs::remove_dir_all(data).unwrap();
    }
    assert!(kills >= 3, "only {kills} were killed in time");
}

#[tokio::test]
async fn ctrl_c_ends_it_and_nothing_was_changed() {
    let builder = TestRegistry::start().await.stop().await;
    // Content that takes long to hash, and no room.
    let file = builder
        .data()
        .join(content(&format!("sha256:{}", "ab".repeat(32))));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    let before = builder.store().listing();
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_standin"))
            .args(["verify", "--repair", "--data"])
            .arg(builder.data())
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let open = format!("/proc/{}/fd", child.id());
        eventually("it reads the file", || async {
            let files = fs::read_dir(&open).unwrap();
            let mut files = files.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            files.any(|open| open == file)
        })
        .await;
        kill_process(Pid::from_child(&child), signal).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let said = refused(&child.wait_with_output().unwrap(), 1);
        assert!(said.contains("interrupted"), "{said}");
    }
    assert_eq!(builder.store().listing(), before);
}
