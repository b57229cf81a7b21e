//! The binary run to its end, as a step of a job runs it.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// `standin` with `args` on the data directory, in an empty environment.
pub(crate) fn standin(data: &Path, args: &[&str]) -> Output {
    let (command, args) = args.split_first().unwrap();
    Command::new(env!("CARGO_BIN_EXE_standin"))
        .arg(command)
        .arg("--data")
        .arg(data)
        .args(args)
        .env_clear()
        .output()
        .unwrap()
}

/// What it printed, if it ended with this status.
#[track_caller]
pub(crate) fn told(output: &Output, status: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{printed}\n{said}");
    printed
}

/// What `COMMAND --json` printed.
#[track_caller]
pub(crate) fn json(data: &Path, args: &[&str], status: i32) -> Value {
    let args = [args, &["--json"]].concat();
    let printed = told(&standin(data, &args), status);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// What it said of a failure.
#[track_caller]
pub(crate) fn refused(output: &Output, status: i32) -> String {
    assert_eq!(told(output, status), "", "standard output is for results");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs the command and kills it by SIGKILL at the `moment`. Whether it was killed before its end.
pub(crate) fn killed_at(data: &Path, args: &[&str], moment: impl Fn() -> bool) -> bool {
    let mut child = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(args)
        .arg("--data")
        .arg(data)
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !moment() && child.try_wait().unwrap().is_none() {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

/// Makes `to` a copy of the data directory.
pub(crate) fn copy(data: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([data, to]).status();
    assert!(copied.unwrap().success());
}
