//! Pulling on the wire: blobs, manifests, tags.

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    body::SizedStream,
    http::{
        Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use futures_util::{StreamExt as _, stream};

use super::{
    Exchange, Named,
    conditional::{Precondition, Selection, etag, precondition, selection},
    error::{self, ErrorCode},
    warning::warning,
};
use crate::{
    registry::{Error, Want},
    types::{Digest, Reference},
};

const OCTETS: &str = "application/octet-stream";
const CONTENT_DIGEST: &str = "docker-content-digest";
const ACCEPT_RANGES: (HeaderName, &str) = (header::ACCEPT_RANGES, "bytes");

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
        Ok(match self.preconditions(digest) {
            Some(answer) => answer,
            None => described(HttpResponse::Ok(), OCTETS, digest)
                .insert_header(ACCEPT_RANGES)
                .body(without_bytes(size)),
        })
    }

    pub(super) async fn pull_blob(
        &self,
        named: &Named,
        digest: &Digest,
    ) -> Result<HttpResponse, Error> {
        let registry = &self.http.registry;
        let (mut body, part) = registry.pull_blob(&named.target, digest).await?;
        if let Some(answer) = self.preconditions(digest) {
            return Ok(answer);
        }
        let size = body.size();
        let selection = match size {
            Some(size) => selection(self.request.headers(), digest, size),
            None => Selection::Whole,
        };
        let (status, range) = match selection {
            Selection::Whole => (StatusCode::OK, None),
            Selection::Part { start, end } => (StatusCode::PARTIAL_CONTENT, Some(start..end)),
            Selection::Unsatisfiable => return Ok(unsatisfiable(digest, size.unwrap_or_default())),
        };
        if let Some(range) = range.as_ref().filter(|range| range.start > 0) {
            registry
                .await_byte(&named.target, digest, &mut body, range.start)
                .await?;
        }
        let mut response = described(HttpResponse::build(status), OCTETS, digest);
        response.insert_header(ACCEPT_RANGES);
        if let (Some(range), Some(size)) = (&range, size) {
            let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            response.insert_header((header::CONTENT_RANGE, content_range));
        }
        let length = range.as_ref().map(|range| range.end - range.start).or(size);
        let (piece, place) = self.http.downloads.enter(self.connection.tls);
        let name = named.target.name.clone();
        let digest = digest.clone();
        let pieces = part.of(body.stream(range, piece)).map(move |piece| {
            // Held for as long as the body is sent.
            let _place = &place;
            piece.inspect_err(|error| log::warn!("{name}: sending {digest} is broken off: {error}"))
        });
        // At an error actix drops what it has not written yet, headers included. It writes whenever it has to wait.
        let pieces = pieces.then(|piece| async {
            if piece.is_err() {
                tokio::task::yield_now().await;
            }
            piece
        });
        Ok(match length {
            Some(length) => response.body(SizedStream::new(length, pieces)),
            None => response.streaming(pieces),
        })
    }

    pub(super) async fn pull_manifest(
        &self,
        named: &Named,
        reference: &Reference,
    ) -> Result<HttpResponse, Error> {
        let head = self.request.method == Method::HEAD;
        let want = if head { Want::Description } else { Want::Bytes };
        let (manifest, part) = self
            .http
            .registry
            .pull_manifest(&named.target, reference, want)
            .await?;
        let mut response = match self.preconditions(&manifest.digest) {
            Some(answer) => answer,
            None => {
                let media_type = manifest.entry.media_type.as_str();
                let mut response = described(HttpResponse::Ok(), media_type, &manifest.digest);
                match manifest.bytes {
                    Some(bytes) => {
                        part.sent(bytes.len());
                        response.body(bytes)
                    }
                    None => response.body(without_bytes(manifest.entry.size)),
                }
            }
        };
        if let Some(error) = manifest.stale
            && let Some(warning) = warning(&format!("stale: {error}"))
        {
            response.headers_mut().insert(header::WARNING, warning);
        }
        Ok(response)
    }

    /// The answer to a request whose preconditions leave nothing to be sent.
    fn preconditions(&self, digest: &Digest) -> Option<HttpResponse> {
        let status = match precondition(self.request.headers(), digest) {
            Precondition::Proceed => return None,
            Precondition::NotModified => StatusCode::NOT_MODIFIED,
            Precondition::Failed => StatusCode::PRECONDITION_FAILED,
        };
        let mut response = HttpResponse::build(status);
        response.insert_header((header::ETAG, etag(digest)));
        Some(
            response
                .insert_header((CONTENT_DIGEST, digest.to_string()))
                .finish(),
        )
    }
}

/// What every answer says of the content it is about.
fn described(
    mut response: HttpResponseBuilder,
    media_type: &str,
    digest: &Digest,
) -> HttpResponseBuilder {
    response
        .insert_header((header::CONTENT_TYPE, media_type))
        .insert_header((CONTENT_DIGEST, digest.to_string()))
        .insert_header((header::ETAG, etag(digest)));
    response
}

fn unsatisfiable(digest: &Digest, size: u64) -> HttpResponse {
    let message = format!("{digest} has {size} bytes, and the range asked for has none of them");
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    let mut response = error::refuse(status, ErrorCode::SizeInvalid, &message);
    if let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}

/// For HEAD: the length of a body that is not sent.
fn without_bytes(
    size: u64,
) -> SizedStream<impl futures_util::Stream<Item = Result<bytes::Bytes, std::io::Error>>> {
    SizedStream::new(size, stream::empty())
}
