//! Mounting: content of another repository becomes a member of this one, and no byte is copied.

use super::{
    Error, Registry, Target, Wanted,
    access::{Action, Identity},
};
use crate::{
    cache,
    storage::{Holder, Member, Owed, Reason, blocking},
    types::{CanonicalName, Digest, Namespace},
};

impl Registry {
    /// Makes `digest` a member of the repository if it can be had from `from`, or without one from any repository that may
    /// be read (end-11). `false`: it can't, and has to be uploaded.
    pub async fn mount_blob(
        &self,
        target: &Target,
        digest: &Digest,
        from: Option<&Target>,
        reader: &Identity,
    ) -> Result<bool, Error> {
        let here = {
            let (registry, digest, reader) = (self.clone(), digest.clone(), reader.clone());
            let from = from.map(|from| from.name.clone());
            blocking(move || {
                let _pin = registry.0.store.pin(&digest);
                let Some(size) = registry.0.store.stat(&digest)? else {
                    return Ok(None);
                };
                let readable = match from {
                    Some(from) => {
                        reader.may(Action::Pull, &from) && registry.is_member(&from, &digest)?
                    }
                    None => registry.is_readable(&digest, &reader)?,
                };
                if readable {
                    registry.0.store.promise(&digest);
                }
                Ok::<_, Error>(readable.then_some(size))
            })
            .await?
        };
        if let Some(size) = here {
            self.add_mounted(&target.name, digest, size, None).await?;
            return Ok(true);
        }
        let from =
            from.filter(|from| reader.may(Action::Pull, &from.name) && self.may_ask(&from.name));
        let Some(from) = from else { return Ok(false) };
        match self.0.cache.head_blob(&from.name, digest).await {
            Ok(Some(Some(size))) => {
                self.add_mounted(&target.name, digest, size, Some(from.name.clone()))
                    .await?;
                Ok(true)
            }
            // A blob of unknown size can't be promised.
            Ok(Some(None) | None) => Ok(false),
            Err(cache::Error::Upstream(error)) => {
                log::info!(
                    "{}: {digest} is not mounted from {}: {error}",
                    target.name,
                    from.name
                );
                Ok(false)
            }
            Err(error) => Err(super::unavailable(
                from.rule,
                digest.to_string(),
                Wanted::Blob,
                error,
            )),
        }
    }

    /// Whether some repository that `reader` may read holds the content. Blocks.
    pub(super) fn is_readable(&self, digest: &Digest, reader: &Identity) -> Result<bool, Error> {
        let readable = |holder: &Holder| {
            reader.may(Action::Pull, &holder.name)
                && (holder.local || self.has_source(&holder.name))
        };
        Ok(self.0.store.any_holder(digest, readable)?)
    }

    /// Whether the repository may serve the content, here or from its source. Blocks.
    pub(super) fn is_member(&self, name: &CanonicalName, digest: &Digest) -> Result<bool, Error> {
        let store = &self.0.store;
        Ok(store.manifest(Namespace::Local, name, digest)?.is_some()
            || store.membership(Namespace::Local, name, digest)?.is_some()
            || (self.has_source(name)
                && store
                    .membership(Namespace::Upstream, name, digest)?
                    .is_some()))
    }

    async fn add_mounted(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        size: u64,
        source: Option<CanonicalName>,
    ) -> Result<(), Error> {
        let (registry, name, digest) = (self.clone(), name.clone(), digest.clone());
        let job = blocking(move || {
            let store = &registry.0.store;
            let owed = match &source {
                Some(source) => {
                    let owed = Owed {
                        name: source.clone(),
                        digest: digest.clone(),
                        size,
                        manifest: false,
                    };
                    Some((store.owe(&owed)?, owed))
                }
                None => None,
            };
            let member = Member {
                size,
                media_type: None,
                source,
            };
            store.add_member(Namespace::Local, &name, &digest, &Reason::Pushed, &member)?;
            Ok::<_, Error>(owed)
        });
        if let Some((id, owed)) = job.await? {
            self.fetch_owed(id, owed);
        }
        Ok(())
    }
}
