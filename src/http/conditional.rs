//! Conditional and partial requests (RFC 9110, sections 13 and 14). What is asked for by digest never changes, so its
//! digest is its entity tag.

use actix_web::http::header::{self, HeaderMap, HeaderName};

use crate::types::Digest;

/// What a request's preconditions leave to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precondition {
    /// Answer as if there were none.
    Proceed,
    /// 304
    NotModified,
    /// 412
    Failed,
}

/// The entity tag of content.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Judges `If-Match` and `If-None-Match` of a GET or HEAD.
pub(super) fn precondition(headers: &HeaderMap, digest: &Digest) -> Precondition {
    let etag = etag(digest);
    if let Some(listed) = all(headers, header::IF_MATCH)
        && !matches_any(&listed, &etag, Comparison::Strong)
    {
        return Precondition::Failed;
    }
    match all(headers, header::IF_NONE_MATCH) {
        Some(listed) if matches_any(&listed, &etag, Comparison::Weak) => Precondition::NotModified,
        _ => Precondition::Proceed,
    }
}

/// Which bytes are to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// All of them: nothing else was asked for, or what was asked for may be ignored.
    Whole,
    /// `start..end`, never empty.
    Part { start: u64, end: u64 },
    /// 416
    Unsatisfiable,
}

/// Judges `Range` and `If-Range` against `size` bytes. Several ranges at once are answered with all bytes, as the RFC
/// allows.
pub(super) fn selection(headers: &HeaderMap, digest: &Digest, size: u64) -> Selection {
    let Some(range) = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok())
    else {
        return Selection::Whole;
    };
    if let Some(condition) = headers.get(header::IF_RANGE)
        && condition.to_str().ok().map(str::trim) != Some(etag(digest).as_str())
    {
        return Selection::Whole;
    }
    let Some((unit, ranges)) = range.split_once('=') else {
        return Selection::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return Selection::Whole;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else {
        return Selection::Whole;
    };
    let number = |digits: &str| -> Option<u64> {
        (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
            // More than a u64 holds is past every end.
            .then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let (start, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) => (first, last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => (first, size),
        (None, Some(length)) if first.is_empty() => (size.saturating_sub(length), size),
        _ => return Selection::Whole,
    };
    if start < end {
        Selection::Part { start, end }
    } else {
        Selection::Unsatisfiable
    }
}

#[derive(Clone, Copy)]
enum Comparison {
    Strong,
    Weak,
}

/// All lines of a header as one list.
fn all(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let lines: Vec<&str> = headers
        .get_all(name)
        .filter_map(|line| line.to_str().ok())
        .collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

fn matches_any(listed: &str, etag: &str, comparison: Comparison) -> bool {
    listed
        .split(',')
        .map(str::trim)
        .any(|listed| match comparison {
            _ if listed == "*" => true,
            Comparison::Strong => listed == etag,
            Comparison::Weak => listed.strip_prefix("W/").unwrap_or(listed) == etag,
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Algorithm;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn ranges_of_ten_bytes() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        for (range, expected) in [
            ("bytes=0-0", Selection::Part { start: 0, end: 1 }),
            ("bytes=2-5", Selection::Part { start: 2, end: 6 }),
            ("bytes=5-", Selection::Part { start: 5, end: 10 }),
            ("bytes=-3", Selection::Part { start: 7, end: 10 }),
            ("bytes=-30", Selection::Part { start: 0, end: 10 }),
            (
                "bytes=0-99999999999999999999999",
                Selection::Part { start: 0, end: 10 },
            ),
            ("Bytes = 1-2", Selection::Part { start: 1, end: 3 }),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=10-20", Selection::Unsatisfiable),
            ("bytes=500-0", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=0-1,4-5", Selection::Whole),
            ("bytes=", Selection::Whole),
            ("bytes=-", Selection::Whole),
            ("bytes=a-b", Selection::Whole),
            ("bytes=1-b", Selection::Whole),
            ("lines=1-2", Selection::Whole),
            ("1-2", Selection::Whole),
        ] {
            assert_eq!(
                selection(&headers(&[(header::RANGE, range)]), &digest, 10),
                expected,
                "{range}"
            );
        }
        let empty = headers(&[(header::RANGE, "bytes=0-")]);
        assert_eq!(selection(&empty, &digest, 0), Selection::Unsatisfiable);
    }

    #[test]
    fn a_range_counts_only_for_the_content_it_was_begun_on() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        let asked = |condition: &str| {
            selection(
                &headers(&[(header::RANGE, "bytes=5-"), (header::IF_RANGE, condition)]),
                &digest,
                10,
            )
        };
        assert_eq!(asked(&etag(&digest)), Selection::Part { start: 5, end: 10 });
        for other in [
            "\"other\"",
            &format!("W/{}", etag(&digest)),
            "Wed, 21 Oct 2015 07:28:00 GMT",
        ] {
            assert_eq!(asked(other), Selection::Whole, "{other}");
        }
    }

    #[test]
    fn preconditions() {
        use Precondition::{Failed, NotModified, Proceed};
        let digest = Digest::of(Algorithm::Sha256, b"");
        let own = etag(&digest);
        let weak = format!("W/{own}");
        let listed = format!("\"a\", {own}");
        for (name, value, expected) in [
            (header::IF_NONE_MATCH, own.as_str(), NotModified),
            (header::IF_NONE_MATCH, &weak, NotModified),
            (header::IF_NONE_MATCH, &listed, NotModified),
            (header::IF_NONE_MATCH, "*", NotModified),
            (header::IF_NONE_MATCH, "\"a\"", Proceed),
            (header::IF_MATCH, &own, Proceed),
            (header::IF_MATCH, &listed, Proceed),
            (header::IF_MATCH, "*", Proceed),
            (header::IF_MATCH, &weak, Failed),
            (header::IF_MATCH, "\"a\"", Failed),
        ] {
            assert_eq!(
                precondition(&headers(&[(name.clone(), value)]), &digest),
                expected,
                "{name}: {value}"
            );
        }
        let two_lines = headers(&[
            (header::IF_NONE_MATCH, "\"a\""),
            (header::IF_NONE_MATCH, &own),
        ]);
        assert_eq!(precondition(&two_lines, &digest), NotModified);
    }
}
