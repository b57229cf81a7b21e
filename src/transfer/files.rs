//! Files by their names, in a directory or in an archive: what layouts and docker's archives are read from.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::Error;

/// A set of files that are read only. Names are untrusted where they come from a document; they never lead outside.
pub(super) trait Files: Send + Sync {
    /// The file's size and its bytes; `None` if there is no such file.
    fn open(&self, name: &str) -> Result<Option<Opened<'_>>, Error>;

    /// What messages call the file.
    fn place(&self, name: &str) -> String;

    /// What the whole set is called by whoever named it, without directories and extension.
    fn stem(&self) -> Option<String>;

    /// Fails if the set is no longer what it was when it was opened.
    fn check(&self) -> Result<(), Error>;

    /// An error that names the file.
    fn wrong(&self, name: &str, why: impl Into<String>) -> Error
    where
        Self: Sized,
    {
        Error::Origin {
            place: self.place(name),
            why: why.into(),
        }
    }
}

/// A file that can be read from its first byte on.
pub(super) struct Opened<'a> {
    pub(super) size: u64,
    pub(super) content: Box<dyn Read + Send + 'a>,
}

/// All of a small file.
pub(super) fn read(files: &impl Files, name: &str, limit: usize) -> Result<Option<Vec<u8>>, Error> {
    let Some(opened) = files.open(name)? else {
        return Ok(None);
    };
    let too_large = || files.wrong(name, format!("it is larger than {limit} bytes"));
    if opened.size > limit as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    opened
        .content
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| files.wrong(name, format!("it can't be read: {error}")))?;
    if bytes.len() > limit {
        return Err(too_large());
    }
    Ok(Some(bytes))
}

/// All of a small file that must be there.
pub(super) fn required(files: &impl Files, name: &str, limit: usize) -> Result<Vec<u8>, Error> {
    read(files, name, limit)?.ok_or_else(|| files.wrong(name, "it is not there"))
}

/// A directory of the file system.
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |why: String| Error::Origin {
            place: path.display().to_string(),
            why,
        };
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(Self {
                path: path.to_owned(),
            }),
            Ok(_) => Err(failed(
                "it is no directory; an archive of a layout is oci-archive:FILE".to_owned(),
            )),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

impl Files for Directory {
    fn open(&self, name: &str) -> Result<Option<Opened<'_>>, Error> {
        // A pipe would be waited for.
        let opened = File::options()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(self.path.join(name));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.wrong(name, format!("it can't be opened: {error}"))),
        };
        // A pipe or a device would be read for ever.
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(Some(Opened {
                size: metadata.len(),
                content: Box::new(file),
            })),
            Ok(_) => Err(self.wrong(name, "it is no regular file")),
            Err(error) => Err(self.wrong(name, format!("it can't be read: {error}"))),
        }
    }

    fn place(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn stem(&self) -> Option<String> {
        let path = self.path.canonicalize().ok()?;
        Some(path.file_name()?.to_str()?.to_owned())
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}
