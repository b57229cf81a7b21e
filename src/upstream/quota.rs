//! What a registry says is left of a client's allowance: Docker Hub's `ratelimit-limit` and `ratelimit-remaining`.

use std::sync::{Mutex, PoisonError};

use reqwest::header::HeaderMap;

use crate::types::RegistryHost;

/// An allowance, as the registry last told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) limit: Option<u64>,
    pub(super) remaining: u64,
}

#[derive(Debug, Default)]
pub(super) struct Gauge(Mutex<Option<Quota>>);

impl Gauge {
    /// Keeps what an answer says, if it says anything, and logs once when little is left.
    pub(super) fn read(&self, registry: &RegistryHost, headers: &HeaderMap) -> Option<Quota> {
        let remaining = number(headers, "ratelimit-remaining")?;
        let quota = Quota {
            limit: number(headers, "ratelimit-limit"),
            remaining,
        };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.replace(quota);
        drop(last);
        if quota.is_low() && !before.is_some_and(Quota::is_low) {
            let of = quota.limit.map(|limit| format!(" of {limit}"));
            log::info!(
                "{registry}: only {remaining}{} requests are left before it answers 429: give it credentials or a mirror",
                of.unwrap_or_default()
            );
        }
        Some(quota)
    }
}

impl Quota {
    fn is_low(self) -> bool {
        self.remaining < FEW
            || self
                .limit
                .is_some_and(|limit| self.remaining < limit.div_ceil(10))
    }
}

/// `76;w=21600`, of which the window is not kept.
fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    text.split([';', ',']).next()?.trim().parse().ok()
}

const FEW: u64 = 10;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn allowances_are_read_and_judged() {
        let gauge = Gauge::default();
        for (remaining, limit, expected, low) in [
            ("76;w=21600", "100;w=21600", Some((76, Some(100))), false),
            ("9", "10", Some((9, Some(10))), true),
            ("19", "200", Some((19, Some(200))), true),
            ("20", "200", Some((20, Some(200))), false),
            ("9", "many", Some((9, None)), true),
            ("-1", "100", None, false),
            ("", "", None, false),
        ] {
            let headers = HeaderMap::from_iter(
                [
                    ("ratelimit-remaining", remaining),
                    ("ratelimit-limit", limit),
                ]
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())),
            );
            let quota = gauge.read(&RegistryHost::docker_hub(), &headers);
            let told = quota.map(|quota| (quota.remaining, quota.limit));
            assert_eq!(told, expected, "{remaining} of {limit}");
            assert_eq!(
                quota.is_some_and(Quota::is_low),
                low,
                "{remaining} of {limit}"
            );
        }
    }
}
