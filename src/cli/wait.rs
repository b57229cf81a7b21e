//! `standin wait`.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::which::Which;
use crate::{config, job::Instance, types::ExternalUrl};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// One that runs elsewhere, such as in a service container, at an http:// address
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "ready_file",
        help_heading = "Standin"
    )]
    url: Option<ExternalUrl>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = config::duration)]
    timeout: Duration,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.url {
            Some(url) => {
                anyhow::ensure!(
                    !url.is_https(),
                    "{url} can't be waited for without a certificate: one port speaks both, so give the http:// address"
                );
                Instance::await_answer(&url, self.timeout)?;
            }
            None => {
                Instance::await_ready(&self.which.ready_file()?, self.timeout)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

const AFTER_HELP: &str = "\
It returns as soon as standin answers, with exit status 0; with 1 and the reason once the time is over.

Examples:
  standin serve --ready-file standin.json &
  standin wait --ready-file standin.json
  standin wait --url http://standin:5000 --timeout 5m";
