//! `standin stop`.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::which::Which;
use crate::{config, job::Instance};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// How long to wait for the requests in flight
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = config::duration)]
    timeout: Duration,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let file = self.which.ready_file()?;
        match Instance::read(&file)? {
            None => super::print(format_args!(
                "no standin runs: there is no ready file {}",
                file.display()
            ))?,
            Some(instance) => super::print(instance.stop(self.timeout)?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

const AFTER_HELP: &str = "\
It sends SIGTERM, and waits until the requests in flight are finished and the process has ended. If none runs, that is \
said, and the exit status is 0 all the same.

Examples:
  standin stop
  standin stop --ready-file standin.json
  standin stop --data /cache/standin";
