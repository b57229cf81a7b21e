//! Which standin a command means: the one whose ready file is given, or found by its directories.

use std::{env, ffi::OsString, path::PathBuf};

use clap::Args;

use super::serve;
use crate::{
    config::{Directories, Flags, Sources},
    job::READY_FILE,
};

/// The flags that lead to a standin that runs.
#[derive(Args, Debug, Default)]
pub(super) struct Which {
    /// Ready file of a standin that runs{n}[default: ready.json in --state] [env: STANDIN_READY_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Standin")]
    pub(super) ready_file: Option<PathBuf>,
    #[command(flatten)]
    directories: serve::Directories,
    #[command(flatten)]
    file: serve::File,
}

impl Which {
    /// The ready file, whether it is there or not.
    ///
    /// # Errors
    /// The directories are refused.
    pub(super) fn ready_file(self) -> anyhow::Result<PathBuf> {
        ready_file(self.ready_file, self.directories, self.file)
    }
}

/// The ready file that is given, else named by the variable, else in the state directory.
pub(super) fn ready_file(
    given: Option<PathBuf>,
    directories: serve::Directories,
    file: serve::File,
) -> anyhow::Result<PathBuf> {
    if let Some(file) = given {
        return Ok(file);
    }
    // Where a step names directories, it means those and not what an earlier one has left in its variables.
    let variable = env::var_os("STANDIN_READY_FILE").filter(|file| !file.is_empty());
    if let Some(file) = variable.filter(|_| directories.are_default()) {
        return Ok(file.into());
    }
    let flags = directories.add_to(Flags::new(file.config));
    let variables: Vec<(OsString, OsString)> = env::vars_os().collect();
    let sources = Sources::read(flags, variables.into_iter().collect())?;
    Ok(Directories::from_sources(&sources)?.state.join(READY_FILE))
}
