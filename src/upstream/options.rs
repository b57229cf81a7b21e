//! What is configured about one registry: where it is asked, in which order, how far it is trusted, what it may be burdened
//! with. Values only: nothing here is opened or contacted.

use std::{fmt, num::NonZeroUsize, str::FromStr, time::Duration};

use reqwest::{Certificate, Identity};

use super::credentials::Login;
use crate::types::{InvalidUrl, RegistryHost, RepositoryName, UpstreamUrl, digest::shown};

/// One registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The registry itself: it is asked last, and only it can say that something does not exist.
    pub url: UpstreamUrl,
    /// Asked before the registry itself, in this order.
    pub mirrors: Vec<Mirror>,
    /// How repositories are called at `url`, if not as here: the first rule that applies.
    pub rewrite: Vec<Rewrite>,
    /// For all endpoints.
    pub trust: Trust,
    /// For the registry itself; a mirror is another registry, with log-ins of its own.
    pub login: Option<Login>,
    /// Where tokens may be fetched although the usual rules forbid it.
    pub realms: Vec<UpstreamUrl>,
    /// The least time between two requests to one endpoint, on average.
    pub interval: Option<Duration>,
    /// Requests to one endpoint at once, at most; at least 1.
    pub connections: Option<usize>,
    /// How long an answer for a tag is good, if not as long as everywhere.
    pub tag_ttl: Option<Duration>,
    /// What is pulled with credentials may be read by everyone.
    pub public: bool,
}

impl Options {
    /// A registry at `url`, and nothing else said about it.
    pub fn at(url: UpstreamUrl) -> Self {
        Self {
            url,
            mirrors: Vec::new(),
            rewrite: Vec::new(),
            trust: Trust::default(),
            login: None,
            realms: Vec::new(),
            interval: None,
            connections: None,
            tag_ttl: None,
            public: false,
        }
    }

    /// A registry where one of that name usually is.
    pub fn of_host(host: &RegistryHost) -> Self {
        Self::at(UpstreamUrl::of_host(host))
    }
}

/// Another registry that has what this one has.
///
/// A path in its URL goes before the names of repositories, as in `docker pull`: `https://public.ecr.aws/docker` has
/// `library/alpine` as `docker/library/alpine`. Where the API itself is below a path the URL says so with `/v2`:
/// `https://nexus.example.com/repository/hub/v2`. What follows `/v2` goes before the names again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub(super) url: UpstreamUrl,
    pub(super) rewrite: Vec<Rewrite>,
}

impl FromStr for Mirror {
    type Err = InvalidUrl;

    fn from_str(s: &str) -> Result<Self, InvalidUrl> {
        let trimmed = s.trim_end_matches('/');
        let path_at = trimmed
            .find("://")
            .and_then(|scheme| Some(scheme + 3 + trimmed[scheme + 3..].find('/')?))
            .unwrap_or(trimmed.len());
        let (origin, path) = trimmed.split_at(path_at);
        let (below, prefix) = match format!("{path}/").find("/v2/") {
            Some(at) => (&path[..at], path.get(at + 4..).unwrap_or_default()),
            None => ("", path.trim_start_matches('/')),
        };
        // The whole is judged first, so that what is said of it quotes what was written.
        let url = format!("{origin}{below}");
        if below.is_empty() && prefix == path.trim_start_matches('/') {
            trimmed.parse::<UpstreamUrl>()?;
        }
        let url: UpstreamUrl = url.parse()?;
        let rewrite = match prefix {
            "" => Vec::new(),
            prefix => {
                let to: RepositoryName = prefix.parse().map_err(|_| {
                    InvalidUrl::new(format!(
                        "the path of {} can't go before a repository's name: it is made of lower-case letters, digits and \
                         separators",
                        shown(s)
                    ))
                })?;
                vec![Rewrite {
                    from: None,
                    to: Some(to),
                }]
            }
        };
        Ok(Self { url, rewrite })
    }
}

/// `FROM=TO`: repositories below FROM are those below TO there. Without FROM all are; without TO, FROM is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    from: Option<RepositoryName>,
    to: Option<RepositoryName>,
}

impl Rewrite {
    /// The name at the other side, if this rule applies.
    fn apply(&self, name: &RepositoryName) -> Option<String> {
        let rest = match &self.from {
            None => name.as_str(),
            Some(from) => name.as_str().strip_prefix(from.as_str())?,
        };
        let below = match (&self.from, rest.strip_prefix('/')) {
            (None, _) => rest,
            (Some(_), Some(below)) => below,
            (Some(_), None) if rest.is_empty() => "",
            (Some(_), None) => return None,
        };
        match (&self.to, below) {
            (None, "") => None,
            (None, below) => Some(below.to_owned()),
            (Some(to), "") => Some(to.to_string()),
            (Some(to), below) => Some(format!("{to}/{below}")),
        }
    }
}

impl FromStr for Rewrite {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (from, to) = s.split_once('=').unwrap_or(("", s));
        let side = |text: &str| match text.trim_end_matches('/') {
            "" => Ok(None),
            text => text.parse::<RepositoryName>().map(Some),
        };
        match (side(from), side(to)) {
            (Ok(None), Ok(None)) => {}
            (Ok(from), Ok(to)) => return Ok(Self { from, to }),
            _ => {}
        }
        Err(format!(
            "{} is no rewriting: write FROM=TO, two beginnings of repository names, or TO alone, which goes before all \
             names",
            shown(s)
        ))
    }
}

/// What the first of `rules` that applies makes of `name`; the name itself if none does.
///
/// # Errors
/// The name that came of it and is none: too long.
pub(super) fn rewritten(
    rules: &[Rewrite],
    name: &RepositoryName,
) -> Result<RepositoryName, String> {
    match rules.iter().find_map(|rule| rule.apply(name)) {
        None => Ok(name.clone()),
        Some(rewritten) => rewritten.parse().map_err(|_| rewritten),
    }
}

/// Whose certificates count, and which one is ours. `Debug` shows no key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Trust {
    authorities: Vec<u8>,
    identity: Vec<u8>,
    insecure: bool,
}

impl Trust {
    /// Trusts the certificates in `pem` as well as those of this machine.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn with_authorities(mut self, pem: &[u8]) -> Result<Self, String> {
        let found = Certificate::from_pem_bundle(pem).map_err(|error| deepest(&error))?;
        NonZeroUsize::new(found.len()).ok_or("it holds no certificate in PEM form")?;
        self.authorities = pem.to_owned();
        Ok(self)
    }

    /// Shows this certificate (chain) and proves it with this key, both PEM.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn with_identity(mut self, chain: &[u8], key: &[u8]) -> Result<Self, String> {
        self.identity = [chain, b"\n", key].concat();
        let identity = Identity::from_pem(&self.identity).map_err(|error| deepest(&error))?;
        // Only a client that is built finds out whether they belong together.
        reqwest::Client::builder()
            .tls_certs_only([])
            .identity(identity)
            .build()
            .map_err(|error| deepest(&error))?;
        Ok(self)
    }

    /// Takes any certificate, for any name.
    pub fn insecure(self, insecure: bool) -> Self {
        Self { insecure, ..self }
    }

    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn is_insecure(&self) -> bool {
        self.insecure
    }

    pub(super) fn authorities(&self) -> Vec<Certificate> {
        Certificate::from_pem_bundle(&self.authorities).unwrap_or_default()
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        Identity::from_pem(&self.identity).ok()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("authorities", &self.authorities.len())
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn where_a_mirror_has_a_repository() {
        for (mirror, expected) in [
            (
                "https://mirror.gcr.io",
                "https://mirror.gcr.io library/alpine",
            ),
            (
                "https://Mirror.gcr.io:443/",
                "https://mirror.gcr.io library/alpine",
            ),
            (
                "https://public.ecr.aws/docker",
                "https://public.ecr.aws docker/library/alpine",
            ),
            (
                "https://h.example.com/a/b/",
                "https://h.example.com a/b/library/alpine",
            ),
            (
                "https://h.example.com/v2/a",
                "https://h.example.com a/library/alpine",
            ),
            (
                "https://h.example.com/v2",
                "https://h.example.com library/alpine",
            ),
            (
                "https://nexus/Repository/hub/v2/",
                "https://nexus/Repository/hub library/alpine",
            ),
            (
                "https://nexus/hub/v2/a",
                "https://nexus/hub a/library/alpine",
            ),
        ] {
            let mirror: Mirror = mirror.parse().unwrap();
            let found = rewritten(&mirror.rewrite, &name("library/alpine")).unwrap();
            assert_eq!(format!("{} {found}", mirror.url), expected);
        }
    }

    #[test]
    fn what_is_no_mirror() {
        for (bad, fragment) in [
            ("mirror.gcr.io", "begins with https://"),
            ("https://h/A", "lower-case"),
            ("https://h/a//b", "the path"),
            ("https://h/a?b", "query"),
            ("https://me:hunter2@h/a", "credentials"),
        ] {
            let message = bad.parse::<Mirror>().unwrap_err().to_string();
            assert!(message.contains(fragment), "{bad:?}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn names_are_rewritten_by_the_first_rule_that_applies() {
        for (rules, given, expected) in [
            (&["ci"][..], "app", "ci/app"),
            (&["=ci"], "a/b", "ci/a/b"),
            (&["acme=ci/acme-"], "acme/app", "acme/app"),
            (&["acme=ci"], "acme/app", "ci/app"),
            (&["acme=ci"], "acme", "ci"),
            (&["acme=ci"], "acmes/app", "acmes/app"),
            (&["acme="], "acme/app", "app"),
            (&["acme="], "acme", "acme"),
            (&["acme/=ci/"], "acme/app", "ci/app"),
            (&["acme=x", "y"], "acme/app", "x/app"),
            (&["acme=x", "y"], "other", "y/other"),
        ] {
            let rules = rules.iter().filter_map(|rule| rule.parse().ok());
            let rules: Vec<Rewrite> = rules.collect();
            assert_eq!(rewritten(&rules, &name(given)), Ok(name(expected)));
        }
        for bad in ["", "=", "A=b", "a=B", "a b", "a=b=c", "/"] {
            let message = bad.parse::<Rewrite>().unwrap_err();
            assert!(message.contains("FROM=TO"), "{message}");
        }
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(Trust::default().with_authorities(b"hello").is_err());
        let identity = Trust::default().with_identity(garbage.as_bytes(), b"no key");
        assert!(identity.is_err());
    }
}
