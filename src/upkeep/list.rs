//! What there is, image by image, and in all.

use std::collections::{BTreeMap, BTreeSet};

use super::{Image, images::Manifests};
use crate::{
    storage::{Odd, Store},
    types::{Digest, Namespace, Pattern},
};

/// What a data directory holds.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub images: Vec<Listed>,
    /// Of the whole directory, whichever images are listed.
    pub totals: Totals,
    /// What could not be read, or is none of standin's.
    pub odd: Vec<Odd>,
}

#[derive(Clone, Debug)]
pub struct Listed {
    pub image: Image,
    /// Bytes of it that are here and that other images name too: they stay when it goes.
    pub shared: u64,
}

/// Bytes of content, each content once. What is local and what is cached add up to all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub images: usize,
    pub bytes: u64,
    /// Something in `_local` holds it: it is never evicted.
    pub local: u64,
    pub cached: u64,
    /// More than one image names it.
    pub shared: u64,
    /// No image names it.
    pub unnamed: u64,
    /// What repairs set aside; not among the rest.
    pub quarantined: u64,
}

/// Lists the images whose names some pattern matches; without patterns all.
pub fn list(store: &Store, patterns: &[Pattern]) -> Listing {
    let survey = store.survey(false);
    let images = Manifests::new(store, &survey).images();
    let mut namers: BTreeMap<&Digest, usize> = BTreeMap::new();
    for image in &images {
        for digest in image.named.keys() {
            *namers.entry(digest).or_default() += 1;
        }
    }
    let local: BTreeSet<&Digest> = survey
        .repositories
        .iter()
        .filter(|((namespace, _), _)| *namespace == Namespace::Local)
        .flat_map(|(_, repository)| repository.manifests.keys().chain(repository.members.keys()))
        .collect();
    let mut totals = Totals {
        images: images.len(),
        quarantined: survey.quarantined,
        ..Totals::default()
    };
    for (digest, content) in &survey.contents {
        totals.bytes += content.size;
        match local.contains(digest) {
            true => totals.local += content.size,
            false => totals.cached += content.size,
        }
        match namers.get(digest) {
            None => totals.unnamed += content.size,
            Some(1) => {}
            Some(_) => totals.shared += content.size,
        }
    }
    let shared = |image: &Image| {
        let bytes = image
            .named
            .iter()
            .filter(|(digest, _)| namers.get(digest).is_some_and(|namers| *namers > 1));
        bytes.filter_map(|(_, here)| *here).sum()
    };
    let chosen = |image: &&Image| {
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(&image.name))
    };
    let images = images.iter().filter(chosen).map(|image| Listed {
        shared: shared(image),
        image: image.clone(),
    });
    Listing {
        images: images.collect(),
        totals,
        odd: survey.odd,
    }
}
