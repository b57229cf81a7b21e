//! Where an archive is read from: a file as it is, or what comes through a pipe or has to be unpacked first, spooled into
//! a file without a name. An archive is read in the order of its documents, which is not that of its bytes.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Seek as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::Errno,
};

use super::{
    Cancel, Error, Input,
    compression::{Bounded, Compression, MAGIC},
    scratch::no_room,
};

/// An archive's bytes, in a file that can be read anywhere.
pub(super) struct Spooled {
    pub(super) file: File,
    /// What messages call it.
    pub(super) shown: String,
    /// What it is called by whoever named it, without directories and extension.
    pub(super) stem: Option<String>,
}

impl Spooled {
    /// Opens `input`. Makes room by `scratch` if it is a pipe or compressed.
    ///
    /// # Errors
    /// It can't be read, is compressed in an unknown way, or there is no room.
    pub(super) fn of(
        input: &Input,
        scratch: &dyn Fn() -> io::Result<File>,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        let (file, stem) = match input {
            Input::File(path) => (open(path)?, stem(path)),
            Input::Stdin => (standard_input()?, None),
        };
        let shown = input.to_string();
        Spool {
            shown: &shown,
            scratch,
            cancel,
        }
        .seekable(file)
        .map(|file| Self { file, shown, stem })
    }

    /// The output of a command, which `shown` is the name of.
    pub(super) fn of_pipe(
        pipe: File,
        shown: String,
        scratch: &dyn Fn() -> io::Result<File>,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        let spool = Spool {
            shown: &shown,
            scratch,
            cancel,
        };
        let file = spool.seekable(pipe)?;
        Ok(Self {
            file,
            shown,
            stem: None,
        })
    }

    #[cfg(test)]
    pub(super) fn of_file(path: &Path) -> Result<Self, Error> {
        let none = || Err(io::ErrorKind::Unsupported.into());
        Self::of(&Input::File(path.to_owned()), &none, &Cancel::default())
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let wrong = |why: String| Error::Origin {
        place: path.display().to_string(),
        why,
    };
    // Opened only then: a device may do something for being opened, and a pipe waits.
    let kind = path
        .metadata()
        .map_err(|error| wrong(error.to_string()))?
        .file_type();
    if !kind.is_file() && !kind.is_fifo() {
        return Err(wrong(
            "it is no regular file; a layout in a directory is oci:DIR".to_owned(),
        ));
    }
    // A pipe that nobody writes to yet is waited for where a signal is heard.
    let opened = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    opened.map_err(|error| wrong(error.to_string()))
}

fn stem(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    // Both of images.tar.gz.
    let name = [".gz", ".zst", ".zstd"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name);
    Some(Path::new(name).file_stem()?.to_str()?.to_owned())
}

fn standard_input() -> Result<File, Error> {
    let wrong = |why: &str| Error::Origin {
        place: Input::Stdin.to_string(),
        why: why.to_owned(),
    };
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(wrong(
            "it is a terminal: pipe an archive into it, as in docker save IMAGE | standin seed docker-archive:-",
        ));
    }
    let own = stdin.as_fd().try_clone_to_owned();
    Ok(own.map_err(|error| wrong(&error.to_string()))?.into())
}

struct Spool<'a> {
    shown: &'a str,
    scratch: &'a dyn Fn() -> io::Result<File>,
    cancel: &'a Cancel,
}

impl Spool<'_> {
    fn wrong(&self, error: &io::Error) -> Error {
        if self.cancel.is_cancelled() {
            return Error::Interrupted;
        }
        Error::Origin {
            place: self.shown.to_owned(),
            why: format!("it can't be read: {error}"),
        }
    }

    fn seekable(&self, mut file: File) -> Result<File, Error> {
        let metadata = file.metadata().map_err(|error| self.wrong(&error))?;
        if metadata.is_file() && file.stream_position().ok() == Some(0) {
            let mut head = [0; MAGIC];
            let count = file.read_at(&mut head, 0);
            let count = count.map_err(|error| self.wrong(&error))?;
            if Compression::of(&head[..count]) == Compression::None {
                return Ok(file);
            }
        }
        let waiting = Waiting {
            file,
            cancel: self.cancel,
        };
        let unpacked = Compression::sniff(waiting).and_then(|(kind, content)| {
            let content = kind.unpack(content)?;
            match kind {
                Compression::None => Ok(content),
                _ => Ok(Box::new(Bounded::new(content)) as Box<dyn Read + Send>),
            }
        });
        self.spool(unpacked.map_err(|error| self.wrong(&error))?)
    }

    fn spool(&self, mut content: Box<dyn Read + Send + '_>) -> Result<File, Error> {
        let full = |error: io::Error| Error::Destination {
            place: format!("a temporary copy of {}", self.shown),
            why: no_room(&error),
        };
        let mut file = (self.scratch)().map_err(full)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => return Ok(file),
                Ok(count) => file.write_all(&buffer[..count]).map_err(full)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.wrong(&error)),
            }
        }
    }
}

/// A file whose bytes may be long in coming, and that nobody waits for once all is to end.
struct Waiting<'a> {
    file: File,
    cancel: &'a Cancel,
}

impl Read for Waiting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const LOOK_UP: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("interrupted"));
            }
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut fds, Some(&LOOK_UP)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => match self.file.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => return other,
                },
                Err(error) => return Err(error.into()),
            }
        }
    }
}
