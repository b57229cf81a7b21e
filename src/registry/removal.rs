//! Deleting: always and only in `_local`. What the upstream has of the same name shows again.

use super::{Error, Registry, Target};
use crate::{
    storage::{BlobRemoval, blocking},
    types::{Digest, Namespace, Reference},
};

impl Registry {
    /// Forgets a tag, or a manifest with its tags (end-9).
    pub async fn delete_manifest(
        &self,
        target: &Target,
        reference: &Reference,
    ) -> Result<(), Error> {
        let (registry, name, wanted) = (self.clone(), target.name.clone(), reference.clone());
        let deleted = blocking(move || {
            let store = &registry.0.store;
            match &wanted {
                Reference::Tag(tag) => store.delete_tag(Namespace::Local, &name, tag),
                Reference::Digest(digest) => {
                    let deleted = store.delete_manifest(Namespace::Local, &name, digest);
                    registry.0.catalog.note_deletion(store, &name)?;
                    deleted
                }
            }
        });
        if deleted.await? {
            log::info!("{}: {reference} deleted", target.name);
            return Ok(());
        }
        Err(Error::ManifestUnknown(
            self.nothing_local(target, reference),
        ))
    }

    /// Forgets a blob that no manifest of the repository names (end-10).
    pub async fn delete_blob(&self, target: &Target, digest: &Digest) -> Result<(), Error> {
        let (registry, name, wanted) = (self.clone(), target.name.clone(), digest.clone());
        let removal = blocking(move || {
            registry
                .0
                .store
                .delete_blob(Namespace::Local, &name, &wanted)
        });
        match removal.await? {
            BlobRemoval::Deleted => Ok(()),
            BlobRemoval::Absent => Err(Error::BlobUnknown(self.nothing_local(target, digest))),
            BlobRemoval::NamedBy(manifest) => Err(Error::InUse(format!(
                "{}: {digest} is named by the manifest {manifest}: delete that one first",
                target.name
            ))),
        }
    }

    fn nothing_local(&self, target: &Target, what: &impl std::fmt::Display) -> String {
        let name = &target.name;
        if self.has_source(name) {
            return format!(
                "{name}, {what}: only {} may have it; there is nothing local to delete",
                name.source()
            );
        }
        format!("{name} has no {what} to delete")
    }
}
