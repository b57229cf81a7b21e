//! A deletion beside a push of the same thing: afterwards it is there whole, or not at all.

use std::{sync::Barrier, thread};

use super::{Algorithm, Durability, name, sha256};
use crate::{
    storage::{BlobRemoval, Member, Reason, Store},
    types::{Digest, Manifest, Namespace, Tag},
};

const LOCAL: Namespace = Namespace::Local;
const CONFIG: &[u8] = b"{}";

/// Often enough that one without locks fails nearly every time.
const ROUNDS: usize = 300;

fn manifest() -> (Vec<u8>, Manifest, Digest) {
    let bytes = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[]}}"#,
        sha256(CONFIG),
        CONFIG.len(),
    )
    .into_bytes();
    let manifest = Manifest::pushed(&bytes, None).unwrap();
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    (bytes, manifest, digest)
}

fn at_once(one: impl FnOnce() + Send, other: impl FnOnce() + Send) {
    let begin = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            begin.wait();
            one();
        });
        scope.spawn(|| {
            begin.wait();
            other();
        });
    });
}

#[test]
fn a_manifest_that_is_deleted_while_it_is_pushed_is_there_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Durability::Job).unwrap();
    let (bytes, manifest, digest) = manifest();
    let (name, config) = (name(), sha256(CONFIG));
    let tag: Tag = "v1".parse().unwrap();
    let push = || {
        store
            .put_manifest_and_tags(
                LOCAL,
                &name,
                &digest,
                &bytes,
                &manifest,
                std::slice::from_ref(&tag),
            )
            .unwrap();
    };
    push();
    store.tags(LOCAL, &name, None, 10).unwrap();
    for _ in 0..ROUNDS {
        at_once(push, || {
            store.delete_manifest(LOCAL, &name, &digest).unwrap();
        });
        let held = store.manifest(LOCAL, &name, &digest).unwrap().is_some();
        let member = store.membership(LOCAL, &name, &config).unwrap().is_some();
        let held_by = store.any_holder(&config, |_| true).unwrap();
        let tagged = store.tag(LOCAL, &name, &tag).unwrap().is_some();
        let listed = !store.tags(LOCAL, &name, None, 10).unwrap().is_empty();
        assert_eq!([member, held_by, tagged, listed], [held; 4]);
    }
}

#[test]
fn a_blob_that_is_deleted_while_a_manifest_comes_to_name_it_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Durability::Job).unwrap();
    let (bytes, manifest, digest) = manifest();
    let (name, config) = (name(), sha256(CONFIG));
    let member = Member {
        size: CONFIG.len() as u64,
        media_type: None,
        source: None,
    };
    for _ in 0..ROUNDS {
        store
            .add_member(LOCAL, &name, &config, &Reason::Pushed, &member)
            .unwrap();
        at_once(
            || {
                store
                    .put_manifest(LOCAL, &name, &digest, &bytes, &manifest)
                    .unwrap();
            },
            || {
                store.delete_blob(LOCAL, &name, &config).unwrap();
            },
        );
        assert!(store.membership(LOCAL, &name, &config).unwrap().is_some());
        assert!(store.any_holder(&config, |_| true).unwrap());
        let removal = store.delete_blob(LOCAL, &name, &config).unwrap();
        assert_eq!(removal, BlobRemoval::NamedBy(digest.clone()));
        store.delete_manifest(LOCAL, &name, &digest).unwrap();
    }
}
