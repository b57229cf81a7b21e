//! Pushing: upload sessions, and what a manifest must bring. Everything goes to `_local` and nowhere else.

use std::{collections::HashSet, fmt::Display};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};

use super::{Error, Registry, Rule, Target, UpstreamError, unavailable};
use crate::{
    cache::{self, HEADER_BUDGET},
    storage::{
        Batches, Chunk, Interrupted, Member, NotTaken, Owed, Reason, Received, TagEntry,
        UploadStatus, blocking, receive,
    },
    types::{
        Algorithm, CanonicalName, ContentRange, Descriptor, Digest, Manifest, Namespace, Reference,
        Role, Tag, UploadId, manifest::MANIFEST_LIMIT,
    },
};

/// A blob that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedUpload {
    /// The name the session was opened under.
    pub name: CanonicalName,
    pub digest: Digest,
}

/// A manifest that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedManifest {
    pub digest: Digest,
}

impl Registry {
    /// Opens an upload session (end-4a).
    pub async fn start_upload(
        &self,
        target: &Target,
        algorithm: Algorithm,
    ) -> Result<UploadId, Error> {
        let (registry, name) = (self.clone(), target.name.clone());
        Ok(blocking(move || registry.0.store.start_upload(name, algorithm)).await?)
    }

    /// Where a session stands (end-13).
    pub fn upload_status(&self, id: UploadId) -> Result<UploadStatus, Error> {
        self.0
            .store
            .upload_status(id)
            .ok_or(Error::BlobUploadUnknown)
    }

    /// Forgets a session and its bytes (end-14).
    pub async fn cancel_upload(&self, id: UploadId) -> Result<(), Error> {
        let registry = self.clone();
        match blocking(move || registry.0.store.cancel_upload(id)).await {
            true => Ok(()),
            false => Err(Error::BlobUploadUnknown),
        }
    }

    /// One chunk (end-5); `length` is its Content-Length. Returns the session's new offset. A chunk that does not arrive
    /// whole leaves the session where it was.
    pub async fn append_upload<B, E>(
        &self,
        id: UploadId,
        range: Option<ContentRange>,
        length: Option<u64>,
        body: B,
    ) -> Result<u64, Error>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let received = self.receive(id, range, length, body).await?;
        blocking(move || {
            let Received { mut sink, tail } = received;
            match sink.write(&tail) {
                Ok(()) => Ok(sink.keep()),
                Err(error) => Err(abandon(sink, error)),
            }
        })
        .await
    }

    /// The last chunk, or none, and the digest (end-6, end-4b). Once this returns the blob can be pulled, whole.
    pub async fn finish_upload<B, E>(
        &self,
        id: UploadId,
        digest: &Digest,
        range: Option<ContentRange>,
        length: Option<u64>,
        body: B,
    ) -> Result<FinishedUpload, Error>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let received = self.receive(id, range, length, body).await?;
        let (registry, digest) = (self.clone(), digest.clone());
        blocking(move || {
            let Received { mut sink, tail } = received;
            if let Err(error) = sink.write(&tail) {
                return Err(abandon(sink, error));
            }
            let name = sink.name().clone();
            let staging = sink.finish();
            let size = staging.offset();
            let blob = staging.verify(&digest)?.map_err(|found| {
                Error::DigestInvalid(format!(
                    "the {size} bytes received have digest {found}, not {digest}"
                ))
            })?;
            let store = &registry.0.store;
            store.commit(blob)?;
            let member = Member {
                size,
                media_type: None,
            };
            store.add_member(Namespace::Local, &name, &digest, &Reason::Pushed, &member)?;
            log::debug!("{name}: blob {digest} pushed, {size} bytes");
            Ok(FinishedUpload { name, digest })
        })
        .await
    }

    async fn receive<B, E>(
        &self,
        id: UploadId,
        range: Option<ContentRange>,
        length: Option<u64>,
        body: B,
    ) -> Result<Received<Chunk>, Error>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let chunk = self
            .0
            .store
            .take_upload(id)
            .map_err(|refused| match refused {
                NotTaken::Unknown => Error::BlobUploadUnknown,
                NotTaken::Busy { offset } => Error::RangeInvalid {
                    offset,
                    why: "another request is writing to it".to_owned(),
                },
            })?;
        let start = chunk.offset();
        if let Some(range) = range {
            if range.start() != start {
                return Err(Error::RangeInvalid {
                    offset: start,
                    why: format!("a chunk can't begin at {}", range.start()),
                });
            }
            if length.is_some_and(|length| length != range.length()) {
                return Err(Error::SizeInvalid(
                    "Content-Range and Content-Length disagree".to_owned(),
                ));
            }
        }
        let expected = length.or(range.map(ContentRange::length)).unwrap_or(0);
        let chunk = match expected {
            0 => chunk,
            expected => self.make_room(chunk, expected).await?,
        };
        let received = match receive(chunk, body, Batches::Full, |_| {}).await {
            Ok(received) => received,
            Err(Interrupted::Body { error, .. }) => {
                return Err(Error::BlobUploadInvalid(format!(
                    "the body broke off ({error}); the upload stands at {start} as before"
                )));
            }
            Err(Interrupted::Sink { sink, error }) => {
                return Err(blocking(move || abandon(sink, error)).await);
            }
        };
        let got = received.sink.offset() + received.tail.len() as u64 - start;
        if range.is_some_and(|range| range.length() != got) {
            return Err(Error::SizeInvalid(format!(
                "the chunk has {got} bytes, and its Content-Range says otherwise"
            )));
        }
        Ok(received)
    }

    /// Refuses before the body what the disk can't take.
    async fn make_room(&self, chunk: Chunk, expected: u64) -> Result<Chunk, Error> {
        let registry = self.clone();
        blocking(move || {
            let free = registry.0.store.free_space()?;
            if free < expected {
                return Err(Error::NoRoom(format!(
                    "{expected} bytes are announced and {free} are free"
                )));
            }
            match chunk.reserve(expected) {
                Ok(()) => Ok(chunk),
                Err(error) => Err(abandon(chunk, error)),
            }
        })
        .await
    }

    /// A manifest under a tag or its digest (end-7). What it names must be here, or be had from the name's source.
    pub async fn push_manifest(
        &self,
        target: &Target,
        reference: &Reference,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<PushedManifest, Error> {
        let name = &target.name;
        if body.len() > MANIFEST_LIMIT {
            return Err(Error::ManifestTooLarge {
                limit: MANIFEST_LIMIT,
            });
        }
        let manifest = Manifest::pushed(&body, content_type)
            .map_err(|error| Error::ManifestInvalid(format!("{name}, {reference}: {error}")))?;
        let digest = match reference {
            Reference::Tag(_) => Digest::of(Algorithm::Sha256, &body),
            Reference::Digest(wanted) => {
                let found = Digest::of(wanted.algorithm(), &body);
                if found != *wanted {
                    return Err(Error::DigestInvalid(format!(
                        "the manifest's digest is {found}, not {wanted}"
                    )));
                }
                found
            }
        };
        let needs = self.needs(name, &manifest.references).await?;
        if !needs.missing.is_empty() {
            return Err(Error::ManifestBlobUnknown {
                missing: needs.missing,
                unasked: needs.unasked,
            });
        }
        let owed = needs.owed.len();
        let tag = match reference {
            Reference::Tag(tag) => Some(tag.clone()),
            Reference::Digest(_) => None,
        };
        let held = Held {
            digest: digest.clone(),
            bytes: body,
            manifest,
        };
        self.keep(name, held, tag, needs).await?;
        match owed {
            0 => log::info!("{name}: {reference} pushed, {digest}"),
            owed => log::info!(
                "{name}: {reference} pushed, {digest}; {owed} parts of it come from {}",
                name.source()
            ),
        }
        Ok(PushedManifest { digest })
    }

    /// Stores a manifest whose needs are met, and begins to fetch what is owed to it.
    pub(super) async fn keep(
        &self,
        name: &CanonicalName,
        held: Held,
        tag: Option<Tag>,
        needs: Needs,
    ) -> Result<(), Error> {
        let (registry, name) = (self.clone(), name.clone());
        let jobs = blocking(move || {
            let store = &registry.0.store;
            // What is owed is on record before anything that needs it can be seen.
            let mut jobs = Vec::new();
            for owed in needs.owed {
                jobs.push((store.owe(&owed)?, owed));
            }
            for Held {
                digest,
                bytes,
                manifest,
            } in needs.children.iter().chain([&held])
            {
                store.put_manifest(Namespace::Local, &name, digest, bytes, manifest)?;
            }
            if let Some(tag) = tag {
                let entry = TagEntry {
                    digest: held.digest,
                    manifest: None,
                    checked: None,
                };
                store.put_tag(Namespace::Local, &name, &tag, &entry)?;
            }
            Ok::<_, Error>(jobs)
        });
        for (id, owed) in jobs.await? {
            self.fetch_owed(id, owed);
        }
        Ok(())
    }

    /// Looks for everything that is named, and for what the children among it name.
    pub(super) async fn needs(
        &self,
        name: &CanonicalName,
        references: &[Descriptor],
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
            let looked = blocking(move || {
                wanted
                    .into_iter()
                    .map(|wanted| registry.look(&canonical, wanted))
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
    fn look(&self, name: &CanonicalName, wanted: Descriptor) -> Result<Look, Error> {
        let store = &self.0.store;
        let Some(content) = store.content(&wanted.digest)? else {
            return Ok(Look::Absent(wanted));
        };
        check_size(&wanted, content.size())?;
        if wanted.role != Role::Manifest
            || store
                .manifest(Namespace::Local, name, &wanted.digest)?
                .is_some()
        {
            return Ok(Look::Held);
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
                        false,
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

/// Frees a session that can't go on. Blocks.
fn abandon(chunk: Chunk, error: crate::storage::Error) -> Error {
    drop(chunk.finish());
    error.into()
}
