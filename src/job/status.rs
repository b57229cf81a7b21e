//! What a standin that runs has done so far, by its own counters.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::Instance;

/// How a standin is. Serialised, it is what `standin status --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether it answers.
    pub up: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<Where>,
    #[serde(flatten)]
    counts: Option<Counts>,
}

#[derive(Clone, Debug, Serialize)]
struct Where {
    version: String,
    pid: i32,
    /// Seconds since the epoch.
    since: u64,
    http: String,
    https: String,
    ca: String,
    data: String,
}

/// What was asked and answered, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub pulls: Pulls,
    /// Manifests taken.
    pub pushes: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub upstream_bytes: u64,
    /// Requests answered with 5xx.
    pub errors: u64,
    /// Times an upstream said that there were too many requests.
    pub rate_limited: u64,
}

/// Manifests given out, by where they came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pulls {
    /// Pushed or seeded here.
    pub local: u64,
    /// Pulled before.
    pub cache: u64,
    pub upstream: u64,
    /// Nobody could be asked, or they refused.
    pub failed: u64,
}

impl Status {
    /// Asks the instance.
    pub fn of(instance: &Instance) -> Self {
        let page = match instance
            .ask("/healthz")
            .and_then(|_| instance.ask("/metrics"))
        {
            Ok(page) => page,
            Err(problem) => return Self::down(problem),
        };
        let page = Page(&page);
        Self {
            up: true,
            problem: None,
            instance: Some(Where {
                version: page
                    .label("standin_build_info", "version")
                    .unwrap_or_default(),
                pid: instance.pid(),
                since: page.sum("standin_start_time_seconds", &[]),
                http: instance.http.clone(),
                https: instance.https.to_string(),
                ca: instance.ca.display().to_string(),
                data: instance.data.display().to_string(),
            }),
            counts: Some(Counts::on(&page)),
        }
    }

    /// There is none.
    pub fn down(problem: String) -> Self {
        Self {
            up: false,
            problem: Some(problem),
            instance: None,
            counts: None,
        }
    }
}

impl Counts {
    /// What the instance counts.
    ///
    /// # Errors
    /// It does not answer.
    pub fn of(instance: &Instance) -> Result<Self, String> {
        Ok(Self::on(&Page(&instance.ask("/metrics")?)))
    }

    fn on(page: &Page<'_>) -> Self {
        let manifests = |from: &[&str]| {
            let sums = from.iter().map(|from| {
                page.sum(
                    "standin_answers_total",
                    &[("content", "manifest"), ("from", from)],
                )
            });
            sums.sum()
        };
        let requests = |labels: &[(&str, &str)]| page.sum("standin_requests_total", labels);
        let errors = (500..600).map(|status: u16| requests(&[("status", &status.to_string())]));
        Self {
            pulls: Pulls {
                local: manifests(&["local", "shadow"]),
                cache: manifests(&["cache", "stale"]),
                upstream: manifests(&["upstream"]),
                failed: manifests(&["failed"]),
            },
            pushes: requests(&[
                ("method", "PUT"),
                ("endpoint", "manifest"),
                ("status", "201"),
            ]),
            sent_bytes: page.sum("standin_sent_bytes_total", &[]),
            received_bytes: page.sum("standin_received_bytes_total", &[]),
            upstream_bytes: page.sum("standin_upstream_received_bytes_total", &[]),
            errors: errors.sum(),
            rate_limited: page.sum(
                "standin_upstream_requests_total",
                &[("outcome", "rate_limited")],
            ),
        }
    }
}

/// One line: what was pulled, from where, what was pushed, and what went wrong.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pulls {
            local,
            cache,
            upstream,
            failed,
        } = self.pulls;
        write!(
            f,
            "pulled {} manifests ({local} pushed or seeded here, {cache} cached, {upstream} from upstreams), pushed {}; {} sent, {} \
             received, {} from upstreams",
            local + cache + upstream,
            self.pushes,
            bytes(self.sent_bytes),
            bytes(self.received_bytes),
            bytes(self.upstream_bytes),
        )?;
        for (count, what) in [
            (failed, "pulls failed"),
            (self.errors, "errors"),
            (self.rate_limited, "rate limits met"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(instance), Some(counts)) = (&self.instance, &self.counts) else {
            return write!(
                f,
                "standin is not up: {}",
                self.problem.as_deref().unwrap_or("no answer")
            );
        };
        writeln!(
            f,
            "standin {} is up since {} (pid {})",
            instance.version,
            moment(instance.since),
            instance.pid
        )?;
        for (name, value) in [
            ("http", &instance.http),
            ("https", &instance.https),
            ("ca", &instance.ca),
            ("data", &instance.data),
        ] {
            writeln!(f, "{name:<6} {value}")?;
        }
        write!(f, "{counts}")
    }
}

/// A page of metrics.
struct Page<'a>(&'a str);

impl Page<'_> {
    /// The sum of all samples of this name that have these labels.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let samples = self.samples(name).filter(|(of, _)| {
            labels.iter().all(|(label, value)| {
                let wanted = format!("{label}=\"{value}\"");
                of.split(',').any(|label| label == wanted)
            })
        });
        // Counts and seconds, which OpenMetrics may write with a fraction.
        samples.map(|(_, value)| value.max(0.0) as u64).sum()
    }

    fn label(&self, name: &str, label: &str) -> Option<String> {
        let (labels, _) = self.samples(name).next()?;
        let start = format!("{label}=\"");
        let value = labels
            .split(',')
            .find_map(|label| label.strip_prefix(&start))?;
        Some(value.trim_end_matches('"').to_owned())
    }

    /// Labels and value. Values of the labels we look for hold no comma.
    fn samples<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a str, f64)> {
        let name = name.to_owned();
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(&name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels, value.split(' ').next()?.parse().ok()?))
        })
    }
}

/// RFC 3339, in UTC.
fn moment(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|moment| {
            moment
                .format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_else(|| "long ago".to_owned())
}

/// In the unit that a person would choose.
fn bytes(count: u64) -> String {
    let mut text = format!("{count} B");
    let mut size = count as f64;
    for unit in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        text.clear();
        let _ = write!(text, "{size:.1} {unit}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_by_their_labels() {
        let page = Page(
            "# HELP standin_requests Requests\n\
             standin_requests_total{method=\"PUT\",endpoint=\"manifest\",status=\"201\"} 3\n\
             standin_requests_total{method=\"GET\",endpoint=\"blob\",status=\"502\"} 2\n\
             standin_requests_total{method=\"GET\",endpoint=\"manifest\",status=\"503\"} 1\n\
             standin_answers_total{content=\"manifest\",from=\"shadow\"} 4\n\
             standin_answers_total{content=\"manifest\",from=\"local\"} 1\n\
             standin_answers_total{content=\"blob\",from=\"local\"} 9\n\
             standin_answers_total{content=\"manifest\",from=\"upstream\"} 2\n\
             standin_sent_bytes_total 1572864\n\
             standin_upstream_requests_total{registry=\"quay.io\",outcome=\"rate_limited\"} 1\n\
             # EOF\n",
        );
        let counts = Counts::on(&page);
        assert_eq!((counts.pulls.local, counts.pulls.upstream), (5, 2));
        assert_eq!((counts.pushes, counts.errors), (3, 3));
        let text = counts.to_string();
        for fragment in [
            "pulled 7 manifests (5 pushed or seeded here, 0 cached, 2 from upstreams)",
            "pushed 3",
            "1.5 MiB sent, 0 B received",
            "3 errors",
            "1 rate limits met",
        ] {
            assert!(text.contains(fragment), "no {fragment} in: {text}");
        }
    }

    #[test]
    fn sizes_are_written_for_a_person() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
