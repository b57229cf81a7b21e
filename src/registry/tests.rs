//! The rules from inside: what no client can see or wait for.
#![allow(clippy::unwrap_used)]

use std::{convert::Infallible, task::Poll};

use bytes::Bytes;
use futures_util::stream;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{
    access::{Access, Credentials, Identity, Visitor},
    *,
};
use crate::{
    cache::testing::{FakeUpstream, Reply, cache, registries},
    storage::testing::{faulty_store, staged, visible},
    types::{Algorithm, Reference, Tag, manifest::MANIFEST_LIMIT},
};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Fixture {
    registry: Registry,
    directory: TempDir,
}

impl Fixture {
    fn new<const N: usize>(upstream: [(String, Reply); N]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(faulty_store(directory.path()).0);
        let cache = cache(&store, &FakeUpstream::start(upstream));
        let rules = Rules {
            sources: Sources {
                own: OwnNames::default(),
                configured: registries().into(),
                default: crate::types::RegistryHost::docker_hub(),
            },
            offline: false,
            local_only: Vec::new(),
            no_shadow: Vec::new(),
            allow_sparse: false,
            limits: Limits::default(),
        };
        Self {
            registry: Registry::new(store, cache, rules, Handle::current(), Arc::default()),
            directory,
        }
    }

    async fn push_blob(&self, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        let length = Some(bytes.len() as u64);
        let body = stream::iter([Ok::<_, Infallible>(Bytes::copy_from_slice(bytes))]);
        let app = app();
        let pushed = self.registry.push_blob(&app, &digest, length, body);
        pushed.await.unwrap();
        digest
    }

    async fn push_manifest(&self, body: String) -> Result<PushedManifest, Error> {
        let (app, reference) = (app(), Reference::Tag(v1()));
        let registry = &self.registry;
        let push = ManifestPush {
            reference: &reference,
            tags: Vec::new(),
            content_type: None,
            body: body.into(),
        };
        registry.push_manifest(&app, push, &anyone().await).await
    }
}

async fn anyone() -> Identity {
    let visitor = Visitor {
        credentials: Credentials::None,
        on_loopback: true,
    };
    Access::of_anyone().unwrap().reader(visitor).await.unwrap()
}

fn app() -> Target {
    Target {
        name: "quay.io/acme/app".parse().unwrap(),
        rule: Rule::Prefix,
        ns: None,
    }
}

fn v1() -> Tag {
    "v1".parse().unwrap()
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// A body of which half comes, and a word when the rest is waited for.
fn half_a_body() -> (
    impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Unpin + Send,
    tokio::sync::oneshot::Receiver<()>,
) {
    let (waiting, is_waiting) = tokio::sync::oneshot::channel();
    let mut waiting = Some(waiting);
    let mut half = Some(Bytes::from_static(b"half of"));
    let body = stream::poll_fn(move |_| match half.take() {
        Some(half) => Poll::Ready(Some(Ok(half))),
        None => {
            if let Some(waiting) = waiting.take() {
                waiting.send(()).unwrap();
            }
            Poll::Pending
        }
    });
    (body, is_waiting)
}

#[tokio::test]
async fn a_blob_pushed_at_once_leaves_nothing_when_its_client_goes_away() {
    let fixture = Fixture::new([]);
    let (body, is_waiting) = half_a_body();
    let registry = fixture.registry.clone();
    let pushing = tokio::spawn(async move {
        let digest = digest_of(b"half of it");
        registry.push_blob(&app(), &digest, Some(10), body).await
    });
    is_waiting.await.unwrap();
    assert_eq!(staged(fixture.directory.path()).len(), 1);
    // What the HTTP server does when the connection breaks.
    pushing.abort();
    assert!(pushing.await.is_err());
    assert!(staged(fixture.directory.path()).is_empty());
}

#[tokio::test]
async fn a_session_whose_client_goes_away_stands_where_it_stood() {
    let fixture = Fixture::new([]);
    let registry = &fixture.registry;
    let id = registry.start_upload(&app(), Algorithm::Sha256).await;
    let id = id.unwrap();
    let chunk = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"kept "))]);
    let offset = registry.append_upload(id, None, Some(5), chunk).await;
    assert_eq!(offset.unwrap(), 5);

    let (body, is_waiting) = half_a_body();
    let appending = tokio::spawn({
        let registry = registry.clone();
        async move { registry.append_upload(id, None, Some(10), body).await }
    });
    is_waiting.await.unwrap();
    let none = stream::iter([] as [Result<Bytes, Infallible>; 0]);
    let second = registry.append_upload(id, None, Some(0), none).await;
    assert!(matches!(second, Err(Error::RangeInvalid { offset: 5, .. })));
    appending.abort();
    assert!(appending.await.is_err());

    let rest = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"too"))]);
    let digest = digest_of(b"kept too");
    let finished = registry.finish_upload(id, &digest, None, Some(3), rest);
    assert_eq!(finished.await.unwrap().digest, digest);
    assert_eq!(visible(fixture.directory.path()), [digest]);
    assert!(staged(fixture.directory.path()).is_empty());
}

#[tokio::test]
async fn what_is_missing_is_named_in_the_message() {
    let fixture = Fixture::new([]);
    let (config, layer) = (digest_of(b"config"), digest_of(b"layer"));
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","config":{{"digest":"{config}","size":6}},"layers":[{{"digest":"{layer}","size":5}}]}}"#
    );
    let refused = fixture.push_manifest(body).await.unwrap_err();
    assert!(matches!(refused, Error::ManifestBlobUnknown { .. }));
    // docker prints the message and nothing else.
    let message = refused.to_string();
    for digest in [config, layer] {
        assert!(message.contains(&digest.to_string()), "{message}");
    }
}

#[tokio::test]
async fn an_index_can_not_pass_a_blob_of_any_size_for_a_manifest() {
    let fixture = Fixture::new([]);
    let huge = fixture.push_blob(&vec![b' '; MANIFEST_LIMIT + 1]).await;
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{IMAGE}","digest":"{huge}","size":{}}}]}}"#,
        MANIFEST_LIMIT + 1
    );
    let refused = fixture.push_manifest(body).await.unwrap_err();
    assert!(matches!(refused, Error::ManifestInvalid(_)), "{refused}");
    assert!(refused.to_string().contains(huge.hex()), "{refused}");
}

#[tokio::test]
async fn what_is_owed_is_fetched_under_the_name_that_needs_it() {
    // Another name asks for the same content at the same moment, and its upstream has none.
    let layer = b"layer";
    let at = |repository: &str, bytes: &[u8]| crate::cache::testing::blob_path(repository, bytes);
    let fixture = Fixture::new([(at("acme/app", layer), Reply::of(layer))]);
    let config = fixture.push_blob(b"config").await;
    let digest = digest_of(layer);
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","config":{{"digest":"{config}","size":6}},"layers":[{{"digest":"{digest}","size":5}}]}}"#
    );
    let elsewhere = Target {
        name: "quay.io/acme/elsewhere".parse().unwrap(),
        ..app()
    };
    fixture.push_manifest(body).await.unwrap();
    let nothing = fixture.registry.pull_blob(&elsewhere, &digest).await;
    assert!(matches!(nothing, Err(Error::BlobUnknown(_))));
    let pulled = fixture.registry.pull_blob(&app(), &digest).await;
    assert_eq!(pulled.unwrap().0.size(), Some(5));
}
