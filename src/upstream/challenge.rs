//! What `WWW-Authenticate` says (RFC 9110, 11.6.1). Knows the grammar, and no scheme.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// A way to authenticate that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Lower-case.
    pub(super) scheme: String,
    /// Names in lower case, each once.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// All challenges of all lines, in order.
    ///
    /// # Errors
    /// What is wrong with the first line that can't be read.
    pub(super) fn all(headers: &HeaderMap) -> Result<Vec<Self>, String> {
        let mut all = Vec::new();
        for line in headers.get_all(WWW_AUTHENTICATE) {
            let line = String::from_utf8_lossy(line.as_bytes());
            all.extend(Self::parse(&line)?);
            if all.len() > CHALLENGES {
                return Err(format!("it has more than {CHALLENGES} challenges"));
            }
        }
        Ok(all)
    }

    /// `name` in lower case.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let mut named = self.parameters.iter().filter(|(known, _)| known == name);
        named.next().map(|(_, value)| value.as_str())
    }

    fn parse(line: &str) -> Result<Vec<Self>, String> {
        if line.len() > LINE_LIMIT {
            return Err(format!("it is longer than {LINE_LIMIT} bytes"));
        }
        let mut rest = Rest(line);
        let mut found: Vec<Self> = Vec::new();
        loop {
            rest.skip(|b| matches!(b, b',' | b' ' | b'\t'));
            if rest.0.is_empty() {
                return Ok(found);
            }
            let word = rest.take(is_token_byte);
            if word.is_empty() {
                return Err(format!("neither a scheme nor a parameter begins at {rest}"));
            }
            let behind = rest.0;
            if let Some(last) = found.last_mut()
                && rest.equals_sign()
            {
                last.add(word, rest.value()?)?;
            } else {
                rest.0 = behind;
                let mut challenge = Self {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                };
                challenge.first_parameter(&mut rest)?;
                found.push(challenge);
                if found.len() > CHALLENGES {
                    return Err(format!("it has more than {CHALLENGES} challenges"));
                }
            }
            rest.skip(is_blank);
            if !rest.0.is_empty() && !rest.0.starts_with(',') {
                return Err(format!("a comma is missing before {rest}"));
            }
        }
    }

    /// What follows a scheme without a comma between: nothing, a parameter, or a `token68`, which we have no use for.
    fn first_parameter(&mut self, rest: &mut Rest<'_>) -> Result<(), String> {
        let blanks = rest.take(is_blank);
        if rest.0.is_empty() || rest.0.starts_with(',') {
            return Ok(());
        }
        if blanks.is_empty() {
            return Err(format!("no blank follows a scheme's name, but {rest}"));
        }
        let begin = rest.0;
        let name = rest.take(is_token_byte);
        if !name.is_empty() && rest.equals_sign() && !rest.at_padding() {
            return self.add(name, rest.value()?);
        }
        rest.0 = begin;
        let token = rest.take(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b));
        if token.is_empty() {
            return Err(format!("no parameter begins at {rest}"));
        }
        rest.skip(|b| b == b'=');
        Ok(())
    }

    fn add(&mut self, name: &str, value: String) -> Result<(), String> {
        let name = name.to_ascii_lowercase();
        if self.parameter(&name).is_some() {
            return Err(format!("it has {name} twice"));
        }
        if self.parameters.len() >= PARAMETERS {
            return Err(format!("a challenge has more than {PARAMETERS} parameters"));
        }
        self.parameters.push((name, value));
        Ok(())
    }
}

/// The part of a line that has not been read yet. What ends a step is ASCII, so it is always cut between characters.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn take(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let end = self.0.bytes().position(|b| !wanted(b));
        let (taken, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        taken
    }

    fn skip(&mut self, wanted: impl Fn(u8) -> bool) {
        self.take(wanted);
    }

    /// An equals sign with the blanks around it, that old servers send.
    fn equals_sign(&mut self) -> bool {
        self.skip(is_blank);
        let Some(rest) = self.0.strip_prefix('=') else {
            return false;
        };
        self.0 = rest;
        self.skip(is_blank);
        true
    }

    /// Whether the equals sign before this was the end of a `token68`.
    fn at_padding(&self) -> bool {
        self.0.is_empty() || self.0.starts_with(['=', ','])
    }

    fn value(&mut self) -> Result<String, String> {
        let Some(quoted) = self.0.strip_prefix('"') else {
            let value = self.take(is_token_byte);
            if value.is_empty() {
                return Err(format!("no value begins at {self}"));
            }
            return Ok(value.to_owned());
        };
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    return Ok(value);
                }
                '\\' => match characters.next() {
                    Some((_, escaped)) => value.push(escaped),
                    None => break,
                },
                other => value.push(other),
            }
        }
        Err("a quotation mark is missing at its end".to_owned())
    }
}

impl std::fmt::Display for Rest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: String = self.0.chars().take(20).collect();
        write!(f, "{shown:?}")
    }
}

fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t')
}

/// `tchar` of RFC 9110, 5.6.2.
fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// A challenge is a URL, a service and a scope.
const LINE_LIMIT: usize = 8 << 10;
const CHALLENGES: usize = 16;
const PARAMETERS: usize = 32;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `scheme name=value|name=value` for each challenge.
    fn shown(line: &str) -> Result<Vec<String>, String> {
        let show = |challenge: &Challenge| {
            let parameters: Vec<String> = challenge
                .parameters
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("{} {}", challenge.scheme, parameters.join("|"))
                .trim_end()
                .to_owned()
        };
        Ok(Challenge::parse(line)?.iter().map(show).collect())
    }

    #[test]
    fn challenges_are_read() {
        for (line, expected) in [
            ("", &[][..]),
            (" , ,", &[]),
            ("Basic", &["basic"]),
            ("Negotiate, Basic", &["negotiate", "basic"]),
            ("Basic realm=\"a b\"", &["basic realm=a b"]),
            (
                "Bearer realm=\"https://auth.example/token\",service=\"registry.example\",scope=\"repository:a/b:pull,push\"",
                &[
                    "bearer realm=https://auth.example/token|service=registry.example|scope=repository:a/b:pull,push",
                ],
            ),
            (
                "BEARER Realm = \"r\" , SERVICE=s",
                &["bearer realm=r|service=s"],
            ),
            (
                "Basic realm=\"x\", Bearer realm=\"y\",service=z",
                &["basic realm=x", "bearer realm=y|service=z"],
            ),
            (
                "Newauth realm=\"apps\", type=1, title=\"Login to \\\"apps\\\"\", Basic realm=\"simple\"",
                &[
                    "newauth realm=apps|type=1|title=Login to \"apps\"",
                    "basic realm=simple",
                ],
            ),
            (
                "Negotiate YWJj==, Basic realm=r",
                &["negotiate", "basic realm=r"],
            ),
            ("Negotiate YWJj=", &["negotiate"]),
            ("Negotiate ab/c+d, Basic", &["negotiate", "basic"]),
            ("Bearer\trealm=\"\"", &["bearer realm="]),
            ("Bearer realm=\"é\\é\"", &["bearer realm=éé"]),
            (",Bearer realm=a,,", &["bearer realm=a"]),
        ] {
            assert_eq!(shown(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for (line, expected) in [
            ("realm=\"x\"", "no blank follows"),
            ("Bearer realm=\"x", "quotation mark is missing"),
            ("Bearer realm=\"x\\", "quotation mark is missing"),
            ("Bearer realm=\"x\" service=\"y\"", "a comma is missing"),
            ("Bearer realm=a, realm=b", "realm twice"),
            ("Bearer realm=a, REALM=b", "realm twice"),
            ("Bearer realm=https://x/", "a comma is missing"),
            ("Bearer realm=a, service=", "no value"),
            ("Bearer (x)", "no parameter begins"),
            ("\u{1}", "neither a scheme nor a parameter"),
            ("\"Bearer\"", "neither a scheme nor a parameter"),
            ("Bäsic", "no blank follows"),
        ] {
            let problem = shown(line).unwrap_err();
            assert!(problem.contains(expected), "{line}: {problem}");
        }
        let long = format!("Bearer realm=\"{}\"", "x".repeat(LINE_LIMIT));
        assert!(shown(&long).unwrap_err().contains("longer than"));
        let many = "Basic,".repeat(CHALLENGES + 1);
        assert!(shown(&many).unwrap_err().contains("challenges"));
        let many: Vec<String> = (0..=PARAMETERS).map(|n| format!("p{n}=v")).collect();
        let many = format!("Bearer {}", many.join(","));
        assert!(shown(&many).unwrap_err().contains("parameters"));
    }

    #[test]
    fn all_lines_count() {
        let mut headers = HeaderMap::new();
        for line in ["Negotiate", "Basic realm=a, Bearer realm=b"] {
            headers.append(WWW_AUTHENTICATE, line.parse().unwrap());
        }
        let all = Challenge::all(&headers).unwrap();
        let schemes: Vec<&str> = all.iter().map(|one| one.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(all[2].parameter("realm"), Some("b"));
        for _ in 0..CHALLENGES {
            headers.append(WWW_AUTHENTICATE, "Basic".parse().unwrap());
        }
        assert!(Challenge::all(&headers).is_err());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(line in "([ ,=\"\\\\a/é]|Bearer |realm=\"){0,40}") {
            let _ = Challenge::parse(&line);
        }

        #[test]
        fn whatever_is_quoted_comes_out(
            values in prop::collection::vec("[^\\x00-\\x08\\x0a-\\x1f]{0,30}", 1..5),
        ) {
            let quoted: Vec<String> = values
                .iter()
                .enumerate()
                .map(|(n, value)| format!("p{n}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
                .collect();
            let line = format!("Basic, Bearer {}, Digest", quoted.join(", "));
            let found = Challenge::parse(&line).unwrap();
            prop_assert_eq!(found.len(), 3);
            let read: Vec<&String> = found[1].parameters.iter().map(|(_, value)| value).collect();
            prop_assert_eq!(read, values.iter().collect::<Vec<_>>());
        }
    }
}
