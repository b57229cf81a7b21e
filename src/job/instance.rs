//! A standin that runs, as its ready file tells of it: found, asked, waited for and stopped.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use serde::Deserialize;

use super::Process;
use crate::{
    tls::probe,
    types::{ExternalUrl, RegistryHost},
};

/// Where commands that are given no ready file look for one: in the state directory.
pub const READY_FILE: &str = "ready.json";

/// What `serve` writes once connections are accepted.
#[derive(Clone, Debug, Deserialize)]
pub struct Instance {
    pub address: SocketAddr,
    pub http: String,
    #[serde(deserialize_with = "parsed")]
    pub https: ExternalUrl,
    pub ca: PathBuf,
    pub data: PathBuf,
    pub listeners: Vec<SocketAddr>,
    pub registries: Vec<RegistryHost>,
    /// The generated credential, where there is one.
    pub user: Option<String>,
    pub password: Option<String>,
    pid: i32,
    /// In the words of [`start_of`](super::process::start_of).
    start: Option<u64>,
}

/// How a stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It ended.
    Now(i32),
    /// There was nothing to stop: it had ended before.
    Before(i32),
}

impl Instance {
    /// Reads a ready file; `None` if there is none.
    ///
    /// # Errors
    /// It can't be read, or is no ready file.
    pub fn read(file: &Path) -> anyhow::Result<Option<Self>> {
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read the ready file {}", file.display()));
            }
        };
        serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("{} is no ready file of standin's", file.display()))
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its process; `None` if that has ended, or is of another container or machine.
    ///
    /// # Errors
    /// The system doesn't say.
    pub fn process(&self) -> io::Result<Option<Process>> {
        let pid = (self.pid > 0).then(|| Pid::from_raw(self.pid)).flatten();
        match (pid, self.start) {
            (Some(pid), Some(start)) => Process::started_at(pid, start),
            _ => Ok(None),
        }
    }

    /// What it answers to a GET of `path`, if that is 200.
    ///
    /// # Errors
    /// Why there is no such answer, as a person reads it.
    pub fn ask(&self, path: &str) -> Result<String, String> {
        expect(&self.http, path)
    }

    /// SIGTERM, and the wait until it has drained and ended.
    ///
    /// # Errors
    /// It is somebody else's, or not of this machine, or takes longer than `patience`.
    pub fn stop(&self, patience: Duration) -> anyhow::Result<Stopped> {
        let pid = self.pid;
        let process = self
            .process()
            .with_context(|| format!("can't look at the process {pid}"))?;
        let Some(process) = process else {
            // Another process may have its id by now; that one is none of our business.
            anyhow::ensure!(
                self.ask("/healthz").is_err(),
                "a standin answers at {}, and its process is none of this machine's or container's: stop it where it runs",
                self.http
            );
            return Ok(Stopped::Before(pid));
        };
        process
            .signal(Signal::TERM)
            .with_context(|| format!("standin (pid {pid}) may not be stopped by this user"))?;
        anyhow::ensure!(
            process.ends_within(patience),
            "standin (pid {pid}) still has requests to finish after {patience:?}: it ends once they are done or its --grace is \
             over; another `standin stop` cuts them off",
        );
        Ok(Stopped::Now(pid))
    }

    /// Waits until the standin that the ready file names answers.
    ///
    /// # Errors
    /// Why it does not, once `patience` is over.
    pub fn await_ready(file: &Path, patience: Duration) -> anyhow::Result<Self> {
        let not_yet = || {
            let instance = match Self::read(file) {
                Ok(Some(instance)) => instance,
                Ok(None) => return Err(format!("there is no ready file {}", file.display())),
                Err(error) => return Err(format!("{error:#}")),
            };
            match instance.ask("/healthz") {
                Ok(_) => Ok(instance),
                Err(problem) => Err(format!("{}: {problem}", file.display())),
            }
        };
        until(patience, not_yet)
    }

    /// Waits until a standin answers at `url`, an `http://` one.
    ///
    /// # Errors
    /// Why it does not, once `patience` is over.
    pub fn await_answer(url: &ExternalUrl, patience: Duration) -> anyhow::Result<()> {
        until(patience, || {
            expect(&url.to_string(), "/healthz").map(|_| ())
        })
    }
}

/// Asks again and again: a file or a listener in another container announces itself by no event.
fn until<T>(patience: Duration, not_yet: impl Fn() -> Result<T, String>) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match not_yet() {
            Ok(found) => return Ok(found),
            Err(problem) if Instant::now() >= deadline => {
                anyhow::bail!("no standin is ready after {patience:?}: {problem}",);
            }
            Err(_) => {
                let left = deadline.saturating_duration_since(Instant::now());
                std::thread::sleep(left.min(INTERVAL));
            }
        }
    }
}

/// What an `http://` URL was answered with.
pub(super) enum Answer {
    /// 200, with that text.
    Ok(String),
    /// Another status.
    Refused(u16),
}

impl Answer {
    /// What is wrong with it, if there is anything but 200 to be expected.
    pub(super) fn problem(&self, url: &str, path: &str) -> String {
        let status = match self {
            Self::Ok(_) => 200,
            Self::Refused(status) => *status,
        };
        format!("{url} answers {path} with {status}: is that standin?")
    }
}

/// GETs `path` from an `http://` URL.
///
/// # Errors
/// Why there is no answer, as a person reads it.
pub(super) fn ask(url: &str, path: &str, authorization: Option<&str>) -> Result<Answer, String> {
    let url: ExternalUrl = url
        .parse()
        .map_err(|error: <ExternalUrl as std::str::FromStr>::Err| error.to_string())?;
    match probe::get(url.host(), url.port(), path, authorization)? {
        (200, body) => Ok(Answer::Ok(body)),
        (status, _) => Ok(Answer::Refused(status)),
    }
}

/// GETs `path` from an `http://` URL; anything but 200 is an error.
fn expect(url: &str, path: &str) -> Result<String, String> {
    match ask(url, path, None)? {
        Answer::Ok(body) => Ok(body),
        refused @ Answer::Refused(_) => Err(refused.problem(url, path)),
    }
}

fn parsed<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ExternalUrl, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(pid) => write!(f, "standin (pid {pid}) has ended"),
            Self::Before(pid) => write!(
                f,
                "no standin runs: the one that did (pid {pid}) has ended before"
            ),
        }
    }
}

const INTERVAL: Duration = Duration::from_millis(50);
