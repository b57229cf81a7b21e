//! `Warning`: an answer is right as far as it goes, and somebody should know why it goes no further.
//!
//! <https://www.rfc-editor.org/rfc/rfc7234#section-5.5>

use actix_web::http::header::HeaderValue;

/// A lasting warning of ours. Clients differ in how they read what is not ASCII, and some refuse all of the header.
pub(super) fn warning(text: &str) -> Option<HeaderValue> {
    let text = text.replace('…', "...");
    let text: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => '\'',
            '\t' | '\r' | '\n' => ' ',
            ' '..='~' => c,
            _ => '?',
        })
        .collect();
    HeaderValue::from_str(&format!("299 - \"{text}\"")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_an_upstream_says_is_one_quoted_line() {
        let header = warning("stale: quay.io: \"no\\\r\nX: y\"");
        let header = header.as_ref().and_then(|header| header.to_str().ok());
        assert_eq!(header, Some("299 - \"stale: quay.io: 'no'  X: y'\""));
    }

    #[test]
    fn whatever_it_says_there_is_a_warning_that_is_ascii() {
        let header = warning("stale: http://…: \u{1b}[31mé\0");
        let header = header.as_ref().and_then(|header| header.to_str().ok());
        assert_eq!(header, Some("299 - \"stale: http://...: ?[31m??\""));
    }
}
