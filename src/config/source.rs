//! The places options come from, each kept as text with its origin: flags, `STANDIN_*` variables, the YAML file.
//!
//! Which place wins is decided here, and every refusal names the place. What the texts mean is not known here.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{file, spelling::nearest};

/// The process's variables, or a test's.
pub type Environment = BTreeMap<OsString, OsString>;

/// An option, whichever way it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Authfile,
    CaCert,
    CaKey,
    Data,
    DefaultRegistry,
    Durability,
    ExternalUrl,
    Grace,
    H2,
    Htpasswd,
    Listen,
    LocalOnly,
    Mirror,
    NegativeTtl,
    NoDefaultRegistries,
    NoShadow,
    AllowSparse,
    ExitWithParent,
    LogFile,
    Offline,
    ReadyFile,
    ReadyTimeout,
    Registry,
    Report,
    San,
    Seed,
    State,
    TagTtl,
    TlsCert,
    TlsKey,
    TokenKey,
    User,
    CacheMaxSize,
    CacheNone,
    BodyTimeout,
    HeadTimeout,
    MaxManifestSize,
    MaxNameLength,
    MaxUploads,
    PageSize,
    UploadLifetime,
    MaxTunnels,
    Tunnel,
    TunnelIdle,
    UpstreamProxy,
}

impl Key {
    pub const ALL: [Self; 45] = [
        Self::Authfile,
        Self::CaCert,
        Self::CaKey,
        Self::Data,
        Self::DefaultRegistry,
        Self::Durability,
        Self::ExternalUrl,
        Self::Grace,
        Self::H2,
        Self::Htpasswd,
        Self::Listen,
        Self::LocalOnly,
        Self::Mirror,
        Self::NegativeTtl,
        Self::NoDefaultRegistries,
        Self::NoShadow,
        Self::AllowSparse,
        Self::ExitWithParent,
        Self::LogFile,
        Self::Offline,
        Self::ReadyFile,
        Self::ReadyTimeout,
        Self::Registry,
        Self::Report,
        Self::San,
        Self::Seed,
        Self::State,
        Self::TagTtl,
        Self::TlsCert,
        Self::TlsKey,
        Self::TokenKey,
        Self::User,
        Self::CacheMaxSize,
        Self::CacheNone,
        Self::BodyTimeout,
        Self::HeadTimeout,
        Self::MaxManifestSize,
        Self::MaxNameLength,
        Self::MaxUploads,
        Self::PageSize,
        Self::UploadLifetime,
        Self::MaxTunnels,
        Self::Tunnel,
        Self::TunnelIdle,
        Self::UpstreamProxy,
    ];

    /// The flag without its dashes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authfile => "authfile",
            Self::CaCert => "ca-cert",
            Self::CaKey => "ca-key",
            Self::Data => "data",
            Self::DefaultRegistry => "default-registry",
            Self::Durability => "durability",
            Self::ExternalUrl => "external-url",
            Self::Grace => "grace",
            Self::H2 => "h2",
            Self::Htpasswd => "htpasswd",
            Self::Listen => "listen",
            Self::LocalOnly => "local-only",
            Self::Mirror => "mirror",
            Self::NegativeTtl => "negative-ttl",
            Self::NoDefaultRegistries => "no-default-registries",
            Self::NoShadow => "no-shadow",
            Self::AllowSparse => "allow-sparse",
            Self::ExitWithParent => "exit-with-parent",
            Self::LogFile => "log-file",
            Self::Offline => "offline",
            Self::ReadyFile => "ready-file",
            Self::ReadyTimeout => "ready-timeout",
            Self::Registry => "registry",
            Self::Report => "report",
            Self::San => "san",
            Self::Seed => "seed",
            Self::State => "state",
            Self::TagTtl => "tag-ttl",
            Self::TlsCert => "tls-cert",
            Self::TlsKey => "tls-key",
            Self::TokenKey => "token-key",
            Self::User => "user",
            Self::CacheMaxSize => "cache-max-size",
            Self::CacheNone => "cache-none",
            Self::BodyTimeout => "body-timeout",
            Self::HeadTimeout => "head-timeout",
            Self::MaxManifestSize => "max-manifest-size",
            Self::MaxNameLength => "max-name-length",
            Self::MaxUploads => "max-uploads",
            Self::PageSize => "page-size",
            Self::UploadLifetime => "upload-lifetime",
            Self::MaxTunnels => "max-tunnels",
            Self::Tunnel => "tunnel",
            Self::TunnelIdle => "tunnel-idle",
            Self::UpstreamProxy => "upstream-proxy",
        }
    }

    /// The key in the file: the flag's name, but for what a file has more to say about than a flag.
    pub fn in_file(self) -> &'static str {
        match self {
            Self::User => "users",
            other => other.name(),
        }
    }

    /// `STANDIN_<NAME>`.
    pub fn variable(self) -> String {
        format!(
            "{PREFIX}{}",
            self.name().replace('-', "_").to_ascii_uppercase()
        )
    }

    /// Whether the option may be given several times.
    pub fn is_list(self) -> bool {
        matches!(
            self,
            Self::Authfile
                | Self::CacheNone
                | Self::Listen
                | Self::LocalOnly
                | Self::Mirror
                | Self::NoShadow
                | Self::Registry
                | Self::Report
                | Self::San
                | Self::Seed
                | Self::TagTtl
                | Self::Tunnel
                | Self::User
        )
    }
}

/// What the command line gave.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    config: Option<String>,
    place: Place,
}

impl Flags {
    /// `config` is the file that `--config` names.
    pub fn new(config: Option<String>) -> Self {
        Self {
            config,
            place: Place::new(),
        }
    }

    /// Adds an option; without any text it counts as not given.
    pub fn with(mut self, key: Key, texts: impl IntoIterator<Item = String>) -> Self {
        let given: Vec<Given> = texts
            .into_iter()
            .map(|text| Given {
                text,
                fields: Vec::new(),
                origin: Origin {
                    key,
                    place: At::Flag,
                },
            })
            .collect();
        if !given.is_empty() {
            self.place.insert(key, given);
        }
        self
    }

    /// Forgets an option.
    pub fn without(mut self, key: Key) -> Self {
        self.place.remove(&key);
        self
    }

    /// As they would be typed, for another process of ours.
    pub fn arguments(&self) -> Vec<String> {
        let options = self.place.iter().flat_map(|(key, given)| {
            let text = |given: &Given| format!("--{}={}", key.name(), given.text);
            given.iter().map(text)
        });
        let file = self.config.iter().map(|file| format!("--config={file}"));
        options.chain(file).collect()
    }
}

/// All that was given, place by place.
#[derive(Clone)]
pub struct Sources {
    /// The strongest first.
    places: [Place; 3],
    environment: Environment,
}

impl Sources {
    /// Reads the variables and the file that `--config` or `STANDIN_CONFIG` names.
    ///
    /// An empty variable counts as unset, for many CI systems cannot unset one.
    ///
    /// # Errors
    /// A variable that is not UTF-8; a file that cannot be read, is no YAML, or holds a key that is not ours.
    pub fn read(flags: Flags, environment: Environment) -> Result<Self, ConfigError> {
        let mut variables = Place::new();
        for key in Key::ALL {
            let name = key.variable();
            let Some(text) = variable(&environment, &name)? else {
                continue;
            };
            let texts: Vec<&str> = match key {
                // A password may hold anything but the end of a line.
                Key::User => text.lines().filter(|line| !line.is_empty()).collect(),
                key if key.is_list() => text
                    .split(|c: char| c == ',' || c.is_whitespace())
                    .filter(|item| !item.is_empty())
                    .collect(),
                _ => vec![text],
            };
            let given: Vec<Given> = texts
                .into_iter()
                .map(|text| Given {
                    text: text.to_owned(),
                    fields: Vec::new(),
                    origin: Origin {
                        key,
                        place: At::Variable,
                    },
                })
                .collect();
            if !given.is_empty() {
                variables.insert(key, given);
            }
        }
        let config = match (flags.config, variable(&environment, CONFIG_VARIABLE)?) {
            (Some(path), _) => Some(("flag --config".to_owned(), path)),
            (None, Some(path)) => Some((format!("variable {CONFIG_VARIABLE}"), path.to_owned())),
            (None, None) => None,
        };
        let file = match config {
            Some((from, path)) => file::read(&from, &path)?,
            None => Place::new(),
        };
        Ok(Self {
            places: [flags.place, variables, file],
            environment,
        })
    }

    /// One sentence for each `STANDIN_*` variable that means nothing to us. They are no errors: a cluster sets some of
    /// its own for a service that is called standin.
    pub fn warnings(&self) -> Vec<String> {
        let known: Vec<String> = Key::ALL
            .into_iter()
            .map(Key::variable)
            .chain([CONFIG_VARIABLE.to_owned()])
            .chain(self.named_by_mappings())
            .collect();
        self.environment
            .keys()
            .map(|name| name.to_string_lossy())
            .filter(|name| {
                name.starts_with(PREFIX)
                    && !known.iter().any(|known| known == name)
                    && !GIVEN_TO_CHILDREN.contains(&name.as_ref())
            })
            .map(|name| {
                let hint = nearest(&name, known.iter().map(String::as_str), PREFIX.len())
                    .map(|near| format!(": did you mean {near}?"));
                format!(
                    "the variable {name} is none of standin's and is ignored{}",
                    hint.unwrap_or_default()
                )
            })
            .collect()
    }

    /// The variables that the file has passwords in.
    fn named_by_mappings(&self) -> impl Iterator<Item = String> + '_ {
        [Key::User, Key::Registry]
            .into_iter()
            .flat_map(|key| self.weakest_first(key))
            .flatten()
            .flat_map(|given| &given.fields)
            .filter(|field| field.name == "password-env")
            .flat_map(|field| field.values.iter().cloned())
    }

    /// A variable that is not standin's, unless it is empty.
    pub(super) fn ambient(&self, name: &str) -> Option<&OsString> {
        self.environment
            .get(&OsString::from(name))
            .filter(|value| !value.is_empty())
    }

    /// The value of an option that is given once, from the strongest place that has it.
    pub(super) fn one<T, E: fmt::Display>(
        &self,
        key: Key,
        parse: impl Fn(&Given) -> Result<T, E>,
    ) -> Result<Option<T>, ConfigError> {
        Ok(self
            .list(key, parse)?
            .and_then(|values| values.into_iter().next()))
    }

    /// The values of a list, from the strongest place that has it.
    pub(super) fn list<T, E: fmt::Display>(
        &self,
        key: Key,
        parse: impl Fn(&Given) -> Result<T, E>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        let Some(strongest) = self.weakest_first(key).next_back() else {
            return Ok(None);
        };
        strongest
            .iter()
            .map(|given| parse(given).map_err(|problem| given.origin.refuse(problem)))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Whether any place gives the option.
    pub fn gives(&self, key: Key) -> bool {
        self.origin(key).is_some()
    }

    /// Whether the option's value comes from a `STANDIN_*` variable.
    pub fn gives_by_variable(&self, key: Key) -> bool {
        self.origin(key)
            .is_some_and(|origin| origin.place == At::Variable)
    }

    /// Where the option's value comes from.
    pub(super) fn origin(&self, key: Key) -> Option<&Origin> {
        Some(&self.weakest_first(key).next_back()?.first()?.origin)
    }

    /// What each place gives, for a list whose places add up.
    pub(super) fn weakest_first(
        &self,
        key: Key,
    ) -> impl DoubleEndedIterator<Item = &[Given]> + use<'_> {
        self.places
            .iter()
            .rev()
            .filter_map(move |place| place.get(&key).map(Vec::as_slice))
    }
}

/// One text that was given for an option. It may be a secret, so its `Debug` shows where it is from and no more.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) text: String,
    /// In place of the text, where a file has a mapping.
    pub(super) fields: Vec<Field>,
    pub(super) origin: Origin,
}

/// An entry of a mapping in the file.
#[derive(Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) values: Vec<String>,
    pub(super) origin: Origin,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sources").field(&self.places).finish()
    }
}

impl Given {
    /// `text` (this one, or a part of it) as an absolute path. In a file, paths are relative to the file's directory.
    pub(super) fn path(&self, text: &str) -> Result<PathBuf, String> {
        if text.is_empty() {
            return Err("the path is empty".to_owned());
        }
        if text == "~" || text.starts_with("~/") {
            return Err(format!(
                "{text:?} begins with ~, which only shells expand: write the path in full"
            ));
        }
        let path = match &self.origin.place {
            At::File { path, .. } => Cow::Owned(path.parent().unwrap_or(Path::new("/")).join(text)),
            At::Flag | At::Variable => Cow::Borrowed(Path::new(text)),
        };
        std::path::absolute(path).map_err(|error| {
            format!("{text:?} is relative, and the working directory cannot be had: {error}")
        })
    }
}

/// What one place gives.
pub(super) type Place = BTreeMap<Key, Vec<Given>>;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    key: Key,
    place: At,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Flag,
    Variable,
    File { path: Arc<Path>, line: u64 },
}

impl Origin {
    pub(super) fn in_file(key: Key, path: &Arc<Path>, line: u64) -> Self {
        let path = Arc::clone(path);
        Self {
            key,
            place: At::File { path, line },
        }
    }

    /// `problem` quotes the value and says what would be right.
    pub(super) fn refuse(&self, problem: impl fmt::Display) -> ConfigError {
        ConfigError::Value {
            origin: self.clone(),
            problem: problem.to_string(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key;
        match &self.place {
            At::Flag => write!(f, "flag --{}", key.name()),
            At::Variable => write!(f, "variable {}", key.variable()),
            At::File { path, line } => {
                write!(f, "{} in {}, line {line}", key.in_file(), path.display())
            }
        }
    }
}

/// The configuration is refused. The text names the place and the value and says what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{origin}: {problem}")]
    Value { origin: Origin, problem: String },
    /// What an option comes to without being given.
    #[error("{key}, which is not given: {problem}")]
    Default { key: &'static str, problem: String },
    #[error("variable {0}: its value is not UTF-8")]
    NotText(String),
    /// `from` says who named the file.
    #[error("{from}: the configuration file {} cannot be read", path.display())]
    Unreadable {
        from: String,
        path: PathBuf,
        source: io::Error,
    },
    /// The file as a whole, or a key that is no option's; `problem` says in which line.
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
}

fn variable<'a>(environment: &'a Environment, name: &str) -> Result<Option<&'a str>, ConfigError> {
    match environment.get(&OsString::from(name)) {
        None => Ok(None),
        Some(value) => match value.to_str() {
            Some(text) => Ok((!text.is_empty()).then_some(text)),
            None => Err(ConfigError::NotText(name.to_owned())),
        },
    }
}

const PREFIX: &str = "STANDIN_";
const CONFIG_VARIABLE: &str = "STANDIN_CONFIG";

/// What `standin run` sets for its command, which may well start a standin of its own.
const GIVEN_TO_CHILDREN: [&str; 3] = ["STANDIN_CA", "STANDIN_HOST", "STANDIN_URL"];
