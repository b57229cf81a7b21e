//! What upstreams said they do not have, for a short while: clients ask for the same missing manifest again and again.
//!
//! Only a 404 is kept, never a failure, and only in memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::types::{CanonicalName, Reference};

/// Manifests that are absent, by name.
pub(super) struct Absences {
    good_for: Duration,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    since: HashMap<CanonicalName, HashMap<Reference, Instant>>,
    count: usize,
}

impl Absences {
    /// Each counts for `good_for`; none is kept if that is zero.
    pub(super) fn new(good_for: Duration) -> Self {
        Self {
            good_for,
            noted: Mutex::default(),
        }
    }

    /// Its upstream has just answered that there is none.
    pub(super) fn note(&self, name: &CanonicalName, reference: &Reference, now: Instant) {
        if self.good_for.is_zero() {
            return;
        }
        let mut noted = self.lock();
        if noted.count >= MOST {
            noted.since.retain(|_, references| {
                references.retain(|_, since| now.duration_since(*since) < self.good_for);
                !references.is_empty()
            });
            noted.count = noted.since.values().map(HashMap::len).sum();
        }
        if noted.count >= MOST {
            return;
        }
        let references = noted.since.entry(name.clone()).or_default();
        if references.insert(reference.clone(), now).is_none() {
            noted.count += 1;
        }
    }

    /// Whether its upstream need not be asked at `now`.
    pub(super) fn holds(&self, name: &CanonicalName, reference: &Reference, now: Instant) -> bool {
        let noted = self.lock();
        let since = noted.since.get(name).and_then(|all| all.get(reference));
        since.is_some_and(|since| now.duration_since(*since) < self.good_for)
    }

    /// Something of that name has changed.
    pub(super) fn forget(&self, name: &CanonicalName) {
        let mut noted = self.lock();
        if let Some(references) = noted.since.remove(name) {
            noted.count -= references.len();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kept at once, all names together, so that a client that makes up names takes up little memory.
const MOST: usize = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn app() -> CanonicalName {
        "quay.io/acme/app".parse().unwrap()
    }

    fn tag(n: usize) -> Reference {
        Reference::Tag(format!("v{n}").parse().unwrap())
    }

    #[test]
    fn an_absence_counts_for_its_time_and_until_something_changes() {
        let absences = Absences::new(Duration::from_secs(10));
        let start = Instant::now();
        absences.note(&app(), &tag(1), start);
        let holds = |n, seconds| {
            let at = start + Duration::from_secs(seconds);
            absences.holds(&app(), &tag(n), at)
        };
        assert!(holds(1, 0) && holds(1, 9));
        assert!(!holds(1, 10));
        assert!(!holds(2, 0), "another tag");
        let other = "quay.io/acme/other".parse().unwrap();
        assert!(!absences.holds(&other, &tag(1), start), "another name");
        absences.forget(&other);
        assert!(holds(1, 0));
        absences.forget(&app());
        assert!(!holds(1, 0));
    }

    #[test]
    fn none_is_kept_for_no_time() {
        let (absences, now) = (Absences::new(Duration::ZERO), Instant::now());
        absences.note(&app(), &tag(1), now);
        assert!(!absences.holds(&app(), &tag(1), now));
        assert_eq!(absences.lock().count, 0);
    }

    #[test]
    fn there_are_never_too_many_and_old_ones_make_room() {
        let absences = Absences::new(Duration::from_secs(10));
        let start = Instant::now();
        for n in 0..2 * MOST {
            absences.note(&app(), &tag(n), start);
            absences.note(&app(), &tag(n), start);
        }
        assert_eq!(absences.lock().count, MOST);
        assert!(!absences.holds(&app(), &tag(MOST), start));
        let later = start + Duration::from_secs(10);
        absences.note(&app(), &tag(MOST), later);
        assert!(absences.holds(&app(), &tag(MOST), later));
        assert_eq!(absences.lock().count, 1);
        absences.forget(&app());
        assert_eq!(absences.lock().count, 0);
    }
}
