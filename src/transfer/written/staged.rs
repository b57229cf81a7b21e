//! What is being written, beside the place that it is for: it gets there by a rename, or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    transfer::{Claim, Claims, Error, Open, Verified},
    types::{Descriptor, Digest, UploadId},
};

/// A directory of blobs that is removed with all that is left in it. Where the process is killed it stays, for the next one
/// that writes beside it to remove: that finds its lock free.
pub(super) struct Staged {
    directory: PathBuf,
    _claim: Claim,
    /// What messages call the whole.
    shown: String,
}

impl Staged {
    /// Below `parent`, under a name that begins with a dot. `shown` is what messages call it.
    pub(super) fn below(parent: &Path, shown: &str) -> io::Result<Self> {
        EXPORTS.sweep(parent);
        let directory = EXPORTS.path(parent);
        Ok(Self {
            _claim: EXPORTS.make(&directory)?,
            directory,
            shown: shown.to_owned(),
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A file of that name is written by `write`, and is there once that has succeeded.
    pub(super) fn file<T>(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<T, Failed>,
    ) -> Result<T, Error> {
        let target = self.path(name);
        let partial = self.path(&format!("partial-{}", UploadId::random()));
        let written = (|| {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut open = OpenOptions::new();
            let mut file = open.write(true).create_new(true).open(&partial)?;
            let written = write(&mut file)?;
            fs::rename(&partial, &target)?;
            Ok(written)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written.map_err(|error| match error {
            Failed::Origin(error) => error,
            Failed::Here(error) => self.failed(error),
        })
    }

    pub(super) fn bytes(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.file(name, |file| Ok(file.write_all(bytes)?))
    }

    pub(super) fn size(&self, name: &str) -> Option<u64> {
        let found = fs::metadata(self.path(name)).ok()?;
        found.is_file().then_some(found.len())
    }

    pub(super) fn failed(&self, error: io::Error) -> Error {
        failed(&self.shown, &error)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("{} stays: {error}", self.directory.display());
        }
    }
}

/// Whose fault it is that something could not be written.
pub(super) enum Failed {
    Origin(Error),
    Here(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Here(error)
    }
}

/// What could not be written at `place`, and what to do.
pub(super) fn failed(place: &str, error: &io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": make room there, or export to another place"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            ": export to a place that can be written to"
        }
        io::ErrorKind::NotFound => ": make its directory first",
        _ => "",
    };
    Error::Destination {
        place: place.to_owned(),
        why: format!("{error}{hint}"),
    }
}

/// Copies a blob as it is; what is not of its digest and size is the origin's fault.
pub(super) fn copy(
    blob: &Descriptor,
    content: &Open<'_>,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Failed> {
    let mut content = Verified::new(content().map_err(Failed::Origin)?, blob);
    let mut buffer = vec![0; PIECE];
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count])?,
            Err(error) => {
                return Err(Failed::Origin(Error::Origin {
                    place: format!("blob {}", blob.digest),
                    why: error.to_string(),
                }));
            }
        }
    }
}

/// Where an OCI layout has content.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Where `path` leads, also if nothing is there yet, and what messages call that.
pub(super) fn followed(path: &Path) -> Result<(PathBuf, String), Error> {
    let shown = path.display().to_string();
    match fs::metadata(path) {
        Ok(_) => return Ok((path.to_owned(), shown)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // Links that lead round, among others.
        Err(error) => return Err(failed(&shown, &error)),
    }
    let mut target = path.to_owned();
    while let Ok(next) = fs::read_link(&target) {
        target = beside(&target).join(next);
    }
    let shown = match target == path {
        true => shown,
        false => format!("{}, where the link {shown} leads", target.display()),
    };
    Ok((target, shown))
}

/// Beside `path`: where a rename onto it begins.
pub(super) fn beside(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// What is called otherwise is somebody's own, such as `.standin-data`.
pub(super) const EXPORTS: Claims = Claims {
    prefix: ".standin-export-",
    mode: 0o777,
};
const PIECE: usize = 256 << 10;
