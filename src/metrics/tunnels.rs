//! What the proxy counts.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::UnderWay;

/// What the proxy has carried past us.
#[derive(Default)]
pub struct Tunnels {
    pub(super) open: Gauge,
    pub(super) opened: Counter,
    pub(super) sent: Counter,
    pub(super) received: Counter,
}

impl Tunnels {
    /// One is open for as long as what is returned lives.
    pub fn begin(&self) -> UnderWay {
        self.opened.inc();
        self.open.inc();
        UnderWay(self.open.clone())
    }

    /// Open now.
    pub fn open(&self) -> u64 {
        u64::try_from(self.open.get()).unwrap_or_default()
    }

    /// Opened since the start.
    pub fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// Bytes went from a client to a remote host.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }

    /// Bytes came from a remote host to a client.
    pub fn add_received(&self, bytes: u64) {
        self.received.inc_by(bytes);
    }

    /// Bytes from clients to remote hosts.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Bytes from remote hosts to clients.
    pub fn received(&self) -> u64 {
        self.received.get()
    }
}
