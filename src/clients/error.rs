//! What keeps a client from being set up. Each text names the file or program, and what would be right.

use std::{io, path::PathBuf};

/// Nothing was changed, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A file that is in the way, or of a form that we cannot add to.
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    /// Somebody changed what we wrote, and it cannot be taken out without guessing.
    #[error(
        "{}: {what} was changed after `standin configure` wrote it: take it out by hand and run this again{}",
        path.display(),
        match before {
            Some(before) => format!("; the file as it was before is {}", before.display()),
            None => "; there was no such file before".to_owned(),
        }
    )]
    Changed {
        path: PathBuf,
        what: String,
        before: Option<PathBuf>,
    },
    /// A request that does not fit the client.
    #[error("{0}")]
    Unfit(String),
    #[error("{problem}; and what had been changed before that could not be put back")]
    HalfUndone {
        problem: String,
        #[source]
        back: Box<Error>,
    },
}

impl Error {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    pub(super) fn file(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::File {
            path: path.into(),
            problem: problem.into(),
        }
    }
}
