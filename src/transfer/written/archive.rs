//! Where an archive goes: a file, which gets its name when it is whole, or standard output.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{
    staged::{Staged, beside, failed, followed},
    tar::Archive,
};
use crate::transfer::{Cancel, Error, temporary};

/// Where an archive goes.
pub struct Target {
    place: Place,
    /// What messages call it.
    shown: String,
    cancel: Cancel,
}

enum Place {
    File(PathBuf),
    Output,
}

impl Target {
    /// `-` is standard output. A file that is there is replaced.
    ///
    /// # Errors
    /// What is there is no file.
    pub fn new(path: &Path, cancel: &Cancel) -> Result<Self, Error> {
        let target = |place, shown| Self {
            place,
            shown,
            cancel: cancel.clone(),
        };
        if path == Path::new("-") {
            return Ok(target(Place::Output, "standard output".to_owned()));
        }
        // A link is followed, so that what it leads to is replaced.
        let (path, shown) = followed(path)?;
        let path = match fs::metadata(&path) {
            Ok(found) if found.is_file() => {
                fs::canonicalize(path).map_err(|error| failed(&shown, &error))?
            }
            Ok(_) => {
                return Err(Error::Destination {
                    place: shown,
                    why: "it is there, and no file: name a new one, or - for standard output"
                        .to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => path,
            Err(error) => return Err(failed(&shown, &error)),
        };
        Ok(target(Place::File(path), shown))
    }

    /// Where what goes in is kept until then.
    pub(super) fn stage(&self) -> Result<Staged, Error> {
        match &self.place {
            Place::File(path) => Staged::below(&beside(path), &self.shown)
                .map_err(|error| failed(&self.shown, &error)),
            Place::Output => {
                let directory = temporary();
                let shown = format!("temporary files in {}", directory.display());
                Staged::below(&directory, &shown).map_err(|error| Error::Destination {
                    place: shown,
                    why: format!("{error}: have TMPDIR name a directory that can be written to"),
                })
            }
        }
    }

    /// Writes the archive, and gives it its name.
    pub(super) fn write(
        &self,
        staged: &Staged,
        fill: impl FnOnce(&mut Packing<'_>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let written = match &self.place {
            Place::Output => self.pack(staged, Box::new(io::stdout().lock()), fill),
            Place::File(path) => {
                let whole = staged.path("archive");
                let packed = File::create_new(&whole)
                    .and_then(|file| self.pack(staged, Box::new(file), fill));
                packed.and_then(|()| fs::rename(&whole, path))
            }
        };
        match written {
            Err(_) if self.cancel.is_cancelled() => Err(Error::Interrupted),
            other => other.map_err(|error| failed(&self.shown, &error)),
        }
    }

    fn pack<'a>(
        &'a self,
        staged: &'a Staged,
        out: Box<dyn Write + 'a>,
        fill: impl FnOnce(&mut Packing<'a>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut packing = Packing {
            archive: Archive::new(out),
            staged,
            cancel: &self.cancel,
        };
        fill(&mut packing)?;
        packing.archive.finish().map(drop)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// An archive that takes in what was staged.
pub(super) struct Packing<'a> {
    archive: Archive<Box<dyn Write + 'a>>,
    staged: &'a Staged,
    cancel: &'a Cancel,
}

impl Packing<'_> {
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.archive.directory(name)
    }

    /// Takes the staged `file` in under `name`; it is gone from there then, so that nothing takes its room twice.
    pub(super) fn staged(&mut self, name: &str, file: &str) -> io::Result<()> {
        let path = self.staged.path(file);
        let opened = File::open(&path)?;
        let size = opened.metadata()?.len();
        let content = Cancelled {
            content: opened,
            cancel: self.cancel,
        };
        self.archive.file(name, size, content)?;
        fs::remove_file(path)
    }
}

struct Cancelled<'a> {
    content: File,
    cancel: &'a Cancel,
}

impl Read for Cancelled<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.cancel.is_cancelled() {
            true => Err(io::Error::other("interrupted")),
            false => self.content.read(buffer),
        }
    }
}
