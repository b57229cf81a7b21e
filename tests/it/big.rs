//! A large blob, cold, for many clients at once: one download, passed on as it comes, in bounded memory.

use standin::types::{Algorithm, Hasher};
use tokio::sync::mpsc;

use crate::support::{
    Client, FakeUpstream, Gate, Reply, TestRegistry, image::ImageBuilder, within,
};

const MIB: usize = 1 << 20;
const CLIENTS: usize = 8;

/// Idle size, a megabyte or two for each stream, and what the allocator keeps: no function of the blob's size.
const PEAK_LIMIT: usize = 96 * MIB;

/// Downloads without keeping; tells of the first byte, and returns the sha256 of all.
async fn download(client: Client, path: String, first: mpsc::Sender<()>) -> String {
    let mut response = client.get(&path).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut hash = Hasher::new(Algorithm::Sha256);
    let mut begun = false;
    while let Some(chunk) = response.chunk().await.unwrap() {
        if !begun {
            first.send(()).await.unwrap();
            begun = true;
        }
        hash.update(&chunk);
    }
    hash.finish().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_clients_pull_256_mebibytes_cold() {
    let upstream = FakeUpstream::start().await;
    let image = ImageBuilder::new(1).layer(256 * MIB).build();
    upstream.add_image("acme/big", "v1", &image);
    let digest = &image.layers[0].digest;
    let path = format!("/v2/acme/big/blobs/{digest}");
    let gate = Gate::new();
    let gated = Reply::Gated {
        before: MIB,
        gate: gate.clone(),
    };
    upstream.script("GET", &path, [gated]);
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .start()
        .await;
    let client = registry.client();
    let manifest = client.get_manifest("quay.io/acme/big", "v1").await;
    manifest.expect(200);

    let (first, mut begun) = mpsc::channel(CLIENTS);
    let downloads: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let path = format!("/v2/quay.io/acme/big/blobs/{digest}");
            tokio::spawn(download(registry.client(), path, first.clone()))
        })
        .collect();
    for _ in 0..CLIENTS {
        let byte = within("a client's first byte", begun.recv()).await;
        assert!(byte.is_some(), "a download ended before its first byte");
    }
    // All have begun, and the upstream has sent a mebibyte.
    gate.open();
    for download in downloads {
        assert_eq!(&download.await.unwrap(), digest);
    }
    assert_eq!(upstream.count("GET", &path), 1);
    let peak = registry.peak_memory();
    println!(
        "peak RSS while {CLIENTS} clients pulled 256 MiB: {:.1} MiB",
        peak as f64 / MIB as f64
    );
    assert!(peak < PEAK_LIMIT, "{} MiB", peak / MIB);
    registry.stop().await.store().assert_sound();
}
