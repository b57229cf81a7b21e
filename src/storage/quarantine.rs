//! Setting aside: what is wrong is moved to where nothing serves it, and never deleted.

use super::{Error, Op, Record, Store, backend::Leaf, layout};

/// One repair's own place. Made when the first thing is put there.
pub struct Quarantine<'a> {
    store: &'a Store,
    number: u64,
}

impl Store {
    /// A place that no earlier repair has used.
    pub fn quarantine(&self) -> Result<Quarantine<'_>, Error> {
        let used = self.list(&layout::quarantine())?;
        let highest = used.iter().filter_map(|name| name.parse::<u64>().ok());
        Ok(Quarantine {
            store: self,
            number: highest.max().unwrap_or(0) + 1,
        })
    }

    /// Deletes all that repairs have set aside.
    pub fn empty_quarantine(&self) -> Result<(), Error> {
        let mut leaves = Vec::new();
        let places = layout::quarantine();
        self.backend
            .walk(&places, &mut |key, leaf| leaves.push((key, leaf)));
        for (key, leaf) in leaves {
            if !matches!(leaf, Leaf::Hollow) {
                self.backend
                    .delete(&key)
                    .map_err(Error::io(Op::Delete, key.clone()))?;
            }
            for directory in [Some(key.clone()), key.parent()].into_iter().flatten() {
                self.backend.tidy(&directory);
            }
        }
        Ok(())
    }
}

impl Quarantine<'_> {
    /// Moves the record here, at once; where it is now. `None`: it was not there.
    pub fn take(&self, record: &Record) -> Result<Option<String>, Error> {
        let from = record.key();
        let to = layout::quarantined(self.number, &from);
        let backend = &self.store.backend;
        let moved = backend
            .set_aside(&from, &to)
            .map_err(Error::io(Op::Move, from.clone()))?;
        if let Some(directory) = from.parent() {
            backend.tidy(&directory);
        }
        match record {
            Record::Tag(namespace, name, tag) => self.store.note_tag(*namespace, name, tag)?,
            Record::Content(digest) => self.store.recount(digest)?,
            _ => {}
        }
        Ok(moved.then(|| to.to_string()))
    }
}
