//! Bytes at rest: content, upload sessions, and the small entries that say which repository may serve what.
//!
//! `Store` is the whole of it. Its methods block; async callers go through [`blocking`], one hop for all that a request
//! needs. It knows no registry rules: who may be asked, what shadows what and what a push must bring is decided above.
//!
//! - Content is stored once, whoever brought it, and is immutable; it becomes visible whole, in `Store::commit`.
//! - Absence is `None`, never an error.
//! - An entry is written after everything it speaks of, so that a process killed anywhere leaves nothing visible that is
//!   not whole.

mod backend;
mod catalog;
mod claim;
mod content;
mod entries;
mod eviction;
mod fs;
mod layout;
mod ledger;
mod locks;
mod look;
mod quarantine;
mod receive;
mod record;
mod referrers;
mod removal;
mod survey;
mod tags;
#[cfg(test)]
pub(crate) mod testing;
mod upload;
mod uses;

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::types::{Algorithm, CanonicalName, Digest, UploadId};
use backend::Backend;
use layout::Key;

pub use catalog::Holder;
pub use content::Content;
pub use entries::{ManifestEntry, Member, Membership, Owed};
pub use eviction::{Cached, CachedContent, CachedManifest};
pub use layout::Reason;
pub use quarantine::Quarantine;
pub use receive::{Batches, Interrupted, Received, Sink, receive};
pub use record::Record;
pub use removal::BlobRemoval;
pub use survey::{HeldManifest, HeldTag, Odd, Oddity, Repository, Survey};
pub use tags::TagEntry;
pub use upload::{Chunk, NotTaken, Room, StagedBytes, Staging, UploadStatus, VerifiedBlob};
pub use uses::{InUse, Pin};

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, however it ends.
    #[default]
    Job,
    /// A loss of power as well: files and directories are synced.
    Full,
}

/// One data directory. Cheap to share by `Arc`; every method may be called from any thread.
pub struct Store {
    backend: Arc<dyn Backend>,
    sessions: Arc<upload::Sessions>,
    listings: tags::Listings,
    locks: locks::Locks,
    uses: Arc<uses::Uses>,
    recency: eviction::Recency,
    ledger: ledger::Ledger,
    _claim: Option<claim::Claim>,
}

impl Store {
    /// Opens `directory` as this process's own, making it if need be. Sessions and staging of an earlier process are gone
    /// afterwards.
    pub fn open(directory: &Path, durability: Durability) -> Result<Self, OpenError> {
        let claim = claim::Claim::take(directory, durability)?;
        let backend = Arc::new(fs::Fs::new(directory.to_owned(), durability));
        Ok(Self {
            _claim: Some(claim),
            ..Self::with_backend(backend)
        })
    }

    /// Looks into `directory`, which may be another's at work: takes and changes nothing, and every attempt to fails. What
    /// that one does meanwhile is seen as it comes.
    pub fn look(directory: &Path) -> Result<Self, OpenError> {
        claim::look(directory)?;
        let backend = fs::Fs::new(directory.to_owned(), Durability::Job);
        Ok(Self::with_backend(Arc::new(look::ReadOnly(backend))))
    }

    fn with_backend(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            sessions: Arc::default(),
            listings: tags::Listings::default(),
            locks: locks::Locks::default(),
            uses: Arc::default(),
            recency: eviction::Recency::default(),
            ledger: ledger::Ledger::default(),
            _claim: None,
        }
    }

    /// Bytes that can still be written.
    pub fn free_space(&self) -> Result<u64, Error> {
        self.backend
            .free_space()
            .map_err(Error::io(Op::Stage, layout::uploads()))
    }

    /// A file without a name beside the staging, for bytes that are not content. Nothing is left of it once it is closed.
    pub fn scratch(&self) -> io::Result<File> {
        self.backend.scratch()
    }

    // Content.

    /// Size of the content in bytes.
    pub fn stat(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        self.backend
            .stat(digest)
            .map_err(Error::io(Op::Read, layout::content(digest)))
    }

    /// Opens the content; what was opened stays readable, and is not evicted.
    pub fn content(&self, digest: &Digest) -> Result<Option<Content>, Error> {
        let pin = self.uses.pin(digest);
        let opened = self
            .backend
            .open(digest)
            .map_err(Error::io(Op::Read, layout::content(digest)))?;
        Ok(opened.map(|(file, size)| Content::new(file, size, pin)))
    }

    /// A private place for bytes, hashed as they come.
    pub fn stage(&self, algorithm: Algorithm) -> Result<Staging, Error> {
        Staging::create(Arc::clone(&self.backend), algorithm)
    }

    /// Makes the bytes visible, whole and at once. If identical bytes are there already, that is a success too.
    pub fn commit(&self, blob: VerifiedBlob) -> Result<(), Error> {
        blob.publish()
    }

    /// `stage`, `write`, `commit` for bytes at hand. The digest must be theirs.
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        if self.stat(digest)? == Some(bytes.len() as u64) {
            return self.harden(&layout::content(digest));
        }
        let mut staging = self.stage(digest.algorithm())?;
        staging.write(bytes)?;
        match staging.verify(digest)? {
            Ok(blob) => self.commit(blob),
            Err(found) => Err(Error::Corrupt {
                key: layout::content(digest).to_string(),
                why: format!("the bytes to be stored hash to {found}"),
            }),
        }
    }

    // Upload sessions.

    /// Opens a session under `name`; `None` where `most` are open.
    pub fn start_upload(
        &self,
        name: CanonicalName,
        algorithm: Algorithm,
        most: usize,
    ) -> Result<Option<UploadId>, Error> {
        Ok(self.sessions.insert(name, self.stage(algorithm)?, most))
    }

    /// A session of one request, which nobody else can name: dropped unfinished, it is gone with its bytes.
    pub fn lone_upload(&self, name: CanonicalName, algorithm: Algorithm) -> Result<Chunk, Error> {
        Ok(self.sessions.lend(name, self.stage(algorithm)?))
    }

    pub fn upload_status(&self, id: UploadId) -> Option<UploadStatus> {
        self.sessions.status(id)
    }

    /// Lends the session to the one request that may write to it.
    pub fn take_upload(&self, id: UploadId) -> Result<Chunk, NotTaken> {
        self.sessions.take(id)
    }

    /// Whether there was such a session, which is gone now with its bytes.
    pub fn cancel_upload(&self, id: UploadId) -> bool {
        self.sessions.cancel(id)
    }

    /// Frees sessions that no request has touched for `lifetime`, and tells how many.
    pub fn expire_uploads(&self, lifetime: Duration) -> usize {
        self.sessions.expire(lifetime)
    }

    fn list(&self, prefix: &Key) -> Result<Vec<String>, Error> {
        self.backend
            .list(prefix)
            .map_err(Error::io(Op::List, prefix.clone()))
    }

    /// Whether `accept` takes a name directly below `prefix`: costs by how soon it does.
    fn any(&self, prefix: &Key, mut accept: impl FnMut(&str) -> bool) -> Result<bool, Error> {
        self.backend
            .any(prefix, &mut accept)
            .map_err(Error::io(Op::List, prefix.clone()))
    }

    fn entry<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>, Error> {
        let bytes = self
            .backend
            .read(key)
            .map_err(Error::io(Op::Read, key.clone()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) => Err(Error::Corrupt {
                key: key.to_string(),
                why: error.to_string(),
            }),
        }
    }

    /// Writes an entry unless it is there already. A damaged one is replaced.
    fn keep_entry<T: Serialize + DeserializeOwned + PartialEq>(
        &self,
        key: &Key,
        entry: &T,
    ) -> Result<(), Error> {
        match self.entry::<T>(key) {
            Ok(Some(held)) if held == *entry => self.harden(key),
            Ok(_) | Err(Error::Corrupt { .. }) => self.put_entry(key, entry),
            Err(error) => Err(error),
        }
    }

    fn harden(&self, key: &Key) -> Result<(), Error> {
        self.backend
            .harden(key)
            .map_err(Error::io(Op::Write, key.clone()))
    }

    fn put_entry<T: Serialize>(&self, key: &Key, entry: &T) -> Result<(), Error> {
        let written = serde_json::to_vec(entry).map_err(io::Error::from);
        written
            .and_then(|bytes| self.backend.write(key, &bytes))
            .map_err(Error::io(Op::Write, key.clone()))
    }
}

/// Runs `work` on a thread where it may block.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work).await).await
}

/// A blocking task's result; its panic goes on here.
pub(crate) async fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    match result.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(value) => value,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is going down, and this future with it.
        Err(Err(_cancelled)) => std::future::pending().await,
    }
}

/// What was being done when the medium failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    Write,
    List,
    Delete,
    Move,
    Stage,
    Publish,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Move => "move",
            Self::Stage => "write to",
            Self::Publish => "publish",
        })
    }
}

/// The medium failed, or holds what we never wrote.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't {op} {key} in the data directory: {source}")]
    Io {
        op: Op,
        key: String,
        source: io::Error,
    },
    #[error("{key} in the data directory is damaged: {why}; `standin verify` says what that hurts")]
    Corrupt { key: String, why: String },
}

impl Error {
    fn io(op: Op, key: Key) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            op,
            key: key.to_string(),
            source,
        }
    }

    fn no_room(key: Key) -> Self {
        let full = io::Error::new(io::ErrorKind::StorageFull, "the cache has no room");
        Self::io(Op::Stage, key)(full)
    }

    /// What is there can't be read.
    pub fn unreadable(record: &Record, source: io::Error) -> Self {
        Self::io(Op::Read, record.key())(source)
    }

    /// There is no room for the content in a bounded cache.
    pub fn no_room_for(digest: &Digest) -> Self {
        Self::no_room(layout::content(digest))
    }

    /// The medium takes no more bytes: full, over a quota, or read-only. What is there can still be read.
    pub fn is_no_room(&self) -> bool {
        let Self::Io {
            op: Op::Write | Op::Stage | Op::Publish,
            source,
            ..
        } = self
        else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::FileTooLarge
                | io::ErrorKind::PermissionDenied
        )
    }
}

/// Why a data directory can't be used; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("can't {what} the data directory {}: give --data a directory that can be written to", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the data directory {} is in use by standin with pid {pid}: stop that one, or give --data another directory", path.display())]
    InUse { path: PathBuf, pid: String },
    #[error("the data directory {} has layout {found:?}, and this standin knows up to {}: use a newer standin, or another --data", path.display(), layout::VERSION)]
    Version { path: PathBuf, found: String },
    #[error("there is nothing in {} yet", path.display())]
    Absent { path: PathBuf },
    #[error("there is no standin's content in {}, but {found:?}: give --data the directory of one", path.display())]
    Another { path: PathBuf, found: String },
    #[error("{} is no data directory of standin, but holds {found:?}: give --data an empty directory or a new one", path.display())]
    Foreign { path: PathBuf, found: String },
}

#[cfg(test)]
mod tests;
