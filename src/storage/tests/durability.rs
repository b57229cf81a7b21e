//! What a start finds: other people's directories, cut-off starts, damaged records; and what `full` asks for.

use std::{fs, io, path::Path};

use super::{Durability, name, sha256};
use crate::{
    storage::{
        Error, Member, OpenError, Owed, Reason, Store, TagEntry,
        testing::{Op, faulty_store, staged},
    },
    types::{Manifest, Namespace},
};

fn open(directory: &Path) -> Result<Store, OpenError> {
    Store::open(directory, Durability::Job)
}

fn refusal(directory: &Path) -> String {
    open(directory).err().unwrap().to_string()
}

#[test]
fn a_directory_in_use_is_refused_with_the_pid_of_its_user() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    let pid = std::process::id().to_string();
    assert!(refusal(directory.path()).contains(&pid));
    drop(first);
    open(directory.path()).unwrap();
}

#[test]
fn a_newer_layout_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("version"), "999\n").unwrap();
    fs::create_dir(directory.path().join("uploads")).unwrap();
    fs::write(directory.path().join("uploads/theirs"), "x").unwrap();
    assert!(refusal(directory.path()).contains("999"));
    assert_eq!(staged(directory.path()), ["theirs"]);
}

#[test]
fn somebody_elses_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("blobs")).unwrap();
    assert!(refusal(directory.path()).contains("blobs"));
}

#[test]
fn a_first_start_that_was_cut_off_is_gone_on_with() {
    for durability in [Durability::Job, Durability::Full] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("version"), "").unwrap();
        Store::open(directory.path(), durability).unwrap();
        let version = fs::read_to_string(directory.path().join("version")).unwrap();
        assert_eq!(version, "1\n");
    }
}

#[test]
fn staging_of_an_earlier_run_is_swept() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    fs::write(directory.path().join("uploads/left"), "half a blo").unwrap();
    let _store = open(directory.path()).unwrap();
    assert!(staged(directory.path()).is_empty());
}

/// As a power cut leaves a record that was not synced.
fn damage(directory: &Path, file: &Path) {
    let path = directory.join(file);
    assert!(path.exists(), "{}", path.display());
    fs::write(path, "").unwrap();
}

#[test]
fn a_damaged_record_of_content_owed_does_not_keep_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let owed = Owed {
        name: name(),
        digest: sha256(b"owed"),
        size: 4,
        manifest: false,
    };
    let damaged = store.owe(&owed).unwrap();
    let whole = store.owe(&owed).unwrap();
    damage(directory.path(), Path::new(&format!("owed/{damaged}")));
    assert_eq!(store.owed().unwrap(), [(whole, owed.clone())]);
    // It is told of once.
    assert_eq!(
        fs::read_dir(directory.path().join("owed")).unwrap().count(),
        1
    );
}

#[test]
fn pushing_again_heals_damaged_entries() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let (name, blob) = (name(), sha256(b"blob"));
    let body = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{blob}","size":4}},"layers":[],"mediaType":"application/vnd.oci.image.manifest.v1+json"}}"#
    );
    let manifest = Manifest::pushed(body.as_bytes(), None).unwrap();
    let digest = sha256(body.as_bytes());
    let member = Member {
        size: 4,
        media_type: None,
        source: None,
    };
    let push = || -> Result<(), Error> {
        store.add_member(Namespace::Local, &name, &blob, &Reason::Pushed, &member)?;
        store.put_manifest(Namespace::Local, &name, &digest, body.as_bytes(), &manifest)
    };
    push().unwrap();
    let repository = Path::new("namespaces/_local/docker.io/acme/app");
    let (blob_name, manifest_name) = (
        format!("sha256-{}", blob.hex()),
        format!("sha256-{}", digest.hex()),
    );
    for entry in [
        format!("_blobs/{blob_name}/pushed"),
        format!("_blobs/{blob_name}/{manifest_name}"),
        format!("_manifests/{manifest_name}"),
    ] {
        damage(directory.path(), &repository.join(entry));
    }
    let read = store.membership(Namespace::Local, &name, &blob);
    assert!(matches!(read, Err(Error::Corrupt { .. })));

    push().unwrap();
    let membership = store.membership(Namespace::Local, &name, &blob).unwrap();
    assert!(membership.unwrap().named);
    let held = store.manifest(Namespace::Local, &name, &digest).unwrap();
    assert_eq!(held.unwrap().size, body.len() as u64);
}

#[test]
fn what_is_there_already_is_hardened_and_not_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let (store, faults) = faulty_store(directory.path());
    let member = Member {
        size: 1,
        media_type: None,
        source: None,
    };
    let push = || {
        let digest = sha256(b"x");
        store.put(&digest, b"x").unwrap();
        store
            .add_member(Namespace::Local, &name(), &digest, &Reason::Pushed, &member)
            .unwrap();
    };
    push();
    faults.forget();
    push();
    assert_eq!(faults.done(), [Op::Harden, Op::Harden]);
}

#[test]
fn only_what_could_not_be_written_is_a_lack_of_room() {
    let directory = tempfile::tempdir().unwrap();
    let (store, faults) = faulty_store(directory.path());
    for (kind, no_room) in [
        (io::ErrorKind::StorageFull, true),
        (io::ErrorKind::QuotaExceeded, true),
        (io::ErrorKind::ReadOnlyFilesystem, true),
        (io::ErrorKind::PermissionDenied, true),
        (io::ErrorKind::Other, false),
    ] {
        faults.forget();
        faults.fail_from(Op::CreatePart, 0, kind);
        let error = store.stage(crate::types::Algorithm::Sha256).err().unwrap();
        assert_eq!(error.is_no_room(), no_room, "{error}");
    }
    // A file of another user's: nothing that more room would help.
    let unreadable = Error::Io {
        op: crate::storage::Op::Read,
        key: "blobs/sha256/ab/abc".to_owned(),
        source: io::ErrorKind::PermissionDenied.into(),
    };
    assert!(!unreadable.is_no_room());
}

#[test]
fn tags_come_in_byte_order() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let entry = TagEntry {
        digest: sha256(b"x"),
        manifest: None,
        checked: None,
        previous: None,
    };
    for tag in ["b", "B", "a-1", "a", "_x", "9"] {
        let tag = tag.parse().unwrap();
        store
            .put_tag(Namespace::Local, &name(), &tag, &entry)
            .unwrap();
    }
    let tags = store.tags(Namespace::Local, &name(), None, 100).unwrap();
    let tags: Vec<&str> = tags.iter().map(|tag| tag.as_str()).collect();
    assert_eq!(tags, ["9", "B", "_x", "a", "a-1", "b"]);
}
