//! What one endpoint may be burdened with: requests per second, and requests at once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout_at},
};

use super::{Cause, Options};

/// Room for one request, held until its body is read.
pub(super) type Permit = Option<OwnedSemaphorePermit>;

#[derive(Debug)]
pub(super) struct Limiter {
    /// Between two requests, on average.
    interval: Option<Duration>,
    /// When the next request would come if they came evenly.
    due: Mutex<Instant>,
    connections: Option<(usize, Arc<Semaphore>)>,
}

impl Limiter {
    pub(super) fn new(options: &Options) -> Self {
        let connections = options.connections;
        Self {
            interval: options.interval,
            due: Mutex::new(Instant::now()),
            connections: connections.map(|count| (count, Arc::new(Semaphore::new(count)))),
        }
    }

    /// Waits for this request's turn.
    ///
    /// # Errors
    /// [`Cause::Busy`] if that does not come until `until`.
    pub(super) async fn admit(&self, until: Instant) -> Result<Permit, Cause> {
        let permit = match &self.connections {
            None => None,
            Some((count, semaphore)) => {
                let free = timeout_at(until, Arc::clone(semaphore).acquire_owned()).await;
                let Ok(Ok(permit)) = free else {
                    return Err(Cause::Busy(format!(
                        "all {count} connections that it is granted are in use"
                    )));
                };
                Some(permit)
            }
        };
        self.turn(until).await?;
        Ok(permit)
    }

    /// Waits until another request keeps to the rate; a second's worth may come at once.
    pub(super) async fn turn(&self, until: Instant) -> Result<(), Cause> {
        let wait = self.reserve(Instant::now(), until).ok_or_else(|| {
            Cause::Busy(
                "more is asked of it than its limit of requests per second grants".to_owned(),
            )
        })?;
        if !wait.is_zero() {
            sleep(wait).await;
        }
        Ok(())
    }

    /// How long the next request has to wait; `None` if that is not over by `until`.
    fn reserve(&self, now: Instant, until: Instant) -> Option<Duration> {
        let Some(interval) = self.interval else {
            return Some(Duration::ZERO);
        };
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*due).max(now);
        let wait = next.saturating_duration_since(now + BURST.saturating_sub(interval));
        if now + wait > until {
            return None;
        }
        *due = next + interval;
        Some(wait)
    }
}

const BURST: Duration = Duration::from_secs(1);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::RegistryHost;

    fn limiter(per_second: Option<u32>, connections: Option<usize>) -> Limiter {
        Limiter::new(&Options {
            interval: per_second.map(|count| Duration::from_secs(1) / count),
            connections,
            ..Options::of_host(&RegistryHost::docker_hub())
        })
    }

    #[test]
    fn requests_keep_to_the_rate_behind_a_second_s_worth() {
        let limiter = limiter(Some(4), None);
        let now = Instant::now();
        let until = now + Duration::from_secs(60);
        let waits: Vec<u128> = (0..8)
            .map(|_| limiter.reserve(now, until).unwrap().as_millis())
            .collect();
        assert_eq!(waits, [0, 0, 0, 0, 250, 500, 750, 1000]);
        // Who can't wait for the turn takes none.
        assert_eq!(limiter.reserve(now, now), None);
        let later = now + Duration::from_secs(2);
        assert_eq!(limiter.reserve(later, until), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn connections_are_lent_and_given_back() {
        let limiter = limiter(None, Some(1));
        let long = Instant::now() + Duration::from_secs(60);
        let permit = limiter.admit(long).await.unwrap();
        let refused = limiter.admit(Instant::now()).await.unwrap_err();
        assert!(
            refused.to_string().contains("all 1 connections"),
            "{refused}"
        );
        drop(permit);
        assert!(limiter.admit(long).await.unwrap().is_some());
    }
}
