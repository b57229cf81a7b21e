//! The bounded cache: what is evicted when more is pulled, what never is, and what is not kept at all.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

use crate::support::{
    FakeUpstream, Reply, TestRegistry, eventually,
    image::{Image, ImageBuilder, OCI_INDEX, index},
    registry::Builder,
};

/// Two images of one layer fit into the cache, three don't.
const LAYER: usize = 300_000;
const CAP: &str = "800KiB";

struct Scene {
    upstream: FakeUpstream,
    images: [Image; 4],
}

impl Scene {
    /// An upstream that is quay.io and has acme/0 to acme/3.
    async fn new() -> Self {
        let upstream = FakeUpstream::start().await;
        let images = [0, 1, 2, 3].map(|n| ImageBuilder::new(700 + n).layer(LAYER).build());
        for (n, image) in images.iter().enumerate() {
            upstream.add_image(&format!("acme/{n}"), "v1", image);
        }
        Self { upstream, images }
    }

    fn builder(&self) -> Builder {
        TestRegistry::builder().registry("quay.io", &self.upstream.url())
    }

    /// A registry with a small cache, ready to evict.
    async fn start(&self) -> TestRegistry {
        counted(self.builder().args(["--cache-max-size", CAP])).await
    }

    async fn pull(&self, registry: &TestRegistry, n: usize) {
        let name = format!("quay.io/acme/{n}");
        let client = registry.client();
        client.pull_image(&name, "v1", &self.images[n]).await;
    }

    fn layer_path(&self, n: usize) -> String {
        format!("/v2/acme/{n}/blobs/{}", self.images[n].layers[0].digest)
    }

    /// How often the layer was fetched.
    fn fetched(&self, n: usize) -> usize {
        self.upstream.count("GET", &self.layer_path(n))
    }

    fn is_here(&self, registry: &TestRegistry, n: usize) -> bool {
        registry.store().holds(&self.images[n].layers[0].digest)
    }
}

/// Starts it and waits until it knows how full the cache is.
async fn counted(builder: Builder) -> TestRegistry {
    let registry = builder.start().await;
    registry.log().line_with(&["MiB are cached, of"]).await;
    registry
}

#[tokio::test]
async fn the_least_recently_used_image_makes_room() {
    let scene = Scene::new().await;
    let registry = scene.start().await;
    scene.pull(&registry, 0).await;
    scene.pull(&registry, 1).await;
    // Used again, and by that younger than 1.
    scene.pull(&registry, 0).await;
    scene.pull(&registry, 2).await;
    registry
        .log()
        .line_with(&["evicted 1 manifests", "of 1 MiB at most"])
        .await;
    assert!(!scene.is_here(&registry, 1), "evicted with its bytes");

    // What was kept is served without the upstream.
    scene.upstream.fail(Reply::Status(503));
    scene.pull(&registry, 0).await;
    scene.pull(&registry, 2).await;
    let client = registry.client();
    let gone = client.get_manifest("quay.io/acme/1", "v1").await;
    gone.refused(404, "MANIFEST_UNKNOWN");
    scene.upstream.recover();
    scene.pull(&registry, 1).await;
    assert_eq!([0, 1, 2].map(|n| scene.fetched(n)), [1, 2, 1]);
    registry.store().assert_sound();
}

#[tokio::test]
async fn the_order_and_the_limit_hold_over_restarts() {
    let scene = Scene::new().await;
    let registry = scene.start().await;
    scene.pull(&registry, 0).await;
    scene.pull(&registry, 1).await;
    let registry = counted(registry.stop().await).await;
    scene.pull(&registry, 0).await;
    let registry = counted(registry.stop().await).await;
    scene.pull(&registry, 2).await;
    assert!(!scene.is_here(&registry, 1));
    assert_eq!([0, 1, 2].map(|n| scene.fetched(n)), [1, 1, 1]);

    // A lower one holds at once.
    let lower = registry.stop().await.plain();
    let lower = lower.registry("quay.io", &scene.upstream.url());
    let lower = lower.args(["--cache-max-size", "400KiB"]);
    let registry = counted(lower).await;
    eventually("there is one image left", || async {
        !scene.is_here(&registry, 0) && scene.is_here(&registry, 2)
    })
    .await;
}

#[tokio::test]
async fn an_index_is_kept_as_long_as_a_child_of_it() {
    let scene = Scene::new().await;
    let [one, two, other, _] = &scene.images;
    let all = index(OCI_INDEX, &[&one.manifest, &two.manifest]);
    scene.upstream.add_image("acme/multi", "one", one);
    scene.upstream.add_image("acme/multi", "two", two);
    scene.upstream.add_manifest("acme/multi", "all", &all);
    let registry = scene.start().await;
    let client = registry.client();
    let name = "quay.io/acme/multi";
    let indexed = client.get_manifest(name, "all").await;
    indexed.expect(200);
    client.pull_image(name, &two.manifest.digest, two).await;
    client.pull_image(name, &one.manifest.digest, one).await;
    client.pull_image("quay.io/acme/2", "v1", other).await;
    scene.upstream.fail(Reply::Status(503));
    let indexed = client.get_manifest(name, "all").await;
    assert_eq!(indexed.expect(200).body, all.bytes);
    client.pull_image(name, &one.manifest.digest, one).await;
    let gone = client.get_blob(name, &two.layers[0].digest).await;
    gone.refused(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn what_was_pushed_or_is_named_by_a_push_is_never_evicted() {
    let scene = Scene::new().await;
    let registry = scene.start().await;
    let client = registry.client();
    // Its bytes came by a pull, and a push names them.
    scene.pull(&registry, 0).await;
    let image = &scene.images[0];
    let pushed = client.put_manifest("quay.io/acme/0", "mine", &image.manifest);
    pushed.await.expect(201);
    // And one that is larger than the cache, with which it has nothing to do.
    let large = ImageBuilder::new(710).layer(1_000_000).build();
    client.push_image("job/large", "v1", &large).await;
    for n in [1, 2, 3, 1, 2, 3] {
        scene.pull(&registry, n).await;
    }
    scene.upstream.fail(Reply::Status(503));
    client.pull_image("quay.io/acme/0", "mine", image).await;
    client.pull_image("job/large", "v1", &large).await;
    assert_eq!(scene.fetched(0), 1);
}

#[tokio::test]
async fn a_blob_that_a_client_was_told_of_stays_until_its_manifest_comes() {
    let scene = Scene::new().await;
    let registry = scene.start().await;
    let client = registry.client();
    scene.pull(&registry, 0).await;
    let image = &scene.images[0];
    for blob in image.blobs() {
        let head = client.head_blob("quay.io/acme/0", &blob.digest).await;
        head.expect(200);
    }
    for n in [1, 2, 3] {
        scene.pull(&registry, n).await;
    }
    scene.upstream.fail(Reply::Status(503));
    let pushed = client.put_manifest("quay.io/acme/0", "mine", &image.manifest);
    pushed.await.expect(201);
    client.pull_image("quay.io/acme/0", "mine", image).await;
    assert_eq!(scene.fetched(0), 1);
}

#[tokio::test]
async fn an_image_that_is_larger_than_the_cache_is_passed_on() {
    let scene = Scene::new().await;
    let large = ImageBuilder::new(711).layer(1_000_000).build();
    scene.upstream.add_image("acme/large", "v1", &large);
    let chunked = format!("/v2/acme/large/blobs/{}", large.layers[0].digest);
    scene.upstream.script("GET", &chunked, [Reply::Chunked]);
    let registry = scene.start().await;
    scene.pull(&registry, 0).await;
    let client = registry.client();
    for _ in 0..2 {
        client.pull_image("quay.io/acme/large", "v1", &large).await;
        let blobs = registry.store().blobs();
        assert!(!blobs.contains(&large.layers[0].digest));
        assert!(scene.is_here(&registry, 0), "it would not have helped");
    }
    registry.store().assert_sound();
}

#[tokio::test]
async fn names_under_which_nothing_is_kept() {
    let scene = Scene::new().await;
    let registry = scene
        .builder()
        .args(["--cache-none", "quay.io/acme/0"])
        .args(["--cache-none", "acme/1"])
        .start()
        .await;
    let before = registry.store().listing();
    for n in [0, 1, 0] {
        scene.pull(&registry, n).await;
        let client = registry.client();
        let name = format!("quay.io/acme/{n}");
        let head = client.head_manifest(&name, "v1");
        head.await.expect(200);
    }
    assert_eq!(registry.store().listing(), before);
    assert_eq!([0, 1].map(|n| scene.fetched(n)), [2, 1]);
    scene.pull(&registry, 2).await;
    scene.pull(&registry, 2).await;
    assert_eq!(scene.fetched(2), 1);

    // What a push names is no cache.
    let image = &scene.images[0];
    let client = registry.client();
    let pushed = client.put_manifest("quay.io/acme/0", "mine", &image.manifest);
    pushed.await.expect(201);
    let store = registry.store();
    eventually("the blobs are filled in", || async {
        let here = store.blobs();
        image.blobs().all(|blob| here.contains(&blob.digest))
    })
    .await;
}

#[tokio::test]
async fn a_cache_of_no_size_keeps_nothing() {
    let scene = Scene::new().await;
    let builder = scene.builder().args(["--cache-max-size", "0"]);
    let registry = builder.start().await;
    let before = registry.store().listing();
    for _ in 0..2 {
        scene.pull(&registry, 0).await;
    }
    assert_eq!(registry.store().listing(), before);
    assert_eq!(scene.fetched(0), 2);
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_of_it_whatever_is_evicted_meanwhile() {
    let scene = Scene::new().await;
    // A cache with room for it and one small image.
    let large = ImageBuilder::new(712).layer(16 << 20).build();
    scene.upstream.add_image("acme/large", "v1", &large);
    let builder = scene.builder().args(["--cache-max-size", "16800KiB"]);
    let registry = counted(builder).await;
    let client = registry.client();
    client.pull_image("quay.io/acme/large", "v1", &large).await;
    let layer = &large.layers[0];
    // It takes next to nothing before it is read from, however much this machine's sockets would hold.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = socket.connect(registry.address()).await.unwrap();
    let path = format!("/v2/quay.io/acme/large/blobs/{}", layer.digest);
    let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    slow.write_all(get.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    slow.read_exact(&mut answer).await.unwrap();
    for n in [0, 1, 2] {
        scene.pull(&registry, n).await;
    }
    registry.log().line_with(&["evicted"]).await;
    assert!(registry.store().blobs().contains(&layer.digest));
    slow.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    assert!(answer.ends_with(&layer.bytes));
    // Its manifest went before those of the others did.
    let asked = scene.upstream.count("GET", "/v2/acme/large/manifests/v1");
    client.pull_image("quay.io/acme/large", "v1", &large).await;
    let asked_again = scene.upstream.count("GET", "/v2/acme/large/manifests/v1");
    assert_eq!(asked_again, asked + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_pull_more_than_fits() {
    let scene = std::sync::Arc::new(Scene::new().await);
    let registry = std::sync::Arc::new(scene.start().await);
    let clients = (0..16).map(|client| {
        let (scene, registry) = (scene.clone(), registry.clone());
        tokio::spawn(async move {
            for turn in 0..4 {
                scene.pull(&registry, (client + turn) % 4).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let sizes = registry.store().listing();
    let stored: u64 = sizes
        .iter()
        .filter(|entry| entry.starts_with("blobs/"))
        .map(|entry| entry.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert!(stored <= 800 << 10, "{stored} bytes are kept");
    registry.store().assert_sound();
}
