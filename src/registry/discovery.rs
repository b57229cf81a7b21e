//! Finding out what there is: tags, referrers, the catalog. A page costs by its length.

use std::collections::BTreeMap;

use super::{
    Error, Parts, Registry, Target, View, Wanted,
    access::{Action, Identity},
    unavailable,
};
use crate::{
    cache::{self, UpstreamError},
    storage::blocking,
    types::{Digest, Namespace, Referrer, Tag},
};

/// A page of a listing.
#[derive(Debug)]
pub struct Page<T> {
    /// In byte order.
    pub entries: Vec<T>,
    /// There are entries behind these.
    pub more: bool,
    /// Why what the source has is missing from it.
    pub incomplete: Option<UpstreamError>,
}

impl<T> Page<T> {
    /// The first `limit` of `entries`.
    fn cut(
        mut entries: Vec<T>,
        limit: usize,
        more: bool,
        incomplete: Option<UpstreamError>,
    ) -> Self {
        let more = more || entries.len() > limit;
        entries.truncate(limit);
        Self {
            entries,
            more,
            incomplete,
        }
    }
}

impl Registry {
    /// Up to `limit` tags behind `last`: the union of what was pushed here and what the source has (end-8).
    pub async fn list_tags(
        &self,
        target: &Target,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Page<Tag>, Error> {
        let name = &target.name;
        let enough = limit.saturating_add(1);
        let (mut tags, cached, mut known) = {
            let (registry, name, last) = (self.clone(), name.clone(), last.map(str::to_owned));
            blocking(move || {
                let store = &registry.0.store;
                let cached = match registry.has_source(&name) {
                    true => store.tags(Namespace::Upstream, &name, last.as_deref(), enough)?,
                    false => Vec::new(),
                };
                let known = store.is_known(Namespace::Local, &name)?
                    || (registry.has_source(&name)
                        && store.is_known(Namespace::Upstream, &name)?);
                let local = store.tags(Namespace::Local, &name, last.as_deref(), enough)?;
                Ok::<_, Error>((local, cached, known))
            })
            .await?
        };
        let mut more = false;
        let mut incomplete = None;
        let asked = match self.may_ask(name) {
            true => Some(self.0.cache.list_tags(name, last, limit).await),
            false => None,
        };
        match asked {
            Some(Ok(Some(page))) => {
                // Its page may be shorter than what was asked for: what it has next comes before ours behind it.
                if let Some(end) = page.tags.last().filter(|_| page.more) {
                    tags.retain(|tag| tag <= end);
                }
                tags.extend(page.tags);
                more = page.more;
                known = true;
            }
            Some(Ok(None)) => {}
            // What was heard of before the outage can still be pulled, or will be again.
            Some(Err(cache::Error::Upstream(error))) if known => {
                incomplete = Some(error);
                tags.extend(cached);
            }
            None => tags.extend(cached),
            Some(Err(error)) => {
                let what = format!("{name}, the list of its tags,");
                return Err(unavailable(target.rule, what, Wanted::Repository, error));
            }
        }
        if !known {
            return Err(Error::NameUnknown(format!(
                "there is no repository {name}{}",
                self.why_not_asked(name)
            )));
        }
        tags.sort_unstable();
        tags.dedup();
        Ok(Page::cut(tags, limit, more, incomplete))
    }

    /// What is about `subject`, behind the digest `last`, of one artifact type if `artifact_type` is given (end-12).
    pub async fn list_referrers(
        &self,
        target: &Target,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: Option<&Digest>,
        limit: usize,
    ) -> Result<Page<Referrer>, Error> {
        let name = &target.name;
        let local = {
            let (registry, name, subject) = (self.clone(), name.clone(), subject.clone());
            blocking(move || {
                registry
                    .0
                    .store
                    .referrers(Namespace::Local, &name, &subject)
            })
            .await?
        };
        let mut incomplete = None;
        let mut found: BTreeMap<Digest, Referrer> = BTreeMap::new();
        if self.may_ask(name) {
            match self.0.cache.list_referrers(name, subject).await {
                Ok(upstream) => found.extend(
                    upstream
                        .into_iter()
                        .map(|referrer| (referrer.digest.clone(), referrer)),
                ),
                Err(cache::Error::Upstream(error)) => incomplete = Some(error),
                Err(error) => {
                    return Err(unavailable(
                        target.rule,
                        format!("{name}, referrers,"),
                        Wanted::Repository,
                        error,
                    ));
                }
            }
        }
        found.extend(
            local
                .into_iter()
                .map(|referrer| (referrer.digest.clone(), referrer)),
        );
        let wanted = |referrer: &Referrer| {
            artifact_type.is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted))
                && last.is_none_or(|last| referrer.digest > *last)
        };
        let entries = found.into_values().filter(wanted).collect();
        Ok(Page::cut(entries, limit, false, incomplete))
    }

    /// Up to `limit` names behind `last` of what was pushed here and may be read, as the client writes them.
    pub async fn list_repositories(
        &self,
        view: &View,
        last: Option<&str>,
        limit: usize,
        reader: &Identity,
    ) -> Result<Page<String>, Error> {
        let (registry, view) = (self.clone(), view.clone());
        let (last, reader) = (last.map(str::to_owned), reader.clone());
        let entries = blocking(move || {
            let Parts { catalog, store, .. } = &*registry.0;
            catalog.behind(
                store,
                &view,
                last.as_deref(),
                limit.saturating_add(1),
                |name| reader.may(Action::Pull, name),
            )
        });
        Ok(Page::cut(entries.await?, limit, false, None))
    }
}
