//! What a manifest must bring: everything it names is here, or is had by the name's source.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::{Error, Registry, Rule, UpstreamError, Wanted, access::Identity, unavailable};
use crate::{
    cache::{self, HEADER_BUDGET},
    storage::{Owed, blocking},
    types::{CanonicalName, Descriptor, Digest, Manifest, Namespace, Role},
};

impl Registry {
    /// Looks for everything that is named, and for what the children among it name. What only other repositories hold is
    /// taken for `pusher` if they may read one of those; without a pusher the name's upstream vouches for it.
    pub(super) async fn needs(
        &self,
        name: &CanonicalName,
        references: &[Descriptor],
        pusher: Option<&Identity>,
    ) -> Result<Needs, Error> {
        let mut needs = Needs::default();
        let mut seen: HashSet<Digest> = HashSet::new();
        let mut queue: Vec<Descriptor> = references.to_vec();
        let mut absent = Vec::new();
        while !queue.is_empty() {
            queue.retain(|wanted| {
                wanted.role != Role::NonDistributable && seen.insert(wanted.digest.clone())
            });
            let (registry, canonical, wanted) =
                (self.clone(), name.clone(), std::mem::take(&mut queue));
            let pusher = pusher.cloned();
            let looked = blocking(move || {
                wanted
                    .into_iter()
                    .map(|wanted| registry.look(&canonical, wanted, pusher.as_ref()))
                    .collect::<Result<Vec<_>, Error>>()
            });
            for found in looked.await? {
                match found {
                    Look::Held => {}
                    Look::Child(child) => {
                        queue.extend(child.manifest.references.iter().cloned());
                        needs.children.push(child);
                    }
                    Look::Absent(wanted) => absent.push(wanted),
                }
            }
        }
        // A child is visible before its parent, so nothing refers to what is not there yet.
        needs.children.reverse();
        if self.may_ask(name) {
            self.ask_for(name, absent, &mut needs).await?;
        } else {
            needs
                .missing
                .extend(absent.into_iter().map(|wanted| wanted.digest));
        }
        Ok(needs)
    }

    /// Blocks.
    fn look(
        &self,
        name: &CanonicalName,
        wanted: Descriptor,
        pusher: Option<&Identity>,
    ) -> Result<Look, Error> {
        let store = &self.0.store;
        let Some(content) = store.content(&wanted.digest)? else {
            return Ok(Look::Absent(wanted));
        };
        // What is found here must still be here when the manifest is stored.
        store.promise(&wanted.digest);
        if let Some(pusher) = pusher
            && !self.is_member(name, &wanted.digest)?
            && !self.is_readable(&wanted.digest, pusher)?
        {
            return Ok(Look::Absent(wanted));
        }
        check_size(&wanted, content.size())?;
        if wanted.role != Role::Manifest
            || store
                .manifest(Namespace::Local, name, &wanted.digest)?
                .is_some()
        {
            return Ok(Look::Held);
        }
        let limit = self.limits().manifest;
        if content.size() > limit as u64 {
            return Err(Error::ManifestInvalid(format!(
                "it names {} as a manifest, which has {} bytes, and a manifest has {limit} at most",
                wanted.digest,
                content.size()
            )));
        }
        let bytes = content.read()?;
        let media_type = wanted
            .media_type
            .as_ref()
            .map(|media_type| media_type.as_str());
        let manifest = Manifest::pulled(&bytes, media_type);
        Ok(Look::Child(Held {
            digest: wanted.digest,
            bytes,
            manifest,
        }))
    }

    async fn ask_for(
        &self,
        name: &CanonicalName,
        absent: Vec<Descriptor>,
        needs: &mut Needs,
    ) -> Result<(), Error> {
        const AT_ONCE: usize = 8;
        let deadline = tokio::time::Instant::now() + HEADER_BUDGET;
        let mut answers = stream::iter(absent)
            .map(|wanted| async move {
                let asked = async {
                    match wanted.role {
                        Role::Manifest => self.0.cache.head_manifest(name, &wanted.digest).await,
                        Role::Blob | Role::NonDistributable => {
                            self.0.cache.head_blob(name, &wanted.digest).await
                        }
                    }
                };
                let answer = tokio::time::timeout_at(deadline, asked)
                    .await
                    .unwrap_or_else(|_| {
                        let late =
                            UpstreamError::new(name.source(), cache::Cause::Timeout(HEADER_BUDGET));
                        Err(cache::Error::Upstream(late))
                    });
                (wanted, answer)
            })
            .buffered(AT_ONCE);
        while let Some((wanted, answer)) = answers.next().await {
            let had = match answer {
                Ok(None) => false,
                Ok(Some(size)) => {
                    check_size(&wanted, size.unwrap_or(wanted.size))?;
                    true
                }
                Err(cache::Error::Upstream(error)) => {
                    let (registry, canonical, digest) =
                        (self.clone(), name.clone(), wanted.digest.clone());
                    let known = blocking(move || {
                        registry
                            .0
                            .store
                            .membership(Namespace::Upstream, &canonical, &digest)
                    })
                    .await?;
                    let named =
                        known.is_some_and(|known| known.named && known.member.size == wanted.size);
                    if !named {
                        needs.unasked = Some(error);
                    }
                    named
                }
                Err(error) => {
                    return Err(unavailable(
                        Rule::Default,
                        wanted.digest.to_string(),
                        Wanted::Blob,
                        error,
                    ));
                }
            };
            if had {
                let manifest = wanted.role == Role::Manifest;
                needs.owed.push(Owed {
                    name: name.clone(),
                    digest: wanted.digest,
                    size: wanted.size,
                    manifest,
                });
            } else {
                needs.missing.push(wanted.digest);
            }
        }
        Ok(())
    }
}

/// What stands between a manifest and its being stored.
#[derive(Default)]
pub(super) struct Needs {
    /// Nowhere to be had.
    pub(super) missing: Vec<Digest>,
    /// The source could not be asked about some of those.
    pub(super) unasked: Option<UpstreamError>,
    /// Only the source has it.
    pub(super) owed: Vec<Owed>,
    /// Manifests that are here under another name, deepest first.
    pub(super) children: Vec<Held>,
}

/// A manifest and its bytes.
pub(super) struct Held {
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
    pub(super) manifest: Manifest,
}

enum Look {
    Held,
    Child(Held),
    Absent(Descriptor),
}

fn check_size(wanted: &Descriptor, found: u64) -> Result<(), Error> {
    if wanted.size == found {
        return Ok(());
    }
    Err(Error::SizeInvalid(format!(
        "the manifest gives {} a size of {}, and it has {found} bytes",
        wanted.digest, wanted.size
    )))
}
