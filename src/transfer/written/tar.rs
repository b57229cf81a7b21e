//! Tar archives that depend on their content alone: no times, no owners, and headers of the plainest kind that can hold
//! the entry (ustar; pax only for what that can't).
//!
//! <https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13>

use std::io::{self, Read, Write};

/// Writes entries one behind the other, in the order that they come.
pub(super) struct Archive<W> {
    out: W,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    /// `name` ends without a slash.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.header(&format!("{name}/"), Kind::Directory, 0)
    }

    /// # Errors
    /// Also if `content` has not exactly `size` bytes.
    pub(super) fn file(&mut self, name: &str, size: u64, mut content: impl Read) -> io::Result<()> {
        self.header(name, Kind::File, size)?;
        let mut buffer = vec![0; PIECE];
        let mut left = size;
        while left > 0 {
            let most = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match content.read(&mut buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{name} has become shorter"),
                ));
            }
            self.out.write_all(&buffer[..count])?;
            left -= count as u64;
        }
        self.pad(size)
    }

    /// Without this the archive has no end.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, name: &str, kind: Kind, size: u64) -> io::Result<()> {
        let mut records = String::new();
        if name.len() > NAME {
            records += &record("path", name);
        }
        if size > LARGEST {
            records += &record("size", &size.to_string());
        }
        if !records.is_empty() {
            let length = records.len() as u64;
            self.out.write_all(&block("pax", Kind::Extended, length))?;
            self.out.write_all(records.as_bytes())?;
            self.pad(length)?;
        }
        self.out.write_all(&block(name, kind, size))
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let beyond = (size % BLOCK as u64) as usize;
        match beyond {
            0 => Ok(()),
            beyond => self.out.write_all(&[0; BLOCK][beyond..]),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Extended,
}

/// A header; what does not fit is cut short, for a pax record before it says it.
fn block(name: &str, kind: Kind, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    let cut = name.len().min(NAME);
    put(0, &name[..cut]);
    put(
        100,
        if kind == Kind::Directory {
            "0000755"
        } else {
            "0000644"
        },
    );
    put(108, "0000000");
    put(116, "0000000");
    let size = if size > LARGEST { 0 } else { size };
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(
        156,
        match kind {
            Kind::File => "0",
            Kind::Directory => "5",
            Kind::Extended => "x",
        },
    );
    put(257, "ustar\0");
    put(263, "00");
    put(329, "0000000");
    put(337, "0000000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// `LENGTH KEY=VALUE\n`, whose length counts itself.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

const BLOCK: usize = 512;
const PIECE: usize = 256 << 10;

/// Bytes of a name that a plain header holds.
const NAME: usize = 100;

/// Size of a file that a plain header holds, eleven octal digits.
const LARGEST: u64 = 0o77_777_777_777;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn records_count_themselves() {
        assert_eq!(record("size", "1"), "9 size=1\n");
        for length in [1, 85, 86, 87, 88, 89, 90, 985, 990, 1000] {
            let record = record("path", &"x".repeat(length));
            let told: usize = record.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(told, record.len());
        }
    }

    #[test]
    fn what_is_written_other_programs_read() {
        let long = format!("blobs/sha512/{}", "a".repeat(128));
        let mut archive = Archive::new(Vec::new());
        archive.directory("blobs").unwrap();
        archive.file("blobs/empty", 0, io::empty()).unwrap();
        archive.file(&long, 5, &b"12345"[..]).unwrap();
        archive.file("x", 512, &[7; 512][..]).unwrap();
        let bytes = archive.finish().unwrap();
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("a.tar");
        std::fs::write(&file, bytes).unwrap();
        let told = Command::new("tar").arg("tvf").arg(&file).output().unwrap();
        assert!(told.status.success() && told.stderr.is_empty(), "{told:?}");
        let told = String::from_utf8(told.stdout).unwrap();
        let lines: Vec<Vec<&str>> = told
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let names: Vec<&str> = lines.iter().map(|line| line[5]).collect();
        assert_eq!(names, ["blobs/", "blobs/empty", &long, "x"]);
        for line in lines {
            assert_eq!((line[1], line[3]), ("0/0", "1970-01-01"));
        }
    }

    #[test]
    fn a_file_of_more_than_eight_gibibytes_has_its_size() {
        let mut archive = Archive::new(Vec::new());
        archive.header("big", Kind::File, LARGEST + 1).unwrap();
        let text = String::from_utf8_lossy(&archive.out).into_owned();
        assert!(text.contains("19 size=8589934592\n"), "{text}");
        let mut archive = Archive::new(Vec::new());
        archive.header("large", Kind::File, LARGEST).unwrap();
        assert_eq!(archive.out.len(), BLOCK);
    }

    #[test]
    fn content_that_ends_early_is_an_error() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.file("x", 6, &b"12345"[..]).is_err());
    }
}
