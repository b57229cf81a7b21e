//! Listings of upstreams: asked for page by page where the upstream can page, else read whole and kept for a while.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{Cache, Error};
use crate::types::{CanonicalName, Digest, Referrer, Tag};

/// Tag lists kept, at most.
const KEPT: usize = 256;

/// Tag lists that were read whole, in byte order, since when.
#[derive(Default)]
pub(super) struct Listings(Mutex<HashMap<CanonicalName, Listing>>);

type Listing = (Instant, Arc<Vec<Tag>>);

/// A page of an upstream's tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPage {
    /// In byte order.
    pub tags: Vec<Tag>,
    /// There are more behind these.
    pub more: bool,
}

impl Cache {
    /// Up to `limit` of the upstream's tags behind `last`. `None`: it has no such repository.
    pub async fn list_tags(
        &self,
        name: &CanonicalName,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Option<TagPage>, Error> {
        if let Some(whole) = self.whole_listing(name) {
            return Ok(Some(page(&whole, last, limit)));
        }
        let (cache, asked, behind) = (self.clone(), name.clone(), last.map(str::to_owned));
        let listed = self.background(async move {
            let upstreams = &cache.0.upstreams;
            let (source, repository) = (asked.source(), asked.repository());
            let first = upstreams
                .page_of_tags(source, repository, behind.as_deref(), limit)
                .await?;
            let Some(first) = first else {
                return Ok::<_, Error>(None);
            };
            let behind = behind.as_deref().unwrap_or_default();
            let ascending = first.tags.is_sorted_by(|a, b| a < b)
                && first.tags.first().is_none_or(|tag| tag.as_str() > behind);
            if ascending && first.tags.len() <= limit {
                return Ok(Some(Ok(TagPage {
                    tags: first.tags,
                    more: first.more,
                })));
            }
            // It has an order of its own, or knows no pages.
            Ok(upstreams.list_tags(source, repository).await?.map(Err))
        });
        match listed.await? {
            None => Ok(None),
            Some(Ok(page)) => Ok(Some(page)),
            Some(Err(mut whole)) => {
                whole.sort_unstable();
                whole.dedup();
                let whole = Arc::new(whole);
                self.keep_listing(name, &whole);
                Ok(Some(page(&whole, last, limit)))
            }
        }
    }

    /// What the upstream knows to be about `subject`.
    pub async fn list_referrers(
        &self,
        name: &CanonicalName,
        subject: &Digest,
    ) -> Result<Vec<Referrer>, Error> {
        let (cache, name, subject) = (self.clone(), name.clone(), subject.clone());
        self.background(async move {
            let upstreams = &cache.0.upstreams;
            Ok(upstreams
                .list_referrers(name.source(), name.repository(), &subject)
                .await?)
        })
        .await
    }

    fn whole_listing(&self, name: &CanonicalName) -> Option<Arc<Vec<Tag>>> {
        let listings = self
            .0
            .listings
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (since, tags) = listings.get(name)?;
        (since.elapsed() < (self.0.tag_ttl)(name)).then(|| Arc::clone(tags))
    }

    fn keep_listing(&self, name: &CanonicalName, tags: &Arc<Vec<Tag>>) {
        let mut listings = self
            .0
            .listings
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listings.retain(|name, (since, _)| since.elapsed() < (self.0.tag_ttl)(name));
        if listings.len() < KEPT {
            listings.insert(name.clone(), (Instant::now(), Arc::clone(tags)));
        }
    }
}

fn page(whole: &[Tag], last: Option<&str>, limit: usize) -> TagPage {
    let start = last.map_or(0, |last| whole.partition_point(|tag| tag.as_str() <= last));
    let end = start.saturating_add(limit).min(whole.len());
    TagPage {
        tags: whole[start..end].to_vec(),
        more: end < whole.len(),
    }
}
