//! The values of the distribution-spec, parsed once at the edge and trusted from there on.
//!
//! Pure: no I/O, no async, and nothing that knows HTTP or a disk. A value of one of these types *is* valid; each
//! type's `FromStr` is the only way in.

pub mod address;
pub mod digest;
pub mod manifest;
pub mod name;
pub mod network;
pub mod pattern;
pub mod reference;
pub mod referrer;
pub mod upload;
pub mod upstream_proxy;
pub mod url;

pub use address::Zone;
pub use digest::{Algorithm, Digest, Hasher, InvalidDigest};
pub use manifest::{Descriptor, InvalidManifest, Kind, Manifest, MediaType, Role};
pub use name::{CanonicalName, InvalidHost, InvalidName, Namespace, RegistryHost, RepositoryName};
pub use network::{InvalidNetwork, Network};
pub use pattern::{InvalidPattern, Pattern};
pub use reference::{InvalidReference, Reference, Tag};
pub use referrer::Referrer;
pub use upload::{ContentRange, InvalidContentRange, InvalidUploadId, RequestId, UploadId};
pub use upstream_proxy::{InvalidProxy, UpstreamProxy};
pub use url::{ExternalUrl, InvalidUrl, UpstreamUrl};
