//! What those who wait for a child are told meanwhile: signals, and that something became of it.

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Signal(Signal),
    /// A child ended, stopped or went on.
    Child,
    /// Nothing, for too long.
    Late,
}

/// All that happens, in order.
pub(super) struct Events(UnboundedReceiver<Event>);

impl Events {
    /// Listens from now on, within a runtime. Signals that this process was started to ignore, as under `nohup`, stay ignored,
    /// here and by the command.
    ///
    /// # Errors
    /// The system has no more of what it takes.
    pub(super) fn listen() -> anyhow::Result<Self> {
        let (sender, receiver) = unbounded_channel();
        let heard = HEARD.into_iter().filter(|heard| !is_ignored(*heard));
        let events = heard
            .map(|heard| (SignalKind::from_raw(heard.as_raw()), Event::Signal(heard)))
            .chain([(SignalKind::child(), Event::Child)]);
        for (kind, event) in events {
            let mut stream = signal(kind).context("can't listen for signals")?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && sender.send(event).is_ok() {}
            });
        }
        Ok(Self(receiver))
    }

    pub(super) async fn next(&mut self) -> Event {
        match self.0.recv().await {
            Some(event) => event,
            // The streams never end.
            None => std::future::pending().await,
        }
    }

    /// Waits for a signal that asks for the end.
    pub(super) async fn end_asked_for(&mut self) -> Signal {
        loop {
            if let Event::Signal(
                signal @ (Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT),
            ) = self.next().await
            {
                return signal;
            }
        }
    }
}

/// The exit status of what a signal ended.
pub(super) fn status(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

pub(super) fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::HUP => "SIGHUP",
        Signal::INT => "SIGINT",
        Signal::QUIT => "SIGQUIT",
        Signal::TERM => "SIGTERM",
        _ => "a signal",
    }
}

/// Whether this process was started to ignore it, as under `nohup`; not so where /proc does not say.
pub fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0) & (1 << (signal.as_raw() - 1)) != 0
}

/// Those that are passed on, and the one that says that we go on after a stop.
const HEARD: [Signal; 7] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::CONT,
];
