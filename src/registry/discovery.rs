//! Finding out what there is: tags, referrers, the catalog. A page costs by its length.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, PoisonError},
};

use super::{
    Error, Registry, Target, Wanted,
    access::{Action, Identity},
    unavailable,
};
use crate::{
    cache::{self, UpstreamError},
    storage::blocking,
    types::{CanonicalName, Digest, Namespace, Referrer, RegistryHost, RepositoryName, Tag},
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

/// Whose repositories a client sees, and how they are written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// The client believes it talks to this registry.
    Source(RegistryHost),
    /// The client talks to us: names of the default registry stand for themselves, others begin with their registry.
    Everything,
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
        let named = blocking(move || registry.shown(&view)).await?;
        let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = named
            .range::<str, _>((behind, Bound::Unbounded))
            .filter(|(_, name)| reader.may(Action::Pull, name))
            .map(|(shown, _)| shown.clone())
            .take(limit.saturating_add(1))
            .collect();
        Ok(Page::cut(entries, limit, false, None))
    }

    /// The catalog as a view shows it, in the order of the shown names. Made anew when the catalog has changed.
    fn shown(&self, view: &View) -> Result<Arc<BTreeMap<String, CanonicalName>>, Error> {
        let default = &self.0.rules.sources.default;
        let catalog = self.0.store.catalog()?;
        let mut views = self.0.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_from, shown)) = views.get(view)
            && Arc::ptr_eq(made_from, &catalog)
        {
            return Ok(Arc::clone(shown));
        }
        let show = |name: &CanonicalName| match view {
            View::Source(source) => {
                (name.source() == source).then(|| name.repository().to_string())
            }
            View::Everything
                if name.source() == default && !names_a_registry(name.repository()) =>
            {
                Some(name.repository().to_string())
            }
            View::Everything => Some(name.to_string()),
        };
        let shown: BTreeMap<String, CanonicalName> = catalog
            .iter()
            .filter_map(|name| Some((show(name)?, name.clone())))
            .collect();
        let shown = Arc::new(shown);
        if views.len() >= VIEWS {
            views.clear();
        }
        views.insert(view.clone(), (catalog, Arc::clone(&shown)));
        Ok(shown)
    }
}

/// What each view shows, and the catalog it was made from.
pub(super) type Views = HashMap<
    View,
    (
        Arc<BTreeSet<CanonicalName>>,
        Arc<BTreeMap<String, CanonicalName>>,
    ),
>;

/// Views kept, at most: one for each registry that clients believe they talk to.
const VIEWS: usize = 64;

/// Whether a repository's name alone would be read as one of another registry.
fn names_a_registry(name: &RepositoryName) -> bool {
    name.split_first().is_some_and(|(first, _)| {
        RegistryHost::from_component(first).is_some_and(|host| host.looks_like_host())
    })
}
