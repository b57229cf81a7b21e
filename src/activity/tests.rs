//! Requests folded into pulls, with time as it is told.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::{Algorithm, Tag};

struct Job {
    pulls: Pulls,
    start: Instant,
}

/// An image that a client pulls: its manifest names these blobs.
struct Made {
    digest: Digest,
    bytes: Vec<u8>,
    parts: Vec<Digest>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

fn descriptor(digest: &Digest, kind: &str) -> String {
    format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":10}}"#)
}

fn made(names: &[&str]) -> Made {
    let parts: Vec<Digest> = names.iter().map(|name| digest(name)).collect();
    let config = descriptor(&parts[0], "application/vnd.oci.image.config.v1+json");
    let layers: Vec<String> = parts[1..]
        .iter()
        .map(|part| descriptor(part, "application/vnd.oci.image.layer.v1.tar+gzip"))
        .collect();
    let layers = layers.join(",");
    let bytes = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{layers}]}}"#
    );
    Made {
        digest: digest(&bytes),
        bytes: bytes.into_bytes(),
        parts,
    }
}

fn index(children: &[&Made]) -> Made {
    let parts: Vec<Digest> = children.iter().map(|child| child.digest.clone()).collect();
    let children: Vec<String> = parts
        .iter()
        .map(|part| descriptor(part, MANIFEST))
        .collect();
    let children = children.join(",");
    let bytes = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{children}]}}"#);
    Made {
        digest: digest(&bytes),
        bytes: bytes.into_bytes(),
        parts,
    }
}

fn name(text: &str) -> CanonicalName {
    CanonicalName::new("quay.io".parse().unwrap(), text.parse().unwrap())
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

impl Job {
    fn new() -> Self {
        Self {
            pulls: Pulls::default(),
            start: Instant::now(),
        }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn asked<'a>(&self, name: &'a CanonicalName, ms: u64) -> Asked<'a> {
        Asked {
            name,
            at: self.at(ms),
            waited: Duration::ZERO,
        }
    }

    fn head(&mut self, of: &str, called: &str, image: &Made, ms: u64) {
        let of = name(of);
        let (asked, now) = (self.asked(&of, ms), self.at(ms));
        self.pulls
            .described(asked, &tag(called), &image.digest, now);
    }

    /// A manifest that is sent at once, by tag or, without one, by digest.
    fn manifest(&mut self, of: &str, called: Option<&str>, image: &Made, origin: Origin, ms: u64) {
        let of = name(of);
        let reference = match called {
            Some(called) => Reference::Tag(tag(called)),
            None => Reference::Digest(image.digest.clone()),
        };
        let found = FoundManifest {
            reference: &reference,
            digest: &image.digest,
            media_type: MANIFEST,
            bytes: &image.bytes,
            origin,
        };
        let tree = Arc::new(Tree::read(&image.bytes, "application/json"));
        let (asked, now) = (self.asked(&of, ms), self.at(ms));
        let ticket = self.pulls.manifest(asked, found, tree, now);
        self.pulls.ended(&ticket, self.at(ms));
    }

    fn blob(&mut self, of: &str, digest: &Digest, origin: Origin, ms: u64) {
        let of = name(of);
        let (asked, now) = (self.asked(&of, ms), self.at(ms));
        let ticket = self.pulls.blob(asked, digest, origin, now);
        ticket.flow.bytes.fetch_add(10, Ordering::Relaxed);
        self.pulls.ended(&ticket, self.at(ms + 1));
    }

    fn blobs(&mut self, of: &str, image: &Made, origin: Origin, ms: u64) {
        for digest in &image.parts {
            self.blob(of, digest, origin, ms);
        }
    }

    /// `name x pulls = bytes` of each image.
    fn told(&self) -> Vec<String> {
        let (images, _) = self.pulls.snapshot(self.start, self.at(1_000_000));
        let told = images.iter().map(|image| {
            let called = called(&image.name, image.reference.as_ref());
            format!("{called} x{} = {}", image.from.pulls(), image.bytes)
        });
        told.collect()
    }
}

#[test]
fn requests_belong_to_the_pull_that_names_and_lacks_them() {
    let mut job = Job::new();
    let (amd, arm) = (made(&["c1", "l1", "base"]), made(&["c2", "l2", "base"]));
    let index = index(&[&amd, &arm]);
    job.manifest("acme/app", Some("v1"), &index, Origin::Cache, 0);
    job.manifest("acme/app", None, &amd, Origin::Upstream, 1);
    job.blobs("acme/app", &amd, Origin::Upstream, 2);
    assert_eq!(job.told(), ["quay.io/acme/app:v1 x1 = 30"]);
    let (images, _) = job.pulls.snapshot(job.start, job.at(50));
    assert_eq!(
        images[0].from.of(Origin::Upstream),
        1,
        "a part of it was fetched"
    );
    assert_eq!(images[0].spans[0].took(), Duration::from_millis(3));
    // A second client at the same time, and a base layer that both images have.
    job.manifest("acme/app", Some("v1"), &index, Origin::Cache, 10);
    job.manifest("acme/app", None, &amd, Origin::Cache, 11);
    job.manifest("acme/app", Some("v2"), &arm, Origin::Cache, 12);
    job.blobs("acme/app", &arm, Origin::Cache, 13);
    job.blobs("acme/app", &amd, Origin::Cache, 14);
    assert_eq!(
        job.told(),
        ["quay.io/acme/app:v1 x2 = 60", "quay.io/acme/app:v2 x1 = 30"]
    );
}

#[test]
fn a_digest_is_called_by_the_tag_that_was_asked_for() {
    let mut job = Job::new();
    let image = made(&["c", "l"]);
    job.head("acme/app", "v1", &image, 0);
    job.head("acme/other", "v2", &image, 0);
    job.manifest("acme/app", None, &image, Origin::Upstream, 500);
    job.blobs("acme/app", &image, Origin::Upstream, 600);
    assert_eq!(job.told(), ["quay.io/acme/app:v1 x1 = 20"]);
    let (images, _) = job.pulls.snapshot(job.start, job.at(1000));
    assert_eq!(
        images[0].spans[0].began,
        Duration::ZERO,
        "it begins with the question"
    );
    // Once the hint is used up, a digest is a digest.
    job.manifest("acme/app", None, &image, Origin::Cache, 700);
    let by_digest = format!("quay.io/acme/app@{} x1 = 0", image.digest);
    assert_eq!(job.told(), ["quay.io/acme/app:v1 x1 = 20", &by_digest]);
}

#[test]
fn layers_without_their_manifest_have_a_place_as_well() {
    let mut job = Job::new();
    let image = made(&["c", "l"]);
    job.blob("acme/app", &image.parts[1], Origin::Cache, 0);
    job.blob("acme/app", &image.parts[0], Origin::Cache, 1);
    assert_eq!(job.told(), ["quay.io/acme/app x1 = 20"]);
    // One that comes back long after is no second pull.
    job.manifest("acme/late", Some("v1"), &image, Origin::Upstream, 10);
    job.blob("acme/late", &image.parts[0], Origin::Upstream, 11);
    assert!(!job.pulls.settle(job.at(100_000), false));
    job.blob("acme/late", &image.parts[1], Origin::Upstream, 200_000);
    assert_eq!(job.told()[1], "quay.io/acme/late:v1 x1 = 20");
}

#[test]
fn what_is_kept_is_bounded_and_the_rest_counted() {
    let mut job = Job::new();
    let image = made(&["c", "l"]);
    let many = pulls::IMAGES + 50;
    for n in 0..many {
        let of = format!("acme/app{n}");
        job.manifest(&of, Some("v1"), &image, Origin::Upstream, n as u64);
        job.blobs(&of, &image, Origin::Upstream, n as u64);
    }
    for n in 0..500 {
        job.manifest("acme/app0", Some("v1"), &image, Origin::Cache, 10_000 + n);
    }
    let (images, left_out) = job.pulls.snapshot(job.start, job.at(20_000));
    assert_eq!(images.len(), pulls::IMAGES);
    assert_eq!(left_out.of(Origin::Upstream), 50);
    assert_eq!(images[0].from.pulls(), 501);
    assert!(images[0].spans.len() < 200, "{}", images[0].spans.len());
}

#[test]
fn the_children_of_an_index_are_one_push_with_it() {
    let mut pushes = Pushes::default();
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let app = name("acme/app");
    let (amd, arm) = (made(&["c1", "l1"]), made(&["c2", "l2"]));
    let both = index(&[&amd, &arm]);
    for (n, child) in (0..).zip([&amd, &arm]) {
        pushes.uploading(&app, at(n * 100));
        for part in &child.parts {
            pushes.uploaded(&app, part, 10, at(n * 100 + 10));
        }
        let parts: Vec<_> = child.parts.iter().map(|part| (part.clone(), 10)).collect();
        let push = FoundPush {
            name: &app,
            reference: &Reference::Digest(child.digest.clone()),
            digest: &child.digest,
            size: 5,
            parts: &parts,
        };
        pushes.pushed(push, at(n * 100 + 20));
    }
    assert!(pushes.settle(at(300), false), "nothing is told of them yet");
    let parts: Vec<_> = both.parts.iter().map(|part| (part.clone(), 5)).collect();
    let push = FoundPush {
        name: &app,
        reference: &Reference::Tag(tag("v1")),
        digest: &both.digest,
        size: 7,
        parts: &parts,
    };
    pushes.pushed(push, at(400));
    let (images, left_out) = pushes.snapshot(start);
    let [image] = &images[..] else {
        panic!("{images:?}");
    };
    assert_eq!(
        (image.pushes, image.size, image.uploaded, left_out),
        (1, 57, 57, 0)
    );
    assert_eq!(image.took(), Duration::from_millis(400));
}

#[test]
fn troubles_are_told_first_and_last() {
    let mut troubles = Troubles::default();
    for n in 0..3 {
        let message = format!("it answered 50{n}\n{}", "x".repeat(1000));
        troubles.add(
            "quay.io",
            Outcome::Refused,
            &message,
            Duration::from_secs(n),
        );
    }
    let all = troubles.all();
    assert_eq!((all.len(), all[0].count), (1, 3));
    assert!(
        all[0].first.1.starts_with("it answered 500 xxx"),
        "{:?}",
        all[0].first
    );
    assert!(
        all[0].last.1.starts_with("it answered 502 xxx"),
        "{:?}",
        all[0].last
    );
    assert!(all[0].last.1.chars().count() < 500);
}
