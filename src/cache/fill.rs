//! One download for everyone: a detached task writes a growing file and hashes; every client reads behind it.
//!
//! ```text
//! Asking -> Filling (readable grows) -> Complete
//!      \-> Absent        \-> NoRoom: everyone goes on alone, unstored
//!                         \-> Failed
//! ```
//!
//! The last byte is readable only once the digest is verified and the blob committed: a body that does not hash to its
//! name can't be received to its end, nor can a range that ends where the blob does.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::{
    Cache, Cause, Error, HEADER_BUDGET, UpstreamError,
    body::{Body, Reader, Source, rehash, verified},
    download::{Download, Spares},
};
use crate::{
    storage::{
        Batches, Interrupted, Member, Reason, StagedBytes, Staging, Store, blocking, receive,
    },
    types::{CanonicalName, Digest, Hasher, Namespace},
};

/// Downloads under way, by digest.
#[derive(Default)]
pub(super) struct Fills(Mutex<HashMap<Digest, Fill>>);

#[derive(Clone)]
struct Fill {
    /// Under which name the upstream is asked.
    name: CanonicalName,
    /// Who else waits for it and has it.
    spares: Spares,
    progress: watch::Receiver<Progress>,
}

/// How far a download is.
#[derive(Clone)]
pub(super) enum Progress {
    Asking,
    Filling {
        size: Option<u64>,
        readable: u64,
        bytes: StagedBytes,
    },
    Complete {
        size: u64,
    },
    Absent,
    NoRoom,
    Failed(Error),
}

impl Cache {
    /// The blob, from the store or from the upstream while it is being fetched. Returns when its first bytes can be had
    /// or the upstream's answer is known. `None`: the upstream has no such blob. `expected` is its size, if it is known to
    /// be a member of this repository; of any other the repository's own upstream must have it.
    pub async fn blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        expected: Option<u64>,
    ) -> Result<Option<Body>, Error> {
        if !self.keeps(name) {
            return self.unstored(name, digest, None).await;
        }
        let mut vouched = expected.is_some();
        let since = Instant::now();
        loop {
            let fill = self.join(name, digest, expected);
            let own = fill.name == *name;
            if vouched && !own {
                fill.spares.lend(name);
            }
            let mut progress = fill.progress.clone();
            let state = match progress
                .wait_for(|state| !matches!(state, Progress::Asking))
                .await
            {
                Ok(state) => state.clone(),
                Err(_) => return Err(interrupted(name)),
            };
            match state {
                Progress::Asking => {}
                Progress::Filling { .. } | Progress::Complete { .. } if !own && !vouched => {
                    if self.head_blob(name, digest).await?.is_none() {
                        return Ok(None);
                    }
                    vouched = true;
                }
                Progress::Filling { size, bytes, .. } => {
                    let reader = Reader {
                        cache: self.clone(),
                        name: name.clone(),
                        digest: digest.clone(),
                        progress,
                        bytes,
                        offset: 0,
                        until: None,
                    };
                    return Ok(Some(Body {
                        size,
                        source: Source::Filling(reader),
                    }));
                }
                Progress::Complete { .. } => {
                    let (cache, digest) = (self.clone(), digest.clone());
                    if let Some(content) = blocking(move || cache.0.store.content(&digest)).await? {
                        return Ok(Some(Body::stored(content)));
                    }
                }
                Progress::NoRoom => return self.unstored(name, digest, None).await,
                // Nobody is left waiting for headers twice as long because somebody else asked first.
                Progress::Failed(error) if since.elapsed() >= HEADER_BUDGET => return Err(error),
                // Another name's upstream said so; ours may know better.
                Progress::Absent | Progress::Failed(_) if !own => {}
                Progress::Absent => return Ok(None),
                Progress::Failed(error) => return Err(error),
            }
        }
    }

    /// Fetches the blob into the store without reading it. `false`: the upstream has none.
    pub async fn fill_blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        expected: u64,
    ) -> Result<bool, Error> {
        let ended =
            |state: &Progress| !matches!(state, Progress::Asking | Progress::Filling { .. });
        loop {
            let mut fill = self.join(name, digest, Some(expected));
            let own = fill.name == *name;
            if !own {
                fill.spares.lend(name);
            }
            let state = match fill.progress.wait_for(ended).await {
                Ok(state) => state.clone(),
                Err(_) => return Err(interrupted(name)),
            };
            match state {
                Progress::Complete { .. } => return Ok(true),
                // Another name's upstream said so; ours may know better.
                Progress::Absent | Progress::Failed(_) if !own => {}
                Progress::Failed(error) => return Err(error),
                Progress::NoRoom => {
                    let cause =
                        Cause::Protocol("standin's data directory has no room for it".to_owned());
                    return Err(UpstreamError::new(name.source(), cause).into());
                }
                Progress::Absent | Progress::Asking | Progress::Filling { .. } => return Ok(false),
            }
        }
    }

    /// The download of `digest` that is under way, or a new one.
    fn join(&self, name: &CanonicalName, digest: &Digest, expected: Option<u64>) -> Fill {
        let (sender, progress) = watch::channel(Progress::Asking);
        let fill = Fill {
            name: name.clone(),
            spares: Spares::default(),
            progress,
        };
        match self.0.fills.lock().entry(digest.clone()) {
            Entry::Occupied(under_way) => return under_way.get().clone(),
            Entry::Vacant(free) => free.insert(fill.clone()),
        };
        // The board is free again: a runtime that is going down drops what it is given at once, and that takes the board.
        let running = Running {
            cache: self.clone(),
            digest: digest.clone(),
        };
        let (cache, name, digest) = (self.clone(), name.clone(), digest.clone());
        let spares = fill.spares.clone();
        let under_way = self.0.activity.metrics().fill();
        self.0.runtime.spawn(async move {
            let _under_way = under_way;
            let outcome = cache
                .download(&name, &digest, expected, spares, &sender)
                .await;
            // Until there are bytes to read, whoever asked has no answer yet and tells.
            if let Progress::Failed(error) = &outcome
                && !matches!(*sender.borrow(), Progress::Asking)
            {
                log::warn!("{name}: fetching {digest} failed: {error}");
            }
            // First off the board, then the news: whoever comes later finds the blob in the store or asks anew.
            drop(running);
            sender.send_replace(outcome);
        });
        fill
    }

    async fn download(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        expected: Option<u64>,
        spares: Spares,
        progress: &watch::Sender<Progress>,
    ) -> Progress {
        let prepared = {
            let (cache, digest) = (self.clone(), digest.clone());
            blocking(move || prepare(&cache, &digest, expected)).await
        };
        let mut staging = match prepared {
            Ok(Prepared::Staging(staging)) => *staging,
            // Whether this name may have what another has just brought is still to be asked.
            Ok(Prepared::Here { size }) if expected.is_none() => {
                return match self.head_blob(name, digest).await {
                    Ok(Some(_)) => Progress::Complete { size },
                    Ok(None) => Progress::Absent,
                    Err(error) => Progress::Failed(error),
                };
            }
            Ok(Prepared::Here { size }) => return Progress::Complete { size },
            Ok(Prepared::NoRoom) => return Progress::NoRoom,
            Err(error) => return Progress::Failed(error.into()),
        };
        let begun = Download::begin(self, name, digest, 0, spares, expected.is_some());
        let mut download = match begun.await {
            Ok(Some(download)) => download,
            Ok(None) => return Progress::Absent,
            Err(error) => return Progress::Failed(error.into()),
        };
        download.expect(expected);
        let size = download.size();
        let reserved = blocking(move || {
            let reserved = size.map_or(Ok(()), |size| staging.reserve(size));
            (staging, reserved)
        });
        let staging = match reserved.await {
            (staging, Ok(())) => staging,
            (_, Err(error)) if error.is_no_room() => return Progress::NoRoom,
            (_, Err(error)) => return Progress::Failed(error.into()),
        };
        progress.send_replace(Progress::Filling {
            size,
            readable: 0,
            bytes: staging.reader(),
        });
        let received = receive(
            staging,
            download.stream(),
            Batches::Eager,
            |staging: &Staging| {
                let written = staging.offset();
                progress.send_modify(|state| {
                    if let Progress::Filling { size, readable, .. } = state {
                        // Where the end is not known, each byte may be the last.
                        let last = size.unwrap_or(written).saturating_sub(1);
                        *readable = written.min(last);
                    }
                });
            },
        );
        let received = match received.await {
            Ok(received) => received,
            Err(Interrupted::Body { error, .. }) => return Progress::Failed(error.into()),
            Err(Interrupted::Sink { error, .. }) if error.is_no_room() => return Progress::NoRoom,
            Err(Interrupted::Sink { error, .. }) => return Progress::Failed(error.into()),
        };
        let (cache, canonical, wanted) = (self.clone(), name.clone(), digest.clone());
        let committed = blocking(move || {
            let mut staging = received.sink;
            staging.write(&received.tail)?;
            let size = staging.offset();
            match staging.verify(&wanted)? {
                Ok(blob) => cache.0.store.commit(blob)?,
                Err(found) => {
                    let cause = Cause::DigestMismatch { wanted, found };
                    let error = UpstreamError::new(canonical.source(), cause);
                    cache.note_trouble(&error);
                    return Err(Error::Upstream(error));
                }
            }
            // Without the entry the upstream is only asked again whether it has the blob.
            if let Err(error) = remember(&cache.0.store, &canonical, &wanted, size) {
                log::warn!("{canonical}: that it has {wanted} is not kept: {error}");
            }
            Ok(size)
        });
        match committed.await {
            Ok(size) => Progress::Complete { size },
            Err(Error::Storage(error)) if error.is_no_room() => Progress::NoRoom,
            Err(error) => Progress::Failed(error),
        }
    }

    /// The upstream's own stream, kept nowhere. Behind `prefix`, which was delivered already, it goes on where that ends.
    pub(super) async fn unstored(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        prefix: Option<(StagedBytes, u64)>,
    ) -> Result<Option<Body>, Error> {
        if self.keeps(name) {
            log::warn!(
                "{name}: no room to keep {digest} (--cache-max-size, or the disk is full), so it is passed on without a copy"
            );
        }
        let (hasher, from) = match prefix {
            None => (Hasher::new(digest.algorithm()), 0),
            Some((bytes, length)) => {
                let hasher = Hasher::new(digest.algorithm());
                (
                    blocking(move || rehash(&bytes, length, hasher)).await?,
                    length,
                )
            }
        };
        let begun = Download::begin(self, name, digest, from, Spares::default(), true).await?;
        let Some(download) = begun else {
            return Ok(None);
        };
        let size = download.size();
        let body = verified(download.stream(), hasher, digest.clone());
        Ok(Some(Body {
            size,
            source: Source::Unstored(body.boxed()),
        }))
    }
}

impl Fills {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Fill>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a download off the board when it ends, however it ends.
struct Running {
    cache: Cache,
    digest: Digest,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cache.0.fills.lock().remove(&self.digest);
    }
}

enum Prepared {
    Staging(Box<Staging>),
    Here { size: u64 },
    NoRoom,
}

fn prepare(
    cache: &Cache,
    digest: &Digest,
    expected: Option<u64>,
) -> Result<Prepared, crate::storage::Error> {
    let store = &cache.0.store;
    // It may have been committed between the request's own look and this task.
    if let Some(size) = store.stat(digest)? {
        return Ok(Prepared::Here { size });
    }
    if expected.is_some_and(|expected| store.free_space().is_ok_and(|free| free < expected)) {
        return Ok(Prepared::NoRoom);
    }
    match cache.stage(digest) {
        Ok(staging) => Ok(Prepared::Staging(Box::new(staging))),
        Err(error) if error.is_no_room() => Ok(Prepared::NoRoom),
        Err(error) => Err(error),
    }
}

/// Lets the repository serve what was fetched under its name.
fn remember(
    store: &Store,
    name: &CanonicalName,
    digest: &Digest,
    size: u64,
) -> Result<(), crate::storage::Error> {
    let namespace = Namespace::Upstream;
    if store.membership(namespace, name, digest)?.is_some() {
        return Ok(());
    }
    let member = Member {
        size,
        media_type: None,
        source: None,
    };
    store.add_member(namespace, name, digest, &Reason::Pulled, &member)
}

pub(super) fn interrupted(name: &CanonicalName) -> Error {
    UpstreamError::new(
        name.source(),
        Cause::Protocol("the download was interrupted here".to_owned()),
    )
    .into()
}
