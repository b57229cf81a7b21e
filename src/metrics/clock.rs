//! Time in which at least one of several waits, however many do at once.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Runs while somebody waits.
#[derive(Debug, Default)]
pub struct Clock(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: u32,
    /// Since when it runs, while somebody waits.
    since: Option<Instant>,
    /// Nothing before this is counted any more.
    counted: Option<Instant>,
    total: Duration,
}

impl Clock {
    /// Somebody waits from `now` on, until [`Clock::end`] is called for them.
    pub fn begin(&self, now: Instant) {
        let mut state = self.state();
        if state.waiting == 0 {
            state.since = Some(state.after_counted(now));
        }
        state.waiting += 1;
    }

    /// Somebody who had begun to wait does so no more.
    pub fn end(&self, now: Instant) {
        let mut state = self.state();
        state.waiting = state.waiting.saturating_sub(1);
        if state.waiting == 0
            && let Some(since) = state.since.take()
        {
            state.count(since, now);
        }
    }

    /// Somebody has waited from `from` to `to`.
    pub fn add(&self, from: Instant, to: Instant) {
        let mut state = self.state();
        // What is behind that is counted when the clock stops.
        let to = state.since.map_or(to, |since| since.min(to));
        state.count(from, to);
    }

    /// All of it, up to now.
    pub fn total(&self) -> Duration {
        let state = self.state();
        state.total + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn after_counted(&self, instant: Instant) -> Instant {
        self.counted.map_or(instant, |counted| counted.max(instant))
    }

    fn count(&mut self, from: Instant, to: Instant) {
        let from = self.after_counted(from);
        self.total += to.saturating_duration_since(from);
        self.counted = Some(self.after_counted(to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_together_counts_once() {
        let clock = Clock::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let total = || clock.state().total.as_millis();
        clock.begin(at(0));
        clock.begin(at(5));
        clock.end(at(10));
        clock.end(at(20));
        assert_eq!(total(), 20);
        // Told afterwards: only what nobody else had waited for.
        clock.add(at(15), at(30));
        assert_eq!(total(), 30);
        clock.begin(at(40));
        clock.add(at(25), at(45));
        assert_eq!(total(), 40);
        clock.end(at(50));
        assert_eq!(total(), 50);
        clock.add(at(0), at(50));
        clock.begin(at(10));
        clock.end(at(50));
        assert_eq!(total(), 50);
        clock.end(at(60));
        assert_eq!(total(), 50, "nobody waits");
    }
}
