//! Patterns over repository names, as `--local-only` and `--no-shadow` take them.

use std::fmt;

use super::{
    digest::shown,
    name::{CanonicalName, RegistryHost},
};

/// `*` stands for one component (or, inside one, for any part of it), `**` for any number of components.
///
/// - A pattern whose first component is a registry matches canonical names; any other matches the repository in every
///   source.
/// - On Docker Hub `library/` may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    /// The first component names a registry.
    canonical: bool,
}

impl Pattern {
    /// Parses `text`; `is_registry` tells whether a host is a configured registry (a first component that looks like a
    /// host is one in any case).
    pub fn parse(
        text: &str,
        is_registry: impl Fn(&RegistryHost) -> bool,
    ) -> Result<Self, InvalidPattern> {
        let allowed = |b: u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'*')
        };
        let component = |c: &str| {
            !c.is_empty()
                && c.bytes().all(allowed)
                && c != "."
                && c != ".."
                && (c == "**" || !c.contains("**"))
        };
        if !text.split('/').all(component) {
            return Err(InvalidPattern::Grammar(shown(text)));
        }
        let (first, rest) = match text.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (text, None),
        };
        let canonical = if first.contains('*') {
            first.contains('.')
        } else {
            RegistryHost::from_component(first)
                .is_some_and(|host| host.looks_like_host() || is_registry(&host))
        };
        match (canonical, rest) {
            (true, None) => Err(InvalidPattern::BareRegistry(first.to_owned())),
            (true, Some(rest)) => {
                // Docker Hub has several spellings; a name has only the canonical one.
                let first = RegistryHost::from_component(first)
                    .map_or_else(|| first.to_owned(), |host| host.component());
                Ok(Self {
                    text: format!("{first}/{rest}").into(),
                    canonical,
                })
            }
            (false, _) => Ok(Self {
                text: text.into(),
                canonical,
            }),
        }
    }

    /// Whether every name there is, is meant.
    pub fn is_all(&self) -> bool {
        *self.text == *"**"
    }

    /// Whether `name` is one of those meant.
    pub fn matches(&self, name: &CanonicalName) -> bool {
        let pattern: Vec<&str> = self.text.split('/').collect();
        let source = name.source().component();
        let repository: Vec<&str> = name.repository().components().collect();
        let matches = |repository: &[&str]| {
            if self.canonical {
                let mut whole = vec![source.as_str()];
                whole.extend_from_slice(repository);
                matches_components(&pattern, &whole)
            } else {
                matches_components(&pattern, repository)
            }
        };
        let official =
            name.source().is_docker_hub() && repository.len() == 2 && repository[0] == "library";
        matches(&repository) || (official && matches(&repository[1..]))
    }
}

fn matches_components(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            (0..=name.len()).any(|skipped| matches_components(rest, &name[skipped..]))
        }
        (Some((wanted, pattern)), Some((given, name))) => {
            matches_component(wanted, given) && matches_components(pattern, name)
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn matches_component(pattern: &str, component: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == component,
        Some((head, tail)) => component.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|skipped| {
                rest.is_char_boundary(skipped) && matches_component(tail, &rest[skipped..])
            })
        }),
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Not a pattern; the text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    #[error(
        "{0} is no pattern: name components parted by '/', where '*' is one component and '**' any number"
    )]
    Grammar(String),
    #[error("{0:?} names a registry and none of its repositories: write {0}/** for all of them")]
    BareRegistry(String),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Result<Pattern, InvalidPattern> {
        Pattern::parse(text, |host| host.to_string() == "registry:5000")
    }

    #[test]
    fn what_matches() {
        for (text, name, expected) in [
            ("acme/*", "docker.io/acme/app", true),
            ("acme/*", "quay.io/acme/app", true),
            ("acme/*", "quay.io/acme/app/web", false),
            ("acme/**", "quay.io/acme/app/web", true),
            ("acme/**", "quay.io/acme", true),
            ("**", "quay.io/a/b/c", true),
            ("*", "quay.io/a", true),
            ("*", "quay.io/a/b", false),
            ("*", "docker.io/library/alpine", true),
            ("alpine", "docker.io/library/alpine", true),
            ("library/alpine", "docker.io/library/alpine", true),
            ("alpine", "quay.io/library/alpine", false),
            ("docker.io/alpine", "docker.io/library/alpine", true),
            ("index.docker.io/alpine", "docker.io/library/alpine", true),
            ("docker.io/*", "docker.io/acme/app", false),
            ("quay.io/**", "quay.io/acme/app", true),
            ("quay.io/**", "docker.io/quay.io/app", false),
            ("*.example.com/**", "reg.example.com/x", true),
            ("*.example.com/**", "docker.io/reg.example.com/x", false),
            ("registry_5000/x", "registry_5000/x", true),
            ("team-*/app", "quay.io/team-a/app", true),
            ("team-*/app", "quay.io/a/app", false),
            ("**/app", "quay.io/a/b/app", true),
            ("a/**/z", "quay.io/a/z", true),
            ("a*c*e", "quay.io/abcde", true),
        ] {
            let name: CanonicalName = name.parse().unwrap();
            assert_eq!(
                pattern(text).unwrap().matches(&name),
                expected,
                "{text} against {name}"
            );
        }
    }

    #[test]
    fn what_is_no_pattern() {
        for bad in ["", "/", "a//b", "A", "a/../b", "a b", "***", "a**", "é"] {
            assert!(
                matches!(pattern(bad), Err(InvalidPattern::Grammar(_))),
                "{bad:?} was taken"
            );
        }
        let message = pattern("quay.io").unwrap_err().to_string();
        assert!(message.contains("quay.io/**"), "{message}");
    }
}
