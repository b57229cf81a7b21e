//! Upload sessions: chunks that are kept and chunks that are not, takers, cancelling, expiry.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use super::{Algorithm, Digest, Durability, name, sha256};
use crate::{
    storage::{Chunk, NotTaken, Store, testing::staged},
    types::UploadId,
};

struct Fixture {
    store: Store,
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Durability::Job).unwrap();
        Self { store, directory }
    }

    fn start(&self) -> UploadId {
        self.store
            .start_upload(name(), Algorithm::Sha256, usize::MAX)
            .unwrap()
            .unwrap()
    }

    /// A session that holds `bytes`.
    fn started_with(&self, bytes: &[u8]) -> UploadId {
        let id = self.start();
        let mut chunk = self.store.take_upload(id).unwrap();
        chunk.write(bytes).unwrap();
        chunk.keep();
        id
    }

    fn offset(&self, id: UploadId) -> Option<u64> {
        self.store.upload_status(id).map(|status| status.offset)
    }

    fn finish(&self, id: UploadId, digest: &Digest) -> Result<(), Digest> {
        let staging = self.store.take_upload(id).unwrap().finish();
        self.store.commit(staging.verify(digest).unwrap()?).unwrap();
        Ok(())
    }

    fn content(&self, digest: &Digest) -> Vec<u8> {
        let content = self.store.content(digest).unwrap().unwrap();
        content.read().unwrap().to_vec()
    }

    fn staged(&self) -> Vec<String> {
        staged(self.directory.path())
    }
}

#[test]
fn a_session_takes_chunks_and_becomes_content() {
    let fixture = Fixture::new();
    let id = fixture.started_with(b"one ");
    assert_eq!(fixture.offset(id), Some(4));
    let mut chunk = fixture.store.take_upload(id).unwrap();
    chunk.write(b"two ").unwrap();
    chunk.write(b"three").unwrap();
    assert_eq!(chunk.keep(), 13);

    let digest = sha256(b"one two three");
    fixture.finish(id, &digest).unwrap();
    assert_eq!(fixture.content(&digest), b"one two three");
    assert_eq!(fixture.offset(id), None);
    assert_eq!(fixture.store.take_upload(id).err(), Some(NotTaken::Unknown));
    assert!(fixture.staged().is_empty());
}

#[test]
fn a_session_remembers_the_name_it_was_opened_under() {
    let fixture = Fixture::new();
    let id = fixture.start();
    assert_eq!(fixture.store.upload_status(id).unwrap().name, name());
    assert_eq!(fixture.store.take_upload(id).unwrap().name(), &name());
}

#[test]
fn a_chunk_dropped_half_way_leaves_offset_and_hash_where_they_were() {
    let fixture = Fixture::new();
    let id = fixture.started_with(b"kept ");
    for dropped in [&b"a longer piece that never was"[..], b"x", b""] {
        let mut chunk = fixture.store.take_upload(id).unwrap();
        chunk.write(dropped).unwrap();
        drop(chunk);
        assert_eq!(fixture.offset(id), Some(5));
    }
    let mut chunk = fixture.store.take_upload(id).unwrap();
    assert_eq!(chunk.offset(), 5);
    chunk.write(b"too").unwrap();
    chunk.keep();
    let digest = sha256(b"kept too");
    fixture.finish(id, &digest).unwrap();
    assert_eq!(fixture.content(&digest), b"kept too");
}

#[test]
fn a_chunk_dropped_half_way_gives_back_its_room() {
    let fixture = Fixture::new();
    let id = fixture.started_with(b"kept");
    let file = staging_file(fixture.directory.path(), id);
    let mut chunk = fixture.store.take_upload(id).unwrap();
    chunk.reserve(64 << 20).unwrap();
    chunk.write(&vec![b'x'; 3 << 20]).unwrap();
    drop(chunk);
    let after = fs::metadata(&file).unwrap();
    assert_eq!(after.len(), 4);
    // Whose blocks are always of 512 bytes.
    assert!(after.blocks() * 512 < 1 << 20, "{} blocks", after.blocks());
}

fn staging_file(directory: &Path, id: UploadId) -> std::path::PathBuf {
    directory.join("uploads").join(id.to_string())
}

#[test]
fn of_two_takers_the_second_is_told_how_much_is_acknowledged() {
    let fixture = Fixture::new();
    let id = fixture.started_with(b"123");
    let mut first = fixture.store.take_upload(id).unwrap();
    first.write(b"456").unwrap();
    let busy = Some(NotTaken::Busy { offset: 3 });
    assert_eq!(fixture.store.take_upload(id).err(), busy);
    assert_eq!(fixture.offset(id), Some(3));
    first.keep();
    assert_eq!(fixture.store.take_upload(id).unwrap().offset(), 6);
}

#[test]
fn of_many_takers_at_once_one_has_it() {
    let fixture = Fixture::new();
    let id = fixture.start();
    let start = std::sync::Barrier::new(8);
    let taken: Vec<Option<Chunk>> = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    fixture.store.take_upload(id).ok()
                })
            })
            .collect();
        takers
            .into_iter()
            .map(|taker| taker.join().unwrap())
            .collect()
    });
    assert_eq!(taken.iter().flatten().count(), 1);
}

#[test]
fn a_cancelled_session_is_gone_with_its_bytes() {
    let fixture = Fixture::new();
    let id = fixture.started_with(b"bytes");
    assert!(fixture.store.cancel_upload(id));
    assert_eq!(fixture.offset(id), None);
    assert!(fixture.staged().is_empty());
    assert!(!fixture.store.cancel_upload(id));
    assert!(!fixture.store.cancel_upload(UploadId::random()));
}

#[test]
fn a_session_cancelled_while_it_is_written_to_is_freed_when_the_writer_ends() {
    let fixture = Fixture::new();
    for kept in [true, false] {
        let id = fixture.start();
        let mut chunk = fixture.store.take_upload(id).unwrap();
        assert!(fixture.store.cancel_upload(id));
        assert_eq!(fixture.offset(id), None);
        // The writer does not notice.
        chunk.write(b"late").unwrap();
        assert_eq!(fixture.staged().len(), 1);
        if kept {
            chunk.keep();
        } else {
            drop(chunk);
        }
        assert!(fixture.staged().is_empty(), "kept: {kept}");
        assert_eq!(fixture.offset(id), None);
    }
}

#[test]
fn a_wrong_digest_shows_nothing_and_frees_the_bytes() {
    let fixture = Fixture::new();
    let id = fixture.started_with(b"these bytes");
    let wrong = sha256(b"other bytes");
    assert_eq!(fixture.finish(id, &wrong), Err(sha256(b"these bytes")));
    for digest in [wrong, sha256(b"these bytes")] {
        assert_eq!(fixture.store.stat(&digest).unwrap(), None);
    }
    assert_eq!(fixture.offset(id), None);
    assert!(fixture.staged().is_empty());
}

#[test]
fn another_algorithm_at_the_end_reads_the_bytes_once_more() {
    let bytes = vec![b'7'; (2 << 20) + 5];
    for (opened, closed) in [
        (Algorithm::Sha256, Algorithm::Sha512),
        (Algorithm::Sha512, Algorithm::Sha256),
    ] {
        let fixture = Fixture::new();
        let id = fixture
            .store
            .start_upload(name(), opened, usize::MAX)
            .unwrap()
            .unwrap();
        let mut chunk = fixture.store.take_upload(id).unwrap();
        chunk.write(&bytes).unwrap();
        chunk.keep();
        // What a dropped chunk wrote behind the offset is no part of it.
        let mut dropped = fixture.store.take_upload(id).unwrap();
        dropped.write(b"never").unwrap();
        drop(dropped);
        let digest = Digest::of(closed, &bytes);
        fixture.finish(id, &digest).unwrap();
        assert_eq!(fixture.content(&digest), bytes);
        let other = Digest::of(opened, &bytes);
        assert_eq!(fixture.store.stat(&other).unwrap(), None);
    }
}

#[test]
fn sessions_expire_when_nobody_has_asked_for_them() {
    let fixture = Fixture::new();
    let (idle, busy) = (fixture.started_with(b"idle"), fixture.started_with(b"busy"));
    let chunk = fixture.store.take_upload(busy).unwrap();
    assert_eq!(fixture.store.expire_uploads(Duration::from_secs(3600)), 0);
    assert_eq!(fixture.store.expire_uploads(Duration::ZERO), 1);
    assert_eq!(fixture.offset(idle), None);
    assert_eq!(fixture.staged(), [busy.to_string()]);
    drop(chunk);
    assert_eq!(fixture.offset(busy), Some(4));
}

#[test]
fn asking_where_a_session_stands_keeps_it() {
    let fixture = Fixture::new();
    // Tried again where the machine was too slow to tell the two apart.
    loop {
        let (asked, left) = (fixture.start(), fixture.start());
        let opened = Instant::now();
        std::thread::sleep(Duration::from_millis(20));
        let asking = Instant::now();
        assert_eq!(fixture.offset(asked), Some(0));
        let lifetime = asking.duration_since(opened);
        let expired = fixture.store.expire_uploads(lifetime);
        if asking.elapsed() < lifetime {
            assert_eq!(expired, 1);
            assert_eq!(fixture.offset(asked), Some(0));
            assert_eq!(fixture.offset(left), None);
            return;
        }
        fixture.store.cancel_upload(asked);
    }
}

#[test]
fn a_session_of_one_request_goes_with_it() {
    let fixture = Fixture::new();
    let lone = || {
        fixture
            .store
            .lone_upload(name(), Algorithm::Sha256)
            .unwrap()
    };
    let mut given_up = lone();
    given_up.write(b"half of it").unwrap();
    assert_eq!(fixture.staged().len(), 1);
    drop(given_up);
    assert!(fixture.staged().is_empty());

    let mut whole = lone();
    whole.write(b"whole").unwrap();
    let verified = whole.finish().verify(&sha256(b"whole")).unwrap();
    fixture.store.commit(verified.ok().unwrap()).unwrap();
    assert_eq!(fixture.content(&sha256(b"whole")), b"whole");
}

#[test]
fn a_staging_that_is_dropped_frees_its_file() {
    let fixture = Fixture::new();
    let mut staging = fixture.store.stage(Algorithm::Sha256).unwrap();
    staging.write(b"abc").unwrap();
    let reader = staging.reader();
    assert_eq!(fixture.staged().len(), 1);
    drop(staging);
    assert!(fixture.staged().is_empty());
    // Whoever reads behind it is not cut off.
    let mut buffer = [0; 3];
    assert_eq!(reader.read_at(0, &mut buffer).unwrap(), 3);
    assert_eq!(&buffer, b"abc");
}
