//! Referrers: how a listing describes a manifest that is about another one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{digest::Digest, manifest::MediaType};

/// A manifest that is about another one, as the referrers API describes it.
///
/// <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers>
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Referrer {
    #[serde(rename = "mediaType")]
    pub media_type: MediaType,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    #[serde(
        rename = "artifactType",
        skip_serializing_if = "Option::is_none",
        default
    )]
    pub artifact_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub annotations: BTreeMap<String, String>,
}

/// The index that a referrers listing is, as far as it is read.
#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    manifests: Vec<serde_json::Value>,
}

/// Reads another registry's listing. A descriptor that can't be read is left out; `None` if it is no listing.
pub fn parse_listing(body: &[u8]) -> Option<Vec<Referrer>> {
    let listing: Listing = serde_json::from_slice(body).ok()?;
    let readable = listing
        .manifests
        .into_iter()
        .filter_map(|entry| serde_json::from_value(entry).ok());
    Some(readable.collect())
}
