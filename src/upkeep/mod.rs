//! What is in a data directory, whether it is sound, and what of it may go: for commands that look through all of it. Knows
//! no upstreams and no server; whether another process is at work on the directory is the caller's concern.
//!
//! - To list, to verify and to plan a pruning only reads, and takes what another process adds or removes meanwhile for
//!   what it is.
//! - A repair moves aside and writes back what can be told from manifests; it deletes nothing.
//! - Names go before content, whatever goes: a process killed in between leaves nothing visible that is not whole.

mod hash;
mod images;
mod list;
mod prune;
mod repair;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod verify;

pub use images::{Child, Image};
pub use list::{Listed, Listing, Totals, list};
pub use prune::{Gone, Pruned, Pruning, prune};
pub use repair::repair;
pub use verify::{Checked, Damage, Fault, Hurt, Verified, verify};

/// Whoever waits for something that takes long: is told how far it is, and may end it.
pub trait Watch: Sync {
    /// It is to end as soon as it can.
    fn is_over(&self) -> bool {
        false
    }

    /// So many bytes of all were read.
    fn read(&self, _bytes: u64, _of: u64) {}
}

/// Nobody waits.
impl Watch for () {}

/// Why the work ended early. What was done stays done, and is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("interrupted")]
    Interrupted,
    /// An entry of the data directory can't be read.
    #[error(
        "{0} in the data directory is damaged or can't be read, so that nobody can tell what it needs: `standin verify` says more, and `standin verify --repair` sets it aside"
    )]
    Opaque(String),
    #[error(transparent)]
    Storage(#[from] crate::storage::Error),
}
