//! A tar archive as a set of files: its headers are read once, its contents when they are asked for.
//!
//! An archive is untrusted. What it holds is found by the exact name that a document gives, so no entry leads anywhere;
//! devices and names that climb are refused all the same, since whoever packed them meant harm or something else. Links
//! are followed within the archive: docker and podman save a layer once, and link to it from where older readers look.

use std::{
    cell::Cell,
    collections::HashMap,
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Component, Path},
};

use super::{
    Error,
    files::{Files, Opened},
    hashing::Hashing,
    input::Spooled,
};

/// An archive that is open for as long as this lives.
pub(super) struct Tarball {
    file: File,
    /// What messages call it.
    shown: String,
    stem: Option<String>,
    state: State,
    entries: HashMap<String, Found>,
}

/// What an entry is.
enum Found {
    File(Span),
    /// To the entry of that name.
    Link(String),
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
    pub(super) fn new(spooled: Spooled) -> Result<Self, Error> {
        let Spooled { file, shown, stem } = spooled;
        let unreadable = |error: io::Error| Error::Origin {
            place: shown.clone(),
            why: format!("it can't be read: {error}"),
        };
        let state = State::of(&file.metadata().map_err(unreadable)?);
        (&file).seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let mut tarball = Self {
            file,
            shown,
            stem,
            state,
            entries: HashMap::new(),
        };
        tarball.entries = tarball.scan()?;
        Ok(tarball)
    }

    fn scan(&self) -> Result<HashMap<String, Found>, Error> {
        let broken =
            |error: io::Error| self.wrong("", format!("it is no tar archive, or damaged: {error}"));
        if self.state.size == 0 {
            return Err(self.wrong("", "it is empty: did what should have written it fail?"));
        }
        let left = Cell::new(0);
        let mut archive = tar::Archive::new(Headers {
            file: &self.file,
            left: &left,
        });
        let mut entries: HashMap<String, Found> = HashMap::new();
        let mut all = archive.entries_with_seek().map_err(broken)?;
        for nth in 0.. {
            left.set(MOST_HEADERS);
            let Some(entry) = all.next() else {
                break;
            };
            let entry = entry.map_err(broken)?;
            if nth == MOST_ENTRIES {
                let why = format!("it has more than {MOST_ENTRIES} entries");
                return Err(self.wrong("", why));
            }
            let bytes = entry.path_bytes();
            let name =
                plain(&bytes).map_err(|why| self.wrong(&String::from_utf8_lossy(&bytes), why))?;
            let found = match entry.header().entry_type() {
                tar::EntryType::Directory | tar::EntryType::XGlobalHeader => continue,
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    Found::File(self.span(&entry, &name)?)
                }
                kind @ (tar::EntryType::Symlink | tar::EntryType::Link) => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let beside = match kind.is_symlink() {
                        true => Path::new(&name).parent().unwrap_or(Path::new("")),
                        false => Path::new(""),
                    };
                    let target = joined(beside, &target)
                        .ok_or_else(|| self.wrong(&name, "it is a link out of the archive"))?;
                    Found::Link(target)
                }
                tar::EntryType::GNUSparse => {
                    let why = "it was packed with tar --sparse, which no reader of images takes: pack it without";
                    return Err(self.wrong(&name, why));
                }
                _ => {
                    return Err(
                        self.wrong(&name, "it is a device, a pipe or the like, and no file")
                    );
                }
            };
            match entries.get(&name) {
                None => {
                    entries.insert(name, found);
                }
                // Some write an image's config once for each of its names.
                Some(before) if self.same(before, &found).map_err(broken)? => {}
                Some(_) => {
                    let why = "the archive holds it twice, and not the same: pack it anew";
                    return Err(self.wrong(&name, why));
                }
            }
        }
        Ok(entries)
    }

    /// Whether two entries of one name are no contradiction.
    fn same(&self, one: &Found, other: &Found) -> io::Result<bool> {
        match (one, other) {
            (Found::Link(one), Found::Link(other)) => Ok(one == other),
            (Found::File(one), Found::File(other)) if one.size == other.size => {
                let hash = |rest: Span| {
                    let file = &self.file;
                    let mut content = Hashing::new(Entry { file, rest });
                    content.drain()?;
                    Ok::<_, io::Error>(content.finish().1)
                };
                Ok(hash(*one)? == hash(*other)?)
            }
            _ => Ok(false),
        }
    }

    fn span<R: Read>(&self, entry: &tar::Entry<'_, R>, name: &str) -> Result<Span, Error> {
        let span = Span {
            offset: entry.raw_file_position(),
            size: entry.size(),
        };
        match span.offset.checked_add(span.size) {
            Some(end) if end <= self.state.size => Ok(span),
            _ => Err(self.wrong(name, "the archive ends within it: it was cut off")),
        }
    }

    /// Where the bytes of that name are, behind all links.
    pub(super) fn behind(&self, name: &str) -> Result<Option<u64>, Error> {
        Ok(self.follow(name)?.map(|span| span.offset))
    }

    fn follow(&self, name: &str) -> Result<Option<Span>, Error> {
        let mut at = name;
        for _ in 0..MOST_LINKS {
            match self.entries.get(at) {
                None => return Ok(None),
                Some(Found::File(span)) => return Ok(Some(*span)),
                Some(Found::Link(target)) => at = target,
            }
        }
        Err(self.wrong(name, "it is a link that leads to no file"))
    }
}

impl Files for Tarball {
    fn open(&self, name: &str) -> Result<Option<Opened<'_>>, Error> {
        let Some(span) = self.follow(name)? else {
            return Ok(None);
        };
        Ok(Some(Opened {
            size: span.size,
            content: Box::new(Entry {
                file: &self.file,
                rest: span,
            }),
        }))
    }

    fn place(&self, name: &str) -> String {
        match name {
            "" => self.shown.clone(),
            name => format!("{} in {}", shown(name.as_bytes()), self.shown),
        }
    }

    fn stem(&self) -> Option<String> {
        self.stem.clone()
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

/// All of a file, for one of several who read it.
pub(super) fn whole(file: &File) -> impl Read + Send + use<'_> {
    let rest = Span {
        offset: 0,
        size: u64::MAX,
    };
    Entry { file, rest }
}

/// The name without `./` before it.
fn plain(bytes: &[u8]) -> Result<String, &'static str> {
    // As long as a path can be.
    if bytes.len() > 4096 {
        return Err("its name has more than 4096 bytes");
    }
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

/// A name for a message: whoever packed it must not write lines of their own there.
fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    let name = String::from_utf8_lossy(bytes);
    let cut: String = name.chars().take(LONGEST).collect();
    let more = if cut.len() < name.len() { "…" } else { "" };
    format!("{}{more}", cut.escape_debug())
}

/// The archive's headers as they are read. What extends one, a name or records of its own, is held in memory whole, however
/// large it says it is, so that there is an end to what is read for one entry.
struct Headers<'a> {
    file: &'a File,
    /// Bytes that may still be read.
    left: &'a Cell<u64>,
}

impl Read for Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64);
        self.left.set(left.ok_or_else(|| {
            let why = format!("a header has more than {} MiB", MOST_HEADERS >> 20);
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?);
        Ok(count)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// What a link beside that directory leads to, if that is within the archive.
fn joined(beside: &Path, target: &[u8]) -> Option<String> {
    let mut path = beside.to_owned();
    for component in Path::new(std::str::from_utf8(target).ok()?).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path.to_str()?.to_owned())
}

const MOST_LINKS: usize = 8;
/// Of one entry, with all that extends it, in bytes.
const MOST_HEADERS: u64 = 2 << 20;

/// An image has some hundred layers at most, and an archive some hundred images.
const MOST_ENTRIES: usize = 100_000;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn opened(path: &Path) -> Result<Tarball, Error> {
        Tarball::new(Spooled::of_file(path)?)
    }

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
            if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
                let mut header = header(name, *kind, 0);
                header.as_old_mut().linkname[..bytes.len()].copy_from_slice(bytes);
                header.set_cksum();
                builder.append(&header, io::empty()).unwrap();
                continue;
            }
            let header = header(name, *kind, bytes.len() as u64);
            builder.append(&header, *bytes).unwrap();
        }
        builder.finish().unwrap();
        (directory, path)
    }

    fn refusal(path: &Path) -> String {
        match opened(path) {
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
        let tarball = opened(&path).unwrap();
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
            ("fifo", Fifo, "pipe"),
            ("sda", Block, "device"),
            ("tty", Char, "device"),
        ] {
            let (_directory, path) = archive(&[(name, kind, b"")]);
            let refused = refusal(&path);
            assert!(refused.contains(name) && refused.contains(why), "{refused}");
        }
        for kind in [Symlink, Link] {
            for target in ["../up", "/etc/passwd", "a/../../up"] {
                let (_directory, path) = archive(&[("link", kind, target.as_bytes())]);
                let refused = refusal(&path);
                assert!(refused.contains("link out of the archive"), "{refused}");
            }
        }
        let twice = [("a", Regular, &b"1"[..]), ("./a", Regular, b"2")];
        let (_directory, path) = archive(&twice);
        assert!(refusal(&path).contains("a in "), "{}", refusal(&path));
        assert!(refusal(&path).contains("twice"), "{}", refusal(&path));
    }

    #[test]
    fn links_are_followed_within_the_archive() {
        use tar::EntryType::{Link, Regular, Symlink};
        let (_directory, path) = archive(&[
            ("layers/a.tar", Regular, b"layer"),
            ("old/layer.tar", Symlink, b"../layers/a.tar"),
            ("older", Link, b"old/layer.tar"),
            ("round", Symlink, b"about"),
            ("about", Symlink, b"round"),
            ("nowhere", Symlink, b"gone"),
        ]);
        let tarball = opened(&path).unwrap();
        for name in ["layers/a.tar", "old/layer.tar", "older"] {
            let mut text = String::new();
            let mut opened = tarball.open(name).unwrap().unwrap();
            opened.content.read_to_string(&mut text).unwrap();
            assert_eq!((opened.size, text.as_str()), (5, "layer"), "{name}");
        }
        assert!(tarball.open("nowhere").unwrap().is_none());
        let endless = tarball.open("round").err().unwrap().to_string();
        assert!(endless.contains("leads to no file"), "{endless}");
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
        let tarball = opened(&path).unwrap();
        let file = File::options().append(true).open(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(tarball.check().unwrap_err().to_string().contains("changed"));
    }
}
