//! Tags in order: a repository's tags are listed from the medium once and kept in memory from then on, so that a page
//! costs by its length and not by the repository's.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{Error, ManifestEntry, Store, layout};
use crate::types::{CanonicalName, Digest, Namespace, Tag};

/// Repositories whose tags are kept in memory, at most.
const KEPT: usize = 1024;

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
    /// What the tag named before, if that manifest is held here and the new one is not yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub previous: Option<Digest>,
}

/// The listings made so far.
#[derive(Default)]
pub(super) struct Listings(Mutex<HashMap<(Namespace, CanonicalName), Listing>>);

/// What each tag names. Locked while it is made, so that a push meanwhile is not missed.
type Listing = Arc<Mutex<Option<BTreeMap<Tag, Digest>>>>;

impl Store {
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
        self.put_entry(&layout::tag(namespace, name, tag), entry)?;
        self.note_tag(namespace, name, tag)
    }

    /// Up to `limit` tags behind `last`, in byte order.
    pub fn tags(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Tag>, Error> {
        self.with_tags(namespace, name, |tags| {
            let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
            tags.range::<str, _>((behind, Bound::Unbounded))
                .map(|(tag, _)| tag.clone())
                .take(limit)
                .collect()
        })
    }

    /// The tags that name `digest`.
    pub(super) fn tags_of(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Vec<Tag>, Error> {
        self.with_tags(namespace, name, |tags| {
            tags.iter()
                .filter(|(_, named)| *named == digest)
                .map(|(tag, _)| tag.clone())
                .collect()
        })
    }

    /// Brings a listing that was made up to date with a tag that was written or deleted. Of several at once the last one to
    /// come here finds what is there in the end.
    pub(super) fn note_tag(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        tag: &Tag,
    ) -> Result<(), Error> {
        let Some(listing) = self
            .listings
            .lock()
            .get(&(namespace, name.clone()))
            .cloned()
        else {
            return Ok(());
        };
        let mut listing = listing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tags) = listing.as_mut() {
            match self.tag(namespace, name, tag)? {
                Some(entry) => tags.insert(tag.clone(), entry.digest),
                None => tags.remove(tag),
            };
        }
        Ok(())
    }

    fn with_tags<T>(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        read: impl FnOnce(&BTreeMap<Tag, Digest>) -> T,
    ) -> Result<T, Error> {
        let listing = self.listings.of(namespace, name);
        let mut tags = listing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tags) = tags.as_ref() {
            return Ok(read(tags));
        }
        let mut found = BTreeMap::new();
        for tag in self
            .list(&layout::tags(namespace, name))?
            .iter()
            .filter_map(|tag| tag.parse::<Tag>().ok())
        {
            // One that is being deleted may be listed and gone.
            if let Some(TagEntry { digest, .. }) = self.tag(namespace, name, &tag)? {
                found.insert(tag, digest);
            }
        }
        Ok(read(tags.insert(found)))
    }
}

impl Listings {
    fn of(&self, namespace: Namespace, name: &CanonicalName) -> Listing {
        let mut listings = self.lock();
        let key = (namespace, name.clone());
        if let Some(listing) = listings.get(&key) {
            return Arc::clone(listing);
        }
        if listings.len() >= KEPT
            && let Some(any) = listings.keys().next().cloned()
        {
            listings.remove(&any);
        }
        Arc::clone(listings.entry(key).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Namespace, CanonicalName), Listing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
