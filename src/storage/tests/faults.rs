//! A push that fails at its N-th step, for every N: whatever is visible is whole, nothing is left behind, the retry succeeds.

use std::{io, path::Path};

use super::{Algorithm, Durability, name, sha256};
use crate::{
    storage::{
        Error, Member, Owed, Reason, Store, TagEntry,
        testing::{Effect, Op, faulty_store, staged, visible},
    },
    types::{Digest, Manifest, Namespace, Role, Tag},
};

const LAYER: &[u8] = b"the bytes of a layer, in three chunks";
const CONFIG: &[u8] = b"{}";

fn manifest() -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        sha256(CONFIG),
        CONFIG.len(),
        sha256(LAYER),
        LAYER.len()
    )
    .into_bytes()
}

fn tag() -> Tag {
    "v1".parse().unwrap()
}

/// All that a client's push of a small image does to the store, in its order.
fn push(store: &Store) -> Result<(), Error> {
    let name = name();
    for blob in [LAYER, CONFIG] {
        let id = store
            .start_upload(name.clone(), Algorithm::Sha256, usize::MAX)?
            .unwrap();
        for piece in blob.chunks(blob.len().div_ceil(3)) {
            let mut chunk = store.take_upload(id).unwrap();
            let written = chunk
                .reserve(piece.len() as u64)
                .and_then(|()| chunk.write(piece));
            if let Err(error) = written {
                drop(chunk.finish());
                return Err(error);
            }
            chunk.keep();
        }
        let digest = sha256(blob);
        let staging = store.take_upload(id).unwrap().finish();
        store.commit(staging.verify(&digest)?.ok().unwrap())?;
        let member = Member {
            size: blob.len() as u64,
            media_type: None,
            source: None,
        };
        store.add_member(Namespace::Local, &name, &digest, &Reason::Pushed, &member)?;
    }
    let owed = Owed {
        name: name.clone(),
        digest: sha256(b"owed"),
        size: 4,
        manifest: false,
    };
    let owed = store.owe(&owed)?;
    let bytes = manifest();
    let digest = sha256(&bytes);
    let parsed = Manifest::pushed(&bytes, None).unwrap();
    store.put_manifest(Namespace::Local, &name, &digest, &bytes, &parsed)?;
    let entry = TagEntry {
        digest,
        manifest: None,
        checked: None,
        previous: None,
    };
    store.put_tag(Namespace::Local, &name, &tag(), &entry)?;
    store.settle(owed)
}

/// Nothing that can be seen speaks of what can't be had.
fn assert_whole(directory: &Path, store: &Store, story: &str) {
    let blobs = visible(directory);
    let name = name();
    for digest in [sha256(LAYER), sha256(CONFIG)] {
        if let Some(membership) = store.membership(Namespace::Local, &name, &digest).unwrap() {
            assert!(blobs.contains(&digest), "{story}: a member without bytes");
            assert_eq!(store.stat(&digest).unwrap(), Some(membership.member.size));
        }
    }
    let bytes = manifest();
    let digest = sha256(&bytes);
    if let Some(entry) = store.manifest(Namespace::Local, &name, &digest).unwrap() {
        assert_eq!(entry.size, bytes.len() as u64, "{story}");
        assert!(blobs.contains(&digest), "{story}: a manifest without bytes");
        for reference in Manifest::pushed(&bytes, None).unwrap().references {
            assert_eq!(reference.role, Role::Blob);
            let membership = store.membership(Namespace::Local, &name, &reference.digest);
            let membership = membership.unwrap();
            assert!(
                membership.is_some_and(|known| known.named),
                "{story}: a manifest names what is no member"
            );
        }
    }
    if let Some(entry) = store.tag(Namespace::Local, &name, &tag()).unwrap() {
        assert_eq!(entry.digest, digest);
        let held = store.manifest(Namespace::Local, &name, &digest).unwrap();
        assert!(held.is_some(), "{story}: a tag without a manifest");
    }
}

fn assert_pushed(store: &Store) {
    for bytes in [LAYER, CONFIG, &manifest()] {
        let content = store.content(&sha256(bytes)).unwrap().unwrap();
        assert_eq!(&*content.read().unwrap(), bytes);
    }
    let tag = store.tag(Namespace::Local, &name(), &tag()).unwrap();
    assert_eq!(tag.unwrap().digest, sha256(&manifest()));
}

#[test]
fn a_push_that_fails_anywhere_leaves_nothing_half_visible() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for effect in [Effect::None, Effect::Done] {
            let mut n = 0;
            loop {
                let story = format!("{kind:?} at operation {n}, effect {effect:?}");
                let directory = tempfile::tempdir().unwrap();
                let (store, faults) = faulty_store(directory.path());
                faults.fail_nth(n, effect, kind);
                if push(&store).is_ok() {
                    assert_eq!(faults.done().len(), n, "{story}: a failure went unnoticed");
                    break;
                }
                let failed = *faults.done().last().unwrap();
                assert_whole(directory.path(), &store, &story);
                let left = staged(directory.path());
                assert!(left.is_empty(), "{story}, {failed:?}, leaves {left:?}");
                drop(store);

                let store = Store::open(directory.path(), Durability::Job).unwrap();
                assert!(staged(directory.path()).is_empty(), "{story}");
                assert_whole(directory.path(), &store, &story);
                push(&store).unwrap_or_else(|error| panic!("{story}: the retry: {error}"));
                assert_pushed(&store);
                n += 1;
            }
            // Two blobs of three chunks, three contents, eight entries.
            assert!(n > 20, "only {n} operations were made to fail");
        }
    }
}

#[test]
fn a_retry_in_the_same_process_succeeds_too() {
    let directory = tempfile::tempdir().unwrap();
    let (store, faults) = faulty_store(directory.path());
    let failures = (0..100).take_while(|n| {
        faults.forget();
        faults.fail_nth(*n, Effect::None, io::ErrorKind::StorageFull);
        push(&store).is_err()
    });
    let failures = failures.count();
    // What is there already is not written again, so that there is less and less to fail.
    assert!((4..30).contains(&failures), "{failures} failures");
    assert_pushed(&store);
    assert!(staged(directory.path()).is_empty());
}

#[test]
fn a_session_outlives_a_chunk_that_could_not_be_written() {
    for effect in [Effect::None, Effect::Done] {
        let directory = tempfile::tempdir().unwrap();
        let (store, faults) = faulty_store(directory.path());
        let id = store
            .start_upload(name(), Algorithm::Sha256, usize::MAX)
            .unwrap()
            .unwrap();
        let mut chunk = store.take_upload(id).unwrap();
        chunk.write(b"first ").unwrap();
        chunk.keep();

        faults.forget();
        faults.fail_nth(0, effect, io::ErrorKind::StorageFull);
        let mut chunk = store.take_upload(id).unwrap();
        assert!(
            chunk
                .write(b"lost in a full disk")
                .unwrap_err()
                .is_no_room()
        );
        drop(chunk);
        assert_eq!(faults.done(), [Op::WriteAt, Op::SetLength]);
        assert_eq!(store.upload_status(id).unwrap().offset, 6);

        let mut chunk = store.take_upload(id).unwrap();
        chunk.write(b"second").unwrap();
        chunk.keep();
        let staging = store.take_upload(id).unwrap().finish();
        let digest = sha256(b"first second");
        let verified = staging.verify(&digest).unwrap();
        store.commit(verified.ok().unwrap()).unwrap();
        assert_eq!(visible(directory.path()), [digest]);
    }
}

#[test]
fn a_failed_publication_frees_the_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let (store, faults) = faulty_store(directory.path());
    faults.fail_from(Op::Publish, 0, io::ErrorKind::StorageFull);
    let digest: Digest = sha256(b"bytes");
    let error = store.put(&digest, b"bytes").unwrap_err();
    assert!(error.is_no_room());
    assert!(error.to_string().contains(digest.hex()), "{error}");
    assert!(visible(directory.path()).is_empty());
    assert!(staged(directory.path()).is_empty());
}
