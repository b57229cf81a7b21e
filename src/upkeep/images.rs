//! Images: what a repository's tags and manifests come to, with all that they name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
    time::SystemTime,
};

use serde::Deserialize;

use crate::{
    storage::{Repository, Store, Survey},
    types::{CanonicalName, Descriptor, Digest, Manifest, MediaType, Namespace, Role, Tag},
};

/// A manifest that a tag names, or that no index of its repository does, and all that is below it.
#[derive(Clone, Debug)]
pub struct Image {
    pub namespace: Namespace,
    pub name: CanonicalName,
    pub digest: Digest,
    pub media_type: MediaType,
    pub tags: Vec<Tag>,
    /// When it was last asked for, if it was pulled; when it was last pushed, if it was pushed.
    pub used: SystemTime,
    /// Of an index, with what it says they are for.
    pub children: Vec<Child>,
    /// All that it names and registries hold, itself included, with its bytes if it is here as it should be.
    pub named: BTreeMap<Digest, Option<u64>>,
}

/// An image that an index names.
#[derive(Clone, Debug)]
pub struct Child {
    pub digest: Digest,
    /// `OS/ARCHITECTURE`, if the index says so of an image that runs.
    pub platform: Option<String>,
    /// All of it is here.
    pub whole: bool,
}

impl Image {
    pub fn is_local(&self) -> bool {
        self.namespace == Namespace::Local
    }

    /// All that it names is here.
    pub fn is_whole(&self) -> bool {
        self.absent() == 0
    }

    /// How much of what it names is not here, as far as can be told.
    pub fn absent(&self) -> usize {
        self.named.values().filter(|here| here.is_none()).count()
    }

    /// Bytes of it that are here.
    pub fn bytes(&self) -> u64 {
        self.named.values().flatten().sum()
    }

    /// What it is called: by each of its tags, or else by its digest.
    pub fn labels(&self) -> Vec<String> {
        labels(&self.name, &self.digest, &self.tags)
    }
}

pub(super) fn labels(name: &CanonicalName, digest: &Digest, tags: &[Tag]) -> Vec<String> {
    match tags.is_empty() {
        true => vec![format!("{name}@{digest}")],
        false => tags.iter().map(|tag| format!("{name}:{tag}")).collect(),
    }
}

/// The manifests that are here, each read once.
pub(super) struct Manifests<'a> {
    store: &'a Store,
    survey: &'a Survey,
    read: HashMap<Digest, Option<Rc<Parsed>>>,
}

pub(super) struct Parsed {
    pub(super) manifest: Manifest,
    /// What an index says of its entries, where it says it.
    platforms: HashMap<Digest, String>,
}

impl<'a> Manifests<'a> {
    pub(super) fn new(store: &'a Store, survey: &'a Survey) -> Self {
        Self {
            store,
            survey,
            read: HashMap::new(),
        }
    }

    /// `None`: it is not here, or not as its digest says.
    pub(super) fn get(
        &mut self,
        digest: &Digest,
        media_type: Option<&MediaType>,
    ) -> Option<Rc<Parsed>> {
        if let Some(known) = self.read.get(digest) {
            return known.clone();
        }
        let parsed = self.parse(digest, media_type).map(Rc::new);
        self.read.insert(digest.clone(), parsed.clone());
        parsed
    }

    fn parse(&self, digest: &Digest, media_type: Option<&MediaType>) -> Option<Parsed> {
        let content = self.store.content(digest).ok()??;
        if content.size() > LARGEST {
            return None;
        }
        let bytes = content.read().ok()?;
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return None;
        }
        let manifest = Manifest::pulled(&bytes, media_type.map(MediaType::as_str));
        let platforms = serde_json::from_slice::<Index>(&bytes).unwrap_or_default();
        let platforms = platforms.manifests.into_iter().filter_map(Entry::platform);
        Some(Parsed {
            manifest,
            platforms: platforms.collect(),
        })
    }

    /// Every image there is, by namespace, name and digest.
    pub(super) fn images(&mut self) -> Vec<Image> {
        let mut images = Vec::new();
        let survey = self.survey;
        for ((namespace, name), repository) in &survey.repositories {
            for digest in self.roots(repository) {
                let Some(held) = repository.manifests.get(&digest) else {
                    continue;
                };
                let mut named = BTreeMap::new();
                self.add_named(&digest, Some(&held.entry.media_type), None, &mut named);
                let children = self.children(&digest, &held.entry.media_type);
                let tags = repository.tags.iter();
                let tags = tags.filter(|(_, tag)| tag.digest == digest);
                let mut used = held.used;
                for child in &children {
                    if let Some(child) = repository.manifests.get(&child.digest)
                        && *namespace == Namespace::Upstream
                    {
                        used = used.max(child.used);
                    }
                }
                if *namespace == Namespace::Local {
                    used = tags
                        .clone()
                        .fold(used, |used, (_, tag)| used.max(tag.written));
                }
                images.push(Image {
                    namespace: *namespace,
                    name: name.clone(),
                    media_type: held.entry.media_type.clone(),
                    tags: tags.map(|(tag, _)| tag.clone()).collect(),
                    used,
                    children,
                    named,
                    digest,
                });
            }
        }
        images
    }

    /// What is tagged, and what no index of the repository names.
    fn roots(&mut self, repository: &Repository) -> Vec<Digest> {
        let mut below = BTreeSet::new();
        for (digest, held) in &repository.manifests {
            if let Some(parsed) = self.get(digest, Some(&held.entry.media_type)) {
                let references = parsed.manifest.references.iter();
                let children = references.filter(|named| named.role == Role::Manifest);
                below.extend(children.map(|child| child.digest.clone()));
            }
        }
        let tagged: BTreeSet<&Digest> = repository.tags.values().map(|tag| &tag.digest).collect();
        let manifests = repository.manifests.keys();
        let roots = manifests.filter(|digest| tagged.contains(digest) || !below.contains(digest));
        roots.cloned().collect()
    }

    /// Adds the manifest and all below it. `size` is what is said of it.
    fn add_named(
        &mut self,
        digest: &Digest,
        media_type: Option<&MediaType>,
        size: Option<u64>,
        named: &mut BTreeMap<Digest, Option<u64>>,
    ) {
        if named.contains_key(digest) {
            return;
        }
        let parsed = self.get(digest, media_type);
        let here = self.here(digest, size).filter(|_| parsed.is_some());
        named.insert(digest.clone(), here);
        let Some(parsed) = parsed else { return };
        for reference in &parsed.manifest.references {
            match reference.role {
                Role::NonDistributable => {}
                Role::Blob => {
                    let here = self.here(&reference.digest, Some(reference.size));
                    named.insert(reference.digest.clone(), here);
                }
                Role::Manifest => {
                    let media_type = reference.media_type.as_ref();
                    self.add_named(&reference.digest, media_type, Some(reference.size), named);
                }
            }
        }
    }

    fn here(&self, digest: &Digest, size: Option<u64>) -> Option<u64> {
        let content = self.survey.contents.get(digest)?;
        Some(content.size).filter(|here| size.is_none_or(|size| *here == size))
    }

    fn children(&mut self, digest: &Digest, media_type: &MediaType) -> Vec<Child> {
        let Some(parsed) = self.get(digest, Some(media_type)) else {
            return Vec::new();
        };
        let references = parsed.manifest.references.iter();
        let children = references.filter(|named| named.role == Role::Manifest);
        let child = |reference: &Descriptor| {
            let mut named = BTreeMap::new();
            let media_type = reference.media_type.as_ref();
            self.add_named(
                &reference.digest,
                media_type,
                Some(reference.size),
                &mut named,
            );
            Child {
                digest: reference.digest.clone(),
                platform: parsed.platforms.get(&reference.digest).cloned(),
                whole: named.values().all(Option::is_some),
            }
        };
        children.map(child).collect()
    }
}

/// The part of an index that says what its entries are for.
#[derive(Default, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Entry {
    fn platform(self) -> Option<(Digest, String)> {
        let Platform {
            os,
            architecture,
            variant,
        } = self.platform?;
        // What BuildKit says of attestations, which run nowhere.
        if os == "unknown" {
            return None;
        }
        let variant = variant.map_or(String::new(), |variant| format!("/{variant}"));
        Some((self.digest, format!("{os}/{architecture}{variant}")))
    }
}

/// Bytes of what is read as a manifest: far more than one has.
const LARGEST: u64 = 64 << 20;
