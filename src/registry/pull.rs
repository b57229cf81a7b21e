//! Pulling: who answers, `_local`, the cache or the upstream.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Body, Error, PulledManifest, Registry, Target, Want, Wanted, unavailable};
use crate::{
    activity::{Asked, FoundManifest, Part},
    cache::Patience,
    metrics::{self, Origin},
    storage::{Content, Member, Membership, Reason, blocking},
    types::{CanonicalName, Digest, Namespace, Reference},
};

impl Registry {
    /// A manifest by tag or digest (end-3), and as what its bytes are sent.
    pub async fn pull_manifest(
        &self,
        target: &Target,
        reference: &Reference,
        want: Want,
    ) -> Result<(PulledManifest, Part), Error> {
        let began = Instant::now();
        let found = self.find_manifest(target, reference, want).await;
        let activity = &self.0.activity;
        let metrics = activity.metrics();
        let asked = |waited| Asked {
            name: &target.name,
            at: began,
            waited,
        };
        match found {
            Ok(manifest) => {
                let asked = asked(manifest.waited);
                let Some(bytes) = &manifest.bytes else {
                    activity.described(asked, reference, &manifest.digest);
                    return Ok((manifest, Part::none()));
                };
                metrics.answered(metrics::Content::Manifest, manifest.origin);
                let found = FoundManifest {
                    reference,
                    digest: &manifest.digest,
                    media_type: manifest.entry.media_type.as_str(),
                    bytes,
                    origin: manifest.origin,
                };
                let part = activity.manifest(asked, found);
                Ok((manifest, part))
            }
            Err(error) => {
                let origin = missing(&error);
                if want == Want::Bytes {
                    metrics.answered(metrics::Content::Manifest, origin);
                }
                // Whoever pushes asks first whether it is there: that it is not is nothing to be told.
                if want == Want::Bytes || origin == Origin::Failed {
                    let asked = asked(self.waited(&target.name, began));
                    activity.missed(asked, reference, origin, &error.to_string());
                }
                Err(error)
            }
        }
    }

    /// For how long the name's source was waited for, of the time since `began`.
    fn waited(&self, name: &CanonicalName, began: Instant) -> Duration {
        match self.may_ask(name) {
            true => began.elapsed(),
            false => Duration::ZERO,
        }
    }

    async fn find_manifest(
        &self,
        target: &Target,
        reference: &Reference,
        want: Want,
    ) -> Result<PulledManifest, Error> {
        let name = &target.name;
        let local = self.local_manifest(name, reference, want).await?;
        // A digest means the same bytes everywhere, so only tags can be hidden.
        let local_first = self.shadows(name) || matches!(reference, Reference::Digest(_));
        if local_first && let Some(manifest) = local.manifest {
            self.note_shadow(name, reference);
            let origin = match self.has_source(name) {
                true => Origin::Shadow,
                false => Origin::Local,
            };
            return Ok(PulledManifest { origin, ..manifest });
        }
        let of_source = self.source_manifest(target, reference, want, local.name_is_known);
        if let Some(manifest) = of_source.await? {
            return Ok(manifest);
        }
        if let Some(manifest) = local.manifest {
            return Ok(manifest);
        }
        Err(Error::ManifestUnknown(format!(
            "{name} has no manifest {reference}{}",
            self.why_not_asked(name)
        )))
    }

    async fn source_manifest(
        &self,
        target: &Target,
        reference: &Reference,
        want: Want,
        name_is_known: bool,
    ) -> Result<Option<PulledManifest>, Error> {
        let name = &target.name;
        let what = || format!("{name}, manifest {reference},");
        if !self.may_ask(name) {
            if !self.has_source(name) {
                return Ok(None);
            }
            let held = self.0.cache.held_manifest(name, reference, want).await;
            return held.map_err(|error| unavailable(target.rule, what(), Wanted::Manifest, error));
        }
        // A push asks for the manifest first, and must neither fail nor wait because an upstream does.
        let may_be_push = want == Want::Description && name_is_known;
        let patience = if may_be_push {
            Patience::Once
        } else {
            Patience::Full
        };
        let asked = self.0.cache.manifest(name, reference, want, patience).await;
        match asked {
            Err(error) if may_be_push => {
                log::info!("{name}: {reference} is taken as absent, since {error}");
                Ok(None)
            }
            asked => {
                asked.map_err(|error| unavailable(target.rule, what(), Wanted::Manifest, error))
            }
        }
    }

    async fn local_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
    ) -> Result<LocalManifest, Error> {
        let (registry, name, reference) = (self.clone(), name.clone(), reference.clone());
        blocking(move || {
            let store = &registry.0.store;
            let manifest = registry.look_for_manifest(&name, reference, want)?;
            // Who is given the manifest does not ask.
            let name_is_known = want == Want::Description
                && manifest.is_none()
                && store.is_known(Namespace::Local, &name)?;
            Ok(LocalManifest {
                manifest,
                name_is_known,
            })
        })
        .await
    }

    /// Blocks.
    fn look_for_manifest(
        &self,
        name: &CanonicalName,
        reference: Reference,
        want: Want,
    ) -> Result<Option<PulledManifest>, Error> {
        let store = &self.0.store;
        let digest = match reference {
            Reference::Digest(digest) => digest,
            Reference::Tag(tag) => match store.tag(Namespace::Local, name, &tag)? {
                Some(entry) => entry.digest,
                None => return Ok(None),
            },
        };
        let Some(entry) = store.manifest(Namespace::Local, name, &digest)? else {
            return Ok(None);
        };
        let Some(content) = store.content(&digest)? else {
            return Ok(None);
        };
        let bytes: Option<Bytes> = match want {
            Want::Description => None,
            Want::Bytes => Some(content.read()?),
        };
        Ok(Some(PulledManifest {
            digest,
            entry,
            bytes,
            stale: None,
            waited: Duration::ZERO,
            origin: Origin::Local,
        }))
    }

    /// Size of a blob (end-2, HEAD). Never asks an upstream: this is nearly always a push that wants to know what it may
    /// leave out.
    pub async fn stat_blob(&self, target: &Target, digest: &Digest) -> Result<u64, Error> {
        let held = self.held_blob(&target.name, digest).await?;
        if let Some(content) = held
            .content
            .filter(|_| held.local.is_some() || held.source.is_some())
        {
            // While it is open it is not evicted, and from here on it is promised.
            self.0.store.promise(digest);
            return Ok(content.size());
        }
        match held.source {
            Some(source) if source.named && self.may_ask(&target.name) => {
                self.0.store.promise(digest);
                Ok(source.member.size)
            }
            _ => Err(Error::BlobUnknown(format!(
                "{} has no blob {digest}{}",
                target.name,
                self.why_not_asked(&target.name)
            ))),
        }
    }

    /// A blob's bytes (end-2, GET), and as what they are sent.
    pub async fn pull_blob(&self, target: &Target, digest: &Digest) -> Result<(Body, Part), Error> {
        let began = Instant::now();
        let found = self.find_blob(target, digest).await;
        let activity = &self.0.activity;
        let origin = match &found {
            Ok((origin, _)) => *origin,
            Err(error) => missing(error),
        };
        activity.metrics().answered(metrics::Content::Blob, origin);
        let asked = Asked {
            name: &target.name,
            at: began,
            waited: match origin {
                Origin::Upstream => began.elapsed(),
                Origin::Nowhere | Origin::Failed => self.waited(&target.name, began),
                Origin::Local | Origin::Shadow | Origin::Cache | Origin::Stale => Duration::ZERO,
            },
        };
        match found {
            Ok((_, body)) => Ok((body, activity.blob(asked, digest, origin))),
            Err(error) => {
                activity.missed_blob(asked, digest, origin, &error.to_string());
                Err(error)
            }
        }
    }

    async fn find_blob(&self, target: &Target, digest: &Digest) -> Result<(Origin, Body), Error> {
        let name = &target.name;
        let failed = |error| {
            unavailable(
                target.rule,
                format!("{name}, blob {digest},"),
                Wanted::Blob,
                error,
            )
        };
        let unknown = || {
            Error::BlobUnknown(format!(
                "{name} has no blob {digest}{}",
                self.why_not_asked(name)
            ))
        };
        let held = self.held_blob(name, digest).await?;
        let here = match &held.local {
            Some(_) => Origin::Local,
            None => Origin::Cache,
        };
        let member = held
            .local
            .or(held.source)
            .map(|membership| membership.member);
        match (held.content, member) {
            (Some(content), Some(_)) => Ok((here, Body::stored(content))),
            (
                None,
                Some(Member {
                    size,
                    source: Some(source),
                    ..
                }),
            ) if self.may_ask(&source) => {
                let body = self.0.cache.blob(&source, digest, Some(size)).await;
                let body = body.map_err(failed)?.ok_or_else(unknown)?;
                Ok((Origin::Upstream, body))
            }
            _ if !self.may_ask(name) => Err(unknown()),
            (Some(content), None) => {
                // Its bytes came by another name; whether this one may serve them is for its source to say.
                self.0
                    .cache
                    .head_blob(name, digest)
                    .await
                    .map_err(failed)?
                    .ok_or_else(unknown)?;
                if !self.0.cache.keeps(name) {
                    return Ok((here, Body::stored(content)));
                }
                let member = Member {
                    size: content.size(),
                    media_type: None,
                    source: None,
                };
                let (registry, name, digest) = (self.clone(), name.clone(), digest.clone());
                let remembered = blocking(move || {
                    registry.0.store.add_member(
                        Namespace::Upstream,
                        &name,
                        &digest,
                        &Reason::Pulled,
                        &member,
                    )
                });
                if let Err(error) = remembered.await {
                    log::warn!("{}: {error}", target.name);
                }
                Ok((here, Body::stored(content)))
            }
            (None, member) => {
                let expected = member.map(|member| member.size);
                let body = self.0.cache.blob(name, digest, expected).await;
                let body = body.map_err(failed)?.ok_or_else(unknown)?;
                Ok((Origin::Upstream, body))
            }
        }
    }

    /// Returns when byte `at` of a body can be read, or after a while in which it may still come. A client that goes on in
    /// the middle of a blob is often one whose body broke off: while its upstream is still failing it must hear that,
    /// before the headers, so that it can go to its next host.
    pub async fn await_byte(
        &self,
        target: &Target,
        digest: &Digest,
        body: &mut Body,
        at: u64,
    ) -> Result<(), Error> {
        body.await_byte(at, MIDDLE_PATIENCE).await.map_err(|error| {
            let what = format!("{}, blob {digest},", target.name);
            unavailable(target.rule, what, Wanted::Blob, error)
        })
    }

    async fn held_blob(&self, name: &CanonicalName, digest: &Digest) -> Result<HeldBlob, Error> {
        let (registry, name, digest) = (self.clone(), name.clone(), digest.clone());
        blocking(move || {
            let store = &registry.0.store;
            let local = store.membership(Namespace::Local, &name, &digest)?;
            let source = match registry.has_source(&name) {
                true => store.membership(Namespace::Upstream, &name, &digest)?,
                false => None,
            };
            Ok(HeldBlob {
                local,
                source,
                content: store.content(&digest)?,
            })
        })
        .await
    }

    /// For messages of absence: that the source was not asked, and why.
    pub(super) fn why_not_asked(&self, name: &CanonicalName) -> String {
        let source = name.source();
        if !self.0.cache.is_configured(source) {
            return format!(
                " in standin, and {source} is no configured registry: it is never asked (see --registry)"
            );
        }
        if !self.has_source(name) {
            return format!(" in standin, and --local-only keeps {source} from being asked");
        }
        if self.0.rules.offline {
            format!(" in standin, and --offline keeps {source} from being asked")
        } else {
            format!(", neither in standin nor at {source}")
        }
    }
}

/// Longer than a body that breaks off at once is asked for again, and shorter than clients wait for headers.
const MIDDLE_PATIENCE: Duration = Duration::from_secs(10);

/// What `_local` has to say to a request for a manifest.
struct LocalManifest {
    manifest: Option<PulledManifest>,
    /// `_local` holds something under the name, though not this.
    name_is_known: bool,
}

/// What an answer without content counts as.
fn missing(error: &Error) -> Origin {
    match error {
        Error::ManifestUnknown(_) | Error::BlobUnknown(_) => Origin::Nowhere,
        _ => Origin::Failed,
    }
}

/// All that is known here of a blob under one name.
struct HeldBlob {
    local: Option<Membership>,
    source: Option<Membership>,
    content: Option<Content>,
}
