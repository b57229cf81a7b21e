//! What was written for whom, and what was there before: the way back.
//!
//! ```text
//! <journal>/journal.json     what is recorded, the files in the order in which they were written
//!          /<n>.before       a file as it was, if there was one
//!          /<n>.after        the same file as we wrote it
//! ```
//!
//! - A file may be written for several clients (the authority's certificate); it goes back with the last of them.
//! - The journal is written before the files are: whatever interrupts us, what is recorded can be undone.
//! - A change succeeds as a whole, or every file is put back at once.
//! - Once nothing is recorded, neither the journal nor any directory that we made is there.
//!
//! Knows no client's files.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{
    Client, Error, Place,
    files::{self, Found, Owner},
    merge,
};

/// The journal of one place. Paths are those inside its root.
#[derive(Debug)]
pub(super) struct Journal {
    place: Place,
    directory: PathBuf,
    record: Record,
    /// Held while we change anything.
    _lock: Option<File>,
}

/// One change, as a whole.
struct Step {
    changes: Vec<Change>,
    /// What is recorded until all is done, and then.
    during: Record,
    after: Record,
    backups: Vec<(u32, &'static str, Vec<u8>)>,
}

/// What is to become of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: PathBuf,
    /// `None`: it goes.
    pub(super) bytes: Option<Vec<u8>>,
    owner: Option<Owner>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Record {
    files: Vec<Entry>,
    /// Those that we made, outermost first.
    directories: Vec<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    path: PathBuf,
    clients: BTreeSet<Client>,
    /// The backups' number.
    number: u32,
    /// Those of backups whose file may still be there as it was written then: a change was interrupted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<u32>,
    /// Whose the file was, if there was one.
    before: Option<Owner>,
}

impl Journal {
    /// Reads the journal, to look only.
    pub(super) fn read(place: &Place) -> Result<Self, Error> {
        let directory = place.outside(&place.journal());
        let record = match files::read(place.root(), &directory.join(NAME))? {
            Some(found) => serde_json::from_slice(&found.bytes).map_err(|error| {
                Error::file(
                    directory.join(NAME),
                    format!("this is not what `standin configure` has written ({error}): put it back or move it away"),
                )
            })?,
            None => Record::default(),
        };
        Ok(Self {
            place: place.clone(),
            directory,
            record,
            _lock: None,
        })
    }

    /// Reads the journal, to change something. Others who want to wait until we are done.
    pub(super) fn open(place: &Place) -> Result<Self, Error> {
        // The root, which is always there: a lock file of our own would have to be left behind.
        let root = place.root();
        let lock = File::open(root).map_err(|error| Error::io("open", root, error))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| Error::io("lock", root, error.into()))?;
        Ok(Self {
            _lock: Some(lock),
            ..Self::read(place)?
        })
    }

    /// The file as it would be without us.
    ///
    /// # Errors
    /// [`Error::Changed`]: somebody changed what we wrote.
    pub(super) fn without_us(&self, path: &Path) -> Result<Option<Vec<u8>>, Error> {
        let current = self.current(path)?.map(|found| found.bytes);
        let Some(entry) = self.entry(path) else {
            return Ok(current);
        };
        let before = match entry.before {
            Some(_) => Some(self.backup(entry.number, BEFORE)?),
            None => None,
        };
        let Some(current) = current else {
            // Somebody removed it, and what is ours with it.
            return Ok(None);
        };
        let after = self.backup(entry.number, AFTER)?;
        if current == after {
            return Ok(before);
        }
        for number in &entry.earlier {
            if current == self.backup(*number, AFTER)? {
                return Ok(before);
            }
        }
        if before.as_ref() == Some(&current) {
            return Ok(before);
        }
        let name = path.to_string_lossy();
        merge::take_out(&name, before.as_deref(), &after, &current).map_err(|what| Error::Changed {
            path: self.place.outside(path),
            what,
            before: before.map(|_| self.numbered(entry.number, BEFORE)),
        })
    }

    /// The file as it is.
    pub(super) fn current(&self, path: &Path) -> Result<Option<Found>, Error> {
        files::read(self.place.root(), &self.place.outside(path))
    }

    /// The names in a directory, but for those that are there because of us alone.
    pub(super) fn names_without_us(&self, directory: &Path) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for name in files::names(&self.place.outside(directory))? {
            let path = directory.join(&name);
            let ours = match self.entry(&path) {
                Some(entry) => entry.before.is_none(),
                // One that we made is theirs as well once they have put something there.
                None => {
                    self.record.directories.contains(&path)
                        && self.names_without_us(&path)?.is_empty()
                }
            };
            if !ours {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The files that were written for `client`, in order.
    pub(super) fn written_for(&self, client: Client) -> impl Iterator<Item = &Path> {
        self.record
            .files
            .iter()
            .filter(move |entry| entry.clients.contains(&client))
            .map(|entry| entry.path.as_path())
    }

    /// Makes `client`'s files exactly `wanted`: writes these, in order, then takes back what was written for it before
    /// and is no longer wanted. Answers what it did.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub(super) fn write(
        &mut self,
        client: Client,
        wanted: &[(PathBuf, Vec<u8>)],
    ) -> Result<Vec<Change>, Error> {
        let step = self.step(client, wanted)?;
        if step.changes.is_empty() && step.after.same_files(&self.record) {
            return Ok(step.changes);
        }
        self.commit(step)
    }

    /// What `write` does.
    fn step(&self, client: Client, wanted: &[(PathBuf, Vec<u8>)]) -> Result<Step, Error> {
        let mut changes = Vec::new();
        let mut during = self.record.clone();
        let mut backups = Vec::new();
        let mut number = during
            .files
            .iter()
            .map(|entry| entry.number + 1)
            .max()
            .unwrap_or(0);
        for (path, bytes) in wanted {
            let current = self.current(path)?;
            let same = current.as_ref().is_some_and(|found| found.bytes == *bytes);
            let known = during.files.iter_mut().find(|entry| entry.path == *path);
            if same && known.is_none() {
                // Theirs, as it is.
                continue;
            }
            let read_only = current
                .as_ref()
                .is_some_and(|found| found.owner.mode & 0o222 == 0);
            if read_only && !same {
                return Err(Error::file(
                    self.place.outside(path),
                    "it is read-only, so something else makes it: have that add to it, or make it writable",
                ));
            }
            let base = self.without_us(path)?;
            if !same {
                changes.push(Change {
                    path: path.clone(),
                    bytes: Some(bytes.clone()),
                    owner: current.as_ref().map(|found| found.owner),
                });
            }
            // Numbers are never used twice, so that a journal on disk and its backups always agree.
            let before = match (&base, known.as_ref().and_then(|entry| entry.before)) {
                (None, _) => None,
                (Some(_), Some(owner)) => Some(owner),
                (Some(_), None) => current.as_ref().map(|found| found.owner),
            };
            if let Some(base) = base {
                backups.push((number, BEFORE, base));
            }
            backups.push((number, AFTER, bytes.clone()));
            match known {
                Some(entry) => {
                    entry.clients.insert(client);
                    entry.earlier.push(entry.number);
                    entry.number = number;
                    entry.before = before;
                }
                None => during.files.push(Entry {
                    path: path.clone(),
                    clients: BTreeSet::from([client]),
                    number,
                    earlier: Vec::new(),
                    before,
                }),
            }
            number += 1;
        }
        let mut after = during.clone();
        for entry in &mut after.files {
            entry.earlier.clear();
        }
        let keep = |path: &Path| wanted.iter().any(|(wanted, _)| wanted == path);
        changes.extend(self.take_back(client, keep, &mut after)?);
        Ok(Step {
            changes,
            during,
            after,
            backups,
        })
    }

    /// Takes back all that was written for `client` alone, last things first. Answers what it did.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub(super) fn undo(&mut self, client: Client) -> Result<Vec<Change>, Error> {
        let mut after = self.record.clone();
        let changes = self.take_back(client, |_| false, &mut after)?;
        if changes.is_empty() && after.same_files(&self.record) {
            return Ok(changes);
        }
        self.commit(Step {
            changes,
            during: self.record.clone(),
            after,
            backups: Vec::new(),
        })
    }

    /// The changes that take back what was written for `client`; `after` forgets it.
    fn take_back(
        &self,
        client: Client,
        keep: impl Fn(&Path) -> bool,
        after: &mut Record,
    ) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        for entry in self.record.files.iter().rev() {
            if !entry.clients.contains(&client) || keep(&entry.path) {
                continue;
            }
            let Some(kept) = after.files.iter_mut().find(|kept| kept.path == entry.path) else {
                continue;
            };
            kept.clients.remove(&client);
            if !kept.clients.is_empty() {
                continue;
            }
            let bytes = self.without_us(&entry.path)?;
            let current = self.current(&entry.path)?;
            if current.as_ref().map(|found| &found.bytes) != bytes.as_ref() {
                changes.push(Change {
                    path: entry.path.clone(),
                    bytes,
                    owner: entry.before.or(current.map(|found| found.owner)),
                });
            }
        }
        after.files.retain(|entry| !entry.clients.is_empty());
        Ok(changes)
    }

    fn commit(&mut self, step: Step) -> Result<Vec<Change>, Error> {
        let before = self.record.clone();
        let mut done = 0;
        let mut found = Vec::new();
        for change in &step.changes {
            found.push(self.current(&change.path)?);
        }
        let result = (|| {
            self.begin(&step)?;
            for change in &step.changes {
                self.apply(change)?;
                done += 1;
            }
            Ok(())
        })();
        let Step {
            changes, mut after, ..
        } = step;
        let Err(error) = result else {
            after.directories = std::mem::take(&mut self.record.directories);
            self.record = after;
            self.settle()?;
            return Ok(changes);
        };
        let put_back = (|| {
            for (change, found) in changes.iter().zip(found).take(done).rev() {
                self.apply(&Change {
                    path: change.path.clone(),
                    owner: found.as_ref().map(|found| found.owner),
                    bytes: found.map(|found| found.bytes),
                })?;
            }
            let directories = std::mem::take(&mut self.record.directories);
            self.record = before;
            self.record.directories.extend(directories);
            let mut seen = BTreeSet::new();
            self.record
                .directories
                .retain(|directory| seen.insert(directory.clone()));
            self.settle()
        })();
        match put_back {
            Ok(()) => Err(error),
            Err(back) => Err(Error::HalfUndone {
                problem: error.to_string(),
                back: Box::new(back),
            }),
        }
    }

    /// Makes the directories and the backups, and records what is about to be done.
    fn begin(&mut self, step: &Step) -> Result<(), Error> {
        let root = self.place.root().to_owned();
        let mut new = files::missing_directories(&root, &self.directory.join(NAME))?;
        for change in step.changes.iter().filter(|change| change.bytes.is_some()) {
            for directory in files::missing_directories(&root, &self.place.outside(&change.path))? {
                if !new.contains(&directory) {
                    new.push(directory);
                }
            }
        }
        let directories = std::mem::replace(&mut self.record, step.during.clone()).directories;
        self.record.directories = directories;
        for directory in &new {
            let inside = Path::new("/").join(directory.strip_prefix(&root).unwrap_or(directory));
            if !self.record.directories.contains(&inside) {
                self.record.directories.push(inside);
            }
        }
        for directory in &new {
            let private = *directory == self.directory;
            files::make_directory(directory, if private { 0o700 } else { 0o755 })?;
        }
        for (number, kind, bytes) in &step.backups {
            files::write(&self.numbered(*number, kind), bytes, None)?;
        }
        self.save()
    }

    fn apply(&self, change: &Change) -> Result<(), Error> {
        let path = self.place.outside(&change.path);
        match &change.bytes {
            Some(bytes) => files::write(&path, bytes, change.owner),
            None => files::remove(&path),
        }
    }

    /// Saves the record and removes what it no longer speaks of: backups, and directories of ours that are empty.
    fn settle(&mut self) -> Result<(), Error> {
        let keeps = |name: &str| {
            let number = name
                .split('.')
                .next()
                .and_then(|number| number.parse().ok());
            self.record.files.iter().any(|entry| {
                entry
                    .earlier
                    .iter()
                    .chain([&entry.number])
                    .any(|n| Some(*n) == number)
            })
        };
        let is_backup = |name: &str| name.ends_with(BEFORE) || name.ends_with(AFTER);
        if self.directory.is_dir() {
            if !self.record.files.is_empty() {
                self.save()?;
            }
            for name in files::names(&self.directory)? {
                if is_backup(&name) && !keeps(&name) {
                    files::remove(&self.directory.join(name))?;
                }
            }
            if self.record.files.is_empty() {
                files::remove(&self.directory.join(NAME))?;
            }
        }
        let mut directories = std::mem::take(&mut self.record.directories);
        // Innermost first; one that is not empty is in use.
        directories.sort_by_key(|directory| std::cmp::Reverse(directory.components().count()));
        directories.retain(|directory| {
            fs::remove_dir(self.place.outside(directory)).is_err()
                && self.place.outside(directory).is_dir()
        });
        directories.reverse();
        self.record.directories = directories;
        if self.record.files.is_empty() {
            Ok(())
        } else {
            self.save()
        }
    }

    fn save(&self) -> Result<(), Error> {
        let path = self.directory.join(NAME);
        let json = serde_json::to_vec_pretty(&self.record)
            .map_err(|error| Error::io("write", &path, error.into()))?;
        files::write(&path, &json, None)
    }

    fn entry(&self, path: &Path) -> Option<&Entry> {
        self.record.files.iter().find(|entry| entry.path == path)
    }

    fn numbered(&self, number: u32, kind: &str) -> PathBuf {
        self.directory.join(format!("{number}.{kind}"))
    }

    fn backup(&self, number: u32, kind: &str) -> Result<Vec<u8>, Error> {
        let path = self.numbered(number, kind);
        match files::read(self.place.root(), &path)? {
            Some(found) => Ok(found.bytes),
            None => Err(Error::file(path, "a backup that the journal names is gone")),
        }
    }
}

impl Record {
    /// Whether both speak of the same files for the same clients.
    fn same_files(&self, other: &Self) -> bool {
        let of = |record: &Self| -> Vec<(PathBuf, BTreeSet<Client>)> {
            let files = record.files.iter();
            files
                .map(|entry| (entry.path.clone(), entry.clients.clone()))
                .collect()
        };
        of(self) == of(other)
    }
}

const NAME: &str = "journal.json";
const BEFORE: &str = "before";
const AFTER: &str = "after";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_half_way_is_taken_back() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::under(root.path().canonicalize().unwrap());
        fs::write(root.path().join("first"), "theirs").unwrap();
        let wanted = |path: &str| (PathBuf::from(path), b"ours".to_vec());
        // The last makes a directory of the name that the second is to have.
        let wanted = [wanted("/first"), wanted("/a/x"), wanted("/a/x/y")];
        let mut journal = Journal::open(&place).unwrap();
        let error = journal.write(Client::Docker, &wanted).unwrap_err();
        assert!(error.to_string().contains("a/x"), "{error}");
        assert_eq!(fs::read(root.path().join("first")).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        // And nothing stands in the way of the next.
        journal.write(Client::Docker, &wanted[..1]).unwrap();
        journal.undo(Client::Docker).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_interrupted_before_it_was_written_can_be_undone() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::under(root.path().canonicalize().unwrap());
        let file = root.path().join("file");
        fs::write(&file, "theirs").unwrap();
        let mut journal = Journal::open(&place).unwrap();
        journal
            .write(Client::Docker, &[("/file".into(), b"ours".to_vec())])
            .unwrap();
        // The journal is there, and the file not yet, or no longer.
        fs::write(&file, "theirs").unwrap();
        journal.undo(Client::Docker).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_write_that_was_interrupted_can_be_undone_or_done_again() {
        for again in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let place = Place::under(root.path().canonicalize().unwrap());
            let (crt, json) = (root.path().join("x.crt"), root.path().join("y.json"));
            fs::write(&json, "{}").unwrap();
            let wanted = |text: &str| {
                let json = format!("{{\"mirror\": \"{text}\"}}");
                [
                    (PathBuf::from("/x.crt"), text.as_bytes().to_vec()),
                    (PathBuf::from("/y.json"), json.into_bytes()),
                ]
            };
            let mut journal = Journal::open(&place).unwrap();
            journal.write(Client::Docker, &wanted("first")).unwrap();
            // Killed twice when the journal was written, and of the files none, then one.
            for (text, files) in [("second", 0), ("third", 1)] {
                let step = journal.step(Client::Docker, &wanted(text)).unwrap();
                journal.begin(&step).unwrap();
                for change in &step.changes[..files] {
                    journal.apply(change).unwrap();
                }
                drop(journal);
                journal = Journal::open(&place).unwrap();
            }
            if again {
                journal.write(Client::Docker, &wanted("fourth")).unwrap();
                assert_eq!(fs::read(&crt).unwrap(), b"fourth");
            }
            journal.undo(Client::Docker).unwrap();
            assert_eq!(fs::read(&json).unwrap(), b"{}");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
    }
}
