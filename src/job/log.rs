//! The file that a server's log goes to. Whatever comes to standard error goes there: log lines, errors, panics.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::Context as _;

/// The name of a detached server's log, in the state directory.
pub const LOG_FILE: &str = "standin.log";

/// Makes the file this process's standard error.
///
/// # Errors
/// It can't be written to.
pub fn log_to(file: &Path) -> anyhow::Result<()> {
    rustix::stdio::dup2_stderr(open_log(file)?).context("can't redirect standard error")
}

/// Opens the file to be added to; its directory is made if need be.
pub(super) fn open_log(file: &Path) -> anyhow::Result<File> {
    let opened = (|| -> io::Result<File> {
        if let Some(directory) = file.parent()
            && !directory.as_os_str().is_empty()
            && !fs::exists(directory)?
        {
            // As private as the state directory, which this may be.
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
        }
        OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o644)
            .open(file)
    })();
    opened.with_context(|| {
        format!(
            "can't write the log {}: give --log-file another",
            file.display()
        )
    })
}
