//! A tar archive as a set of files: its headers are read once, its contents when they are asked for.
//!
//! An archive is untrusted. What it holds is found by the exact name that a document gives, so no entry leads anywhere;
//! links, devices and names that climb are refused all the same, since whoever packed them meant harm or something else.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use super::{
    Error,
    files::{Files, Opened},
};

/// An archive that is open for as long as this lives.
pub(super) struct Tarball {
    path: PathBuf,
    file: File,
    state: State,
    entries: HashMap<String, Span>,
}

/// Where an entry's bytes lie.
#[derive(Clone, Copy)]
struct Span {
    offset: u64,
    size: u64,
}

/// What changes when somebody writes to a file.
#[derive(PartialEq, Eq)]
struct State {
    size: u64,
    modified: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Tarball {
    /// Reads all headers.
    ///
    /// # Errors
    /// It is no tar archive, ends within an entry, or holds what an archive of images does not.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let wrong = |why: String| Error::Origin {
            place: path.display().to_string(),
            why,
        };
        let unreadable = |error: io::Error| wrong(format!("it can't be read: {error}"));
        let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        let metadata = file.metadata().map_err(unreadable)?;
        // A pipe or a device would be read for ever.
        if !metadata.is_file() {
            return Err(wrong(
                "it is no regular file; a layout in a directory is oci:DIR".to_owned(),
            ));
        }
        let state = State::of(&metadata);
        let mut tarball = Self {
            path: path.to_owned(),
            file,
            state,
            entries: HashMap::new(),
        };
        tarball.entries = tarball.scan()?;
        Ok(tarball)
    }

    fn scan(&self) -> Result<HashMap<String, Span>, Error> {
        let whole = |why: String| Error::Origin {
            place: self.path.display().to_string(),
            why,
        };
        let broken = |error: io::Error| whole(format!("it is no tar archive, or damaged: {error}"));
        let mut archive = tar::Archive::new(&self.file);
        let mut spans = HashMap::new();
        let mut seen = HashSet::new();
        for entry in archive.entries_with_seek().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            if seen.len() == MOST_ENTRIES {
                return Err(whole(format!("it has more than {MOST_ENTRIES} entries")));
            }
            let bytes = entry.path_bytes();
            let name = plain(&bytes).map_err(|why| {
                let shown = String::from_utf8_lossy(&bytes).escape_debug().to_string();
                self.wrong(&shown, why)
            })?;
            let kind = entry.header().entry_type();
            match kind {
                tar::EntryType::Directory | tar::EntryType::XGlobalHeader => continue,
                tar::EntryType::Regular | tar::EntryType::Continuous => {}
                _ => return Err(self.wrong(&name, "it is a link, a device or a pipe, and no file")),
            }
            let span = Span {
                offset: entry.raw_file_position(),
                size: entry.size(),
            };
            if span
                .offset
                .checked_add(span.size)
                .is_none_or(|end| end > self.state.size)
            {
                return Err(self.wrong(&name, "the archive ends within it: it was cut off"));
            }
            if !seen.insert(name.clone()) {
                return Err(self.wrong(&name, "the archive holds it twice"));
            }
            spans.insert(name, span);
        }
        Ok(spans)
    }
}

impl Files for Tarball {
    fn open(&self, name: &str) -> Result<Option<Opened<'_>>, Error> {
        let Some(span) = self.entries.get(name) else {
            return Ok(None);
        };
        Ok(Some(Opened {
            size: span.size,
            content: Box::new(Entry {
                file: &self.file,
                rest: *span,
            }),
        }))
    }

    fn place(&self, name: &str) -> String {
        match name {
            "" => self.path.display().to_string(),
            name => format!("{name} in {}", self.path.display()),
        }
    }

    fn stem(&self) -> Option<String> {
        Some(self.path.file_stem()?.to_str()?.to_owned())
    }

    fn check(&self) -> Result<(), Error> {
        let now = self.file.metadata().map(|metadata| State::of(&metadata));
        match now {
            Ok(now) if now == self.state => Ok(()),
            Ok(_) => Err(self.wrong("", "it changed while it was read: try again")),
            Err(error) => Err(self.wrong("", format!("it can't be read: {error}"))),
        }
    }
}

/// An entry's bytes, from wherever one is on. Others may read others at the same time.
struct Entry<'a> {
    file: &'a File,
    rest: Span,
}

impl Read for Entry<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most =
            usize::try_from(self.rest.size).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        let read = self.file.read_at(&mut buffer[..most], self.rest.offset)?;
        self.rest.offset += read as u64;
        self.rest.size -= read as u64;
        Ok(read)
    }
}

/// The name without `./` before it.
fn plain(bytes: &[u8]) -> Result<String, &'static str> {
    let name = std::str::from_utf8(bytes).map_err(|_| "its name is no UTF-8")?;
    let mut parts = Vec::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().unwrap_or_default()),
            Component::CurDir => {}
            _ => return Err("its name leads out of the archive"),
        }
    }
    Ok(parts.join("/"))
}

/// An image has some hundred layers at most, and an archive some hundred images.
const MOST_ENTRIES: usize = 100_000;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Sets the name in the header past all that the crate would refuse.
    fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("images.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for (name, kind, bytes) in entries {
            let header = header(name, *kind, bytes.len() as u64);
            builder.append(&header, *bytes).unwrap();
        }
        builder.finish().unwrap();
        (directory, path)
    }

    fn refusal(path: &Path) -> String {
        match Tarball::open(path) {
            Ok(_) => panic!("{} was taken", path.display()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn entries_are_read_by_name_and_side_by_side() {
        use tar::EntryType::{Directory, Regular};
        let (_directory, path) = archive(&[
            ("./blobs", Directory, b""),
            ("./index.json", Regular, b"{}"),
            ("blobs/a", Regular, b"first"),
            ("blobs/b", Regular, b"second"),
        ]);
        let tarball = Tarball::open(&path).unwrap();
        let mut a = tarball.open("blobs/a").unwrap().unwrap();
        let mut b = tarball.open("blobs/b").unwrap().unwrap();
        let (mut first, mut second) = ([0; 2], String::new());
        a.content.read_exact(&mut first).unwrap();
        b.content.read_to_string(&mut second).unwrap();
        let mut rest = String::new();
        a.content.read_to_string(&mut rest).unwrap();
        assert_eq!(
            (&first, rest.as_str(), second.as_str()),
            (b"fi", "rst", "second")
        );
        assert_eq!((a.size, tarball.stem().as_deref()), (5, Some("images")));
        assert!(tarball.open("index.json").unwrap().is_some());
        assert!(tarball.open("../images.tar").unwrap().is_none());
        tarball.check().unwrap();
    }

    #[test]
    fn hostile_entries_are_refused_by_name() {
        use tar::EntryType::{Block, Char, Fifo, Link, Regular, Symlink};
        for (name, kind, why) in [
            ("../up", Regular, "leads out"),
            ("a/../../up", Regular, "leads out"),
            ("/etc/passwd", Regular, "leads out"),
            ("link", Symlink, "link"),
            ("hard", Link, "link"),
            ("fifo", Fifo, "pipe"),
            ("sda", Block, "device"),
            ("tty", Char, "device"),
        ] {
            let (_directory, path) = archive(&[(name, kind, b"")]);
            let refused = refusal(&path);
            assert!(refused.contains(name) && refused.contains(why), "{refused}");
        }
        let twice = [("a", Regular, &b"1"[..]), ("./a", Regular, b"2")];
        let (_directory, path) = archive(&twice);
        assert!(refusal(&path).contains("a in "), "{}", refusal(&path));
        assert!(refusal(&path).contains("twice"), "{}", refusal(&path));
    }

    #[test]
    fn an_archive_that_was_cut_off_or_is_none() {
        let (_directory, path) = archive(&[("big", tar::EntryType::Regular, &[7; 4096])]);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(2048).unwrap();
        let refused = refusal(&path);
        assert!(
            refused.contains("cut off") || refused.contains("damaged"),
            "{refused}"
        );
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        assert!(
            refusal(&path).contains("no tar archive"),
            "{}",
            refusal(&path)
        );
        assert!(refusal(Path::new("/dev/zero")).contains("no regular file"));
    }

    #[test]
    fn an_archive_that_changes_while_it_is_read() {
        let (_directory, path) = archive(&[("a", tar::EntryType::Regular, b"1")]);
        let tarball = Tarball::open(&path).unwrap();
        let file = File::options().append(true).open(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(tarball.check().unwrap_err().to_string().contains("changed"));
    }
}
