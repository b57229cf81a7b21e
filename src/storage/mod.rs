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
mod content;
mod fs;
mod layout;
mod receive;
#[cfg(test)]
pub(crate) mod testing;
mod upload;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::types::{
    Algorithm, CanonicalName, Digest, Manifest, MediaType, Namespace, Role, Tag, UploadId,
};
use backend::Backend;
use layout::Key;

pub use content::Content;
pub use layout::Reason;
pub use receive::{Batches, Interrupted, Received, Sink, receive};
pub use upload::{
    Chunk, NotTaken, StagedBytes, Staging, UPLOAD_LIFETIME, UploadStatus, VerifiedBlob,
};

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
    _claim: Option<fs::Claim>,
}

/// A repository's right to serve content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// In bytes, as whoever named it said.
    pub size: u64,
    #[serde(rename = "mediaType", skip_serializing_if = "Option::is_none", default)]
    pub media_type: Option<MediaType>,
}

/// What is known of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub member: Member,
    /// A manifest held in the same repository names it.
    pub named: bool,
}

/// A manifest that a repository holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    #[serde(rename = "mediaType")]
    pub media_type: MediaType,
    /// In bytes.
    pub size: u64,
}

/// What a tag names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagEntry {
    pub digest: Digest,
    /// What the upstream said of the manifest, which need not be here.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub manifest: Option<ManifestEntry>,
    /// When the upstream last said so, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub checked: Option<u64>,
}

/// Content that a push named and only an upstream has: accepted, and still to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// The local repository that needs it, whose source has it.
    pub name: CanonicalName,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// A child of an index, so it is fetched as a manifest and brings content of its own.
    pub manifest: bool,
}

impl Store {
    /// Opens `directory` as this process's own, making it if need be. Sessions and staging of an earlier process are gone
    /// afterwards.
    pub fn open(directory: &Path, durability: Durability) -> Result<Self, OpenError> {
        let claim = fs::Claim::take(directory, durability)?;
        let backend = Arc::new(fs::Fs::new(directory.to_owned(), durability));
        Ok(Self {
            backend,
            sessions: Arc::default(),
            _claim: Some(claim),
        })
    }

    #[cfg(test)]
    fn with_backend(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            sessions: Arc::default(),
            _claim: None,
        }
    }

    /// Bytes that can still be written.
    pub fn free_space(&self) -> Result<u64, Error> {
        self.backend
            .free_space()
            .map_err(Error::io(Op::Stage, layout::uploads()))
    }

    // Content.

    /// Size of the content in bytes.
    pub fn stat(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        self.backend
            .stat(digest)
            .map_err(Error::io(Op::Read, layout::content(digest)))
    }

    /// Opens the content; what was opened stays readable.
    pub fn content(&self, digest: &Digest) -> Result<Option<Content>, Error> {
        let opened = self
            .backend
            .open(digest)
            .map_err(Error::io(Op::Read, layout::content(digest)))?;
        Ok(opened.map(|(file, size)| Content::new(file, size)))
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

    /// Opens a session under `name`.
    pub fn start_upload(
        &self,
        name: CanonicalName,
        algorithm: Algorithm,
    ) -> Result<UploadId, Error> {
        Ok(self.sessions.insert(name, self.stage(algorithm)?))
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

    // Members.

    /// Whether the repository may serve `digest`, and what is known of it. Its bytes may be here or not.
    pub fn membership(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<Membership>, Error> {
        let reasons = self.list(&layout::member_reasons(namespace, name, digest))?;
        let reasons: Vec<Reason> = reasons
            .iter()
            .filter_map(|reason| Reason::parse(reason))
            .collect();
        let named = reasons
            .iter()
            .any(|reason| matches!(reason, Reason::Named(_)));
        for reason in &reasons {
            // One that was deleted a moment ago does not count.
            if let Some(member) = self.entry(&layout::member(namespace, name, digest, reason))? {
                return Ok(Some(Membership { member, named }));
            }
        }
        Ok(None)
    }

    /// Lets the repository serve `digest` for `reason`.
    pub fn add_member(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
        reason: &Reason,
        member: &Member,
    ) -> Result<(), Error> {
        self.keep_entry(&layout::member(namespace, name, digest, reason), member)
    }

    /// Whether the repository holds anything at all.
    pub fn is_known(&self, namespace: Namespace, name: &CanonicalName) -> Result<bool, Error> {
        Ok(!self.list(&layout::manifests(namespace, name))?.is_empty()
            || !self.list(&layout::members(namespace, name))?.is_empty())
    }

    // Manifests and tags.

    pub fn manifest(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<ManifestEntry>, Error> {
        self.entry(&layout::manifest(namespace, name, digest))
    }

    /// Stores the manifest and makes what it names members of the repository; it can be pulled once this returns, and
    /// not before everything else is there.
    pub fn put_manifest(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
        bytes: &[u8],
        manifest: &Manifest,
    ) -> Result<(), Error> {
        self.put(digest, bytes)?;
        let reason = Reason::Named(digest.clone());
        for reference in manifest
            .references
            .iter()
            .filter(|reference| reference.role != Role::NonDistributable)
        {
            let member = Member {
                size: reference.size,
                media_type: reference.media_type.clone(),
            };
            self.add_member(namespace, name, &reference.digest, &reason, &member)?;
        }
        let entry = ManifestEntry {
            media_type: manifest.media_type.clone(),
            size: bytes.len() as u64,
        };
        self.keep_entry(&layout::manifest(namespace, name, digest), &entry)
    }

    pub fn tag(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        tag: &Tag,
    ) -> Result<Option<TagEntry>, Error> {
        self.entry(&layout::tag(namespace, name, tag))
    }

    pub fn put_tag(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        tag: &Tag,
        entry: &TagEntry,
    ) -> Result<(), Error> {
        self.put_entry(&layout::tag(namespace, name, tag), entry)
    }

    /// Forgets a tag; whether there was one.
    pub fn delete_tag(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        tag: &Tag,
    ) -> Result<bool, Error> {
        let key = layout::tag(namespace, name, tag);
        self.backend
            .delete(&key)
            .map_err(Error::io(Op::Delete, key))
    }

    /// The repository's tags in byte order.
    pub fn tags(&self, namespace: Namespace, name: &CanonicalName) -> Result<Vec<Tag>, Error> {
        let mut tags: Vec<Tag> = self
            .list(&layout::tags(namespace, name))?
            .iter()
            .filter_map(|tag| tag.parse().ok())
            .collect();
        tags.sort_unstable();
        Ok(tags)
    }

    // Content owed.

    /// Records that content is still to be fetched, so that a restart does not forget it.
    pub fn owe(&self, owed: &Owed) -> Result<UploadId, Error> {
        let id = UploadId::random();
        self.put_entry(&layout::owed(id), owed)?;
        Ok(id)
    }

    /// The content is here, or will never be.
    pub fn settle(&self, id: UploadId) -> Result<(), Error> {
        let key = layout::owed(id);
        self.backend
            .delete(&key)
            .map(drop)
            .map_err(Error::io(Op::Delete, key))
    }

    /// Everything owed, as an earlier process left it. A damaged record is dropped: the next GET of its content asks the
    /// source anyhow.
    pub fn owed(&self) -> Result<Vec<(UploadId, Owed)>, Error> {
        let mut found = Vec::new();
        for id in self
            .list(&layout::all_owed())?
            .iter()
            .filter_map(|id| id.parse().ok())
        {
            match self.entry(&layout::owed(id)) {
                Ok(owed) => found.extend(owed.map(|owed| (id, owed))),
                Err(error @ Error::Corrupt { .. }) => {
                    log::warn!("a background fetch is forgotten: {error}");
                    self.settle(id)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn list(&self, prefix: &Key) -> Result<Vec<String>, Error> {
        self.backend
            .list(prefix)
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
    #[error("{key} in the data directory is damaged: {why}")]
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
    #[error("{} is no data directory of standin, but holds {found:?}: give --data an empty directory or a new one", path.display())]
    Foreign { path: PathBuf, found: String },
}

#[cfg(test)]
mod tests;
