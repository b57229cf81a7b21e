//! Deleting: entries only, and in an order that leaves nothing visible without what it needs. Content stays: nothing names
//! it any more, so that it counts as cached and goes when room is needed.

use super::{Error, Op, Reason, Record, Store, backend::Leaf, layout};
use crate::types::{CanonicalName, Digest, Manifest, Namespace, Tag};

/// What became of a blob that was to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobRemoval {
    Deleted,
    /// The repository does not hold it.
    Absent,
    /// A manifest of the repository names it, so it stays.
    NamedBy(Digest),
}

impl Store {
    /// Forgets a tag; whether there was one.
    pub fn delete_tag(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        tag: &Tag,
    ) -> Result<bool, Error> {
        let _deleting = self.locks.deleting(namespace, name);
        let deleted = self.untag(namespace, name, tag);
        self.backend.tidy(&layout::tags(namespace, name));
        deleted
    }

    /// `delete_tag` for those who hold the lock.
    fn untag(&self, namespace: Namespace, name: &CanonicalName, tag: &Tag) -> Result<bool, Error> {
        let key = layout::tag(namespace, name, tag);
        let deleted = self
            .backend
            .delete(&key)
            .map_err(Error::io(Op::Delete, key))?;
        self.note_tag(namespace, name, tag)?;
        Ok(deleted)
    }

    /// Forgets a manifest with its tags, and what only it lets the repository serve; whether it was held.
    pub fn delete_manifest(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let _deleting = self.locks.deleting(namespace, name);
        let Some(entry) = self.manifest(namespace, name, digest)? else {
            return Ok(false);
        };
        for tag in self.tags_of(namespace, name, digest)? {
            self.untag(namespace, name, &tag)?;
        }
        let content = self.content(digest)?;
        let key = layout::manifest(namespace, name, digest);
        let deleted = self
            .backend
            .delete(&key)
            .map_err(Error::io(Op::Delete, key))?;
        // From here on it is gone; what follows is only what it leaves behind.
        if !self.has_reason(namespace, name, digest)? {
            self.remove_holder(namespace, name, digest)?;
        }
        let Some(content) = content else {
            return Ok(deleted);
        };
        let bytes = content
            .read()
            .map_err(Error::io(Op::Read, layout::content(digest)))?;
        let manifest = Manifest::pulled(&bytes, Some(entry.media_type.as_str()));
        if let Some(subject) = &manifest.subject {
            let key = layout::referrer(namespace, name, subject, digest);
            self.backend
                .delete(&key)
                .map_err(Error::io(Op::Delete, key))?;
            self.backend
                .tidy(&layout::referrers(namespace, name, subject));
        }
        let reason = Reason::Named(digest.clone());
        for reference in &manifest.references {
            self.remove_member(namespace, name, &reference.digest, &reason)?;
        }
        self.backend.tidy(&layout::tags(namespace, name));
        self.backend.tidy(&layout::manifests(namespace, name));
        Ok(deleted)
    }

    /// Forgets that a blob was pushed or mounted, unless a manifest of the repository names it.
    pub fn delete_blob(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<BlobRemoval, Error> {
        let _deleting = self.locks.deleting(namespace, name);
        let reasons = self.reasons(namespace, name, digest)?;
        for reason in &reasons {
            if let Reason::Named(manifest) = reason
                && self.manifest(namespace, name, manifest)?.is_some()
            {
                return Ok(BlobRemoval::NamedBy(manifest.clone()));
            }
        }
        if reasons.is_empty() {
            return Ok(BlobRemoval::Absent);
        }
        // Any manifest that is named here is gone, and only its key was left.
        for reason in &reasons {
            self.remove_member(namespace, name, digest, reason)?;
        }
        Ok(BlobRemoval::Deleted)
    }

    /// Takes away an entry that serves nothing any more: a member's reason, a holder's record, content owed. Other records
    /// stay.
    pub fn drop_entry(&self, record: &Record) -> Result<(), Error> {
        match record {
            Record::Member(namespace, name, digest, reason) => {
                let _deleting = self.locks.deleting(*namespace, name);
                self.remove_member(*namespace, name, digest, reason)
            }
            Record::Holder(digest, id) => {
                let key = layout::holder(digest, id);
                self.backend
                    .delete(&key)
                    .map_err(Error::io(Op::Delete, key))?;
                self.backend.tidy(&layout::holders(digest));
                self.recount(digest)
            }
            Record::Owed(id) => self.settle(*id),
            _ => Ok(()),
        }
    }

    /// Gives back what is empty, which a process leaves that is killed between taking away an entry and tidying up.
    pub fn tidy_up(&self) {
        for place in [
            layout::namespace(Namespace::Upstream),
            layout::all_holders(),
        ] {
            let mut hollow = Vec::new();
            self.backend.walk(&place, &mut |key, leaf| {
                if matches!(leaf, Leaf::Hollow) {
                    hollow.push(key);
                }
            });
            for directory in hollow {
                self.backend.tidy(&directory);
            }
        }
    }
}
