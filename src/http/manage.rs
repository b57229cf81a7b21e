//! Content management on the wire: deleting, and mounting from another repository.

use actix_web::HttpResponse;

use super::{Exchange, Named, parse_digest};
use crate::{
    registry::{Error, FinishedUpload},
    types::{Digest, Reference},
};

impl Exchange<'_> {
    pub(super) async fn delete_manifest(
        &self,
        named: &Named,
        reference: &Reference,
    ) -> Result<HttpResponse, Error> {
        self.http
            .registry
            .delete_manifest(&named.target, reference)
            .await?;
        Ok(HttpResponse::Accepted().finish())
    }

    pub(super) async fn delete_blob(
        &self,
        named: &Named,
        digest: &Digest,
    ) -> Result<HttpResponse, Error> {
        self.http
            .registry
            .delete_blob(&named.target, digest)
            .await?;
        Ok(HttpResponse::Accepted().finish())
    }

    /// The blob that `mount` names, if it can be mounted; whatever stands in the way, the client may upload it instead.
    pub(super) async fn mount_blob(&self, named: &Named) -> Result<Option<FinishedUpload>, Error> {
        // What is no digest can't be mounted, and that is never an error.
        let Some(Ok(digest)) = named.parameter("mount").map(parse_digest) else {
            return Ok(None);
        };
        let registry = &self.http.registry;
        let ns = named.parameters.all("ns");
        let from = match named.parameter("from").filter(|from| !from.is_empty()) {
            None => None,
            Some(from) => match registry.resolve(&self.asked(from, &ns)) {
                Ok(from) => Some(from),
                // A name that can be no repository's holds nothing.
                Err(_) => return Ok(None),
            },
        };
        let mounted = registry
            .mount_blob(&named.target, &digest, from.as_ref(), &named.identity)
            .await?;
        Ok(mounted.then(|| FinishedUpload {
            name: named.target.name.clone(),
            digest,
        }))
    }
}
