//! Flags, variables and the YAML file become one [`Config`] of parsed values, or a refusal that names the place.
//!
//! A flag beats a variable, a variable beats the file. A list from a stronger place replaces the weaker one's, but for
//! `registry`, whose places add up host by host. Nothing here listens, writes or contacts anyone.

mod fields;
mod file;
mod freshness;
mod limits;
mod registries;
mod seeds;
mod source;
mod spelling;
#[cfg(test)]
mod tests;
mod tunnels;
mod users;
mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::{Component, Path, PathBuf},
    time::Duration,
};

pub(crate) use self::registries::WELL_KNOWN;
pub(crate) use self::value::duration;
pub use self::{
    freshness::TagTtl,
    limits::Limits,
    source::{ConfigError, Environment, Flags, Key, Origin, Sources},
    value::San,
};
use crate::{
    cache::Keep,
    job::{Parent, report::ReportFile},
    proxy::TunnelOptions,
    registry::access::User,
    storage::Durability,
    transfer::Seed,
    types::{ExternalUrl, Pattern, RegistryHost},
    upstream,
};

/// All that `serve` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// At least one; port 0 stands for a free port.
    pub listen: Vec<SocketAddr>,
    /// Absolute.
    pub data: PathBuf,
    /// Absolute, and not inside `data`.
    pub state: PathBuf,
    /// The only registries that are ever contacted.
    pub registries: BTreeMap<RegistryHost, upstream::Options>,
    /// What a name without a registry belongs to. If it is none of `registries`, such names are local-only.
    pub default_registry: RegistryHost,
    /// Where log-ins of those registries are, absolute; `None` stands for the usual files.
    pub authfiles: Option<Vec<PathBuf>>,
    pub offline: bool,
    pub local_only: Vec<Pattern>,
    pub no_shadow: Vec<Pattern>,
    /// Manifests are taken whose content is missing.
    pub allow_sparse: bool,
    /// How long uploads in flight may take once we are told to stop.
    pub grace: Duration,
    /// How long an upstream's answer for a tag is good.
    pub tag_ttl: TagTtl,
    /// How long an upstream's 404 to a manifest is good.
    pub negative_ttl: Duration,
    /// The operator's own certificate chain and key, absolute paths of PEM files.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The operator's own authority and its key, likewise.
    pub authority: Option<(PathBuf, PathBuf)>,
    /// Clients may choose HTTP/2.
    pub http2: bool,
    pub san: Vec<San>,
    pub external_url: Option<ExternalUrl>,
    pub durability: Durability,
    /// What is kept of what is pulled.
    pub keep: Keep,
    /// Who may log in; nobody needs to on loopback if there are none.
    pub users: Vec<User>,
    /// Absolute. In place of the one that is made in `state`.
    pub token_key: Option<PathBuf>,
    /// In the order given.
    pub seeds: Vec<Seed>,
    /// Absolute.
    pub ready_file: Option<PathBuf>,
    /// How long whoever starts us in the background waits for us to be ready.
    pub ready_timeout: Duration,
    /// Absolute. In place of standard error.
    pub log_file: Option<PathBuf>,
    /// Whose end is ours as well.
    pub parent: Option<Parent>,
    /// What is to be written of the job when it is over.
    pub reports: Vec<ReportFile>,
    /// Where a GitHub step collects what it shows for a summary.
    pub step_summary: Option<PathBuf>,
    /// Whoever has started us reads the report as well, as JSON in one line behind the ready line.
    pub report_to_stdout: bool,
    pub limits: Limits,
    /// Where CONNECT may lead, and by which proxy.
    pub tunnels: TunnelOptions,
}

impl Config {
    /// Parses what `sources` give and fills in the defaults.
    ///
    /// # Errors
    /// The first value that is refused.
    pub fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        let Directories { data, state } = Directories::from_sources(sources)?;
        let switch = |key| {
            let given = sources.one(key, |given| value::boolean(&given.text))?;
            Ok::<bool, ConfigError>(given.unwrap_or(false))
        };
        let path = |key| sources.one(key, |given| given.path(&given.text));
        let duration = |key| sources.one(key, |given| value::duration(&given.text));

        let mut listen = sources
            .list(Key::Listen, |given| value::listen_address(&given.text))?
            .unwrap_or_else(|| vec![DEFAULT_LISTEN]);
        let mut seen = BTreeSet::new();
        listen.retain(|address| address.port() == 0 || seen.insert(*address));

        let registries = registries::registries(sources, switch(Key::NoDefaultRegistries)?)?;
        let is_registry = |host: &RegistryHost| registries.contains_key(host);
        let patterns = |key| {
            let given = sources.list(key, |given| Pattern::parse(&given.text, is_registry))?;
            Ok::<Vec<Pattern>, ConfigError>(given.unwrap_or_default())
        };
        let local_only = patterns(Key::LocalOnly)?;
        let no_shadow = patterns(Key::NoShadow)?;
        let cache_none = patterns(Key::CacheNone)?;

        let authfiles = sources.list(Key::Authfile, |given| match given.text.as_str() {
            "none" => Ok(None),
            text => given.path(text).map(Some),
        })?;
        let authfiles = match authfiles {
            Some(files) if files.len() > 1 && files.contains(&None) => {
                let problem =
                    "none reads no file at all: give either none or files (./none is a file)";
                return Err(refuse(sources, Key::Authfile, problem.to_owned()));
            }
            given => given.map(|files| files.into_iter().flatten().collect()),
        };

        let tag_ttl = TagTtl::from_sources(sources, is_registry)?;
        let users = users::users(sources, is_registry)?;

        let certificate = certified(sources, Key::TlsCert, Key::TlsKey)?;
        let authority = certified(sources, Key::CaCert, Key::CaKey)?;
        if certificate.is_some() && authority.is_some() {
            let problem = "the certificate of tls-cert is served to everyone, so no authority is needed: give either";
            return Err(refuse(sources, Key::CaCert, problem.to_owned()));
        }
        Ok(Self {
            listen,
            data,
            state,
            registries,
            default_registry: sources
                .one(Key::DefaultRegistry, |given| given.text.parse())?
                .unwrap_or_else(RegistryHost::docker_hub),
            authfiles,
            offline: switch(Key::Offline)?,
            local_only,
            no_shadow,
            allow_sparse: switch(Key::AllowSparse)?,
            grace: duration(Key::Grace)?.unwrap_or(DEFAULT_GRACE),
            tag_ttl,
            negative_ttl: duration(Key::NegativeTtl)?.unwrap_or(DEFAULT_NEGATIVE_TTL),
            certificate,
            authority,
            http2: switch(Key::H2)?,
            san: sources
                .list(Key::San, |given| given.text.parse())?
                .unwrap_or_default(),
            external_url: sources.one(Key::ExternalUrl, |given| given.text.parse())?,
            durability: sources
                .one(Key::Durability, |given| given.text.parse())?
                .unwrap_or_default(),
            keep: Keep {
                most: sources
                    .one(Key::CacheMaxSize, |given| given.text.parse())?
                    .unwrap_or_default(),
                none: cache_none,
            },
            users,
            token_key: path(Key::TokenKey)?,
            seeds: seeds::seeds(sources)?,
            ready_file: path(Key::ReadyFile)?,
            ready_timeout: duration(Key::ReadyTimeout)?.unwrap_or(DEFAULT_READY_TIMEOUT),
            log_file: path(Key::LogFile)?,
            parent: sources
                .one(Key::ExitWithParent, |given| value::parent(&given.text))?
                .flatten(),
            reports: sources
                .list(Key::Report, |given| {
                    let file = ReportFile::new(given.path(&given.text)?);
                    file.map_err(|error| format!("{:?}: {error}", given.text))
                })?
                .unwrap_or_default(),
            step_summary: sources
                .ambient("GITHUB_STEP_SUMMARY")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            report_to_stdout: false,
            limits: Limits::from_sources(sources)?,
            tunnels: tunnels::tunnels(sources)?,
        })
    }

    /// One sentence for each value that is taken and unlikely to be meant.
    pub fn warnings(&self) -> Vec<String> {
        let absent = self
            .authfiles
            .iter()
            .flatten()
            .filter(|file| !file.exists());
        let absent = absent.map(|file| {
            let file = file.display();
            format!("authfile: {file} is not there: it is read when it comes, and gives no log-in until then")
        });
        absent.chain(self.limits.warnings()).collect()
    }
}

/// Where things are kept: all that commands need that work on the files alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// Absolute.
    pub data: PathBuf,
    /// Absolute. Holds the keys, so it is never inside `data`, which a CI job may hand on as a cache.
    pub state: PathBuf,
}

impl Directories {
    /// Works out both directories; nothing is created.
    ///
    /// # Errors
    /// A path that is none, or a state directory inside the data directory.
    pub fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        let path = |key| sources.one(key, |given| given.path(&given.text));
        let data = path(Key::Data)?.unwrap_or_else(|| default_data(sources));
        let state = match path(Key::State)? {
            Some(state) => state,
            None => match data.file_name() {
                Some(name) => {
                    let mut name = name.to_owned();
                    name.push(".state");
                    data.with_file_name(name)
                }
                None => {
                    return Err(refuse(
                        sources,
                        Key::Data,
                        format!(
                            "{} has no name for the state directory to be called after: give --state too",
                            data.display()
                        ),
                    ));
                }
            },
        };
        if real(&state).starts_with(real(&data)) {
            return Err(refuse(
                sources,
                Key::State,
                format!(
                    "{} is inside the data directory {}, whose copies would carry the keys along: choose one beside it",
                    state.display(),
                    data.display()
                ),
            ));
        }
        Ok(Self { data, state })
    }
}

/// `$XDG_DATA_HOME/standin`, `$HOME/.local/share/standin`, or a directory of this user's in /var/tmp: jobs often have
/// no home. A relative path in these variables counts for nothing, as the XDG specification has it.
fn default_data(sources: &Sources) -> PathBuf {
    let directory = |name| {
        let path = sources.ambient(name).map(PathBuf::from)?;
        path.is_absolute().then_some(path)
    };
    if let Some(data) = directory("XDG_DATA_HOME") {
        return data.join("standin");
    }
    if let Some(home) = directory("HOME") {
        return home.join(".local/share/standin");
    }
    let user = rustix::process::getuid().as_raw();
    PathBuf::from(format!("/var/tmp/standin-{user}"))
}

/// `path` without symbolic links and `..`, as far as it exists; the rest is taken by its letters.
fn real(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut existing = path;
    let mut real = loop {
        if let Ok(real) = existing.canonicalize() {
            break real;
        }
        let mut components = existing.components();
        let Some(last) = components.next_back() else {
            break PathBuf::new();
        };
        missing.push(last);
        existing = components.as_path();
    };
    for component in missing.into_iter().rev() {
        match component {
            Component::ParentDir => {
                real.pop();
            }
            other => real.push(other),
        }
    }
    real
}

/// Refuses what `key` came to, wherever that is from.
fn refuse(sources: &Sources, key: Key, problem: String) -> ConfigError {
    match sources.origin(key) {
        Some(origin) => origin.refuse(problem),
        None => ConfigError::Default {
            key: key.name(),
            problem,
        },
    }
}

/// A certificate and its key, absolute paths, which go together.
///
/// # Errors
/// One without the other.
pub(crate) fn certified(
    sources: &Sources,
    certificate: Key,
    key: Key,
) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    let path = |key| sources.one(key, |given| given.path(&given.text));
    match (path(certificate)?, path(key)?) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(without(sources, certificate, key)),
        (None, Some(_)) => Err(without(sources, key, certificate)),
    }
}

fn without(sources: &Sources, given: Key, missing: Key) -> ConfigError {
    refuse(
        sources,
        given,
        format!(
            "a certificate and its key go together, and {} is not given",
            missing.name()
        ),
    )
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// Enough for seeds of many gigabytes, and little beside the time that CI systems give a job.
const DEFAULT_READY_TIMEOUT: Duration = Duration::from_secs(300);
/// Long enough for a client that tries again at once, short enough for somebody who has just pushed what was missing.
const DEFAULT_NEGATIVE_TTL: Duration = Duration::from_secs(10);
