//! What an answer comes to: its extent, and whether it is one that a registry gives.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderMap},
};

use super::{Cause, body::Expected, content_length, text};

pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) url: Url,
    pub(super) content: Content,
}

pub(super) enum Content {
    None,
    Stream {
        /// Of the whole, skipped bytes included.
        size: Option<u64>,
        body: BoxStream<'static, Result<Bytes, Cause>>,
    },
    Whole(Bytes),
}

impl Answer {
    /// The whole body, where that was wanted.
    pub(super) fn into_bytes(self) -> Bytes {
        match self.content {
            Content::Whole(bytes) => bytes,
            Content::None | Content::Stream { .. } => Bytes::new(),
        }
    }
}

/// Size of the whole, and what the body brings, of an answer to a request for what is behind `from`. An upstream may
/// ignore the range and send everything; what is known already is then read past.
pub(super) fn extent(
    response: &Response,
    from: u64,
    silence: Duration,
) -> Result<(Option<u64>, Expected), Cause> {
    let headers = response.headers();
    let length = content_length(headers);
    if response.status() != StatusCode::PARTIAL_CONTENT {
        if length.is_some_and(|length| length < from) {
            let why = format!("it has less than the {from} bytes that are known already");
            return Err(Cause::Protocol(why));
        }
        let expected = Expected {
            skip: from,
            length: length.map(|length| length - from),
            silence,
        };
        return Ok((length, expected));
    }
    let range = text(headers, CONTENT_RANGE).unwrap_or_default();
    let part = range.strip_prefix("bytes ").and_then(|range| {
        let (part, total) = range.split_once('/')?;
        let (first, last) = part.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let total: Option<u64> = match total {
            "*" => None,
            total => Some(total.parse().ok()?),
        };
        let whole = first == from && last >= first && total.is_none_or(|total| total > last);
        let told = length.is_none_or(|length| length == last - first + 1);
        (whole && told).then_some((last, total))
    });
    let Some((last, total)) = part else {
        return Err(Cause::Protocol(format!(
            "it answered {range:?} to a request for {from}-"
        )));
    };
    // A server may send less than was asked for; the rest is then as good as cut.
    let size = total.or(last.checked_add(1));
    let expected = Expected {
        skip: 0,
        length: size.map(|size| size - from),
        silence,
    };
    Ok((size, expected))
}

/// Refuses what is no content of a registry: pages for people (a login page or a proxy's apology under a 200), and bodies
/// in an encoding that was not asked for, of which one byte may become millions.
pub(super) fn refuse_foreign(headers: &HeaderMap) -> Result<(), Cause> {
    if text(headers, CONTENT_TYPE)
        .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"))
    {
        let why = "it answered with text/html, which is no content of a registry";
        return Err(Cause::Protocol(why.to_owned()));
    }
    let foreign = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .find(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    match foreign {
        None => Ok(()),
        Some(encoding) => Err(Cause::Protocol(format!(
            "it answered in the encoding {encoding:?}, which it was not asked for"
        ))),
    }
}

/// `Retry-After`: seconds, or a date.
pub(super) fn delay(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    let ahead = date.duration_since(SystemTime::now());
    Some(ahead.unwrap_or_default())
}
