//! What can go wrong with certificates. Every message names the file and says what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use time::Date;

use super::authority::{CERTIFICATE, KEY};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        reason: io::Error,
    },
    /// A file of the certificate authority in the state directory. Nothing was changed.
    #[error(
        "{} {problem}: put the right file back, or remove both {CERTIFICATE} and {KEY} there to have new ones made",
        path.display()
    )]
    Authority { path: PathBuf, problem: Problem },
    /// The operator's own certificate or key.
    #[error("{} {problem}", path.display())]
    Certificate { path: PathBuf, problem: Problem },
    #[error(
        "{0:?} is no DNS name that a certificate can hold: give a name such as registry.ci.example, without port"
    )]
    Name(String),
    /// The operator's own authority or its key.
    #[error("{} {problem}: give --ca-cert and --ca-key another, or neither to have an authority made", path.display())]
    Given { path: PathBuf, problem: Problem },
    /// A certificate was wanted that clients would refuse.
    #[error(
        "{} does not permit {host}, so clients would refuse the certificate: start `standin serve` with --san {host}, which \
         makes one that does",
        path.display()
    )]
    NotPermitted { path: PathBuf, host: String },
    #[error("{} is not valid now: start `standin serve`, which renews it", .0.display())]
    Ended(PathBuf),
    #[error("cannot make a certificate: {0}")]
    Issue(rcgen::Error),
    #[error("cannot set up TLS: {0}")]
    Setup(rustls::Error),
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("is missing")]
    Missing,
    #[error("holds no PEM certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    #[error("holds no PEM private key (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    #[error(
        "is encrypted, and nobody is there to type its passphrase (openssl pkey -in IN -out OUT writes it in the clear)"
    )]
    Encrypted,
    #[error("cannot be understood ({0})")]
    Malformed(String),
    #[error("is no certificate of a certificate authority")]
    NotAnAuthority,
    #[error("may not sign certificates of servers (by its key usage)")]
    NotForServers,
    #[error("does not belong to the key in {}", .0.display())]
    Mismatch(PathBuf),
    #[error("is not standin's own and does not permit {0}")]
    NotPermitted(String),
    #[error("is not standin's own and is valid only from {0} to {1}")]
    NotValid(Date, Date),
}

impl Error {
    pub(super) fn io(action: &'static str, path: &Path, reason: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            reason,
        }
    }

    pub(super) fn given(path: PathBuf, problem: Problem) -> Self {
        Self::Given { path, problem }
    }

    pub(super) fn authority(path: PathBuf, problem: Problem) -> Self {
        Self::Authority { path, problem }
    }
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Issue(error)
    }
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Self::Setup(error)
    }
}
