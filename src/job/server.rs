//! `standin serve` as a child of ours: how it is started, and when it is ready.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context as _;

/// What a server is started with.
#[derive(Debug, Default)]
pub struct Start {
    /// Behind `standin serve`.
    pub arguments: Vec<String>,
    /// On top of this process's own.
    pub variables: Vec<(String, String)>,
    /// Whether this process's standard input is for it.
    pub reads_input: bool,
}

impl Start {
    /// With `log` as its standard error. Its standard output is a pipe: the ready line comes there, or the end.
    ///
    /// # Errors
    /// This program can't be run.
    pub(super) fn command(&self, log: Stdio) -> anyhow::Result<Command> {
        let mut command = ourselves("serve")?;
        command
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(log);
        if self.reads_input {
            command.stdin(Stdio::inherit());
        }
        Ok(command)
    }
}

/// A command of this very program.
pub(super) fn ourselves(command: &str) -> anyhow::Result<Command> {
    let path =
        std::env::current_exe().context("this program does not find itself: is /proc mounted?")?;
    // The link still leads to a program that was replaced or removed while it runs.
    let found = path.exists();
    let mut this = Command::new(if found {
        &path
    } else {
        Path::new("/proc/self/exe")
    });
    this.arg0("standin").arg(command).stdin(Stdio::null());
    Ok(this)
}
