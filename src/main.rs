//! The `standin` program: arguments, logger, exit status. Everything else is in the library.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use standin::{cli::Cli, config::ConfigError};

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logger();
    let error = match cli.run() {
        Ok(status) => return status,
        Err(error) => error,
    };
    let mut text = format!("standin: error: {error}");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("\n  caused by: {cause}"));
    }
    // Nobody may be left to read it; the exit status still tells.
    let _ = writeln!(io::stderr(), "{text}");
    if error.is::<ConfigError>() {
        ExitCode::from(USAGE)
    } else {
        ExitCode::FAILURE
    }
}

/// One line per event on standard error: time, level, message. `RUST_LOG` chooses what is told; a line of another
/// crate says whose it is.
fn start_logger() {
    // These two call errors what our own line about the same event tells better.
    let filter = env_logger::Env::default()
        .default_filter_or("warn,actix_http=off,rustls_platform_verifier=off,standin=info");
    env_logger::Builder::from_env(filter)
        .format(|out, record| {
            let style = out.default_level_style(record.level());
            write!(
                out,
                "{} {style}{:<5}{style:#} ",
                out.timestamp(),
                record.level()
            )?;
            let target = record.target();
            if target != "standin" && !target.starts_with("standin::") {
                write!(out, "{target}: ")?;
            }
            writeln!(out, "{}", record.args())
        })
        .init();
}

/// What clap exits with as well.
const USAGE: u8 = 2;
