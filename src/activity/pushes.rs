//! Pushes: blobs uploaded to a repository, and the manifest that makes an image of them.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use super::{
    FoundPush,
    image::called,
    words::{size, time},
};
use crate::types::{CanonicalName, Digest, Reference};

/// What was pushed under one name.
#[derive(Clone, Debug)]
pub struct PushedImage {
    pub name: CanonicalName,
    pub reference: Reference,
    /// The latest.
    pub digest: Digest,
    /// How often.
    pub pushes: u64,
    /// All that the image consists of, as its manifests tell; of the latest.
    pub size: u64,
    /// What was uploaded for it; the rest was here, or is its source's.
    pub uploaded: u64,
    /// Of the latest push, since the start.
    pub began: Duration,
    pub ended: Duration,
}

impl PushedImage {
    pub fn took(&self) -> Duration {
        self.ended.saturating_sub(self.began)
    }
}

#[derive(Default)]
pub(super) struct Pushes {
    images: BTreeMap<u64, Image>,
    index: HashMap<(CanonicalName, Reference), u64>,
    uploads: HashMap<CanonicalName, Uploads>,
    next: u64,
    left_out: u64,
}

struct Image {
    name: CanonicalName,
    reference: Reference,
    digest: Digest,
    pushes: u64,
    size: u64,
    uploaded: u64,
    began: Instant,
    ended: Instant,
    told: bool,
}

/// What came to a repository and belongs to no manifest yet.
struct Uploads {
    since: Instant,
    last: Instant,
    blobs: HashMap<Digest, u64>,
}

impl Pushes {
    pub(super) fn uploading(&mut self, name: &CanonicalName, now: Instant) {
        if !self.uploads.contains_key(name) {
            self.make_room();
            let uploads = Uploads {
                since: now,
                last: now,
                blobs: HashMap::new(),
            };
            self.uploads.insert(name.clone(), uploads);
        }
    }

    pub(super) fn uploaded(
        &mut self,
        name: &CanonicalName,
        digest: &Digest,
        size: u64,
        now: Instant,
    ) {
        self.uploading(name, now);
        if let Some(uploads) = self.uploads.get_mut(name) {
            uploads.last = now;
            if uploads.blobs.len() < BLOBS {
                uploads.blobs.insert(digest.clone(), size);
            }
        }
    }

    pub(super) fn pushed(&mut self, push: FoundPush<'_>, now: Instant) {
        let FoundPush {
            name,
            reference,
            digest,
            ..
        } = push;
        let mut began = now;
        let mut uploaded = push.size;
        let mut whole = push.size + push.parts.iter().map(|(_, size)| size).sum::<u64>();
        if let Some(uploads) = self.uploads.get_mut(name) {
            for (part, _) in push.parts {
                uploaded += uploads.blobs.remove(part).unwrap_or_default();
            }
            began = uploads.since;
            match uploads.blobs.is_empty() {
                true => {
                    self.uploads.remove(name);
                }
                false => uploads.since = now,
            }
        }
        // Its children came first, each by its digest: they are one image with it.
        for (part, size) in push.parts {
            let child = (name.clone(), Reference::Digest(part.clone()));
            if let Some(child) = self.index.remove(&child)
                && let Some(child) = self.images.remove(&child)
            {
                began = began.min(child.began);
                uploaded += child.uploaded;
                whole += child.size.saturating_sub(*size);
            }
        }
        let key = (name.clone(), reference.clone());
        let full = self.images.len() >= IMAGES;
        let known = self.index.get(&key).and_then(|at| self.images.get_mut(at));
        let image = match known {
            Some(image) => {
                image.pushes += 1;
                image.uploaded += uploaded;
                (image.digest, image.size) = (digest.clone(), whole);
                (image.began, image.ended, image.told) = (began, now, false);
                image
            }
            None if full => {
                self.left_out += 1;
                return;
            }
            None => {
                self.next += 1;
                self.index.insert(key, self.next);
                let image = Image {
                    name: name.clone(),
                    reference: reference.clone(),
                    digest: digest.clone(),
                    pushes: 1,
                    size: whole,
                    uploaded,
                    began,
                    ended: now,
                    told: false,
                };
                self.images.entry(self.next).or_insert(image)
            }
        };
        if matches!(reference, Reference::Tag(_)) {
            image.tell();
        }
    }

    /// Tells the log of what was pushed by its digest and is no part of anything. Whether some is left.
    pub(super) fn settle(&mut self, now: Instant, all: bool) -> bool {
        let mut untold = false;
        for image in self.images.values_mut() {
            if all || now.saturating_duration_since(image.ended) >= QUIET {
                image.tell();
            }
            untold |= !image.told;
        }
        untold
    }

    pub(super) fn snapshot(&self, start: Instant) -> (Vec<PushedImage>, u64) {
        let since = |instant: Instant| instant.saturating_duration_since(start);
        let shown = |image: &Image| PushedImage {
            name: image.name.clone(),
            reference: image.reference.clone(),
            digest: image.digest.clone(),
            pushes: image.pushes,
            size: image.size,
            uploaded: image.uploaded,
            began: since(image.began),
            ended: since(image.ended),
        };
        (self.images.values().map(shown).collect(), self.left_out)
    }

    /// Forgets the uploads that nothing came of for longest, if there are many.
    fn make_room(&mut self) {
        if self.uploads.len() < REPOSITORIES {
            return;
        }
        let oldest = self.uploads.iter().min_by_key(|(_, uploads)| uploads.last);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.uploads.remove(&name);
        }
    }
}

impl Image {
    fn tell(&mut self) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let took = self.ended.saturating_duration_since(self.began);
        let again = match self.pushes {
            1 => String::new(),
            pushes => format!(", push number {pushes}"),
        };
        log::info!(
            "{}: pushed, {} in {}{again}, {}",
            called(&self.name, Some(&self.reference)),
            size(self.size),
            time(took),
            self.digest
        );
    }
}

const IMAGES: usize = 1000;
/// Repositories that are being pushed to at once.
const REPOSITORIES: usize = 128;
/// Blobs of one that wait for their manifest.
const BLOBS: usize = 512;
/// Between the last child of an index and the index.
const QUIET: Duration = Duration::from_secs(2);
