//! Many clients push the same blob at once: each succeeds, and no reader ever sees a part of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Barrier;

use crate::support::{Client, Exchange, TestRegistry, client::finish, full, image::Blob};

const CLIENTS: usize = 32;
const READERS: usize = 4;

/// One client: its own session, its PUT at the same moment as everybody's, and a look at the blob right afterwards.
async fn push(client: Client, blob: Blob, turn: usize, start: Arc<Barrier>) {
    let location = client.start_upload("acme/app").await;
    // Some send the bytes before the PUT, so that only publications meet.
    let patched = turn % 2 == 1;
    if patched {
        let patch = client.patch(&location).body(blob.bytes.clone());
        patch.answer().await.expect(202);
    }
    start.wait().await;
    let mut put = client.put(&finish(&location, &blob.digest));
    if !patched {
        put = put.body(blob.bytes.clone());
    }
    put.answer().await.expect(201);
    let head = client.head_blob("acme/app", &blob.digest).await.expect(200);
    let length = blob.bytes.len().to_string();
    assert_eq!(head.header("content-length"), length, "right after its PUT");
}

/// Polls until told to stop: nothing, or the whole blob, and never nothing again. Counts the whole ones.
async fn poll(client: Client, blob: Blob, stop: Arc<AtomicBool>, seen: Arc<AtomicUsize>) {
    let mut there = false;
    while !stop.load(Ordering::Relaxed) {
        let head = client.head_blob("acme/app", &blob.digest).await;
        let get = client.get_blob("acme/app", &blob.digest).await;
        for answer in [&head, &get] {
            match answer.status {
                404 => assert!(!there, "gone again: {answer:?}"),
                200 => {
                    let length = blob.bytes.len().to_string();
                    assert_eq!(answer.header("content-length"), length);
                    there = true;
                }
                other => panic!("{other}: {answer:?}"),
            }
        }
        if get.status == 200 {
            assert!(get.body == blob.bytes, "other bytes");
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_clients_push_one_blob() {
    let (rounds, size) = if full() {
        (20, 64 << 20)
    } else {
        (2, 16 << 20)
    };
    let registry = TestRegistry::start().await;
    for round in 0..rounds {
        let blob = Blob::random(round, size);
        let start = Arc::new(Barrier::new(CLIENTS));
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(AtomicUsize::new(0));
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let client = registry.client();
                tokio::spawn(poll(client, blob.clone(), stop.clone(), seen.clone()))
            })
            .collect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|turn| {
                let client = registry.client();
                tokio::spawn(push(client, blob.clone(), turn, start.clone()))
            })
            .collect();
        for client in clients {
            let pushed = tokio::time::timeout(Duration::from_secs(300), client).await;
            pushed.expect("all pushes end").unwrap();
        }
        // Every reader has the time to see the blob at least once.
        let client = registry.client();
        let there = client.get_blob("acme/app", &blob.digest).await.expect(200);
        assert!(there.body == blob.bytes);
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.unwrap();
        }
        let whole = seen.load(Ordering::Relaxed);
        println!("round {round}: readers saw the whole blob {whole} times");
        let store = registry.store();
        assert!(store.blobs().contains(&blob.digest));
        store.assert_sound();
    }
    let registry = registry.restart().await;
    registry.store().assert_sound();
    assert_eq!(registry.store().blobs().len(), rounds as usize, "each once");
}
