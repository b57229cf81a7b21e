//! Upload sessions: bytes that nobody can see yet.
//!
//! ```text
//! Staging --write--> Staging --verify(digest)--> VerifiedBlob --Store::commit--> content
//! ```
//!
//! - A `Staging` is owned by whoever writes; nothing is shared between sessions, so no lock is held while a body is read.
//! - A `VerifiedBlob` can be had only from bytes that hash to the digest; only it can be committed. From that moment, and not
//!   before, the blob is visible, whole.
//! - A `Chunk` is a session lent to one request. Dropped before `keep`, it puts offset and hash back to where they were, and it does so
//!   only after the last write has ended, because the write owns it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Error, Op,
    backend::{Backend, Part, PartFile, ReadAt},
    layout,
};
use crate::types::{Algorithm, CanonicalName, Digest, Hasher, UploadId};

/// Bytes hashed and written before the next ones.
const PIECE: usize = 64 << 10;

/// Bytes being received: hashed while they are written, at an offset that only grows or goes back to a `Mark`.
pub struct Staging {
    backend: Arc<dyn Backend>,
    id: UploadId,
    part: Arc<dyn PartFile>,
    hasher: Hasher,
    offset: u64,
    /// Of bytes that are to be cached, and nothing else.
    room: Option<Allowance>,
}

/// How much of a bounded cache one staging may fill.
pub trait Room: Send + Sync + 'static {
    /// Asks for so many bytes more. Blocks.
    fn grow(&mut self, more: u64) -> bool;

    /// The bytes are content now, under their digest. Blocks.
    fn stored(&mut self, digest: &Digest);
}

struct Allowance {
    room: Box<dyn Room>,
    granted: u64,
}

/// A state that a `Staging` can be taken back to.
struct Mark {
    hasher: Hasher,
    offset: u64,
}

impl Staging {
    pub(super) fn create(backend: Arc<dyn Backend>, algorithm: Algorithm) -> Result<Self, Error> {
        let id = UploadId::random();
        let part = backend
            .create_part(id)
            .map_err(Error::io(Op::Stage, layout::upload(id)))?;
        Ok(Self {
            backend,
            id,
            part,
            hasher: Hasher::new(algorithm),
            offset: 0,
            room: None,
        })
    }

    /// The bytes take up `room`; where that refuses, the staging has no room.
    pub fn within(mut self, room: impl Room) -> Self {
        self.room = Some(Allowance {
            room: Box::new(room),
            granted: 0,
        });
        self
    }

    /// Bytes received so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Asks for room for `more` bytes behind the offset. Blocks.
    pub fn reserve(&mut self, more: u64) -> Result<(), Error> {
        let length = self.offset.saturating_add(more);
        self.allow(length)?;
        self.part
            .reserve(length)
            .map_err(Error::io(Op::Stage, layout::upload(self.id)))
    }

    /// Hashes and writes `bytes` at the offset. Blocks. After an error the staging is good only for being dropped or, in
    /// a `Chunk`, taken back.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // Hashing brings each piece into the processor's cache, where writing finds it: the whole batch would not fit.
        for piece in bytes.chunks(PIECE) {
            self.allow(self.offset + piece.len() as u64)?;
            self.hasher.update(piece);
            self.part
                .write_at(self.offset, piece)
                .map_err(Error::io(Op::Stage, layout::upload(self.id)))?;
            self.offset += piece.len() as u64;
        }
        Ok(())
    }

    fn allow(&mut self, length: u64) -> Result<(), Error> {
        let Some(allowance) = &mut self.room else {
            return Ok(());
        };
        let more = length.saturating_sub(allowance.granted);
        if more > 0 && !allowance.room.grow(more) {
            return Err(Error::no_room(layout::upload(self.id)));
        }
        allowance.granted += more;
        Ok(())
    }

    /// A view on the bytes written so far, which stays readable after the commit.
    pub fn reader(&self) -> StagedBytes {
        StagedBytes(Arc::clone(&self.part).as_read())
    }

    /// The bytes as content of `digest`, or the digest that they have. An algorithm other than the one hashed so far costs one
    /// more reading. Blocks.
    pub fn verify(self, digest: &Digest) -> Result<Result<VerifiedBlob, Digest>, Error> {
        let found = if digest.algorithm() == self.hasher.algorithm() {
            self.hasher.clone().finish()
        } else {
            self.rehash(digest.algorithm())?
        };
        if found != *digest {
            return Ok(Err(found));
        }
        Ok(Ok(VerifiedBlob {
            digest: digest.clone(),
            staging: self,
        }))
    }

    fn rehash(&self, algorithm: Algorithm) -> Result<Digest, Error> {
        let mut hasher = Hasher::new(algorithm);
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < self.offset {
            let wanted = usize::try_from(self.offset - offset)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let read = self
                .part
                .read_at(offset, &mut buffer[..wanted])
                .map_err(Error::io(Op::Read, layout::upload(self.id)))?;
            if read == 0 {
                return Err(Error::Corrupt {
                    key: layout::upload(self.id).to_string(),
                    why: "staged bytes are gone".to_owned(),
                });
            }
            hasher.update(&buffer[..read]);
            offset += read as u64;
        }
        Ok(hasher.finish())
    }

    fn mark(&self) -> Mark {
        Mark {
            hasher: self.hasher.clone(),
            offset: self.offset,
        }
    }

    fn rewind(&mut self, mark: Mark) {
        self.hasher = mark.hasher;
        self.offset = mark.offset;
        // The session may lie idle for its lifetime, and others need the room that was asked for.
        if let Err(error) = self.part.set_length(self.offset) {
            log::warn!("an interrupted upload keeps its room: {error}");
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.backend.discard(self.id);
    }
}

/// Positional reads of bytes that are still being received.
#[derive(Clone)]
pub struct StagedBytes(Arc<dyn ReadAt>);

impl StagedBytes {
    /// Fills `buffer` from `offset`; short only where nothing was written yet. Blocks.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read_at(offset, buffer)
    }
}

/// Bytes that hash to their digest and are not visible yet. There is no other way to make one than `Staging::verify`.
pub struct VerifiedBlob {
    digest: Digest,
    staging: Staging,
}

impl VerifiedBlob {
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    pub fn size(&self) -> u64 {
        self.staging.offset
    }

    /// Makes the bytes visible; on an error they are freed.
    pub(super) fn publish(mut self) -> Result<(), Error> {
        let staging = &self.staging;
        let part = Part {
            id: staging.id,
            file: Arc::clone(&staging.part),
            length: staging.offset,
        };
        staging
            .backend
            .publish(&self.digest, &[part])
            .map_err(Error::io(Op::Publish, layout::content(&self.digest)))?;
        if let Some(allowance) = &mut self.staging.room {
            allowance.room.stored(&self.digest);
        }
        Ok(())
    }
}

/// The sessions clients have open. On a disk they live as long as the process.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<UploadId, Session>>);

struct Session {
    name: CanonicalName,
    /// Absent while a request writes.
    staging: Option<Staging>,
    offset: u64,
    touched: Instant,
}

/// What `GET` of an upload tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadStatus {
    /// The name the session was opened under.
    pub name: CanonicalName,
    /// Bytes acknowledged.
    pub offset: u64,
}

/// Why a session can't be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// There is none: finished, cancelled, expired, or never given out.
    Unknown,
    /// Another request is writing to it; so many bytes are acknowledged.
    Busy { offset: u64 },
}

impl Sessions {
    /// `None` where `most` sessions are open, and then the staging is freed.
    pub(super) fn insert(
        &self,
        name: CanonicalName,
        staging: Staging,
        most: usize,
    ) -> Option<UploadId> {
        let id = staging.id;
        let session = Session {
            name,
            offset: staging.offset,
            staging: Some(staging),
            touched: Instant::now(),
        };
        let mut sessions = self.lock();
        if sessions.len() >= most {
            // The file is removed outside the lock.
            drop(sessions);
            return None;
        }
        sessions.insert(id, session);
        Some(id)
    }

    pub(super) fn status(&self, id: UploadId) -> Option<UploadStatus> {
        self.lock().get_mut(&id).map(|session| {
            session.touched = Instant::now();
            UploadStatus {
                name: session.name.clone(),
                offset: session.offset,
            }
        })
    }

    pub(super) fn take(self: &Arc<Self>, id: UploadId) -> Result<Chunk, NotTaken> {
        let mut sessions = self.lock();
        let Some(session) = sessions.get_mut(&id) else {
            return Err(NotTaken::Unknown);
        };
        session.touched = Instant::now();
        match session.staging.take() {
            None => Err(NotTaken::Busy {
                offset: session.offset,
            }),
            Some(staging) => Ok(self.lend(session.name.clone(), staging)),
        }
    }

    /// A chunk of `staging`, which is freed when the chunk is given back unless a session on the list waits for it.
    pub(super) fn lend(self: &Arc<Self>, name: CanonicalName, staging: Staging) -> Chunk {
        Chunk {
            sessions: Arc::clone(self),
            id: staging.id,
            name,
            mark: Some(staging.mark()),
            staging: Some(staging),
        }
    }

    /// Forgets the session; bytes still being written to it are freed when that request ends.
    pub(super) fn cancel(&self, id: UploadId) -> bool {
        let removed = self.lock().remove(&id);
        removed.is_some()
    }

    /// Forgets sessions untouched for `lifetime`, and tells how many.
    pub(super) fn expire(&self, lifetime: Duration) -> usize {
        let mut expired = Vec::new();
        self.lock().retain(|_, session| {
            let keep = session.staging.is_none() || session.touched.elapsed() < lifetime;
            if !keep {
                expired.extend(session.staging.take());
            }
            keep
        });
        // Their files are removed here, outside the lock.
        expired.len()
    }

    fn give_back(&self, id: UploadId, staging: Staging) {
        let unwanted = match self.lock().get_mut(&id) {
            Some(session) => {
                session.offset = staging.offset;
                session.touched = Instant::now();
                session.staging.replace(staging)
            }
            None => Some(staging),
        };
        drop(unwanted);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UploadId, Session>> {
        // Nothing in here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session lent to one request, which alone may write to it.
pub struct Chunk {
    sessions: Arc<Sessions>,
    id: UploadId,
    name: CanonicalName,
    /// Where to go back to unless the chunk is kept.
    mark: Option<Mark>,
    /// Present until the chunk is finished.
    staging: Option<Staging>,
}

impl Chunk {
    /// The name the session was opened under.
    pub fn name(&self) -> &CanonicalName {
        &self.name
    }

    /// Bytes acknowledged before this chunk and received in it.
    pub fn offset(&self) -> u64 {
        self.staging().offset()
    }

    /// See `Staging::write`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.staging_mut().write(bytes)
    }

    /// See `Staging::reserve`.
    pub fn reserve(&mut self, more: u64) -> Result<(), Error> {
        self.staging_mut().reserve(more)
    }

    /// Acknowledges what was written: the session goes on behind it. Returns the new offset.
    pub fn keep(mut self) -> u64 {
        self.mark = None;
        self.offset()
    }

    /// Takes the session's bytes for good; there is no session any more.
    pub fn finish(mut self) -> Staging {
        self.sessions.cancel(self.id);
        self.take()
    }

    // The staging is there from `take` on the session until `finish` or the drop, both of which end the chunk.
    #[allow(clippy::expect_used)]
    fn staging(&self) -> &Staging {
        self.staging.as_ref().expect("a chunk holds its staging")
    }

    #[allow(clippy::expect_used)]
    fn staging_mut(&mut self) -> &mut Staging {
        self.staging.as_mut().expect("a chunk holds its staging")
    }

    #[allow(clippy::expect_used)]
    fn take(&mut self) -> Staging {
        self.staging.take().expect("a chunk holds its staging")
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(mut staging) = self.staging.take() else {
            return;
        };
        if let Some(mark) = self.mark.take() {
            staging.rewind(mark);
        }
        self.sessions.give_back(self.id, staging);
    }
}
