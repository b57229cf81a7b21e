//! Which registries' content is not for everyone. Does not know why.

use std::{collections::BTreeSet, sync::Arc};

use crate::types::RegistryHost;

/// The registries that standin reads with a log-in of its own; none by default. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Private(Option<Arc<Parts>>);

struct Parts {
    registries: BTreeSet<RegistryHost>,
    is_private: Box<dyn Fn(&RegistryHost) -> bool + Send + Sync>,
}

impl Private {
    /// Those of `registries` that `is_private` says it of at the time.
    pub(super) fn new(
        registries: impl IntoIterator<Item = RegistryHost>,
        is_private: impl Fn(&RegistryHost) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(Parts {
            registries: registries.into_iter().collect(),
            is_private: Box::new(is_private),
        })))
    }

    pub(super) fn contains(&self, registry: &RegistryHost) -> bool {
        let parts = self.0.as_ref();
        parts.is_some_and(|parts| {
            parts.registries.contains(registry) && (parts.is_private)(registry)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        let parts = self.0.as_ref();
        parts.is_none_or(|parts| !parts.registries.iter().any(|host| (parts.is_private)(host)))
    }
}
