//! The data directory as its user sees it: what is in it, and whether it is sound.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use standin::types::{Algorithm, Digest, Hasher};

/// A data directory, read only.
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Every file's path and size, sorted, and the places of upload sessions. The lock is left out: it names a process.
    pub(crate) fn listing(&self) -> BTreeSet<String> {
        let mut listing = BTreeSet::new();
        self.walk(&self.root, &mut listing).unwrap();
        listing
    }

    /// What is visible through the registry, or will be: the listing but for upload sessions.
    pub(crate) fn visible(&self) -> BTreeSet<String> {
        let mut listing = self.listing();
        listing.retain(|entry| !entry.starts_with("uploads/"));
        listing
    }

    /// Whether content of this digest is here; that it is right is for `assert_sound`.
    pub(crate) fn holds(&self, digest: &str) -> bool {
        self.root.join(content(digest)).exists()
    }

    /// The part of the listing that lies below `directory`.
    pub(crate) fn below(&self, directory: &str) -> BTreeSet<String> {
        let mut listing = BTreeSet::new();
        match self.walk(&self.root.join(directory), &mut listing) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done.unwrap(),
        }
        listing
    }

    fn walk(&self, directory: &Path, listing: &mut BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let path = entry.path();
            let name = path.strip_prefix(&self.root).unwrap().to_str().unwrap();
            // A file may go away under a running server's hands.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                if directory == self.root.join("uploads") {
                    listing.insert(format!("{name}/"));
                }
                match self.walk(&path, listing) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    done => done?,
                }
            } else if name != "lock" {
                listing.insert(format!("{name} {}", metadata.len()));
            }
        }
        Ok(())
    }

    /// The digests of all blobs, each of which must hash to its name. A running server may evict one meanwhile.
    pub(crate) fn blobs(&self) -> BTreeSet<String> {
        let mut blobs = BTreeSet::new();
        for entry in self.listing() {
            let Some(path) = entry.strip_prefix("blobs/") else {
                continue;
            };
            let path = path.split(' ').next().unwrap();
            let parts: Vec<&str> = path.split('/').collect();
            let [algorithm, prefix, hex] = parts[..] else {
                panic!("blobs/{path} is no blob's place");
            };
            assert!(hex.len() >= 64 && hex.starts_with(prefix), "blobs/{path}");
            let file = self.root.join("blobs").join(path);
            let file = match fs::File::open(file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.unwrap(),
            };
            let digest = digest_of(algorithm.parse().unwrap(), file);
            assert_eq!(digest, format!("{algorithm}:{hex}"), "blobs/{path}");
            blobs.insert(digest);
        }
        blobs
    }

    /// Asserts what must hold after every start: blobs hash to their names, and nothing is left of what was under way.
    pub(crate) fn assert_sound(&self) {
        self.blobs();
        for entry in self.listing() {
            let known = entry.starts_with("blobs/")
                || entry.starts_with("owed/")
                || entry.starts_with("holders/")
                || entry.starts_with("version ")
                || (entry.starts_with("namespaces/")
                    && ["/_blobs/", "/_manifests/", "/_tags/", "/_referrers/"]
                        .iter()
                        .any(|kind| entry.contains(kind)));
            assert!(known, "{entry} is left over");
        }
    }
}

/// Where content of this digest lies in a data directory.
pub(crate) fn content(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').unwrap();
    format!("blobs/{algorithm}/{}/{hex}", &hex[..2])
}

/// Changes one bit of a file.
pub(crate) fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[7] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn digest_of(algorithm: Algorithm, mut file: fs::File) -> String {
    let mut hasher = Hasher::new(algorithm);
    let mut chunk = vec![0; 1 << 20];
    loop {
        let read = io::Read::read(&mut file, &mut chunk).unwrap();
        if read == 0 {
            let digest: Digest = hasher.finish();
            return digest.to_string();
        }
        hasher.update(&chunk[..read]);
    }
}
