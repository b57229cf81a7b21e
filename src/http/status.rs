//! `/status`: which of its forms is wanted, and how much whoever asks may know. What is on it is not known here.

use std::sync::Arc;

use actix_web::{
    HttpResponse,
    dev::RequestHead,
    http::header::{self, HeaderValue},
};

use super::{
    Connection, Http,
    auth::Shown,
    error::{self, ErrorCode},
    path,
};
use crate::{
    registry::access::{Action, Credentials, Identity, Refusal},
    types::CanonicalName,
};

/// Makes the page.
pub type Status = Arc<dyn Fn(&StatusAsked<'_>) -> StatusPage + Send + Sync>;

/// What is wanted of `/status`.
pub struct StatusAsked<'a> {
    pub form: StatusForm,
    /// The page is to be loaded again after so many seconds, again and again.
    pub refresh: Option<u16>,
    /// Whether whoever asks may know of that repository.
    pub may: &'a dyn Fn(&CanonicalName) -> bool,
    /// They are on this machine, or a user.
    pub trusted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusForm {
    Html,
    Json,
    Markdown,
}

pub struct StatusPage {
    pub text: String,
    /// What it may load and run.
    pub policy: &'static str,
}

pub(super) async fn status(
    http: &Http,
    request: &RequestHead,
    connection: &Connection,
) -> HttpResponse {
    let parameters = path::parameters(request.uri.query().unwrap_or_default());
    let parameter = |key: &str| {
        let mut of_key = parameters.iter().filter(|(known, _)| known == key);
        of_key.next().map(|(_, value)| value.as_str())
    };
    let form = match (parameter("format"), request.headers().get(header::ACCEPT)) {
        (Some("html"), _) => StatusForm::Html,
        (Some("json"), _) => StatusForm::Json,
        (Some("md" | "markdown"), _) => StatusForm::Markdown,
        (Some(_), _) => return bad_request("format is html, json or md"),
        (None, accept) => accepted(accept),
    };
    let refresh = match parameter("refresh").map(str::parse) {
        None => None,
        Some(Ok(seconds @ 1..=3600)) => Some(seconds),
        Some(_) => return bad_request("refresh is a number of seconds, 1 to 3600"),
    };
    let identity = match reader(http, request, connection, parameter("login").is_some()).await {
        Ok(identity) => identity,
        Err(refusal) => return log_in(&refusal),
    };
    http.count_cache();
    let page = (http.status)(&StatusAsked {
        form,
        refresh,
        may: &|name| identity.may(Action::Pull, name),
        trusted: connection.is_on_loopback() || identity.user().is_some(),
    });
    HttpResponse::Ok()
        .content_type(match form {
            StatusForm::Html => "text/html; charset=utf-8",
            StatusForm::Json => "application/json",
            StatusForm::Markdown => "text/markdown; charset=utf-8",
        })
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::VARY, "Accept, Authorization"))
        .insert_header((header::CONTENT_SECURITY_POLICY, page.policy))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::X_FRAME_OPTIONS, "DENY"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .body(page.text)
}

/// Whoever asks. One who shows who they are, or wants to, must be somebody.
async fn reader(
    http: &Http,
    request: &RequestHead,
    connection: &Connection,
    logs_in: bool,
) -> Result<Identity, Refusal> {
    let shown = Shown::by(request.headers());
    let credentials = shown.credentials();
    let visitor = connection.visitor(credentials);
    match logs_in || !matches!(credentials, Credentials::None) {
        true => http.access.log_in(visitor).await,
        false => http.access.reader(visitor).await,
    }
}

/// Browsers can do nothing with a challenge for a token, and no registry's client comes here.
fn log_in(refusal: &Refusal) -> HttpResponse {
    let message = format!("{refusal}: /status lists images that not everyone may pull");
    let status = actix_web::http::StatusCode::UNAUTHORIZED;
    let mut response = error::refuse(status, ErrorCode::Unauthorized, &message);
    let challenge = HeaderValue::from_static("Basic realm=\"standin\", charset=\"UTF-8\"");
    let headers = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn bad_request(message: &str) -> HttpResponse {
    let status = actix_web::http::StatusCode::BAD_REQUEST;
    error::refuse(status, ErrorCode::Unsupported, message)
}

/// Browsers name HTML, scripts what they want; curl takes anything.
fn accepted(accept: Option<&HeaderValue>) -> StatusForm {
    let accept = accept.and_then(|accept| accept.to_str().ok());
    let accept = accept.unwrap_or_default().to_ascii_lowercase();
    let names = |kind: &str| accept.contains(kind);
    match (
        names("text/html"),
        names("application/json"),
        names("text/markdown"),
    ) {
        (false, true, _) => StatusForm::Json,
        (false, false, true) => StatusForm::Markdown,
        _ => StatusForm::Html,
    }
}
