//! The backend on a local disk.
//!
//! - A session's bytes are one file; publication is a rename onto a *new* name, because a rename over a file makes ext4 write the
//!   data out.
//! - Records are written beside the staging files and renamed into place.
//! - `Durability::Full` also syncs file and directories, in the order that survives a loss of power.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustix::fs::{CWD, FallocateFlags, RenameFlags};

use super::{
    Durability,
    backend::{Backend, Part, PartFile, ReadAt},
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
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The data directory as one process's own, for as long as this lives.
pub(super) struct Claim {
    _lock: File,
}

impl Claim {
    /// Makes the directory if need be, locks it, checks its version, and sweeps what an earlier process left half-written.
    pub(super) fn take(root: &Path, durability: Durability) -> Result<Self, super::OpenError> {
        let failed = |what: &'static str| {
            move |source| super::OpenError::Io {
                what,
                path: root.to_owned(),
                source,
            }
        };
        fs::create_dir_all(root).map_err(failed("make"))?;
        if let Some(found) = foreign(root).map_err(failed("read"))? {
            return Err(super::OpenError::Foreign {
                path: root.to_owned(),
                found,
            });
        }
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(root.join("lock"))
            .map_err(failed("write to"))?;
        if let Err(error) =
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed("lock")(error.into()));
            }
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            return Err(super::OpenError::InUse {
                path: root.to_owned(),
                pid: pid.trim().to_owned(),
            });
        }
        check_version(root, durability)?;
        lock.set_len(0)
            .and_then(|()| lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0))
            .map_err(failed("lock"))?;
        let uploads = root.join(layout::uploads().as_str());
        sweep(&uploads).map_err(failed("sweep the uploads of"))?;
        fs::create_dir_all(&uploads).map_err(failed("write to"))?;
        Ok(Self { _lock: lock })
    }
}

/// Something in a directory that is not ours: whoever named it, such as a home directory, did not mean it to be filled and
/// swept.
fn foreign(root: &Path) -> io::Result<Option<String>> {
    const HARMLESS: [&str; 5] = ["lock", "version", "lost+found", ".gitignore", ".gitkeep"];
    let version = fs::read(root.join(layout::version().as_str())).unwrap_or_default();
    if !version.is_empty() {
        return Ok(None);
    }
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !HARMLESS.contains(&name.as_str()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Takes a directory of our layout, and makes an empty one that.
fn check_version(root: &Path, durability: Durability) -> Result<(), super::OpenError> {
    let path = root.join(layout::version().as_str());
    let failed = |what| {
        move |source| super::OpenError::Io {
            what,
            path: root.to_owned(),
            source,
        }
    };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(failed("read the version of"))?,
    };
    // A start that a full disk or a signal cut off leaves an empty file: nothing was stored then.
    if text.trim().is_empty() {
        fs::write(&path, format!("{}\n", layout::VERSION)).map_err(failed("write to"))?;
    } else if !text
        .trim()
        .parse::<u32>()
        .is_ok_and(|found| found <= layout::VERSION)
    {
        return Err(super::OpenError::Version {
            path: root.to_owned(),
            found: text.trim().to_owned(),
        });
    }
    if durability == Durability::Full {
        for place in [&*path, root] {
            File::open(place)
                .and_then(|place| place.sync_all())
                .map_err(failed("sync"))?;
        }
    }
    Ok(())
}

fn sweep(uploads: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(uploads) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut swept = 0_u32;
    for entry in entries {
        fs::remove_file(entry?.path())?;
        swept += 1;
    }
    if swept > 0 {
        log::info!(
            "removed {swept} files of uploads and downloads that an earlier run left unfinished; their clients begin anew"
        );
    }
    Ok(())
}
