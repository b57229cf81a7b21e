//! One file of log-ins: docker's `config.json` or containers' `auth.json`, whose keys mean the same.
//!
//! Nothing of its content is ever told but places in it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;

use super::Login;
use crate::types::{RegistryHost, RepositoryName};

/// A file, and what it said when it was last read.
pub(super) struct Watched {
    path: PathBuf,
    seen: Result<Stamp, io::ErrorKind>,
    entries: Option<Arc<Entries>>,
}

/// What changes with a file's content.
#[derive(PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Watched {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: Err(io::ErrorKind::NotFound),
            entries: None,
        }
    }

    /// What it says now; nothing if it is not there or can't be read, of which one warning tells.
    pub(super) fn entries(&mut self) -> Option<Arc<Entries>> {
        let seen = match fs::metadata(&self.path) {
            Ok(metadata) => Ok(Stamp {
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
            }),
            Err(error) => Err(error.kind()),
        };
        if seen == self.seen {
            return self.entries.clone();
        }
        let absent = matches!(
            seen,
            Err(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        );
        self.seen = seen;
        self.entries = match absent {
            true => None,
            false => read(&self.path).map(Arc::new).map_or_else(
                |problem| {
                    let path = self.path.display();
                    log::warn!("the log-ins in {path} are not used: {problem}");
                    None
                },
                Some,
            ),
        };
        self.entries.clone()
    }
}

fn read(path: &Path) -> Result<Entries, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("this is no file".to_owned());
    }
    if metadata.len() > FILE_LIMIT {
        return Err(format!("it has more than {FILE_LIMIT} bytes"));
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    Entries::parse(&text)
}

/// What a file says.
#[derive(Default)]
pub(super) struct Entries {
    logins: BTreeMap<Key, Option<Login>>,
    helpers: BTreeMap<RegistryHost, String>,
    store: Option<String>,
}

/// A registry, and of it what lies below a path; an empty path is all.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    host: RegistryHost,
    path: String,
}

impl Entries {
    /// # Errors
    /// Where and of what kind the mistake is; never what stands there.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct File {
            auths: Option<BTreeMap<String, Auth>>,
            cred_helpers: Option<BTreeMap<String, String>>,
            creds_store: Option<String>,
        }
        #[derive(Deserialize)]
        struct Auth {
            auth: Option<String>,
            username: Option<String>,
            password: Option<String>,
            identitytoken: Option<String>,
        }
        // An empty file is what `podman logout` of old leaves.
        if text.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let file: File = serde_json::from_slice(text).map_err(|error| {
            use serde_json::error::Category;
            let kind = match error.classify() {
                Category::Data => "is not of the type that belongs there",
                Category::Eof => "is cut off",
                Category::Io | Category::Syntax => "is no JSON",
            };
            let (line, column) = (error.line(), error.column());
            format!("what stands in line {line}, column {column} {kind}")
        })?;
        let mut entries = Self {
            store: file.creds_store.filter(|store| !store.is_empty()),
            ..Self::default()
        };
        for (registry, helper) in file.cred_helpers.unwrap_or_default() {
            if let Some(key) = Key::parse(&registry) {
                entries.helpers.insert(key.host, helper);
            }
        }
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        for (registry, auth) in file.auths.unwrap_or_default() {
            // Whatever else stands there is no registry of ours.
            let Some(key) = Key::parse(&registry) else {
                continue;
            };
            let login = match (given(auth.identitytoken), given(auth.auth)) {
                (Some(token), _) => Some(Login::Identity(token)),
                (None, Some(auth)) => Some(decode(&auth).ok_or_else(|| {
                    format!("the auth of {registry:?} is not USER:PASSWORD in Base64")
                })?),
                (None, None) => given(auth.username)
                    .zip(given(auth.password))
                    .map(|(user, password)| Login::Password { user, password }),
            };
            // The same registry in two spellings: the one that says something.
            let entry = entries.logins.entry(key).or_default();
            *entry = login.or(entry.take());
        }
        Ok(entries)
    }

    /// The helper to be asked for the registry's log-in.
    pub(super) fn helper(&self, host: &RegistryHost) -> Option<&str> {
        let own = self.helpers.get(host).filter(|helper| !helper.is_empty());
        own.or(self.store.as_ref()).map(String::as_str)
    }

    /// What stands in the file itself, under the longest path that the repository lies below.
    pub(super) fn login(
        &self,
        host: &RegistryHost,
        repository: Option<&RepositoryName>,
    ) -> Option<&Login> {
        let repository = repository.map_or("", RepositoryName::as_str);
        let lies_below = |path: &str| {
            let rest = repository.strip_prefix(path);
            path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.logins
            .iter()
            .filter(|(key, _)| key.host == *host && lies_below(&key.path))
            .filter_map(|(key, login)| Some((key.path.len(), login.as_ref()?)))
            .max_by_key(|(length, _)| *length)
            .map(|(_, login)| login)
    }

    /// Whether the registry, or a path of it, is among the keys.
    pub(super) fn names(&self, host: &RegistryHost) -> bool {
        let helped = self.helpers.get(host);
        helped.is_some_and(|helper| !helper.is_empty())
            || self.logins.iter().any(|(key, login)| {
                // An entry without a log-in stands for what a store has.
                key.host == *host && (login.is_some() || self.store.is_some())
            })
    }
}

impl Key {
    /// `host`, `host:port`, containers' `host/path`, or docker's URLs, whose path says nothing.
    fn parse(text: &str) -> Option<Self> {
        let url = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let (host, path) = match url.unwrap_or(text).split_once('/') {
            Some((host, path)) if url.is_none() => (host, path.trim_matches('/')),
            Some((host, _)) => (host, ""),
            None => (url.unwrap_or(text), ""),
        };
        let path = match path {
            "v1" | "v2" => "",
            path => path,
        };
        Some(Self {
            host: host.parse().ok()?,
            path: path.to_owned(),
        })
    }
}

fn decode(auth: &str) -> Option<Login> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let decoded = String::from_utf8(BASE64.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    // Docker wrote NULs behind passwords once.
    let password = password.trim_end_matches('\0');
    (!user.is_empty()).then(|| Login::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

/// Larger than any real one.
const FILE_LIMIT: u64 = 1 << 20;
