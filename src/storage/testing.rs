//! What every backend must do, as one suite, and a backend that fails on demand.
//!
//! A new backend is under contract with one line in `storage/tests/mod.rs`.
#![allow(clippy::unwrap_used)]

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use super::{
    Durability, Store,
    backend::{Backend, Leaf, Part, PartFile, ReadAt},
    fs::Fs,
    layout::{self, Key},
};
use crate::types::{Digest, UploadId};

pub(super) mod contract;

/// Stamps every clause of the contract as a test of the backend that `$make` makes.
macro_rules! under_contract {
    ($backend:ident, $make:expr) => {
        mod $backend {
            use crate::storage::testing::{contract, under_contract};

            under_contract!(@clauses $make;
                a_record_reads_back_whole
                a_record_is_replaced_at_once
                an_absent_record_is_none
                deleting_tells_whether_there_was_a_record
                what_is_there_can_be_hardened
                what_is_touched_is_as_new
                an_empty_prefix_is_tidied_away_and_can_be_used_again
                a_listing_has_what_is_directly_below
                a_listing_of_nothing_is_empty
                a_walk_tells_of_everything_below
                what_is_set_aside_is_elsewhere
                a_part_is_read_behind_what_was_written
                a_part_that_is_cut_goes_on_where_it_was_cut
                room_asked_for_shows_nowhere
                parts_are_private
                parts_are_not_shared
                a_discarded_part_is_gone
                content_appears_whole
                content_is_as_long_as_was_said
                content_without_a_byte_is_content
                absent_content_is_none
                a_second_publication_is_a_success
                publications_at_once_all_succeed
                content_of_a_wrong_length_is_replaced
                a_published_part_stays_readable
                content_can_be_removed_and_read_on
                there_is_room
            );
        }
    };
    (@clauses $make:expr; $($clause:ident)*) => {$(
        #[test]
        fn $clause() {
            contract::$clause(&$make());
        }
    )*};
}
pub(super) use under_contract;

/// A backend, and the directory it may use.
pub(super) struct Bench {
    pub(super) backend: Arc<dyn Backend>,
    _directory: tempfile::TempDir,
}

impl Bench {
    pub(super) fn local_disk(durability: Durability) -> Self {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::open(directory.path(), durability).unwrap());
        Self {
            backend: Arc::new(Fs::new(directory.path().to_owned(), durability)),
            _directory: directory,
        }
    }

    pub(super) fn faulty() -> Self {
        let Self {
            backend,
            _directory,
        } = Self::local_disk(Durability::Job);
        Self {
            backend: Arc::new(Faulty {
                inner: backend,
                faults: Faults::default(),
            }),
            _directory,
        }
    }
}

/// A store in `directory` and the handle that makes it fail. It claims nothing, so that the directory can be opened again.
pub(crate) fn faulty_store(directory: &Path) -> (Store, Faults) {
    drop(Store::open(directory, Durability::Job).unwrap());
    let faults = Faults::default();
    let backend = Faulty {
        inner: Arc::new(Fs::new(directory.to_owned(), Durability::Job)),
        faults: faults.clone(),
    };
    (Store::with_backend(Arc::new(backend)), faults)
}

/// The mutating operations of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Write,
    Harden,
    Delete,
    Touch,
    Remove,
    SetAside,
    CreatePart,
    WriteAt,
    Reserve,
    SetLength,
    Publish,
}

/// Whether an operation that fails has done its work all the same, as one whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing was done; of bytes to be written, half were.
    None,
    Done,
}

/// Which operation fails, and how. Without a plan all go well.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Plan>>);

#[derive(Default)]
struct Plan {
    done: Vec<Op>,
    failures: Vec<Failure>,
}

struct Failure {
    /// Counts operations, or those of one kind, from 0; a lasting one fails all that follow too.
    at: usize,
    only: Option<Op>,
    lasting: bool,
    effect: Effect,
    kind: io::ErrorKind,
}

impl Faults {
    /// The `at`-th operation from now on fails, once.
    pub(crate) fn fail_nth(&self, at: usize, effect: Effect, kind: io::ErrorKind) {
        self.plan(at, None, false, effect, kind);
    }

    /// Operations of one kind fail, from the `at`-th from now on.
    pub(crate) fn fail_from(&self, only: Op, at: usize, kind: io::ErrorKind) {
        self.plan(at, Some(only), true, Effect::None, kind);
    }

    /// What was done since the faults were planned or last forgotten.
    pub(crate) fn done(&self) -> Vec<Op> {
        self.0.lock().unwrap().done.clone()
    }

    /// All goes well again.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap() = Plan::default();
    }

    fn plan(
        &self,
        at: usize,
        only: Option<Op>,
        lasting: bool,
        effect: Effect,
        kind: io::ErrorKind,
    ) {
        let mut plan = self.0.lock().unwrap();
        plan.done.clear();
        plan.failures.push(Failure {
            at,
            only,
            lasting,
            effect,
            kind,
        });
    }

    /// How this operation is to fail, if it is.
    fn next(&self, op: Op) -> Option<(Effect, io::Error)> {
        let mut plan = self.0.lock().unwrap();
        let plan = &mut *plan;
        let failure = plan.failures.iter().find(|failure| {
            let same = |done: &&Op| failure.only.is_none_or(|only| only == **done);
            let before = plan.done.iter().filter(same).count();
            same(&&op) && (before == failure.at || (failure.lasting && before > failure.at))
        });
        let fate = failure.map(|failure| (failure.effect, io::Error::from(failure.kind)));
        plan.done.push(op);
        fate
    }

    fn run<T>(&self, op: Op, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.next(op) {
            None => work(),
            Some((Effect::None, error)) => Err(error),
            Some((Effect::Done, error)) => work().and(Err(error)),
        }
    }
}

/// A backend that does what another does, except where it is to fail.
struct Faulty {
    inner: Arc<dyn Backend>,
    faults: Faults,
}

impl Backend for Faulty {
    fn read(&self, key: &Key) -> io::Result<Option<Vec<u8>>> {
        self.inner.read(key)
    }

    fn write(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        self.faults.run(Op::Write, || self.inner.write(key, bytes))
    }

    fn harden(&self, key: &Key) -> io::Result<()> {
        self.faults.run(Op::Harden, || self.inner.harden(key))
    }

    fn delete(&self, key: &Key) -> io::Result<bool> {
        self.faults.run(Op::Delete, || self.inner.delete(key))
    }

    fn touch(&self, key: &Key) -> io::Result<()> {
        self.faults.run(Op::Touch, || self.inner.touch(key))
    }

    fn written(&self, key: &Key) -> io::Result<Option<SystemTime>> {
        self.inner.written(key)
    }

    fn tidy(&self, prefix: &Key) {
        self.inner.tidy(prefix);
    }

    fn remove(&self, digest: &Digest) -> io::Result<bool> {
        self.faults.run(Op::Remove, || self.inner.remove(digest))
    }

    fn list(&self, prefix: &Key) -> io::Result<Vec<String>> {
        self.inner.list(prefix)
    }

    fn walk(&self, prefix: &Key, found: &mut dyn FnMut(Key, Leaf)) {
        self.inner.walk(prefix, found);
    }

    fn set_aside(&self, from: &Key, to: &Key) -> io::Result<bool> {
        self.faults
            .run(Op::SetAside, || self.inner.set_aside(from, to))
    }

    fn any(&self, prefix: &Key, accept: &mut dyn FnMut(&str) -> bool) -> io::Result<bool> {
        self.inner.any(prefix, accept)
    }

    fn create_part(&self, id: UploadId) -> io::Result<Arc<dyn PartFile>> {
        let made = self
            .faults
            .run(Op::CreatePart, || self.inner.create_part(id));
        if made.is_err() {
            // Nobody has it, so nobody will discard it.
            self.inner.discard(id);
        }
        Ok(Arc::new(FaultyPart {
            inner: made?,
            faults: self.faults.clone(),
        }))
    }

    fn discard(&self, id: UploadId) {
        self.inner.discard(id);
    }

    fn scratch(&self) -> io::Result<std::fs::File> {
        self.inner.scratch()
    }

    fn publish(&self, digest: &Digest, parts: &[Part]) -> io::Result<()> {
        self.faults
            .run(Op::Publish, || self.inner.publish(digest, parts))
    }

    fn stat(&self, digest: &Digest) -> io::Result<Option<u64>> {
        self.inner.stat(digest)
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<(Arc<dyn ReadAt>, u64)>> {
        self.inner.open(digest)
    }

    fn free_space(&self) -> io::Result<u64> {
        self.inner.free_space()
    }
}

struct FaultyPart {
    inner: Arc<dyn PartFile>,
    faults: Faults,
}

impl ReadAt for FaultyPart {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }
}

impl PartFile for FaultyPart {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.faults.next(Op::WriteAt) {
            None => self.inner.write_at(offset, bytes),
            Some((Effect::None, error)) => {
                self.inner.write_at(offset, &bytes[..bytes.len() / 2])?;
                Err(error)
            }
            Some((Effect::Done, error)) => self.inner.write_at(offset, bytes).and(Err(error)),
        }
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        self.faults.run(Op::Reserve, || self.inner.reserve(length))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.faults
            .run(Op::SetLength, || self.inner.set_length(length))
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadAt> {
        self
    }
}

/// Names of the staging files in a data directory.
pub(crate) fn staged(directory: &Path) -> Vec<String> {
    names(&directory.join(layout::uploads().as_str()))
}

/// Every visible blob, after checking that it hashes to its name.
pub(crate) fn visible(directory: &Path) -> Vec<Digest> {
    let mut found = Vec::new();
    let blobs = directory.join("blobs");
    for algorithm in names(&blobs) {
        for fan in names(&blobs.join(&algorithm)) {
            let below = blobs.join(&algorithm).join(&fan);
            for hex in names(&below) {
                let digest: Digest = format!("{algorithm}:{hex}").parse().unwrap();
                assert!(hex.starts_with(&fan), "{hex} lies below {fan}");
                let bytes = std::fs::read(below.join(&hex)).unwrap();
                assert_eq!(
                    Digest::of(digest.algorithm(), &bytes),
                    digest,
                    "a blob of {} bytes has another's name",
                    bytes.len()
                );
                found.push(digest);
            }
        }
    }
    found.sort();
    found
}

fn names(directory: &Path) -> Vec<String> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", directory.display()),
    }
}
