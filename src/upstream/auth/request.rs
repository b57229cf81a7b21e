//! The request for a token, and what its answer must be. Knows no cache, and asks whoever it is told to.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{
    StatusCode, Url,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::super::{Cause, credentials::Login, text};

/// A request for a token.
pub(super) struct Request<'a> {
    pub(super) client: &'a reqwest::Client,
    pub(super) realm: &'a Url,
    pub(super) service: Option<&'a str>,
    /// Several are parted by spaces.
    pub(super) scope: &'a str,
}

impl Request<'_> {
    /// `None`: it is refused.
    pub(super) async fn send(&self, login: Option<&Login>) -> Result<Option<Token>, Cause> {
        if let Some(Login::Identity(token)) = login {
            return self
                .post(&[("grant_type", "refresh_token"), ("refresh_token", token)])
                .await;
        }
        let mut url = self.realm.clone();
        let mut request = {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(self.service.map(|service| ("service", service)));
            query.extend_pairs(self.scope.split(' ').map(|scope| ("scope", scope)));
            if let Some(Login::Password { user, .. }) = login {
                query.append_pair("account", user);
            }
            drop(query);
            self.client.get(url)
        };
        if let Some(Login::Password { user, password }) = login {
            request = request.header(AUTHORIZATION, basic(user, password));
        }
        let sent = Instant::now();
        let response = request
            .header(ACCEPT_ENCODING, "identity")
            .send()
            .await
            .map_err(|error| Cause::of_request(&error))?;
        match (response.status(), login) {
            // Some servers have OAuth 2 only.
            (
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED,
                Some(Login::Password { user, password }),
            ) => {
                self.post(&[
                    ("grant_type", "password"),
                    ("username", user),
                    ("password", password),
                ])
                .await
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Ok(None),
            _ => read(response, sent).await.map(Some),
        }
    }

    async fn post(&self, grant: &[(&str, &str)]) -> Result<Option<Token>, Cause> {
        // A query is written as a form is.
        let mut form = self.realm.clone();
        form.set_query(None);
        form.query_pairs_mut()
            .extend_pairs(grant)
            .extend_pairs(self.service.map(|service| ("service", service)))
            .append_pair("scope", self.scope)
            .append_pair("client_id", "standin");
        let form = form.query().unwrap_or_default().to_owned();
        let sent = Instant::now();
        let response = self
            .client
            .post(self.realm.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT_ENCODING, "identity")
            .body(form)
            .send()
            .await
            .map_err(|error| Cause::of_request(&error))?;
        match response.status() {
            // 400 is what OAuth 2 has for a grant that is none (RFC 6749, 5.2).
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(None),
            _ => read(response, sent).await.map(Some),
        }
    }
}

/// The token in an answer to a request that was sent at `sent`.
async fn read(mut response: reqwest::Response, sent: Instant) -> Result<Token, Cause> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<serde_json::Value>,
    }
    let status = response.status();
    if status == StatusCode::TOO_MANY_REQUESTS {
        let retry_after = text(response.headers(), RETRY_AFTER);
        return Err(Cause::RateLimited { retry_after });
    }
    if status.is_redirection() {
        return Err(Cause::Protocol(format!(
            "it answered {status}, and for tokens redirects are not followed"
        )));
    }
    if !status.is_success() {
        return Err(Cause::Status(status.as_u16()));
    }
    let mut whole = Vec::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| Cause::of_request(&error))?
    {
        if whole.len() + piece.len() > ANSWER_LIMIT {
            let problem = format!("its answer is larger than {ANSWER_LIMIT} bytes");
            return Err(Cause::Protocol(problem));
        }
        whole.extend_from_slice(&piece);
    }
    let unusable = |what: &str| Cause::Protocol(format!("its answer {what}"));
    let answer: Answer =
        serde_json::from_slice(&whole).map_err(|_| unusable("is no JSON with a token"))?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let token = given(answer.token)
        .or_else(|| given(answer.access_token))
        .ok_or_else(|| unusable("has neither token nor access_token"))?;
    let mut header = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| unusable("has a token that no header can hold"))?;
    header.set_sensitive(true);
    let seconds = answer
        .expires_in
        .as_ref()
        .and_then(serde_json::Value::as_f64);
    let seconds = seconds
        .filter(|seconds| *seconds > 0.0)
        .map_or(LIFETIME, |seconds| {
            Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64()))
        });
    Ok(Token {
        header,
        renew_at: sent + (seconds - MARGIN.min(seconds / 10)),
    })
}

/// What a token server gave, or whoever came before.
pub(super) struct Token {
    pub(super) header: HeaderValue,
    pub(super) renew_at: Instant,
}

/// The value of `Authorization` for a user and a password.
pub(super) fn basic(user: &str, password: &str) -> HeaderValue {
    let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    // Base64 is text that every header can hold.
    let mut value = HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// What a token is good for whose server does not say it, by distribution's specification.
const LIFETIME: Duration = Duration::from_secs(60);

/// Whatever a server says, it is asked again after a day.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A token is renewed so long before it expires, or a tenth of its life if that is less: it must still be good when the
/// request arrives.
const MARGIN: Duration = Duration::from_secs(10);

/// Tokens have some kilobytes; no registry takes headers of more than a few dozen.
const ANSWER_LIMIT: usize = 64 << 10;
