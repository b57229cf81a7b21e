//! Pushing: to the registry itself and never to a mirror. What is sent is tried again as what is asked is, and a blob
//! from its first byte on.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::time::{Instant, sleep};

use super::{
    Cause, Effort, Error, Patience, Upstreams,
    auth::Access,
    content_length,
    endpoint::{Ask, Endpoint, Failure, Manifest, Opened, Upload, Want},
};
use crate::types::{Digest, Reference, RegistryHost, RepositoryName};

/// A blob's bytes as they are sent. An error ends the sending.
pub type Pieces = BoxStream<'static, std::io::Result<Bytes>>;

/// A blob that is to be pushed to a repository.
#[derive(Clone, Copy)]
pub struct BlobPush<'a> {
    pub name: &'a RepositoryName,
    pub digest: &'a Digest,
    /// In bytes.
    pub size: u64,
}

impl Upstreams {
    /// Whether the registry has the blob already, for whoever is about to push it (end-2); its size, if it says so.
    pub async fn find_pushed_blob(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Option<u64>>, Error> {
        let endpoint = self.itself(registry)?;
        let ask = Ask {
            name,
            rest: &format!("blobs/{digest}"),
            accept: None,
            access: Access::Push,
            want: Want::Head,
            effort: Effort::from(Patience::Full),
        };
        let until = Instant::now() + self.pace.budget;
        let answer = endpoint.ask(ask, &self.pace, until).await;
        let answer = answer.map_err(|cause| Error::new(registry, pushing(cause)))?;
        Ok(answer.map(|answer| content_length(&answer.headers)))
    }

    /// Has the registry mount a blob `from` another repository of its own (end-11); whether it did.
    pub async fn mount_blob(
        &self,
        registry: &RegistryHost,
        blob: BlobPush<'_>,
        from: &RepositoryName,
    ) -> Result<bool, Error> {
        let endpoint = self.itself(registry)?;
        let opened = endpoint.open_upload(upload(blob), Some(from), &self.pace);
        match opened.await {
            Ok(Opened::Mounted) => Ok(true),
            // One that may not be read there, or is not there any more.
            Ok(Opened::Session(session)) => {
                endpoint.cancel(session, &self.pace).await;
                Ok(false)
            }
            Err(failure) => {
                log::debug!(
                    "{registry}: {} is not mounted: {}",
                    blob.digest,
                    failure.cause
                );
                Ok(false)
            }
        }
    }

    /// Sends a blob (end-4a, end-6). `open` gives its bytes from the first on, each time anew, or nothing if they can't be
    /// had; then there is no further try.
    pub async fn push_blob(
        &self,
        registry: &RegistryHost,
        blob: BlobPush<'_>,
        mut open: impl FnMut() -> Option<Pieces> + Send,
    ) -> Result<(), Error> {
        let endpoint = self.itself(registry)?;
        for tried in 0.. {
            let sent = async {
                match endpoint.open_upload(upload(blob), None, &self.pace).await? {
                    Opened::Mounted => Ok(()),
                    Opened::Session(session) => {
                        let open: &mut (dyn FnMut() -> Option<Pieces> + Send) = &mut open;
                        endpoint
                            .upload(upload(blob), session, open, &self.pace)
                            .await
                    }
                }
            };
            let what = format!("blob {}", blob.digest);
            match sent.await {
                Ok(()) => return Ok(()),
                Err(failure) => self.pause(endpoint, &what, failure, tried).await?,
            }
        }
        Ok(())
    }

    /// Sends a manifest, which is visible from then on (end-7).
    pub async fn push_manifest(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        reference: &Reference,
        (digest, media_type, bytes): (&Digest, &str, &Bytes),
    ) -> Result<(), Error> {
        let endpoint = self.itself(registry)?;
        let manifest = Manifest {
            name,
            reference,
            digest,
            media_type,
            bytes,
        };
        for tried in 0.. {
            let what = format!("manifest {reference}");
            match endpoint.push_manifest(manifest, &self.pace).await {
                Ok(()) => return Ok(()),
                Err(failure) => self.pause(endpoint, &what, failure, tried).await?,
            }
        }
        Ok(())
    }

    fn itself(&self, registry: &RegistryHost) -> Result<&Endpoint, Error> {
        let upstream = self.registries.get(registry);
        upstream
            .map(|upstream| &upstream.itself)
            .ok_or_else(|| Error::new(registry, Cause::NotConfigured))
    }

    /// Waits for the next try, if there is to be one.
    async fn pause(
        &self,
        endpoint: &Endpoint,
        what: &str,
        failure: Failure,
        tried: u32,
    ) -> Result<(), Error> {
        let Failure { cause, after, .. } = failure;
        let pause = after.unwrap_or_else(|| self.pace.backoff(tried));
        if tried >= self.pace.retries || !cause.is_temporary() || pause > self.pace.budget {
            return Err(Error::new(endpoint.registry(), cause));
        }
        log::info!(
            "{}: {what} is sent again in {} ms: {cause}",
            endpoint.registry(),
            pause.as_millis()
        );
        sleep(pause).await;
        Ok(())
    }
}

fn upload(blob: BlobPush<'_>) -> Upload<'_> {
    Upload {
        name: blob.name,
        digest: blob.digest,
        size: blob.size,
    }
}

/// What a failure means to whoever wanted to push.
fn pushing(cause: Cause) -> Cause {
    match cause {
        Cause::Unauthorized(status) => Cause::Denied {
            status,
            message: None,
        },
        other => other,
    }
}
