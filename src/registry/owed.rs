//! Content that a push named and only its source has: fetched in the background, so that the job has all of what it
//! pushed even when the source goes away.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{Error, Registry, Rule, Want, Wanted, needs::Held, unavailable};
use crate::{
    cache::Patience,
    storage::{Owed, blocking},
    types::{Manifest, Reference, UploadId},
};

/// Background fetches at once, so that they don't take the line from what a client waits for.
pub(super) struct Throttle(Arc<Semaphore>);

impl Default for Throttle {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(4)))
    }
}

impl Registry {
    /// Goes on with what an earlier process owed. Nothing is asked for in `--offline`.
    pub async fn resume_owed(&self) -> Result<(), Error> {
        let registry = self.clone();
        let owed = blocking(move || registry.0.store.owed()).await?;
        for (id, owed) in owed {
            if self.may_ask(&owed.name) {
                self.fetch_owed(id, owed);
            }
        }
        Ok(())
    }

    pub(super) fn fetch_owed(&self, id: UploadId, owed: Owed) {
        let registry = self.clone();
        self.0.runtime.spawn(async move {
            // Closed never: the registry holds it.
            let Ok(_place) = Arc::clone(&registry.0.owed.0).acquire_owned().await else {
                return;
            };
            let Owed { name, digest, .. } = &owed;
            match registry.persist(&owed).await {
                Ok(true) => log::debug!("{name}: {digest} is here now"),
                Ok(false) => log::warn!(
                    "{name}: a push named {digest}, which {} no longer has",
                    name.source()
                ),
                Err(error) => {
                    log::warn!("{name}: {digest}, which a push named, is not here yet: {error}");
                    return;
                }
            }
            let parts = registry.clone();
            if let Err(error) = blocking(move || parts.0.store.settle(id)).await {
                log::warn!("{name}: {error}");
            }
        });
    }

    /// Tries a few times; what fails now is tried again at the next start, and by every GET.
    async fn persist(&self, owed: &Owed) -> Result<bool, Error> {
        const PAUSES: [Duration; 3] = [
            Duration::from_secs(1),
            Duration::from_secs(5),
            Duration::from_secs(20),
        ];
        for pause in PAUSES {
            match self.fetch(owed).await {
                Err(Error::Upstream(_)) => tokio::time::sleep(pause).await,
                other => return other,
            }
        }
        self.fetch(owed).await
    }

    async fn fetch(&self, owed: &Owed) -> Result<bool, Error> {
        let wanted = match owed.manifest {
            true => Wanted::Manifest,
            false => Wanted::Blob,
        };
        let failed = |error| unavailable(Rule::Default, owed.digest.to_string(), wanted, error);
        if !owed.manifest {
            return self
                .0
                .cache
                .fill_blob(&owed.name, &owed.digest, owed.size)
                .await
                .map_err(failed);
        }
        let reference = Reference::Digest(owed.digest.clone());
        let found = self
            .0
            .cache
            .manifest(&owed.name, &reference, Want::Bytes, Patience::Full)
            .await
            .map_err(failed)?;
        let Some(found) = found else { return Ok(false) };
        let Some(bytes) = found.bytes else {
            return Ok(false);
        };
        let manifest = Manifest::pulled(&bytes, Some(found.entry.media_type.as_str()));
        let needs = self.needs(&owed.name, &manifest.references, None).await?;
        self.keep(
            &owed.name,
            Held {
                digest: owed.digest.clone(),
                bytes,
                manifest,
            },
            Vec::new(),
            needs,
        )
        .await?;
        Ok(true)
    }
}
