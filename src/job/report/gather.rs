//! A report is made of what is counted and of what is remembered.

use std::time::{Duration, SystemTime};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Answers, ByOrigin, LeftOut, Pulled, Pushed, Report, Span, Totals, Trouble, Upstream, VERSION,
};
use crate::{
    activity::{self, Activity, PulledImage, PushedImage, Snapshot, Tally, words},
    metrics::{Content, Outcome, UpstreamTotals},
    types::CanonicalName,
};

/// Who will see a report.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Whether they may know of that repository.
    pub may: &'a dyn Fn(&CanonicalName) -> bool,
    /// What upstreams said when they failed, which may name hosts that are nobody's business.
    pub messages: bool,
}

impl View<'_> {
    /// Of whoever runs the job.
    pub const ALL: View<'static> = View {
        may: &|_| true,
        messages: true,
    };
}

impl Report {
    /// What happened so far. How full the cache is is as [`Metrics`](crate::metrics::Metrics) was last told.
    pub fn gather(activity: &Activity, running: bool, view: View<'_>) -> Self {
        let metrics = activity.metrics();
        let snapshot = activity.snapshot();
        let counted = metrics.upstreams();
        let answers = |content| ByOrigin::count(|origin| metrics.answers(content, origin));
        let fetched: u64 = counted.iter().map(|upstream| upstream.received).sum();
        let (cached, limit, evicted_manifests, evicted_bytes) = metrics.cached();
        let mut from = snapshot.pulls_left_out;
        for image in &snapshot.pulled {
            from.add_all(&image.from);
        }
        let requests = counted.iter().flat_map(|upstream| &upstream.requests);
        let rate_limited = counted
            .iter()
            .map(|upstream| upstream.of(Outcome::RateLimited));
        let errors = snapshot.troubles.iter();
        let errors = errors.filter(|trouble| trouble.outcome != Outcome::RateLimited);
        let totals = Totals {
            images_pulled: snapshot
                .pulled
                .iter()
                .filter(|image| image.from.pulls() > 0)
                .count() as u64,
            pulls: from.pulls(),
            from: by_origin(&from),
            images_pushed: snapshot.pushed.len() as u64,
            pushes: snapshot
                .pushed
                .iter()
                .map(|image| image.pushes)
                .sum::<u64>()
                + snapshot.pushes_left_out,
            sent_bytes: metrics.sent_bytes(),
            received_bytes: metrics.received_bytes(),
            fetched_bytes: fetched,
            saved_bytes: metrics.sent_bytes().saturating_sub(fetched),
            waited_seconds: metrics.upstream_waits().total().as_secs_f64(),
            upstream_requests: requests.map(|(_, count)| count).sum(),
            rate_limited: rate_limited.sum(),
            errors: errors.map(|trouble| trouble.count).sum(),
            cached_bytes: cached,
            cache_limit_bytes: limit,
            evicted_manifests,
            evicted_bytes,
        };
        let listed_pulled = snapshot
            .pulled
            .iter()
            .filter(|image| (view.may)(&image.name));
        let listed_pushed = snapshot
            .pushed
            .iter()
            .filter(|image| (view.may)(&image.name));
        let mut pulled: Vec<Pulled> = listed_pulled.map(Pulled::from).collect();
        if !view.messages {
            // What a client was told holds what its registry said.
            pulled.iter_mut().for_each(|image| image.error = None);
        }
        let pushed: Vec<Pushed> = listed_pushed.map(Pushed::from).collect();
        let hidden = snapshot.pulled.len() - pulled.len() + snapshot.pushed.len() - pushed.len();
        let left = snapshot.pulls_left_out;
        let upstreams = upstreams(&counted, &snapshot, view.messages);
        Self {
            version: VERSION,
            standin: env!("CARGO_PKG_VERSION").to_owned(),
            started: rfc3339(snapshot.began),
            until: rfc3339(snapshot.began + snapshot.now),
            seconds: seconds(snapshot.now),
            running,
            summary: summary(&totals, &pushed, &upstreams, running),
            totals,
            answers: Answers {
                manifests: answers(Content::Manifest),
                blobs: answers(Content::Blob),
            },
            pulled,
            pushed,
            upstreams,
            left_out: LeftOut {
                pulls: by_origin(&left).each().iter().map(|(_, count)| count).sum(),
                pushes: snapshot.pushes_left_out,
                hidden: hidden as u64,
            },
        }
    }
}

fn upstreams(counted: &[UpstreamTotals], snapshot: &Snapshot, messages: bool) -> Vec<Upstream> {
    let shown = |text: &str| match messages {
        true => text.to_owned(),
        false => String::new(),
    };
    let of = |upstream: &UpstreamTotals| Upstream {
        registry: upstream.registry.clone(),
        requests: upstream
            .requests
            .iter()
            .map(|(outcome, count)| (outcome.as_str().to_owned(), *count))
            .collect(),
        received_bytes: upstream.received,
        resumes: upstream.resumes,
        withheld: upstream.withheld,
        pull_limit: upstream.pull_limit,
        pulls_remaining: upstream.pulls_remaining,
        errors: snapshot
            .troubles
            .iter()
            .filter(|trouble| trouble.registry == upstream.registry)
            .map(|trouble| Trouble {
                kind: trouble.outcome.as_str().to_owned(),
                count: trouble.count,
                first: seconds(trouble.first.0),
                first_message: shown(&trouble.first.1),
                last: seconds(trouble.last.0),
                last_message: shown(&trouble.last.1),
            })
            .collect(),
    };
    counted.iter().map(of).collect()
}

/// The story in a few sentences.
fn summary(
    totals: &Totals,
    pushed: &[Pushed],
    upstreams: &[Upstream],
    running: bool,
) -> Vec<String> {
    let mut lines = Vec::new();
    let from = &totals.from;
    if totals.pulls > 0 {
        let mut pulled = words::count(totals.images_pulled, "image pulled", "images pulled");
        if totals.pulls > totals.images_pulled {
            pulled.push_str(&format!(" in {} pulls", totals.pulls));
        }
        let origins = [
            (
                from.local + from.shadow,
                "from what was pushed or seeded here",
            ),
            (from.cache, "from the cache"),
            (from.stale, "from the cache because a registry failed"),
            (from.upstream, "from upstreams"),
        ];
        let told: Vec<String> = origins
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        lines.push(format!("{pulled}: {}", told.join(", ")));
    }
    if from.nowhere + from.failed > 0 {
        let what = [(from.failed, "failed"), (from.nowhere, "found nothing")];
        let told: Vec<String> = what
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", words::count(*count, "request", "requests")))
            .collect();
        lines.push(told.join(", "));
    }
    if totals.pushes > 0 {
        let bytes = pushed.iter().map(|image| image.uploaded_bytes).sum();
        let images = words::count(totals.images_pushed, "image pushed", "images pushed");
        lines.push(format!("{images}, {} uploaded", words::size(bytes)));
    }
    if totals.sent_bytes > 0 {
        let mut line = format!(
            "{} sent to clients, {} fetched from upstreams: {} not fetched again",
            words::size(totals.sent_bytes),
            words::size(totals.fetched_bytes),
            words::size(totals.saved_bytes)
        );
        if totals.waited_seconds >= 0.1 {
            let waited = words::time(Duration::from_secs_f64(totals.waited_seconds));
            line.push_str(&format!("; {waited} waiting for upstreams"));
        }
        lines.push(line);
    }
    let mut told = Vec::new();
    if totals.rate_limited > 0 {
        let times = words::count(totals.rate_limited, "time", "times");
        told.push(format!("429 (too many requests) answered {times}"));
    }
    if totals.errors > 0 {
        told.push(words::count(
            totals.errors,
            "error at upstreams",
            "errors at upstreams",
        ));
    }
    let limits = upstreams.iter().filter_map(|upstream| {
        let left = upstream.pulls_remaining?;
        let of = upstream.pull_limit.map(|limit| format!(" of {limit}"));
        let registry = &upstream.registry;
        Some(format!(
            "{registry} has {left}{} pulls left",
            of.unwrap_or_default()
        ))
    });
    told.extend(limits.take(3));
    if !told.is_empty() {
        lines.push(told.join("; "));
    }
    if lines.is_empty() {
        let yet = if running { " yet" } else { "" };
        lines.push(format!("nothing was pulled or pushed{yet}"));
    }
    lines
}

impl From<&PulledImage> for Pulled {
    fn from(image: &PulledImage) -> Self {
        Self {
            image: activity::called(&image.name, image.reference.as_ref()),
            digest: image.digest.as_ref().map(ToString::to_string),
            pulls: image.from.pulls(),
            from: by_origin(&image.from),
            bytes: image.bytes,
            fetched_bytes: image.fetched,
            waited_seconds: seconds(image.waited),
            slowest_seconds: image.slowest.map_or(0.0, |slowest| seconds(slowest.took())),
            times: image.spans.iter().map(Span::from).collect(),
            error: image.why.clone(),
        }
    }
}

impl From<&activity::Span> for Span {
    fn from(span: &activity::Span) -> Self {
        Self {
            began: seconds(span.began),
            ended: seconds(span.ended),
            from: span.origin.as_str().to_owned(),
            bytes: span.bytes,
            waited_seconds: seconds(span.waited),
            under_way: span.under_way,
        }
    }
}

impl From<&PushedImage> for Pushed {
    fn from(image: &PushedImage) -> Self {
        Self {
            image: activity::called(&image.name, Some(&image.reference)),
            digest: image.digest.to_string(),
            pushes: image.pushes,
            bytes: image.size,
            uploaded_bytes: image.uploaded,
            began: seconds(image.began),
            ended: seconds(image.ended),
        }
    }
}

fn by_origin(tally: &Tally) -> ByOrigin {
    ByOrigin::count(|origin| tally.of(origin))
}

/// To the millisecond.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at).truncate_to_second();
    at.format(&Rfc3339).unwrap_or_default()
}
