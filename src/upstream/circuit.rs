//! Whether an endpoint is worth asking: one that could not be reached is left alone for a while, so that its time-out is
//! paid once and not by each request.
//!
//! After a failure it stays shut for a time that doubles with each failed probe. Then one request may try while the
//! others still fail at once; its success opens it to all. It must not know what a request is.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::Cause;

/// How long an endpoint is left alone after its first failure, and at most.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    pub first: Duration,
    pub longest: Duration,
}

#[derive(Debug)]
pub(super) struct Circuit {
    rest: Rest,
    state: Mutex<State>,
    /// Counts how often it broke.
    broken: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    /// Why it is not to be asked, if it is not.
    broken: Option<Broken>,
    answered: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Broken {
    cause: Cause,
    until: Instant,
    rest: Duration,
    probing: bool,
}

/// Leave to ask. Without a verdict it counts for nothing.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    circuit: &'a Circuit,
    probe: bool,
    began: Instant,
    broken: watch::Receiver<u64>,
}

impl Circuit {
    pub(super) fn new(rest: Rest) -> Self {
        Self {
            rest,
            state: Mutex::new(State {
                broken: None,
                answered: None,
            }),
            broken: watch::Sender::new(0),
        }
    }

    /// # Errors
    /// [`Cause::Resting`], with what was found when it was last asked.
    pub(super) fn enter(&self, now: Instant) -> Result<Pass<'_>, Cause> {
        let mut state = self.lock();
        let probe = match &mut state.broken {
            None => false,
            Some(broken) if broken.probing || now < broken.until => {
                return Err(resting(broken, now));
            }
            Some(broken) => {
                broken.probing = true;
                true
            }
        };
        Ok(Pass {
            circuit: self,
            probe,
            began: now,
            broken: self.broken.subscribe(),
        })
    }

    /// In how long it may be asked again, unless it has failed a probe since it broke.
    pub(super) fn first_rest(&self, now: Instant) -> Option<Duration> {
        match &self.lock().broken {
            None => Some(Duration::ZERO),
            Some(broken) if broken.rest == self.rest.first => {
                Some(broken.until.saturating_duration_since(now))
            }
            Some(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The endpoint answered, whatever it said. Whether that ends a rest.
    pub(super) fn answered(mut self, now: Instant) -> bool {
        self.probe = false;
        let mut state = self.circuit.lock();
        state.answered = Some(now);
        state.broken.take().is_some()
    }

    /// The endpoint could not be reached, or said nothing in all the time there was. For how long it is left alone, if
    /// that is news.
    pub(super) fn failed(mut self, cause: &Cause, now: Instant) -> Option<Duration> {
        let probe = std::mem::take(&mut self.probe);
        let mut state = self.circuit.lock();
        // Others were answered meanwhile: this request was unlucky, or asked for something slow.
        if state.answered.is_some_and(|at| at >= self.began) {
            return None;
        }
        let rest = match &state.broken {
            None => self.circuit.rest.first,
            Some(broken) if probe => (broken.rest * 2).min(self.circuit.rest.longest),
            // Another that was under way has told already.
            Some(_) => return None,
        };
        state.broken = Some(Broken {
            cause: cause.clone(),
            until: now + rest,
            rest,
            probing: false,
        });
        drop(state);
        self.circuit.broken.send_modify(|times| *times += 1);
        Some(rest)
    }

    /// Comes back when another request finds that the endpoint can't be reached.
    pub(super) async fn broken(&self) -> Cause {
        let mut broken = self.broken.clone();
        loop {
            if broken.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if let Some(broken) = &self.circuit.lock().broken {
                return resting(broken, Instant::now());
            }
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe
            && let Some(broken) = &mut self.circuit.lock().broken
        {
            broken.probing = false;
        }
    }
}

fn resting(broken: &Broken, now: Instant) -> Cause {
    Cause::Resting {
        left: broken.until.saturating_duration_since(now),
        cause: Box::new(broken.cause.clone()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn circuit() -> Circuit {
        Circuit::new(Rest {
            first: seconds(5),
            longest: seconds(60),
        })
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn down() -> Cause {
        Cause::Unreachable("it is down".to_owned())
    }

    /// How long it is left alone from now on.
    fn left(circuit: &Circuit, now: Instant) -> u64 {
        match circuit.enter(now).unwrap_err() {
            Cause::Resting { left, cause } => {
                assert_eq!(*cause, down());
                left.as_secs()
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn it_rests_longer_after_each_probe_and_opens_with_an_answer() {
        let circuit = circuit();
        let mut now = Instant::now();
        assert_eq!(circuit.first_rest(now), Some(Duration::ZERO));
        circuit.enter(now).unwrap().failed(&down(), now);
        for rest in [5, 10, 20, 40, 60, 60] {
            assert_eq!(left(&circuit, now), rest);
            assert_eq!(
                circuit.first_rest(now),
                (rest == 5).then_some(seconds(rest))
            );
            now += seconds(rest);
            circuit.enter(now).unwrap().failed(&down(), now);
        }
        now += seconds(60);
        assert!(circuit.enter(now).unwrap().answered(now));
        assert!(!circuit.enter(now).unwrap().answered(now));
        now += seconds(1);
        circuit.enter(now).unwrap().failed(&down(), now);
        assert_eq!(left(&circuit, now), 5);
    }

    #[test]
    fn one_request_probes_and_one_that_gives_up_leaves_it_to_the_next() {
        let circuit = circuit();
        let mut now = Instant::now();
        circuit.enter(now).unwrap().failed(&down(), now);
        now += seconds(5);
        let probe = circuit.enter(now).unwrap();
        assert_eq!(left(&circuit, now), 0);
        drop(probe);
        circuit.enter(now).unwrap().answered(now);
        assert!(circuit.enter(now).is_ok());
    }

    #[tokio::test]
    async fn those_under_way_hear_of_it_and_add_nothing() {
        let circuit = circuit();
        let now = Instant::now();
        let (first, second) = (circuit.enter(now).unwrap(), circuit.enter(now).unwrap());
        assert_eq!(first.failed(&down(), now), Some(seconds(5)));
        assert!(matches!(second.broken().await, Cause::Resting { .. }));
        assert_eq!(second.failed(&down(), now + seconds(1)), None);
        assert_eq!(left(&circuit, now), 5);
    }

    #[test]
    fn what_answers_others_is_not_down() {
        let circuit = circuit();
        let now = Instant::now();
        let slow = circuit.enter(now).unwrap();
        let later = now + seconds(1);
        circuit.enter(later).unwrap().answered(later);
        slow.failed(&down(), later + seconds(1));
        assert!(circuit.enter(later).is_ok());
    }
}
