//! Manifests: what the store holds of them, and one question to the upstream for all who ask the same at once.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use tokio::sync::oneshot;

use super::{
    Cache, Cause, Effort, Error, Patience, PulledManifest, UpstreamError, Want, fill::interrupted,
};
use crate::{
    metrics::Origin,
    storage::{self, ManifestEntry, TagEntry, blocking},
    types::{
        Algorithm, CanonicalName, Digest, Manifest, Namespace, Reference, Role, Tag,
        manifest::is_json_object,
    },
};

/// Questions under way.
pub(super) type Flights = Mutex<HashMap<Question, Flight>>;

type Question = (CanonicalName, Reference, Want, Patience);

pub(super) type Flight = Shared<BoxFuture<'static, Result<Option<PulledManifest>, Error>>>;

impl Cache {
    /// Asks the upstream, once for all who want the same thing at this moment.
    pub(super) fn flight(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
        patience: Patience,
    ) -> Flight {
        let key = (name.clone(), reference.clone(), want, patience);
        let (landed, answer) = oneshot::channel();
        let flight = {
            let name = name.clone();
            async move { answer.await.unwrap_or_else(|_| Err(interrupted(&name))) }
        };
        let flight = flight.boxed().shared();
        match self.flights().entry(key.clone()) {
            Entry::Occupied(under_way) => return under_way.get().clone(),
            Entry::Vacant(free) => free.insert(flight.clone()),
        };
        // The board is free again: a runtime that is going down drops what it is given at once, and that takes the board.
        let landing = Landing {
            cache: self.clone(),
            key,
        };
        let (cache, name, reference) = (self.clone(), name.clone(), reference.clone());
        self.0.runtime.spawn(async move {
            let result = cache.ask(&name, &reference, want, patience.into()).await;
            if let Ok(None) = result {
                cache.0.absences.note(&name, &reference, Instant::now());
            }
            // First off the board, then the news: whoever comes later asks anew.
            drop(landing);
            let _ = landed.send(result);
        });
        flight
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Question, Flight>> {
        self.0
            .manifests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
        effort: Effort,
    ) -> Result<Option<PulledManifest>, Error> {
        let Reference::Tag(tag) = reference else {
            return self.ask_by_digest(name, reference, want, effort).await;
        };
        let (known, young) = {
            let (cache, name, reference) = (self.clone(), name.clone(), reference.clone());
            blocking(move || {
                let young = Freshness::Within((cache.0.tag_ttl)(&name));
                let described =
                    |freshness| cache.held(&name, &reference, Want::Description, freshness);
                Ok::<_, Error>((described(Freshness::Any)?, described(young)?))
            })
            .await?
        };
        // A HEAD told a moment ago what the tag is.
        if want == Want::Bytes
            && let Some(young) = young
        {
            let by_digest = Reference::Digest(young.digest);
            let fetched = self.fetch(name, &by_digest, want, effort).await?;
            if fetched.is_some() {
                return Ok(fetched);
            }
        }
        // GET counts against an upstream's pull limit, HEAD does not.
        if known.is_none() && want == Want::Bytes {
            return self.fetch(name, reference, want, effort).await;
        }
        let (source, repository) = (name.source(), name.repository());
        let upstreams = &self.0.upstreams;
        let remote = match upstreams
            .head_manifest(source, repository, reference, effort)
            .await
        {
            Ok(remote) => remote,
            // There are registries that know no HEAD of a manifest.
            Err(error) if matches!(error.cause.essence(), Cause::Status(405 | 501)) => {
                return self.fetch(name, reference, want, effort).await;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(remote) = remote else {
            let (cache, name, tag) = (self.clone(), name.clone(), tag.clone());
            let forgotten =
                blocking(move || cache.0.store.delete_tag(Namespace::Upstream, &name, &tag)).await;
            if let Err(error) = forgotten {
                log::warn!("a tag that its upstream has no more is kept: {error}");
            }
            return Ok(None);
        };
        let Some(digest) = remote.digest else {
            return self.fetch(name, reference, want, effort).await;
        };
        let entry = match (
            known.filter(|known| known.digest == digest),
            remote.media_type,
            remote.size,
        ) {
            (Some(known), _, _) => Some(known.entry),
            (None, Some(media_type), Some(size)) => Some(ManifestEntry { media_type, size }),
            _ => None,
        };
        self.remember_tag(name, tag, &digest, entry.clone()).await;
        if let Some(entry) = entry
            && want == Want::Description
        {
            return Ok(Some(PulledManifest {
                digest,
                entry,
                bytes: None,
                stale: None,
                waited: Duration::ZERO,
                origin: Origin::Upstream,
            }));
        }
        let by_digest = Reference::Digest(digest);
        let held = {
            let (cache, name, reference) = (self.clone(), name.clone(), by_digest.clone());
            blocking(move || cache.held(&name, &reference, want, Freshness::Any)).await?
        };
        match held {
            Some(manifest) => Ok(Some(manifest)),
            None => self.fetch(name, &by_digest, want, effort).await,
        }
    }

    async fn ask_by_digest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
        effort: Effort,
    ) -> Result<Option<PulledManifest>, Error> {
        let Reference::Digest(digest) = reference else {
            return Ok(None);
        };
        if want == Want::Bytes {
            return self.fetch(name, reference, want, effort).await;
        }
        let remote = self
            .0
            .upstreams
            .head_manifest(name.source(), name.repository(), reference, effort)
            .await?;
        let Some(remote) = remote else {
            return Ok(None);
        };
        match (remote.media_type, remote.size) {
            (Some(media_type), Some(size)) => {
                let entry = ManifestEntry { media_type, size };
                Ok(Some(PulledManifest {
                    digest: digest.clone(),
                    entry,
                    bytes: None,
                    stale: None,
                    waited: Duration::ZERO,
                    origin: Origin::Upstream,
                }))
            }
            _ => self.fetch(name, reference, want, effort).await,
        }
    }

    /// GETs the manifest, verifies it, and keeps it if the store can.
    async fn fetch(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
        effort: Effort,
    ) -> Result<Option<PulledManifest>, Error> {
        let fetched = self
            .0
            .upstreams
            .get_manifest(name.source(), name.repository(), reference, effort)
            .await?;
        let Some(fetched) = fetched else {
            return Ok(None);
        };
        let claimed = match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => fetched.digest,
        };
        let algorithm = claimed
            .as_ref()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of(algorithm, &fetched.bytes);
        if let Some(wanted) = claimed.filter(|claimed| *claimed != digest) {
            let cause = Cause::DigestMismatch {
                wanted,
                found: digest,
            };
            let error = UpstreamError::new(name.source(), cause);
            self.note_trouble(&error);
            return Err(error.into());
        }
        if !is_json_object(&fetched.bytes) {
            let content_type = fetched
                .content_type
                .unwrap_or_else(|| "something".to_owned());
            let cause = Cause::Protocol(format!(
                "it answered with {content_type}, which is no manifest"
            ));
            let error = UpstreamError::new(name.source(), cause);
            self.note_trouble(&error);
            return Err(error.into());
        }
        let manifest = Manifest::pulled(&fetched.bytes, fetched.content_type.as_deref());
        let entry = ManifestEntry {
            media_type: manifest.media_type.clone(),
            size: fetched.bytes.len() as u64,
        };
        let kept = {
            let (cache, name, digest, bytes) = (
                self.clone(),
                name.clone(),
                digest.clone(),
                fetched.bytes.clone(),
            );
            blocking(move || cache.keep_manifest(&name, &digest, &bytes, &manifest)).await
        };
        match reference {
            Reference::Tag(tag) => {
                log::debug!("{name}: {tag} fetched from {}, {digest}", name.source());
            }
            Reference::Digest(_) => log::debug!("{name}: {digest} fetched from {}", name.source()),
        }
        match (kept, reference) {
            (Err(error), _) => {
                log::warn!("{name}: the manifest {digest} is passed on without being kept: {error}")
            }
            (Ok(()), Reference::Tag(tag)) => {
                self.remember_tag(name, tag, &digest, Some(entry.clone()))
                    .await
            }
            (Ok(()), Reference::Digest(_)) => {}
        }
        let bytes = (want == Want::Bytes).then_some(fetched.bytes);
        Ok(Some(PulledManifest {
            digest,
            entry,
            bytes,
            stale: None,
            waited: Duration::ZERO,
            origin: Origin::Upstream,
        }))
    }

    /// Records what the upstream just said a tag is. Without it the upstream is only asked again sooner.
    async fn remember_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        digest: &Digest,
        manifest: Option<ManifestEntry>,
    ) {
        if !self.keeps(name) {
            return;
        }
        let mut entry = TagEntry {
            digest: digest.clone(),
            manifest,
            checked: Some(now()),
            previous: None,
        };
        let (cache, canonical, tag) = (self.clone(), name.clone(), tag.clone());
        let kept = blocking(move || {
            let store = &cache.0.store;
            let is_held = |digest: &Digest| {
                let held = store.manifest(Namespace::Upstream, &canonical, digest)?;
                Ok::<_, storage::Error>(held.is_some())
            };
            // Until the new manifest is here, an outage must find the old one.
            if !is_held(&entry.digest)?
                && let Some(before) = store.tag(Namespace::Upstream, &canonical, &tag)?
            {
                entry.previous = match is_held(&before.digest)? {
                    true => Some(before.digest),
                    false => before.previous,
                };
            }
            store.put_tag(Namespace::Upstream, &canonical, &tag, &entry)
        })
        .await;
        if let Err(error) = kept {
            log::warn!("{name}: what its tag names is not kept: {error}");
        }
    }

    /// What the store has. Blocks.
    pub(super) fn held(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
        freshness: Freshness,
    ) -> Result<Option<PulledManifest>, Error> {
        let store = &self.0.store;
        let (digest, described) = match reference {
            Reference::Digest(digest) => (digest.clone(), None),
            Reference::Tag(tag) => match store.tag(Namespace::Upstream, name, tag)? {
                Some(entry) if freshness.allows(entry.checked) => (entry.digest, entry.manifest),
                _ => return Ok(None),
            },
        };
        if let Some(entry) = store.manifest(Namespace::Upstream, name, &digest)?
            && let Some(content) = store.content(&digest)?
        {
            self.note_use(name, &digest);
            let bytes = match want {
                Want::Description => None,
                Want::Bytes => Some(content.read()?),
            };
            return Ok(Some(PulledManifest {
                digest,
                entry,
                bytes,
                stale: None,
                waited: Duration::ZERO,
                origin: Origin::Cache,
            }));
        }
        match described {
            Some(entry) if want == Want::Description => Ok(Some(PulledManifest {
                digest,
                entry,
                bytes: None,
                stale: None,
                waited: Duration::ZERO,
                origin: Origin::Cache,
            })),
            _ => Ok(None),
        }
    }

    /// What the store has, however old, and can give out whole. Blocks.
    pub(super) fn usable(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
    ) -> Result<Option<PulledManifest>, Error> {
        let (latest, previous) = match reference {
            Reference::Digest(digest) => (digest.clone(), None),
            Reference::Tag(tag) => match self.0.store.tag(Namespace::Upstream, name, tag)? {
                Some(entry) => (entry.digest, entry.previous),
                None => return Ok(None),
            },
        };
        for digest in [Some(latest), previous].into_iter().flatten() {
            let by_digest = Reference::Digest(digest);
            if let Some(manifest) = self.held(name, &by_digest, Want::Bytes, Freshness::Any)?
                && self.is_usable(&manifest, 0)?
            {
                let bytes = manifest.bytes.filter(|_| want == Want::Bytes);
                return Ok(Some(PulledManifest { bytes, ..manifest }));
            }
        }
        Ok(None)
    }

    /// Whether a client that is given this manifest can be given the rest. Blocks.
    fn is_usable(&self, manifest: &PulledManifest, depth: usize) -> Result<bool, Error> {
        const DEEPEST: usize = 8;
        let store = &self.0.store;
        let largest = self.0.upstreams.manifest_limit() as u64;
        let Some(bytes) = &manifest.bytes else {
            return Ok(false);
        };
        let parsed = Manifest::pulled(bytes, Some(manifest.entry.media_type.as_str()));
        let mut children = 0;
        for reference in &parsed.references {
            match reference.role {
                Role::NonDistributable => {}
                Role::Blob if store.stat(&reference.digest)?.is_none() => return Ok(false),
                Role::Blob => {}
                Role::Manifest => {
                    children += 1;
                    let Some(content) = store
                        .content(&reference.digest)?
                        .filter(|content| depth < DEEPEST && content.size() <= largest)
                    else {
                        continue;
                    };
                    let media_type = reference
                        .media_type
                        .clone()
                        .unwrap_or_else(|| parsed.media_type.clone());
                    let entry = ManifestEntry {
                        media_type,
                        size: content.size(),
                    };
                    let child = PulledManifest {
                        digest: reference.digest.clone(),
                        entry,
                        bytes: Some(content.read()?),
                        stale: None,
                        waited: Duration::ZERO,
                        origin: Origin::Cache,
                    };
                    if self.is_usable(&child, depth + 1)? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(children == 0)
    }
}

/// Takes a flight off the board when it ends, however it ends.
struct Landing {
    cache: Cache,
    key: Question,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.cache.flights().remove(&self.key);
    }
}

#[derive(Clone, Copy)]
pub(super) enum Freshness {
    Any,
    Within(Duration),
}

impl Freshness {
    fn allows(self, checked: Option<u64>) -> bool {
        match (self, checked) {
            (Self::Any, _) => true,
            (Self::Within(_), None) => false,
            // A clock that was set back makes an entry old, not fresh for ever.
            (Self::Within(limit), Some(checked)) => now()
                .checked_sub(checked)
                .is_some_and(|age| u128::from(age) < limit.as_millis()),
        }
    }
}

/// Milliseconds since the epoch.
fn now() -> u64 {
    let elapsed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
