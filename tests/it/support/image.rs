//! Deterministic content: the same seed gives the same bytes and so the same digests, on every machine.

use bytes::Bytes;
use serde_json::{Value, json};
use standin::types::{Algorithm, Digest};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// `length` bytes that do not compress and differ for every seed.
pub(crate) fn random_bytes(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha256, bytes).to_string()
}

pub(crate) fn sha512(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha512, bytes).to_string()
}

/// Bytes and the sha256 that names them.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) bytes: Bytes,
}

impl Blob {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: sha256(&bytes),
            bytes,
        }
    }

    pub(crate) fn random(seed: u64, length: usize) -> Self {
        Self::new(random_bytes(seed, length))
    }

    pub(crate) fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// A manifest, and the type it is pushed and served under.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) bytes: Bytes,
}

impl Manifest {
    pub(crate) fn new(media_type: &str, body: &Value) -> Self {
        let blob = Blob::new(body.to_string());
        Self {
            media_type: media_type.to_owned(),
            digest: blob.digest,
            bytes: blob.bytes,
        }
    }

    /// This manifest as an index names it.
    pub(crate) fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
    pub(crate) manifest: Manifest,
}

impl Image {
    /// One small layer; differs for every seed.
    pub(crate) fn small(seed: u64) -> Self {
        ImageBuilder::new(seed).layer(1000).build()
    }

    /// The config, then the layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// Describes an image; `build` makes it.
pub(crate) struct ImageBuilder {
    seed: u64,
    docker: bool,
    layers: Vec<Blob>,
}

impl ImageBuilder {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            docker: false,
            layers: Vec::new(),
        }
    }

    /// Docker's schema 2 in place of OCI.
    pub(crate) fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// One more layer, of `length` bytes.
    pub(crate) fn layer(mut self, length: usize) -> Self {
        let seed = self.seed * 1000 + self.layers.len() as u64;
        self.layers.push(Blob::random(seed, length));
        self
    }

    /// One more layer, which other images have as well.
    pub(crate) fn shared(mut self, layer: &Blob) -> Self {
        self.layers.push(layer.clone());
        self
    }

    pub(crate) fn build(self) -> Image {
        let (manifest, config, layer) = if self.docker {
            (
                DOCKER_MANIFEST,
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            )
        } else {
            (
                OCI_MANIFEST,
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            )
        };
        let diffs: Vec<&str> = self.layers.iter().map(|l| l.digest.as_str()).collect();
        let image_config = Blob::new(
            json!({
                "architecture": "amd64",
                "os": "linux",
                "config": {"Labels": {"seed": self.seed.to_string()}},
                "rootfs": {"type": "layers", "diff_ids": diffs},
            })
            .to_string(),
        );
        let layers: Vec<Value> = self.layers.iter().map(|l| l.descriptor(layer)).collect();
        let body = json!({
            "schemaVersion": 2,
            "mediaType": manifest,
            "config": image_config.descriptor(config),
            "layers": layers,
        });
        Image {
            manifest: Manifest::new(manifest, &body),
            config: image_config,
            layers: self.layers,
        }
    }
}

/// An index over `children`, or docker's manifest list if that is `media_type`.
pub(crate) fn index(media_type: &str, children: &[&Manifest]) -> Manifest {
    let children: Vec<Value> = children.iter().map(|child| child.descriptor()).collect();
    Manifest::new(
        media_type,
        &json!({"schemaVersion": 2, "mediaType": media_type, "manifests": children}),
    )
}
