//! What a registry says that does not do what it is asked.

use std::time::Duration;

use reqwest::{Response, StatusCode, header::RETRY_AFTER};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    super::{Cause, answer::delay, text},
    Failure,
};

/// Why it does not do what was asked, in its own words.
pub(super) async fn refusal(mut response: Response) -> Failure {
    #[derive(Deserialize)]
    struct Answer {
        errors: Vec<Told>,
    }
    #[derive(Deserialize)]
    struct Told {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = response.status();
    let retry_after = text(response.headers(), RETRY_AFTER);
    let after = retry_after.as_deref().and_then(delay);
    let mut body = Vec::new();
    while let Ok(Ok(Some(piece))) = timeout(ANSWERING, response.chunk()).await
        && body.len() < MESSAGE_LIMIT
    {
        body.extend_from_slice(&piece);
    }
    let answer: Option<Answer> = serde_json::from_slice(&body).ok();
    let told = answer.and_then(|answer| answer.errors.into_iter().next());
    let message = told.map(|Told { code, message }| {
        let text = match (code.is_empty(), message.is_empty()) {
            (false, false) => format!("{code}: {message}"),
            _ => code + &message,
        };
        // Whoever reads it has a terminal, which obeys.
        let mut printed = String::new();
        for c in text.chars().take(SHOWN) {
            match c.is_control() {
                true => printed.extend(c.escape_unicode()),
                false => printed.push(c),
            }
        }
        printed
    });
    let status_code = status.as_u16();
    let cause = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Cause::Denied {
            status: status_code,
            message,
        },
        StatusCode::TOO_MANY_REQUESTS => Cause::RateLimited { retry_after },
        _ => Cause::Refused {
            status: status_code,
            message,
        },
    };
    Failure {
        after,
        ..Failure::from(cause)
    }
}

/// How long a refusal may take to say why.
const ANSWERING: Duration = Duration::from_secs(5);

/// Bytes of a refusal that are read.
const MESSAGE_LIMIT: usize = 64 << 10;

/// Characters of it that are told.
const SHOWN: usize = 500;
