//! Where what is temporary lies, and how nothing of it stays: files without a name, and directories that are locked for as
//! long as somebody needs them, so that those of the killed are known for what they are.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, FlockOperation, OFlags, access, flock};

use crate::types::UploadId;

/// Where what is large may lie for a while: `$TMPDIR`, else /var/tmp, which is on a disk where /tmp may be in memory.
pub fn temporary() -> PathBuf {
    if let Some(given) = env::var_os("TMPDIR").filter(|given| !given.is_empty()) {
        let given = PathBuf::from(given);
        return std::path::absolute(&given).unwrap_or(given);
    }
    let usual = ["/var/tmp", "/tmp"].map(PathBuf::from);
    let writable = |path: &&PathBuf| path.is_dir() && access(*path, Access::WRITE_OK).is_ok();
    let [first, _] = &usual;
    usual.iter().find(writable).unwrap_or(first).clone()
}

/// Why a temporary copy can't be written, and what to do.
pub(super) fn no_room(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": make room in the data directory, or where TMPDIR says if it goes to a registry that runs"
        }
        _ => "",
    };
    format!("{error}{hint}")
}

/// A file in `directory` that has no name.
pub(super) fn unnamed(directory: &Path) -> io::Result<File> {
    tempfile::tempfile_in(directory).map_err(|error| {
        let why = format!(
            "no temporary file can be made in {}, which TMPDIR decides: {error}",
            directory.display()
        );
        io::Error::new(error.kind(), why)
    })
}

/// Directories of one name but for an id behind it, which [`sweep`](Self::sweep) removes once nobody holds them.
#[derive(Clone, Copy, Debug)]
pub struct Claims {
    pub prefix: &'static str,
    /// Of a directory, before the umask.
    pub mode: u32,
}

/// Whoever has one keeps the directory. Several may.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

impl Claims {
    /// A path below `parent` that is nobody's.
    pub fn path(&self, parent: &Path) -> PathBuf {
        parent.join(format!("{}{}", self.prefix, UploadId::random()))
    }

    /// Makes that directory.
    ///
    /// # Errors
    /// It can't be made, or can't be locked.
    pub fn make(&self, path: &Path) -> io::Result<Claim> {
        loop {
            DirBuilder::new().mode(self.mode).create(path)?;
            // Somebody may have taken it for a dead one's before it was locked.
            match Claim::of(path) {
                Ok(claim) => return Ok(claim),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let _ = fs::remove_dir(path);
                    return Err(error);
                }
            }
        }
    }

    /// Whether a directory of that name is one of these.
    pub fn include(&self, name: &str) -> bool {
        let id = name.strip_prefix(self.prefix).map(str::parse::<UploadId>);
        id.is_some_and(|id| id.is_ok())
    }

    /// Removes what is below `parent` of those who were killed. Answers what could be removed.
    pub fn sweep(&self, parent: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(parent) else {
            return Vec::new();
        };
        let dead = |path: &PathBuf| {
            let lock = opened(path);
            lock.is_ok_and(|lock| remove_dead(&lock, path))
        };
        let entries = entries.flatten().filter(|entry| {
            self.include(&entry.file_name().to_string_lossy())
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        });
        entries.map(|entry| entry.path()).filter(dead).collect()
    }
}

impl Claim {
    /// Holds a directory that is there, as whoever made it does.
    ///
    /// # Errors
    /// Of kind `NotFound` also if it was removed, or replaced, while its lock was waited for.
    pub fn of(path: &Path) -> io::Result<Self> {
        let lock = opened(path)?;
        flock(&lock, FlockOperation::LockShared)?;
        match is_still(&lock, path) {
            true => Ok(Self { _lock: lock }),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Removes the directory that was opened as `lock`, if nobody holds it and nobody has made another of its name.
fn remove_dead(lock: &File, path: &Path) -> bool {
    flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
        && is_still(lock, path)
        && fs::remove_dir_all(path).is_ok()
}

/// Whether what was opened at `path` is what is there now.
fn is_still(opened: &File, path: &Path) -> bool {
    let (Ok(opened), Ok(there)) = (opened.metadata(), fs::symlink_metadata(path)) else {
        return false;
    };
    (opened.dev(), opened.ino()) == (there.dev(), there.ino())
}

/// A directory, and nothing that was put in its place where everybody may write.
fn opened(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CLAIMS: Claims = Claims {
        prefix: ".claimed-",
        mode: 0o700,
    };

    #[test]
    fn a_lock_on_what_was_replaced_removes_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let path = CLAIMS.path(parent.path());
        drop(CLAIMS.make(&path).unwrap());
        let before = opened(&path).unwrap();
        fs::rename(&path, parent.path().join("gone")).unwrap();
        let claim = CLAIMS.make(&path).unwrap();
        assert!(!remove_dead(&before, &path) && path.exists());
        assert!(!is_still(&before, &path));
        assert_eq!(CLAIMS.sweep(parent.path()), [""; 0].map(PathBuf::from));
        drop(claim);
        assert_eq!(CLAIMS.sweep(parent.path()), [path]);
    }
}
