//! Any sequence of what clients do to a few repositories, against a model that is a handful of sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
};

use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};

use crate::support::{
    Client, Exchange, TestRegistry, full,
    image::{Blob, Manifest, OCI_INDEX, OCI_MANIFEST, index},
    table::whole,
};

/// Content and names nobody else has: what other cases pushed can be neither mounted nor listed here.
struct World {
    /// Two of them lie in another source.
    repositories: Vec<String>,
    blobs: Vec<Blob>,
    manifests: Vec<Manifest>,
    /// What each manifest names: blobs and manifests by their place.
    names: Vec<(BTreeSet<usize>, BTreeSet<usize>)>,
}

const TAGS: [&str; 3] = ["B", "a", "a.1"];

impl World {
    fn new(case: u64) -> Self {
        let repositories = ["acme/a", "quay.io/acme/a", "quay.io/acme/a/b"]
            .map(|name| name.replace("acme", &format!("case-{case}")));
        let blobs: Vec<Blob> = (0..3).map(|at| Blob::random(case * 3 + at, 100)).collect();
        let image = |of: &[usize]| {
            let kind = "application/vnd.oci.image.layer.v1.tar";
            let layers: Vec<_> = of[1..]
                .iter()
                .map(|at| blobs[*at].descriptor(kind))
                .collect();
            let body = serde_json::json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": blobs[of[0]].descriptor("application/vnd.oci.image.config.v1+json"),
                "layers": layers,
            });
            Manifest::new(OCI_MANIFEST, &body)
        };
        let mut manifests = vec![image(&[0, 1]), image(&[1, 2])];
        manifests.push(index(OCI_INDEX, &[&manifests[0], &manifests[1]]));
        Self {
            repositories: repositories.to_vec(),
            blobs,
            manifests,
            names: vec![
                (BTreeSet::from([0, 1]), BTreeSet::new()),
                (BTreeSet::from([1, 2]), BTreeSet::new()),
                (BTreeSet::new(), BTreeSet::from([0, 1])),
            ],
        }
    }
}

/// What a repository holds, all by place.
#[derive(Clone, Debug, Default)]
struct Repository {
    pushed: BTreeSet<usize>,
    manifests: BTreeSet<usize>,
    tags: BTreeMap<&'static str, usize>,
}

impl Repository {
    fn names_blob(&self, world: &World, blob: usize) -> bool {
        self.manifests
            .iter()
            .any(|manifest| world.names[*manifest].0.contains(&blob))
    }

    fn has_blob(&self, world: &World, blob: usize) -> bool {
        self.pushed.contains(&blob) || self.names_blob(world, blob)
    }

    /// Whether it is content of this repository, if only because an index names it.
    fn has_manifest(&self, world: &World, wanted: usize) -> bool {
        self.manifests.contains(&wanted)
            || self
                .manifests
                .iter()
                .any(|manifest| world.names[*manifest].1.contains(&wanted))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(Index, Index),
    /// To, from, what. Without a repository to mount from, any will do.
    Mount(Index, Option<Index>, Index),
    /// Under a tag, or by its digest.
    PushManifest(Index, Option<Index>, Index),
    DeleteTag(Index, Index),
    DeleteManifest(Index, Index),
    DeleteBlob(Index, Index),
    List(Index),
    Read(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let place = any::<Index>;
    let maybe = || prop::option::weighted(0.7, place());
    prop_oneof![
        4 => (place(), place()).prop_map(|(to, blob)| Step::Push(to, blob)),
        3 => (place(), maybe(), place()).prop_map(|(to, from, blob)| Step::Mount(to, from, blob)),
        5 => (place(), maybe(), place())
            .prop_map(|(to, tag, manifest)| Step::PushManifest(to, tag, manifest)),
        1 => (place(), place()).prop_map(|(of, tag)| Step::DeleteTag(of, tag)),
        2 => (place(), place()).prop_map(|(of, manifest)| Step::DeleteManifest(of, manifest)),
        2 => (place(), place()).prop_map(|(of, blob)| Step::DeleteBlob(of, blob)),
        1 => place().prop_map(Step::List),
        1 => place().prop_map(Step::Read),
    ]
}

#[test]
fn repositories_are_what_a_few_sets_are() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registry = runtime.block_on(TestRegistry::start());
    let client = registry.client();
    let config = Config {
        cases: if full() { 500 } else { 24 },
        failure_persistence: None,
        ..Config::default()
    };
    let cases = AtomicU64::new(0);
    let outcome = TestRunner::new(config).run(&vec(step(), 1..40), |steps| {
        let world = World::new(cases.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(play(&client, &world, &steps));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    // What was true of each is true of all, after a restart too.
    let registry = runtime.block_on(registry.restart());
    registry.store().assert_sound();
}

async fn play(client: &Client, world: &World, steps: &[Step]) {
    let mut model = vec![Repository::default(); world.repositories.len()];
    for (turn, step) in steps.iter().enumerate() {
        let shown = format!("step {turn}, {step:?}, {model:?}");
        take(client, world, &mut model, step, &shown).await;
    }
    for (at, repository) in model.iter().enumerate() {
        let shown = format!("at the end of {steps:?}: {repository:?}");
        compare_tags(client, world, at, repository, &shown).await;
        compare_content(client, world, at, repository, &shown).await;
    }
    let listed = whole(client, "/v2/_catalog?n=1000", "repositories", 1000).await;
    let listed: BTreeSet<&String> = listed
        .iter()
        .filter(|name| world.repositories.contains(name))
        .collect();
    let held = world.repositories.iter().zip(&model);
    let held = held.filter(|(_, repository)| !repository.manifests.is_empty());
    let expected: BTreeSet<&String> = held.map(|(name, _)| name).collect();
    assert_eq!(listed, expected, "the catalog at the end of {steps:?}");
}

async fn take(client: &Client, world: &World, model: &mut [Repository], step: &Step, shown: &str) {
    let repository = |index: &Index| index.index(world.repositories.len());
    let blob = |index: &Index| index.index(world.blobs.len());
    let manifest = |index: &Index| index.index(world.manifests.len());
    let path = |at: usize, rest: &str| format!("/v2/{}/{rest}", world.repositories[at]);
    match step {
        Step::Push(to, what) => {
            let (to, what) = (repository(to), blob(what));
            client
                .push_blob(&world.repositories[to], &world.blobs[what])
                .await;
            model[to].pushed.insert(what);
        }
        Step::Mount(to, from, what) => {
            let (to, what) = (repository(to), blob(what));
            let from = from.as_ref().map(repository);
            let readable = match from {
                Some(from) => model[from].has_blob(world, what),
                None => model.iter().any(|any| any.has_blob(world, what)),
            };
            let from = from.map(|from| format!("&from={}", world.repositories[from]));
            let query = format!(
                "blobs/uploads/?mount={}{}",
                world.blobs[what].digest,
                from.unwrap_or_default()
            );
            let answer = client.post(&path(to, &query)).answer().await;
            let expected = if readable { 201 } else { 202 };
            assert_eq!(answer.status, expected, "{shown}: {answer:?}");
            if readable {
                model[to].pushed.insert(what);
            } else {
                let session = answer.header("location");
                client.delete(session).answer().await.expect(204);
            }
        }
        Step::PushManifest(to, tag, what) => {
            let (to, what) = (repository(to), manifest(what));
            let tag = tag.as_ref().map(|tag| *tag.get(&TAGS));
            let reference = tag.unwrap_or(&world.manifests[what].digest);
            let name = &world.repositories[to];
            let answer = client.put_manifest(name, reference, &world.manifests[what]);
            let answer = answer.await;
            let brought = brought(world, model, to, what);
            let expected = if brought.is_some() { 201 } else { 400 };
            assert_eq!(answer.status, expected, "{shown}: {answer:?}");
            match brought {
                Some(brought) => {
                    model[to].manifests.extend(brought);
                    model[to].tags.extend(tag.map(|tag| (tag, what)));
                }
                None => drop(answer.refused(400, "MANIFEST_BLOB_UNKNOWN")),
            }
        }
        Step::DeleteTag(of, tag) => {
            let (of, tag) = (repository(of), *tag.get(&TAGS));
            let delete = client.delete(&path(of, &format!("manifests/{tag}")));
            let answer = delete.answer().await;
            let expected = match model[of].tags.remove(tag) {
                Some(_) => 202,
                None => 404,
            };
            assert_eq!(answer.status, expected, "{shown}: {answer:?}");
        }
        Step::DeleteManifest(of, what) => {
            let (of, what) = (repository(of), manifest(what));
            let digest = &world.manifests[what].digest;
            let delete = client.delete(&path(of, &format!("manifests/{digest}")));
            let answer = delete.answer().await;
            let expected = match model[of].manifests.remove(&what) {
                true => 202,
                false => 404,
            };
            assert_eq!(answer.status, expected, "{shown}: {answer:?}");
            model[of].tags.retain(|_, tagged| *tagged != what);
        }
        Step::DeleteBlob(of, what) => {
            let (of, what) = (repository(of), blob(what));
            let digest = &world.blobs[what].digest;
            let delete = client.delete(&path(of, &format!("blobs/{digest}")));
            let answer = delete.answer().await;
            let expected = match model[of].names_blob(world, what) {
                true => 405,
                false if model[of].pushed.remove(&what) => 202,
                false => 404,
            };
            assert_eq!(answer.status, expected, "{shown}: {answer:?}");
        }
        Step::List(of) => {
            let of = repository(of);
            compare_tags(client, world, of, &model[of], shown).await;
        }
        Step::Read(of) => {
            let of = repository(of);
            compare_content(client, world, of, &model[of], shown).await;
        }
    }
}

/// The manifests that `to` holds more of once `what` is pushed there: itself, and the children it brings from other
/// repositories. `None`: something that it names is nowhere to be had.
fn brought(world: &World, model: &[Repository], to: usize, what: usize) -> Option<BTreeSet<usize>> {
    let (blobs, children) = &world.names[what];
    let had = |blob: &usize| model.iter().any(|any| any.has_blob(world, *blob));
    if !blobs.iter().all(had) {
        return None;
    }
    let mut all = BTreeSet::from([what]);
    for child in children {
        if !model.iter().any(|any| any.has_manifest(world, *child)) {
            return None;
        }
        if !model[to].manifests.contains(child) {
            all.extend(brought(world, model, to, *child)?);
        }
    }
    Some(all)
}

async fn compare_tags(
    client: &Client,
    world: &World,
    of: usize,
    expected: &Repository,
    shown: &str,
) {
    let name = &world.repositories[of];
    let path = format!("/v2/{name}/tags/list?n=2");
    // One that holds nothing may be known or not.
    let listed = match client.get(&path).answer().await.status {
        404 if expected.pushed.is_empty() && expected.manifests.is_empty() => Vec::new(),
        _ => whole(client, &path, "tags", 2).await,
    };
    let tags: Vec<&str> = expected.tags.keys().copied().collect();
    assert_eq!(listed, tags, "{name}, {shown}");
}

async fn compare_content(
    client: &Client,
    world: &World,
    of: usize,
    expected: &Repository,
    shown: &str,
) {
    let name = &world.repositories[of];
    for (at, blob) in world.blobs.iter().enumerate() {
        let held = expected.has_blob(world, at);
        let status = if held { 200 } else { 404 };
        let got = client.get_blob(name, &blob.digest).await;
        assert_eq!(got.status, status, "{name}, blob {at}, {shown}: {got:?}");
        assert!(
            !held || got.body == blob.bytes,
            "{name}, blob {at}, {shown}"
        );
        let head = client.head_blob(name, &blob.digest).await;
        assert_eq!(head.status, status, "{name}, blob {at}, {shown}");
    }
    for (at, manifest) in world.manifests.iter().enumerate() {
        let held = expected.manifests.contains(&at);
        let got = client.get_manifest(name, &manifest.digest).await;
        let status = if held { 200 } else { 404 };
        assert_eq!(
            got.status, status,
            "{name}, manifest {at}, {shown}: {got:?}"
        );
        assert!(!held || got.body == manifest.bytes, "{name}, {at}, {shown}");
    }
    for tag in TAGS {
        let got = client.head_manifest(name, tag).await;
        match expected.tags.get(tag) {
            Some(at) => {
                let digest = got.header("docker-content-digest");
                assert_eq!(
                    digest, world.manifests[*at].digest,
                    "{name}, {tag}, {shown}"
                );
            }
            None => assert_eq!(got.status, 404, "{name}, {tag}, {shown}: {got:?}"),
        }
    }
}
