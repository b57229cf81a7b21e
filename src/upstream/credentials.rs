//! Log-ins of other registries: given by configuration, or found where `docker login`, `podman login` and credential
//! helpers keep them. Knows no HTTP; a secret leaves this file only to be sent to the registry that it is for.
//!
//! - Files are looked through in order, and the first that has a log-in for the registry decides. Within one, the helper
//!   of that registry comes first, then the store of all, then what stands in the file, where the longest path wins.
//! - They are read again when they change, since a job may log in while it runs.
//! - Whether a registry [has a log-in](Credentials::has_login) is told from the files' keys, and errs on the side of yes.
//!   Once it had one it has one, until the process ends: what was fetched with it stays.

mod file;
mod helper;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use crate::types::{RegistryHost, RepositoryName, UpstreamUrl};
use file::{Entries, Watched};
use helper::{Helpers, Seen};

/// What a registry may be shown to prove who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    Password {
        user: String,
        password: String,
    },
    /// Good for fetching tokens only (`identitytoken`, an OAuth 2 refresh token).
    Identity(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
        })
    }
}

/// The log-in of one registry, and where it may be sent. Cheap to clone; `Debug` shows no secret.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    kept: Kept,
    realms: Arc<[UpstreamUrl]>,
}

#[derive(Clone, Debug, Default)]
enum Kept {
    #[default]
    Nowhere,
    Given(Login),
    Keyring(Keyring, Arc<[RegistryHost]>),
}

impl Credentials {
    /// A user and password that configuration gives.
    pub fn fixed(username: impl Into<String>, password: impl Into<String>) -> Self {
        let login = Login::Password {
            user: username.into(),
            password: password.into(),
        };
        Self {
            kept: Kept::Given(login),
            ..Self::default()
        }
    }

    /// What `keyring` has for the first of `hosts` that it has anything for, whenever it is asked.
    pub fn looked_up(keyring: Keyring, hosts: impl IntoIterator<Item = RegistryHost>) -> Self {
        Self {
            kept: Kept::Keyring(keyring, hosts.into_iter().collect()),
            ..Self::default()
        }
    }

    /// Trusts token servers at these scheme, host and port, which otherwise would not be: on another host than the
    /// registry and over http, or at an address instead of a name.
    pub fn with_realms(mut self, realms: impl IntoIterator<Item = UpstreamUrl>) -> Self {
        self.realms = realms.into_iter().collect();
        self
    }

    pub(super) fn realms(&self) -> &[UpstreamUrl] {
        &self.realms
    }

    /// Whether there is a log-in for this registry, or may be one.
    pub fn has_login(&self) -> bool {
        match &self.kept {
            Kept::Nowhere => false,
            Kept::Given(_) => true,
            Kept::Keyring(keyring, hosts) => hosts.iter().any(|host| keyring.has_login(host)),
        }
    }

    /// The log-in for a repository, under the name that this registry has for it. `None` stands for no repository.
    pub(super) async fn find(&self, repository: Option<&RepositoryName>) -> Option<Login> {
        let (keyring, hosts) = match &self.kept {
            Kept::Nowhere => return None,
            Kept::Given(login) => return Some(login.clone()),
            Kept::Keyring(keyring, hosts) => (keyring, hosts),
        };
        for host in hosts.iter() {
            if let Some(login) = keyring.find(host, repository).await {
                return Some(login);
            }
        }
        None
    }
}

/// The files and helpers that keep log-ins. Cheap to clone.
#[derive(Clone, Default)]
pub struct Keyring(Arc<Parts>);

#[derive(Default)]
struct Parts {
    files: Mutex<Vec<Watched>>,
    helpers: Helpers,
    /// Registries that had a log-in at some time.
    known: Mutex<BTreeSet<RegistryHost>>,
}

impl Keyring {
    /// Without any log-in.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Where podman and docker keep log-ins, by the variables of this process. Without a home there are fewer places.
    pub fn usual() -> Self {
        Self::files(usual_files(std::env::vars_os().collect()))
    }

    /// These files alone, docker's `config.json` or containers' `auth.json`. One that is not there counts when it comes.
    pub fn files(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self::new(files, Helpers::default())
    }

    fn new(files: impl IntoIterator<Item = PathBuf>, helpers: Helpers) -> Self {
        Self(Arc::new(Parts {
            files: Mutex::new(files.into_iter().map(Watched::new).collect()),
            helpers,
            known: Mutex::default(),
        }))
    }

    /// The log-in for a registry, or for a repository of it where a file tells these apart. Runs helpers, each for five
    /// seconds at most.
    pub async fn find(
        &self,
        host: &RegistryHost,
        repository: Option<&RepositoryName>,
    ) -> Option<Login> {
        for entries in self.entries() {
            if let Some(login) = self.find_in(&entries, host, repository).await {
                self.remember(host);
                return Some(login);
            }
        }
        None
    }

    async fn find_in(
        &self,
        entries: &Entries,
        host: &RegistryHost,
        repository: Option<&RepositoryName>,
    ) -> Option<Login> {
        if let Some(helper) = entries.helper(host) {
            let found = self.0.helpers.get(helper, host).await;
            if found.is_some() {
                return found;
            }
        }
        entries.login(host, repository).cloned()
    }

    /// Whether [`find`](Self::find) would find a log-in for some repository of the registry. A store that has not been
    /// asked for it may have one.
    pub fn has_login(&self, host: &RegistryHost) -> bool {
        let known = self.0.known.lock();
        if known.unwrap_or_else(PoisonError::into_inner).contains(host) {
            return true;
        }
        let entries = self.entries();
        if entries.iter().any(|entries| entries.names(host)) {
            self.remember(host);
            return true;
        }
        let mut helpers = entries.iter().filter_map(|entries| entries.helper(host));
        helpers.any(|helper| self.0.helpers.seen(helper, host) != Seen::Nothing)
    }

    fn remember(&self, host: &RegistryHost) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(host.clone());
    }

    /// What the files say now.
    fn entries(&self) -> Vec<Arc<Entries>> {
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter_mut().filter_map(Watched::entries).collect()
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring")
    }
}

/// In podman's order, then docker's.
fn usual_files(variables: BTreeMap<OsString, OsString>) -> Vec<PathBuf> {
    let directory = |name: &str| {
        let value = variables.get(&OsString::from(name))?;
        (!value.is_empty()).then(|| PathBuf::from(value))
    };
    let home = directory("HOME");
    let below_home = |path: &str| Some(home.as_ref()?.join(path));
    let in_containers = |directory: PathBuf| directory.join("containers/auth.json");
    [
        directory("REGISTRY_AUTH_FILE"),
        directory("XDG_RUNTIME_DIR").map(in_containers),
        directory("XDG_CONFIG_HOME")
            .or_else(|| below_home(".config"))
            .map(in_containers),
        directory("DOCKER_CONFIG")
            .or_else(|| below_home(".docker"))
            .map(|directory| directory.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}
