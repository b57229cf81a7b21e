//! Which part of an image is meant, and whether an image is what is asked for.

use std::{
    collections::{HashMap, HashSet},
    io::Read as _,
};

use super::{Tree, Walk};
use crate::{
    transfer::{
        Error, Image, Verified,
        platform::{self, Child, Platform},
    },
    types::{Descriptor, Digest, Kind, Role},
};

/// Which part of an index is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// All that it names.
    #[default]
    Whole,
    /// What it names for these platforms; none that it lacks.
    Platforms(Vec<Platform>),
    /// What the origin has of it.
    Present,
}

impl Walk<'_> {
    /// The manifest that is to be the image, and in the tree what of an index is left out.
    pub(super) fn choose(
        &self,
        image: &Image,
        choice: &Choice,
        tree: &mut Tree,
    ) -> Result<Descriptor, Error> {
        let root = &image.root;
        if *choice == Choice::Whole {
            return Ok(root.clone());
        }
        let bytes = self.bytes(image, root)?;
        let manifest = self.parse(root, &bytes)?;
        if manifest.kind != Kind::Index {
            if let (Choice::Platforms(asked), Some(config)) = (choice, manifest.config()) {
                self.suits(image, config, asked)?;
            }
            return Ok(root.clone());
        }
        let children = platform::children(&bytes);
        let mut by_digest: HashMap<&Digest, Vec<&Child>> = HashMap::new();
        for child in &children {
            by_digest.entry(&child.digest).or_default().push(child);
        }
        let those = |digest: &Digest| by_digest.get(digest).into_iter().flatten();
        let is_manifest = |reference: &&Descriptor| reference.role == Role::Manifest;
        let about = |digest: &Digest| {
            let child = those(digest).next();
            child.and_then(|child| child.about.clone())
        };
        let mut kept: Vec<&Descriptor> = Vec::new();
        for reference in manifest.references.iter().filter(is_manifest) {
            let meant = match choice {
                Choice::Whole => true,
                Choice::Present => self.origin.has(reference)?,
                Choice::Platforms(platforms) => those(&reference.digest)
                    .filter_map(|child| child.platform.as_ref())
                    .any(|offered| platforms.iter().any(|asked| asked.matches(offered))),
            };
            if meant {
                kept.push(reference);
            }
        }
        if *choice == Choice::Present && kept.len() == manifest.references.len() {
            return Ok(root.clone());
        }
        let images: Vec<&&Descriptor> = kept
            .iter()
            .filter(|reference| about(&reference.digest).is_none())
            .collect();
        match images[..] {
            [] => Err(self.none_meant(root, choice, &children)),
            [only] => Ok((*only).clone()),
            _ => {
                let kept: HashSet<&Digest> = images.iter().map(|image| &image.digest).collect();
                let left_out = manifest.references.iter().filter(|reference| {
                    let subject = about(&reference.digest);
                    let subject = subject.as_ref().unwrap_or(&reference.digest);
                    !kept.contains(subject)
                });
                tree.left_out = left_out.map(|reference| reference.digest.clone()).collect();
                Ok(root.clone())
            }
        }
    }

    /// Fails if the config of an image says that it is for a platform that is not asked for.
    fn suits(&self, image: &Image, config: &Descriptor, asked: &[Platform]) -> Result<(), Error> {
        // What is larger is of something else than an image.
        if config.role != Role::Blob || config.size > self.pace.manifest_limit as u64 {
            return Ok(());
        }
        let mut bytes = Vec::new();
        Verified::new(self.origin.blob(image, config)?, config)
            .read_to_end(&mut bytes)
            .map_err(|error| self.wrong(config, error.to_string()))?;
        match platform::of_config(&bytes) {
            Some(own) if !asked.iter().any(|asked| asked.matches(&own)) => {
                let asked: Vec<String> = asked.iter().map(Platform::to_string).collect();
                let why = format!("it is for {own}, and not for {}", asked.join(", "));
                Err(self.wrong(&image.root, why))
            }
            _ => Ok(()),
        }
    }

    fn none_meant(&self, root: &Descriptor, choice: &Choice, children: &[Child]) -> Error {
        let listed = |platforms: &mut dyn Iterator<Item = &Platform>| {
            let listed: Vec<String> = platforms.map(Platform::to_string).collect();
            listed.join(", ")
        };
        let named = listed(&mut children.iter().filter_map(|child| child.platform.as_ref()));
        let why = match choice {
            Choice::Platforms(platforms) => format!(
                "it names no image for {}; it has {named}",
                listed(&mut platforms.iter())
            ),
            _ => format!("none of the images that it names is there whole; it names {named}"),
        };
        self.wrong(root, why)
    }
}
