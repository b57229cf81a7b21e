//! Programs and daemons of this machine: what version they are, what they have read, and how they read it again.
//!
//! Nothing here is asked about another root. Whatever cannot be found out is `None`, and the caller says what then.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Error, Place, Version};

/// Something to do once the files are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    /// dockerd reads daemon.json again, and has this mirror then.
    ReloadDocker {
        pid_file: PathBuf,
        mirror: Option<String>,
    },
    /// A program that takes the files up, and its arguments.
    Run(&'static [&'static str]),
    /// What only the user can do.
    Say(String),
}

impl Follow {
    /// Does it, if anything was written. What the user has to know comes back.
    ///
    /// # Errors
    /// A program that has to take the files up did not; they are written all the same.
    pub(super) fn after_writing(
        self,
        place: &Place,
        changed: bool,
    ) -> Result<Option<String>, Error> {
        if !changed {
            return Ok(None);
        }
        Ok(Some(match self {
            Self::Say(text) => text,
            Self::ReloadDocker { pid_file, mirror } => match hang_up(place, &pid_file) {
                Ok(pid) => {
                    // So that the next pull goes there; where docker can't be asked, it will have in a moment.
                    if let Some(mirror) = &mirror {
                        await_mirror(place, mirror, true);
                    }
                    format!("dockerd ({pid}) was told to read daemon.json again")
                }
                Err(reason) => format!(
                    "dockerd reads daemon.json at its next start, or on: kill -HUP \"$(pidof dockerd)\" ({reason})"
                ),
            },
            Self::Run(command) if !place.is_live() => {
                format!("to be run inside that root: {}", command.join(" "))
            }
            Self::Run(command) => {
                let shown = command.join(" ");
                let failed = |why: &dyn std::fmt::Display| {
                    Error::Unfit(format!(
                        "the files are as they should be, but this failed, run it by hand: {shown} ({why})"
                    ))
                };
                let mut program = Command::new(command[0]);
                program.args(&command[1..]).stdin(Stdio::null());
                let output = program.output().map_err(|error| failed(&error))?;
                if !output.status.success() {
                    return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
                }
                format!("done: {shown}")
            }
        }))
    }
}

/// What the docker daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Docker {
    pub(super) version: Version,
    /// Whether images are in containerd's store; `None` if the daemon does not run.
    pub(super) containerd_store: Option<bool>,
}

/// Asks the daemon that the docker command talks to, or the one that would be started.
pub(super) fn docker(place: &Place) -> Option<Docker> {
    if !place.is_live() {
        return None;
    }
    let info = output(
        "docker",
        &[
            "info",
            "--format",
            "{{.ServerVersion}} {{json .DriverStatus}}",
        ],
    );
    if let Some((version, drivers)) = info.as_deref().and_then(|info| info.split_once(' '))
        && let Ok(version) = version.parse()
    {
        return Some(Docker {
            version,
            containerd_store: Some(drivers.contains("io.containerd.snapshotter")),
        });
    }
    // "Docker version 20.10.24+dfsg1, build 297e128"
    let text = output("dockerd", &["--version"])?;
    Some(Docker {
        version: text.split_whitespace().nth(2)?.parse().ok()?,
        containerd_store: None,
    })
}

/// The mirrors of Docker Hub that the daemon has read.
pub(super) fn docker_mirrors(place: &Place) -> Option<Vec<String>> {
    if !place.is_live() {
        return None;
    }
    let text = output(
        "docker",
        &["info", "--format", "{{json .RegistryConfig.Mirrors}}"],
    )?;
    serde_json::from_str::<Option<Vec<String>>>(text.trim())
        .ok()
        .map(Option::unwrap_or_default)
}

/// Waits until the daemon has read that `mirror` is one of its mirrors, or that it is none. `false` if it does not, or
/// can't be asked.
pub(super) fn await_mirror(place: &Place, mirror: &str, wanted: bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while let Some(mirrors) = docker_mirrors(place) {
        let has = mirrors
            .iter()
            .any(|one| one.trim_end_matches('/') == mirror);
        if has == wanted {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        // It announces a reload in its log alone.
        thread::sleep(Duration::from_millis(50));
    }
    false
}

/// Has dockerd read its file again; answers its process id, or why not.
pub(super) fn hang_up(place: &Place, pid_file: &Path) -> Result<i32, String> {
    if !place.is_live() {
        return Err("it is another root's".to_owned());
    }
    let text =
        fs::read_to_string(pid_file).map_err(|error| format!("{}: {error}", pid_file.display()))?;
    let number: i32 = text
        .trim()
        .parse()
        .map_err(|_| format!("{} holds no process id", pid_file.display()))?;
    // A stale file may name anybody.
    let name = fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
    let pid = Pid::from_raw(number).filter(|_| name.trim() == "dockerd");
    let pid = pid.ok_or_else(|| format!("no dockerd runs as process {number}"))?;
    kill_process(pid, Signal::HUP).map_err(|error| format!("process {number}: {error}"))?;
    Ok(number)
}

/// The version of the containerd that is installed.
pub(super) fn containerd(place: &Place) -> Option<Version> {
    if !place.is_live() {
        return None;
    }
    // "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3"
    let text = output("containerd", &["--version"])?;
    text.split_whitespace().nth(2)?.parse().ok()
}

/// The first address of a docker network's gateway, which containers on it can reach.
pub(super) fn gateway(place: &Place, network: &str) -> Option<String> {
    if !place.is_live() {
        return None;
    }
    let format = "{{range .IPAM.Config}}{{println .Gateway}}{{end}}";
    let text = output(
        "docker",
        &["network", "inspect", "--format", format, network],
    )?;
    let is_ipv4 = |line: &&str| line.parse::<std::net::Ipv4Addr>().is_ok();
    text.lines().map(str::trim).find(is_ipv4).map(str::to_owned)
}

/// What a program prints, if it succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

const PATIENCE: Duration = Duration::from_secs(10);
