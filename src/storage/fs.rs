//! The backend on a local disk.
//!
//! - A session's bytes are one file; publication is a rename onto a *new* name, because a rename over a file makes ext4 write the
//!   data out.
//! - Records are written beside the staging files and renamed into place.
//! - `Durability::Full` also syncs file and directories, in the order that survives a loss of power.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustix::fs::{CWD, FallocateFlags, RenameFlags};

use super::{
    Durability,
    backend::{Backend, Leaf, Part, PartFile, ReadAt},
    layout::{self, Key},
};
use crate::types::{Digest, UploadId};

pub(super) struct Fs {
    root: PathBuf,
    durability: Durability,
}

impl Fs {
    /// `root` exists.
    pub(super) fn new(root: PathBuf, durability: Durability) -> Self {
        Self { root, durability }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Runs `place` (a rename or link onto `target`), making the directories it lacks.
    fn place(&self, target: &Path, place: impl Fn() -> io::Result<()>) -> io::Result<()> {
        // Directories that were just made may be tidied away before there is anything in them.
        for _ in 0..TRIES {
            match place() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => {
                    other?;
                    return self.sync_directories(target);
                }
            }
            if let Some(parent) = target.parent() {
                match fs::create_dir_all(parent) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    made => made?,
                }
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Whether the entry is a directory to be looked into. A link that leads back into the data directory is none.
    fn leads_on(&self, entry: &fs::DirEntry) -> io::Result<bool> {
        let kind = entry.file_type()?;
        if !kind.is_symlink() {
            return Ok(kind.is_dir());
        }
        match entry.path().canonicalize() {
            Ok(target) => Ok(target.is_dir() && !target.starts_with(self.root.canonicalize()?)),
            Err(_) => Ok(false),
        }
    }

    /// For `Durability::Full`: a directory made on the way is durable only once its own parent is.
    fn sync_directories(&self, target: &Path) -> io::Result<()> {
        if self.durability == Durability::Full {
            for directory in target
                .ancestors()
                .skip(1)
                .take_while(|directory| directory.starts_with(&self.root))
            {
                File::open(directory)?.sync_all()?;
            }
        }
        Ok(())
    }
}

impl Backend for Fs {
    fn read(&self, key: &Key) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(key)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, key: &Key, bytes: &[u8]) -> io::Result<()> {
        let staged = self.path(&layout::upload(UploadId::random()));
        let target = self.path(key);
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&staged)?;
            file.write_all(bytes)?;
            if self.durability == Durability::Full {
                file.sync_all()?;
            }
            self.place(&target, || fs::rename(&staged, &target))
        })();
        if written.is_err() {
            let _ = fs::remove_file(&staged);
        }
        written
    }

    fn harden(&self, key: &Key) -> io::Result<()> {
        if self.durability == Durability::Full {
            let target = self.path(key);
            File::open(&target)?.sync_all()?;
            self.sync_directories(&target)?;
        }
        Ok(())
    }

    fn delete(&self, key: &Key) -> io::Result<bool> {
        match fs::remove_file(self.path(key)) {
            Ok(()) => Ok(true),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn touch(&self, key: &Key) -> io::Result<()> {
        match File::open(self.path(key)) {
            Ok(file) => file.set_modified(SystemTime::now()),
            Err(error) if is_absence(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn written(&self, key: &Key) -> io::Result<Option<SystemTime>> {
        match fs::metadata(self.path(key)) {
            Ok(metadata) => metadata.modified().map(Some),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn tidy(&self, prefix: &Key) {
        let directory = self.path(prefix);
        // The first one that is not empty ends it.
        for empty in directory
            .ancestors()
            .take_while(|above| above.starts_with(&self.root) && *above != self.root)
        {
            if fs::remove_dir(empty).is_err() {
                break;
            }
        }
    }

    fn list(&self, prefix: &Key) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        self.any(prefix, &mut |name| {
            names.push(name.to_owned());
            false
        })?;
        Ok(names)
    }

    fn any(&self, prefix: &Key, accept: &mut dyn FnMut(&str) -> bool) -> io::Result<bool> {
        let entries = match fs::read_dir(self.path(prefix)) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        for entry in entries {
            // A name that is no UTF-8 is none of ours.
            if entry?.file_name().to_str().is_some_and(&mut *accept) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn walk(&self, prefix: &Key, found: &mut dyn FnMut(Key, Leaf)) {
        let entries = match fs::read_dir(self.path(prefix)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                match fs::metadata(self.path(prefix)) {
                    Ok(metadata) => found(prefix.clone(), Leaf::File(metadata.len())),
                    Err(error) => found(prefix.clone(), Leaf::Closed(error)),
                }
                return;
            }
            Err(error) => return found(prefix.clone(), Leaf::Closed(error)),
        };
        let mut hollow = true;
        for entry in entries {
            hollow = false;
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return found(prefix.clone(), Leaf::Closed(error)),
            };
            // A name that is no UTF-8 is none of ours.
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let key = layout::below(prefix, name);
            match self.leads_on(&entry) {
                Ok(true) => self.walk(&key, found),
                Ok(false) => match fs::metadata(entry.path()) {
                    Ok(metadata) => found(key, Leaf::File(metadata.len())),
                    // Gone since it was listed, or a link to nothing.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        if entry.path().is_symlink() {
                            found(key, Leaf::Closed(error));
                        }
                    }
                    Err(error) => found(key, Leaf::Closed(error)),
                },
                Err(error) if is_absence(&error) => {}
                Err(error) => found(key, Leaf::Closed(error)),
            }
        }
        if hollow {
            found(prefix.clone(), Leaf::Hollow);
        }
    }

    fn set_aside(&self, from: &Key, to: &Key) -> io::Result<bool> {
        let (from, to) = (self.path(from), self.path(to));
        if let Err(error) = fs::symlink_metadata(&from) {
            return match is_absence(&error) {
                true => Ok(false),
                false => Err(error),
            };
        }
        self.place(&to, || fs::rename(&from, &to))?;
        self.sync_directories(&from)?;
        Ok(true)
    }

    fn create_part(&self, id: UploadId) -> io::Result<Arc<dyn PartFile>> {
        let path = self.path(&layout::upload(id));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Arc::new(LocalFile(file)))
    }

    fn discard(&self, id: UploadId) {
        let path = self.path(&layout::upload(id));
        if let Err(error) = fs::remove_file(&path)
            && !is_absence(&error)
        {
            log::warn!(
                "staging file {} stays until the next start: {error}",
                path.display()
            );
        }
    }

    fn scratch(&self) -> io::Result<File> {
        let path = self.path(&layout::upload(UploadId::random()));
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).create_new(true).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    fn publish(&self, digest: &Digest, parts: &[Part]) -> io::Result<()> {
        let [part] = parts else {
            return Err(io::Error::other("on a disk a session is one file"));
        };
        part.file.set_length(part.length)?;
        if self.durability == Durability::Full {
            part.file.sync()?;
        }
        let staged = self.path(&layout::upload(part.id));
        let target = self.path(&layout::content(digest));
        let placed = self.place(&target, || rename_onto_new_name(&staged, &target));
        match placed {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::metadata(&target)?.len() == part.length {
                    return self.harden(&layout::content(digest));
                }
                // The medium lost bytes of what is there (a power cut without `full` durability); ours are verified.
                log::warn!("{digest} was stored with a wrong length and is replaced");
                self.place(&target, || fs::rename(&staged, &target))
            }
            other => other,
        }
    }

    fn remove(&self, digest: &Digest) -> io::Result<bool> {
        self.delete(&layout::content(digest))
    }

    fn stat(&self, digest: &Digest) -> io::Result<Option<u64>> {
        match fs::metadata(self.path(&layout::content(digest))) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<(Arc<dyn ReadAt>, u64)>> {
        match File::open(self.path(&layout::content(digest))) {
            Ok(file) => {
                let size = file.metadata()?.len();
                Ok(Some((Arc::new(LocalFile(file)), size)))
            }
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn free_space(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// How often a place is made for one file. Each failure takes somebody else's removal of that very place.
const TRIES: u32 = 100;

struct LocalFile(File);

impl ReadAt for LocalFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .0
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl PartFile for LocalFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        if length == 0 {
            // Which fallocate takes for a mistake.
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, length) {
            // Not every file system can; then a lack of room shows when the bytes come.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadAt> {
        self
    }
}

/// Fails with `AlreadyExists` where the name is taken, on every file system.
fn rename_onto_new_name(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

/// The key is not there: no such name, or a parent that is no directory.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
