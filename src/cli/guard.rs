//! `standin guard`: what `standin run` starts beside itself. Nobody types it.

use std::process::ExitCode;

use clap::Args;

use crate::job;

#[derive(Args, Debug)]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        job::guard()?;
        Ok(ExitCode::SUCCESS)
    }
}
