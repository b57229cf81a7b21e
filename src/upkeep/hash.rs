//! Hashing all content, several at once.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use super::{Damage, Error, Watch};
use crate::{
    storage::{self, Content, Store, Survey},
    types::{Digest, Hasher},
};

/// What is wrong with a content.
pub(super) type Unsound = (Damage, String);

/// Hashes all content, several at once. What has vanished since it was seen is not wrong.
pub(super) fn hash(
    store: &Store,
    survey: &Survey,
    watch: &dyn Watch,
) -> Result<BTreeMap<Digest, Unsound>, Error> {
    let mut contents: Vec<(&Digest, u64)> = survey
        .contents
        .iter()
        .map(|(digest, content)| (digest, content.size))
        .collect();
    // The largest first, so that none is left to one thread alone at the end.
    contents.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let all = contents.iter().map(|(_, size)| size).sum();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let unsound = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some((digest, _)) = contents.get(next.fetch_add(1, Ordering::Relaxed)) {
            let progress = |bytes| {
                let before = done.fetch_add(bytes, Ordering::Relaxed);
                watch.read(before + bytes, all);
                !watch.is_over()
            };
            if let Some(found) = examine(store, digest, progress) {
                let mut unsound = unsound.lock().unwrap_or_else(PoisonError::into_inner);
                unsound.insert((*digest).clone(), found);
            }
            if watch.is_over() {
                return;
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 1..threads.min(MOST_THREADS) {
            scope.spawn(work);
        }
        work();
    });
    match watch.is_over() {
        true => Err(Error::Interrupted),
        false => Ok(unsound.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// What is wrong with one content. `go_on` is told of bytes read.
fn examine(store: &Store, digest: &Digest, go_on: impl Fn(u64) -> bool) -> Option<Unsound> {
    let content = match store.content(digest) {
        Ok(content) => content?,
        Err(error) => return Some(unreadable(&error)),
    };
    let found = match digest_of(&content, digest, go_on) {
        Ok(found) => found?,
        Err(error) => return Some((Damage::Unreadable, format!("it can't be read: {error}"))),
    };
    if found == *digest {
        return None;
    }
    let what = format!("its {} bytes hash to {found}", content.size());
    Some((Damage::Content, what))
}

fn unreadable(error: &storage::Error) -> Unsound {
    match error {
        storage::Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            (Damage::Forbidden, FORBIDDEN.to_owned())
        }
        error => (Damage::Unreadable, error.to_string()),
    }
}

/// `None`: it is over.
fn digest_of(
    content: &Content,
    digest: &Digest,
    go_on: impl Fn(u64) -> bool,
) -> io::Result<Option<Digest>> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    loop {
        let read = content.read_at(offset, &mut piece)?;
        if read == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(&piece[..read]);
        offset += read as u64;
        if !go_on(read as u64) {
            return Ok(None);
        }
    }
}

pub(super) const FORBIDDEN: &str = "this user may not read it, so nothing can be told of it";

/// Bytes read at once by each thread.
const PIECE: usize = 1 << 20;

/// More would wait for the disk.
const MOST_THREADS: usize = 8;
