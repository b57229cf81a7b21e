//! The walk from an image's root to all that it names, and the order in which that is put: blobs side by side, then
//! manifests, children before parents, and the root with its tag last.
//!
//! Whatever ends it, what is visible is whole: all blobs are there before the first manifest is.

mod choice;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    io::{self, Read},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;

use super::{Destination, Error, Image, Open, Origin, Verified};
use crate::types::{Descriptor, Digest, Manifest, RepositoryName, Role, Tag};

pub use choice::Choice;

/// Asks whatever is being carried to stop. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Is told what happens, for whoever waits. Called from several threads.
pub trait Observer: Send + Sync {
    /// An image's turn has come.
    fn begins(&self, _name: &RepositoryName, _tag: Option<&Tag>) {}

    /// So many bytes more are about to be sent.
    fn expects(&self, _bytes: u64) {}

    /// So many bytes more were read for being sent.
    fn sends(&self, _bytes: u64) {}

    /// It is there, or its turn has ended otherwise.
    fn ends(&self) {}
}

/// Nobody waits.
impl Observer for () {}

/// How images are carried.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Blobs sent at once.
    pub jobs: NonZeroUsize,
    /// Bytes of a manifest, at most.
    pub manifest_limit: usize,
    pub cancel: Cancel,
}

impl Pace {
    /// As many at once as there are processors, within reason.
    pub fn usual(manifest_limit: usize) -> Self {
        const MOST: usize = 8;
        let processors = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        Self {
            jobs: NonZeroUsize::new(processors.clamp(2, MOST)).unwrap_or(NonZeroUsize::MIN),
            manifest_limit,
            cancel: Cancel::default(),
        }
    }
}

/// An image that is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The root's; where one platform of an index was chosen, that child's.
    pub digest: Digest,
    /// Blobs that were sent, and their bytes; those that were there already are not among them.
    pub blobs: usize,
    pub bytes: u64,
}

/// One origin, one destination.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    pub origin: &'a dyn Origin,
    pub destination: &'a dyn Destination,
    pub observer: &'a dyn Observer,
    pub pace: &'a Pace,
}

impl Walk<'_> {
    /// Carries what `choice` means of `image`, and makes it visible as `name` under each of `tags`; without tags by its
    /// digest alone.
    ///
    /// # Errors
    /// The first failure; nothing of the image is visible then, but children that are whole, and tags put before.
    pub fn copy(
        &self,
        image: &Image,
        choice: &Choice,
        name: &RepositoryName,
        tags: &[Tag],
    ) -> Result<Copied, Error> {
        self.copy_telling(image, choice, name, tags, &mut |_, _| {})
    }

    /// [Copies](Self::copy); `visible` hears of each tag once it is, also if a later one fails.
    pub fn copy_telling(
        &self,
        image: &Image,
        choice: &Choice,
        name: &RepositoryName,
        tags: &[Tag],
        visible: &mut dyn FnMut(&Tag, &Copied),
    ) -> Result<Copied, Error> {
        self.observer.begins(name, tags.first());
        let copied = self.carry(image, choice, name, tags, visible);
        self.observer.ends();
        match copied {
            Err(_) if self.pace.cancel.is_cancelled() => Err(Error::Interrupted),
            // Damage that comes of a change is told as what it is.
            Err(error @ Error::Origin { .. }) => Err(self.origin.check().err().unwrap_or(error)),
            other => other,
        }
    }

    /// Reads all that `choice` means of `image`, and keeps nothing: an origin that fetches what it is asked for has it then.
    pub fn fetch(&self, image: &Image, choice: &Choice) -> Result<(), Error> {
        let reading = Self {
            destination: &Reader,
            ..*self
        };
        let name = match &image.name.repository {
            Some(name) => name,
            None => return Ok(()),
        };
        reading.copy(image, choice, name, &[]).map(drop)
    }

    fn carry(
        &self,
        image: &Image,
        choice: &Choice,
        name: &RepositoryName,
        tags: &[Tag],
        visible: &mut dyn FnMut(&Tag, &Copied),
    ) -> Result<Copied, Error> {
        let mut tree = Tree::default();
        let root = self.choose(image, choice, &mut tree)?;
        self.gather(image, name, &root, 0, &mut tree)?;
        self.origin.check()?;
        // The root is gathered last.
        tree.manifests.pop();
        for child in &tree.manifests {
            self.go_on()?;
            let bytes = self.bytes(image, child)?;
            self.destination.put_manifest(name, child, &bytes)?;
        }
        let bytes = self.bytes(image, &root)?;
        self.go_on()?;
        if tags.is_empty() {
            self.destination.put_image(name, None, &root, &bytes)?;
        }
        let copied = Copied {
            digest: root.digest.clone(),
            blobs: tree.sent,
            bytes: tree.bytes,
        };
        for tag in tags {
            self.go_on()?;
            self.destination.put_image(name, Some(tag), &root, &bytes)?;
            visible(tag, &copied);
        }
        Ok(copied)
    }

    /// Sends the blobs of the manifest and of all below it.
    fn gather(
        &self,
        image: &Image,
        name: &RepositoryName,
        descriptor: &Descriptor,
        depth: usize,
        tree: &mut Tree,
    ) -> Result<(), Error> {
        const DEEPEST: usize = 8;
        if !tree.seen.insert(descriptor.digest.clone()) {
            return Ok(());
        }
        if depth > DEEPEST {
            return Err(self.wrong(descriptor, "indexes are nested too deeply".to_owned()));
        }
        self.go_on()?;
        let manifest = self.parse(descriptor, &self.bytes(image, descriptor)?)?;
        let mut blobs = Vec::new();
        for reference in manifest.references {
            if tree.left_out.contains(&reference.digest) {
                continue;
            }
            match reference.role {
                Role::NonDistributable => {}
                Role::Manifest => self.gather(image, name, &reference, depth + 1, tree)?,
                Role::Blob => {
                    if tree.seen.insert(reference.digest.clone()) {
                        blobs.push(reference);
                    }
                }
            }
        }
        let (sent, bytes) = self.send(image, name, &blobs)?;
        tree.sent += sent;
        tree.bytes += bytes;
        tree.manifests.push(descriptor.clone());
        Ok(())
    }

    /// Sends the blobs that are not there, several at once; how many, and how many bytes. The first error stops all.
    fn send(
        &self,
        image: &Image,
        name: &RepositoryName,
        blobs: &[Descriptor],
    ) -> Result<(usize, u64), Error> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let outcome = Mutex::new(Ok((0, 0)));
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                let content = || self.origin.blob(image, blob);
                let sent = self
                    .origin
                    .holds(image, blob)
                    .and_then(|()| self.send_one(name, blob, &content, &stop));
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *outcome, sent) {
                    (Ok((sent, bytes)), Ok(true)) => {
                        *sent += 1;
                        *bytes += blob.size;
                    }
                    (Ok(_), Err(error)) => {
                        *outcome = Err(error);
                        stop.store(true, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
        };
        let threads = self.pace.jobs.get().min(blobs.len());
        if threads > 1 {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(work);
                }
            });
        } else {
            work();
        }
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a blob while it is at hand, before the image that names it; whether it had to be sent.
    pub fn send_ahead(
        &self,
        name: &RepositoryName,
        blob: &Descriptor,
        content: &Open<'_>,
    ) -> Result<bool, Error> {
        // Whoever has it at hand tells of what is read for it.
        let unobserved = Self {
            observer: &(),
            ..*self
        };
        unobserved.send_one(name, blob, content, &AtomicBool::new(false))
    }

    /// Whether it had to be sent.
    fn send_one(
        &self,
        name: &RepositoryName,
        blob: &Descriptor,
        content: &Open<'_>,
        stop: &AtomicBool,
    ) -> Result<bool, Error> {
        self.go_on()?;
        if self.destination.has_blob(name, blob)? {
            return Ok(false);
        }
        self.observer.expects(blob.size);
        let fault = Mutex::new(None);
        let open = || {
            let content: Box<dyn Read + Send> = Box::new(Watched {
                content: content()?,
                walk: self,
                stop,
                fault: &fault,
            });
            Ok(content)
        };
        match self.destination.put_blob(name, blob, &open) {
            Ok(()) => Ok(true),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                let fault = fault.into_inner().unwrap_or_else(PoisonError::into_inner);
                if let Some(why) = fault {
                    return Err(self.wrong(blob, why));
                }
                // In the destination's words it has no file's name.
                if let Error::Origin { why, .. } = error {
                    return Err(self.wrong(blob, why));
                }
                // Whose fault is it? A destination refuses bytes of another digest in words of its own.
                match self.reread(blob, content, stop) {
                    Err(why) => Err(self.wrong(blob, why.to_string())),
                    Ok(()) => Err(error),
                }
            }
        }
    }

    /// Fails if the origin's blob is not what its descriptor says.
    fn reread(&self, blob: &Descriptor, content: &Open<'_>, stop: &AtomicBool) -> io::Result<()> {
        let mut content = Verified::new(content().map_err(io::Error::other)?, blob);
        let mut buffer = vec![0; 256 << 10];
        while !stop.load(Ordering::Relaxed) && !self.pace.cancel.is_cancelled() {
            if content.read(&mut buffer)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// A manifest's bytes, which are what the descriptor says.
    fn bytes(&self, image: &Image, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let limit = self.pace.manifest_limit;
        if descriptor.size > limit as u64 {
            let why = format!(
                "it has {} bytes, and a manifest has {limit} at most",
                descriptor.size
            );
            return Err(self.wrong(descriptor, why));
        }
        let bytes = self.origin.manifest(image, descriptor)?;
        let found = Digest::of(descriptor.digest.algorithm(), &bytes);
        if found != descriptor.digest {
            let why = format!("its bytes have digest {found}, not {}", descriptor.digest);
            return Err(self.wrong(descriptor, why));
        }
        if bytes.len() as u64 != descriptor.size {
            let why = format!(
                "it has {} bytes, and what names it says {}",
                bytes.len(),
                descriptor.size
            );
            return Err(self.wrong(descriptor, why));
        }
        Ok(bytes)
    }

    fn parse(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<Manifest, Error> {
        let media_type = descriptor.media_type.as_ref();
        Manifest::pushed(bytes, media_type.map(|media_type| media_type.as_str()))
            .map_err(|error| self.wrong(descriptor, error.to_string()))
    }

    fn wrong(&self, content: &Descriptor, why: String) -> Error {
        Error::Origin {
            place: self.origin.place(content),
            why,
        }
    }

    fn go_on(&self) -> Result<(), Error> {
        match self.pace.cancel.is_cancelled() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }
}

/// Takes everything, and keeps nothing.
struct Reader;

impl Destination for Reader {
    fn has_blob(&self, _: &RepositoryName, _: &Descriptor) -> Result<bool, Error> {
        Ok(false)
    }

    fn put_blob(
        &self,
        _: &RepositoryName,
        blob: &Descriptor,
        content: &Open<'_>,
    ) -> Result<(), Error> {
        let read = io::copy(&mut Verified::new(content()?, blob), &mut io::sink());
        read.map(drop).map_err(|error| Error::Origin {
            place: blob.digest.to_string(),
            why: error.to_string(),
        })
    }

    fn put_manifest(&self, _: &RepositoryName, _: &Descriptor, _: &Bytes) -> Result<(), Error> {
        Ok(())
    }

    fn put_image(
        &self,
        _: &RepositoryName,
        _: Option<&Tag>,
        _: &Descriptor,
        _: &Bytes,
    ) -> Result<(), Error> {
        Ok(())
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// What the walk has seen of one image.
#[derive(Default)]
struct Tree {
    /// Children before parents.
    manifests: Vec<Descriptor>,
    seen: HashSet<Digest>,
    left_out: HashSet<Digest>,
    sent: usize,
    bytes: u64,
}

/// A blob on its way: counted, ended early when all is to end, and its own failures kept apart from the destination's.
struct Watched<'a> {
    content: Box<dyn Read + Send + 'a>,
    walk: &'a Walk<'a>,
    stop: &'a AtomicBool,
    fault: &'a Mutex<Option<String>>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) || self.walk.pace.cancel.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        match self.content.read(buffer) {
            Ok(count) => {
                self.walk.observer.sends(count as u64);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
                *fault = Some(format!("it can't be read: {error}"));
                Err(error)
            }
        }
    }
}
