//! Files of other programs, read with care and replaced whole: written beside, flushed, renamed.
//!
//! Knows paths as we reach them and nothing of what the files mean.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Error;

/// Who owns a file, and who may do what with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

/// A file as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) bytes: Vec<u8>,
    pub(super) owner: Owner,
}

/// Reads a file below `root`; `None` if there is none.
///
/// # Errors
/// What is there is no plain file, too large to be a configuration, or leads out of `root`.
pub(super) fn read(root: &Path, path: &Path) -> Result<Option<Found>, Error> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(Error::io("look at", path, error)),
    };
    if metadata.is_symlink() {
        return Err(Error::file(
            path,
            "it is a symbolic link, and what it points to may belong to something else: put a file in its place",
        ));
    }
    if !metadata.is_file() {
        return Err(Error::file(
            path,
            "a file belongs here, and this is none: move it away",
        ));
    }
    if metadata.len() > LARGEST {
        return Err(Error::file(
            path,
            "it is too large for a configuration file",
        ));
    }
    inside(root, path)?;
    Ok(Some(Found {
        bytes: fs::read(path).map_err(|error| Error::io("read", path, error))?,
        owner: Owner {
            uid: metadata.uid(),
            gid: metadata.gid(),
            mode: metadata.mode() & 0o7777,
        },
    }))
}

/// Puts `bytes` at `path`, whose directory exists: whole or not at all. With no `owner`, everybody may read it.
pub(super) fn write(path: &Path, bytes: &[u8], owner: Option<Owner>) -> Result<(), Error> {
    let staged = staged_beside(path);
    let written = stage(&staged, bytes, owner).and_then(|()| fs::rename(&staged, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&staged);
        return Err(Error::io("write", path, error));
    }
    flush_directory(path);
    Ok(())
}

/// Removes the file, if it is there, and what a process that was killed has left beside it.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let _ = fs::remove_file(staged_beside(path));
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path, error))
        }
        _ => {
            flush_directory(path);
            Ok(())
        }
    }
}

/// The directories above `path` that are not there yet, outermost first.
///
/// # Errors
/// Something else has the name of one, or the way leads out of `root`.
pub(super) fn missing_directories(root: &Path, path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut missing = Vec::new();
    for directory in path.ancestors().skip(1) {
        match fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => {
                inside(root, path)?;
                break;
            }
            Ok(_) => {
                return Err(Error::file(
                    directory,
                    "a directory belongs here, and this is none: move it away",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(directory).is_ok() {
                    return Err(Error::file(directory, "it is a symbolic link to nothing"));
                }
                missing.push(directory.to_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => return Err(Error::io("look at", directory, error)),
        }
    }
    missing.reverse();
    Ok(missing)
}

/// Makes one directory.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result<(), Error> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other.map_err(|error| Error::io("make the directory", path, error))?,
    }
    // Whatever the umask says: daemons and rootless clients run as others than we do.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| Error::io("make the directory", path, error))
}

/// The names in a directory; none if there is no such directory.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let fail = |error| Error::io("list", directory, error);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_absence(&error) => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        // No registry and no certificate of ours has another kind of name.
        names.extend(entry.map_err(fail)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// One name for all processes: the journal's lock keeps them apart, and who comes next clears it away.
fn staged_beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".standin");
    path.with_file_name(name)
}

fn stage(staged: &Path, bytes: &[u8], owner: Option<Owner>) -> io::Result<()> {
    // What is there was left by a process that was killed.
    let _ = fs::remove_file(staged);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(staged)?;
    file.write_all(bytes)?;
    let mut mode = 0o644;
    if let Some(owner) = owner {
        let now = file.metadata()?;
        if (now.uid(), now.gid()) != (owner.uid, owner.gid) {
            std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
        }
        mode = owner.mode;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// A file in the place of a directory above is told when something is to be written there.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// So that the new name survives a loss of power. Where that is impossible, the file is there all the same.
fn flush_directory(path: &Path) {
    if let Some(directory) = path.parent()
        && let Ok(directory) = File::open(directory)
    {
        let _ = directory.sync_all();
    }
}

/// A symbolic link below another root means a path inside that root, and would lead us to one of this machine.
fn inside(root: &Path, path: &Path) -> Result<(), Error> {
    let real =
        |path: &Path| fs::canonicalize(path).map_err(|error| Error::io("look at", path, error));
    let root = real(root)?;
    for directory in path.ancestors().skip(1) {
        if directory.exists() {
            if !real(directory)?.starts_with(&root) {
                return Err(Error::file(
                    directory,
                    format!("a symbolic link leads from here out of {}", root.display()),
                ));
            }
            break;
        }
    }
    Ok(())
}

const LARGEST: u64 = 16 << 20;
