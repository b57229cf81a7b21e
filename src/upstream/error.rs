//! What keeps an upstream's answer from us, in words for whoever reads the client's message.

use std::{error::Error as _, io, time::Duration};

use super::{answer::delay, guard::Refused};
use crate::{
    metrics::Outcome,
    types::{Digest, RegistryHost},
};

/// An upstream could not answer. Says which and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{registry}: {cause}")]
pub struct Error {
    pub registry: RegistryHost,
    pub cause: Cause,
}

impl Error {
    pub fn new(registry: &RegistryHost, cause: Cause) -> Self {
        Self {
            registry: registry.clone(),
            cause,
        }
    }
}

/// The true cause of an upstream's failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("the registry is not configured: name it with --registry {{HOST}}")]
    NotConfigured,
    /// A whole sentence.
    #[error("{0}")]
    Unreachable(String),
    #[error("no answer within {} seconds", .0.as_secs_f64().round())]
    Timeout(Duration),
    #[error("it answered {0}")]
    Status(u16),
    /// After all that could be done about it: says as much as "absent", for registries do not tell strangers what they
    /// have.
    #[error(
        "it answered {0}: that does not exist there, or wants credentials that may pull it (docker login, or --authfile)"
    )]
    Unauthorized(u16),
    /// It does not let us, after all that could be done about it, and says why.
    #[error("it answered {status}{}: that wants credentials that may (--user NAME:PASSWORD, or docker login)", said(.message))]
    Denied {
        status: u16,
        message: Option<String>,
    },
    /// It says why it does not do what was asked.
    #[error("it answered {status}{}", said(.message))]
    Refused {
        status: u16,
        message: Option<String>,
    },
    /// Where its tokens come from.
    #[error("its token server {realm}: {cause}")]
    Token { realm: String, cause: Box<Cause> },
    #[error("it answered 429, too many requests{}", .retry_after.as_ref().map(|after| format!(", retry after {after}")).unwrap_or_default())]
    RateLimited { retry_after: Option<String> },
    /// It was not asked, because of a limit of ours.
    #[error("{0}")]
    Busy(String),
    /// It was not asked, because it could not be reached a short while ago.
    #[error("not asked again for {} s: {cause}", left.as_secs_f64().ceil())]
    Resting { left: Duration, cause: Box<Cause> },
    /// The connection broke or fell silent; what came so far was not wrong, only too little.
    #[error("{0}")]
    Cut(String),
    /// What it sent is not what a registry sends.
    #[error("{0}")]
    Protocol(String),
    #[error("it sent content of digest {found} when asked for {wanted}")]
    DigestMismatch { wanted: Digest, found: Digest },
    /// Where the registry sends us: storage that it redirects to, or its token server.
    #[error("{at}: {cause}")]
    Elsewhere { at: String, cause: Box<Cause> },
    /// The registry itself failed, and its mirrors before.
    #[error("{cause}; {mirrors}")]
    Everywhere { mirrors: String, cause: Box<Cause> },
}

impl Cause {
    /// What happened, wherever.
    pub fn essence(&self) -> &Self {
        match self {
            Self::Token { cause, .. }
            | Self::Resting { cause, .. }
            | Self::Elsewhere { cause, .. }
            | Self::Everywhere { cause, .. } => cause.essence(),
            other => other,
        }
    }

    /// What a request that failed so counts as; `None`: it was not the upstream that failed.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.essence() {
            Self::Unreachable(_) => Some(Outcome::Unreachable),
            Self::Timeout(_) => Some(Outcome::Timeout),
            Self::Status(_) | Self::Refused { .. } => Some(Outcome::Refused),
            Self::Unauthorized(_) | Self::Denied { .. } => Some(Outcome::Unauthorized),
            Self::RateLimited { .. } => Some(Outcome::RateLimited),
            Self::Cut(_) | Self::Protocol(_) | Self::DigestMismatch { .. } => Some(Outcome::Broken),
            Self::NotConfigured | Self::Busy(_) => None,
            Self::Token { .. }
            | Self::Resting { .. }
            | Self::Elsewhere { .. }
            | Self::Everywhere { .. } => None,
        }
    }

    /// For how long it will not be asked again.
    pub fn rests(&self) -> Option<Duration> {
        match self {
            Self::Resting { left, .. } => Some(*left),
            Self::Token { cause, .. }
            | Self::Elsewhere { cause, .. }
            | Self::Everywhere { cause, .. } => cause.rests(),
            _ => None,
        }
    }

    /// When it wants to be asked again, if it says so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self.essence() {
            Self::RateLimited { retry_after } => retry_after.as_deref().and_then(delay),
            _ => None,
        }
    }

    /// Of a body that broke off, or of asking for its rest: whether it may yet go on where it ended.
    pub fn is_resumable(&self) -> bool {
        self.is_temporary()
    }

    /// Whether the same request may fare better a little later.
    pub(super) fn is_temporary(&self) -> bool {
        match self.essence() {
            Self::Unreachable(_) | Self::Timeout(_) | Self::RateLimited { .. } | Self::Cut(_) => {
                true
            }
            Self::Status(status) | Self::Refused { status, .. } => {
                // Of a full disk nothing better comes.
                *status == 408 || (*status >= 500 && *status != 507)
            }
            Self::NotConfigured
            | Self::Denied { .. }
            | Self::Unauthorized(_)
            | Self::Busy(_)
            | Self::Protocol(_)
            | Self::DigestMismatch { .. } => false,
            Self::Token { .. }
            | Self::Resting { .. }
            | Self::Elsewhere { .. }
            | Self::Everywhere { .. } => false,
        }
    }

    /// This, of somewhere that the registry leads to.
    pub(super) fn at(self, at: &str) -> Self {
        Self::Elsewhere {
            at: at.to_owned(),
            cause: Box::new(self),
        }
    }

    /// Whether nobody could be reached.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout(_))
    }

    /// Why a request failed before its answer's headers were there.
    pub(super) fn of_request(error: &reqwest::Error) -> Self {
        if let Some(refused) = in_chain::<Refused>(error, |_| true) {
            return Self::Protocol(refused.to_string());
        }
        let deepest = deepest(error);
        if !error.is_connect() {
            // hyper's words; its type is not reqwest's to show.
            return match deepest.starts_with("invalid HTTP") || deepest.contains("too large") {
                true => {
                    Self::Protocol(format!("its answer is no HTTP that we can read: {deepest}"))
                }
                false => Self::Cut(format!(
                    "the connection broke before it answered: {deepest}"
                )),
            };
        }
        // Whoever reads "quay.io" and has a mirror configured for it must see which of them it was.
        let at = error.url().map_or_else(String::new, |url| {
            format!(" at {}", url.origin().ascii_serialization())
        });
        if error.is_timeout() {
            return Self::Unreachable(format!("nothing{at} accepts a connection in time"));
        }
        let hint = if deepest.contains("UnknownIssuer") {
            ": this machine does not trust who issued it; SSL_CERT_FILE may name further authorities, as may the \
             registry's ca in the configuration file"
        } else if deepest.contains("InvalidContentType") {
            ": it does not speak TLS; one over plain HTTP is configured with --registry HOST=http://…"
        } else {
            ""
        };
        let told = |error: &io::Error| error.kind() != io::ErrorKind::Other;
        let io_kind = in_chain(error, told).map(io::Error::kind);
        Self::Unreachable(match io_kind {
            _ if deepest.contains("lookup") => {
                format!("the name of the server{at} can't be resolved: {deepest}")
            }
            Some(io::ErrorKind::ConnectionRefused) => {
                format!("the connection{at} was refused: nothing listens there")
            }
            Some(
                io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::NetworkDown,
            ) => format!("there is no route to the server{at}: {deepest}"),
            kind if kind == Some(io::ErrorKind::InvalidData)
                || deepest.contains("tls handshake") =>
            {
                format!("no TLS connection{at} can be made: {deepest}{hint}")
            }
            _ => format!("it can't be reached{at}: {deepest}{hint}"),
        })
    }

    /// Why a body broke off.
    pub(super) fn of_body(error: &reqwest::Error) -> Self {
        Self::Cut(format!("it broke off: {}", deepest(error)))
    }
}

fn said(message: &Option<String>) -> String {
    let message = message.as_ref();
    message.map_or_else(String::new, |message| format!(" ({message})"))
}

/// The first that `fits` among what caused an error.
fn in_chain<T: std::error::Error + 'static>(
    error: &reqwest::Error,
    fits: impl Fn(&T) -> bool,
) -> Option<&T> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref().filter(|found| fits(found)) {
            return Some(found);
        }
        // An I/O error passes over the one that it was made of when it is asked for its source.
        let wrapped = error.downcast_ref().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// reqwest's own text only repeats the URL; what happened is at the end of the chain.
fn deepest(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
