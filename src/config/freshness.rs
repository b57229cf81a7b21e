//! How long an upstream's answer for a tag is good: `--tag-ttl DURATION` for all, `--tag-ttl PATTERN=DURATION` for some.

use std::time::Duration;

use super::{ConfigError, Key, Sources, refuse, value};
use crate::types::{CanonicalName, Pattern, RegistryHost};

/// For each repository, how long an answer for one of its tags is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagTtl {
    /// The first that matches counts.
    pub patterns: Vec<(Pattern, Duration)>,
    /// Where none matches and the registry has no time of its own.
    pub otherwise: Duration,
}

impl TagTtl {
    /// `of_registry` is what the repository's registry was given for itself, if anything.
    pub fn of(&self, name: &CanonicalName, of_registry: Option<Duration>) -> Duration {
        let matching = self.patterns.iter().find(|(of, _)| of.matches(name));
        matching
            .map(|(_, time)| *time)
            .or(of_registry)
            .unwrap_or(self.otherwise)
    }

    /// # Errors
    /// Neither a time nor `PATTERN=DURATION`; two times for all names.
    pub(super) fn from_sources(
        sources: &Sources,
        is_registry: impl Fn(&RegistryHost) -> bool,
    ) -> Result<Self, ConfigError> {
        let parse = |text: &str| match text.rsplit_once('=') {
            None => value::duration(text).map(|time| (None, time)),
            Some((pattern, time)) => {
                let pattern = Pattern::parse(pattern, &is_registry);
                let pattern = pattern.map_err(|problem| problem.to_string())?;
                Ok((Some(pattern), value::duration(time)?))
            }
        };
        let given = sources.list(Key::TagTtl, |given| parse(&given.text))?;
        let mut ttl = Self {
            patterns: Vec::new(),
            otherwise: DEFAULT,
        };
        let mut for_all = false;
        for (pattern, time) in given.into_iter().flatten() {
            match pattern {
                Some(pattern) => ttl.patterns.push((pattern, time)),
                None if for_all => {
                    let why = "there are two times for all names: give one, and others as PATTERN=DURATION, such as quay.io/acme/**=1m";
                    return Err(refuse(sources, Key::TagTtl, why.to_owned()));
                }
                None => {
                    ttl.otherwise = time;
                    for_all = true;
                }
            }
        }
        Ok(ttl)
    }
}

const DEFAULT: Duration = Duration::from_secs(5 * 60);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Environment, Flags};

    fn parsed(texts: &[&str]) -> Result<TagTtl, ConfigError> {
        let flags = Flags::new(None).with(Key::TagTtl, texts.iter().map(|&text| text.to_owned()));
        let sources = Sources::read(flags, Environment::new()).unwrap();
        TagTtl::from_sources(&sources, RegistryHost::is_docker_hub)
    }

    #[test]
    fn the_first_pattern_counts_then_the_registry_then_the_time_for_all() {
        let ttl = parsed(&["quay.io/acme/base=1h", "acme/**=0", "2m", "docker.io/**=3s"]).unwrap();
        for (name, of_registry, seconds) in [
            ("quay.io/acme/base", None, 3600),
            ("quay.io/acme/app", Some(9), 0),
            ("docker.io/acme/app", None, 0),
            ("docker.io/library/debian", None, 3),
            ("quay.io/other", Some(9), 9),
            ("quay.io/other", None, 120),
        ] {
            let time = ttl.of(&name.parse().unwrap(), of_registry.map(Duration::from_secs));
            assert_eq!(time.as_secs(), seconds, "{name}, {of_registry:?}");
        }
        assert_eq!(parsed(&[]).unwrap().otherwise, DEFAULT);
        assert_eq!(parsed(&["acme/**=0"]).unwrap().otherwise, DEFAULT);
    }

    #[test]
    fn what_is_refused_is_named() {
        for (texts, fragments) in [
            (&["1m", "2m"][..], &["--tag-ttl", "two times"][..]),
            (&["acme/**"], &["--tag-ttl", "acme/**"]),
            (&["acme/**=soon"], &["--tag-ttl", "soon"]),
            (&["Acme/=1m"], &["--tag-ttl", "Acme/"]),
            (&["=1m"], &["--tag-ttl"]),
        ] {
            let error = parsed(texts).unwrap_err().to_string();
            for fragment in fragments {
                assert!(error.contains(fragment), "{texts:?}: {error}");
            }
        }
    }
}
