//! Evicting: what may go, what is counted, and what a failure on the way leaves.

use std::{io, path::Path, time::SystemTime};

use super::{Durability, sha256};
use crate::{
    storage::{
        Error, InUse, Member, Reason, Store, TagEntry,
        testing::{Effect, Op, faulty_store, visible},
    },
    types::{CanonicalName, Digest, Manifest, Namespace},
};

const BASE: &[u8] = b"a layer of both";

fn name(name: &str) -> CanonicalName {
    format!("quay.io/{name}").parse().unwrap()
}

/// A manifest that names the base and a layer of its own.
fn manifest(layer: &[u8]) -> Vec<u8> {
    let descriptor = |bytes: &[u8]| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}"#,
            sha256(bytes),
            bytes.len()
        )
    };
    let config = descriptor(b"{}").replace("layer.v1.tar", "config.v1+json");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{config},"layers":[{},{}]}}"#,
        descriptor(BASE),
        descriptor(layer)
    )
    .into_bytes()
}

/// What an image consists of, its manifest first.
fn image(layer: &[u8]) -> [Vec<u8>; 4] {
    [
        manifest(layer),
        b"{}".to_vec(),
        BASE.to_vec(),
        layer.to_vec(),
    ]
}

/// As a pull stores an image, or as a push does.
fn keep(
    store: &Store,
    namespace: Namespace,
    name: &CanonicalName,
    layer: &[u8],
) -> Result<Digest, Error> {
    let [manifest, blobs @ ..] = image(layer);
    let digest = sha256(&manifest);
    let parsed = Manifest::pulled(&manifest, None);
    store.put_manifest(namespace, name, &digest, &manifest, &parsed)?;
    let entry = TagEntry {
        digest: digest.clone(),
        manifest: None,
        checked: None,
        previous: None,
    };
    store.put_tag(namespace, name, &"v1".parse().unwrap(), &entry)?;
    for blob in &blobs {
        store.put(&sha256(blob), blob)?;
        store.recount(&sha256(blob))?;
    }
    store.recount(&digest)?;
    Ok(digest)
}

fn pull(store: &Store, at: &str, layer: &[u8]) -> Digest {
    keep(store, Namespace::Upstream, &name(at), layer).unwrap()
}

fn push(store: &Store, at: &str, layer: &[u8]) -> Digest {
    keep(store, Namespace::Local, &name(at), layer).unwrap()
}

fn total<'a>(contents: impl IntoIterator<Item = &'a Vec<u8>>) -> u64 {
    contents.into_iter().map(|bytes| bytes.len() as u64).sum()
}

fn open(directory: &Path) -> Store {
    Store::open(directory, Durability::Job).unwrap()
}

/// Evicts all that can be.
fn evict_everything(store: &Store) -> Result<(), Error> {
    let cached = store.cached()?;
    for manifest in &cached.manifests {
        store.evict_manifest(&manifest.name, &manifest.digest)?;
    }
    for digest in cached.contents.keys() {
        store.evict_content(digest)?;
    }
    Ok(())
}

/// Every directory and file below the places of content and entries.
fn left(directory: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let mut below = vec![directory.join("namespaces"), directory.join("holders")];
    while let Some(directory) = below.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            left.push(path.display().to_string());
            below.push(path);
        }
    }
    left.extend(visible(directory).iter().map(Digest::to_string));
    left
}

#[test]
fn what_is_cached_is_counted_and_what_is_local_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (a, b) = (image(b"a"), image(b"bb"));
    pull(&store, "x", b"a");
    assert_eq!(store.cached_bytes(), total(&a));
    pull(&store, "y", b"a");
    assert_eq!(store.cached_bytes(), total(&a), "stored once");
    pull(&store, "x", b"bb");
    let both = total(&a) + total([&b[0], &b[3]]);
    assert_eq!(store.cached_bytes(), both);

    // A push that names cached content makes it local, under whichever name.
    let pushed = push(&store, "z", b"a");
    assert_eq!(store.cached_bytes(), total([&b[0], &b[3]]));
    // Pushed and never pulled: no cache.
    push(&store, "z", b"local");
    assert_eq!(store.cached_bytes(), total([&b[0], &b[3]]));
    drop(store);

    let store = open(directory.path());
    assert_eq!(store.cached_bytes(), 0);
    store.count_cached().unwrap();
    assert_eq!(store.cached_bytes(), total([&b[0], &b[3]]));
    // Deleted, it is what was pulled again.
    store
        .delete_manifest(Namespace::Local, &name("z"), &pushed)
        .unwrap();
    let manifest_and_layer = total([&a[0], &a[3], &b[0], &b[3]]);
    assert_eq!(store.cached_bytes(), manifest_and_layer);
}

#[test]
fn only_what_nothing_needs_can_be_evicted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let a = pull(&store, "x", b"a");
    let b = pull(&store, "y", b"bb");
    push(&store, "z", b"local");
    let (base, layer) = (sha256(BASE), sha256(b"a"));
    for held in [&a, &layer, &base] {
        assert_eq!(store.evict_content(held).unwrap(), None, "a manifest is it");
    }
    assert!(store.evict_manifest(&name("x"), &a).unwrap());
    let tag = store.tag(Namespace::Upstream, &name("x"), &"v1".parse().unwrap());
    assert_eq!(tag.unwrap(), None, "the tag goes first");

    let reading = store.content(&layer).unwrap().unwrap();
    assert_eq!(store.evict_content(&layer).unwrap(), None, "it is read");
    let twice = reading.clone();
    drop(reading);
    assert_eq!(store.evict_content(&layer).unwrap(), None, "by another");
    drop(twice);
    store.promise(&a);
    assert_eq!(store.evict_content(&a).unwrap(), None, "it was promised");
    assert_eq!(store.cached().unwrap().in_use[&a], InUse::Promised);

    assert_eq!(store.evict_content(&layer).unwrap(), Some(1));
    assert_eq!(store.evict_content(&layer).unwrap(), None, "it is gone");
    assert_eq!(
        store.evict_content(&base).unwrap(),
        None,
        "y and z have it too"
    );
    store.evict_manifest(&name("y"), &b).unwrap();
    assert_eq!(store.evict_content(&base).unwrap(), None, "z has it still");
    assert_eq!(store.evict_content(&sha256(b"bb")).unwrap(), Some(2));
}

#[test]
fn a_stream_keeps_what_it_reads() {
    use futures_util::StreamExt as _;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.put(&sha256(BASE), BASE).unwrap();
    let content = store.content(&sha256(BASE)).unwrap().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let mut stream = Box::pin(content.stream(0..u64::MAX, 4));
        assert_eq!(stream.next().await.unwrap().unwrap(), &BASE[..4]);
        assert_eq!(store.evict_content(&sha256(BASE)).unwrap(), None);
        while stream.next().await.is_some() {}
        drop(stream);
        assert!(store.evict_content(&sha256(BASE)).unwrap().is_some());
    });
}

#[test]
fn content_that_was_served_by_digest_alone_goes_with_its_entry() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let digest = sha256(BASE);
    store.put(&digest, BASE).unwrap();
    let member = Member {
        size: BASE.len() as u64,
        media_type: None,
        source: None,
    };
    let (namespace, name) = (Namespace::Upstream, name("x"));
    let added = store.add_member(namespace, &name, &digest, &Reason::Pulled, &member);
    added.unwrap();
    assert!(store.evict_content(&digest).unwrap().is_some());
    assert_eq!(left(directory.path()), [""; 0]);
}

#[test]
fn nothing_is_left_of_what_was_evicted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for (at, layer) in [("x", &b"a"[..]), ("x/y", b"bb"), ("y", b"a")] {
        pull(&store, at, layer);
    }
    evict_everything(&store).unwrap();
    assert_eq!(left(directory.path()), [""; 0]);
    assert_eq!(store.cached_bytes(), 0);
    // And it can be pulled again.
    pull(&store, "x", b"a");
    assert_eq!(store.cached_bytes(), total(&image(b"a")));
}

#[test]
fn the_order_of_use_outlives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let order = |store: &Store| {
        let mut manifests = store.cached().unwrap().manifests;
        manifests.sort_by_key(|manifest| manifest.used);
        let digests = manifests.into_iter().map(|manifest| manifest.digest);
        digests.collect::<Vec<_>>()
    };
    let store = open(directory.path());
    let a = pull(&store, "x", b"a");
    let b = pull(&store, "x", b"bb");
    // The medium may tell times in coarse steps.
    while store.cached().unwrap().manifests[0].used >= SystemTime::now() {}
    store.use_manifest(&name("x"), &a).unwrap();
    assert_eq!(order(&store), [b.clone(), a.clone()]);
    drop(store);
    let store = open(directory.path());
    assert_eq!(order(&store), [b.clone(), a.clone()]);
    store.use_manifest(&name("x"), &b).unwrap();
    assert_eq!(order(&store), [a, b]);
}

#[test]
fn a_use_is_written_once_and_not_for_every_request() {
    let directory = tempfile::tempdir().unwrap();
    let (store, faults) = faulty_store(directory.path());
    let a = pull(&store, "x", b"a");
    faults.forget();
    for _ in 0..100 {
        store.use_manifest(&name("x"), &a).unwrap();
    }
    assert_eq!(faults.done(), [Op::Touch]);
}

#[test]
fn an_eviction_that_fails_anywhere_leaves_nothing_half_visible() {
    for effect in [Effect::None, Effect::Done] {
        let mut n = 0;
        loop {
            let story = format!("operation {n}, effect {effect:?}");
            let directory = tempfile::tempdir().unwrap();
            let (store, faults) = faulty_store(directory.path());
            pull(&store, "x", b"a");
            pull(&store, "y", b"bb");
            push(&store, "z", b"local");
            faults.fail_nth(n, effect, io::ErrorKind::Other);
            let evicted = evict_everything(&store);
            assert_whole(&store, &story);
            if evicted.is_ok() {
                assert_eq!(faults.done().len(), n, "{story}: a failure went unnoticed");
                break;
            }
            drop(store);

            // Another start finds what is left, and can evict it.
            let store = open(directory.path());
            store.count_cached().unwrap();
            assert_whole(&store, &story);
            evict_everything(&store).unwrap();
            assert_eq!(store.cached_bytes(), 0, "{story}");
            let local: Vec<Digest> = image(b"local").iter().map(|b| sha256(b)).collect();
            for digest in visible(directory.path()) {
                assert!(local.contains(&digest), "{story}: {digest} is left");
            }
            assert_eq!(visible(directory.path()).len(), local.len(), "{story}");
            pull(&store, "x", b"a");
            n += 1;
        }
        // Two manifests with a tag, four members and holders of each; six contents.
        assert!(n > 20, "only {n} operations were made to fail");
    }
}

/// Whatever is held can be had.
fn assert_whole(store: &Store, story: &str) {
    let cases = [
        (Namespace::Upstream, "x", &b"a"[..]),
        (Namespace::Upstream, "y", b"bb"),
        (Namespace::Local, "z", b"local"),
    ];
    for (namespace, at, layer) in cases {
        let name = name(at);
        let [manifest, blobs @ ..] = image(layer);
        let digest = sha256(&manifest);
        let held = store.manifest(namespace, &name, &digest).unwrap().is_some();
        if namespace == Namespace::Local {
            assert!(held, "{story}: {at} was pushed");
        }
        let tag = store.tag(namespace, &name, &"v1".parse().unwrap());
        if tag.unwrap().is_some() {
            assert!(held, "{story}: a tag of {at} without its manifest");
        }
        if !held {
            continue;
        }
        assert!(store.stat(&digest).unwrap().is_some(), "{story}: {at}");
        for blob in &blobs {
            let digest = sha256(blob);
            let here = store.stat(&digest).unwrap().is_some();
            let member = store.membership(namespace, &name, &digest).unwrap();
            assert!(here && member.is_some(), "{story}: a layer of {at} is gone");
        }
    }
}
