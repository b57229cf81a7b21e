//! The right to a data directory: taken by the one process that works on it, or a look that takes nothing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use super::{Durability, OpenError, fs::is_absence, layout};

/// The data directory as one process's own, for as long as this lives.
pub(super) struct Claim {
    _lock: File,
}

impl Claim {
    /// Makes the directory if need be, locks it, checks its version, and sweeps what an earlier process left half-written.
    pub(super) fn take(root: &Path, durability: Durability) -> Result<Self, OpenError> {
        let failed = |what| failed(root, what);
        fs::create_dir_all(root).map_err(failed("make"))?;
        if let Some(found) = foreign(root).map_err(failed("read"))? {
            return Err(OpenError::Foreign {
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
            return Err(OpenError::InUse {
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

/// Whether there is a data directory of our layout, for somebody who only looks.
pub(super) fn look(root: &Path) -> Result<(), OpenError> {
    match version(root)? {
        Some(found) if !found.is_empty() => return known(root, &found),
        _ => {}
    }
    let path = root.to_owned();
    match foreign(root) {
        Ok(Some(found)) => Err(OpenError::Another { path, found }),
        Ok(None) => Err(OpenError::Absent { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::Absent { path }),
        Err(error) => Err(failed(root, "read")(error)),
    }
}

/// Takes a directory of our layout, and makes an empty one that.
fn check_version(root: &Path, durability: Durability) -> Result<(), OpenError> {
    let path = root.join(layout::version().as_str());
    let found = version(root)?.unwrap_or_default();
    // A start that a full disk or a signal cut off leaves an empty file: nothing was stored then.
    if found.is_empty() {
        fs::write(&path, format!("{}\n", layout::VERSION)).map_err(failed(root, "write to"))?;
    } else {
        known(root, &found)?;
    }
    if durability == Durability::Full {
        for place in [&*path, root] {
            File::open(place)
                .and_then(|place| place.sync_all())
                .map_err(failed(root, "sync"))?;
        }
    }
    Ok(())
}

/// What the directory says its layout is, if it says anything.
fn version(root: &Path) -> Result<Option<String>, OpenError> {
    match fs::read_to_string(root.join(layout::version().as_str())) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(failed(root, "read the version of")(error)),
    }
}

fn known(root: &Path, found: &str) -> Result<(), OpenError> {
    match found.parse::<u32>() {
        Ok(found) if found <= layout::VERSION => Ok(()),
        _ => Err(OpenError::Version {
            path: root.to_owned(),
            found: found.to_owned(),
        }),
    }
}

fn failed(root: &Path, what: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io {
        what,
        path: root.to_owned(),
        source,
    }
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
