//! Pushing: upload sessions and manifests. Everything goes to `_local` and nowhere else.

use std::{collections::HashSet, fmt::Display};

use bytes::Bytes;
use futures_util::Stream;

use super::{
    Error, Registry, Target,
    access::Identity,
    needs::{Held, Needs},
};
use crate::{
    activity::FoundPush,
    storage::{
        Batches, Chunk, Interrupted, Member, NotTaken, Reason, Received, UploadStatus, blocking,
        receive,
    },
    types::{
        Algorithm, CanonicalName, ContentRange, Digest, Manifest, Namespace, Reference, Tag,
        UploadId,
    },
};

/// A blob that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedUpload {
    /// The name the session was opened under.
    pub name: CanonicalName,
    pub digest: Digest,
}

/// A manifest on its way in.
#[derive(Clone, Debug)]
pub struct ManifestPush<'a> {
    pub reference: &'a Reference,
    /// Further tags for it.
    pub tags: Vec<Tag>,
    pub content_type: Option<&'a str>,
    pub body: Bytes,
}

/// A manifest that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedManifest {
    pub digest: Digest,
    /// The manifest that it is about.
    pub subject: Option<Digest>,
}

impl Registry {
    /// Opens an upload session (end-4a).
    pub async fn start_upload(
        &self,
        target: &Target,
        algorithm: Algorithm,
    ) -> Result<UploadId, Error> {
        let (registry, name) = (self.clone(), target.name.clone());
        let most = self.limits().uploads;
        self.0.activity.uploading(&name);
        blocking(move || registry.0.store.start_upload(name, algorithm, most))
            .await?
            .ok_or(Error::TooManyUploads { limit: most })
    }

    /// Where a session stands (end-13).
    pub fn upload_status(&self, id: UploadId) -> Result<UploadStatus, Error> {
        self.0
            .store
            .upload_status(id)
            .ok_or(Error::BlobUploadUnknown)
    }

    /// Whether a chunk of that range can go on where the session stands.
    pub fn check_chunk(&self, id: UploadId, range: Option<ContentRange>) -> Result<(), Error> {
        let offset = self.upload_status(id)?.offset;
        match range {
            Some(range) if range.start() != offset => Err(out_of_order(offset, range)),
            _ => Ok(()),
        }
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
        let chunk = self.take_upload(id)?;
        let received = self.receive(chunk, range, length, body).await?;
        blocking(move || {
            let Received { mut sink, tail } = received;
            match sink.write(&tail) {
                Ok(()) => Ok(sink.keep()),
                Err(error) => Err(abandon(sink, error)),
            }
        })
        .await
    }

    /// A whole blob at once (end-4b). Once this returns the blob can be pulled, whole; when it is given up, nothing stays.
    pub async fn push_blob<B, E>(
        &self,
        target: &Target,
        digest: &Digest,
        length: Option<u64>,
        body: B,
    ) -> Result<FinishedUpload, Error>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let (registry, name) = (self.clone(), target.name.clone());
        let algorithm = digest.algorithm();
        let chunk = blocking(move || registry.0.store.lone_upload(name, algorithm)).await?;
        self.finish(chunk, digest, None, length, body).await
    }

    /// The last chunk, or none, and the digest (end-6). Once this returns the blob can be pulled, whole.
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
        self.finish(self.take_upload(id)?, digest, range, length, body)
            .await
    }

    async fn finish<B, E>(
        &self,
        chunk: Chunk,
        digest: &Digest,
        range: Option<ContentRange>,
        length: Option<u64>,
        body: B,
    ) -> Result<FinishedUpload, Error>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let received = self.receive(chunk, range, length, body).await?;
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
            let _pin = store.pin(&digest);
            store.commit(blob)?;
            let member = Member {
                size,
                media_type: None,
                source: None,
            };
            store.add_member(Namespace::Local, &name, &digest, &Reason::Pushed, &member)?;
            log::debug!("{name}: blob {digest} pushed, {size} bytes");
            registry.0.activity.uploaded(&name, &digest, size);
            Ok(FinishedUpload { name, digest })
        })
        .await
    }

    fn take_upload(&self, id: UploadId) -> Result<Chunk, Error> {
        self.0
            .store
            .take_upload(id)
            .map_err(|refused| match refused {
                NotTaken::Unknown => Error::BlobUploadUnknown,
                NotTaken::Busy { offset } => Error::RangeInvalid {
                    offset,
                    why: "another request is writing to it".to_owned(),
                },
            })
    }

    async fn receive<B, E>(
        &self,
        chunk: Chunk,
        range: Option<ContentRange>,
        length: Option<u64>,
        body: B,
    ) -> Result<Received<Chunk>, Error>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Display,
    {
        let start = chunk.offset();
        if let Some(range) = range {
            if range.start() != start {
                return Err(out_of_order(start, range));
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
            Err(Interrupted::Body { sink, error }) => {
                // Gives back its room, which may take a while.
                blocking(move || drop(sink)).await;
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
    async fn make_room(&self, mut chunk: Chunk, expected: u64) -> Result<Chunk, Error> {
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

    /// A manifest under a tag or its digest, and under further tags (end-7a, end-7b). What it names must be here, as far
    /// as `pusher` may read it, or be had from the name's source.
    pub async fn push_manifest(
        &self,
        target: &Target,
        pushed: ManifestPush<'_>,
        pusher: &Identity,
    ) -> Result<PushedManifest, Error> {
        let name = &target.name;
        let ManifestPush {
            reference,
            mut tags,
            content_type,
            body,
        } = pushed;
        let limit = self.limits().manifest;
        if body.len() > limit {
            return Err(Error::ManifestTooLarge { limit });
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
        let mut needs = self.needs(name, &manifest.references, Some(pusher)).await?;
        if !needs.missing.is_empty() && !self.0.rules.allow_sparse {
            return Err(Error::ManifestBlobUnknown {
                missing: needs.missing,
                unasked: needs.unasked,
            });
        }
        let owed = needs.owed.len();
        if let Reference::Tag(tag) = reference {
            tags.push(tag.clone());
        }
        let subject = manifest.subject.clone();
        let size = body.len() as u64;
        let parts = manifest.references.iter();
        let parts: Vec<(Digest, u64)> =
            parts.map(|part| (part.digest.clone(), part.size)).collect();
        let mut held = Held {
            digest: digest.clone(),
            bytes: body,
            manifest,
        };
        // A digest that is merely named, by this manifest or by a child that comes with it, opens nothing: what is missing for
        // this pusher is no member until it is pushed here.
        let withheld: HashSet<Digest> = needs.missing.iter().cloned().collect();
        for Held { manifest, .. } in needs.children.iter_mut().chain([&mut held]) {
            manifest
                .references
                .retain(|reference| !withheld.contains(&reference.digest));
        }
        self.keep(name, held, tags, needs).await?;
        self.0.cache.forget_absences(name);
        self.0.activity.pushed(FoundPush {
            name,
            reference,
            digest: &digest,
            size,
            parts: &parts,
        });
        if owed > 0 {
            log::info!(
                "{name}: {owed} parts of {reference} were not pushed and come from {}",
                name.source()
            );
        }
        Ok(PushedManifest { digest, subject })
    }

    /// Stores a manifest whose needs are met, and begins to fetch what is owed to it.
    pub(super) async fn keep(
        &self,
        name: &CanonicalName,
        held: Held,
        tags: Vec<Tag>,
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
            } in needs.children
            {
                store.put_manifest(Namespace::Local, &name, &digest, &bytes, &manifest)?;
            }
            let Held {
                digest,
                bytes,
                manifest,
            } = held;
            store.put_manifest_and_tags(
                Namespace::Local,
                &name,
                &digest,
                &bytes,
                &manifest,
                &tags,
            )?;
            registry.0.catalog.note_push(store, &name)?;
            Ok::<_, Error>(jobs)
        });
        for (id, owed) in jobs.await? {
            self.fetch_owed(id, owed);
        }
        Ok(())
    }
}

fn out_of_order(offset: u64, range: ContentRange) -> Error {
    Error::RangeInvalid {
        offset,
        why: format!("a chunk can't begin at {}", range.start()),
    }
}

/// Frees a session that can't go on. Blocks.
fn abandon(chunk: Chunk, error: crate::storage::Error) -> Error {
    drop(chunk.finish());
    error.into()
}
