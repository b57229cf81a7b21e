//! Paths: which endpoint of the distribution-spec a request is for, and the paths that answers give back.

use crate::types::{Digest, Reference, UploadId};

/// An endpoint below `/v2/`, its parts as the client spelled them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint<'a> {
    /// `/v2/` (end-1)
    Base,
    /// `/v2/<name>/blobs/<digest>` (end-2, end-10)
    Blob { name: &'a str, digest: String },
    /// `/v2/<name>/manifests/<reference>` (end-3, end-7, end-9)
    Manifest { name: &'a str, reference: String },
    /// `/v2/<name>/blobs/uploads/` (end-4a, end-4b, end-11)
    Uploads { name: &'a str },
    /// `/v2/<name>/blobs/uploads/<id>` (end-5, end-6, end-13, end-14)
    Upload { name: &'a str, id: &'a str },
    /// `/v2/<name>/tags/list` (end-8a, end-8b)
    Tags { name: &'a str },
    /// `/v2/<name>/referrers/<digest>` (end-12a, end-12b)
    Referrers { name: &'a str, digest: String },
    /// `/v2/_catalog`
    Catalog,
}

impl<'a> Endpoint<'a> {
    /// Reads a raw path from its end, since a name may hold any word that endpoints are made of. `None`: no endpoint of
    /// ours.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix("/v2")?;
        if matches!(rest, "" | "/") {
            return Some(Self::Base);
        }
        let rest = rest.strip_prefix('/')?;
        if rest == "_catalog" {
            return Some(Self::Catalog);
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Some(Self::Tags { name });
        }
        if let Some(name) = rest
            .strip_suffix("/blobs/uploads/")
            .or_else(|| rest.strip_suffix("/blobs/uploads"))
        {
            return Some(Self::Uploads { name });
        }
        let (head, last) = rest.rsplit_once('/')?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            return Some(Self::Upload { name, id: last });
        }
        if let Some(name) = head.strip_suffix("/blobs") {
            return Some(Self::Blob {
                name,
                digest: decoded(last),
            });
        }
        if let Some(name) = head.strip_suffix("/referrers") {
            return Some(Self::Referrers {
                name,
                digest: decoded(last),
            });
        }
        let name = head.strip_suffix("/manifests")?;
        Some(Self::Manifest {
            name,
            reference: decoded(last),
        })
    }

    /// The spec's `<name>`, which `/v2/` has none of.
    pub(super) fn name(&self) -> Option<&'a str> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Blob { name, .. }
            | Self::Manifest { name, .. }
            | Self::Uploads { name }
            | Self::Upload { name, .. }
            | Self::Tags { name }
            | Self::Referrers { name, .. } => Some(name),
        }
    }

    /// One word for it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Blob { .. } => "blob",
            Self::Manifest { .. } => "manifest",
            Self::Uploads { .. } | Self::Upload { .. } => "upload",
            Self::Tags { .. } => "tags",
            Self::Referrers { .. } => "referrers",
            Self::Catalog => "catalog",
        }
    }

    /// The methods it has, as `Allow` lists them.
    pub(super) fn allow(&self) -> &'static str {
        match self {
            Self::Base | Self::Tags { .. } | Self::Referrers { .. } | Self::Catalog => "GET, HEAD",
            Self::Blob { .. } => "GET, HEAD, DELETE",
            Self::Manifest { .. } => "GET, HEAD, PUT, DELETE",
            Self::Uploads { .. } => "POST",
            Self::Upload { .. } => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }
}

/// Where answers send the client: a path without scheme and host under the name the client used, with its `ns`.
pub(super) struct Links<'a> {
    pub(super) name: &'a str,
    pub(super) ns: Option<&'a str>,
}

impl Links<'_> {
    pub(super) fn upload(&self, id: UploadId) -> String {
        self.link(&format!("blobs/uploads/{id}"), &[])
    }

    pub(super) fn blob(&self, digest: &Digest) -> String {
        self.link(&format!("blobs/{digest}"), &[])
    }

    pub(super) fn manifest(&self, reference: &Reference) -> String {
        self.link(&format!("manifests/{reference}"), &[])
    }

    /// The page of `n` entries behind `last`, of one artifact type if it is given.
    pub(super) fn next(
        &self,
        rest: &str,
        n: usize,
        last: &str,
        artifact_type: Option<&str>,
    ) -> String {
        let n = n.to_string();
        let mut parameters = vec![("n", n.as_str()), ("last", last)];
        parameters.extend(artifact_type.map(|artifact_type| ("artifactType", artifact_type)));
        self.link(rest, &parameters)
    }

    fn link(&self, rest: &str, parameters: &[(&str, &str)]) -> String {
        let mut link = match self.name {
            "" => format!("/v2/{rest}"),
            name => format!("/v2/{name}/{rest}"),
        };
        let ns = self.ns.map(|ns| ("ns", ns));
        for (at, (key, value)) in parameters.iter().copied().chain(ns).enumerate() {
            link.push(if at == 0 { '?' } else { '&' });
            link.push_str(key);
            link.push('=');
            link.push_str(&encoded(value));
        }
        link
    }
}

/// The parameters of a query, decoded, in their order.
pub(super) fn parameters(query: &str) -> Vec<(String, String)> {
    let parameter = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (
            decoded(&key.replace('+', " ")),
            decoded(&value.replace('+', " ")),
        )
    };
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(parameter)
        .collect()
}

/// Percent-decoded; what is no encoding stays as it is.
fn decoded(text: &str) -> String {
    let hex = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = bytes
            .get(at + 1)
            .copied()
            .and_then(hex)
            .zip(bytes.get(at + 2).copied().and_then(hex));
        match (byte, pair) {
            (b'%', Some((high, low))) => {
                out.push(high << 4 | low);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent-encoded for a query's value.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_from_their_end() {
        for (path, expected) in [
            ("/v2", Some(Endpoint::Base)),
            ("/v2/", Some(Endpoint::Base)),
            ("/v2/a/b/tags/list", Some(Endpoint::Tags { name: "a/b" })),
            ("/v2/a/blobs/uploads", Some(Endpoint::Uploads { name: "a" })),
            (
                "/v2/a/blobs/uploads/",
                Some(Endpoint::Uploads { name: "a" }),
            ),
            (
                "/v2/a/blobs/uploads/x",
                Some(Endpoint::Upload { name: "a", id: "x" }),
            ),
            (
                "/v2/a/blobs/uploads/blobs/x",
                Some(Endpoint::Blob {
                    name: "a/blobs/uploads",
                    digest: "x".into(),
                }),
            ),
            (
                "/v2/a/blobs/sha256%3Aff",
                Some(Endpoint::Blob {
                    name: "a",
                    digest: "sha256:ff".into(),
                }),
            ),
            (
                "/v2/a/manifests/v1",
                Some(Endpoint::Manifest {
                    name: "a",
                    reference: "v1".into(),
                }),
            ),
            (
                "/v2/a/manifests/manifests/v1",
                Some(Endpoint::Manifest {
                    name: "a/manifests",
                    reference: "v1".into(),
                }),
            ),
            (
                "/v2/a/manifests/%2e%2e",
                Some(Endpoint::Manifest {
                    name: "a",
                    reference: "..".into(),
                }),
            ),
            (
                "/v2/a%2Fb/manifests/v1",
                Some(Endpoint::Manifest {
                    name: "a%2Fb",
                    reference: "v1".into(),
                }),
            ),
            ("/v2/manifests/v1", None),
            ("/v2/a", None),
            ("/v2x/", None),
            ("/", None),
        ] {
            assert_eq!(Endpoint::parse(path), expected, "{path}");
        }
    }

    #[test]
    fn links_repeat_the_clients_name_and_ns() {
        let links = Links {
            name: "acme/app",
            ns: Some("reg.example:5555"),
        };
        assert_eq!(
            links.next("tags/list", 2, "v1", None),
            "/v2/acme/app/tags/list?n=2&last=v1&ns=reg.example%3A5555"
        );
        assert_eq!(
            Links {
                name: "a",
                ns: None
            }
            .manifest(&"v1".parse().unwrap()),
            "/v2/a/manifests/v1"
        );
    }

    #[test]
    fn queries() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            parameters("ns=a%3A1&n=5&&x"),
            [pair("ns", "a:1"), pair("n", "5"), pair("x", "")]
        );
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}
