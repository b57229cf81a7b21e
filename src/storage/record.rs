//! What a path in the data directory says that a file is: the layout's grammar, read backwards.

use std::fmt;

use super::{
    Holder, Reason,
    layout::{self, Key},
};
use crate::types::{CanonicalName, Digest, Namespace, Tag, UploadId};

/// Something in the data directory, named by what it speaks of. It displays as its path there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Content(Digest),
    Manifest(Namespace, CanonicalName, Digest),
    Tag(Namespace, CanonicalName, Tag),
    Member(Namespace, CanonicalName, Digest, Reason),
    /// Subject, then what is about it.
    Referrer(Namespace, CanonicalName, Digest, Digest),
    /// The second is the hash of a repository's name.
    Holder(Digest, String),
    Owed(UploadId),
    /// Nothing that standin puts there.
    Foreign(String),
}

impl Record {
    /// That the repository holds the content.
    pub fn holder(namespace: Namespace, name: &CanonicalName, digest: &Digest) -> Self {
        Self::Holder(digest.clone(), Holder::new(namespace, name).id())
    }

    /// What a file at `key` is.
    pub(super) fn at(key: &Key) -> Self {
        let path = key.as_str();
        let components: Vec<&str> = path.split('/').collect();
        let record = match components[..] {
            ["blobs", algorithm, _, hex] => {
                let digest = format!("{algorithm}:{hex}").parse();
                digest.ok().map(Self::Content)
            }
            ["owed", id] => id.parse().ok().map(Self::Owed),
            ["holders", digest, id] => {
                layout::parse_digest(digest).map(|digest| Self::Holder(digest, id.to_owned()))
            }
            ["namespaces", "_local", ref below @ ..] => Self::within(Namespace::Local, below),
            ["namespaces", ref below @ ..] => Self::within(Namespace::Upstream, below),
            _ => None,
        };
        // Only one spelling of each is ours.
        record
            .filter(|record| record.key() == *key)
            .unwrap_or_else(|| Self::Foreign(path.to_owned()))
    }

    /// Reads on below a namespace.
    fn within(namespace: Namespace, components: &[&str]) -> Option<Self> {
        let ours = components.iter().position(|one| one.starts_with('_'))?;
        let (name, entry) = components.split_at(ours);
        let name: CanonicalName = name.join("/").parse().ok()?;
        match *entry {
            ["_manifests", digest] => {
                let digest = layout::parse_digest(digest)?;
                Some(Self::Manifest(namespace, name, digest))
            }
            ["_tags", tag] => Some(Self::Tag(namespace, name, tag.parse().ok()?)),
            ["_blobs", digest, reason] => {
                let digest = layout::parse_digest(digest)?;
                let reason = Reason::parse(reason)?;
                Some(Self::Member(namespace, name, digest, reason))
            }
            ["_referrers", subject, manifest] => {
                let subject = layout::parse_digest(subject)?;
                let manifest = layout::parse_digest(manifest)?;
                Some(Self::Referrer(namespace, name, subject, manifest))
            }
            _ => None,
        }
    }

    pub(super) fn key(&self) -> Key {
        match self {
            Self::Content(digest) => layout::content(digest),
            Self::Manifest(namespace, name, digest) => layout::manifest(*namespace, name, digest),
            Self::Tag(namespace, name, tag) => layout::tag(*namespace, name, tag),
            Self::Member(namespace, name, digest, reason) => {
                layout::member(*namespace, name, digest, reason)
            }
            Self::Referrer(namespace, name, subject, manifest) => {
                layout::referrer(*namespace, name, subject, manifest)
            }
            Self::Holder(digest, id) => layout::holder(digest, id),
            Self::Owed(id) => layout::owed(*id),
            Self::Foreign(path) => layout::below(&layout::root(), path),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key().fmt(f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Algorithm;

    #[test]
    fn every_key_reads_back() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        let other = Digest::of(Algorithm::Sha512, b"");
        let name: CanonicalName = "localhost_5001/acme/app".parse().unwrap();
        let mut records = vec![
            Record::Content(digest.clone()),
            Record::Content(other.clone()),
            Record::Holder(digest.clone(), digest.hex().to_owned()),
            Record::Owed(UploadId::random()),
        ];
        for namespace in [Namespace::Local, Namespace::Upstream] {
            let member = |reason| Record::Member(namespace, name.clone(), digest.clone(), reason);
            records.extend([
                Record::Manifest(namespace, name.clone(), digest.clone()),
                Record::Tag(namespace, name.clone(), "v1".parse().unwrap()),
                Record::Referrer(namespace, name.clone(), digest.clone(), other.clone()),
                member(Reason::Pushed),
                member(Reason::Pulled),
                member(Reason::Named(other.clone())),
            ]);
        }
        for record in records {
            assert_eq!(Record::at(&record.key()), record);
        }
    }

    #[test]
    fn what_is_not_ours() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        let (hex, named) = (digest.hex(), format!("sha256-{}", digest.hex()));
        for path in [
            "notes.txt".to_owned(),
            "blobs".to_owned(),
            "blobs/sha256/e3/readme".to_owned(),
            // Nobody would look for it there.
            format!("blobs/sha256/00/{hex}"),
            format!("blobs/sha256/{hex}"),
            format!("holders/{named}"),
            "owed/me".to_owned(),
            "namespaces/quay.io/acme/app".to_owned(),
            "namespaces/_local/quay.io/acme/app/_notes/x".to_owned(),
            "namespaces/_local/quay.io/acme/app/_tags/-x".to_owned(),
            "namespaces/quay.io/acme/app/_blobs/sha256-1/pushed".to_owned(),
            // It has another canonical name.
            format!("namespaces/docker.io/alpine/_manifests/{named}"),
        ] {
            let key = layout::below(&layout::root(), &path);
            assert_eq!(Record::at(&key), Record::Foreign(path));
        }
    }
}
