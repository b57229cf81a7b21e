//! SIGKILL in the middle of fills, while upstreams cut bodies and a full cache makes room: nothing partial is ever served,
//! and the next request succeeds.

use std::{sync::Arc, time::Duration};

use rustix::process::Signal;
use tokio::{sync::watch, task::JoinSet};

use crate::support::{
    Client, FakeUpstream, Gate, Reply, TestRegistry, full,
    image::{Blob, Image, ImageBuilder},
    within,
};

const NAME: &str = "quay.io/acme/app";
/// Holds what can be under way at once, and not all images.
const CAP: &str = "5MiB";
const SHARED: usize = 1 << 20;
const LAYER: usize = 700_000;
const IMAGES: usize = 8;
/// Of the layer that is under way when the server is killed.
const VICTIM: usize = 2_000_000;

fn path_of(blob: &Blob) -> String {
    format!("/v2/acme/app/blobs/{}", blob.digest)
}

/// Pulls image after image, from number `turn` on, until the server is gone; tells each blob that came whole.
async fn pull_until_killed(
    client: Client,
    images: Arc<[Image]>,
    turn: usize,
    pulled: watch::Sender<usize>,
) {
    for n in (0..images.len()).cycle().skip(turn) {
        let image = &images[n];
        let manifest = format!("/v2/{NAME}/manifests/v{n}");
        let blobs = image
            .blobs()
            .map(|blob| (format!("/v2/{NAME}/blobs/{}", blob.digest), &blob.bytes));
        for (path, bytes) in [(manifest, &image.manifest.bytes)].into_iter().chain(blobs) {
            let Ok(answer) = client.get(&path).send().await else {
                return;
            };
            assert_eq!(answer.status(), 200, "{path}");
            let Ok(body) = answer.bytes().await else {
                return;
            };
            assert!(body == *bytes, "{path} came to its end with other bytes");
            pulled.send_modify(|count| *count += 1);
        }
    }
}

/// Pulls what does not come whole before the server is gone.
async fn wait_until_killed(client: Client, victim: Image, tag: String) {
    let manifest = format!("/v2/{NAME}/manifests/{tag}");
    let path = format!("/v2/{NAME}/blobs/{}", victim.layers[0].digest);
    let Ok(answer) = client.get(&manifest).send().await else {
        return;
    };
    assert_eq!(answer.status(), 200, "{manifest}");
    drop(answer.bytes().await);
    let Ok(answer) = client.get(&path).send().await else {
        return;
    };
    assert_eq!(answer.status(), 200, "{path}");
    assert!(
        answer.bytes().await.is_err(),
        "{path} came to an end, of which the upstream has not sent all"
    );
}

/// What is here without the upstream: each image is either whole or absent, and so is each blob.
async fn assert_whole_or_absent(client: &Client, tag: &str, image: &Image) {
    for blob in image.blobs() {
        let answer = client.get_blob(NAME, &blob.digest).await;
        match answer.status {
            200 => assert!(answer.body == blob.bytes, "{tag}: {}", blob.digest),
            _ => drop(answer.refused(404, "BLOB_UNKNOWN")),
        }
    }
    let answer = client.get_manifest(NAME, tag).await;
    match answer.status {
        200 => client.pull_image(NAME, tag, image).await,
        _ => drop(answer.refused(404, "MANIFEST_UNKNOWN")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_fills() {
    let rounds = if full() { 50 } else { 5 };
    let upstream = FakeUpstream::start().await;
    let shared = Blob::random(70_000, SHARED);
    let images: Arc<[Image]> = (0..IMAGES as u64)
        .map(|n| {
            ImageBuilder::new(71_000 + n)
                .shared(&shared)
                .layer(LAYER)
                .build()
        })
        .collect();
    for (n, image) in images.iter().enumerate() {
        upstream.add_image("acme/app", &format!("v{n}"), image);
    }
    let builder = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .args(["--cache-max-size", CAP]);
    let mut registry = builder.clone().start().await;
    let (mut evictions, mut resumptions) = (0, 0);
    for round in 0..rounds {
        let random = uuid::Uuid::new_v4().as_u128();
        let victim = ImageBuilder::new(72_000 + round).layer(VICTIM).build();
        let tag = format!("round{round}");
        upstream.add_image("acme/app", &tag, &victim);
        let gate = Gate::new();
        let gated = Reply::Gated {
            before: (random % 1_000_000) as usize,
            gate: gate.clone(),
        };
        let cut = Reply::Truncated { after: LAYER / 3 };
        let layer = path_of(&victim.layers[0]);
        // Should there be no room for it, each client has a stream of its own.
        let mut replies = vec![gated; 4];
        if round % 2 == 1 {
            replies.insert(0, cut.clone());
        }
        upstream.script("GET", &layer, replies);
        for image in images.iter() {
            let layer = path_of(&image.layers[1]);
            upstream.script("GET", &layer, [cut.clone(), cut.clone()]);
        }

        let mut clients = JoinSet::new();
        let pulled = watch::Sender::new(0);
        for turn in 0..2 {
            let (images, pulled) = (images.clone(), pulled.clone());
            let turn = turn * IMAGES / 2;
            clients.spawn(pull_until_killed(registry.client(), images, turn, pulled));
            clients.spawn(wait_until_killed(
                registry.client(),
                victim.clone(),
                tag.clone(),
            ));
        }
        gate.reached().await;
        // The moment is the point: anywhere in the middle of other fills, resumptions and evictions.
        let mut progress = pulled.subscribe();
        let wanted = (random >> 32) as usize % 30;
        let come_so_far = progress.wait_for(|count| *count >= wanted);
        drop(within("others are pulled", come_so_far).await);
        tokio::time::sleep(Duration::from_micros((random >> 64) as u64 % 20_000)).await;
        registry.signal(Signal::KILL);
        registry.exited().await;
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        gate.open();
        upstream.recover();
        evictions += registry.log().count(&["least recently used first"]);
        resumptions += registry.log().count(&["is asked for again from byte"]);
        println!("round {round}: killed with {} pulled", *pulled.borrow());

        let offline = builder.clone().args(["--offline"]).start().await;
        offline.store().assert_sound();
        let client = offline.client();
        let held = client.get_blob(NAME, &victim.layers[0].digest).await;
        held.refused(404, "BLOB_UNKNOWN");
        assert_whole_or_absent(&client, &tag, &victim).await;
        for (n, image) in images.iter().enumerate() {
            assert_whole_or_absent(&client, &format!("v{n}"), image).await;
        }
        offline.stop().await;

        registry = builder.clone().start().await;
        let client = registry.client();
        client.pull_image(NAME, &tag, &victim).await;
        for (n, image) in images.iter().enumerate() {
            client.pull_image(NAME, &format!("v{n}"), image).await;
        }
    }
    println!("{rounds} kills, {evictions} evictions, {resumptions} resumptions before them");
    assert!(evictions > 0 && resumptions > 0);
    registry.stop().await.store().assert_sound();
}
