//! A pull that further requests may belong to.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{
    Asked, Flow,
    image::{Closed, Image, called},
    tree::{Id, Tree},
    words::{size, time},
};
use crate::{
    metrics::Origin,
    types::{CanonicalName, Digest},
};

/// Which pull an answer belongs to.
pub(super) struct Ticket {
    pub(super) name: CanonicalName,
    pub(super) id: u64,
    pub(super) flow: Arc<Flow>,
    pub(super) fetched: bool,
}

pub(super) struct Open {
    pub(super) id: u64,
    pub(super) image: Option<usize>,
    /// How many pulls of the image there were before.
    pub(super) before: u64,
    /// It goes on with one that was closed, and is none of its own.
    pub(super) continues: bool,
    pub(super) trees: Vec<Arc<Tree>>,
    pub(super) got: HashSet<Id>,
    pub(super) origin: Origin,
    pub(super) began: Instant,
    pub(super) last: Instant,
    pub(super) in_flight: u32,
    pub(super) told: bool,
    pub(super) flow: Arc<Flow>,
}

impl Open {
    /// One more answer.
    pub(super) fn part(
        &mut self,
        asked: Asked<'_>,
        digest: &Digest,
        origin: Origin,
        now: Instant,
    ) -> Ticket {
        if self.got.len() < GOT {
            self.got.insert(Id::of(digest));
        }
        self.in_flight += 1;
        self.last = now;
        if (self.origin, origin) == (Origin::Cache, Origin::Upstream) {
            self.origin = Origin::Upstream;
        }
        if let Some((from, to)) = asked.waits() {
            self.flow.waits.add(from, to);
        }
        Ticket {
            name: asked.name.clone(),
            id: self.id,
            flow: Arc::clone(&self.flow),
            fetched: origin == Origin::Upstream,
        }
    }

    /// All that some manifest of it names was sent, and nothing of another that it only begins.
    pub(super) fn is_whole(&self) -> bool {
        let mut whole = false;
        for tree in self.trees.iter().filter(|tree| !tree.blobs.is_empty()) {
            let got = tree
                .blobs
                .iter()
                .filter(|blob| self.got.contains(*blob))
                .count();
            if got != 0 && got != tree.blobs.len() {
                return false;
            }
            whole |= got != 0;
        }
        whole
    }

    pub(super) fn closed(&self) -> Closed {
        Closed {
            began: self.began,
            ended: self.last,
            origin: self.origin,
            bytes: self.flow.bytes.load(Ordering::Relaxed),
            waited: self.flow.waits.total(),
        }
    }

    pub(super) fn tell(&mut self, name: &CanonicalName, images: &[Image]) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let reference = self.image.and_then(|at| images.get(at)?.key.1.as_ref());
        let (name, source) = (called(name, reference), name.source());
        let Closed { bytes, waited, .. } = self.closed();
        let from = match self.origin {
            Origin::Local => "from here".to_owned(),
            Origin::Shadow => format!("from here, in place of what {source} has"),
            Origin::Cache => "from the cache".to_owned(),
            Origin::Stale => format!("from the cache, since {source} could not be asked"),
            Origin::Upstream | Origin::Nowhere | Origin::Failed => format!("from {source}"),
        };
        let waited = match waited.as_millis() {
            0..100 => String::new(),
            _ => format!(", {} of it waiting for {source}", time(waited)),
        };
        let again = match self.before {
            0 => String::new(),
            before => format!(", pull number {}", before + 1),
        };
        // One that is pulled all day long does not fill the log.
        let nth = self.before + 1;
        let level = match nth <= 3 || nth.is_power_of_two() {
            true => log::Level::Info,
            false => log::Level::Debug,
        };
        let took = time(self.last.saturating_duration_since(self.began));
        log::log!(
            level,
            "{name}: pulled {from}, {} in {took}{waited}{again}",
            size(bytes)
        );
    }
}

/// Parts of a pull that are told apart.
const GOT: usize = 512;
