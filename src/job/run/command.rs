//! The command: which program it is, and what its end means.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use rustix::{
    fs::{Access, access},
    process::WaitIdStatus,
};

/// The status for a program that is not there, and for one that can't be run; a shell's own.
pub(super) const NOT_FOUND: u8 = 127;
pub(super) const NOT_EXECUTABLE: u8 = 126;
/// A signal's number is added to this.
const SIGNALLED: i32 = 128;

/// Looks the program up, as the shell would.
///
/// # Errors
/// The exit status, and what a person reads.
pub(super) fn find(program: &OsStr) -> Result<PathBuf, (u8, String)> {
    let shown = program.display();
    if program.as_encoded_bytes().contains(&b'/') {
        let path = Path::new(program);
        return match path.metadata() {
            Err(error) => Err((
                NOT_FOUND,
                format!("the command {shown} can't be run: {error}"),
            )),
            Ok(_) if !is_program(path) => Err((NOT_EXECUTABLE, not_executable(path))),
            Ok(_) => Ok(path.to_owned()),
        };
    }
    let path =
        env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    let found: Vec<PathBuf> = env::split_paths(&path)
        .map(|directory| directory.join(program))
        .filter(|path| path.is_file())
        .collect();
    match (found.iter().find(|path| is_program(path)), found.first()) {
        (Some(program), _) => Ok(program.clone()),
        (None, Some(file)) => Err((NOT_EXECUTABLE, not_executable(file))),
        (None, None) => Err((
            NOT_FOUND,
            format!("the command {shown} is not found: no directory in PATH has such a program"),
        )),
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

fn not_executable(path: &Path) -> String {
    format!(
        "the command {} can't be run: it is no file that this user may execute (chmod +x?)",
        path.display()
    )
}

/// Starts it in a process group of its own.
///
/// # Errors
/// As for [`find`].
pub(super) fn start(
    program: &Path,
    words: &[OsString],
    variables: &[(String, OsString)],
) -> Result<Child, (u8, String)> {
    let mut command = Command::new(program);
    if let Some((name, arguments)) = words.split_first() {
        command.arg0(name).args(arguments);
    }
    command
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        .spawn()
        .map_err(|error| {
            let program = program.display();
            (
                NOT_EXECUTABLE,
                format!("the command {program} can't be run: {error}"),
            )
        })
}

/// The exit status that stands for a command's end.
pub(super) fn exit_status(status: &WaitIdStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => SIGNALLED + signal,
        (None, None) => 1,
    };
    // Both are one byte where they come from.
    u8::try_from(code).unwrap_or(u8::MAX)
}
