//! Pulling on the wire: blobs, manifests, tags.

use actix_web::{
    HttpResponse,
    body::SizedStream,
    http::{
        Method,
        header::{self, HeaderValue},
    },
};
use futures_util::{StreamExt as _, stream};
use serde_json::json;

use super::{Exchange, Named};
use crate::{
    registry::{Error, Want},
    types::{Digest, Reference},
};

const OCTETS: &str = "application/octet-stream";
const CONTENT_DIGEST: &str = "docker-content-digest";

impl Exchange<'_> {
    pub(super) async fn stat_blob(
        &self,
        named: &Named,
        digest: &Digest,
    ) -> Result<HttpResponse, Error> {
        // Clients take anything but 200 and 404 for the end of a push.
        let size = match self.http.registry.stat_blob(&named.target, digest).await {
            Ok(size) => size,
            Err(Error::Storage(error)) => {
                log::error!(
                    "{}: blob {digest} is taken as absent: {error}",
                    named.target.name
                );
                return Err(Error::BlobUnknown(error.to_string()));
            }
            Err(error) => return Err(error),
        };
        Ok(HttpResponse::Ok()
            .insert_header((header::CONTENT_TYPE, OCTETS))
            .insert_header((CONTENT_DIGEST, digest.to_string()))
            .body(without_bytes(size)))
    }

    pub(super) async fn pull_blob(
        &self,
        named: &Named,
        digest: &Digest,
    ) -> Result<HttpResponse, Error> {
        let body = self.http.registry.pull_blob(&named.target, digest).await?;
        let mut response = HttpResponse::Ok();
        response
            .insert_header((header::CONTENT_TYPE, OCTETS))
            .insert_header((CONTENT_DIGEST, digest.to_string()));
        let size = body.size();
        let (piece, place) = self.http.downloads.enter(self.connection.tls);
        let name = named.target.name.clone();
        let digest = digest.clone();
        let pieces = body.stream(piece).map(move |piece| {
            // Held for as long as the body is sent.
            let _place = &place;
            piece.inspect_err(|error| log::warn!("{name}: sending {digest} is broken off: {error}"))
        });
        Ok(match size {
            Some(size) => response.body(SizedStream::new(size, pieces)),
            None => response.streaming(pieces),
        })
    }

    pub(super) async fn pull_manifest(
        &self,
        named: &Named,
        reference: &Reference,
    ) -> Result<HttpResponse, Error> {
        let head = *self.request.method() == Method::HEAD;
        let want = if head { Want::Description } else { Want::Bytes };
        let manifest = self
            .http
            .registry
            .pull_manifest(&named.target, reference, want)
            .await?;
        let mut response = HttpResponse::Ok();
        response
            .insert_header((header::CONTENT_TYPE, manifest.entry.media_type.as_str()))
            .insert_header((CONTENT_DIGEST, manifest.digest.to_string()));
        Ok(match manifest.bytes {
            Some(bytes) => response.body(bytes),
            None => response.body(without_bytes(manifest.entry.size)),
        })
    }

    pub(super) async fn list_tags(&self, named: &Named) -> Result<HttpResponse, Error> {
        let limit = match named.parameter("n") {
            None => None,
            Some(n) => Some(
                n.parse::<usize>()
                    .map_err(|_| Error::Unsupported(format!("n={n:?} is no number of tags")))?,
            ),
        };
        let list = self.http.registry.list_tags(&named.target).await?;
        let behind = named.parameter("last").unwrap_or_default();
        let mut tags: Vec<&str> = list
            .tags
            .iter()
            .map(|tag| tag.as_str())
            .filter(|tag| *tag > behind)
            .collect();
        let mut response = HttpResponse::Ok();
        if let Some(limit) = limit
            && tags.len() > limit
        {
            tags.truncate(limit);
            // A page of none has no last one to go on behind.
            if let Some(last) = tags.last() {
                response.insert_header((
                    header::LINK,
                    format!("<{}>; rel=\"next\"", named.links().tags(limit, last)),
                ));
            }
        }
        if let Some(error) = &list.incomplete {
            let warning = format!(
                "299 - \"standin: only local tags: {}\"",
                error.to_string().replace(['"', '\\'], "'")
            );
            if let Ok(warning) = HeaderValue::from_str(&warning) {
                response.insert_header((header::WARNING, warning));
            }
        }
        Ok(response.json(json!({ "name": named.name, "tags": tags })))
    }
}

/// For HEAD: the length of a body that is not sent.
fn without_bytes(
    size: u64,
) -> SizedStream<impl futures_util::Stream<Item = Result<bytes::Bytes, std::io::Error>>> {
    SizedStream::new(size, stream::empty())
}
