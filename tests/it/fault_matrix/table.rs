//! The words of the table: what a row and a cell say. What they are is in `rows`.

use std::time::Duration;

use crate::support::Reply;

/// Which of the upstream's answers is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Token,
    Head,
    Get,
    Blob,
    /// A blob's body, once its headers are through to the client.
    Body,
}

pub(super) struct Row {
    pub(super) stage: Stage,
    pub(super) fault: &'static str,
    /// What the client's error, its `Warning` or the log says of it.
    pub(super) told: &'static str,
    pub(super) how: Fault,
    pub(super) cold: Cell,
    pub(super) stale: Cell,
}

#[derive(Clone)]
pub(super) enum Fault {
    /// Answered so, one after the other, and truly behind them.
    Replies(Vec<Reply>),
    /// The registry is not where it should be; at the stage of the token, its token server.
    At(Place),
    /// The registry asks for a log-in so; no token server is there.
    Challenge(&'static str),
    /// The question before is answered so late that little time is left; then these.
    Late(Vec<Reply>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Closed,
    Unresolvable,
    NoTls,
    Untrusted,
}

#[derive(Clone)]
pub(super) struct Cell {
    pub(super) client: Client,
    pub(super) time: Time,
    /// It takes at least so long: somebody asked to be left alone.
    pub(super) waits: Duration,
    pub(super) asked: Asked,
    pub(super) kept: &'static str,
}

/// What the client receives.
#[derive(Clone, Copy)]
pub(super) enum Client {
    Whole,
    Stale,
    /// 200, and a body that breaks off.
    Cut,
    /// The same, or a refusal: the whole fault is over before the client is answered, or it is not.
    CutOrRefused,
    /// A status for whoever may have another host to ask, and for whoever believes this to be the registry itself.
    Refused {
        mirror: u16,
        itself: u16,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    AtOnce,
    Retries,
    Budget,
}

/// How often the upstream is asked, at least and at most.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) head: (usize, usize),
    pub(super) get: (usize, usize),
    pub(super) token: (usize, usize),
}

impl Time {
    pub(super) fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::AtOnce => 3,
            Self::Retries => 12,
            Self::Budget => 25,
        })
    }
}

impl Cell {
    fn of(client: Client, kept: &'static str) -> Self {
        Self {
            client,
            time: Time::AtOnce,
            waits: Duration::ZERO,
            asked: Asked::default(),
            kept,
        }
    }

    /// What is here and fresh, or called by its digest.
    pub(super) fn warm() -> Self {
        Self::of(Client::Whole, IMAGE)
    }

    pub(super) fn time(mut self, time: Time) -> Self {
        self.time = time;
        self
    }

    pub(super) fn waits(mut self, seconds: u64) -> Self {
        self.waits = Duration::from_secs(seconds);
        self
    }

    pub(super) fn head(mut self, times: (usize, usize)) -> Self {
        self.asked.head = times;
        self
    }

    pub(super) fn get(mut self, times: (usize, usize)) -> Self {
        self.asked.get = times;
        self
    }

    pub(super) fn token(mut self, times: (usize, usize)) -> Self {
        self.asked.token = times;
        self
    }
}

pub(super) fn whole(kept: &'static str) -> Cell {
    Cell::of(Client::Whole, kept)
}

pub(super) fn stale() -> Cell {
    Cell::of(Client::Stale, IMAGE)
}

pub(super) fn cut() -> Cell {
    Cell::of(Client::Cut, MANIFEST)
}

pub(super) fn cut_or_refused() -> Cell {
    Cell::of(Client::CutOrRefused, MANIFEST)
}

pub(super) fn refused(itself: u16, kept: &'static str) -> Cell {
    Cell::of(
        Client::Refused {
            mirror: 404,
            itself,
        },
        kept,
    )
}

pub(super) fn always(reply: Reply) -> Fault {
    Fault::Replies(vec![reply; 100])
}

pub(super) fn then(first: Reply, ever: Reply) -> Fault {
    let mut replies = vec![ever; 100];
    replies[0] = first;
    Fault::Replies(replies)
}

pub(super) const NEVER: (usize, usize) = (0, 0);
pub(super) const ONCE: (usize, usize) = (1, 1);

// What is in the store afterwards.
pub(super) const NOTHING: &str = "nothing";
pub(super) const TAG: &str = "tag";
pub(super) const MANIFEST: &str = "tag, manifest";
pub(super) const IMAGE: &str = "tag, manifest, blob";
pub(super) const GONE: &str = "manifest, blob";
pub(super) const MOVED: &str = "tag, manifest, blob, new manifest";

/// Bytes of the images' layer.
pub(super) const LAYER: usize = 200_000;
