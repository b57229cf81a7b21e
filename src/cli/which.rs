//! Which standin a command means: the one whose ready file is given, or found by its directories.

use std::{env, ffi::OsString, path::PathBuf};

use anyhow::ensure;
use clap::Args;

use super::serve;
use crate::{
    config::{Directories, Flags, Sources},
    job::{Instance, READY_FILE},
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

    /// The directories and the file, whatever runs.
    pub(super) fn flags(self) -> Flags {
        self.directories.add_to(Flags::new(self.file.config))
    }

    /// The standin that runs, if one does, and what else is configured, in which `more` flags count as well.
    ///
    /// # Errors
    /// A standin is named that does not run, or the directories are refused.
    pub(super) fn running(
        self,
        more: impl FnOnce(Flags) -> Flags,
    ) -> anyhow::Result<(Option<Instance>, Sources)> {
        let typed = self.ready_file.is_some();
        let named = self.ready_file.clone();
        let named = named.or_else(|| variable(&self.directories));
        let flags = more(self.flags());
        let sources = Sources::read(flags, env::vars_os().collect())?;
        let Some(file) = named else {
            let Directories { data, state } = Directories::from_sources(&sources)?;
            let instance = Instance::read(&state.join(READY_FILE))?;
            let works_there = |instance: &Instance| instance.data == data;
            return Ok((alive(instance.filter(works_there))?, sources));
        };
        let instance = Instance::read(&file)?;
        // What a variable names may be about to be there, as a server's that is yet to be started.
        ensure!(
            instance.is_some() || !typed,
            "there is no ready file {}: no standin runs that was given it",
            file.display()
        );
        let there = instance.is_some();
        let running = alive(instance)?;
        ensure!(
            running.is_some() || !there,
            "the standin of the ready file {} has ended, or runs in another container: {}, or name a data directory by --data",
            file.display(),
            match typed {
                true => "leave --ready-file out",
                false => "unset STANDIN_READY_FILE",
            }
        );
        Ok((running, sources))
    }
}

impl serve::Directories {
    /// The content of the standin that a variable names, as `standin run` gives it to its command; also of one that has ended.
    pub(super) fn or_of_the_named(self) -> anyhow::Result<Self> {
        let Some(file) = variable(&self) else {
            return Ok(self);
        };
        match Instance::read(&file)? {
            Some(instance) => self.at(&instance.data),
            None => Ok(self),
        }
    }
}

fn alive(instance: Option<Instance>) -> anyhow::Result<Option<Instance>> {
    match instance {
        Some(instance) if instance.process()?.is_some() => Ok(Some(instance)),
        _ => Ok(None),
    }
}

/// Where a step names directories, it means those and not what an earlier one has left in its variables.
fn variable(directories: &serve::Directories) -> Option<PathBuf> {
    let file = env::var_os("STANDIN_READY_FILE").filter(|file| !file.is_empty());
    file.filter(|_| directories.are_default())
        .map(PathBuf::from)
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
    if let Some(file) = variable(&directories) {
        return Ok(file);
    }
    let flags = directories.add_to(Flags::new(file.config));
    let variables: Vec<(OsString, OsString)> = env::vars_os().collect();
    let sources = Sources::read(flags, variables.into_iter().collect())?;
    Ok(Directories::from_sources(&sources)?.state.join(READY_FILE))
}
