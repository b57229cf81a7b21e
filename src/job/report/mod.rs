//! What a job pulled and pushed here, and what it waited for: one value, and its forms. `/status` is that value while the
//! job runs, `--report` and a step's summary when it is over.
//!
//! Numbers that `/metrics` has too are read from there. Names and messages are as clients and upstreams sent them, so each
//! form escapes every text.

mod file;
mod gather;
mod html;
mod markdown;
#[cfg(test)]
mod tests;
mod waterfall;

use serde::{Deserialize, Serialize};

use crate::{activity::words, metrics::Origin};

pub use file::{Format, ReportFile, UnknownEnding, append_summary};
pub use gather::View;
pub use html::{POLICY, Refresh};

/// Of the JSON form. A field that is added does not change it; one that goes, or means something else, does.
pub const VERSION: u32 = 1;

/// All that happened until now. Bytes are bytes, and times are seconds since the start, unless the name says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The program's version.
    pub standin: String,
    /// RFC 3339, as `until`.
    pub started: String,
    pub until: String,
    pub seconds: f64,
    /// More may come.
    pub running: bool,
    /// Sentences that tell it all, the most important first.
    pub summary: Vec<String>,
    pub totals: Totals,
    pub answers: Answers,
    /// In the order in which they were first pulled.
    pub pulled: Vec<Pulled>,
    /// In the order in which they were first pushed.
    pub pushed: Vec<Pushed>,
    pub upstreams: Vec<Upstream>,
    pub left_out: LeftOut,
}

/// Sums, of names that are not listed as well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Images that were pulled at least once.
    pub images_pulled: u64,
    pub pulls: u64,
    /// The pulls, and requests that came to nothing.
    pub from: ByOrigin,
    pub images_pushed: u64,
    pub pushes: u64,
    /// Content sent to clients.
    pub sent_bytes: u64,
    /// Bodies received from clients.
    pub received_bytes: u64,
    /// Content received from upstreams.
    pub fetched_bytes: u64,
    /// Content sent to clients that did not have to be fetched: what was sent, less what was fetched; never below 0.
    pub saved_bytes: u64,
    /// Time in which at least one client waited for an upstream.
    pub waited_seconds: f64,
    /// To upstreams, retries and redirects included.
    pub upstream_requests: u64,
    /// Those of them that were answered with 429.
    pub rate_limited: u64,
    /// What upstreams failed at otherwise.
    pub errors: u64,
    /// What is cached now, and how much may be.
    pub cached_bytes: u64,
    pub cache_limit_bytes: u64,
    pub evicted_manifests: u64,
    pub evicted_bytes: u64,
}

/// GETs of content by where the answer came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    pub manifests: ByOrigin,
    pub blobs: ByOrigin,
}

/// In the words of `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByOrigin {
    /// Pushed or seeded here.
    pub local: u64,
    /// Pushed or seeded here, and served in place of what its registry has.
    pub shadow: u64,
    /// Pulled before.
    pub cache: u64,
    /// Pulled before, and its registry could not be asked.
    pub stale: u64,
    /// Fetched.
    pub upstream: u64,
    /// Nobody has it.
    pub nowhere: u64,
    /// Its registry could not be asked, or refused.
    pub failed: u64,
}

/// An image that was pulled, or asked for in vain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pulled {
    /// Registry, repository, and tag or digest.
    pub image: String,
    /// Of its manifest or index, as it was last answered.
    pub digest: Option<String>,
    pub pulls: u64,
    pub from: ByOrigin,
    /// Sent to clients.
    pub bytes: u64,
    /// Those of them that were fetched for it.
    pub fetched_bytes: u64,
    /// In which at least one request of a pull waited for an upstream, over all its pulls.
    pub waited_seconds: f64,
    /// The longest pull of it, from its first request to its last byte.
    pub slowest_seconds: f64,
    /// Not all of them if there were many.
    pub times: Vec<Span>,
    /// What a client was told last when it got nothing.
    pub error: Option<String>,
}

/// One pull.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    pub began: f64,
    pub ended: f64,
    /// One of the words of [`ByOrigin`].
    pub from: String,
    pub bytes: u64,
    pub waited_seconds: f64,
    /// Something is being sent for it.
    pub under_way: bool,
}

/// An image that was pushed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pushed {
    pub image: String,
    pub digest: String,
    pub pushes: u64,
    /// All that it consists of.
    pub bytes: u64,
    /// What was uploaded for it.
    pub uploaded_bytes: u64,
    /// Of the last push.
    pub began: f64,
    pub ended: f64,
}

/// A registry that was asked, or a mirror of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    pub registry: String,
    /// Requests in the words of `/metrics`, without those that there were none of.
    pub requests: Vec<(String, u64)>,
    pub received_bytes: u64,
    pub resumes: u64,
    /// It is not asked for the moment, because it failed.
    pub withheld: bool,
    pub pull_limit: Option<u64>,
    pub pulls_remaining: Option<u64>,
    pub errors: Vec<Trouble>,
}

/// What an upstream failed at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// A word of those that requests have.
    pub kind: String,
    pub count: u64,
    pub first: f64,
    pub first_message: String,
    pub last: f64,
    pub last_message: String,
}

/// What is not listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Pulls, and requests that came to nothing, of further images: no more are kept.
    pub pulls: u64,
    pub pushes: u64,
    /// Images that whoever asks may not pull.
    pub hidden: u64,
}

impl Report {
    /// The JSON form: this value, field by field.
    ///
    /// # Errors
    /// None that is known: all of it can be written.
    pub fn json(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }

    /// The Markdown form, of bounded length.
    pub fn markdown(&self) -> String {
        markdown::render(self)
    }

    /// The HTML form: one page that needs nothing else.
    pub fn html(&self, refresh: Refresh) -> String {
        html::render(self, refresh)
    }

    /// Some lines for a terminal.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.summary.clone();
        if let Some(slowest) = self.slowest(1).first() {
            let seconds = std::time::Duration::from_secs_f64(slowest.slowest_seconds);
            lines.push(format!(
                "slowest pull: {}, {}",
                slowest.image,
                words::time(seconds)
            ));
        }
        lines.truncate(6);
        lines
    }

    /// The images whose longest pull took longest.
    fn slowest(&self, most: usize) -> Vec<&Pulled> {
        let mut images: Vec<&Pulled> = self.pulled.iter().filter(|image| image.pulls > 0).collect();
        images.sort_by(|a, b| b.slowest_seconds.total_cmp(&a.slowest_seconds));
        images.truncate(most);
        images
    }
}

impl ByOrigin {
    fn count(count: impl Fn(Origin) -> u64) -> Self {
        Self {
            local: count(Origin::Local),
            shadow: count(Origin::Shadow),
            cache: count(Origin::Cache),
            stale: count(Origin::Stale),
            upstream: count(Origin::Upstream),
            nowhere: count(Origin::Nowhere),
            failed: count(Origin::Failed),
        }
    }

    /// With the word that each is called.
    fn each(&self) -> [(Origin, u64); 7] {
        [
            (Origin::Local, self.local),
            (Origin::Shadow, self.shadow),
            (Origin::Cache, self.cache),
            (Origin::Stale, self.stale),
            (Origin::Upstream, self.upstream),
            (Origin::Nowhere, self.nowhere),
            (Origin::Failed, self.failed),
        ]
    }

    /// Those that came to something.
    fn pulls(&self) -> u64 {
        self.local + self.shadow + self.cache + self.stale + self.upstream
    }
}
