//! A registry over HTTP, at both ends: what is asked of it and sent to it. How that is done is `upstream`'s.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc as questions},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::{runtime::Runtime, sync::mpsc};

use super::{Destination, Error, Image, ImageName, Open, Origin, Verified, Wanted};
use crate::{
    types::{
        Algorithm, Descriptor, Digest, Manifest, Reference, RegistryHost, RepositoryName, Role,
        Tag, UpstreamUrl, manifest::MANIFEST_LIMIT,
    },
    upstream::{
        self, BlobPush, Cause, Effort, Keyring, Login, Options, Pace, Patience, Pieces, RemoteBlob,
        Settings, Trust, Upstreams,
    },
};

/// How a registry is reached: whom to trust, and as whom to come.
#[derive(Clone, Default)]
pub struct Access {
    pub trust: Trust,
    /// In place of what files of log-ins say.
    pub login: Option<Login>,
    /// Files of log-ins; `None` stands for the usual ones.
    pub authfiles: Option<Vec<PathBuf>>,
}

/// A registry. Cheap to clone.
#[derive(Clone)]
pub struct Remote(Arc<Parts>);

struct Parts {
    runtime: Runtime,
    upstreams: Upstreams,
    /// What `upstreams` knows it by.
    host: RegistryHost,
    url: UpstreamUrl,
    /// Where in it a blob is by now, since it was seen or put there.
    known: Mutex<HashMap<Digest, RepositoryName>>,
}

impl Remote {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The URL's host can't be a registry's, or threads can't be had.
    pub fn new(url: &UpstreamUrl, access: Access) -> Result<Self, Error> {
        let unusable = |why: String| Error::Destination {
            place: url.to_string(),
            why,
        };
        let authority = url.as_str().split("://").nth(1).unwrap_or_default();
        let authority = authority.split('/').next().unwrap_or_default();
        let host: RegistryHost = authority
            .parse()
            .map_err(|error| unusable(format!("{error}")))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("standin-transfer")
            .enable_all()
            .build()
            .map_err(|error| unusable(format!("threads can't be started: {error}")))?;
        let url = match host.is_docker_hub() {
            true => UpstreamUrl::of_host(&host),
            false => url.clone(),
        };
        let options = Options {
            trust: access.trust,
            login: access.login,
            ..Options::at(url.clone())
        };
        let keyring = match access.authfiles {
            Some(files) => Keyring::files(files),
            None => Keyring::usual(),
        };
        let upstreams = Upstreams::new(
            BTreeMap::from([(host.clone(), options)]),
            Settings {
                manifest_limit: MANIFEST_LIMIT,
                keyring,
                proxy: None,
                pace: Pace::default(),
                activity: Arc::default(),
            },
        );
        Ok(Self(Arc::new(Parts {
            runtime,
            upstreams,
            host,
            url,
            known: Mutex::default(),
        })))
    }

    /// These images of it, as an origin.
    pub fn images(&self, wanted: Vec<Wanted>) -> RemoteImages {
        RemoteImages {
            remote: self.clone(),
            wanted,
            roots: Mutex::default(),
        }
    }

    /// The repository that somebody means who may have written the registry's own host before it.
    fn own(&self, name: &RepositoryName) -> RepositoryName {
        match name.split_first() {
            Some((first, rest)) if first == self.0.host.component() => rest,
            _ => name.clone(),
        }
    }

    fn place(&self, name: &RepositoryName, what: &impl std::fmt::Display) -> String {
        format!("{what} of {name} at {}", self.0.url)
    }

    fn unread(
        &self,
        name: &RepositoryName,
        what: &impl std::fmt::Display,
        why: impl std::fmt::Display,
    ) -> Error {
        Error::Origin {
            place: self.place(name, what),
            why: why.to_string(),
        }
    }

    fn unwritten(
        &self,
        name: &RepositoryName,
        what: &impl std::fmt::Display,
        why: impl std::fmt::Display,
    ) -> Error {
        Error::Destination {
            place: self.place(name, what),
            why: why.to_string(),
        }
    }

    fn note(&self, digest: &Digest, name: &RepositoryName) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(digest.clone()).or_insert_with(|| name.clone());
    }

    fn fetch(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<upstream::FetchedManifest, Error> {
        let name = self.own(name);
        let asking = self.0.upstreams.get_manifest(
            &self.0.host,
            &name,
            reference,
            Effort::from(Patience::Full).explained(),
        );
        let what = format_args!("manifest {reference}");
        match self.0.runtime.block_on(asking) {
            Ok(Some(fetched)) => Ok(fetched),
            Ok(None) => Err(self.unread(&name, &what, "there is none there")),
            Err(error) => Err(self.unread(&name, &what, refused(error.cause))),
        }
    }

    fn push_manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        manifest: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let name = self.own(name);
        let declared = manifest.media_type.as_ref().map(|kind| kind.as_str());
        let kind = Manifest::pulled(bytes, declared).media_type;
        let pushing = self.0.upstreams.push_manifest(
            &self.0.host,
            &name,
            reference,
            (&manifest.digest, kind.as_str(), bytes),
        );
        let pushed = self.0.runtime.block_on(pushing);
        pushed.map_err(|error| {
            self.unwritten(&name, &format_args!("manifest {reference}"), error.cause)
        })
    }
}

impl Destination for Remote {
    fn has_blob(&self, name: &RepositoryName, blob: &Descriptor) -> Result<bool, Error> {
        let name = self.own(name);
        let what = format_args!("blob {}", blob.digest);
        let Parts {
            runtime,
            upstreams,
            host,
            known,
            ..
        } = &*self.0;
        let found = runtime.block_on(upstreams.find_pushed_blob(host, &name, &blob.digest));
        match found.map_err(|error| self.unwritten(&name, &what, error.cause))? {
            Some(size) if size.is_none_or(|size| size == blob.size) => {
                self.note(&blob.digest, &name);
                return Ok(true);
            }
            Some(_) => return Ok(false),
            None => {}
        }
        let elsewhere = {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known
                .get(&blob.digest)
                .filter(|from| **from != name)
                .cloned()
        };
        let Some(from) = elsewhere else {
            return Ok(false);
        };
        let push = BlobPush {
            name: &name,
            digest: &blob.digest,
            size: blob.size,
        };
        let mounted = runtime.block_on(upstreams.mount_blob(host, push, &from));
        mounted.map_err(|error| self.unwritten(&name, &what, error.cause))
    }

    fn put_blob(
        &self,
        name: &RepositoryName,
        blob: &Descriptor,
        content: &Open<'_>,
    ) -> Result<(), Error> {
        let name = self.own(name);
        let (ask, asked) = questions::channel();
        let sending = {
            let (remote, name, blob) = (self.clone(), name.clone(), blob.clone());
            self.0.runtime.spawn(async move {
                let Parts {
                    upstreams, host, ..
                } = &*remote.0;
                let push = BlobPush {
                    name: &name,
                    digest: &blob.digest,
                    size: blob.size,
                };
                // Whoever reads the content does so in the thread that has it.
                let open = || {
                    let (piece, pieces) = mpsc::channel(PIECES);
                    ask.send(piece).ok()?;
                    Some(received(pieces))
                };
                let pushed = upstreams.push_blob(host, push, open).await;
                // The last clone of a runtime must not end on a thread of its own.
                drop(ask);
                pushed
            })
        };
        let mut unread = None;
        for pieces in &asked {
            if let Err(error) = pump(content, blob, &pieces) {
                // There is no other try: what can't be read now can't be read again.
                unread = Some(error);
                break;
            }
        }
        drop(asked);
        let pushed = self.0.runtime.block_on(sending);
        if let Some(error) = unread {
            return Err(error);
        }
        let what = format_args!("blob {}", blob.digest);
        match pushed {
            Ok(Ok(())) => {
                self.note(&blob.digest, &name);
                Ok(())
            }
            Ok(Err(error)) => Err(self.unwritten(&name, &what, error.cause)),
            Err(ended) => Err(self.unwritten(&name, &what, ended)),
        }
    }

    fn put_manifest(
        &self,
        name: &RepositoryName,
        manifest: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let reference = Reference::Digest(manifest.digest.clone());
        self.push_manifest(name, &reference, manifest, bytes)
    }

    fn put_image(
        &self,
        name: &RepositoryName,
        tag: Option<&Tag>,
        root: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let by_digest = || Reference::Digest(root.digest.clone());
        let reference = tag.cloned().map_or_else(by_digest, Reference::Tag);
        self.push_manifest(name, &reference, root, bytes)
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Registries do not tell strangers what they lack. Credentials are a flag's here.
fn refused(cause: Cause) -> Cause {
    match cause {
        Cause::Unauthorized(status) => Cause::Denied {
            status,
            message: Some("it may not exist there".to_owned()),
        },
        other => other,
    }
}

fn received(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Pieces {
    stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((piece, pieces))
    })
    .boxed()
}

/// Sends the content into `pieces`, for as long as somebody wants them.
///
/// # Errors
/// The content can't be read, or is not what it should be.
fn pump(
    content: &Open<'_>,
    blob: &Descriptor,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), Error> {
    let mut content = Verified::new(content()?, blob);
    loop {
        let mut piece = vec![0; PIECE];
        match content.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                piece.truncate(count);
                if pieces.blocking_send(Ok(piece.into())).is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                let why = error.to_string();
                let _ = pieces.blocking_send(Err(error));
                return Err(Error::Origin {
                    place: format!("blob {}", blob.digest),
                    why,
                });
            }
        }
    }
}

/// Some images of a registry.
pub struct RemoteImages {
    remote: Remote,
    wanted: Vec<Wanted>,
    /// Manifests that were fetched to find out what is wanted.
    roots: Mutex<HashMap<Digest, Bytes>>,
}

impl RemoteImages {
    fn repository<'a>(&self, image: &'a Image) -> Result<&'a RepositoryName, Error> {
        let name = image.name.repository.as_ref();
        name.ok_or_else(|| Error::Origin {
            place: self.remote.0.url.to_string(),
            why: "an image without a name can't be asked for".to_owned(),
        })
    }
}

impl Origin for RemoteImages {
    fn images(&self) -> Result<Vec<Image>, Error> {
        let image = |wanted: &Wanted| {
            let latest = || {
                self.remote
                    .unread(&wanted.name, wanted, "it has neither tag nor digest")
            };
            let reference = wanted.reference().ok_or_else(latest)?;
            let fetched = self.remote.fetch(&wanted.name, &reference)?;
            let algorithm = match &wanted.digest {
                Some(digest) => digest.algorithm(),
                None => fetched
                    .digest
                    .as_ref()
                    .map_or(Algorithm::Sha256, Digest::algorithm),
            };
            let digest = Digest::of(algorithm, &fetched.bytes);
            let promised = wanted.digest.as_ref().or(fetched.digest.as_ref());
            if let Some(promised) = promised.filter(|promised| **promised != digest) {
                let why = Cause::DigestMismatch {
                    wanted: promised.clone(),
                    found: digest,
                };
                return Err(self.remote.unread(&wanted.name, wanted, why));
            }
            let declared = fetched.content_type.as_deref();
            let kind = Manifest::pulled(&fetched.bytes, declared).media_type;
            let root = Descriptor {
                size: fetched.bytes.len() as u64,
                media_type: Some(kind),
                role: Role::Manifest,
                digest: digest.clone(),
            };
            let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
            roots.insert(digest, fetched.bytes);
            Ok(Image {
                name: ImageName {
                    repository: Some(self.remote.own(&wanted.name)),
                    tag: wanted.tag.clone(),
                },
                root,
            })
        };
        self.wanted.iter().map(image).collect()
    }

    fn manifest(&self, image: &Image, manifest: &Descriptor) -> Result<Bytes, Error> {
        let known = {
            let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
            roots.get(&manifest.digest).cloned()
        };
        if let Some(bytes) = known {
            return Ok(bytes);
        }
        let reference = Reference::Digest(manifest.digest.clone());
        let fetched = self.remote.fetch(self.repository(image)?, &reference)?;
        Ok(fetched.bytes)
    }

    fn blob(&self, image: &Image, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        let name = self.remote.own(self.repository(image)?);
        let mut reading = Reading {
            remote: &self.remote,
            name,
            digest: blob.digest.clone(),
            body: None,
            piece: Bytes::new(),
            offset: 0,
            size: blob.size,
            broken: 0,
        };
        reading.resume().map_err(|why| {
            let what = format_args!("blob {}", blob.digest);
            self.remote.unread(&reading.name, &what, why)
        })?;
        self.remote.note(&blob.digest, &reading.name);
        Ok(Box::new(reading))
    }
}

/// A blob as it comes; a body that breaks off is gone on with.
struct Reading<'a> {
    remote: &'a Remote,
    name: RepositoryName,
    digest: Digest,
    body: Option<RemoteBlob>,
    piece: Bytes,
    offset: u64,
    size: u64,
    broken: u32,
}

impl Reading<'_> {
    fn resume(&mut self) -> Result<(), Cause> {
        let Parts {
            runtime,
            upstreams,
            host,
            ..
        } = &*self.remote.0;
        let effort = Effort::from(Patience::Full).explained();
        let asking = upstreams.get_blob(host, &self.name, &self.digest, self.offset, effort);
        match runtime.block_on(asking) {
            Ok(Some(body)) => {
                self.body = Some(body);
                Ok(())
            }
            Ok(None) => Err(Cause::Status(404)),
            Err(error) => Err(error.cause),
        }
    }
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(blob) = &mut self.body else {
                return Ok(0);
            };
            match self.remote.0.runtime.block_on(blob.body.next()) {
                Some(Ok(piece)) => self.piece = piece,
                None => self.body = None,
                Some(Err(error)) => {
                    self.broken += 1;
                    let resumable = error.cause.is_resumable() && self.broken <= RESUMED;
                    if !resumable || self.offset >= self.size {
                        return Err(io::Error::other(error.cause));
                    }
                    log::info!("{error}; {} goes on at byte {}", self.digest, self.offset);
                    self.resume().map_err(io::Error::other)?;
                }
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        self.offset += count as u64;
        Ok(count)
    }
}

/// Bytes that are sent at once.
const PIECE: usize = 256 << 10;

/// Pieces that are read ahead.
const PIECES: usize = 4;

/// How often a body may break off.
const RESUMED: u32 = 8;
