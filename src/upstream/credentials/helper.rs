//! Credential helpers: `docker-credential-NAME get`, asked once in five minutes for a registry.
//!
//! <https://github.com/docker/docker-credential-helpers#development>

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    sync::Mutex as Flight,
    time::Instant,
};

use super::Login;
use crate::types::{RegistryHost, digest::shown};

/// What helpers answered lately.
#[derive(Default)]
pub(super) struct Helpers {
    /// Where they are, if not in PATH.
    directory: Option<PathBuf>,
    flights: Mutex<HashMap<Question, Arc<Flight<Option<Answer>>>>>,
}

/// A helper's name, and what it is asked for.
type Question = (String, String);

struct Answer {
    at: Instant,
    login: Option<Login>,
    failed: bool,
}

impl Answer {
    fn is_fresh(&self) -> bool {
        let good_for = match self.failed {
            true => FAILED_FOR,
            false => GOOD_FOR,
        };
        self.at.elapsed() < good_for
    }
}

/// What is known of a helper's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Login,
    Nothing,
    /// It has not answered lately.
    NotYet,
}

impl Helpers {
    #[cfg(test)]
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self {
            directory: Some(directory.to_owned()),
            ..Self::default()
        }
    }

    /// The log-in that `helper` has for the registry. A failure is logged, and counts as none for a while.
    pub(super) async fn get(&self, helper: &str, host: &RegistryHost) -> Option<Login> {
        let flight = self.flight(helper, host);
        // Whoever asks meanwhile waits here for the same answer.
        let mut answer = flight.lock().await;
        if let Some(answer) = answer.as_ref().filter(|answer| answer.is_fresh()) {
            return answer.login.clone();
        }
        let directory = self.directory.as_deref();
        let asked = ask(directory, helper, &server(host), PATIENCE).await;
        if let Err(problem) = &asked {
            log::warn!("docker-credential-{helper} gives no log-in for {host}: {problem}");
        }
        let failed = asked.is_err();
        let login = asked.unwrap_or_default();
        *answer = Some(Answer {
            at: Instant::now(),
            login: login.clone(),
            failed,
        });
        login
    }

    /// What it answered, without asking it.
    pub(super) fn seen(&self, helper: &str, host: &RegistryHost) -> Seen {
        let flight = self.flight(helper, host);
        let Ok(answer) = flight.try_lock() else {
            return Seen::NotYet;
        };
        match answer.as_ref().filter(|answer| answer.is_fresh()) {
            Some(Answer { login: Some(_), .. }) => Seen::Login,
            Some(Answer { failed: false, .. }) => Seen::Nothing,
            _ => Seen::NotYet,
        }
    }

    fn flight(&self, helper: &str, host: &RegistryHost) -> Arc<Flight<Option<Answer>>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let question = (helper.to_owned(), server(host));
        Arc::clone(flights.entry(question).or_default())
    }
}

/// What docker files a registry's log-in under.
fn server(host: &RegistryHost) -> String {
    match host.is_docker_hub() {
        true => "https://index.docker.io/v1/".to_owned(),
        false => host.to_string(),
    }
}

/// Runs the helper, of `directory` or else of PATH. `None`: it has no log-in.
pub(super) async fn ask(
    directory: Option<&Path>,
    helper: &str,
    server: &str,
    patience: Duration,
) -> Result<Option<Login>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Found {
        username: String,
        secret: String,
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if helper.is_empty() || !helper.bytes().all(allowed) {
        let helper = shown(helper);
        return Err(format!(
            "{helper} is no helper's name, which has letters, digits, '-', '.' and '_'"
        ));
    }
    let program = PathBuf::from(format!("docker-credential-{helper}"));
    let program = directory.map_or(program.clone(), |directory| directory.join(program));
    let ran = tokio::time::timeout(patience, run(&program, server)).await;
    let ran = ran.map_err(|_| format!("no answer within {} seconds", patience.as_secs()))?;
    let ran = ran.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such program in PATH".to_owned(),
        _ => format!("it can't be run: {error}"),
    })?;
    if !ran.success {
        // The protocol's sentence for that, which goes to standard output.
        if ran.output.starts_with(b"credentials not found") {
            return Ok(None);
        }
        let complaint = String::from_utf8_lossy(&ran.complaint);
        return Err(match complaint.lines().next() {
            Some(line) => format!("it failed and said {}", shown(line)),
            None => "it failed and said nothing".to_owned(),
        });
    }
    let found: Found = serde_json::from_slice(&ran.output)
        .map_err(|_| "its answer is no JSON with Username and Secret".to_owned())?;
    if found.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(match found.username.as_str() {
        "<token>" => Login::Identity(found.secret),
        _ => Login::Password {
            user: found.username,
            password: found.secret,
        },
    }))
}

struct Ran {
    success: bool,
    output: Vec<u8>,
    complaint: Vec<u8>,
}

async fn run(program: &Path, server: &str) -> io::Result<Ran> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not care for its input has closed it; its answer counts.
        let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
    }
    let (mut output, mut complaint) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read_output = async {
        match stdout {
            Some(stdout) => stdout.take(ANSWER_LIMIT).read_to_end(&mut output).await,
            None => Ok(0),
        }
    };
    let read_complaint = async {
        match stderr {
            Some(stderr) => stderr.take(ANSWER_LIMIT).read_to_end(&mut complaint).await,
            None => Ok(0),
        }
    };
    tokio::try_join!(read_output, read_complaint)?;
    let success = child.wait().await?.success();
    Ok(Ran {
        success,
        output,
        complaint,
    })
}

/// A helper is a program on this machine; some ask a service of their cloud.
const PATIENCE: Duration = Duration::from_secs(5);

/// Helpers of clouds give passwords that are good for an hour or more.
const GOOD_FOR: Duration = Duration::from_secs(5 * 60);

/// A helper that hangs must not cost its patience at each request.
const FAILED_FOR: Duration = Duration::from_secs(30);

/// Tokens of clouds have some kilobytes.
const ANSWER_LIMIT: u64 = 64 << 10;
