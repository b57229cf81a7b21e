//! A blob's bytes from where they are to be had, in order and without a gap: a body that breaks off goes on where it ended.
//!
//! Whether the bytes are the right ones is for whoever reads them: an upstream that sends other content from one request
//! to the next is found out by the digest.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Cache, Cause, Effort, HEADER_BUDGET, Patience, UpstreamError};
use crate::types::{CanonicalName, Digest};

/// How often and how fast a body that broke off is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Tries in a row that bring no byte.
    pub tries: u32,
    /// Before the first of them; before each further one twice as long. Half as much more or less, by chance.
    pub pause: Duration,
    /// Without a byte, the silence included that made a body count as cut: no further try begins later, and none is
    /// waited for.
    pub budget: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            tries: 5,
            pause: Duration::from_millis(100),
            budget: HEADER_BUDGET,
        }
    }
}

impl Pace {
    /// Before try number `n`, from 0.
    fn pause_before(&self, n: u32) -> Duration {
        let longest = self.pause.saturating_mul(2_u32.saturating_pow(n));
        // Clients that were cut off together must not come back together. Any hasher is seeded by chance.
        let chance = RandomState::new().hash_one(n) % 1000;
        longest.mul_f64(0.5 + chance as f64 / 1000.0)
    }
}

/// Further names that have the blob, each by its own right: their upstreams can be asked where the first one gives out.
#[derive(Clone, Default)]
pub(super) struct Spares(Arc<Mutex<Vec<CanonicalName>>>);

impl Spares {
    pub(super) fn lend(&self, name: &CanonicalName) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.contains(name) {
            names.push(name.clone());
        }
    }

    fn nth(&self, n: usize) -> Option<CanonicalName> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(n).cloned()
    }
}

/// A blob on its way from an upstream.
pub(super) struct Download {
    cache: Cache,
    digest: Digest,
    /// Whose upstream is asked.
    name: CanonicalName,
    spares: Spares,
    /// How many of the spares were asked.
    spent: usize,
    size: Option<u64>,
    offset: u64,
    body: BoxStream<'static, Result<Bytes, UpstreamError>>,
    /// While nothing has come since the body broke off.
    drought: Option<Drought>,
}

#[derive(Clone, Copy)]
struct Drought {
    tries: u32,
    end: Instant,
}

impl Download {
    /// Asks for what is behind the first `from` bytes. Returns when the headers are there; `None`: the upstream has no
    /// such blob. Of a name that is `vouched` for, another's upstream may do from the start.
    pub(super) async fn begin(
        cache: &Cache,
        name: &CanonicalName,
        digest: &Digest,
        from: u64,
        spares: Spares,
        vouched: bool,
    ) -> Result<Option<Self>, UpstreamError> {
        let mut this = Self {
            cache: cache.clone(),
            digest: digest.clone(),
            name: name.clone(),
            spares,
            spent: 0,
            size: None,
            offset: from,
            body: stream::empty().boxed(),
            drought: None,
        };
        // Nobody waits longer for headers because there are others to ask.
        let effort = Patience::Full.into();
        match this.ask(effort).await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) if vouched => this.ask_a_spare(error, Some(effort)).await?,
            Err(error) => return Err(error),
        }
        Ok(Some(this))
    }

    /// Of the whole blob, in bytes; unknown where the upstream does not say.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Takes `size` for the blob's where the upstream does not say.
    pub(super) fn expect(&mut self, size: Option<u64>) {
        self.size = self.size.or(size);
    }

    /// The bytes to the blob's end, and never more than its size. An error is the last item.
    pub(super) fn stream(self) -> BoxStream<'static, Result<Bytes, UpstreamError>> {
        stream::unfold(Some(self), |download| async move {
            let mut download = download?;
            match download.next().await? {
                Ok(piece) => Some((Ok(piece), Some(download))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        loop {
            let waits = Instant::now();
            let next = match self.drought {
                None => self.body.next().await,
                Some(drought) => match timeout_at(drought.end, self.body.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        let seconds = self.cache.0.pace.budget.as_secs_f64().round();
                        let why = format!("nothing of the rest came within {seconds} seconds");
                        Some(Err(self.failure(Cause::Cut(why))))
                    }
                },
            };
            let whole = self.size == Some(self.offset);
            let (error, resumable) = match next {
                // An upstream that ignores the range is read past what is known.
                Some(Ok(piece)) if piece.is_empty() => continue,
                Some(Ok(piece)) => {
                    let end = self.offset + piece.len() as u64;
                    if self.size.is_some_and(|size| end > size) {
                        let why = "it sent more than the blob's size".to_owned();
                        return Some(Err(self.failure(Cause::Protocol(why))));
                    }
                    self.offset = end;
                    self.drought = None;
                    return Some(Ok(piece));
                }
                _ if whole => return None,
                Some(Err(error)) => {
                    let resumable = error.cause.is_resumable();
                    (error, resumable)
                }
                None => {
                    let size = self.size?;
                    let why = format!("it sent {} bytes of {size}", self.offset);
                    (self.failure(Cause::Protocol(why)), true)
                }
            };
            if let Err(error) = self.go_on(error, resumable, waits).await {
                return Some(Err(error));
            }
        }
    }

    /// Gets a body that begins where the last one ended, or tells why there is none. `waits`: since when for a byte.
    async fn go_on(
        &mut self,
        broken: UpstreamError,
        resumable: bool,
        waits: Instant,
    ) -> Result<(), UpstreamError> {
        let pace = self.cache.0.pace;
        self.cache.note_trouble(&broken);
        // It may hold the only connection that the upstream is asked by.
        self.body = stream::empty().boxed();
        let (mut error, mut again) = (broken, resumable);
        loop {
            let drought = self.drought.get_or_insert_with(|| Drought {
                tries: 0,
                end: waits + pace.budget,
            });
            if !again || drought.tries >= pace.tries || drought.end <= Instant::now() {
                return self.ask_a_spare(error, None).await;
            }
            // An upstream that is left alone is not tried in vain.
            let rest = error.cause.rests().unwrap_or_default();
            let (pause, end) = (pace.pause_before(drought.tries).max(rest), drought.end);
            drought.tries += 1;
            log::info!(
                "{}: {} is asked for again from byte {} on in {} ms: {error}",
                self.name,
                self.digest,
                self.offset,
                pause.as_millis()
            );
            let asked = timeout_at(end, async {
                sleep(pause).await;
                self.ask(Patience::Full.into()).await
            });
            match asked.await {
                Ok(Ok(true)) => {
                    let registry = self.name.source().to_string();
                    self.cache.0.activity.metrics().upstream_resumed(&registry);
                    return Ok(());
                }
                Ok(Ok(false)) => {
                    error = self.failure(Cause::Protocol("it has the blob no more".to_owned()));
                    again = false;
                }
                Ok(Err(refused)) => {
                    again = refused.cause.is_resumable();
                    error = refused;
                }
                Err(_) => again = false,
            }
        }
    }

    /// Goes on with the upstream of the next name that was lent; `error` if there is none. Without `effort` each has the
    /// whole time.
    async fn ask_a_spare(
        &mut self,
        error: UpstreamError,
        effort: Option<Effort>,
    ) -> Result<(), UpstreamError> {
        while let Some(spare) = self.spares.nth(self.spent) {
            self.spent += 1;
            log::info!(
                "{}: {} is fetched on from {spare} at byte {}: {error}",
                self.name,
                self.digest,
                self.offset
            );
            self.name = spare;
            self.drought = None;
            let effort = effort.unwrap_or_else(|| Patience::Full.into());
            match self.ask(effort).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(also) => log::info!("{}: nor can it be had there: {also}", self.name),
            }
        }
        Err(error)
    }

    /// Asks for what is behind `offset`; whether there is such a blob.
    async fn ask(&mut self, effort: Effort) -> Result<bool, UpstreamError> {
        let (cache, name, digest, from) = (
            self.cache.clone(),
            self.name.clone(),
            self.digest.clone(),
            self.offset,
        );
        // The connection must not end with whoever asked for it first.
        let remote = self.cache.background(async move {
            let upstreams = &cache.0.upstreams;
            upstreams
                .get_blob(name.source(), name.repository(), &digest, from, effort)
                .await
        });
        let Some(remote) = remote.await? else {
            return Ok(false);
        };
        let remote = remote.continuing(self.size)?;
        self.size = self.size.or(remote.size);
        self.body = remote.body;
        Ok(true)
    }

    fn failure(&self, cause: Cause) -> UpstreamError {
        UpstreamError::new(self.name.source(), cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_differ_by_half_at_most() {
        let pace = Pace {
            pause: Duration::from_secs(1),
            ..Pace::default()
        };
        for (n, seconds) in [(0, 1.0), (1, 2.0), (2, 4.0), (4, 16.0)] {
            let pauses: Vec<f64> = (0..50)
                .map(|_| pace.pause_before(n).as_secs_f64() / seconds)
                .collect();
            assert!(pauses.iter().all(|pause| (0.5..1.5).contains(pause)));
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }
}
