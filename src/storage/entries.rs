//! The small entries: which repository may serve what, which manifests it holds, and what it is still owed.

use serde::{Deserialize, Serialize};

use super::{Error, Op, Pin, Reason, Store, TagEntry, layout};
use crate::types::{
    CanonicalName, Digest, Manifest, MediaType, Namespace, Referrer, Role, Tag, UploadId,
};

/// A repository's right to serve content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// In bytes, as whoever named it said.
    pub size: u64,
    #[serde(rename = "mediaType", skip_serializing_if = "Option::is_none", default)]
    pub media_type: Option<MediaType>,
    /// The repository it was mounted from, if its bytes were not here then: they are to be had from that one's source.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source: Option<CanonicalName>,
}

/// What is known of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub member: Member,
    /// A manifest held in the same repository names it.
    pub named: bool,
}

/// A manifest that a repository holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    #[serde(rename = "mediaType")]
    pub media_type: MediaType,
    /// In bytes.
    pub size: u64,
}

/// Content that a push named and only an upstream has: accepted, and still to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// The local repository that needs it, whose source has it.
    pub name: CanonicalName,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// A child of an index, so it is fetched as a manifest and brings content of its own.
    pub manifest: bool,
}

impl Store {
    // Members.

    /// Whether the repository may serve `digest`, and what is known of it. Its bytes may be here or not.
    pub fn membership(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<Membership>, Error> {
        let by = |reason: &Reason| self.entry(&layout::member(namespace, name, digest, reason));
        // A base layer is named by every manifest of a repository, so its reasons are not read one and all.
        let mut member: Option<Member> = by(match namespace {
            Namespace::Local => &Reason::Pushed,
            Namespace::Upstream => &Reason::Pulled,
        })?;
        let mut failed = None;
        let reasons = layout::member_reasons(namespace, name, digest);
        let named = self.any(&reasons, |reason| {
            let Some(reason @ Reason::Named(_)) = Reason::parse(reason) else {
                return false;
            };
            if member.is_none() {
                // One that was deleted a moment ago does not count.
                member = by(&reason).unwrap_or_else(|error| {
                    failed = Some(error);
                    None
                });
            }
            member.is_some() || failed.is_some()
        })?;
        match failed {
            Some(error) => Err(error),
            None => Ok(member.map(|member| Membership { member, named })),
        }
    }

    /// Lets the repository serve `digest` for `reason`.
    pub fn add_member(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
        reason: &Reason,
        member: &Member,
    ) -> Result<(), Error> {
        let _adding = self.locks.adding(namespace, name);
        self.admit(namespace, name, digest, reason, member)
    }

    /// `add_member` for those who hold the lock.
    fn admit(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
        reason: &Reason,
        member: &Member,
    ) -> Result<(), Error> {
        if !self.has_reason(namespace, name, digest)? {
            self.add_holder(namespace, name, digest)?;
        }
        self.keep_entry(&layout::member(namespace, name, digest, reason), member)
    }

    /// Takes one reason away, and with the last one the right. For those who hold the lock.
    pub(super) fn remove_member(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
        reason: &Reason,
    ) -> Result<(), Error> {
        let key = layout::member(namespace, name, digest, reason);
        self.backend
            .delete(&key)
            .map_err(Error::io(Op::Delete, key))?;
        if self.has_reason(namespace, name, digest)? {
            return Ok(());
        }
        self.backend
            .tidy(&layout::member_reasons(namespace, name, digest));
        if self.manifest(namespace, name, digest)?.is_none() {
            self.remove_holder(namespace, name, digest)?;
        }
        Ok(())
    }

    /// Why the repository may serve `digest`; that it was pushed comes first.
    pub(super) fn reasons(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Vec<Reason>, Error> {
        let listed = self.list(&layout::member_reasons(namespace, name, digest))?;
        let mut reasons: Vec<Reason> = listed
            .iter()
            .filter_map(|reason| Reason::parse(reason))
            .collect();
        reasons.sort_by_key(|reason| *reason != Reason::Pushed);
        Ok(reasons)
    }

    /// Whether the repository may serve `digest` for any reason at all.
    pub(super) fn has_reason(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<bool, Error> {
        self.any(
            &layout::member_reasons(namespace, name, digest),
            |component| Reason::parse(component).is_some(),
        )
    }

    /// Whether the repository holds anything at all.
    pub fn is_known(&self, namespace: Namespace, name: &CanonicalName) -> Result<bool, Error> {
        Ok(self.holds_manifests(namespace, name)?
            || self.any(&layout::members(namespace, name), |_| true)?)
    }

    // Manifests.

    /// Whether the repository holds any manifest.
    pub fn holds_manifests(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
    ) -> Result<bool, Error> {
        self.any(&layout::manifests(namespace, name), |_| true)
    }

    pub fn manifest(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<ManifestEntry>, Error> {
        self.entry(&layout::manifest(namespace, name, digest))
    }

    /// Stores the manifest and makes what it names members of the repository; it can be pulled once this returns, and
    /// not before everything else is there.
    pub fn put_manifest(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
        bytes: &[u8],
        manifest: &Manifest,
    ) -> Result<(), Error> {
        self.put_manifest_and_tags(namespace, name, digest, bytes, manifest, &[])
    }

    /// As `put_manifest`, and `tags` name it from then on. Whoever deletes it meanwhile deletes all of it, or finds nothing.
    pub fn put_manifest_and_tags(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
        bytes: &[u8],
        manifest: &Manifest,
        tags: &[Tag],
    ) -> Result<(), Error> {
        // Nothing of it is evicted before it is all here.
        let _pins: Vec<Pin> = std::iter::once(digest)
            .chain(manifest.references.iter().map(|named| &named.digest))
            .map(|needed| self.pin(needed))
            .collect();
        self.put(digest, bytes)?;
        let _adding = self.locks.adding(namespace, name);
        self.add_holder(namespace, name, digest)?;
        let reason = Reason::Named(digest.clone());
        for reference in manifest
            .references
            .iter()
            .filter(|reference| reference.role != Role::NonDistributable)
        {
            let member = Member {
                size: reference.size,
                media_type: reference.media_type.clone(),
                source: None,
            };
            self.admit(namespace, name, &reference.digest, &reason, &member)?;
        }
        let entry = ManifestEntry {
            media_type: manifest.media_type.clone(),
            size: bytes.len() as u64,
        };
        if let Some(subject) = &manifest.subject {
            let referrer = Referrer {
                media_type: manifest.media_type.clone(),
                digest: digest.clone(),
                size: bytes.len() as u64,
                artifact_type: manifest.artifact_type.clone(),
                annotations: manifest.annotations.clone(),
            };
            self.add_referrer(namespace, name, subject, &referrer)?;
        }
        self.keep_entry(&layout::manifest(namespace, name, digest), &entry)?;
        for tag in tags {
            let entry = TagEntry {
                digest: digest.clone(),
                manifest: None,
                checked: None,
                previous: None,
            };
            self.put_tag(namespace, name, tag, &entry)?;
        }
        Ok(())
    }

    // Content owed.

    /// Records that content is still to be fetched, so that a restart does not forget it.
    pub fn owe(&self, owed: &Owed) -> Result<UploadId, Error> {
        let id = UploadId::random();
        self.put_entry(&layout::owed(id), owed)?;
        Ok(id)
    }

    /// The content is here, or will never be.
    pub fn settle(&self, id: UploadId) -> Result<(), Error> {
        let key = layout::owed(id);
        self.backend
            .delete(&key)
            .map(drop)
            .map_err(Error::io(Op::Delete, key))
    }

    /// Everything owed, as an earlier process left it. A damaged record is dropped: the next GET of its content asks the
    /// source anyhow.
    pub fn owed(&self) -> Result<Vec<(UploadId, Owed)>, Error> {
        let mut found = Vec::new();
        for id in self
            .list(&layout::all_owed())?
            .iter()
            .filter_map(|id| id.parse().ok())
        {
            match self.entry(&layout::owed(id)) {
                Ok(owed) => found.extend(owed.map(|owed| (id, owed))),
                Err(error @ Error::Corrupt { .. }) => {
                    log::warn!("a background fetch is forgotten: {error}");
                    self.settle(id)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}
