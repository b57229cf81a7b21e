//! Pulling: who answers, `_local`, the cache or the upstream.

use bytes::Bytes;

use super::{Body, Error, PulledManifest, Registry, Target, Want, Wanted, unavailable};
use crate::{
    storage::{Content, Member, Membership, Reason, blocking},
    types::{CanonicalName, Digest, Namespace, Reference},
};

impl Registry {
    /// A manifest by tag or digest (end-3).
    pub async fn pull_manifest(
        &self,
        target: &Target,
        reference: &Reference,
        want: Want,
    ) -> Result<PulledManifest, Error> {
        let name = &target.name;
        // A digest means the same bytes everywhere, so only tags can be hidden.
        let local_first = self.shadows(name) || matches!(reference, Reference::Digest(_));
        if local_first && let Some(manifest) = self.local_manifest(name, reference, want).await? {
            self.note_shadow(name, reference);
            return Ok(manifest);
        }
        if let Some(manifest) = self.source_manifest(target, reference, want).await? {
            return Ok(manifest);
        }
        if !local_first && let Some(manifest) = self.local_manifest(name, reference, want).await? {
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
    ) -> Result<Option<PulledManifest>, Error> {
        let name = &target.name;
        let what = || format!("{name}, manifest {reference},");
        if !self.may_ask(name) {
            if !self.has_source(name) {
                return Ok(None);
            }
            let held = self.0.cache.held_manifest(name, reference).await;
            return held.map_err(|error| unavailable(target.rule, what(), Wanted::Manifest, error));
        }
        let error = match self.0.cache.manifest(name, reference, want).await {
            Ok(manifest) => return Ok(manifest),
            Err(error) => error,
        };
        // A push asks for the manifest first and must not fail because an upstream does.
        if want == Want::Description {
            let (registry, name) = (self.clone(), name.clone());
            if blocking(move || registry.0.store.is_known(Namespace::Local, &name)).await? {
                log::info!(
                    "{}: {reference} is taken as absent, since {error}",
                    target.name
                );
                return Ok(None);
            }
        }
        Err(unavailable(target.rule, what(), Wanted::Manifest, error))
    }

    async fn local_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
    ) -> Result<Option<PulledManifest>, Error> {
        let (registry, name, reference) = (self.clone(), name.clone(), reference.clone());
        blocking(move || {
            let store = &registry.0.store;
            let digest = match reference {
                Reference::Digest(digest) => digest,
                Reference::Tag(tag) => match store.tag(Namespace::Local, &name, &tag)? {
                    Some(entry) => entry.digest,
                    None => return Ok(None),
                },
            };
            let Some(entry) = store.manifest(Namespace::Local, &name, &digest)? else {
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
            }))
        })
        .await
    }

    /// Size of a blob (end-2, HEAD). Never asks an upstream: this is nearly always a push that wants to know what it may
    /// leave out.
    pub async fn stat_blob(&self, target: &Target, digest: &Digest) -> Result<u64, Error> {
        let held = self.held_blob(&target.name, digest).await?;
        if let Some(content) = held
            .content
            .filter(|_| held.local.is_some() || held.source.is_some())
        {
            return Ok(content.size());
        }
        match held.source {
            Some(source) if source.named && self.may_ask(&target.name) => Ok(source.member.size),
            _ => Err(Error::BlobUnknown(format!(
                "{} has no blob {digest}{}",
                target.name,
                self.why_not_asked(&target.name)
            ))),
        }
    }

    /// A blob's bytes (end-2, GET).
    pub async fn pull_blob(&self, target: &Target, digest: &Digest) -> Result<Body, Error> {
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
        let member = held
            .local
            .or(held.source)
            .map(|membership| membership.member);
        match (held.content, member) {
            (Some(content), Some(_)) => Ok(Body::stored(content)),
            (
                None,
                Some(Member {
                    size,
                    source: Some(source),
                    ..
                }),
            ) if self.may_ask(&source) => {
                let body = self.0.cache.blob(&source, digest, Some(size)).await;
                body.map_err(failed)?.ok_or_else(unknown)
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
                Ok(Body::stored(content))
            }
            (None, member) => {
                let expected = member.map(|member| member.size);
                self.0
                    .cache
                    .blob(name, digest, expected)
                    .await
                    .map_err(failed)?
                    .ok_or_else(unknown)
            }
        }
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

/// All that is known here of a blob under one name.
struct HeldBlob {
    local: Option<Membership>,
    source: Option<Membership>,
    content: Option<Content>,
}
