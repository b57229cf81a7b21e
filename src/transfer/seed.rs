//! Seeding: each source is opened as an origin, its images get their names, and the walk carries them.

use std::collections::HashMap;

use super::{
    Choice, Destination, Error, Image, ImageName, Observer, Origin, Pace, Seed, Source, Walk,
    files::Files,
    layout::{INDEX_FILE, Layout},
};
use crate::types::{Digest, RepositoryName, Tag};

/// Puts seeds into one destination.
pub struct Seeder<'a> {
    pub destination: &'a dyn Destination,
    pub observer: &'a dyn Observer,
    pub pace: &'a Pace,
}

/// An image that can be pulled now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeededImage {
    pub name: RepositoryName,
    pub tag: Tag,
    pub digest: Digest,
    /// Blobs that had to be sent, and their bytes.
    pub blobs: usize,
    pub bytes: u64,
}

impl Seeder<'_> {
    /// Carries all that `seed` means; `done` hears of each image once it can be pulled.
    ///
    /// # Errors
    /// The first failure. The images told of before are there.
    pub fn seed(&self, seed: &Seed, done: &mut dyn FnMut(SeededImage)) -> Result<(), Error> {
        match &seed.source {
            Source::Layout { dir, tag } => {
                let layout = Layout::in_directory(dir, self.pace.manifest_limit)?;
                self.layout(seed, &layout, tag.as_ref(), done)
            }
            Source::OciArchive { file, tag } => {
                let layout = Layout::in_archive(file, self.pace.manifest_limit)?;
                self.layout(seed, &layout, tag.as_ref(), done)
            }
        }
    }

    fn layout<F: Files>(
        &self,
        seed: &Seed,
        layout: &Layout<F>,
        only: Option<&Tag>,
        done: &mut dyn FnMut(SeededImage),
    ) -> Result<(), Error> {
        let mut images = layout.images()?;
        let wrong = |why: String| layout.files().wrong(INDEX_FILE, why);
        if let Some(only) = only {
            images.retain(|image| image.name.tag.as_ref() == Some(only));
        }
        if images.is_empty() {
            let what = only.map_or_else(
                || "no image at all".to_owned(),
                |tag| format!("no image tagged {tag}"),
            );
            return Err(wrong(format!("it names {what}")));
        }
        let own: Vec<(Vec<ImageName>, &Digest)> = images
            .iter()
            .map(|image| (vec![image.name.clone()], &image.root.digest))
            .collect();
        let names = names(seed, layout.files().stem(), &own).map_err(wrong)?;
        for (image, names) in images.iter().zip(&names) {
            self.carry(layout, image, &seed.choice(), names, done)?;
        }
        Ok(())
    }

    /// One image under each of its names.
    fn carry(
        &self,
        origin: &dyn Origin,
        image: &Image,
        choice: &Choice,
        names: &[Name],
        done: &mut dyn FnMut(SeededImage),
    ) -> Result<(), Error> {
        let walk = Walk {
            origin,
            destination: self.destination,
            observer: self.observer,
            pace: self.pace,
        };
        for name in names {
            let copied = walk.copy(image, choice, &name.repository, &name.tags)?;
            for (nth, tag) in name.tags.iter().enumerate() {
                done(SeededImage {
                    name: name.repository.clone(),
                    tag: tag.clone(),
                    digest: copied.digest.clone(),
                    // What was sent is told of once.
                    blobs: if nth == 0 { copied.blobs } else { 0 },
                    bytes: if nth == 0 { copied.bytes } else { 0 },
                });
            }
        }
        Ok(())
    }
}

/// A repository, and the tags that an image gets there: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    repository: RepositoryName,
    tags: Vec<Tag>,
}

/// What each image is to be called. `own` are the names that the source gives it, at least one that may be empty, and what
/// tells it from the others; `stem` stands in for a repository that neither gives.
fn names<T: PartialEq>(
    seed: &Seed,
    stem: Option<String>,
    own: &[(Vec<ImageName>, T)],
) -> Result<Vec<Vec<Name>>, String> {
    let given = seed.name.as_ref();
    let mut tags: Vec<Tag> = given
        .and_then(|name| name.tag.clone())
        .into_iter()
        .collect();
    tags.extend(seed.tags.iter().cloned());
    if !tags.is_empty() && own.len() > 1 {
        return Err(format!(
            "it names {} images, and one name can't be given to all: choose one by its tag",
            own.len()
        ));
    }
    let mut all: Vec<Vec<Name>> = Vec::new();
    for (names, _) in own {
        let mut chosen: Vec<Name> = Vec::new();
        for name in names {
            let repository = match (given, &name.repository) {
                (Some(given), _) => given.repository.clone(),
                (None, Some(repository)) => repository.clone(),
                (None, None) => of_stem(stem.as_deref())?,
            };
            let tags = match tags.is_empty() {
                false => tags.clone(),
                true => vec![name.tag.clone().map_or_else(latest, Ok)?],
            };
            match chosen.iter_mut().find(|name| name.repository == repository) {
                Some(same) => {
                    for tag in tags {
                        if !same.tags.contains(&tag) {
                            same.tags.push(tag);
                        }
                    }
                }
                None => chosen.push(Name { repository, tags }),
            }
        }
        all.push(chosen);
    }
    let flat = |names: &[Name]| {
        let pairs = names.iter().flat_map(|name| {
            let tags = name.tags.iter();
            tags.map(|tag| format!("{}:{tag}", name.repository))
        });
        pairs.collect::<Vec<String>>()
    };
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (nth, names) in all.iter().enumerate() {
        for name in flat(names) {
            match seen.get(&name) {
                Some(first) if own[*first].1 != own[nth].1 => {
                    return Err(format!(
                        "two of its images would be called {name}: choose one by its tag"
                    ));
                }
                _ => {
                    seen.insert(name, nth);
                }
            }
        }
    }
    Ok(all)
}

fn of_stem(stem: Option<&str>) -> Result<RepositoryName, String> {
    let nameless = |why: String| format!("{why}: name the image, as in SOURCE=NAME:TAG");
    let stem = stem.ok_or_else(|| nameless("it gives its image no name".to_owned()))?;
    let stem = stem.to_ascii_lowercase();
    stem.parse()
        .map_err(|error: crate::types::InvalidName| nameless(error.to_string()))
}

fn latest() -> Result<Tag, String> {
    "latest"
        .parse()
        .map_err(|error: crate::types::InvalidReference| error.to_string())
}
