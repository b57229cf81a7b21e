//! Pushing on the wire: upload sessions and manifests.

use actix_web::{HttpResponse, http::header, web};

use super::{Exchange, Named, body, error, parse_digest};
use crate::{
    registry::{Error, FinishedUpload},
    types::{Algorithm, ContentRange, Digest, Reference, UploadId, manifest::MANIFEST_LIMIT},
};

const UPLOAD_UUID: &str = "docker-upload-uuid";
const CONTENT_DIGEST: &str = "docker-content-digest";

impl Exchange<'_> {
    /// POST: a session, or with `digest` the whole blob at once. A mount's parameters are answered with a session, as the
    /// spec allows.
    pub(super) async fn start_upload(
        &self,
        named: &Named,
        payload: web::Payload,
    ) -> Result<HttpResponse, Error> {
        let registry = &self.http.registry;
        if let Some(digest) = named.parameter("digest") {
            let (digest, body) = (parse_digest(digest)?, body::incoming(payload));
            let finished = registry
                .push_blob(&named.target, &digest, self.content_length(), body)
                .await?;
            return Ok(self.created(named, &finished));
        }
        let algorithm = match named.parameter("digest-algorithm") {
            Some(algorithm) => algorithm
                .parse()
                .map_err(|error| Error::DigestInvalid(format!("digest-algorithm: {error}")))?,
            None => Algorithm::Sha256,
        };
        let id = registry.start_upload(&named.target, algorithm).await?;
        Ok(self.accepted(named, id, 0))
    }

    pub(super) async fn append_upload(
        &self,
        named: &Named,
        id: UploadId,
        payload: web::Payload,
    ) -> Result<HttpResponse, Error> {
        let (range, length) = (self.content_range(id)?, self.content_length());
        let offset = self
            .http
            .registry
            .append_upload(id, range, length, body::incoming(payload))
            .await?;
        Ok(self.accepted(named, id, offset))
    }

    pub(super) async fn finish_upload(
        &self,
        named: &Named,
        id: UploadId,
        payload: web::Payload,
    ) -> Result<HttpResponse, Error> {
        let Some(digest) = named.parameter("digest") else {
            return Err(Error::DigestInvalid(
                "the last request of an upload names its digest: add ?digest=<digest>".to_owned(),
            ));
        };
        let digest = parse_digest(digest)?;
        // Some clients send the range of the whole blob, or an empty one, with a body of no bytes.
        let length = self.content_length();
        let range = if length == Some(0) {
            None
        } else {
            self.content_range(id)?
        };
        let finished = self
            .http
            .registry
            .finish_upload(id, &digest, range, length, body::incoming(payload))
            .await?;
        Ok(self.created(named, &finished))
    }

    pub(super) fn upload_status(&self, named: &Named, id: UploadId) -> Result<HttpResponse, Error> {
        let status = self.http.registry.upload_status(id)?;
        Ok(HttpResponse::NoContent()
            .insert_header((header::LOCATION, named.links().upload(id)))
            .insert_header((header::RANGE, error::received(status.offset)))
            .insert_header((UPLOAD_UUID, id.to_string()))
            .finish())
    }

    pub(super) async fn cancel_upload(&self, id: UploadId) -> Result<HttpResponse, Error> {
        self.http.registry.cancel_upload(id).await?;
        Ok(HttpResponse::NoContent().finish())
    }

    pub(super) async fn push_manifest(
        &self,
        named: &Named,
        reference: &Reference,
        payload: web::Payload,
    ) -> Result<HttpResponse, Error> {
        let too_large = Error::ManifestTooLarge {
            limit: MANIFEST_LIMIT,
        };
        if self
            .content_length()
            .is_some_and(|length| length > MANIFEST_LIMIT as u64)
        {
            return Err(too_large);
        }
        let whole = body::whole(payload, MANIFEST_LIMIT).await;
        let bytes = whole
            .map_err(|broken| Error::ManifestInvalid(format!("the manifest broke off: {broken}")))?
            .ok_or(too_large)?;
        let content_type = self.header(header::CONTENT_TYPE);
        let pushed = self
            .http
            .registry
            .push_manifest(&named.target, reference, content_type, bytes)
            .await?;
        Ok(HttpResponse::Created()
            .insert_header((header::LOCATION, named.links().manifest(reference)))
            .insert_header((CONTENT_DIGEST, pushed.digest.to_string()))
            .finish())
    }

    fn accepted(&self, named: &Named, id: UploadId, offset: u64) -> HttpResponse {
        HttpResponse::Accepted()
            .insert_header((header::LOCATION, named.links().upload(id)))
            .insert_header((header::RANGE, error::received(offset)))
            .insert_header((UPLOAD_UUID, id.to_string()))
            .finish()
    }

    fn created(&self, named: &Named, finished: &FinishedUpload) -> HttpResponse {
        let digest: &Digest = &finished.digest;
        HttpResponse::Created()
            .insert_header((header::LOCATION, named.links().blob(digest)))
            .insert_header((CONTENT_DIGEST, digest.to_string()))
            .finish()
    }

    fn content_length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// The range a chunk claims. One that can't be read is refused as one that does not fit.
    fn content_range(&self, id: UploadId) -> Result<Option<ContentRange>, Error> {
        let Some(text) = self.header(header::CONTENT_RANGE) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(range) => Ok(Some(range)),
            Err(error) => {
                let offset = self.http.registry.upload_status(id)?.offset;
                Err(Error::RangeInvalid {
                    offset,
                    why: format!("{error}"),
                })
            }
        }
    }
}
