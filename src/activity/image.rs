//! What is kept of an image that was pulled, whichever pull of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::tree::Tree;
use crate::{
    metrics::Origin,
    types::{CanonicalName, Digest, Reference},
};

/// What was pulled of one image, under one name.
#[derive(Clone, Debug)]
pub struct PulledImage {
    pub name: CanonicalName,
    /// Absent where only blobs were asked for, by a client that had the manifest.
    pub reference: Option<Reference>,
    /// As the reference was last answered.
    pub digest: Option<Digest>,
    /// By where it came from, each pull once; requests that came to nothing among them.
    pub from: Tally,
    /// Sent to clients.
    pub bytes: u64,
    /// Those of them that were fetched for it.
    pub fetched: u64,
    /// In which at least one of a pull's requests waited for an upstream.
    pub waited: Duration,
    /// The longest pull of it.
    pub slowest: Option<Span>,
    /// In the order in which they began; not all of them if there were many.
    pub spans: Vec<Span>,
    /// What a client was told last when it got nothing.
    pub why: Option<String>,
}

/// One pull. Times are since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub began: Duration,
    /// When its last byte was sent, or now.
    pub ended: Duration,
    pub origin: Origin,
    pub bytes: u64,
    pub waited: Duration,
    /// Something is being sent for it now.
    pub under_way: bool,
}

impl Span {
    pub fn took(&self) -> Duration {
        self.ended.saturating_sub(self.began)
    }
}

/// How many of each origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally([u64; Origin::ALL.len()]);

impl Tally {
    pub fn of(&self, origin: Origin) -> u64 {
        self.0[origin as usize]
    }

    pub fn add(&mut self, origin: Origin, count: u64) {
        self.0[origin as usize] += count;
    }

    /// Those that came to something.
    pub fn pulls(&self) -> u64 {
        let none = self.of(Origin::Nowhere) + self.of(Origin::Failed);
        self.0.iter().sum::<u64>() - none
    }

    pub fn add_all(&mut self, other: &Self) {
        for origin in Origin::ALL {
            self.add(origin, other.of(origin));
        }
    }
}

/// An image's name as clients write it.
pub fn called(name: &CanonicalName, reference: Option<&Reference>) -> String {
    match reference {
        None => name.to_string(),
        Some(Reference::Tag(tag)) => format!("{name}:{tag}"),
        Some(Reference::Digest(digest)) => format!("{name}@{digest}"),
    }
}

/// What names an image.
pub(super) type Key = (CanonicalName, Option<Reference>);

pub(super) struct Image {
    pub(super) key: Key,
    pub(super) digest: Option<Digest>,
    /// Of its last pull.
    pub(super) trees: Vec<Arc<Tree>>,
    pub(super) begun: u64,
    pub(super) from: Tally,
    pub(super) bytes: u64,
    pub(super) fetched: u64,
    pub(super) waited: Duration,
    pub(super) slowest: Option<Closed>,
    pub(super) spans: Vec<Closed>,
    pub(super) why: Option<String>,
}

/// A pull that is over.
#[derive(Clone, Copy)]
pub(super) struct Closed {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) origin: Origin,
    pub(super) bytes: u64,
    pub(super) waited: Duration,
}

impl Image {
    pub(super) fn shown(&self, start: Instant) -> PulledImage {
        let (name, reference) = self.key.clone();
        PulledImage {
            name,
            reference,
            digest: self.digest.clone(),
            from: self.from,
            bytes: self.bytes,
            fetched: self.fetched,
            waited: self.waited,
            slowest: self.slowest.map(|slowest| slowest.shown(start)),
            spans: self.spans.iter().map(|span| span.shown(start)).collect(),
            why: self.why.clone(),
        }
    }
}

impl Closed {
    pub(super) fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.began)
    }

    pub(super) fn shown(&self, start: Instant) -> Span {
        Span {
            began: self.began.saturating_duration_since(start),
            ended: self.ended.saturating_duration_since(start),
            origin: self.origin,
            bytes: self.bytes,
            waited: self.waited,
            under_way: false,
        }
    }
}
