//! Which repositories there are, and which of them hold a given content.
//!
//! The catalog is read from the medium at the first listing and kept in memory from then on. Holders are found by a
//! record at the content's own key, so that nobody has to look through the repositories.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{Error, Op, Store, layout};
use crate::types::{Algorithm, CanonicalName, Digest, Namespace, RegistryHost};

/// The local repositories that hold a manifest, once they were listed. A reader keeps the set it got; a change makes
/// another.
#[derive(Default)]
pub(super) struct Catalog(Mutex<Option<Arc<BTreeSet<CanonicalName>>>>);

/// A repository that may serve some content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub local: bool,
    pub name: CanonicalName,
}

impl Store {
    /// The names of all local repositories that hold a manifest, in order.
    pub fn catalog(&self) -> Result<Arc<BTreeSet<CanonicalName>>, Error> {
        let mut catalog = self
            .catalog
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = catalog.as_ref() {
            return Ok(Arc::clone(names));
        }
        let mut names = BTreeSet::new();
        for source in self.list(&layout::local())? {
            if RegistryHost::from_component(&source).is_some() {
                self.collect(&source, &mut names)?;
            }
        }
        Ok(Arc::clone(catalog.insert(Arc::new(names))))
    }

    /// Brings the catalog, if it was read, up to date with a repository that has just got or lost a manifest.
    pub(super) fn note_repository(&self, name: &CanonicalName) -> Result<(), Error> {
        let mut catalog = self
            .catalog
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(names) = catalog.as_mut() else {
            return Ok(());
        };
        let holds = !self
            .list(&layout::manifests(Namespace::Local, name))?
            .is_empty();
        match (holds, names.contains(name)) {
            (true, false) => {
                Arc::make_mut(names).insert(name.clone());
            }
            (false, true) => {
                Arc::make_mut(names).remove(name);
            }
            _ => {}
        }
        Ok(())
    }

    fn collect(&self, path: &str, names: &mut BTreeSet<CanonicalName>) -> Result<(), Error> {
        if let Ok(name) = path.parse::<CanonicalName>()
            && !self
                .list(&layout::manifests(Namespace::Local, &name))?
                .is_empty()
        {
            names.insert(name);
        }
        // A repository's name may be the beginning of another's. Entries of ours begin with an underscore.
        for component in self.list(&layout::below_local(path))? {
            if !component.starts_with('_') {
                self.collect(&format!("{path}/{component}"), names)?;
            }
        }
        Ok(())
    }

    /// The repositories that may serve `digest`.
    pub fn holders(&self, digest: &Digest) -> Result<Vec<Holder>, Error> {
        let mut holders = Vec::new();
        for id in self.list(&layout::holders(digest))? {
            if let Some(holder) = self.entry(&layout::holder(digest, &id))? {
                holders.push(holder);
            }
        }
        Ok(holders)
    }

    pub(super) fn add_holder(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<(), Error> {
        let holder = Holder {
            local: namespace == Namespace::Local,
            name: name.clone(),
        };
        self.put_entry(&layout::holder(digest, &holder.id()), &holder)
    }

    pub(super) fn remove_holder(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<(), Error> {
        let holder = Holder {
            local: namespace == Namespace::Local,
            name: name.clone(),
        };
        let key = layout::holder(digest, &holder.id());
        self.backend
            .delete(&key)
            .map(drop)
            .map_err(Error::io(Op::Delete, key))
    }
}

impl Holder {
    /// A component of fixed length, since a name may be longer than a file's can be.
    fn id(&self) -> String {
        let namespace = if self.local { "_local/" } else { "" };
        Digest::of(
            Algorithm::Sha256,
            format!("{namespace}{}", self.name).as_bytes(),
        )
        .hex()
        .to_owned()
    }
}
