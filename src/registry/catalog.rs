//! The catalog as clients see it, in memory: read from the store at the first listing, and kept up with by whatever pushes or
//! deletes a manifest from then on. A page costs by its length, and a push by nothing but its own repository.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    storage::{self, Store},
    types::{CanonicalName, Namespace, RegistryHost, RepositoryName},
};

/// Whose repositories a client sees, and how they are written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// The client believes it talks to this registry.
    Source(RegistryHost),
    /// The client talks to us: names of the default registry stand for themselves, others begin with their registry.
    Everything,
}

/// The local repositories that hold a manifest.
pub(super) struct Catalog {
    /// The registry whose names stand for themselves.
    default: RegistryHost,
    /// `None` until somebody asks.
    listed: RwLock<Option<Views>>,
}

/// What each view shows, by what it shows.
type Views = HashMap<View, BTreeMap<String, Arc<CanonicalName>>>;

impl Catalog {
    pub(super) fn new(default: RegistryHost) -> Self {
        Self {
            default,
            listed: RwLock::default(),
        }
    }

    /// Up to `limit` names behind `last` of those that `may_see` lets pass, in the order of how the view writes them. Blocks.
    pub(super) fn behind(
        &self,
        store: &Store,
        view: &View,
        last: Option<&str>,
        limit: usize,
        may_see: impl Fn(&CanonicalName) -> bool,
    ) -> Result<Vec<String>, storage::Error> {
        let page = |views: &Views| {
            let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
            let shown = views.get(view).into_iter();
            shown
                .flat_map(|shown| shown.range::<str, _>((behind, Bound::Unbounded)))
                .filter(|(_, name)| may_see(name))
                .map(|(shown, _)| shown.clone())
                .take(limit)
                .collect()
        };
        if let Some(views) = &*self.listed.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(page(views));
        }
        // Held while it is listed, so that a push meanwhile is not missed.
        let mut listed = self.listed.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(views) = &*listed {
            return Ok(page(views));
        }
        let mut views = Views::new();
        for name in store.catalog()? {
            self.insert(&mut views, name);
        }
        Ok(page(listed.insert(views)))
    }

    /// Tells of a repository that has got a manifest. Blocks.
    pub(super) fn note_push(
        &self,
        store: &Store,
        name: &CanonicalName,
    ) -> Result<(), storage::Error> {
        let [(view, shown), _] = self.shown(name);
        let noted = match &*self.listed.read().unwrap_or_else(PoisonError::into_inner) {
            // Whoever takes out a name has seen that there is no manifest, with nobody listing meanwhile.
            Some(views) => views
                .get(&view)
                .is_some_and(|names| names.contains_key(&shown)),
            None => true,
        };
        if noted {
            return Ok(());
        }
        self.note(store, name)
    }

    /// Tells of a repository that has lost a manifest. Blocks.
    pub(super) fn note_deletion(
        &self,
        store: &Store,
        name: &CanonicalName,
    ) -> Result<(), storage::Error> {
        self.note(store, name)
    }

    /// Of several at once the last one to come here finds what is there in the end.
    fn note(&self, store: &Store, name: &CanonicalName) -> Result<(), storage::Error> {
        let mut listed = self.listed.write().unwrap_or_else(PoisonError::into_inner);
        let Some(views) = &mut *listed else {
            return Ok(());
        };
        if store.holds_manifests(Namespace::Local, name)? {
            self.insert(views, name.clone());
            return Ok(());
        }
        for (view, shown) in self.shown(name) {
            if let Some(names) = views.get_mut(&view) {
                names.remove(&shown);
            }
        }
        Ok(())
    }

    fn insert(&self, views: &mut Views, name: CanonicalName) {
        let shown = self.shown(&name);
        let name = Arc::new(name);
        for (view, shown) in shown {
            views
                .entry(view)
                .or_default()
                .insert(shown, Arc::clone(&name));
        }
    }

    /// How each view writes the name.
    fn shown(&self, name: &CanonicalName) -> [(View, String); 2] {
        let source = name.source();
        let bare = name.repository().to_string();
        let whole = match *source == self.default && !names_a_registry(name.repository()) {
            true => bare.clone(),
            false => name.to_string(),
        };
        [
            (View::Source(source.clone()), bare),
            (View::Everything, whole),
        ]
    }
}

/// Whether a repository's name alone would be read as one of another registry.
fn names_a_registry(name: &RepositoryName) -> bool {
    name.split_first().is_some_and(|(first, _)| {
        RegistryHost::from_component(first).is_some_and(|host| host.looks_like_host())
    })
}
