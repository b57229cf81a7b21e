//! Which repositories there are, and which of them hold a given content.
//!
//! Holders are found by a record at the content's own key, so that nobody has to look through the repositories.

use serde::{Deserialize, Serialize};

use super::{Error, Op, Store, layout};
use crate::types::{Algorithm, CanonicalName, Digest, Namespace, RegistryHost};

/// A repository that may serve some content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub local: bool,
    pub name: CanonicalName,
}

impl Store {
    /// The names of all local repositories that hold a manifest, read from the medium.
    pub fn catalog(&self) -> Result<Vec<CanonicalName>, Error> {
        let mut names = Vec::new();
        for name in self.names(Namespace::Local)? {
            if self.holds_manifests(Namespace::Local, &name)? {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The names of all repositories that may be there: there is a directory of theirs, or of one below.
    pub(super) fn names(&self, namespace: Namespace) -> Result<Vec<CanonicalName>, Error> {
        let mut names = Vec::new();
        for source in self.list(&layout::namespace(namespace))? {
            if RegistryHost::from_component(&source).is_some() {
                self.collect_names(namespace, &source, &mut names)?;
            }
        }
        Ok(names)
    }

    fn collect_names(
        &self,
        namespace: Namespace,
        path: &str,
        names: &mut Vec<CanonicalName>,
    ) -> Result<(), Error> {
        names.extend(path.parse::<CanonicalName>());
        // A repository's name may be the beginning of another's. Entries of ours begin with an underscore.
        for component in self.list(&layout::below_namespace(namespace, path))? {
            if !component.starts_with('_') {
                self.collect_names(namespace, &format!("{path}/{component}"), names)?;
            }
        }
        Ok(())
    }

    /// Whether `accept` takes a repository that may serve `digest`. None is read behind the first one taken.
    pub fn any_holder(
        &self,
        digest: &Digest,
        mut accept: impl FnMut(&Holder) -> bool,
    ) -> Result<bool, Error> {
        let mut failed = None;
        let found = self.any(&layout::holders(digest), |id| {
            match self.entry::<Holder>(&layout::holder(digest, id)) {
                Ok(holder) => holder.is_some_and(|holder| accept(&holder)),
                Err(error) => {
                    failed = Some(error);
                    true
                }
            }
        })?;
        match failed {
            Some(error) => Err(error),
            None => Ok(found),
        }
    }

    /// Records that the repository may serve the content. It comes before whatever gives the right, and goes after it.
    pub fn add_holder(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<(), Error> {
        let holder = Holder::new(namespace, name);
        self.put_entry(&layout::holder(digest, &holder.id()), &holder)?;
        match namespace {
            Namespace::Local => self.recount_if_counted(digest),
            Namespace::Upstream => Ok(()),
        }
    }

    pub(super) fn remove_holder(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<(), Error> {
        let holder = Holder::new(namespace, name);
        let key = layout::holder(digest, &holder.id());
        self.backend
            .delete(&key)
            .map_err(Error::io(Op::Delete, key))?;
        self.backend.tidy(&layout::holders(digest));
        match namespace {
            Namespace::Local => self.recount(digest),
            Namespace::Upstream => Ok(()),
        }
    }
}

impl Holder {
    pub(super) fn new(namespace: Namespace, name: &CanonicalName) -> Self {
        Self {
            local: namespace == Namespace::Local,
            name: name.clone(),
        }
    }

    /// A component of fixed length, since a name may be longer than a file's can be.
    pub(super) fn id(&self) -> String {
        let namespace = if self.local { "_local/" } else { "" };
        Digest::of(
            Algorithm::Sha256,
            format!("{namespace}{}", self.name).as_bytes(),
        )
        .hex()
        .to_owned()
    }
}
