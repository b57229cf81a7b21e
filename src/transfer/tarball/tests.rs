//! Archives that are right, hostile or none.

#![allow(clippy::unwrap_used)]

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
    for name in ["index.json", "./index.json", ".//index.json"] {
        assert!(tarball.open(name).unwrap().is_some(), "{name}");
        assert!(tarball.behind(name).unwrap().is_some(), "{name}");
    }
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

/// An entry behind what extends its header: a GNU `K` or a PAX record.
fn extended(entries: &[(&str, tar::EntryType, Extension<'_>)]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("images.tar");
    let mut builder = tar::Builder::new(File::create(&path).unwrap());
    for (name, kind, extension) in entries {
        match extension {
            Extension::Gnu(target) => {
                let mut long = tar::Header::new_gnu();
                long.set_path("././@LongLink").unwrap();
                long.set_entry_type(tar::EntryType::GNULongLink);
                long.set_size(target.len() as u64);
                long.set_cksum();
                builder.append(&long, target.as_bytes()).unwrap();
            }
            Extension::Pax(key, value) => {
                let record = [(*key, value.as_bytes())];
                builder.append_pax_extensions(record).unwrap();
            }
        }
        builder
            .append(&header(name, *kind, 0), io::empty())
            .unwrap();
    }
    builder.finish().unwrap();
    (directory, path)
}

enum Extension<'a> {
    Gnu(&'a str),
    Pax(&'a str, &'a str),
}

#[test]
fn names_and_targets_are_as_long_as_paths_and_bounded_together() {
    use tar::EntryType::{Link, Regular, Symlink};
    let (right, long) = ("x/".repeat(2048), "x".repeat(4097));
    for kind in [Link, Symlink] {
        for (target, taken) in [(&right, true), (&long, false)] {
            for extension in [Extension::Gnu(target), Extension::Pax("linkpath", target)] {
                let (_directory, path) = extended(&[("link", kind, extension)]);
                match taken {
                    true => assert!(opened(&path).is_ok()),
                    false => {
                        let refused = refusal(&path);
                        assert!(refused.contains("link in ") && refused.contains("4096 bytes"));
                        assert!(refused.len() < 1000, "{refused}");
                    }
                }
            }
        }
    }
    // Names of some and targets of others, each well within its own bound.
    let texts: Vec<(String, String)> = (0..17_000)
        .map(|nth| (format!("{nth}"), format!("{nth:04000}")))
        .collect();
    let entry = |(nth, (name, long)): (usize, &'_ (String, String))| match nth % 2 {
        0 => (name.clone(), Link, ("linkpath", long.clone())),
        _ => (name.clone(), Regular, ("path", long.clone())),
    };
    for (count, taken) in [(1000, true), (17_000, false)] {
        let entries: Vec<_> = texts[..count].iter().enumerate().map(entry).collect();
        let entries: Vec<_> = entries
            .iter()
            .map(|(name, kind, (key, long))| (&**name, *kind, Extension::Pax(key, long)))
            .collect();
        let (_directory, path) = extended(&entries);
        match taken {
            true => assert!(opened(&path).is_ok()),
            false => assert!(refusal(&path).contains("64 MiB together")),
        }
    }
}

#[test]
fn sparse_entries_are_told_as_such_whatever_the_format() {
    for key in ["GNU.sparse.major", "GNU.sparse.size"] {
        let kind = tar::EntryType::Regular;
        let (_directory, path) = extended(&[("layer.tar", kind, Extension::Pax(key, "1"))]);
        let refused = refusal(&path);
        assert!(refused.contains("layer.tar in "), "{refused}");
        assert!(refused.contains("tar --sparse"), "{refused}");
    }
}

#[test]
fn what_a_file_holds_that_is_no_archive_is_not_told() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("LICENSE");
    let license = "Apache License\nVersion 2.0, January 2004\nand nothing secret\n".repeat(90);
    std::fs::write(&path, license).unwrap();
    let refused = refusal(&path);
    assert!(
        refused.contains("LICENSE: it is no tar archive"),
        "{refused}"
    );
    for told in ["\n", "Apache", "2004", "secret", "Version"] {
        assert!(!refused.contains(told), "{refused}");
    }
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
