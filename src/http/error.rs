//! Errors on the wire: one status and one code for each failure, in one match.
//!
//! docker prints nothing of an error but its message, so the message says who refuses and what to do about it. An answer
//! of 500 carries an id in place of internals; the log has the rest under that id.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes>

#![deny(clippy::wildcard_enum_match_arm)]

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
};
use serde_json::json;

use crate::{
    registry::{Cause, Error, Rule, UpstreamFailure, Wanted, access::Refusal},
    types::RequestId,
};

/// The spec's codes, and two that distribution has for what the spec has no word for (`UNAVAILABLE`, `UNKNOWN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unknown,
    Unsupported,
}

impl ErrorCode {
    fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

/// How loudly a refusal is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// Every push meets it, and many a pull.
    Usual,
    /// Somebody asked for an image by name that nobody has.
    Missed,
    /// A client did something wrong.
    Refused,
    /// Something failed that should not have.
    Failed,
}

/// The answer to a request that failed, and its line in the log. `request` is what to call the request there.
/// One that is a HEAD only wants to know.
pub(super) fn respond(error: &Error, request: &str, head: bool) -> HttpResponse {
    let (status, code, weight) = classify(error);
    let message = if status == StatusCode::INTERNAL_SERVER_ERROR {
        let id = RequestId::random();
        log::error!("{request}: {} {error} (request {id})", status.as_u16());
        format!("standin failed; its log tells why, under request {id}")
    } else {
        let line = format!("{request}: {} {}: {error}", status.as_u16(), code.as_str());
        match weight {
            Weight::Usual => log::debug!("{line}"),
            Weight::Missed if head => log::debug!("{line}"),
            Weight::Missed | Weight::Refused => log::info!("{line}"),
            Weight::Failed => log::warn!("{line}"),
        }
        format!("standin: {error}")
    };
    let mut response = HttpResponse::build(status);
    if let Error::RangeInvalid { offset, .. } = error {
        response.insert_header((header::RANGE, received(*offset)));
    }
    let mut response = response.json(body(code, &message, detail(error)));
    response.extensions_mut().insert(Told);
    response
}

/// Marks an answer that the log has been told of.
pub(super) struct Told;

/// An answer of our own making, for what never reaches the registry.
pub(super) fn refuse(status: StatusCode, code: ErrorCode, message: &str) -> HttpResponse {
    HttpResponse::build(status).json(body(
        code,
        &format!("standin: {message}"),
        serde_json::Value::Null,
    ))
}

/// `Range` of an upload that holds `offset` bytes.
pub(super) fn received(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn body(code: ErrorCode, message: &str, detail: serde_json::Value) -> serde_json::Value {
    json!({ "errors": [{ "code": code.as_str(), "message": message, "detail": detail }] })
}

fn classify(error: &Error) -> (StatusCode, ErrorCode, Weight) {
    use Weight::{Failed, Missed, Refused, Usual};
    match error {
        Error::BlobUnknown(_) => (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown, Usual),
        Error::BlobUploadInvalid(_) => (
            StatusCode::BAD_REQUEST,
            ErrorCode::BlobUploadInvalid,
            Refused,
        ),
        Error::BlobUploadUnknown => (StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown, Refused),
        Error::DigestInvalid(_) => (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid, Refused),
        Error::ManifestBlobUnknown { .. } => (
            StatusCode::BAD_REQUEST,
            ErrorCode::ManifestBlobUnknown,
            Refused,
        ),
        Error::InUse(_) => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Denied, Refused),
        Error::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid, Refused),
        Error::ManifestUnknown(_) => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown, Missed),
        Error::ManifestTooLarge { .. } => (
            StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::ManifestInvalid,
            Refused,
        ),
        Error::NameInvalid(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid, Refused),
        Error::NameUnknown(_) => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown, Missed),
        Error::SizeInvalid(_) => (StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid, Refused),
        Error::RangeInvalid { .. } => (
            StatusCode::RANGE_NOT_SATISFIABLE,
            ErrorCode::BlobUploadInvalid,
            Refused,
        ),
        Error::Misdirected { .. } => (
            StatusCode::MISDIRECTED_REQUEST,
            ErrorCode::Unsupported,
            Refused,
        ),
        Error::TooManyUploads { .. } => (
            StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::TooManyRequests,
            Refused,
        ),
        Error::Unsupported(_) => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported, Refused),
        Error::NoRoom(_) => (
            StatusCode::INSUFFICIENT_STORAGE,
            ErrorCode::Unavailable,
            Failed,
        ),
        Error::Upstream(failure) => classify_upstream(failure),
        Error::Refused(refusal) => classify_refusal(refusal),
        Error::TokenRequest(_) => (StatusCode::BAD_REQUEST, ErrorCode::Unsupported, Refused),
        Error::Storage(_) | Error::Read(_) | Error::NotSigned(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Unknown,
            Failed,
        ),
    }
}

/// 401 where logging in would help, 403 where it would not.
fn classify_refusal(refusal: &Refusal) -> (StatusCode, ErrorCode, Weight) {
    let (status, code) = (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized);
    match refusal {
        Refusal::Denied { .. } => (StatusCode::FORBIDDEN, ErrorCode::Denied, Weight::Refused),
        Refusal::Malformed | Refusal::Token(_) => (status, code, Weight::Refused),
        // Every client's first request that needs a log-in meets these; `auth` tells of the wrong password, with the name.
        Refusal::LogIn(_)
        | Refusal::Private(_)
        | Refusal::Scope { .. }
        | Refusal::WrongPassword { .. } => (status, code, Weight::Usual),
    }
}

/// A client that believes it talks to the real registry has no next host, so it hears of the failure. Any other may be
/// using us as a mirror, and goes on to the next host if it hears "unknown".
fn classify_upstream(failure: &UpstreamFailure) -> (StatusCode, ErrorCode, Weight) {
    let unknown = match failure.wanted {
        Wanted::Blob => ErrorCode::BlobUnknown,
        Wanted::Manifest => ErrorCode::ManifestUnknown,
        Wanted::Repository => ErrorCode::NameUnknown,
    };
    // A registry does not tell strangers what it has, so this is its way to say "unknown".
    if let Cause::Unauthorized(_) = failure.error.cause.essence() {
        return (StatusCode::NOT_FOUND, unknown, Weight::Missed);
    }
    match failure.rule {
        Rule::Parameter | Rule::Prefix | Rule::Default => {
            (StatusCode::NOT_FOUND, unknown, Weight::Failed)
        }
        Rule::Host => {
            let (status, code) = match failure.error.cause.essence() {
                Cause::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable),
                Cause::RateLimited { .. } | Cause::Busy(_) => {
                    (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyRequests)
                }
                Cause::NotConfigured
                | Cause::Unreachable(_)
                | Cause::Status(_)
                | Cause::Unauthorized(_)
                | Cause::Denied { .. }
                | Cause::Refused { .. }
                | Cause::Token { .. }
                | Cause::Cut(_)
                | Cause::Protocol(_)
                | Cause::DigestMismatch { .. }
                | Cause::Resting { .. }
                | Cause::Elsewhere { .. }
                | Cause::Everywhere { .. } => (StatusCode::BAD_GATEWAY, ErrorCode::Unavailable),
            };
            (status, code, Weight::Failed)
        }
    }
}

fn detail(error: &Error) -> serde_json::Value {
    // Every other error says all it knows in its message.
    if let Error::ManifestBlobUnknown { missing, .. } = error {
        json!({ "missing": missing })
    } else {
        serde_json::Value::Null
    }
}
