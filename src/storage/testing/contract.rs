//! The contract of `Backend`, one clause each. Clauses know no backend by name.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{
    super::{
        backend::{Leaf, Part, PartFile},
        layout::{self, Key},
    },
    Bench,
};
use crate::types::{Algorithm, CanonicalName, Digest, Namespace, UploadId};

pub(in crate::storage) fn a_record_reads_back_whole(bench: &Bench) {
    for bytes in [&b""[..], b"x", &[7; 100_000]] {
        let key = layout::owed(UploadId::random());
        bench.backend.write(&key, bytes).unwrap();
        assert_eq!(bench.backend.read(&key).unwrap().as_deref(), Some(bytes));
    }
}

pub(in crate::storage) fn a_record_is_replaced_at_once(bench: &Bench) {
    let key = tag("v1");
    let versions = [vec![b'a'; 9_000], vec![b'b'; 20_000]];
    bench.backend.write(&key, &versions[0]).unwrap();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..200 {
                bench.backend.write(&key, &versions[n % 2]).unwrap();
            }
            ended.store(true, Ordering::SeqCst);
        });
        while !ended.load(Ordering::SeqCst) {
            let read = bench.backend.read(&key).unwrap().unwrap();
            assert!(
                versions.contains(&read),
                "a reader saw {} bytes",
                read.len()
            );
        }
    });
    assert_eq!(bench.backend.list(&layout::uploads()).unwrap().len(), 0);
}

pub(in crate::storage) fn an_absent_record_is_none(bench: &Bench) {
    assert_eq!(bench.backend.read(&tag("absent")).unwrap(), None);
    // Below something that is a record and no directory.
    bench.backend.write(&layout::all_owed(), b"x").unwrap();
    let below = layout::owed(UploadId::random());
    assert_eq!(bench.backend.read(&below).unwrap(), None);
}

pub(in crate::storage) fn deleting_tells_whether_there_was_a_record(bench: &Bench) {
    let key = tag("v1");
    assert!(!bench.backend.delete(&key).unwrap());
    bench.backend.write(&key, b"x").unwrap();
    assert!(bench.backend.delete(&key).unwrap());
    assert!(!bench.backend.delete(&key).unwrap());
    assert_eq!(bench.backend.read(&key).unwrap(), None);
}

pub(in crate::storage) fn what_is_there_can_be_hardened(bench: &Bench) {
    let digest = published(bench, b"content");
    bench.backend.harden(&layout::content(&digest)).unwrap();
    bench.backend.write(&tag("v1"), b"x").unwrap();
    bench.backend.harden(&tag("v1")).unwrap();
}

pub(in crate::storage) fn what_is_touched_is_as_new(bench: &Bench) {
    let [older, newer] = [tag("older"), tag("newer")];
    assert_eq!(bench.backend.written(&older).unwrap(), None);
    bench.backend.touch(&older).unwrap();
    assert_eq!(
        bench.backend.written(&older).unwrap(),
        None,
        "touching makes nothing"
    );
    bench.backend.write(&older, b"x").unwrap();
    bench.backend.write(&newer, b"x").unwrap();
    let written = |key| bench.backend.written(key).unwrap().unwrap();
    assert!(written(&older) <= written(&newer));
    // Times may be told in coarse steps.
    while written(&older) <= written(&newer) {
        bench.backend.touch(&older).unwrap();
    }
    assert_eq!(bench.backend.read(&older).unwrap().unwrap(), b"x");
}

pub(in crate::storage) fn an_empty_prefix_is_tidied_away_and_can_be_used_again(bench: &Bench) {
    let prefix = layout::tags(Namespace::Local, &name());
    for _ in 0..2 {
        bench.backend.write(&tag("v1"), b"x").unwrap();
        bench.backend.tidy(&prefix);
        assert_eq!(bench.backend.list(&prefix).unwrap(), ["v1"]);
        bench.backend.delete(&tag("v1")).unwrap();
        bench.backend.tidy(&prefix);
        assert_eq!(bench.backend.list(&prefix).unwrap(), [""; 0]);
        // Nor is anything left above it.
        assert_eq!(
            bench
                .backend
                .list(&layout::namespace(Namespace::Upstream))
                .unwrap(),
            [""; 0]
        );
    }
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                bench.backend.tidy(&prefix);
            }
        });
        for _ in 0..20 {
            bench.backend.write(&tag("v1"), b"x").unwrap();
            assert!(bench.backend.delete(&tag("v1")).unwrap());
        }
        ended.store(true, Ordering::SeqCst);
    });
}

pub(in crate::storage) fn a_listing_has_what_is_directly_below(bench: &Bench) {
    for name in ["v1", "v2", "latest"] {
        bench.backend.write(&tag(name), b"x").unwrap();
    }
    let listed = bench.backend.list(&layout::tags(Namespace::Local, &name()));
    let listed: BTreeSet<String> = listed.unwrap().into_iter().collect();
    assert_eq!(listed, ["latest", "v1", "v2"].map(str::to_owned).into());
    // What lies deeper is named by the level above it.
    let digest = Digest::of(Algorithm::Sha256, b"x");
    let reason = layout::Reason::Pushed;
    let member = layout::member(Namespace::Local, &name(), &digest, &reason);
    bench.backend.write(&member, b"{}").unwrap();
    let members = layout::members(Namespace::Local, &name());
    assert_eq!(
        bench.backend.list(&members).unwrap(),
        [format!("sha256-{}", digest.hex())]
    );
}

pub(in crate::storage) fn a_listing_of_nothing_is_empty(bench: &Bench) {
    let tags = layout::tags(Namespace::Upstream, &name());
    assert!(bench.backend.list(&tags).unwrap().is_empty());
}

pub(in crate::storage) fn a_walk_tells_of_everything_below(bench: &Bench) {
    let digest = published(bench, b"content");
    bench.backend.write(&tag("v1"), b"x").unwrap();
    let mut found = BTreeSet::new();
    bench
        .backend
        .walk(&layout::namespace(Namespace::Upstream), &mut |key, leaf| {
            found.insert(format!("{key} {leaf:?}"));
        });
    assert_eq!(found, BTreeSet::from([format!("{} File(1)", tag("v1"))]));
    let mut sizes = Vec::new();
    let contents = layout::contents(digest.algorithm());
    bench
        .backend
        .walk(&contents, &mut |key, leaf| sizes.push((key, leaf)));
    assert!(
        matches!(&sizes[..], [(key, Leaf::File(7))] if *key == layout::content(&digest)),
        "{sizes:?}"
    );
    let absent = layout::owed(UploadId::random());
    bench.backend.walk(&absent, &mut |key, leaf| {
        panic!("{key}, which is not there, is {leaf:?}");
    });
}

pub(in crate::storage) fn what_is_set_aside_is_elsewhere(bench: &Bench) {
    let to = layout::quarantined(1, &tag("v1"));
    assert!(!bench.backend.set_aside(&tag("v1"), &to).unwrap());
    bench.backend.write(&tag("v1"), b"x").unwrap();
    assert!(bench.backend.set_aside(&tag("v1"), &to).unwrap());
    assert_eq!(bench.backend.read(&tag("v1")).unwrap(), None);
    assert_eq!(bench.backend.read(&to).unwrap().as_deref(), Some(&b"x"[..]));
    let digest = published(bench, b"content");
    let content = layout::content(&digest);
    let to = layout::quarantined(1, &content);
    assert!(bench.backend.set_aside(&content, &to).unwrap());
    assert_eq!(bench.backend.stat(&digest).unwrap(), None);
    assert_eq!(published(bench, b"content"), digest, "there is room for it");
}

pub(in crate::storage) fn a_part_is_read_behind_what_was_written(bench: &Bench) {
    let part = bench.backend.create_part(UploadId::random()).unwrap();
    let reader = Arc::clone(&part).as_read();
    let mut buffer = [0; 8];
    assert_eq!(reader.read_at(0, &mut buffer).unwrap(), 0);
    part.write_at(0, b"hello").unwrap();
    part.write_at(5, b" you").unwrap();
    assert_eq!(reader.read_at(3, &mut buffer).unwrap(), 6);
    assert_eq!(&buffer[..6], b"lo you");
    assert_eq!(reader.read_at(9, &mut buffer).unwrap(), 0);
}

pub(in crate::storage) fn a_part_that_is_cut_goes_on_where_it_was_cut(bench: &Bench) {
    let part = bench.backend.create_part(UploadId::random()).unwrap();
    part.write_at(0, b"kept and dropped").unwrap();
    part.set_length(4).unwrap();
    let mut buffer = [0; 16];
    assert_eq!(part.read_at(0, &mut buffer).unwrap(), 4);
    part.write_at(4, b"!").unwrap();
    assert_eq!(part.read_at(0, &mut buffer).unwrap(), 5);
    assert_eq!(&buffer[..5], b"kept!");
}

pub(in crate::storage) fn room_asked_for_shows_nowhere(bench: &Bench) {
    let id = UploadId::random();
    let part = bench.backend.create_part(id).unwrap();
    // Content may be of no bytes at all.
    part.reserve(0).unwrap();
    part.reserve(1 << 20).unwrap();
    assert_eq!(part.read_at(0, &mut [0; 4]).unwrap(), 0);
    part.write_at(0, b"abc").unwrap();
    part.reserve(2).unwrap();
    assert_eq!(part.read_at(0, &mut [0; 4]).unwrap(), 3);
    let digest = publish(bench, id, &part, b"abc").unwrap();
    assert_eq!(bench.backend.stat(&digest).unwrap(), Some(3));
}

pub(in crate::storage) fn parts_are_private(bench: &Bench) {
    let part = bench.backend.create_part(UploadId::random()).unwrap();
    part.write_at(0, b"secret").unwrap();
    let digest = Digest::of(Algorithm::Sha256, b"secret");
    assert_eq!(bench.backend.stat(&digest).unwrap(), None);
    assert!(bench.backend.open(&digest).unwrap().is_none());
}

pub(in crate::storage) fn parts_are_not_shared(bench: &Bench) {
    let id = UploadId::random();
    let part = bench.backend.create_part(id).unwrap();
    part.write_at(0, b"mine").unwrap();
    let again = bench.backend.create_part(id).err().map(|e| e.kind());
    assert_eq!(again, Some(io::ErrorKind::AlreadyExists));
    let other = bench.backend.create_part(UploadId::random()).unwrap();
    assert_eq!(other.read_at(0, &mut [0; 4]).unwrap(), 0);
}

pub(in crate::storage) fn a_discarded_part_is_gone(bench: &Bench) {
    let id = UploadId::random();
    let part = bench.backend.create_part(id).unwrap();
    part.write_at(0, b"x").unwrap();
    bench.backend.discard(id);
    assert!(bench.backend.list(&layout::uploads()).unwrap().is_empty());
    // Once more, and one that never was.
    bench.backend.discard(id);
    bench.backend.discard(UploadId::random());
}

pub(in crate::storage) fn content_appears_whole(bench: &Bench) {
    let bytes = vec![b'z'; 300_000];
    let digest = published(bench, &bytes);
    assert_eq!(bench.backend.stat(&digest).unwrap(), Some(300_000));
    assert_eq!(content(bench, &digest), bytes);
    assert!(bench.backend.list(&layout::uploads()).unwrap().is_empty());
}

pub(in crate::storage) fn content_is_as_long_as_was_said(bench: &Bench) {
    // An interrupted chunk may have left bytes behind the end.
    let id = UploadId::random();
    let part = bench.backend.create_part(id).unwrap();
    part.write_at(0, b"content and more").unwrap();
    let digest = publish(bench, id, &part, b"content").unwrap();
    assert_eq!(content(bench, &digest), b"content");
}

pub(in crate::storage) fn content_without_a_byte_is_content(bench: &Bench) {
    let digest = published(bench, b"");
    assert_eq!(bench.backend.stat(&digest).unwrap(), Some(0));
    assert_eq!(content(bench, &digest), b"");
}

pub(in crate::storage) fn absent_content_is_none(bench: &Bench) {
    let digest = Digest::of(Algorithm::Sha512, b"nowhere");
    assert_eq!(bench.backend.stat(&digest).unwrap(), None);
    assert!(bench.backend.open(&digest).unwrap().is_none());
}

pub(in crate::storage) fn a_second_publication_is_a_success(bench: &Bench) {
    let digest = published(bench, b"twice");
    assert_eq!(published(bench, b"twice"), digest);
    assert_eq!(content(bench, &digest), b"twice");
    assert!(bench.backend.list(&layout::uploads()).unwrap().is_empty());
}

pub(in crate::storage) fn publications_at_once_all_succeed(bench: &Bench) {
    const PUBLISHERS: usize = 8;
    for round in 0..10_u8 {
        let bytes = vec![round; 50_000];
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let start = Barrier::new(PUBLISHERS);
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let publishers: Vec<_> = (0..PUBLISHERS)
                .map(|_| {
                    scope.spawn(|| {
                        let id = UploadId::random();
                        let part = bench.backend.create_part(id).unwrap();
                        part.write_at(0, &bytes).unwrap();
                        start.wait();
                        publish(bench, id, &part, &bytes).unwrap();
                        // What was acknowledged can be had at once.
                        assert_eq!(bench.backend.stat(&digest).unwrap(), Some(50_000));
                    })
                })
                .collect();
            scope.spawn(|| {
                while !ended.load(Ordering::SeqCst) {
                    if let Some((file, size)) = bench.backend.open(&digest).unwrap() {
                        assert_eq!(size, 50_000);
                        let mut read = vec![0; 50_001];
                        assert_eq!(file.read_at(0, &mut read).unwrap(), 50_000);
                    }
                }
            });
            for publisher in publishers {
                // Whatever became of it, the reader must end.
                let result = publisher.join();
                ended.store(result.is_err(), Ordering::SeqCst);
                assert!(result.is_ok());
            }
            ended.store(true, Ordering::SeqCst);
        });
        assert_eq!(content(bench, &digest), bytes);
    }
    assert!(bench.backend.list(&layout::uploads()).unwrap().is_empty());
}

pub(in crate::storage) fn content_of_a_wrong_length_is_replaced(bench: &Bench) {
    // As a power cut leaves it. The backend is told the digest and believes it.
    let whole = b"all of the bytes";
    let digest = Digest::of(Algorithm::Sha256, whole);
    let id = UploadId::random();
    let part = bench.backend.create_part(id).unwrap();
    part.write_at(0, b"all of").unwrap();
    let short = Part {
        id,
        file: part,
        length: 6,
    };
    bench.backend.publish(&digest, &[short]).unwrap();
    let (opened, _) = bench.backend.open(&digest).unwrap().unwrap();

    assert_eq!(published(bench, whole), digest);
    assert_eq!(content(bench, &digest), whole);
    let mut before = [0; 16];
    assert_eq!(opened.read_at(0, &mut before).unwrap(), 6);
    assert_eq!(&before[..6], b"all of");
}

pub(in crate::storage) fn a_published_part_stays_readable(bench: &Bench) {
    let id = UploadId::random();
    let part = bench.backend.create_part(id).unwrap();
    part.write_at(0, b"still read by somebody").unwrap();
    let reader = Arc::clone(&part).as_read();
    publish(bench, id, &part, b"still read by somebody").unwrap();
    drop(part);
    let mut buffer = [0; 64];
    assert_eq!(reader.read_at(6, &mut buffer).unwrap(), 16);
    assert_eq!(&buffer[..16], b"read by somebody");
}

pub(in crate::storage) fn content_can_be_removed_and_read_on(bench: &Bench) {
    let digest = published(bench, b"removed");
    let (open, size) = bench.backend.open(&digest).unwrap().unwrap();
    assert!(bench.backend.remove(&digest).unwrap());
    assert!(!bench.backend.remove(&digest).unwrap());
    assert_eq!(bench.backend.stat(&digest).unwrap(), None);
    assert!(bench.backend.open(&digest).unwrap().is_none());
    let mut bytes = vec![0; size as usize];
    open.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, b"removed");
    assert_eq!(published(bench, b"removed"), digest);
    assert_eq!(content(bench, &digest), b"removed");
}

pub(in crate::storage) fn there_is_room(bench: &Bench) {
    assert!(bench.backend.free_space().unwrap() > 0);
}

fn name() -> CanonicalName {
    "docker.io/acme/app".parse().unwrap()
}

fn tag(tag: &str) -> Key {
    layout::tag(Namespace::Local, &name(), &tag.parse().unwrap())
}

/// Stages and publishes `bytes`.
fn published(bench: &Bench, bytes: &[u8]) -> Digest {
    let id = UploadId::random();
    let part = bench.backend.create_part(id).unwrap();
    part.write_at(0, bytes).unwrap();
    publish(bench, id, &part, bytes).unwrap()
}

/// Publishes a part that begins with `bytes`, which are all that was said of it.
fn publish(
    bench: &Bench,
    id: UploadId,
    part: &Arc<dyn PartFile>,
    bytes: &[u8],
) -> io::Result<Digest> {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    let part = Part {
        id,
        file: Arc::clone(part),
        length: bytes.len() as u64,
    };
    let result = bench.backend.publish(&digest, &[part]);
    // As a staging does when it is dropped.
    bench.backend.discard(id);
    result.map(|()| digest)
}

fn content(bench: &Bench, digest: &Digest) -> Vec<u8> {
    let (file, size) = bench.backend.open(digest).unwrap().unwrap();
    let mut bytes = vec![0; usize::try_from(size).unwrap() + 1];
    let read = file.read_at(0, &mut bytes).unwrap();
    bytes.truncate(read);
    assert_eq!(read as u64, size);
    bytes
}
