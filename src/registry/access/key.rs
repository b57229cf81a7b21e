//! A secret key of this registry: where it is kept, and the keyed hashes it makes.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use subtle::ConstantTimeEq as _;

/// At least 32 bytes that nobody else knows.
#[derive(Clone)]
pub struct Key {
    bytes: Vec<u8>,
    hmac: hmac::Key,
}

/// A keyed hash. Comparing takes the same time wherever two differ.
#[derive(Clone, Copy)]
pub(super) struct Tag([u8; 32]);

impl Key {
    /// One that ends with this process.
    pub fn random() -> Result<Self, KeyError> {
        Ok(Self::of(random::<KEY_BYTES>()?.to_vec()))
    }

    /// The key in `token.key` of the state directory, which is made on the first start and kept.
    pub fn kept_in(state: &Path) -> Result<Self, KeyError> {
        let path = state.join(FILE);
        if let Some(key) = Self::found(&path)? {
            return Ok(key);
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(|source| KeyError::io("create directory", state, source))?;
        let staged = state.join(format!(".{FILE}.{}", std::process::id()));
        let made = (|| {
            // What is there was left by a process that was killed.
            let _ = fs::remove_file(&staged);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&staged)?;
            file.write_all(&random::<KEY_BYTES>().map_err(io::Error::other)?)?;
            // Unlike a rename, a link never replaces: of two processes that start at once, both use the first one's.
            match fs::hard_link(&staged, &path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                Ok(()) | Err(_) => Ok(()),
            }
        })();
        let _ = fs::remove_file(&staged);
        made.map_err(|source| KeyError::io("write", &path, source))?;
        Self::found(&path)?
            .ok_or_else(|| KeyError::io("read", &path, io::Error::from(io::ErrorKind::NotFound)))
    }

    /// An operator's key, which several instances may share.
    pub fn in_file(path: &Path) -> Result<Self, KeyError> {
        Self::found(path)?.ok_or_else(|| KeyError::Absent(path.to_owned()))
    }

    /// The key in `path`, or `None` if there is no such file.
    fn found(path: &Path) -> Result<Option<Self>, KeyError> {
        let failed = |source| KeyError::io("read", path, source);
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o007 != 0 {
            log::warn!(
                "{0} can be read by other users, who can then act as any user of this registry: chmod 600 {0}",
                path.display()
            );
        }
        let mut bytes = Vec::new();
        file.take(KEY_LIMIT as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        match bytes.len() {
            KEY_BYTES..=KEY_LIMIT => Ok(Some(Self::of(bytes))),
            length => Err(KeyError::Length {
                path: path.to_owned(),
                length,
            }),
        }
    }

    fn of(bytes: Vec<u8>) -> Self {
        Self {
            hmac: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
            bytes,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A hash over the parts and where each ends.
    pub(super) fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut hmac = hmac::Context::with_key(&self.hmac);
        for part in parts {
            hmac.update(&(part.len() as u64).to_be_bytes());
            hmac.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac.sign().as_ref());
        Tag(tag)
    }
}

impl Tag {
    pub(super) fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl PartialEq for Tag {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// Compares texts in a time that tells nothing but their lengths.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// A password that no one guesses, of letters and digits alone.
pub(super) fn random_password() -> Result<String, KeyError> {
    Ok(hex(&random::<16>()?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| KeyError::Random)?;
    Ok(bytes)
}

/// There is no key to sign tokens with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("can't {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("there is no token key {}: make one for all instances to share, with openssl rand -out FILE {KEY_BYTES}", .0.display())]
    Absent(PathBuf),
    #[error(
        "{} holds {length} bytes and is no token key, which has {KEY_BYTES} to {KEY_LIMIT}: make one with openssl rand -out FILE {KEY_BYTES}",
        path.display()
    )]
    Length { path: PathBuf, length: usize },
    #[error("the system gives no random numbers")]
    Random,
}

impl KeyError {
    fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

const FILE: &str = "token.key";

/// What HMAC-SHA256 makes full use of.
const KEY_BYTES: usize = 32;

/// Whatever is longer was not meant as a key.
const KEY_LIMIT: usize = 4096;
