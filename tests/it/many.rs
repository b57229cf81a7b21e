//! Many clients pull many images that share layers, cold, from several registries, and half of the clients are killed:
//! each byte is fetched once, and the other half has every image.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::support::{
    Client, Exchange, FakeUpstream, Gate, Reply, TestRegistry, full,
    image::{Blob, Image, ImageBuilder},
};

const REGISTRIES: usize = 4;
/// More than the buffers between an upstream and a client hold.
const BASE: usize = 4 << 20;

/// An image, and where it is.
struct Placed {
    registry: usize,
    name: String,
    image: Image,
}

/// When a client goes away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It stays, and pulls all images.
    Lives,
    /// While the layer that all images share is under way.
    DiesFirst,
    /// In the middle of a layer, once it has half of the images.
    DiesLater,
}

/// One client; which image it begins with is up to its turn.
async fn pulls(client: Client, images: Arc<[Placed]>, turn: usize, fate: Fate) {
    for step in 0..images.len() {
        let Placed {
            registry,
            name,
            image,
        } = &images[(turn + step) % images.len()];
        let name = format!("registry{registry}.test/{name}");
        let last = match fate {
            Fate::DiesFirst => &image.layers[0],
            Fate::DiesLater if step == images.len() / 2 => &image.layers[2],
            Fate::Lives | Fate::DiesLater => {
                client.pull_image(&name, "v1", image).await;
                continue;
            }
        };
        client.get_manifest(&name, "v1").await.expect(200);
        let path = format!("/v2/{name}/blobs/{}", last.digest);
        let mut response = client.get(&path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert!(response.chunk().await.unwrap().is_some(), "{path}");
        return;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_byte_is_fetched_once_whoever_asks_and_whoever_is_killed() {
    let (clients, count) = if full() { (64, 20) } else { (16, 8) };

    // One layer is in all images, each of two in half of them, and one in no other; so all registries share layers.
    let base = Blob::random(1, BASE);
    let halves = [Blob::random(2, 300_000), Blob::random(3, 300_000)];
    let images: Arc<[Placed]> = (0..count)
        .map(|index| Placed {
            registry: index % REGISTRIES,
            name: format!("acme/app{index}"),
            image: ImageBuilder::new(100 + index as u64)
                .shared(&base)
                .shared(&halves[index / REGISTRIES % 2])
                .layer(100_000)
                .build(),
        })
        .collect();
    let mut upstreams = Vec::new();
    let mut builder = TestRegistry::builder();
    for index in 0..REGISTRIES {
        let upstream = FakeUpstream::start().await;
        builder = builder.registry(&format!("registry{index}.test"), &upstream.url());
        upstreams.push(upstream);
    }
    let gate = Gate::new();
    let mut unique = BTreeMap::new();
    for Placed {
        registry,
        name,
        image,
    } in images.iter()
    {
        let upstream = &upstreams[*registry];
        upstream.add_image(name, "v1", image);
        let gated = Reply::Gated {
            before: BASE / 2,
            gate: gate.clone(),
        };
        upstream.script("GET", &format!("/v2/{name}/blobs/{}", base.digest), [gated]);
        let blobs = image.blobs();
        unique.extend(blobs.map(|blob| (blob.digest.clone(), blob.bytes.len())));
        let manifest = &image.manifest;
        unique.insert(manifest.digest.clone(), manifest.bytes.len());
    }

    let registry = builder.start().await;
    let mut first = Vec::new();
    let mut rest = Vec::new();
    for turn in 0..clients {
        let (fate, tasks) = match turn % 4 {
            0 => (Fate::DiesFirst, &mut first),
            2 => (Fate::DiesLater, &mut rest),
            _ => (Fate::Lives, &mut rest),
        };
        let pulls = pulls(registry.client(), images.clone(), turn, fate);
        tasks.push(tokio::spawn(pulls));
    }
    // Nobody gets past the shared layer before the first have died of it.
    for (tasks, opens) in [(first, true), (rest, false)] {
        for task in tasks {
            let end = tokio::time::timeout(Duration::from_secs(300), task).await;
            end.expect("all pulls end").unwrap();
        }
        if opens {
            gate.open();
        }
    }

    let mut fetched = Vec::new();
    for upstream in &upstreams {
        for request in upstream.requests() {
            let Some(path) = request.strip_prefix("GET /v2/") else {
                continue;
            };
            let digest = match path.split_once("/manifests/") {
                Some((name, _)) => {
                    let placed = images.iter().find(|placed| placed.name == name).unwrap();
                    placed.image.manifest.digest.clone()
                }
                None => path.rsplit('/').next().unwrap_or_default().to_owned(),
            };
            fetched.push(digest);
        }
        // So each of those answers was the whole, and as many bytes came as there are.
        let ranges = upstream.headers();
        let ranges: Vec<_> = ranges
            .iter()
            .filter(|line| line.to_ascii_lowercase().starts_with("range:"))
            .collect();
        assert!(ranges.is_empty(), "{ranges:?}");
    }
    fetched.sort();
    assert!(
        fetched.iter().eq(unique.keys()),
        "fetched were {fetched:?}, and there are {unique:?}"
    );
    let page = registry.client().get("/metrics").answer().await.expect(200);
    let received: f64 = std::str::from_utf8(&page.body)
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("standin_upstream_received_bytes_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    let bytes: usize = unique.values().sum();
    println!(
        "{clients} clients, {count} images: {bytes} bytes in {} blobs and manifests, {received} received",
        unique.len()
    );
    assert_eq!(received, bytes as f64);
    let store = registry.store();
    store.assert_sound();
    let blobs = store.blobs();
    assert!(unique.keys().all(|digest| blobs.contains(digest)));
}
