//! `standin status`.

use std::process::ExitCode;

use clap::Args;

use super::which::Which;
use crate::job::{Instance, Status};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    /// Ask as this user, where reading takes one{n}[default: the user that standin has made up]
    #[arg(long, value_name = "NAME:PASSWORD")]
    user: Option<String>,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let file = self.which.ready_file()?;
        let status = match Instance::read(&file)? {
            Some(instance) => Status::of(&instance, self.user.as_deref()),
            None => Status::down(format!("there is no ready file {}", file.display())),
        };
        if self.json {
            super::print(serde_json::to_string(&status)?)?;
        } else {
            super::print(&status)?;
        }
        Ok(if status.up {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

const AFTER_HELP: &str = "\
The exit status is 0 if it answers, else 1.

Examples:
  standin status
  standin status --json | jq .report.totals.pulls";
