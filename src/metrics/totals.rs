//! What was counted, read back: the same numbers that the page shows.

use std::sync::PoisonError;

use super::{Answer, Asked, Content, Metrics, Origin, Outcome, Upstream};

/// What was counted of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTotals {
    /// As its label has it: a registry, or a mirror of it.
    pub registry: String,
    /// Requests by what became of them, without those that there were none of.
    pub requests: Vec<(Outcome, u64)>,
    /// Bytes of content.
    pub received: u64,
    pub resumes: u64,
    /// It is left alone now.
    pub withheld: bool,
    pub pull_limit: Option<u64>,
    pub pulls_remaining: Option<u64>,
}

impl UpstreamTotals {
    /// How many requests came to that.
    pub fn of(&self, outcome: Outcome) -> u64 {
        let mut requests = self.requests.iter();
        let found = requests.find(|(known, _)| *known == outcome);
        found.map_or(0, |(_, count)| *count)
    }
}

impl Metrics {
    /// Bytes of blobs and manifests sent to clients.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.get()
    }

    /// Bytes of bodies received from clients.
    pub fn received_bytes(&self) -> u64 {
        self.received.get()
    }

    /// GETs of such content that were answered so.
    pub fn answers(&self, content: Content, from: Origin) -> u64 {
        let answer = Answer {
            content: content.as_str(),
            from: from.as_str(),
        };
        self.answers.get(&answer).map_or(0, |count| count.get())
    }

    /// Bytes of cached content now, how many there may be, manifests and bytes evicted, as they were last told.
    pub fn cached(&self) -> (u64, u64, u64, u64) {
        let level = |gauge: &super::Gauge| natural(gauge.get());
        let (used, limit) = (level(&self.cache_used), level(&self.cache_limit));
        (
            used,
            limit,
            self.evicted_manifests.get(),
            self.evicted.get(),
        )
    }

    /// Whoever was asked for anything, in the order of their names.
    pub fn upstreams(&self) -> Vec<UpstreamTotals> {
        let known = self
            .upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|name| self.upstream(name)).collect()
    }

    fn upstream(&self, name: &str) -> UpstreamTotals {
        let label = Upstream::named(name);
        let requests = Outcome::ALL.map(|outcome| {
            let asked = Asked {
                registry: name.to_owned(),
                outcome: outcome.as_str(),
            };
            let count = self.upstream_requests.get(&asked);
            (outcome, count.map_or(0, |count| count.get()))
        });
        let level = |family: &super::Family<Upstream, super::Gauge>| {
            family.get(&label).map(|gauge| natural(gauge.get()))
        };
        let count = |family: &super::Family<Upstream, super::Counter>| {
            family.get(&label).map_or(0, |counter| counter.get())
        };
        UpstreamTotals {
            registry: name.to_owned(),
            requests: requests
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
            received: count(&self.upstream_received),
            resumes: count(&self.upstream_resumes),
            withheld: level(&self.upstream_closed) == Some(1),
            pull_limit: level(&self.pull_limit),
            pulls_remaining: level(&self.pulls_remaining),
        }
    }

    /// There are as many as are configured.
    pub(super) fn note_upstream(&self, name: &str) {
        let mut known = self
            .upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !known.contains(name) {
            known.insert(name.to_owned());
        }
    }
}

fn natural(level: i64) -> u64 {
    u64::try_from(level).unwrap_or_default()
}
