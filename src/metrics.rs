//! Counters of what this process does, and the page that shows them (`/metrics`, in the text format of OpenMetrics, which
//! Prometheus reads). It knows nothing of who counts.
//!
//! Labels take few values whatever clients do: configured registries, end points of the spec, words of ours. No name of a
//! repository, no address and no user is ever one.

mod clock;
mod totals;
mod tunnels;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

pub use clock::Clock;
pub use totals::UpstreamTotals;
pub use tunnels::Tunnels;

/// What [`Metrics::page`] is written in.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is counted.
pub struct Metrics {
    page: Registry,
    requests: Family<Request, Counter>,
    request_seconds: Family<EndpointOnly, Histogram>,
    sent: Counter,
    received: Counter,
    answers: Family<Answer, Counter>,
    fills: Gauge,
    upstream_requests: Family<Asked, Counter>,
    upstream_seconds: Family<Upstream, Histogram>,
    upstream_received: Family<Upstream, Counter>,
    upstream_resumes: Family<Upstream, Counter>,
    upstream_waits: Clock,
    upstream_waited: Counter<f64, AtomicU64>,
    /// Whoever was asked.
    upstreams: Mutex<BTreeSet<String>>,
    upstream_closed: Family<Upstream, Gauge>,
    pull_limit: Family<Upstream, Gauge>,
    pulls_remaining: Family<Upstream, Gauge>,
    cache_used: Gauge,
    cache_limit: Gauge,
    evicted_manifests: Counter,
    evicted: Counter,
    tunnels: Tunnels,
}

/// What was answered with content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    Manifest,
    Blob,
}

/// Where the content of an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It was pushed or seeded here, and the name has no source that it could hide.
    Local,
    /// It was pushed or seeded here, and was served in place of whatever its source has.
    Shadow,
    /// It had been pulled before.
    Cache,
    /// It had been pulled before, and its source could not be asked whether that still holds.
    Stale,
    /// It was fetched for this answer, or is being fetched.
    Upstream,
    /// Nobody has it.
    Nowhere,
    /// Its source could not be asked.
    Failed,
}

/// What became of a request to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Answered,
    Absent,
    Unauthorized,
    RateLimited,
    /// Any other status that is no success.
    Refused,
    /// No connection, no such name, no TLS.
    Unreachable,
    Timeout,
    /// It answered what can't be used.
    Broken,
    /// Not sent: the upstream failed a moment ago.
    Withheld,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    method: &'static str,
    endpoint: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndpointOnly {
    endpoint: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answer {
    content: &'static str,
    from: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    registry: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Upstream {
    registry: String,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let mut page = Registry::with_prefix("standin");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        page.register("build", "The program that runs", build);
        let started: Gauge = Gauge::default();
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        started.set(integer(since_epoch.unwrap_or_default().as_secs()));
        page.register_with_unit(
            "start_time",
            "When it was started, since the epoch",
            Unit::Seconds,
            started,
        );
        let metrics = Self {
            page: Registry::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            sent: Counter::default(),
            received: Counter::default(),
            answers: Family::default(),
            fills: Gauge::default(),
            upstream_requests: Family::default(),
            upstream_seconds: Family::new_with_constructor(seconds),
            upstream_received: Family::default(),
            upstream_resumes: Family::default(),
            upstream_waits: Clock::default(),
            upstream_waited: Counter::default(),
            upstreams: Mutex::default(),
            upstream_closed: Family::default(),
            pull_limit: Family::default(),
            pulls_remaining: Family::default(),
            cache_used: Gauge::default(),
            cache_limit: Gauge::default(),
            evicted_manifests: Counter::default(),
            evicted: Counter::default(),
            tunnels: Tunnels::default(),
        };
        page.register(
            "requests",
            "Requests of clients by method, end point of the distribution-spec and status",
            metrics.requests.clone(),
        );
        page.register_with_unit(
            "request_duration",
            "From a client's request to the head of its answer",
            Unit::Seconds,
            metrics.request_seconds.clone(),
        );
        page.register_with_unit(
            "sent",
            "Content of blobs and manifests sent to clients",
            Unit::Bytes,
            metrics.sent.clone(),
        );
        page.register_with_unit(
            "received",
            "Bodies of requests received from clients",
            Unit::Bytes,
            metrics.received.clone(),
        );
        page.register(
            "answers",
            "GETs of manifests and blobs by where the answer came from: pushed here (local), hiding the source's (shadow), \
             pulled before (cache, stale), fetched (upstream), or none (nowhere, failed)",
            metrics.answers.clone(),
        );
        page.register(
            "fills",
            "Downloads of blobs from upstreams under way",
            metrics.fills.clone(),
        );
        page.register(
            "upstream_requests",
            "Requests to upstreams by what became of them, retries included",
            metrics.upstream_requests.clone(),
        );
        page.register_with_unit(
            "upstream_request_duration",
            "From a request to an upstream to the head of its answer",
            Unit::Seconds,
            metrics.upstream_seconds.clone(),
        );
        page.register_with_unit(
            "upstream_received",
            "Content received from upstreams",
            Unit::Bytes,
            metrics.upstream_received.clone(),
        );
        page.register(
            "upstream_resumes",
            "Downloads that went on where an upstream had broken off",
            metrics.upstream_resumes.clone(),
        );
        page.register_with_unit(
            "upstream_waited",
            "Time in which at least one client waited for an upstream",
            Unit::Seconds,
            metrics.upstream_waited.clone(),
        );
        page.register(
            "upstream_withheld",
            "1 while an upstream is not asked because it failed a moment ago",
            metrics.upstream_closed.clone(),
        );
        page.register(
            "upstream_pull_limit",
            "How many pulls an upstream allows, where it says so",
            metrics.pull_limit.clone(),
        );
        page.register(
            "upstream_pulls_remaining",
            "How many pulls are left of them",
            metrics.pulls_remaining.clone(),
        );
        page.register_with_unit(
            "cache_used",
            "Pulled content in the data directory",
            Unit::Bytes,
            metrics.cache_used.clone(),
        );
        page.register_with_unit(
            "cache_limit",
            "How much of it there may be",
            Unit::Bytes,
            metrics.cache_limit.clone(),
        );
        page.register(
            "cache_evicted_manifests",
            "Manifests that had to make room",
            metrics.evicted_manifests.clone(),
        );
        page.register_with_unit(
            "cache_evicted",
            "Content that had to make room",
            Unit::Bytes,
            metrics.evicted.clone(),
        );
        page.register(
            "tunnels",
            "Tunnels of the proxy that are open",
            metrics.tunnels.open.clone(),
        );
        page.register(
            "tunnels_opened",
            "Tunnels of the proxy since the start",
            metrics.tunnels.opened.clone(),
        );
        page.register_with_unit(
            "tunnels_sent",
            "Bytes of clients that went through tunnels",
            Unit::Bytes,
            metrics.tunnels.sent.clone(),
        );
        page.register_with_unit(
            "tunnels_received",
            "Bytes that came to clients through tunnels",
            Unit::Bytes,
            metrics.tunnels.received.clone(),
        );
        Self { page, ..metrics }
    }

    /// All of it as text of [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// None that is known: the text is written to memory.
    pub fn page(&self) -> Result<String, fmt::Error> {
        let waited = self.upstream_waits.total().as_secs_f64();
        let counter = self.upstream_waited.inner();
        counter.store(waited.to_bits(), Ordering::Relaxed);
        let mut text = String::new();
        encode(&mut text, &self.page)?;
        Ok(text)
    }

    /// A client's request whose answer began after `took`. The words are from fixed sets.
    pub fn request(
        &self,
        method: &'static str,
        endpoint: &'static str,
        status: u16,
        took: Duration,
    ) {
        let request = Request {
            method,
            endpoint,
            status,
        };
        self.requests.get_or_create(&request).inc();
        self.request_seconds
            .get_or_create(&EndpointOnly { endpoint })
            .observe(took.as_secs_f64());
    }

    pub fn sent(&self, bytes: usize) {
        self.sent.inc_by(bytes as u64);
    }

    pub fn received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }

    /// A request for content was answered, or was not.
    pub fn answered(&self, content: Content, origin: Origin) {
        let answer = Answer {
            content: content.as_str(),
            from: origin.as_str(),
        };
        self.answers.get_or_create(&answer).inc();
    }

    /// A download is under way for as long as what is returned lives.
    pub fn fill(&self) -> UnderWay {
        self.fills.inc();
        UnderWay(self.fills.clone())
    }

    /// When clients wait for upstreams.
    pub fn upstream_waits(&self) -> &Clock {
        &self.upstream_waits
    }

    /// What the proxy has carried past us.
    pub fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// `registry` was asked; the head of its answer, or none, came after `took`.
    pub fn upstream_request(&self, registry: &str, outcome: Outcome, took: Duration) {
        self.note_upstream(registry);
        let asked = Asked {
            registry: registry.to_owned(),
            outcome: outcome.as_str(),
        };
        self.upstream_requests.get_or_create(&asked).inc();
        if outcome != Outcome::Withheld {
            self.upstream_seconds
                .get_or_create_owned(&Upstream::named(registry))
                .observe(took.as_secs_f64());
        }
    }

    /// A counter of content from `registry`, to be kept for as long as a body flows.
    pub fn upstream_received(&self, registry: &str) -> Bytes {
        let registry = Upstream::named(registry);
        Bytes(self.upstream_received.get_or_create_owned(&registry))
    }

    pub fn upstream_resumed(&self, registry: &str) {
        let registry = Upstream::named(registry);
        self.upstream_resumes.get_or_create(&registry).inc();
    }

    /// Whether `registry` is left alone because it failed a moment ago.
    pub fn upstream_withheld(&self, registry: &str, withheld: bool) {
        let registry = Upstream::named(registry);
        self.upstream_closed
            .get_or_create(&registry)
            .set(i64::from(withheld));
    }

    /// What `registry` said of the pulls it allows.
    pub fn pull_limit(&self, registry: &str, limit: Option<u64>, remaining: u64) {
        let registry = Upstream::named(registry);
        if let Some(limit) = limit {
            self.pull_limit.get_or_create(&registry).set(integer(limit));
        }
        self.pulls_remaining
            .get_or_create(&registry)
            .set(integer(remaining));
    }

    /// Bytes of what was pulled, how many there may be, and what has made room so far.
    pub fn cache(&self, used: u64, limit: u64, evicted_manifests: u64, evicted_bytes: u64) {
        self.cache_used.set(integer(used));
        self.cache_limit.set(integer(limit));
        for (counter, value) in [
            (&self.evicted_manifests, evicted_manifests),
            (&self.evicted, evicted_bytes),
        ] {
            counter.inner().store(value, Ordering::Relaxed);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A download under way, until it is dropped.
pub struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts bytes.
#[derive(Clone)]
pub struct Bytes(Counter);

impl Bytes {
    pub fn add(&self, bytes: usize) {
        self.0.inc_by(bytes as u64);
    }
}

impl Upstream {
    fn named(registry: &str) -> Self {
        Self {
            registry: registry.to_owned(),
        }
    }
}

impl Content {
    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
        }
    }
}

impl Origin {
    pub const ALL: [Self; 7] = [
        Self::Local,
        Self::Shadow,
        Self::Cache,
        Self::Stale,
        Self::Upstream,
        Self::Nowhere,
        Self::Failed,
    ];

    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Shadow => "shadow",
            Self::Cache => "cache",
            Self::Stale => "stale",
            Self::Upstream => "upstream",
            Self::Nowhere => "nowhere",
            Self::Failed => "failed",
        }
    }
}

impl Outcome {
    pub const ALL: [Self; 9] = [
        Self::Answered,
        Self::Absent,
        Self::Unauthorized,
        Self::RateLimited,
        Self::Refused,
        Self::Unreachable,
        Self::Timeout,
        Self::Broken,
        Self::Withheld,
    ];

    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Absent => "absent",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate_limited",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Withheld => "withheld",
        }
    }
}

/// From a local hit of under a millisecond to the longest that an upstream is waited for.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 17))
}

/// Gauges are signed.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
