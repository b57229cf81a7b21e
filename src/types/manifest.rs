//! Manifests: their type, and what they name. The bytes themselves are never rewritten.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/manifest.md>,
//! <https://github.com/opencontainers/image-spec/blob/main/image-index.md>

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fmt,
    marker::PhantomData,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::digest::{Digest, shown};

/// Largest manifest taken or fetched, in bytes: the least the distribution-spec asks of a registry.
pub const MANIFEST_LIMIT: usize = 4 << 20;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Type of an OCI image index, and of a listing of referrers.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_SCHEMA_1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Everything an upstream may be asked for, so that it never has to convert a manifest for us.
pub const ACCEPTED: [&str; 7] = [
    OCI_INDEX,
    OCI_MANIFEST,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_ARTIFACT,
    DOCKER_SCHEMA_1_SIGNED,
    DOCKER_SCHEMA_1,
];

/// A media type without parameters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct MediaType(Box<str>);

impl MediaType {
    /// Reads a header's value or a descriptor's field; parameters are dropped. `None` if it is no `type/subtype`.
    pub fn parse(value: &str) -> Option<Self> {
        let essence = value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let token = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        };
        let (kind, subtype) = essence.split_once('/')?;
        (essence.len() <= 255 && token(kind) && token(subtype)).then(|| Self(essence.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a type that manifests have, as far as we know them.
    pub fn is_manifest(&self) -> bool {
        ACCEPTED.contains(&self.as_str())
    }

    fn kind(&self) -> Kind {
        match self.as_str() {
            OCI_MANIFEST | DOCKER_MANIFEST => Kind::Image,
            OCI_INDEX | DOCKER_LIST => Kind::Index,
            OCI_ARTIFACT => Kind::Artifact,
            _ => Kind::Other,
        }
    }

    fn is_schema_1(&self) -> bool {
        matches!(self.as_str(), DOCKER_SCHEMA_1 | DOCKER_SCHEMA_1_SIGNED)
    }

    /// Whether registries hold such layers at all.
    pub fn is_distributable(&self) -> bool {
        !self.as_str().contains(".nondistributable.") && !self.as_str().contains(".foreign.")
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The shapes of manifest whose references we can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Image,
    Index,
    Artifact,
    /// A type we do not know: stored as it is, naming nothing.
    Other,
}

/// What a descriptor is to the manifest that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A config, a layer, or an entry of an index that is no manifest (BuildKit's cache indexes hold layers).
    Blob,
    /// A child of an index.
    Manifest,
    /// A layer that registries need not hold; neither its presence nor its size is checked.
    NonDistributable,
}

/// A reference from a manifest to content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub media_type: Option<MediaType>,
    pub role: Role,
}

/// What we read from a manifest's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub media_type: MediaType,
    pub kind: Kind,
    /// Config, layers and children, in the manifest's order, each digest once.
    pub references: Vec<Descriptor>,
    /// The manifest this one is about (referrers).
    pub subject: Option<Digest>,
    /// What the referrers API calls it: its own `artifactType`, else its config's media type.
    pub artifact_type: Option<String>,
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Of an image.
    pub fn config(&self) -> Option<&Descriptor> {
        let references = self.references.iter();
        references.take(1).find(|_| self.kind == Kind::Image)
    }

    /// Reads a manifest that a client pushes, with the `Content-Type` it came under. Strict: what it names must be
    /// readable, for it is about to be checked.
    pub fn pushed(body: &[u8], content_type: Option<&str>) -> Result<Self, InvalidManifest> {
        let fields = Fields::parse(body)?;
        let declared = content_type.and_then(MediaType::parse);
        if fields.schema_version == Some(1) || declared.as_ref().is_some_and(MediaType::is_schema_1)
        {
            return Err(InvalidManifest(
                "schema 1 manifests are not taken: push schema 2 or an OCI manifest".to_owned(),
            ));
        }
        let media_type = fields.media_type(declared.as_ref())?;
        if let Some(declared) = declared
            && declared.is_manifest()
            && media_type.is_manifest()
            && declared != media_type
        {
            return Err(InvalidManifest(format!(
                "the Content-Type is {declared}, but the manifest's mediaType is {media_type}"
            )));
        }
        let kind = media_type.kind();
        fields.check(kind)?;
        Ok(Self {
            references: fields.references(kind)?,
            subject: fields.subject()?,
            artifact_type: fields.artifact_type(kind),
            annotations: fields.annotations(),
            media_type,
            kind,
        })
    }

    /// Reads a manifest that an upstream serves under `content_type`. Lenient: the upstream vouches for it, so what
    /// cannot be read is left out and the bytes are passed on all the same.
    pub fn pulled(body: &[u8], content_type: Option<&str>) -> Self {
        let declared = content_type.and_then(MediaType::parse);
        let fallback = || {
            declared
                .clone()
                .unwrap_or_else(|| MediaType("application/octet-stream".into()))
        };
        let Ok(fields) = Fields::parse(body) else {
            return Self {
                media_type: fallback(),
                kind: Kind::Other,
                references: Vec::new(),
                subject: None,
                artifact_type: None,
                annotations: BTreeMap::new(),
            };
        };
        let media_type = fields
            .media_type(declared.as_ref())
            .unwrap_or_else(|_| fallback());
        let kind = media_type.kind();
        Self {
            references: fields.references(kind).unwrap_or_default(),
            subject: fields.subject().unwrap_or_default(),
            artifact_type: fields.artifact_type(kind),
            annotations: fields.annotations(),
            media_type,
            kind,
        }
    }
}

/// Whether `body` can be a manifest at all. A login page or a proxy's apology can't, whatever type it comes under.
pub fn is_json_object(body: &[u8]) -> bool {
    let object = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    object && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// An image that an OCI layout's `index.json` names.
#[derive(Clone, Debug)]
pub struct LayoutEntry {
    pub descriptor: Descriptor,
    pub annotations: BTreeMap<String, String>,
}

/// Reads an OCI layout's `index.json`. Unlike other indexes it may name a digest more than once, under several names.
pub fn layout_index(body: &[u8]) -> Result<Vec<LayoutEntry>, InvalidManifest> {
    let fields = Fields::parse(body)?;
    let entries = fields
        .manifests
        .ok_or_else(|| InvalidManifest("it names no manifests".to_owned()))?;
    let entry = |Object(raw): Object<RawDescriptor>| {
        let descriptor = raw.descriptor(Kind::Index)?;
        Ok(LayoutEntry {
            descriptor,
            annotations: raw.annotations.unwrap_or_default(),
        })
    };
    entries.into_iter().map(entry).collect()
}

/// What is a JSON object; serde would read a struct from an array as well.
#[derive(Clone)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Map(PhantomData))
    }
}

/// The fields we look at; every other one is left alone. A field given twice is refused by the parser, since readers
/// would differ in which they believe.
#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    config: Option<Object<RawDescriptor>>,
    layers: Option<Vec<Object<RawDescriptor>>>,
    blobs: Option<Vec<Object<RawDescriptor>>>,
    manifests: Option<Vec<Object<RawDescriptor>>>,
    subject: Option<Object<RawDescriptor>>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
    // Some tools put more than strings there, which is nobody's concern here.
    annotations: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct RawDescriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    digest: String,
    size: u64,
    annotations: Option<BTreeMap<String, String>>,
}

impl Fields {
    fn parse(body: &[u8]) -> Result<Self, InvalidManifest> {
        if body.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
            // serde would read a struct from a JSON array as well.
            return Err(InvalidManifest("a manifest is a JSON object".to_owned()));
        }
        // Fields that are skipped are not decoded, and clients refuse what is no UTF-8 anywhere.
        let body = std::str::from_utf8(body)
            .map_err(|error| InvalidManifest(format!("the manifest can't be read: {error}")))?;
        serde_json::from_str(body)
            .map_err(|error| InvalidManifest(format!("the manifest can't be read: {error}")))
    }

    /// The body's own `mediaType`; else the type it came under; else what its fields say.
    fn media_type(&self, declared: Option<&MediaType>) -> Result<MediaType, InvalidManifest> {
        if let Some(own) = &self.media_type {
            return MediaType::parse(own).ok_or_else(|| {
                InvalidManifest(format!("its mediaType {} is no media type", shown(own)))
            });
        }
        if let Some(declared) = declared.filter(|declared| declared.is_manifest()) {
            return Ok(declared.clone());
        }
        let deduced = match (&self.manifests, &self.config, &self.layers) {
            (Some(_), None, None) => OCI_INDEX,
            (None, Some(_), Some(_)) => OCI_MANIFEST,
            _ => {
                // Tools that push a type of their own say which; what curl or a browser says is none.
                let own = declared.filter(|declared| declared.as_str().ends_with("+json"));
                return own.cloned().ok_or_else(|| {
                    let why = "it has no mediaType, and neither its Content-Type nor its fields tell what it is";
                    InvalidManifest(why.to_owned())
                });
            }
        };
        Ok(MediaType(deduced.into()))
    }

    /// Whether the fields are those that a manifest of the kind must have.
    fn check(&self, kind: Kind) -> Result<(), InvalidManifest> {
        let lacking =
            |what: &str| Err(InvalidManifest(format!("{what}, which its type must have")));
        let image = kind == Kind::Image;
        let index = kind == Kind::Index;
        if (image || index) && self.schema_version != Some(2) {
            return lacking("it has no schemaVersion of 2");
        }
        if image && (self.config.is_none() || self.layers.is_none()) {
            return lacking("it has no config or no layers");
        }
        if index && self.manifests.is_none() {
            return lacking("it has no manifests");
        }
        if (image && self.manifests.is_some()) || (index && self.layers.is_some()) {
            let why = "it has layers and manifests both, so clients may disagree about what it is";
            return Err(InvalidManifest(why.to_owned()));
        }
        Ok(())
    }

    fn references(&self, kind: Kind) -> Result<Vec<Descriptor>, InvalidManifest> {
        let mut references: Vec<Descriptor> = Vec::new();
        let mut sizes: HashMap<Digest, u64> = HashMap::new();
        let blobs = match kind {
            Kind::Image => self.config.iter().chain(self.layers.iter().flatten()),
            Kind::Artifact => None.iter().chain(self.blobs.iter().flatten()),
            Kind::Index => None.iter().chain(self.manifests.iter().flatten()),
            Kind::Other => return Ok(references),
        };
        for Object(raw) in blobs {
            let descriptor = raw.descriptor(kind)?;
            match sizes.entry(descriptor.digest.clone()) {
                Entry::Vacant(place) => {
                    place.insert(descriptor.size);
                    references.push(descriptor);
                }
                Entry::Occupied(known) if *known.get() == descriptor.size => {}
                Entry::Occupied(known) => {
                    return Err(InvalidManifest(format!(
                        "{} is named twice, with sizes {} and {}",
                        known.key(),
                        known.get(),
                        descriptor.size
                    )));
                }
            }
        }
        Ok(references)
    }

    fn artifact_type(&self, kind: Kind) -> Option<String> {
        let own = self.artifact_type.as_ref().filter(|own| !own.is_empty());
        let config = self.config.as_ref().filter(|_| kind == Kind::Image);
        own.or_else(|| config?.0.media_type.as_ref()).cloned()
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let strings = self
            .annotations
            .iter()
            .flatten()
            .filter_map(|(key, value)| {
                let value = value.as_str()?;
                Some((key.clone(), value.to_owned()))
            });
        strings.collect()
    }

    fn subject(&self) -> Result<Option<Digest>, InvalidManifest> {
        let Some(Object(subject)) = &self.subject else {
            return Ok(None);
        };
        let digest = subject
            .digest
            .parse()
            .map_err(|error| InvalidManifest(format!("its subject: {error}")))?;
        Ok(Some(digest))
    }
}

impl RawDescriptor {
    fn descriptor(&self, holder: Kind) -> Result<Descriptor, InvalidManifest> {
        let digest = self
            .digest
            .parse()
            .map_err(|error| InvalidManifest(format!("a descriptor's digest: {error}")))?;
        let media_type = self.media_type.as_deref().and_then(MediaType::parse);
        let role = match (&media_type, holder) {
            (Some(media_type), Kind::Index) if media_type.is_manifest() => Role::Manifest,
            (Some(media_type), _) if !media_type.is_distributable() => Role::NonDistributable,
            _ => Role::Blob,
        };
        Ok(Descriptor {
            digest,
            size: self.size,
            media_type,
            role,
        })
    }
}

/// The body is no manifest that can be stored; the text says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidManifest(String);
