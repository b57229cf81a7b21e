//! Other registries: the well-known ones, `registry` of all places, and `mirror`.
//!
//! - They add up over flags, variable and file; of one host the stronger place's entry counts, whole.
//! - In the file an entry may be a mapping, which is for all that a flag has no room for.
//! - `mirror` adds to what an entry says: its mirrors are asked first.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use super::{
    fields::Fields,
    source::{ConfigError, Given, Key, Sources},
    value,
};
use crate::{
    types::{RegistryHost, UpstreamUrl, digest::shown},
    upstream::{Login, Mirror, Options, Trust},
};

/// The well-known registries unless they are not wanted, then what each place adds or overrides.
pub(super) fn registries(
    sources: &Sources,
    no_defaults: bool,
) -> Result<BTreeMap<RegistryHost, Options>, ConfigError> {
    let mut registries = BTreeMap::new();
    if !no_defaults {
        let hosts = WELL_KNOWN.iter().filter_map(|host| host.parse().ok());
        registries.extend(hosts.map(|host| {
            let options = Options::of_host(&host);
            (host, options)
        }));
    }
    for place in sources.weakest_first(Key::Registry) {
        let mut here: BTreeMap<RegistryHost, Options> = BTreeMap::new();
        for given in place {
            let (host, options) = match given.fields.is_empty() {
                true => value::registry(&given.text)
                    .map(|(host, url)| (host, Options::at(url)))
                    .map_err(|problem| given.origin.refuse(problem))?,
                false => mapping(given, sources)?,
            };
            if let Some(other) = here.get(&host)
                && *other != options
            {
                let problem = match other.url == options.url {
                    true => format!("{host} is already given otherwise: give it once"),
                    false => format!(
                        "{host} is said to be at {} and at {}: give it once",
                        other.url, options.url
                    ),
                };
                return Err(given.origin.refuse(problem));
            }
            here.insert(host, options);
        }
        registries.extend(here);
    }
    let mirrors = sources.list(Key::Mirror, |given| {
        let form = "a mirror is given as HOST=URL, such as docker.io=https://mirror.gcr.io";
        let (host, url) = given.text.split_once('=').ok_or(form.to_owned())?;
        if host.contains("://") || host.contains('@') {
            // Not quoted: it may hold a password.
            return Err(form.to_owned());
        }
        let host: RegistryHost = host.parse().map_err(|error| format!("{error}"))?;
        if !registries.contains_key(&host) {
            return Err(format!(
                "{host} is not configured, so its mirror would never be asked: add --registry {host}"
            ));
        }
        let mirror: Mirror = url.parse().map_err(|error| format!("{host}: {error}"))?;
        Ok((host, mirror))
    })?;
    // From the last on, so that the first comes out first.
    for (host, mirror) in mirrors.unwrap_or_default().into_iter().rev() {
        if let Some(options) = registries.get_mut(&host)
            && !options.mirrors.contains(&mirror)
        {
            options.mirrors.insert(0, mirror);
        }
    }
    Ok(registries)
}

/// An entry of `registry:` that is a mapping.
fn mapping(given: &Given, sources: &Sources) -> Result<(RegistryHost, Options), ConfigError> {
    let fields = Fields::of(given, FIELDS, "a registry")?;
    let (field, name) = fields.one("name")?.ok_or_else(|| {
        given
            .origin
            .refuse("the registry has no name: give its HOST")
    })?;
    // The same as `HOST` alone, with the same refusals; `url` has a line of its own here.
    if name.contains('=') {
        return Err(field.origin.refuse(format!(
            "{} is no HOST: in a mapping the URL is given as url",
            shown(name)
        )));
    }
    let (host, url) = value::registry(name).map_err(|problem| field.origin.refuse(problem))?;
    let whom = host.to_string();
    let list = |name: &str| {
        let values = fields.list(name).map(|field| (field, &field.values));
        values
            .into_iter()
            .flat_map(|(field, values)| values.iter().map(move |value| (field, value)))
    };
    let boolean = |name| fields.parsed(name, &whom, value::boolean);

    let mut trust = Trust::default().insecure(boolean("insecure")?.unwrap_or(false));
    if let Some((field, pem)) = fields.file("ca", &whom)? {
        trust = trust.with_authorities(&pem).map_err(|problem| {
            let problem = format!("{whom}: ca can't be used: {problem}");
            field.origin.refuse(problem)
        })?;
    }
    trust = match (
        fields.file("client-cert", &whom)?,
        fields.file("client-key", &whom)?,
    ) {
        (None, None) => trust,
        (Some((field, chain)), Some((_, key))) => {
            trust.with_identity(&chain, &key).map_err(|problem| {
                let problem =
                    format!("{whom}: client-cert and client-key can't be used: {problem}");
                field.origin.refuse(problem)
            })?
        }
        (Some((field, _)), None) | (None, Some((field, _))) => {
            return Err(field.origin.refuse(format!(
                "{whom}: client-cert and client-key go together, and only {} is there",
                field.name
            )));
        }
    };

    let password = fields.password(sources, &whom)?;
    let login = match (fields.one("username")?, password) {
        (None, None) => None,
        (Some((_, user)), Some((_, password))) => Some(Login::Password {
            user: user.to_owned(),
            password,
        }),
        (Some((field, _)), None) => {
            return Err(field.origin.refuse(format!(
                "{whom}: the username has no password: give password, password-env or password-file"
            )));
        }
        (None, Some((field, _))) => {
            let problem = format!("{whom}: the password has no username");
            return Err(field.origin.refuse(problem));
        }
    };

    let options = Options {
        url: fields
            .parsed("url", &whom, str::parse::<UpstreamUrl>)?
            .unwrap_or(url),
        mirrors: list("mirrors")
            .map(|(field, text)| {
                text.parse()
                    .map_err(|error| field.origin.refuse(format!("{whom}, mirrors: {error}")))
            })
            .collect::<Result<_, _>>()?,
        rewrite: list("rewrite")
            .map(|(field, text)| {
                text.parse()
                    .map_err(|error| field.origin.refuse(format!("{whom}, rewrite: {error}")))
            })
            .collect::<Result<_, _>>()?,
        trust,
        login,
        realms: list("auth-realm")
            .map(|(field, text)| {
                text.parse()
                    .map_err(|error| field.origin.refuse(format!("{whom}, auth-realm: {error}")))
            })
            .collect::<Result<_, _>>()?,
        interval: fields.parsed("requests-per-second", &whom, interval)?,
        connections: fields.parsed("connections", &whom, connections)?,
        tag_ttl: fields.parsed("tag-ttl", &whom, value::duration)?,
        public: boolean("public")?.unwrap_or(false),
    };
    Ok((host, options))
}

/// The time between two of so many requests per second.
fn interval(text: &str) -> Result<Duration, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let rate = text.parse::<f64>().ok().filter(|_| plain);
    rate.filter(|rate| (SLOWEST..=FASTEST).contains(rate))
        .map(|rate| Duration::from_secs_f64(1.0 / rate))
        .ok_or_else(|| {
            format!(
                "{} is no number from {SLOWEST} to {FASTEST}, such as 20 or \"0.5\"",
                shown(text)
            )
        })
}

fn connections(text: &str) -> Result<usize, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number
        .filter(|number| (1..=MOST_CONNECTIONS).contains(number))
        .ok_or_else(|| {
            format!(
                "{} is no whole number from 1 to {MOST_CONNECTIONS}",
                shown(text)
            )
        })
}

/// Contacted unless `--no-default-registries` is given: where public images are, so that a job needs no configuration.
pub(crate) const WELL_KNOWN: [&str; 10] = [
    "docker.io",
    "gcr.io",
    "ghcr.io",
    "lscr.io",
    "mcr.microsoft.com",
    "nvcr.io",
    "public.ecr.aws",
    "quay.io",
    "registry.gitlab.com",
    "registry.k8s.io",
];

/// Slower, and the second request of a pull has no turn within the budget.
const SLOWEST: f64 = 0.1;
const FASTEST: f64 = 10_000.0;

/// A connection is an open file, and few systems let a process have more.
const MOST_CONNECTIONS: usize = 10_000;

const FIELDS: [&str; 17] = [
    "name",
    "url",
    "mirrors",
    "rewrite",
    "ca",
    "client-cert",
    "client-key",
    "insecure",
    "username",
    "password",
    "password-env",
    "password-file",
    "auth-realm",
    "requests-per-second",
    "connections",
    "tag-ttl",
    "public",
];
