//! Who needs content at this moment, so that eviction leaves it alone. In memory: a restart ends every use.
//!
//! - A *pin* lasts as long as somebody holds it: an open read, a push between its commit and its entry.
//! - A *promise* lasts [`PROMISE`]: a client was told that the content is here and will push a manifest that names it.
//! - Content is *condemned* while it is being removed. Whoever pins or promises it then waits for the moment that takes,
//!   and finds it gone; whoever came before keeps it from being condemned.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::types::Digest;

/// How long after a client was told that content is here a manifest that names it must still find it. A push asks for all
/// its blobs first and sends its manifest last; between the two it may upload gigabytes over a slow line.
pub(super) const PROMISE: Duration = Duration::from_secs(10 * 60);

/// Why content is not to be evicted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InUse {
    /// Somebody reads or writes it.
    Pinned,
    /// A client was told that it is here.
    Promised,
}

#[derive(Default)]
pub(super) struct Uses {
    marks: Mutex<Marks>,
    executed: Condvar,
}

#[derive(Default)]
struct Marks {
    of: HashMap<Digest, Mark>,
    condemned: Option<Digest>,
    /// Marks that have run out are swept when there are so many.
    sweep_at: usize,
}

#[derive(Default)]
struct Mark {
    pins: usize,
    promised_until: Option<Instant>,
}

impl Mark {
    fn in_use(&self, now: Instant) -> Option<InUse> {
        if self.promised_until.is_some_and(|until| now < until) {
            return Some(InUse::Promised);
        }
        (self.pins > 0).then_some(InUse::Pinned)
    }
}

/// Keeps content from being evicted for as long as it lives.
pub struct Pin {
    uses: Arc<Uses>,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut marks = self.uses.lock();
        if let Some(mark) = marks.of.get_mut(&self.digest) {
            mark.pins -= 1;
            if mark.pins == 0 && mark.promised_until.is_none() {
                marks.of.remove(&self.digest);
            }
        }
    }
}

/// Content that is being removed, by one remover at a time.
pub(super) struct Condemned(Arc<Uses>);

impl Drop for Condemned {
    fn drop(&mut self) {
        self.0.lock().condemned = None;
        self.0.executed.notify_all();
    }
}

impl Uses {
    /// Waits while the content is being removed. Blocks.
    pub(super) fn pin(self: &Arc<Self>, digest: &Digest) -> Pin {
        let mut marks = self.spared(digest);
        marks.of.entry(digest.clone()).or_default().pins += 1;
        drop(marks);
        Pin {
            uses: Arc::clone(self),
            digest: digest.clone(),
        }
    }

    /// Keeps the content for so long from now on. Waits while it is being removed. Blocks.
    pub(super) fn promise(&self, digest: &Digest, lasting: Duration) {
        let now = Instant::now();
        let mut marks = self.spared(digest);
        if marks.of.len() >= marks.sweep_at {
            marks.of.retain(|_, mark| mark.in_use(now).is_some());
            marks.sweep_at = (2 * marks.of.len()).max(1024);
        }
        let mark = marks.of.entry(digest.clone()).or_default();
        mark.promised_until = mark.promised_until.max(Some(now + lasting));
    }

    /// Everything that is in use.
    pub(super) fn all(&self) -> HashMap<Digest, InUse> {
        let now = Instant::now();
        let marks = self.lock();
        let used = marks.of.iter();
        used.filter_map(|(digest, mark)| Some((digest.clone(), mark.in_use(now)?)))
            .collect()
    }

    pub(super) fn is_pinned(&self, digest: &Digest) -> bool {
        self.lock().of.get(digest).is_some_and(|mark| mark.pins > 0)
    }

    /// The right to remove the content, unless it is in use.
    pub(super) fn condemn(self: &Arc<Self>, digest: &Digest) -> Option<Condemned> {
        let mut marks = self.lock();
        while marks.condemned.is_some() {
            marks = self.wait(marks);
        }
        if let Some(mark) = marks.of.get(digest)
            && mark.in_use(Instant::now()).is_some()
        {
            return None;
        }
        marks.condemned = Some(digest.clone());
        Some(Condemned(Arc::clone(self)))
    }

    /// The marks, at a moment when the content is not being removed.
    fn spared(&self, digest: &Digest) -> MutexGuard<'_, Marks> {
        let mut marks = self.lock();
        while marks.condemned.as_ref() == Some(digest) {
            marks = self.wait(marks);
        }
        marks
    }

    fn wait<'a>(&self, marks: MutexGuard<'a, Marks>) -> MutexGuard<'a, Marks> {
        self.executed
            .wait(marks)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;
    use crate::types::Algorithm;

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    #[test]
    fn what_is_pinned_or_promised_is_not_condemned() {
        let uses = Arc::new(Uses::default());
        let (pinned, promised) = (digest("pinned"), digest("promised"));
        let pins = [uses.pin(&pinned), uses.pin(&pinned)];
        uses.promise(&promised, PROMISE);
        for kept in [&pinned, &promised] {
            assert!(uses.condemn(kept).is_none());
        }
        assert!(uses.condemn(&digest("other")).is_some());
        let all = uses.all();
        assert_eq!(all.len(), 2);
        assert_eq!(all[&pinned], InUse::Pinned);
        assert_eq!(all[&promised], InUse::Promised);
        let [first, second] = pins;
        drop(first);
        assert!(uses.condemn(&pinned).is_none());
        drop(second);
        assert!(uses.condemn(&pinned).is_some());
    }

    #[test]
    fn a_promise_ends_and_a_shorter_one_shortens_nothing() {
        let uses = Arc::new(Uses::default());
        uses.promise(&digest("a"), Duration::ZERO);
        assert!(uses.condemn(&digest("a")).is_some());
        uses.promise(&digest("a"), PROMISE);
        uses.promise(&digest("a"), Duration::ZERO);
        assert!(uses.condemn(&digest("a")).is_none());
    }

    #[test]
    fn whoever_wants_what_is_condemned_waits_for_its_end() {
        let uses = Arc::new(Uses::default());
        let condemned = uses.condemn(&digest("a")).unwrap();
        let (sender, events) = mpsc::channel();
        thread::scope(|scope| {
            let (uses, pinned) = (&uses, sender.clone());
            scope.spawn(move || {
                let pin = uses.pin(&digest("a"));
                pinned.send("pinned").unwrap();
                drop(pin);
            });
            // Other content is no business of this one's.
            drop(uses.pin(&digest("b")));
            sender.send("removed").unwrap();
            drop(condemned);
        });
        assert_eq!(events.recv().unwrap(), "removed");
        assert_eq!(events.recv().unwrap(), "pinned");
    }

    #[test]
    fn promises_that_have_run_out_are_forgotten() {
        let uses = Arc::new(Uses::default());
        for n in 0..10_000 {
            uses.promise(&digest(&n.to_string()), Duration::ZERO);
        }
        assert!(uses.lock().of.len() <= 1024);
    }
}
