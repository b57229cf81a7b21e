//! The command line: what can be typed, and what `--help` says about it.
//!
//! Flags stay text here. What they mean, and what beats them, is `config`'s.

mod ca;
mod completions;
mod configure;
mod export;
mod guard;
mod interrupt;
mod list;
mod man;
mod progress;
mod prune;
mod reach;
mod run;
mod seed;
mod serve;
mod status;
mod stop;
mod upkeep;
mod verify;
mod wait;
mod which;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// A container registry that stands in for every other registry while a CI job runs.
#[derive(Debug, Parser)]
#[command(name = "standin", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the registry until it is told to stop
    Serve(Box<serve::Arguments>),
    /// Run a command with a registry of its own
    Run(Box<run::Arguments>),
    /// Guard a run
    #[command(hide = true)]
    Guard(guard::Arguments),
    /// Stop a registry that runs, once its requests are finished
    Stop(stop::Arguments),
    /// Say whether a registry runs, where, since when, and what it has done
    Status(status::Arguments),
    /// Wait until a registry is ready
    Wait(wait::Arguments),
    /// Put images from archives, layouts, docker or other registries into this one
    Seed(Box<seed::Arguments>),
    /// Write images to a layout or an archive, for the next job or another machine
    Export(Box<export::Arguments>),
    /// List the images in a data directory, with their sizes and when they were last used
    List(list::Arguments),
    /// Check that all in a data directory is as it should be, and set aside what is not
    Verify(verify::Arguments),
    /// Make a data directory smaller for the next job
    Prune(Box<prune::Arguments>),
    /// Show the certificate authority that clients are to trust
    Ca(ca::Arguments),
    /// Point docker, containerd, podman, BuildKit, kind, the system or a shell at a standin that runs
    Configure(Box<configure::Arguments>),
    /// Print a script that has a shell complete commands and options
    Completions(completions::Arguments),
    /// Print the manual, or write all its pages
    Man(man::Arguments),
}

impl Cli {
    /// Runs the command that was typed. Standard output carries its result and nothing else; the exit status is the answer.
    ///
    /// # Errors
    /// The chain to show the user; a [`ConfigError`](crate::config::ConfigError) in it is a mistake of usage.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let done = |()| ExitCode::SUCCESS;
        match self.command {
            Command::Serve(arguments) => arguments.run().map(done),
            Command::Run(arguments) => arguments.run(),
            Command::Guard(arguments) => arguments.run(),
            Command::Stop(arguments) => arguments.run(),
            Command::Status(arguments) => arguments.run(),
            Command::Wait(arguments) => arguments.run(),
            Command::Seed(arguments) => arguments.run().map(done),
            Command::Export(arguments) => arguments.run().map(done),
            Command::List(arguments) => arguments.run().map(done),
            Command::Verify(arguments) => arguments.run(),
            Command::Prune(arguments) => arguments.run().map(done),
            Command::Ca(arguments) => arguments.run().map(done),
            Command::Configure(arguments) => arguments.run().map(done),
            Command::Completions(arguments) => arguments.run().map(done),
            Command::Man(arguments) => arguments.run().map(done),
        }
    }
}

/// Writes a command's result to standard output. A reader that has seen enough (`| head -1`) is no failure.
fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

const AFTER_HELP: &str = "\
Examples:
  A registry for one command, which docker is pointed at as long as it runs
    standin run --configure docker -- ./build.sh

  A registry beside the steps of a job; /status is a page about what it does
    standin serve --detach
    standin configure docker --write
    docker pull acme/base
    standin configure docker --undo
    standin stop

  Images for the next job
    standin export acme/app:1 oci:images
    standin seed oci:images

Each option of `standin serve` can be a variable, STANDIN_LISTEN for --listen, or a line of the YAML file that --config names. \
RUST_LOG=debug has every command tell each request.";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;
    use crate::config::Key;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_a_flag_that_names_its_variable() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        let mut flags: BTreeSet<&str> = BTreeSet::new();
        // What is done with the process is no property of the server, which other places could set.
        for flag in serve
            .get_arguments()
            .filter(|flag| flag.get_id() != "detach" && !flag.is_hide_set())
        {
            let name = flag.get_long().unwrap();
            let help = flag.get_help().unwrap().to_string();
            let variable = name.replace('-', "_").to_uppercase();
            assert!(
                help.contains(&format!("[env: STANDIN_{variable}")),
                "--{name}: {help}"
            );
            flags.insert(name);
        }
        let mut expected: BTreeSet<&str> = Key::ALL.map(Key::name).into();
        expected.insert("config");
        assert_eq!(flags, expected);
    }
}
