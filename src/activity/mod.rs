//! What happened here, by name: images pulled and pushed, and what upstreams failed at. [`metrics`](crate::metrics) counts
//! and knows no names; here are the names, and the numbers that belong to each.
//!
//! - A client's pull is a handful of requests: for an index, a manifest, a config, layers. They are folded into one by what
//!   the manifests name: a part belongs to the latest pull of that repository which names it and lacks it.
//! - All of it is bounded, whatever clients ask for: what goes beyond is counted and not kept.
//! - It holds nothing back: while bytes flow, they are added to one number, and no lock is taken.
//!
//! It knows neither HTTP nor who may see what; names and messages are as clients and upstreams sent them.

mod image;
mod open;
mod pulls;
mod pushes;
#[cfg(test)]
mod tests;
mod tree;
mod troubles;
pub mod words;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::Notify;

use crate::{
    metrics::{Clock, Metrics, Origin, Outcome},
    types::{CanonicalName, Digest, Reference},
};
use open::Ticket;
use pulls::Pulls;
use pushes::Pushes;
use tree::{Tree, Trees};
use troubles::Troubles;

pub use image::{PulledImage, Span, Tally, called};
pub use pushes::PushedImage;
pub use troubles::Trouble;

/// What happened since the start.
pub struct Activity {
    metrics: Arc<Metrics>,
    began: Instant,
    began_at: SystemTime,
    trees: Mutex<Trees>,
    pulls: Mutex<Pulls>,
    pushes: Mutex<Pushes>,
    troubles: Mutex<Troubles>,
    stirred: Notify,
}

/// A client's request for content.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub name: &'a CanonicalName,
    pub at: Instant,
    /// For how long an upstream's answer to it was waited for, up to now.
    pub waited: Duration,
}

/// A manifest that a request was answered with.
#[derive(Clone, Copy, Debug)]
pub struct FoundManifest<'a> {
    pub reference: &'a Reference,
    pub digest: &'a Digest,
    pub media_type: &'a str,
    pub bytes: &'a [u8],
    pub origin: Origin,
}

/// A manifest that was pushed.
#[derive(Clone, Copy, Debug)]
pub struct FoundPush<'a> {
    pub name: &'a CanonicalName,
    pub reference: &'a Reference,
    pub digest: &'a Digest,
    /// Of the manifest.
    pub size: u64,
    /// What it names, with sizes.
    pub parts: &'a [(Digest, u64)],
}

/// All of it at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub began: SystemTime,
    /// Since the start; all other times here are counted from there too.
    pub now: Duration,
    /// In the order in which they were first pulled.
    pub pulled: Vec<PulledImage>,
    /// Pulls, and requests that came to nothing, of images beyond those that are kept.
    pub pulls_left_out: Tally,
    /// In the order in which they were first pushed.
    pub pushed: Vec<PushedImage>,
    /// Pushes of images beyond those.
    pub pushes_left_out: u64,
    pub troubles: Vec<Trouble>,
}

impl Activity {
    /// Nothing happened yet. What is counted as well is counted in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            began: Instant::now(),
            began_at: SystemTime::now(),
            trees: Mutex::default(),
            pulls: Mutex::default(),
            pushes: Mutex::default(),
            troubles: Mutex::default(),
            stirred: Notify::new(),
        }
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A client was told which digest a tag has: it is about to fetch that, or has it already.
    pub fn described(&self, asked: Asked<'_>, reference: &Reference, digest: &Digest) {
        self.waited(asked);
        if let Reference::Tag(tag) = reference {
            self.pulls().described(asked, tag, digest, Instant::now());
        }
    }

    /// A manifest was found, and is sent as what is returned says.
    pub fn manifest(self: &Arc<Self>, asked: Asked<'_>, found: FoundManifest<'_>) -> Part {
        self.waited(asked);
        let tree = self.tree(found);
        let ticket = self.pulls().manifest(asked, found, tree, Instant::now());
        self.part(ticket)
    }

    /// A blob was found, and is sent as what is returned says.
    pub fn blob(self: &Arc<Self>, asked: Asked<'_>, digest: &Digest, origin: Origin) -> Part {
        self.waited(asked);
        let ticket = self.pulls().blob(asked, digest, origin, Instant::now());
        self.part(ticket)
    }

    /// A request for a manifest came to nothing, for the reason that the client was told.
    pub fn missed(&self, asked: Asked<'_>, reference: &Reference, origin: Origin, why: &str) {
        self.waited(asked);
        self.pulls().missed(asked, reference, origin, why);
    }

    /// A request for a blob came to nothing.
    pub fn missed_blob(&self, asked: Asked<'_>, digest: &Digest, origin: Origin, why: &str) {
        self.waited(asked);
        self.pulls().missed_blob(asked, digest, origin, why);
    }

    /// A blob is being uploaded to `name`.
    pub fn uploading(&self, name: &CanonicalName) {
        self.pushes().uploading(name, Instant::now());
    }

    /// It is here, all its bytes.
    pub fn uploaded(&self, name: &CanonicalName, digest: &Digest, size: u64) {
        self.pushes().uploaded(name, digest, size, Instant::now());
    }

    /// A manifest was pushed and acknowledged.
    pub fn pushed(&self, push: FoundPush<'_>) {
        self.pushes().pushed(push, Instant::now());
        self.stirred.notify_one();
    }

    /// A request to `registry`, as its label has it, came to nothing.
    pub fn trouble(&self, registry: &str, outcome: Outcome, message: &str) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.add(registry, outcome, message, self.began.elapsed());
    }

    /// Returns when something has happened that [`Activity::settle`] will have to tell of.
    pub async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// Tells the log of pulls and pushes that are over, as far as can be seen. Whether some are still open.
    pub fn settle(&self) -> bool {
        let now = Instant::now();
        let pulls = self.pulls().settle(now, false);
        let pushes = self.pushes().settle(now, false);
        pulls || pushes
    }

    /// Tells the log of all that it has not been told of.
    pub fn close(&self) {
        let now = Instant::now();
        self.pulls().settle(now, true);
        self.pushes().settle(now, true);
    }

    /// What happened so far.
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let (pulled, pulls_left_out) = self.pulls().snapshot(self.began, now);
        let (pushed, pushes_left_out) = self.pushes().snapshot(self.began);
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        Snapshot {
            began: self.began_at,
            now: now.saturating_duration_since(self.began),
            pulled,
            pulls_left_out,
            pushed,
            pushes_left_out,
            troubles: troubles.all(),
        }
    }

    fn part(self: &Arc<Self>, ticket: Ticket) -> Part {
        Part(Some(Sending {
            activity: Arc::clone(self),
            ticket,
            waits: false,
        }))
    }

    /// What the manifest names. The same one is read once, and outside of every lock.
    fn tree(&self, found: FoundManifest<'_>) -> Arc<Tree> {
        let trees = || self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        let known = trees().of(found.digest);
        known.unwrap_or_else(|| {
            let tree = Arc::new(Tree::read(found.bytes, found.media_type));
            trees().keep(found.digest, &tree);
            tree
        })
    }

    fn waited(&self, asked: Asked<'_>) {
        if let Some((from, to)) = asked.waits() {
            self.metrics.upstream_waits().add(from, to);
        }
    }

    fn pulls(&self) -> MutexGuard<'_, Pulls> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pushes(&self) -> MutexGuard<'_, Pushes> {
        self.pushes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Asked<'_> {
    /// From when to when an upstream was waited for.
    fn waits(self) -> Option<(Instant, Instant)> {
        let to = Instant::now();
        let from = to.checked_sub(self.waited)?.max(self.at);
        (!self.waited.is_zero()).then_some((from, to))
    }
}

/// What flows to the clients of one pull.
#[derive(Debug, Default)]
struct Flow {
    bytes: AtomicU64,
    /// Those of them that were fetched for it.
    fetched: AtomicU64,
    waits: Clock,
}

/// One answer's content on its way to a client, until it is dropped.
pub struct Part(Option<Sending>);

struct Sending {
    activity: Arc<Activity>,
    ticket: Ticket,
    /// An upstream is being waited for.
    waits: bool,
}

impl Part {
    /// Of an answer without content.
    pub fn none() -> Self {
        Self(None)
    }

    /// So many bytes go out.
    pub fn sent(&self, bytes: usize) {
        let Some(Sending {
            activity, ticket, ..
        }) = &self.0
        else {
            return;
        };
        let flow = &ticket.flow;
        activity.metrics.sent(bytes);
        flow.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if ticket.fetched {
            flow.fetched.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// A body that is sent as this part: its bytes are counted, and so is the time in which an upstream keeps it waiting.
    pub fn of<S, E>(self, body: S) -> Measured<S>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        Measured { body, part: self }
    }

    fn wait(&mut self, begins: bool) {
        let Some(sending) = self.0.as_mut().filter(|sending| sending.ticket.fetched) else {
            return;
        };
        if sending.waits == begins {
            return;
        }
        sending.waits = begins;
        let now = Instant::now();
        for clock in [
            &sending.ticket.flow.waits,
            sending.activity.metrics.upstream_waits(),
        ] {
            match begins {
                true => clock.begin(now),
                false => clock.end(now),
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.wait(false);
        if let Some(Sending {
            activity, ticket, ..
        }) = &self.0
        {
            let open = activity.pulls().ended(ticket, Instant::now());
            if open {
                activity.stirred.notify_one();
            }
        }
    }
}

/// See [`Part::of`].
pub struct Measured<S> {
    body: S,
    part: Part,
}

impl<S, E> Stream for Measured<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    type Item = Result<Bytes, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.body).poll_next(context);
        self.part.wait(polled.is_pending());
        if let Poll::Ready(Some(Ok(bytes))) = &polled {
            self.part.sent(bytes.len());
        }
        polled
    }
}
