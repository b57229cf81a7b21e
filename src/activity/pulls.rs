//! Pulls: requests folded into one pull each, and pulls of the same image into one entry.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{
    Asked, FoundManifest, PulledImage, Tally,
    image::{Image, Key},
    open::{Open, Ticket},
    tree::{Id, Tree},
    words::shortened,
};
use crate::{
    metrics::Origin,
    types::{CanonicalName, Digest, Reference, Tag},
};

/// All pulls. Times are given, so that it can be tested without waiting.
#[derive(Default)]
pub(super) struct Pulls {
    images: Vec<Image>,
    index: HashMap<Key, usize>,
    /// Those that further requests may belong to, oldest first.
    open: HashMap<CanonicalName, Vec<Open>>,
    opened: usize,
    /// Tags that clients asked about, newest last.
    hints: VecDeque<Hint>,
    /// Images whose parts are known still, though no pull of them is open; the latest last.
    recent: VecDeque<usize>,
    next: u64,
    spans: usize,
    left_out: Tally,
}

struct Hint {
    name: CanonicalName,
    tag: Tag,
    digest: Digest,
    at: Instant,
    waits: Option<(Instant, Instant)>,
}

impl Pulls {
    pub(super) fn described(&mut self, asked: Asked<'_>, tag: &Tag, digest: &Digest, now: Instant) {
        if self.hints.len() >= HINTS {
            self.hints.pop_front();
        }
        let old = |hint: &Hint| now.saturating_duration_since(hint.at) > HINT_LASTS;
        while self.hints.front().is_some_and(old) {
            self.hints.pop_front();
        }
        self.hints.push_back(Hint {
            name: asked.name.clone(),
            tag: tag.clone(),
            digest: digest.clone(),
            at: asked.at,
            waits: asked.waits(),
        });
    }

    pub(super) fn manifest(
        &mut self,
        asked: Asked<'_>,
        found: FoundManifest<'_>,
        tree: Arc<Tree>,
        now: Instant,
    ) -> Ticket {
        // Whoever asks for a tag begins anew, whatever index names the same manifest.
        let id = Id::of(found.digest);
        let by_digest = matches!(found.reference, Reference::Digest(_));
        let opens = self.open.get_mut(asked.name).filter(|_| by_digest);
        let parent = opens.and_then(|opens| {
            let is_child = |open: &&mut Open| {
                !open.got.contains(&id)
                    && open.trees.iter().any(|tree| tree.manifests.contains(&id))
            };
            opens.iter_mut().rev().find(is_child)
        });
        if let Some(open) = parent {
            if open.trees.len() < TREES {
                open.trees.push(tree);
            }
            return open.part(asked, found.digest, found.origin, now);
        }
        let hint = match found.reference {
            Reference::Tag(_) => None,
            Reference::Digest(digest) => self.hint(asked.name, digest),
        };
        let (reference, mut began) = match &hint {
            Some(hint) => (Reference::Tag(hint.tag.clone()), hint.at),
            None => (found.reference.clone(), asked.at),
        };
        if now.saturating_duration_since(began) > HINT_BEGINS {
            began = asked.at;
        }
        let image = self.image(asked.name, Some(&reference));
        if let Some(image) = image.map(|at| &mut self.images[at]) {
            image.digest = Some(found.digest.clone());
            image.trees.clear();
        }
        let open = self.begin(asked.name, image, found.origin, began);
        if let Some((from, to)) = hint
            .and_then(|hint| hint.waits)
            .filter(|(from, _)| *from >= began)
        {
            open.flow.waits.add(from, to);
        }
        open.trees.push(tree);
        open.part(asked, found.digest, found.origin, now)
    }

    pub(super) fn blob(
        &mut self,
        asked: Asked<'_>,
        digest: &Digest,
        origin: Origin,
        now: Instant,
    ) -> Ticket {
        let mut at = self.pull_naming(asked.name, digest);
        if at.is_none() {
            // The client had the manifest, or comes back for more.
            let id = Id::of(digest);
            let named = |image: &Image| {
                image.key.0 == *asked.name && image.trees.iter().any(|tree| tree.names(id))
            };
            let known = self.images.iter().rposition(named);
            let (image, continues) = match known {
                Some(image) => (Some(image), true),
                None => (self.image(asked.name, None), false),
            };
            let trees = image.map(|at| self.images[at].trees.clone());
            let open = self.begin(asked.name, image, origin, asked.at);
            open.trees = trees.unwrap_or_default();
            open.continues = continues;
            at = Some(open.id);
        }
        let opens = self.open.entry(asked.name.clone()).or_default();
        match opens.iter_mut().find(|open| Some(open.id) == at) {
            Some(open) => open.part(asked, digest, origin, now),
            // It was just found or begun.
            None => Ticket {
                name: asked.name.clone(),
                id: self.next,
                flow: Arc::default(),
                fetched: origin == Origin::Upstream,
            },
        }
    }

    /// The latest pull that names the blob and lacks it, else the latest that names it, else one that takes any.
    fn pull_naming(&self, name: &CanonicalName, digest: &Digest) -> Option<u64> {
        let (opens, id) = (self.open.get(name)?, Id::of(digest));
        let names = |open: &&Open| open.trees.iter().any(|tree| tree.names(id));
        let newest = || opens.iter().rev();
        let lacking = newest().find(|open| !open.got.contains(&id) && names(open));
        let found = lacking
            .or_else(|| newest().find(names))
            .or_else(|| newest().find(|open| open.trees.is_empty()));
        found.map(|open| open.id)
    }

    pub(super) fn missed(
        &mut self,
        asked: Asked<'_>,
        reference: &Reference,
        origin: Origin,
        why: &str,
    ) {
        if let Reference::Digest(digest) = reference
            && let Some(image) = self.image_naming(asked.name, digest)
        {
            self.note_miss(image, origin, why);
            return;
        }
        let hinted = match reference {
            Reference::Tag(_) => None,
            Reference::Digest(digest) => self.hint(asked.name, digest),
        };
        let hinted = hinted.map(|hint| Reference::Tag(hint.tag));
        let image = self.image(asked.name, Some(hinted.as_ref().unwrap_or(reference)));
        self.note_miss(image, origin, why);
    }

    pub(super) fn missed_blob(
        &mut self,
        asked: Asked<'_>,
        digest: &Digest,
        origin: Origin,
        why: &str,
    ) {
        let image = match self.image_naming(asked.name, digest) {
            Some(image) => image,
            None => self.image(asked.name, None),
        };
        self.note_miss(image, origin, why);
    }

    /// The image of the open pull that names the content.
    fn image_naming(&self, name: &CanonicalName, digest: &Digest) -> Option<Option<usize>> {
        let (opens, id) = (self.open.get(name)?, Id::of(digest));
        let named = |open: &&Open| open.trees.iter().any(|tree| tree.names(id));
        opens.iter().rev().find(named).map(|open| open.image)
    }

    fn note_miss(&mut self, image: Option<usize>, origin: Origin, why: &str) {
        match image.map(|at| &mut self.images[at]) {
            Some(image) => {
                image.from.add(origin, 1);
                image.why = Some(shortened(why, MESSAGE));
            }
            None => self.left_out.add(origin, 1),
        }
    }

    /// An answer has gone out or was broken off. Whether the pull may get further parts, and the log was not told yet.
    pub(super) fn ended(&mut self, ticket: &Ticket, now: Instant) -> bool {
        let Self { images, open, .. } = self;
        let opens = open.get_mut(&ticket.name);
        let found = opens.and_then(|opens| opens.iter_mut().find(|open| open.id == ticket.id));
        let Some(open) = found else {
            return false;
        };
        open.in_flight = open.in_flight.saturating_sub(1);
        open.last = now;
        if open.in_flight == 0 && open.is_whole() {
            open.tell(&ticket.name, images);
        }
        !open.told
    }

    /// Tells the log of pulls for which nothing more seems to come, or of `all`. Whether some are left that it was not
    /// told of.
    pub(super) fn settle(&mut self, now: Instant, all: bool) -> bool {
        let mut untold = false;
        let mut over = Vec::new();
        for (name, opens) in &mut self.open {
            for open in opens {
                let quiet = now.saturating_duration_since(open.last);
                if all || (open.in_flight == 0 && quiet >= QUIET) {
                    open.tell(name, &self.images);
                }
                untold |= !open.told;
                if open.in_flight == 0 && quiet >= STAYS_OPEN {
                    over.push((name.clone(), open.id));
                }
            }
        }
        for (name, id) in over {
            self.close(&name, id);
        }
        untold
    }

    pub(super) fn snapshot(&self, start: Instant, now: Instant) -> (Vec<PulledImage>, Tally) {
        let mut left_out = self.left_out;
        let mut images: Vec<PulledImage> =
            self.images.iter().map(|image| image.shown(start)).collect();
        for open in self.open.values().flatten() {
            let shown = open.image.and_then(|at| images.get_mut(at));
            let Some(shown) = shown else {
                left_out.add(open.origin, 1);
                continue;
            };
            let closed = open.closed();
            let mut span = closed.shown(start);
            if open.in_flight > 0 {
                span.under_way = true;
                span.ended = now.saturating_duration_since(start);
            }
            shown.bytes += span.bytes;
            shown.fetched += open.flow.fetched.load(Ordering::Relaxed);
            shown.waited += span.waited;
            if !open.continues {
                shown.from.add(open.origin, 1);
            }
            shown.spans.push(span);
            if shown
                .slowest
                .is_none_or(|slowest| slowest.took() < span.took())
            {
                shown.slowest = Some(span);
            }
        }
        for image in &mut images {
            image.spans.sort_by_key(|span| span.began);
        }
        (images, left_out)
    }

    /// The entry of an image, made if there is room for it.
    fn image(&mut self, name: &CanonicalName, reference: Option<&Reference>) -> Option<usize> {
        let key = (name.clone(), reference.cloned());
        if let Some(at) = self.index.get(&key) {
            return Some(*at);
        }
        if self.images.len() >= IMAGES {
            return None;
        }
        self.images.push(Image {
            key: key.clone(),
            digest: None,
            trees: Vec::new(),
            begun: 0,
            from: Tally::default(),
            bytes: 0,
            fetched: 0,
            waited: Duration::ZERO,
            slowest: None,
            spans: Vec::new(),
            why: None,
        });
        self.index.insert(key, self.images.len() - 1);
        Some(self.images.len() - 1)
    }

    fn begin(
        &mut self,
        name: &CanonicalName,
        image: Option<usize>,
        origin: Origin,
        began: Instant,
    ) -> &mut Open {
        self.make_room(name);
        self.next += 1;
        self.opened += 1;
        let before = image.map_or(0, |at| {
            self.images[at].begun += 1;
            self.images[at].begun - 1
        });
        let opens = self.open.entry(name.clone()).or_default();
        opens.push(Open {
            id: self.next,
            image,
            before,
            continues: false,
            trees: Vec::new(),
            got: HashSet::new(),
            origin,
            began,
            last: began,
            in_flight: 0,
            told: false,
            flow: Arc::default(),
        });
        let last = opens.len() - 1;
        &mut opens[last]
    }

    /// Closes one that nothing is sent for, the one that has been quiet for longest, if there are too many.
    fn make_room(&mut self, name: &CanonicalName) {
        let of_name = self.open.get(name).map_or(0, Vec::len);
        if of_name < OPEN_PER_NAME && self.opened < OPEN {
            return;
        }
        let mut candidates: Vec<(bool, Instant, &CanonicalName, u64)> = Vec::new();
        for (known, opens) in &self.open {
            if of_name < OPEN_PER_NAME || known == name {
                let each = opens
                    .iter()
                    .map(|open| (open.in_flight > 0, open.last, known, open.id));
                candidates.extend(each);
            }
        }
        if let Some((_, _, known, id)) = candidates
            .into_iter()
            .min_by_key(|found| (found.0, found.1))
        {
            let known = known.clone();
            self.close(&known, id);
        }
    }

    fn close(&mut self, name: &CanonicalName, id: u64) {
        let Some(opens) = self.open.get_mut(name) else {
            return;
        };
        let Some(at) = opens.iter().position(|open| open.id == id) else {
            return;
        };
        let mut open = opens.remove(at);
        if opens.is_empty() {
            self.open.remove(name);
        }
        self.opened -= 1;
        open.tell(name, &self.images);
        let Some(image) = open.image.map(|at| &mut self.images[at]) else {
            self.left_out.add(open.origin, 1);
            return;
        };
        let closed = open.closed();
        image.bytes += closed.bytes;
        image.fetched += open.flow.fetched.load(Ordering::Relaxed);
        image.waited += closed.waited;
        if !open.continues {
            image.from.add(open.origin, 1);
        }
        if image
            .slowest
            .is_none_or(|slowest| slowest.took() < closed.took())
        {
            image.slowest = Some(closed);
        }
        if image.spans.len() < SPANS_PER_IMAGE && self.spans < SPANS {
            image.spans.push(closed);
            self.spans += 1;
        }
        image.trees = open.trees;
        // What a client may come back for is what was pulled last.
        if let Some(at) = open.image {
            self.recent.push_back(at);
        }
        if self.recent.len() > RECENT
            && let Some(at) = self.recent.pop_front()
            && !self.recent.contains(&at)
        {
            self.images[at].trees = Vec::new();
        }
    }

    /// Takes the latest hint at what the digest is called.
    fn hint(&mut self, name: &CanonicalName, digest: &Digest) -> Option<Hint> {
        let named = |hint: &Hint| hint.name == *name && hint.digest == *digest;
        let at = self.hints.iter().rposition(named)?;
        self.hints.remove(at)
    }
}

/// Images that are kept; a job pulls some dozens.
pub(super) const IMAGES: usize = 1000;
/// Pulls whose times are kept.
const SPANS: usize = 4000;
const SPANS_PER_IMAGE: usize = 50;
/// Pulls that requests are matched to.
const OPEN: usize = 128;
const OPEN_PER_NAME: usize = 64;
/// Manifests of one pull whose parts are known.
const TREES: usize = 16;
/// Images that are closed whose parts are known.
const RECENT: usize = 64;
const HINTS: usize = 64;
/// For so long a digest is called by the tag that it was asked for.
const HINT_LASTS: Duration = Duration::from_secs(10 * 60);
/// A pull begins with the question for its tag, if it goes on so soon.
const HINT_BEGINS: Duration = Duration::from_secs(10);
/// Between two requests of a client that is at it.
const QUIET: Duration = Duration::from_secs(2);
/// Builders fetch layers long after the manifest.
const STAYS_OPEN: Duration = Duration::from_secs(60);
const MESSAGE: usize = 400;
