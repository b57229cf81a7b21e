//! Pushing on the wire: upload sessions and manifests.

use actix_web::{HttpResponse, http::header};

use super::{
    Exchange, Named,
    body::{self, Incoming},
    error, parse_digest,
};
use crate::{
    registry::{Error, FinishedUpload, ManifestPush},
    types::{Algorithm, ContentRange, Digest, Reference, Tag, UploadId},
};

const UPLOAD_UUID: &str = "docker-upload-uuid";
const CONTENT_DIGEST: &str = "docker-content-digest";
const OCI_TAG: &str = "oci-tag";
const OCI_SUBJECT: &str = "oci-subject";

impl Exchange<'_> {
    /// POST: a session, or with `digest` the whole blob at once. A mount's parameters are answered with a session, as the
    /// spec allows.
    pub(super) async fn start_upload(
        &self,
        named: &Named,
        body: &Incoming,
    ) -> Result<HttpResponse, Error> {
        let registry = &self.http.registry;
        if let Some(digest) = named.parameter("digest") {
            let digest = parse_digest(digest)?;
            let finished = registry
                .push_blob(&named.target, &digest, self.content_length(), body.stream())
                .await?;
            return Ok(self.created(named, &finished));
        }
        if let Some(mounted) = self.mount_blob(named).await? {
            return Ok(self.created(named, &mounted));
        }
        let algorithm = named.algorithm()?;
        let id = registry.start_upload(&named.target, algorithm).await?;
        Ok(self.accepted(named, id, 0))
    }

    pub(super) async fn append_upload(
        &self,
        named: &Named,
        id: UploadId,
        body: &Incoming,
    ) -> Result<HttpResponse, Error> {
        let (range, length) = (self.content_range(id)?, self.content_length());
        let offset = self
            .http
            .registry
            .append_upload(id, range, length, body.stream())
            .await?;
        Ok(self.accepted(named, id, offset))
    }

    pub(super) async fn finish_upload(
        &self,
        named: &Named,
        id: UploadId,
        body: &Incoming,
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
            .finish_upload(id, &digest, range, length, body.stream())
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
        body: &Incoming,
    ) -> Result<HttpResponse, Error> {
        let tags = named.tags(reference)?;
        self.check_manifest_length()?;
        let limit = self.http.registry.limits().manifest;
        let whole = body::whole(body.stream(), limit).await;
        let bytes = whole
            .map_err(|broken| Error::ManifestInvalid(format!("the manifest broke off: {broken}")))?
            .ok_or(Error::ManifestTooLarge { limit })?;
        let content_type = self.header(header::CONTENT_TYPE);
        let push = ManifestPush {
            reference,
            tags: tags.clone(),
            content_type,
            body: bytes,
        };
        let registry = &self.http.registry;
        let pushed = registry
            .push_manifest(&named.target, push, &named.identity)
            .await?;
        let mut response = HttpResponse::Created();
        response
            .insert_header((header::LOCATION, named.links().manifest(reference)))
            .insert_header((CONTENT_DIGEST, pushed.digest.to_string()));
        for tag in &tags {
            response.append_header((OCI_TAG, tag.as_str()));
        }
        if let Some(subject) = &pushed.subject {
            response.insert_header((OCI_SUBJECT, subject.to_string()));
        }
        Ok(response.finish())
    }

    pub(super) fn check_manifest_length(&self) -> Result<(), Error> {
        let limit = self.http.registry.limits().manifest;
        let length = self.content_length();
        match length.is_none_or(|length| length <= limit as u64) {
            true => Ok(()),
            false => Err(Error::ManifestTooLarge { limit }),
        }
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
    pub(super) fn content_range(&self, id: UploadId) -> Result<Option<ContentRange>, Error> {
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

impl Named {
    /// Further tags for a manifest that is pushed by its digest.
    pub(super) fn tags(&self, reference: &Reference) -> Result<Vec<Tag>, Error> {
        let tags = match reference {
            Reference::Digest(_) => self.parameters.all("tag"),
            Reference::Tag(_) => Vec::new(),
        };
        tags.iter()
            .map(|tag| tag.parse())
            .collect::<Result<_, _>>()
            .map_err(|error| Error::ManifestInvalid(format!("tag: {error}")))
    }

    /// What a new upload session is to be hashed with.
    pub(super) fn algorithm(&self) -> Result<Algorithm, Error> {
        let Some(algorithm) = self.parameter("digest-algorithm") else {
            return Ok(Algorithm::Sha256);
        };
        algorithm
            .parse()
            .map_err(|error| Error::DigestInvalid(format!("digest-algorithm: {error}")))
    }
}
