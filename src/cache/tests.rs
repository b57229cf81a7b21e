//! Fills from inside: a store that gives out in mid-fill, joiners from other names, races with a commit, a runtime that is gone.
#![allow(clippy::unwrap_used)]

mod ranges;
mod resume;

use std::{io, sync::mpsc, thread};

use tempfile::TempDir;

use super::{
    testing::{FakeUpstream, Gate, Reply, SOON, blob_path, cache, cache_on, impatient},
    *,
};
use crate::{
    storage::{
        Member, TagEntry,
        testing::{Effect, Faults, Op, faulty_store, staged, visible},
    },
    types::{Algorithm, Manifest, Namespace, Tag},
};

/// Several pieces of it, so that a fill has a beginning, a middle and an end.
fn blob() -> Vec<u8> {
    (0..300_099_u32).map(|n| (n / 253 + n) as u8).collect()
}

struct Fixture {
    store: Arc<Store>,
    faults: Faults,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, faults) = faulty_store(directory.path());
        Self {
            store: Arc::new(store),
            faults,
            directory,
        }
    }

    /// Nothing is staged any more; a fill that ended has freed its file before it told anyone.
    fn assert_freed(&self) {
        let left = staged(self.directory.path());
        assert!(left.is_empty(), "{left:?} is left");
    }
}

fn name(name: &str) -> CanonicalName {
    name.parse().unwrap()
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

type Pieces = futures_util::stream::BoxStream<'static, io::Result<Bytes>>;

async fn rest(mut pieces: Pieces) -> io::Result<Vec<u8>> {
    use futures_util::StreamExt as _;
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

/// The blob on its way to a client that does not know whether the repository has it. `None`: the upstream has none.
async fn begin(cache: &Cache, from: &str, digest: &Digest) -> Option<Body> {
    cache.blob(&name(from), digest, None).await.unwrap()
}

/// All of the blob, or why not.
async fn pull(cache: &Cache, from: &str, bytes: &[u8]) -> Option<io::Result<Vec<u8>>> {
    match cache.blob(&name(from), &digest_of(bytes), None).await {
        Ok(body) => Some(rest(body?.stream(None, 1 << 16)).await),
        Err(error) => Some(Err(io::Error::other(error))),
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap()
}

#[tokio::test]
async fn a_blob_without_a_byte_is_fetched_and_kept() {
    let fixture = Fixture::new();
    let upstream = FakeUpstream::start([(blob_path("a", b""), Reply::of(b""))]);
    let cache = cache(&fixture.store, &upstream);
    assert_eq!(pull(&cache, "quay.io/a", b"").await.unwrap().unwrap(), b"");
    assert_eq!(visible(fixture.directory.path()), [digest_of(b"")]);
}

#[tokio::test]
async fn a_disk_that_fills_up_in_mid_fill_costs_the_copy_and_not_the_pull() {
    let (fixture, blob, gate) = (Fixture::new(), blob(), Gate::default());
    let upstream = FakeUpstream::start([(
        blob_path("a", &blob),
        Reply::held(&blob, blob.len() / 2, &gate),
    )]);
    let cache = cache(&fixture.store, &upstream);
    let found = begin(&cache, "quay.io/a", &digest_of(&blob)).await.unwrap();
    assert_eq!(found.size(), Some(blob.len() as u64));
    let mut pieces = found.stream(None, 1 << 16);
    // A reader is on its way behind the fill when the disk gives out.
    let first = futures_util::StreamExt::next(&mut pieces).await;
    let mut got = first.unwrap().unwrap().to_vec();
    assert!(!got.is_empty());
    fixture.faults.forget();
    fixture
        .faults
        .fail_from(Op::WriteAt, 0, io::ErrorKind::StorageFull);
    gate.open();
    got.extend(soon(rest(pieces)).await.unwrap());
    assert!(got == blob);
    fixture.assert_freed();
    assert!(visible(fixture.directory.path()).is_empty());
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(requests[1].contains(" from "), "{requests:?}");
}

#[tokio::test]
async fn a_range_is_right_behind_a_download_and_past_a_full_disk() {
    let (blob, end) = (blob(), blob().len() as u64);
    for full in [false, true] {
        let (fixture, gate) = (Fixture::new(), Gate::default());
        let upstream = FakeUpstream::start([(
            blob_path("a", &blob),
            Reply::held(&blob, blob.len() / 2, &gate),
        )]);
        let cache = cache(&fixture.store, &upstream);
        let mut readers = Vec::new();
        for range in [0..1, 7..100, end / 2 - 9..end / 2 + 9, end - 1..end, 5..end] {
            let body = begin(&cache, "quay.io/a", &digest_of(&blob)).await.unwrap();
            readers.push((range.clone(), body.stream(Some(range), 1 << 12)));
        }
        if full {
            fixture.faults.forget();
            fixture
                .faults
                .fail_from(Op::WriteAt, 0, io::ErrorKind::StorageFull);
        }
        gate.open();
        for (range, reader) in readers {
            let got = soon(rest(reader)).await.unwrap();
            let wanted = &blob[range.start as usize..range.end as usize];
            assert!(got == wanted, "{range:?}, full: {full}");
        }
        fixture.assert_freed();
    }
}

#[tokio::test]
async fn whatever_fails_in_the_store_a_client_gets_the_right_bytes_or_an_error() {
    let blob = &blob()[..50_000];
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for effect in [Effect::None, Effect::Done] {
            for n in 0.. {
                let fixture = Fixture::new();
                let upstream = FakeUpstream::start([(blob_path("a", blob), Reply::of(blob))]);
                let cache = cache(&fixture.store, &upstream);
                fixture.faults.fail_nth(n, effect, kind);
                let got = soon(pull(&cache, "quay.io/a", blob)).await.unwrap();
                let done = fixture.faults.done();
                let story = format!("{kind:?}, {effect:?}, {:?}", done.get(n));
                match got {
                    Ok(got) => assert!(got == blob, "{story}: {} bytes", got.len()),
                    // The member entry is no reason to fail either.
                    Err(error) => {
                        assert_eq!(kind, io::ErrorKind::Other, "{story}: {error}");
                        assert_ne!(done.get(n), Some(&Op::Write), "{story}: {error}");
                    }
                }
                fixture.assert_freed();
                visible(fixture.directory.path());
                fixture.faults.forget();
                let again = soon(pull(&cache, "quay.io/a", blob)).await.unwrap();
                assert!(again.unwrap() == blob, "{story}: the retry");
                assert_eq!(visible(fixture.directory.path()), [digest_of(blob)]);
                if done.len() <= n {
                    assert!(n >= 5, "only {n} operations were made to fail");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_member_entry_that_can_not_be_written_costs_no_second_download() {
    let (fixture, blob) = (Fixture::new(), blob());
    let upstream = FakeUpstream::start([(blob_path("a", &blob), Reply::of(&blob))]);
    let cache = cache(&fixture.store, &upstream);
    fixture
        .faults
        .fail_from(Op::Write, 0, io::ErrorKind::StorageFull);
    let got = pull(&cache, "quay.io/a", &blob).await.unwrap();
    assert!(got.unwrap() == blob);
    assert_eq!(upstream.count("GET"), 1, "{:?}", upstream.requests());
}

#[tokio::test]
async fn a_full_disk_is_gone_round_from_the_first_byte() {
    for op in [Op::CreatePart, Op::Reserve] {
        let (fixture, blob) = (Fixture::new(), blob());
        let upstream = FakeUpstream::start([(blob_path("a", &blob), Reply::of(&blob))]);
        let cache = cache(&fixture.store, &upstream);
        fixture.faults.fail_from(op, 0, io::ErrorKind::StorageFull);
        let got = soon(pull(&cache, "quay.io/a", &blob)).await.unwrap();
        assert!(got.unwrap() == blob, "{op:?}");
        fixture.assert_freed();
    }
}

#[tokio::test]
async fn a_wrong_digest_is_never_received_to_its_end() {
    let (fixture, blob) = (Fixture::new(), blob());
    let mut wrong = blob.clone();
    wrong[5] ^= 1;
    let upstream = FakeUpstream::start([(blob_path("a", &blob), Reply::of(&wrong))]);
    let cache = cache(&fixture.store, &upstream);
    assert!(pull(&cache, "quay.io/a", &blob).await.unwrap().is_err());
    fixture.assert_freed();
    // Not where the copy goes nowhere, either.
    fixture
        .faults
        .fail_from(Op::CreatePart, 0, io::ErrorKind::StorageFull);
    assert!(pull(&cache, "quay.io/a", &blob).await.unwrap().is_err());
    assert!(visible(fixture.directory.path()).is_empty());
}

#[tokio::test]
async fn a_joiner_asks_its_own_upstream_when_anothers_has_nothing() {
    let (fixture, blob) = (Fixture::new(), blob());
    let upstream = FakeUpstream::start([(blob_path("b", &blob), Reply::of(&blob))]);
    let cache = cache(&fixture.store, &upstream);
    let (one, other, digest) = (name("quay.io/a"), name("quay.io/b"), digest_of(&blob));
    let (absent, found) = soon(async {
        tokio::join!(
            cache.blob(&one, &digest, None),
            // Finds the first one's download under way.
            cache.blob(&other, &digest, Some(blob.len() as u64)),
        )
    })
    .await;
    assert!(absent.unwrap().is_none());
    let found = found.unwrap().unwrap().stream(None, 1 << 16);
    assert!(soon(rest(found)).await.unwrap() == blob);
    let (from_a, from_b) = (blob_path("a", &blob), blob_path("b", &blob));
    assert_eq!(
        upstream.requests(),
        [format!("GET {from_a}"), format!("GET {from_b}")]
    );
}

#[tokio::test]
async fn a_background_fill_asks_its_own_upstream_when_anothers_has_nothing() {
    for first in [Reply::failure(404), Reply::failure(500)] {
        let (fixture, blob) = (Fixture::new(), blob());
        let upstream = FakeUpstream::start([
            (blob_path("a", &blob), first),
            (blob_path("b", &blob), Reply::of(&blob)),
        ]);
        let cache = cache(&fixture.store, &upstream);
        let (one, other, digest) = (name("quay.io/a"), name("quay.io/b"), digest_of(&blob));
        let (_, filled) = soon(async {
            tokio::join!(
                cache.blob(&one, &digest, None),
                cache.fill_blob(&other, &digest, blob.len() as u64),
            )
        })
        .await;
        assert!(filled.unwrap(), "{:?}", upstream.requests());
        assert_eq!(visible(fixture.directory.path()), [digest]);
    }
}

#[tokio::test]
async fn a_name_that_has_no_such_blob_can_not_join_anothers_download() {
    let (fixture, blob, gate) = (Fixture::new(), blob(), Gate::default());
    let upstream = FakeUpstream::start([
        (
            blob_path("private", &blob),
            Reply::held(&blob, blob.len() / 2, &gate),
        ),
        (blob_path("also", &blob), Reply::of(&blob)),
    ]);
    let cache = cache(&fixture.store, &upstream);
    let digest = digest_of(&blob);
    let private = begin(&cache, "quay.io/private", &digest).await.unwrap();
    assert!(begin(&cache, "quay.io/nosy", &digest).await.is_none());
    // One that has it reads behind the download that is under way.
    let also = begin(&cache, "quay.io/also", &digest).await.unwrap();
    gate.open();
    assert!(soon(rest(also.stream(None, 1 << 16))).await.unwrap() == blob);
    assert!(soon(rest(private.stream(None, 1 << 16))).await.unwrap() == blob);
    assert_eq!(upstream.count("GET"), 1, "{:?}", upstream.requests());
}

#[tokio::test]
async fn a_name_that_has_no_such_blob_does_not_get_what_was_committed_a_moment_ago() {
    // The request looked for the bytes, and found none; since then another name's fill has brought them.
    let (fixture, blob) = (Fixture::new(), blob());
    let upstream = FakeUpstream::start([(blob_path("also", &blob), Reply::of(&blob))]);
    let cache = cache(&fixture.store, &upstream);
    let digest = digest_of(&blob);
    fixture.store.put(&digest, &blob).unwrap();
    assert!(pull(&cache, "quay.io/nosy", &blob).await.is_none());
    let got = pull(&cache, "quay.io/also", &blob).await.unwrap();
    assert!(got.unwrap() == blob);
    assert_eq!(upstream.count("GET"), 0, "{:?}", upstream.requests());
}

#[tokio::test]
async fn a_members_blob_that_was_committed_a_moment_ago_is_served_without_a_request() {
    let (fixture, blob) = (Fixture::new(), blob());
    let upstream = FakeUpstream::start([]);
    let cache = cache(&fixture.store, &upstream);
    let digest = digest_of(&blob);
    fixture.store.put(&digest, &blob).unwrap();
    let size = Some(blob.len() as u64);
    let body = cache.blob(&name("quay.io/a"), &digest, size).await;
    let body = body.unwrap().unwrap();
    assert!(rest(body.stream(None, 1 << 16)).await.unwrap() == blob);
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn what_was_fetched_under_a_name_is_a_member_of_it_and_of_no_other() {
    let (fixture, blob) = (Fixture::new(), blob());
    let upstream = FakeUpstream::start([(blob_path("a", &blob), Reply::of(&blob))]);
    let cache = cache(&fixture.store, &upstream);
    let got = pull(&cache, "quay.io/a", &blob).await.unwrap();
    assert!(got.unwrap() == blob);
    let membership = |namespace, of: &str| {
        let membership = fixture
            .store
            .membership(namespace, &name(of), &digest_of(&blob));
        membership.unwrap()
    };
    let expected = storage::Membership {
        member: Member {
            size: blob.len() as u64,
            media_type: None,
            source: None,
        },
        named: false,
    };
    assert_eq!(membership(Namespace::Upstream, "quay.io/a"), Some(expected));
    assert_eq!(membership(Namespace::Upstream, "quay.io/b"), None);
    assert_eq!(membership(Namespace::Local, "quay.io/a"), None);
}

#[tokio::test]
async fn a_tag_that_is_gone_upstream_is_gone_even_if_it_can_not_be_forgotten_here() {
    let fixture = Fixture::new();
    let upstream = FakeUpstream::start([]);
    let cache = cache(&fixture.store, &upstream);
    let (name, tag): (_, Tag) = (name("quay.io/a"), "v1".parse().unwrap());
    let entry = TagEntry {
        digest: digest_of(b"x"),
        manifest: Some(ManifestEntry {
            media_type: crate::types::MediaType::parse("application/json").unwrap(),
            size: 1,
        }),
        checked: None,
        previous: None,
    };
    fixture
        .store
        .put_tag(Namespace::Upstream, &name, &tag, &entry)
        .unwrap();
    fixture
        .faults
        .fail_from(Op::Delete, 0, io::ErrorKind::ReadOnlyFilesystem);
    let reference = Reference::Tag(tag);
    let found = cache
        .manifest(&name, &reference, Want::Bytes, Patience::Full)
        .await;
    assert!(found.unwrap().is_none());
    assert_eq!(fixture.faults.done(), [Op::Delete]);
}

#[tokio::test]
async fn an_index_is_served_offline_only_if_a_child_of_it_is_whole() {
    let fixture = Fixture::new();
    let upstream = FakeUpstream::start([]);
    let cache = cache(&fixture.store, &upstream);
    let (name, layer) = (name("quay.io/a"), b"layer");
    let put = |body: &str| {
        let manifest = Manifest::pulled(body.as_bytes(), None);
        let digest = digest_of(body.as_bytes());
        fixture
            .store
            .put_manifest(
                Namespace::Upstream,
                &name,
                &digest,
                body.as_bytes(),
                &manifest,
            )
            .unwrap();
        digest
    };
    const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    let image = format!(
        r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","config":{{"digest":"{0}","size":5}},"layers":[{{"digest":"{0}","size":5}}]}}"#,
        digest_of(layer)
    );
    let missing = digest_of(b"a platform that was never pulled");
    let index = put(&format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{IMAGE}","digest":"{missing}","size":32}},
                          {{"mediaType":"{IMAGE}","digest":"{}","size":{}}}]}}"#,
        digest_of(image.as_bytes()),
        image.len()
    ));
    let index = Reference::Digest(index);
    let held = async || {
        let held = cache.held_manifest(&name, &index, Want::Bytes).await;
        held.unwrap().is_some()
    };
    assert!(!held().await, "no child is here");
    put(&image);
    assert!(!held().await, "the child's layer is not here");
    fixture.store.put(&digest_of(layer), layer).unwrap();
    assert!(held().await);
}

/// At shutdown requests may still come to a cache whose runtime is going down. They may fail, and must not block the threads that
/// shut down the rest.
#[test]
fn a_runtime_that_is_gone_blocks_nobody() {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let fixture = Fixture::new();
        let upstream = FakeUpstream::start([]);
        let gone = tokio::runtime::Runtime::new().unwrap();
        let cache = cache_on(
            &fixture.store,
            &upstream,
            impatient(),
            gone.handle().clone(),
        );
        drop(gone);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let name = name("quay.io/a");
        runtime.block_on(async {
            assert!(cache.blob(&name, &digest_of(b"x"), None).await.is_err());
            let tag = Reference::Tag("v1".parse().unwrap());
            assert!(
                cache
                    .manifest(&name, &tag, Want::Bytes, Patience::Full)
                    .await
                    .is_err()
            );
        });
        done.send(()).unwrap();
    });
    is_done.recv_timeout(SOON).unwrap();
}
