//! SIGKILL at random moments: what was acknowledged is there after the restart, everything visible is whole, and nothing
//! is left of what was under way.

use std::{sync::Arc, time::Duration};

use rustix::process::Signal;
use tokio::{sync::watch, task::JoinSet};

use crate::support::{
    Client, FakeUpstream, TestRegistry,
    client::finish,
    full,
    image::{Blob, Image, ImageBuilder},
    within,
};

/// What the server has said 201 to.
#[derive(Default)]
struct Acknowledged {
    blobs: Vec<(String, Blob)>,
    images: Vec<(String, Image)>,
}

type Ledger = Arc<watch::Sender<Acknowledged>>;

/// Pushes image after image until the server is gone.
async fn push_until_killed(client: Client, pusher: u64, ledger: Ledger) {
    let name = format!("acme/app{}", pusher % 2);
    for turn in 0.. {
        // Two pushers share each name, and every second image.
        let seed = 100 * if turn % 2 == 0 { pusher } else { pusher % 2 } + turn;
        let image = ImageBuilder::new(seed).layer(300_000).layer(10).build();
        for (n, blob) in image.blobs().enumerate() {
            if !push_blob(&client, &name, blob, n % 2 == 0).await {
                return;
            }
            let pushed = (name.clone(), blob.clone());
            ledger.send_modify(|acknowledged| acknowledged.blobs.push(pushed));
        }
        let put = client
            .put(&format!("/v2/{name}/manifests/v{seed}"))
            .header("content-type", &image.manifest.media_type)
            .body(image.manifest.bytes.clone());
        match put.send().await {
            Ok(answer) => assert_eq!(answer.status(), 201),
            Err(_) => return,
        }
        let pushed = (format!("{name}:v{seed}"), image);
        ledger.send_modify(|acknowledged| acknowledged.images.push(pushed));
    }
}

/// Whether the push was acknowledged; if not, the server is gone.
async fn push_blob(client: &Client, name: &str, blob: &Blob, chunked: bool) -> bool {
    let post = client.post(&format!("/v2/{name}/blobs/uploads/"));
    let Ok(opened) = post.send().await else {
        return false;
    };
    let location = opened.headers()["location"].to_str().unwrap().to_owned();
    if chunked {
        let half = blob.bytes.slice(..blob.bytes.len() / 2);
        if client.patch(&location).body(half).send().await.is_err() {
            return false;
        }
    }
    let from = if chunked { blob.bytes.len() / 2 } else { 0 };
    let put = client.put(&finish(&location, &blob.digest));
    match put.body(blob.bytes.slice(from..)).send().await {
        Ok(answer) => {
            assert_eq!(answer.status(), 201);
            true
        }
        Err(_) => false,
    }
}

/// Pulls image after image through, until the server is gone.
async fn pull_until_killed(client: Client, images: Arc<Vec<Image>>) {
    for (n, image) in images.iter().enumerate() {
        let mut paths = vec![format!("manifests/v{n}")];
        paths.extend(image.blobs().map(|blob| format!("blobs/{}", blob.digest)));
        for path in paths {
            let get = client.get(&format!("/v2/quay.io/acme/app/{path}"));
            let Ok(answer) = get.send().await else { return };
            assert_eq!(answer.status(), 200, "{path}");
            if answer.bytes().await.is_err() {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_everything() {
    let rounds = if full() { 50 } else { 5 };
    let upstream = FakeUpstream::start().await;
    let images: Vec<Image> = (0..40)
        .map(|n| ImageBuilder::new(5000 + n).layer(400_000).build())
        .collect();
    for (n, image) in images.iter().enumerate() {
        upstream.add_image("acme/app", &format!("v{n}"), image);
    }
    let images = Arc::new(images);
    for round in 0..rounds {
        let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
        let mut registry = builder.start().await;
        let ledger = Ledger::new(watch::Sender::new(Acknowledged::default()));
        let mut clients = JoinSet::new();
        for pusher in 0..4 {
            let ledger = ledger.clone();
            clients.spawn(push_until_killed(registry.client(), pusher, ledger));
        }
        for _ in 0..2 {
            clients.spawn(pull_until_killed(registry.client(), images.clone()));
        }
        // The moment is the point: anywhere between the first request and a store full of content.
        let random = uuid::Uuid::new_v4().as_u128();
        let pushes = (random % 60) as usize;
        let moment = Duration::from_micros((random >> 64) as u64 % 30_000);
        let mut progress = ledger.subscribe();
        let come_so_far = progress.wait_for(|so_far| so_far.blobs.len() >= pushes);
        drop(within("pushes are acknowledged", come_so_far).await);
        tokio::time::sleep(moment).await;
        registry.signal(Signal::KILL);
        registry.exited().await;
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let ledger = ledger.send_replace(Acknowledged::default());
        println!(
            "round {round}: killed with {} blobs and {} images acknowledged",
            ledger.blobs.len(),
            ledger.images.len()
        );

        let registry = registry.again().start().await;
        registry.store().assert_sound();
        let client = registry.client();
        for (name, blob) in &ledger.blobs {
            let there = client.get_blob(name, &blob.digest).await.expect(200);
            assert!(there.body == blob.bytes, "{name}: {}", blob.digest);
        }
        for (name, image) in &ledger.images {
            let (name, tag) = name.split_once(':').unwrap();
            client.pull_image(name, tag, image).await;
        }
        // Whatever was cut off succeeds now.
        for n in [0, images.len() - 1] {
            let tag = format!("v{n}");
            client
                .pull_image("quay.io/acme/app", &tag, &images[n])
                .await;
        }
        for pusher in 0..2 {
            let image = ImageBuilder::new(100 * pusher).layer(300_000).layer(10);
            let image = image.build();
            let name = format!("acme/app{pusher}");
            client.push_image(&name, "retry", &image).await;
            client.pull_image(&name, "retry", &image).await;
        }
        registry.stop().await.store().assert_sound();
    }
}
