//! Images carried from one place to another: seeding and exporting are the same walk with other ends.
//!
//! An [`Origin`] has images: a layout or an archive on disk, a registry. A [`Destination`] takes them: a registry, a layout
//! or an archive to be written. What lies between them knows neither: it walks from an image's root to all that it names,
//! children and blobs first, the image last, so that whatever ends it halfway leaves nothing visible that is not whole.
//!
//! Everything here blocks; nothing that an origin says is believed before it is verified.

mod compression;
mod copy;
mod docker;
mod files;
mod gzip;
mod hashing;
mod input;
mod layout;
mod local;
mod platform;
mod remote;
mod scratch;
mod seed;
mod served;
mod source;
mod stored;
mod tarball;
mod verified;
mod wanted;
mod written;

use std::{
    fs::File,
    io::{self, Read},
};

use bytes::Bytes;

use crate::types::{Descriptor, RepositoryName, Tag};

pub use copy::{Cancel, Choice, Copied, Observer, Pace, Walk};
pub use local::Local;
pub use platform::Platform;
pub use remote::{Access, Remote, RemoteImages};
pub use scratch::{Claim, Claims, temporary};
pub use seed::{Pulled, SeededImage, Seeder};
pub use served::Served;
pub use source::{Input, Layers, Seed, SeedName, Selector, Source};
pub use verified::Verified;
pub use wanted::{InvalidWanted, Wanted};
pub use written::{DockerWriter, LayoutWriter, Names, Target};

/// What an image is called, as far as its origin says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageName {
    /// As a client of ours would write it: `acme/app`, or `quay.io/acme/app`.
    pub repository: Option<RepositoryName>,
    pub tag: Option<Tag>,
}

impl ImageName {
    /// What an annotation or a list of names gives: `REPOSITORY[:TAG]`, or a tag alone. What is no name of ours is no name.
    pub(crate) fn lenient(text: &str) -> Self {
        // What podman and buildah call an image that is of no registry.
        let text = text.strip_prefix("localhost/").unwrap_or(text);
        if let Ok(tag) = text.parse() {
            return Self {
                repository: None,
                tag: Some(tag),
            };
        }
        match text.parse::<SeedName>() {
            Ok(name) => Self {
                repository: Some(name.repository),
                tag: name.tag,
            },
            Err(_) => Self::default(),
        }
    }
}

/// An image that an origin has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub name: ImageName,
    /// Its manifest or index.
    pub root: Descriptor,
}

/// Where images come from. Untrusted: sizes and digests are verified by whoever takes the bytes.
pub trait Origin: Send + Sync {
    /// All images, in the origin's own order.
    fn images(&self) -> Result<Vec<Image>, Error>;

    /// The bytes of a manifest that `image` is or names.
    fn manifest(&self, image: &Image, manifest: &Descriptor) -> Result<Bytes, Error>;

    /// The bytes of a blob that `image` names, from the first on.
    fn blob(&self, image: &Image, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error>;

    /// Fails if the origin lacks that blob. Asked where it is not read, since the destination has it.
    fn holds(&self, _image: &Image, _blob: &Descriptor) -> Result<(), Error> {
        Ok(())
    }

    /// What messages call that content: a file, or an archive and its entry.
    fn place(&self, content: &Descriptor) -> String {
        content.digest.to_string()
    }

    /// Whether an image that an index names is here, with all that it names itself. Asked only of origins whose indexes may
    /// name more than they have.
    fn has(&self, _manifest: &Descriptor) -> Result<bool, Error> {
        Ok(true)
    }

    /// Fails if the origin is no longer what it was when it was opened. Asked before an image becomes visible.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Opens a blob's bytes, from the first on, as often as they have to be sent.
pub type Open<'a> = dyn Fn() -> Result<Box<dyn Read + Send + 'a>, Error> + Sync + 'a;

/// Where images go. Each method may be called from several threads at once.
///
/// One that is dropped without [`finish`](Self::finish) takes back what nobody can see yet.
pub trait Destination: Send + Sync {
    /// Whether `blob` is there under `name`, or can be had there without sending it.
    fn has_blob(&self, name: &RepositoryName, blob: &Descriptor) -> Result<bool, Error>;

    /// Takes a blob whole, or leaves no trace of it: bytes that are not of its digest and size are refused
    /// ([`Verified`]). Opens the content anew where sending it has to begin anew.
    fn put_blob(
        &self,
        name: &RepositoryName,
        blob: &Descriptor,
        content: &Open<'_>,
    ) -> Result<(), Error>;

    /// A file without a name, for bytes that can't be sent yet. Nothing is left of it once it is closed.
    fn scratch(&self) -> io::Result<File> {
        scratch::unnamed(&temporary())
    }

    /// What tells an image's name there from others: one text for all spellings of one name, of which docker.io's have many.
    fn identity(&self, name: &RepositoryName) -> String {
        seed::docker_hub(name).to_owned()
    }

    /// Takes a manifest by its digest; all that it names has been put.
    fn put_manifest(
        &self,
        name: &RepositoryName,
        manifest: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error>;

    /// The commit of an image: takes its root and makes it visible under `tag`, or by its digest alone; all that it names
    /// has been put.
    fn put_image(
        &self,
        name: &RepositoryName,
        tag: Option<&Tag>,
        root: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error>;

    /// After the last image. An archive gets its final name here and not before.
    fn finish(&self) -> Result<(), Error>;
}

/// Why an image could not be carried: what was being read or written, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The origin is damaged, hostile or gone.
    #[error("can't read {place}: {why}")]
    Origin {
        /// A file, an entry of an archive, or a registry's name for it.
        place: String,
        why: String,
    },
    /// The destination does not take it.
    #[error("can't write {place}: {why}")]
    Destination { place: String, why: String },
    /// Somebody asked for the end.
    #[error("interrupted; images that were not finished are not there")]
    Interrupted,
}
