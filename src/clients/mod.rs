//! `configure`: the files that point docker, containerd, podman, BuildKit, kind, the system's trust and a shell at a
//! standin that runs, and the way back. One file per client says what is written for it.
//!
//! A client's file works out a [`Plan`] and changes nothing; the journal writes it, and takes it back. What is merged
//! into is always the file as it would be without us, so that writing twice is writing once, and a new address replaces
//! the old one. Knows nothing of the server behind the address.

mod buildkit;
mod check;
mod containerd;
mod daemon;
mod docker;
mod env;
mod error;
mod files;
mod hosts;
mod journal;
mod kind;
mod merge;
mod place;
mod podman;
mod system;
#[cfg(test)]
mod tests;
mod trust;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use self::{daemon::Follow, journal::Journal};
pub use self::{
    env::{Format, Variables},
    error::Error,
    place::{Home, Place},
};
use crate::types::{ExternalUrl, RegistryHost};

/// What can be pointed at a standin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    Docker,
    Containerd,
    /// And buildah and skopeo, which read the same files.
    Podman,
    Buildkit,
    Kind,
    /// The operating system's trust store.
    System,
    /// A shell's variables.
    Env,
}

impl Client {
    pub const ALL: [Self; 7] = [
        Self::Docker,
        Self::Containerd,
        Self::Podman,
        Self::Buildkit,
        Self::Kind,
        Self::System,
        Self::Env,
    ];

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Buildkit => "buildkit",
            Self::Kind => "kind",
            Self::System => "system",
            Self::Env => "env",
        }
    }
}

/// How a client gets to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It asks us first, under our own address.
    Mirror,
    /// It reaches every registry through us, under the registry's own name.
    Proxy,
}

/// The standin that clients are pointed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standin {
    pub url: ExternalUrl,
    /// Where else it listens.
    pub listeners: Vec<SocketAddr>,
    /// What its certificate is verified with (PEM); `None` for plain HTTP, and where the system's store is to do.
    pub ca: Option<String>,
    /// The registries it pulls from.
    pub registries: Vec<RegistryHost>,
}

impl Standin {
    /// `host:port`, an IPv6 address in brackets.
    fn authority(&self) -> String {
        format!("{}:{}", self.url.host(), self.url.port())
    }

    /// With a port whatever it is: some clients take none for another than 443.
    fn address(&self) -> String {
        let scheme = if self.url.is_https() { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// A proxy is spoken to in plain HTTP on the same port: what matters is encrypted inside.
    fn proxy(&self) -> String {
        format!("http://{}", self.authority())
    }

    fn loopback(&self) -> bool {
        match self
            .url
            .host()
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
        {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.url.host() == "localhost",
        }
    }

    fn is_ipv6(&self) -> bool {
        self.url.host().starts_with('[')
    }

    /// The certificate a proxy's client needs.
    fn needed_ca(&self) -> Result<&str, Error> {
        self.ca.as_deref().ok_or_else(|| {
            Error::Unfit("through the proxy every registry's certificate is ours: give --ca FILE, the authority to trust".to_owned())
        })
    }
}

/// What is asked for one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub client: Client,
    pub mode: Mode,
    /// Only these registries; all that a client's file can name if there are none.
    pub registries: Vec<RegistryHost>,
    /// The daemon's version where it cannot be asked.
    pub docker_version: Option<Version>,
    pub containerd_version: Option<Version>,
}

/// The part of a version that decides anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl std::str::FromStr for Version {
    type Err = String;

    /// `29`, `20.10`, `v2.0.0-beta.24+x`.
    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("{text:?} is no version such as 29.1 or 20.10.24");
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
        let number = |part: &str| {
            let digits = part
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len());
            part[..digits].parse().ok()
        };
        let major = parts.next().and_then(number).ok_or_else(invalid)?;
        let minor = match parts.next() {
            Some(part) => number(part).ok_or_else(invalid)?,
            None => 0,
        };
        Ok(Self { major, minor })
    }
}

/// What is to be written for a client, and what its user has to know.
#[derive(Debug, Default)]
pub struct Plan {
    files: Vec<(PathBuf, Vec<u8>)>,
    notes: Vec<String>,
    follow: Vec<Follow>,
}

impl Plan {
    /// Paths inside the root, with what they are to hold; a file comes before those that name it.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.files
            .iter()
            .map(|(path, bytes)| (path.as_path(), bytes.as_slice()))
    }

    /// Sentences for the user.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn file(&mut self, path: PathBuf, bytes: impl Into<Vec<u8>>) {
        self.files.push((path, bytes.into()));
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

/// What was done with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub path: PathBuf,
    pub removed: bool,
}

/// Works out what would be written, and writes nothing.
///
/// # Errors
/// The client can't be pointed there, or one of its files can't be added to.
pub fn plan(place: &Place, request: &Request, standin: &Standin) -> Result<Plan, Error> {
    planned(&Journal::read(place)?, place, request, standin)
}

/// Writes the plan, and has the client read it again where that needs no restart.
///
/// # Errors
/// As for [`plan`], or a file that can't be written: then none is. Or a program that should take them up failed.
pub fn write(
    place: &Place,
    request: &Request,
    standin: &Standin,
) -> Result<(Vec<Done>, Plan), Error> {
    let mut journal = Journal::open(place)?;
    let mut plan = planned(&journal, place, request, standin)?;
    let done = journal.write(request.client, &plan.files)?;
    for follow in std::mem::take(&mut plan.follow) {
        plan.notes
            .extend(follow.after_writing(place, !done.is_empty())?);
    }
    Ok((told(done), plan))
}

/// Takes back what was written for `client`. Answers what was done, and sentences for the user.
///
/// # Errors
/// Somebody changed what was written, or a file can't be written: nothing is changed then.
pub fn undo(place: &Place, client: Client) -> Result<(Vec<Done>, Vec<String>), Error> {
    let mut journal = Journal::open(place)?;
    let written: Vec<PathBuf> = journal.written_for(client).map(Path::to_owned).collect();
    let mut notes = Vec::new();
    let follow = match client {
        Client::Docker => docker::before_undo(place, &journal, &mut notes)?,
        Client::Containerd => containerd::before_undo(place, &written),
        Client::System => system::before_undo(place, &written),
        Client::Podman | Client::Buildkit | Client::Kind | Client::Env => Vec::new(),
    };
    let done = journal.undo(client)?;
    for follow in follow {
        notes.extend(follow.after_writing(place, !done.is_empty())?);
    }
    Ok((told(done), notes))
}

/// Whether anything is written for `client`.
///
/// # Errors
/// The journal can't be read.
pub fn is_set_up(place: &Place, client: Client) -> Result<bool, Error> {
    Ok(Journal::read(place)?.written_for(client).next().is_some())
}

/// What a client would meet now: each finding, and whether it is as it has to be.
///
/// # Errors
/// As for [`plan`].
pub fn check(
    place: &Place,
    request: &Request,
    standin: &Standin,
) -> Result<Vec<(bool, String)>, Error> {
    let journal = Journal::read(place)?;
    let plan = planned(&journal, place, request, standin)?;
    check::findings(&journal, place, request, standin, &plan)
}

fn planned(
    journal: &Journal,
    place: &Place,
    request: &Request,
    standin: &Standin,
) -> Result<Plan, Error> {
    let ask = Ask {
        journal,
        place,
        request,
        standin,
    };
    let mut plan = match request.client {
        Client::Docker => docker::plan(&ask),
        Client::Containerd => containerd::plan(&ask),
        Client::Podman => podman::plan(&ask),
        Client::Buildkit => buildkit::plan(&ask),
        Client::Kind => kind::plan(&ask),
        Client::System => system::plan(&ask),
        Client::Env => env::plan(&ask),
    }?;
    let daemon = matches!(
        request.client,
        Client::Docker | Client::Containerd | Client::Buildkit
    );
    if daemon && place.is_users() && standin.loopback() {
        plan.note(format!(
            "a rootless daemon may have a network of its own, where {} is not this machine: if it does, have standin listen at \
             another address too and give that one as --url",
            standin.url.host()
        ));
    }
    Ok(plan)
}

/// What each client's file works with.
struct Ask<'a> {
    journal: &'a Journal,
    place: &'a Place,
    request: &'a Request,
    standin: &'a Standin,
}

impl Ask<'_> {
    /// Those asked for, or all that standin pulls from.
    fn registries(&self) -> &[RegistryHost] {
        if self.request.registries.is_empty() {
            &self.standin.registries
        } else {
            &self.request.registries
        }
    }

    /// The path of the authority's certificate, which becomes one of the plan's files; `None` if none is needed.
    fn ca(&self, plan: &mut Plan) -> Option<String> {
        let ca = self
            .standin
            .ca
            .as_ref()
            .filter(|_| self.standin.url.is_https())?;
        let path = self.place.ours().join("ca.pem");
        let named = path.to_string_lossy().into_owned();
        plan.file(path, ca.as_bytes());
        Some(named)
    }

    /// The same for a client that comes through the proxy, whatever it speaks on the way there.
    fn trusted(&self, plan: &mut Plan) -> Result<String, Error> {
        let ca = self.standin.needed_ca()?;
        let path = self.place.ours().join("ca.pem");
        let named = path.to_string_lossy().into_owned();
        if !plan.files().any(|(planned, _)| planned == path) {
            plan.file(path, ca);
        }
        Ok(named)
    }

    /// Whether a client that goes to this URL by the proxy meets standin.
    fn stands_in_for(&self, url: &str) -> bool {
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = authority.split('/').next().unwrap_or_default();
        let host = authority.parse::<RegistryHost>();
        host.is_ok_and(|host| self.standin.registries.contains(&host))
    }

    /// The text of a file as it is without us; empty if there is none.
    fn text(&self, path: &Path) -> Result<String, Error> {
        let bytes = self.journal.without_us(path)?.unwrap_or_default();
        String::from_utf8(bytes).map_err(|_| Error::file(self.place.outside(path), "it is no text"))
    }

    fn not_by_ipv6(&self, what: &str) -> Result<(), Error> {
        if !self.standin.is_ipv6() {
            return Ok(());
        }
        Err(Error::Unfit(format!(
            "{what} reads no mirror at an IPv6 address such as {}: have standin listen on an IPv4 address or give --url a name",
            self.standin.authority()
        )))
    }
}

fn told(changes: Vec<journal::Change>) -> Vec<Done> {
    let done = |change: journal::Change| Done {
        removed: change.bytes.is_none(),
        path: change.path,
    };
    changes.into_iter().map(done).collect()
}
