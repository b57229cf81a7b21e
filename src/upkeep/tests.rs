//! A pruning or a repair that fails at its N-th step, for every N: what is visible is whole, what was pushed is not touched,
//! and the next one finishes it.

use std::{collections::BTreeSet, io, path::Path};

use super::{Pruning, Verified, Watch, list, prune, repair, verify};
use crate::{
    storage::{
        Durability, Member, Owed, Reason, Store, TagEntry,
        testing::{Effect, faulty_store, visible},
    },
    types::{Algorithm, CanonicalName, Digest, Manifest, Namespace, Pattern},
};

fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn name(of: &str) -> CanonicalName {
    format!("quay.io/{of}").parse().unwrap()
}

const BASE: &[u8] = b"a layer of all";

fn descriptor(kind: &str, bytes: &[u8]) -> String {
    let (digest, size) = (sha256(bytes), bytes.len());
    format!(
        r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#
    )
}

/// An image's manifest, then its blobs.
fn image(layer: &[u8]) -> [Vec<u8>; 4] {
    let [config, base, own] = [
        descriptor("config.v1+json", b"{}"),
        descriptor("layer.v1.tar", BASE),
        descriptor("layer.v1.tar", layer),
    ];
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{base},{own}]}}"#
    );
    let blobs = [b"{}".to_vec(), BASE.to_vec(), layer.to_vec()];
    let [config, base, own] = blobs;
    [manifest.into_bytes(), config, base, own]
}

fn index(children: &[&[u8]]) -> Vec<u8> {
    let children = children
        .iter()
        .map(|child| descriptor("manifest.v1+json", child));
    let children = children.collect::<Vec<_>>().join(",");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{children}]}}"#
    )
    .into_bytes()
}

fn put_manifest(
    store: &Store,
    namespace: Namespace,
    name: &CanonicalName,
    bytes: &[u8],
    tag: Option<&str>,
) {
    let parsed = Manifest::pulled(bytes, None);
    let digest = sha256(bytes);
    store
        .put_manifest(namespace, name, &digest, bytes, &parsed)
        .unwrap();
    if let Some(tag) = tag {
        let entry = TagEntry {
            digest,
            manifest: None,
            checked: None,
            previous: None,
        };
        store
            .put_tag(namespace, name, &tag.parse().unwrap(), &entry)
            .unwrap();
    }
}

fn put(store: &Store, namespace: Namespace, at: &str, layer: &[u8], tag: Option<&str>) {
    let [manifest, blobs @ ..] = image(layer);
    let name = name(at);
    for blob in &blobs {
        let digest = sha256(blob);
        store.put(&digest, blob).unwrap();
        if namespace == Namespace::Local {
            let member = Member {
                size: blob.len() as u64,
                media_type: None,
                source: None,
            };
            store
                .add_member(namespace, &name, &digest, &Reason::Pushed, &member)
                .unwrap();
        }
    }
    put_manifest(store, namespace, &name, &manifest, tag);
}

/// Pushed: x, and in multi an index of y, which owes something to nobody any more. Pulled: a. Every image has the base.
fn fill(store: &Store) {
    let (local, upstream) = (Namespace::Local, Namespace::Upstream);
    put(store, local, "x", b"x", Some("1"));
    put(store, local, "multi", b"y", None);
    let [y, ..] = image(b"y");
    let all = index(&[&y]);
    put_manifest(store, local, &name("multi"), &all, Some("all"));
    put(store, upstream, "a", b"a", Some("1"));
    let owed = Owed {
        name: name("gone"),
        digest: sha256(b"owed to nobody"),
        size: 14,
        manifest: false,
    };
    store.owe(&owed).unwrap();
}

/// Besides: y on its own and in the index with x, and another that was pulled.
fn fill_more(store: &Store) {
    let (local, upstream) = (Namespace::Local, Namespace::Upstream);
    fill(store);
    put(store, local, "y", b"y", Some("1"));
    put(store, local, "multi", b"x", None);
    let ([x, ..], [y, ..]) = (image(b"x"), image(b"y"));
    let all = index(&[&x, &y]);
    put_manifest(store, local, &name("multi"), &all, Some("all"));
    let digest = sha256(&index(&[&y]));
    let old = store.delete_manifest(local, &name("multi"), &digest);
    assert!(old.unwrap());
    put(store, upstream, "b", b"b", Some("1"));
}

fn open(directory: &Path) -> Store {
    Store::open(directory, Durability::Job).unwrap()
}

fn look(store: &Store) -> Verified {
    verify(store, false, &()).unwrap()
}

/// What each image is called that can be had whole.
fn whole(store: &Store) -> BTreeSet<String> {
    let listed = list(store, &[]).images;
    let whole = listed.iter().filter(|listed| listed.image.is_whole());
    whole.flat_map(|listed| listed.image.labels()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| format!("quay.io/{name}")).collect()
}

fn everything() -> Pruning {
    Pruning {
        all_cached: true,
        local: vec![Pattern::parse("multi", |_| false).unwrap()],
        ..Pruning::default()
    }
}

#[test]
fn a_pruning_that_fails_anywhere_leaves_what_is_whole() {
    for effect in [Effect::None, Effect::Done] {
        let mut n = 0;
        loop {
            let story = format!("operation {n}, effect {effect:?}");
            let directory = tempfile::tempdir().unwrap();
            let (store, faults) = faulty_store(directory.path());
            fill(&store);
            faults.fail_nth(n, effect, io::ErrorKind::Other);
            let pruned = prune(&store, &everything(), false, &());
            let done = faults.done().len();
            drop(store);

            let store = open(directory.path());
            let looked = look(&store);
            assert!(looked.faults.is_empty(), "{story}: {:?}", looked.faults);
            assert!(whole(&store).is_superset(&names(&["x:1"])), "{story}");
            let listed = list(&store, &[]).images;
            let parts: Vec<_> = listed
                .iter()
                .filter(|listed| !listed.image.is_whole())
                .collect();
            assert!(parts.is_empty(), "{story}: {parts:?}");
            if pruned.is_ok() {
                assert_eq!(done, n, "{story}: a failure went unnoticed");
            }
            prune(&store, &everything(), false, &()).unwrap();
            assert_eq!(whole(&store), names(&["x:1"]), "{story}");
            let mut left: Vec<Digest> = image(b"x").iter().map(|bytes| sha256(bytes)).collect();
            left.sort();
            assert_eq!(visible(directory.path()), left, "{story}");
            assert_eq!(store.owed().unwrap(), [], "{story}");
            if pruned.is_ok() {
                break;
            }
            n += 1;
        }
        assert!(n > 35, "only {n} operations were made to fail");
    }
}

#[test]
fn a_repair_that_fails_anywhere_is_gone_on_with() {
    for effect in [Effect::None, Effect::Done] {
        let mut n = 0;
        loop {
            let story = format!("operation {n}, effect {effect:?}");
            let directory = tempfile::tempdir().unwrap();
            let (store, faults) = faulty_store(directory.path());
            fill_more(&store);
            let [a, .., own] = image(b"a");
            let at = |bytes: &[u8]| {
                let digest = sha256(bytes);
                let hex = digest.hex();
                directory
                    .path()
                    .join(format!("blobs/sha256/{}/{hex}", &hex[..2]))
            };
            // y and so the index, the manifest of a, a member of x, a foreign file.
            std::fs::write(at(b"y"), "z").unwrap();
            std::fs::write(at(&a), "{}").unwrap();
            let member = sha256(BASE).to_string().replace(':', "-");
            let place = format!("namespaces/_local/quay.io/x/_blobs/{member}");
            let place = directory.path().join(place);
            let by = sha256(&image(b"x")[0]).to_string().replace(':', "-");
            std::fs::remove_file(place.join(by)).unwrap();
            std::fs::write(directory.path().join("notes.txt"), "mine").unwrap();

            let mut found = look(&store);
            assert_eq!(found.faults.len(), 4, "{story}: {:?}", found.faults);
            faults.fail_nth(n, effect, io::ErrorKind::Other);
            let repaired = repair(&store, &mut found, false, &());
            let done = faults.done().len();
            drop(store);

            let store = open(directory.path());
            let stays = ["x:1", "b:1"];
            assert!(whole(&store).is_superset(&names(&stays)), "{story}");
            // Whatever can be seen of an image that was pushed leads to all of it, or to what is found again.
            let mut again = look(&store);
            repair(&store, &mut again, false, &()).unwrap();
            let now = look(&store);
            assert!(now.faults.is_empty(), "{story}: {:?}", now.faults);
            let x = format!("multi@{}", sha256(&image(b"x")[0]));
            assert_eq!(whole(&store), names(&["x:1", "b:1", &x]), "{story}");
            visible(directory.path());
            assert!(store.content(&sha256(&own)).unwrap().is_some(), "{story}");
            if repaired.is_ok() {
                assert_eq!(done, n, "{story}: a failure went unnoticed");
                let digest = sha256(&image(b"y")[0]);
                let lost = names(&["multi:all", "y:1", &format!("multi@{digest}")]);
                assert_eq!(found.lost.into_iter().collect::<BTreeSet<_>>(), lost);
                let moved = directory.path().join("quarantine/1/notes.txt");
                assert_eq!(std::fs::read(moved).unwrap(), b"mine");
                break;
            }
            n += 1;
        }
        assert!(n > 12, "only {n} operations were made to fail");
    }
}

/// Says that it is over from the n-th question on.
struct Impatient(std::sync::atomic::AtomicUsize);

impl Watch for Impatient {
    fn is_over(&self) -> bool {
        let left = &self.0;
        let before = left.load(std::sync::atomic::Ordering::Relaxed);
        left.store(
            before.saturating_sub(1),
            std::sync::atomic::Ordering::Relaxed,
        );
        before == 0
    }
}

#[test]
fn a_pruning_can_be_interrupted_anywhere() {
    let mut interrupted = 0;
    loop {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        fill(&store);
        let watch = Impatient(interrupted.into());
        let pruned = prune(&store, &everything(), false, &watch);
        assert!(look(&store).faults.is_empty(), "after {interrupted} steps");
        if pruned.is_ok() {
            break;
        }
        interrupted += 1;
    }
    assert!(interrupted > 10, "only {interrupted} steps");
}

#[test]
fn a_store_that_only_looks_refuses_every_change() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store);
    let before = visible(directory.path());
    let looking = Store::look(directory.path()).unwrap();
    assert!(prune(&looking, &everything(), false, &()).is_err());
    assert!(looking.put(&sha256(b"new"), b"new").is_err());
    assert!(looking.stage(Algorithm::Sha256).is_err());
    assert_eq!(visible(directory.path()), before);
    assert!(look(&looking).faults.is_empty());
    assert_eq!(whole(&looking), whole(&store));
}
