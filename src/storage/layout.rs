//! Where everything lies: every key as a function of the types, and the layout's version.
//!
//! ```text
//! <data>/version                                       the layout's number
//!       /lock                                          pid of the standin that uses the directory
//!       /blobs/<alg>/<2 hex>/<hex>                      content, immutable, stored once
//!       /uploads/<uuid>                                one private place per upload session, fill or record being written
//!       /owed/<uuid>                                   content accepted on an upstream's word, still to be fetched
//!       /holders/<alg>-<hex>/<hash of a name>          a repository that may serve the content
//!       /namespaces/_local/<source>/<repository>/…     what was pushed or seeded here, under its canonical name
//!       /namespaces/<source>/<repository>/…            what was pulled through
//!
//! <repository>/_blobs/<alg>-<hex>/pushed               member: it was pushed (or mounted) here
//!                                /pulled               member: its source served it when asked by digest alone
//!                                /<alg>-<hex>          member: the manifest of this digest names it
//!             /_manifests/<alg>-<hex>                  a manifest held here: its type and size
//!             /_tags/<tag>                             the digest a tag names
//!             /_referrers/<alg>-<hex>/<alg>-<hex>      a manifest that is about another one
//! ```
//!
//! Components of ours begin with `_`, which no component of a repository name can. A port is spelled `HOST_PORT`.
//! Nothing in here is an absolute path: the directory may be moved.

use std::fmt;

use crate::types::{Algorithm, CanonicalName, Digest, Namespace, Tag, UploadId};

/// The layout described above. A directory with a higher number is refused, never guessed at.
pub(super) const VERSION: u32 = 1;

/// A relative path with `/` between its components, built only here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key(String);

impl Key {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// What it lies directly below; `None` for what lies in the data directory itself.
    pub(super) fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        Some(Self(parent.to_owned()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a repository may serve content; one key each, so that what one reason gave another does not take away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was pushed here.
    Pushed,
    /// The source served it under this name when it was asked for by digest alone.
    Pulled,
    /// The manifest of this digest, held here, names it.
    Named(Digest),
}

impl Reason {
    pub(super) fn parse(component: &str) -> Option<Self> {
        match component {
            "pushed" => Some(Self::Pushed),
            "pulled" => Some(Self::Pulled),
            digest => parse_digest(digest).map(Self::Named),
        }
    }

    fn component(&self) -> String {
        match self {
            Self::Pushed => "pushed".to_owned(),
            Self::Pulled => "pulled".to_owned(),
            Self::Named(digest) => digest_component(digest),
        }
    }
}

/// The data directory itself.
pub(super) fn root() -> Key {
    Key(String::new())
}

/// `name` is one that a listing gave.
pub(super) fn below(prefix: &Key, name: &str) -> Key {
    match prefix.0.is_empty() {
        true => Key(name.to_owned()),
        false => Key(format!("{prefix}/{name}")),
    }
}

pub(super) fn quarantine() -> Key {
    Key("quarantine".to_owned())
}

/// Where the repair of that number puts what it finds at `key`.
pub(super) fn quarantined(repair: u64, key: &Key) -> Key {
    Key(format!("quarantine/{repair}/{key}"))
}

pub(super) fn version() -> Key {
    Key("version".to_owned())
}

pub(super) fn content(digest: &Digest) -> Key {
    let hex = digest.hex();
    Key(format!("blobs/{}/{}/{hex}", digest.algorithm(), &hex[..2]))
}

/// All content of one algorithm.
pub(super) fn contents(algorithm: Algorithm) -> Key {
    Key(format!("blobs/{algorithm}"))
}

/// `fan` is a name that a listing gave.
pub(super) fn contents_below(algorithm: Algorithm, fan: &str) -> Key {
    Key(format!("blobs/{algorithm}/{fan}"))
}

pub(super) fn uploads() -> Key {
    Key("uploads".to_owned())
}

pub(super) fn upload(id: UploadId) -> Key {
    Key(format!("uploads/{id}"))
}

pub(super) fn all_owed() -> Key {
    Key("owed".to_owned())
}

pub(super) fn owed(id: UploadId) -> Key {
    Key(format!("owed/{id}"))
}

pub(super) fn members(namespace: Namespace, name: &CanonicalName) -> Key {
    Key(format!("{}/_blobs", repository(namespace, name)))
}

pub(super) fn member_reasons(namespace: Namespace, name: &CanonicalName, digest: &Digest) -> Key {
    Key(format!(
        "{}/_blobs/{}",
        repository(namespace, name),
        digest_component(digest)
    ))
}

pub(super) fn member(
    namespace: Namespace,
    name: &CanonicalName,
    digest: &Digest,
    reason: &Reason,
) -> Key {
    Key(format!(
        "{}/_blobs/{}/{}",
        repository(namespace, name),
        digest_component(digest),
        reason.component()
    ))
}

pub(super) fn manifests(namespace: Namespace, name: &CanonicalName) -> Key {
    Key(format!("{}/_manifests", repository(namespace, name)))
}

pub(super) fn manifest(namespace: Namespace, name: &CanonicalName, digest: &Digest) -> Key {
    Key(format!(
        "{}/_manifests/{}",
        repository(namespace, name),
        digest_component(digest)
    ))
}

pub(super) fn tags(namespace: Namespace, name: &CanonicalName) -> Key {
    Key(format!("{}/_tags", repository(namespace, name)))
}

pub(super) fn tag(namespace: Namespace, name: &CanonicalName, tag: &Tag) -> Key {
    Key(format!("{}/_tags/{tag}", repository(namespace, name)))
}

pub(super) fn referrers(namespace: Namespace, name: &CanonicalName, subject: &Digest) -> Key {
    Key(format!(
        "{}/_referrers/{}",
        repository(namespace, name),
        digest_component(subject)
    ))
}

pub(super) fn referrer(
    namespace: Namespace,
    name: &CanonicalName,
    subject: &Digest,
    manifest: &Digest,
) -> Key {
    let referrers = referrers(namespace, name, subject);
    Key(format!("{referrers}/{}", digest_component(manifest)))
}

pub(super) fn all_holders() -> Key {
    Key("holders".to_owned())
}

pub(super) fn holders(digest: &Digest) -> Key {
    below(&all_holders(), &digest_component(digest))
}

/// `id` is a hash of ours, as it stands in a listing.
pub(super) fn holder(digest: &Digest, id: &str) -> Key {
    Key(format!("{}/{id}", holders(digest)))
}

/// What was pushed or seeded, or what was pulled through, by source; `_local` lies beside the latter.
pub(super) fn namespace(namespace: Namespace) -> Key {
    match namespace {
        Namespace::Local => Key("namespaces/_local".to_owned()),
        Namespace::Upstream => Key("namespaces".to_owned()),
    }
}

/// `path` is made of names that a listing gave.
pub(super) fn below_namespace(namespace: Namespace, path: &str) -> Key {
    below(&self::namespace(namespace), path)
}

fn repository(namespace: Namespace, name: &CanonicalName) -> String {
    match namespace {
        Namespace::Local => format!("namespaces/_local/{name}"),
        Namespace::Upstream => format!("namespaces/{name}"),
    }
}

/// A digest as one component; a colon is refused by some CI caches' archives.
fn digest_component(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm(), digest.hex())
}

pub(super) fn parse_digest(component: &str) -> Option<Digest> {
    let (algorithm, hex) = component.split_once('-')?;
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        let hex = digest.hex();
        let name: CanonicalName = "localhost_5001/acme/app".parse().unwrap();
        assert_eq!(content(&digest).as_str(), format!("blobs/sha256/e3/{hex}"));
        assert_eq!(
            member(Namespace::Local, &name, &digest, &Reason::Pushed).as_str(),
            format!("namespaces/_local/localhost_5001/acme/app/_blobs/sha256-{hex}/pushed")
        );
        assert_eq!(
            tag(Namespace::Upstream, &name, &"v1".parse().unwrap()).as_str(),
            "namespaces/localhost_5001/acme/app/_tags/v1"
        );
    }

    #[test]
    fn reasons_read_back() {
        let named = Reason::Named(Digest::of(Algorithm::Sha512, b""));
        for reason in [Reason::Pushed, Reason::Pulled, named] {
            assert_eq!(Reason::parse(&reason.component()), Some(reason));
        }
        assert_eq!(Reason::parse("lost+found"), None);
    }
}
