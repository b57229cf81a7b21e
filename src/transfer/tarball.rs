//! A tar archive as a set of files: its headers are read once, its contents when they are asked for.
//!
//! An archive is untrusted. What it holds is found by the exact name that a document gives, so no entry leads anywhere;
//! devices and names that climb are refused all the same, since whoever packed them meant harm or something else. Links
//! are followed within the archive: docker and podman save a layer once, and link to it from where older readers look.

#[cfg(test)]
mod tests;

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
        let broken = |error: io::Error| {
            let why = format!("it is no tar archive, or damaged: {}", reason(&error));
            self.wrong("", why)
        };
        if self.state.size == 0 {
            return Err(self.wrong("", "it is empty: did what should have written it fail?"));
        }
        let left = Cell::new(0);
        let mut archive = tar::Archive::new(Headers {
            file: &self.file,
            left: &left,
        });
        let mut entries: HashMap<String, Found> = HashMap::new();
        let mut held = 0;
        let mut all = archive.entries_with_seek().map_err(broken)?;
        for nth in 0.. {
            left.set(MOST_HEADERS);
            let Some(entry) = all.next() else {
                break;
            };
            let mut entry = entry.map_err(broken)?;
            if nth == MOST_ENTRIES {
                let why = format!("it has more than {MOST_ENTRIES} entries");
                return Err(self.wrong("", why));
            }
            let bytes = entry.path_bytes();
            let name =
                plain(&bytes).map_err(|why| self.wrong(&String::from_utf8_lossy(&bytes), why))?;
            drop(bytes);
            let kind = entry.header().entry_type();
            let sparse = kind.is_gnu_sparse()
                || (!kind.is_pax_global_extensions() && is_sparse(&mut entry).map_err(broken)?);
            if sparse {
                let why = "it was packed with tar --sparse, which no reader of images takes: pack it without";
                return Err(self.wrong(&name, why));
            }
            let found = match kind {
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
                    let target = joined(beside, &target).map_err(|why| self.wrong(&name, why))?;
                    held += target.len();
                    Found::Link(target)
                }
                _ => {
                    return Err(
                        self.wrong(&name, "it is a device, a pipe or the like, and no file")
                    );
                }
            };
            held += name.len();
            if held > MOST_NAMES {
                let most = MOST_NAMES >> 20;
                let why = format!("the names of its entries have more than {most} MiB together");
                return Err(self.wrong("", why));
            }
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
        // No entry has a name that leads out.
        let Ok(plain) = plain(name.as_bytes()) else {
            return Ok(None);
        };
        let mut at = &*plain;
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
    if bytes.len() > LONGEST_PATH {
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

/// What a link beside that directory leads to.
fn joined(beside: &Path, target: &[u8]) -> Result<String, &'static str> {
    if target.len() > LONGEST_PATH {
        return Err("it is a link to a name of more than 4096 bytes");
    }
    let target =
        std::str::from_utf8(target).map_err(|_| "it is a link to a name that is no UTF-8")?;
    let mut path = beside.to_owned();
    for component in Path::new(target).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return Err("it is a link out of the archive"),
        }
    }
    Ok(path.to_string_lossy().into_owned())
}

/// Whether GNU tar packed the entry as sparse in a PAX archive: its bytes are not the file's then.
fn is_sparse<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<bool> {
    let Some(records) = entry.pax_extensions()? else {
        return Ok(false);
    };
    // As elsewhere, a record that can't be read is none.
    let mut records = records.filter_map(Result::ok);
    Ok(records.any(|record| record.key_bytes().starts_with(b"GNU.sparse.")))
}

/// What is wrong with a header, without what the header holds: of a file that is no archive those are lines of its text.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let quoted = [": ", " when getting "];
    let end = quoted.iter().filter_map(|before| text.find(before)).min();
    text[..end.unwrap_or(text.len())].to_owned()
}

/// What Linux takes for a path, in bytes.
const LONGEST_PATH: usize = 4096;
const MOST_LINKS: usize = 8;
/// Of one entry, with all that extends it, in bytes.
const MOST_HEADERS: u64 = 2 << 20;

/// An image has some hundred layers at most, and an archive some hundred images.
const MOST_ENTRIES: usize = 100_000;
/// Of all entries, with where links lead, in bytes.
const MOST_NAMES: usize = 64 << 20;
