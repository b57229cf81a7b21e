//! The bounded cache from inside: room while nothing is counted yet, and many fills at once.
#![allow(clippy::unwrap_used)]

use std::{
    io,
    sync::atomic::AtomicBool,
    thread::{sleep, spawn},
};

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::*;
use crate::{
    cache::{
        Settings,
        testing::{FakeUpstream, Reply, SOON, blob_path, cache_on, impatient},
    },
    storage::{Durability, testing::visible},
    types::Algorithm,
};

fn digest(of: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, of)
}

fn store() -> (TempDir, Arc<Store>) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Durability::Job).unwrap();
    (directory, Arc::new(store))
}

fn size(store: &Arc<Store>, bytes: u64) -> Arc<Size> {
    let keep = Keep {
        most: MaxSize::Bytes(bytes),
        none: Vec::new(),
    };
    Arc::new(Size::new(Arc::clone(store), keep))
}

/// Content that nothing names.
fn leave(store: &Store, bytes: &[u8]) -> Digest {
    let digest = digest(bytes);
    store.put(&digest, bytes).unwrap();
    store.recount(&digest).unwrap();
    digest
}

#[test]
fn nothing_is_evicted_before_everything_is_counted() {
    let (_directory, store) = store();
    let old = leave(&store, &[1; 60]);
    let size = size(&store, 100);
    assert!(size.reserve(0, 40), "there is room for it");
    assert!(!size.reserve(0, 1), "and not for more");
    assert!(store.stat(&old).unwrap().is_some());
    size.count();
    assert!(size.reserve(0, 1));
    assert_eq!(store.stat(&old).unwrap(), None);
}

#[test]
fn a_smaller_limit_is_kept_from_the_start_on() {
    let (_directory, store) = store();
    for n in 0..10 {
        leave(&store, &[n; 50]);
    }
    size(&store, 100).count();
    assert!(store.cached_bytes() <= 100, "{}", store.cached_bytes());
}

#[test]
fn a_share_is_of_what_is_free_and_what_is_cached() {
    let (_directory, store) = store();
    leave(&store, &[1; 1000]);
    let keep = Keep {
        most: MaxSize::Share(50),
        none: Vec::new(),
    };
    let size = Arc::new(Size::new(Arc::clone(&store), keep));
    let before = size.state().cap;
    size.count();
    assert_eq!(size.state().cap, before + 500);
}

#[test]
fn what_is_larger_than_the_limit_costs_the_others_nothing() {
    let (_directory, store) = store();
    let held = leave(&store, &[1; 60]);
    let size = size(&store, 100);
    size.count();
    assert!(!size.reserve(0, 101));
    // Nor what grows beyond it.
    assert!(!size.reserve(90, 11));
    assert!(store.stat(&held).unwrap().is_some());
}

#[test]
fn room_that_is_not_used_is_given_back() {
    let (_directory, store) = store();
    let size = size(&store, 100);
    size.count();
    let mut filling = Filling::new(&size, &digest(b"a"), false);
    assert!(filling.grow(60) && filling.grow(40));
    assert!(!filling.grow(1));
    assert!(!size.reserve(0, 1));
    drop(filling);
    assert!(size.reserve(0, 100));
}

#[test]
fn what_is_local_needs_no_room() {
    let (_directory, store) = store();
    let size = size(&store, 10);
    size.count();
    let mut filling = Filling::new(&size, &digest(b"a"), true);
    assert!(filling.grow(1000));
    assert!(size.reserve(0, 10));
}

#[test]
fn where_nothing_can_be_evicted_what_is_read_stays() {
    let (_directory, store) = store();
    let held = leave(&store, &[1; 60]);
    let size = size(&store, 100);
    size.count();
    let reading = store.content(&held).unwrap().unwrap();
    assert!(!size.reserve(0, 50));
    drop(reading);
    // It is not looked for again at once; soon it is.
    let begin = Instant::now();
    while !size.reserve(0, 50) {
        assert!(begin.elapsed() < Duration::from_secs(60));
        sleep(Duration::from_millis(20));
    }
    assert_eq!(store.stat(&held).unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_fills_at_once_stay_below_the_limit_and_count_right() {
    const BLOBS: usize = 24;
    const LENGTH: usize = 50_000;
    const LIMIT: u64 = 5 * LENGTH as u64 + 100;
    let blobs: [Vec<u8>; BLOBS] = std::array::from_fn(|n| vec![n as u8; LENGTH - n]);
    let upstream = FakeUpstream::start(
        blobs
            .each_ref()
            .map(|blob| (blob_path("a", blob), Reply::of(blob))),
    );
    let (directory, store) = store();
    let keep = Keep {
        most: MaxSize::Bytes(LIMIT),
        none: Vec::new(),
    };
    let settings = Settings {
        keep,
        ..impatient()
    };
    let cache = cache_on(&store, &upstream, settings, Handle::current());
    cache.0.size.count();
    let ended = Arc::new(AtomicBool::new(false));
    let watch = {
        let (store, ended) = (Arc::clone(&store), Arc::clone(&ended));
        spawn(move || {
            let mut most = 0;
            while !ended.load(Ordering::SeqCst) {
                most = most.max(store.cached_bytes());
            }
            most
        })
    };
    let pull = |n: usize| {
        let (cache, blob) = (cache.clone(), blobs[(n * 7) % BLOBS].clone());
        tokio::spawn(async move {
            let name = "quay.io/a".parse().unwrap();
            let body = cache.blob(&name, &digest(&blob), None).await.unwrap();
            let pieces: Vec<io::Result<_>> = body.unwrap().stream(None, 1 << 14).collect().await;
            let bytes: Vec<u8> = pieces.into_iter().flat_map(Result::unwrap).collect();
            assert!(bytes == blob);
        })
    };
    for pull in (0..4 * BLOBS).map(pull).collect::<Vec<_>>() {
        pull.await.unwrap();
    }
    // At once they may all have been in each other's way; one after the other they are not.
    let one_by_one = async {
        for n in 0.. {
            if cache.size().evicted_bytes > 0 {
                break;
            }
            pull(n).await.unwrap();
        }
    };
    let evicted = tokio::time::timeout(SOON, one_by_one).await;
    assert!(
        evicted.is_ok(),
        "what is pulled later makes room for itself"
    );
    ended.store(true, Ordering::SeqCst);
    let most = watch.join().unwrap();
    assert!(most <= LIMIT, "{most} of {LIMIT}");
    let here: u64 = visible(directory.path())
        .iter()
        .map(|digest| store.stat(digest).unwrap().unwrap())
        .sum();
    let size = cache.size();
    assert_eq!(size.used, here, "what is counted is what is there");
    assert_eq!(cache.0.size.state().reserved, 0);
    assert!(cache.0.size.state().filling.is_empty());
}
