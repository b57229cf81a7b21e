//! Seeding: each source is opened as an origin, its images get their names, and the walk carries them.

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::{Mutex, PoisonError},
};

use super::{
    Choice, Destination, Error, Image, ImageName, Observer, Origin, Pace, Seed, SeedName, Selector,
    Source, Walk, Wanted,
    docker::DockerArchive,
    files::Files,
    input::Spooled,
    layout::{INDEX_FILE, Layout, VERSION_FILE},
    stored,
    tarball::Tarball,
};
use crate::types::{Digest, RepositoryName, Tag};

/// Puts seeds into one destination.
pub struct Seeder<'a> {
    pub destination: &'a dyn Destination,
    /// Of images that the destination can have from elsewhere.
    pub pulled: &'a Pulled<'a>,
    pub observer: &'a dyn Observer,
    pub pace: &'a Pace,
}

/// The images that the destination pulls through by such names.
pub type Pulled<'a> = dyn Fn(Wanted) -> Result<Box<dyn Origin + 'a>, Error> + Sync + 'a;

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

/// Told of each image once it can be pulled.
type Done<'a> = &'a mut dyn FnMut(SeededImage);

impl Seeder<'_> {
    /// Carries all that `seed` means; `done` hears of each image once it can be pulled.
    ///
    /// # Errors
    /// The first failure. The images told of before are there.
    pub fn seed(&self, seed: &Seed, done: Done<'_>) -> Result<(), Error> {
        let manifest_limit = self.pace.manifest_limit;
        let scratch = || self.destination.scratch();
        match &seed.source {
            Source::Layout { dir, tag } => {
                let layout = Layout::in_directory(dir, manifest_limit)?;
                self.layout(seed, &layout, tag.as_ref(), done)
            }
            Source::OciArchive { input, tag } => {
                let spooled = Spooled::of(input, &scratch, &self.pace.cancel)?;
                let files = Tarball::new(spooled)?;
                let layout = Layout::open(files, manifest_limit)?;
                self.layout(seed, &layout, tag.as_ref(), done)
            }
            Source::DockerArchive { input, image } => {
                let spooled = Spooled::of(input, &scratch, &self.pace.cancel)?;
                self.docker(seed, spooled, image.as_ref(), done)
            }
            Source::DockerDaemon(_) | Source::ContainersStorage(_) => {
                match stored::saved(&seed.source, &scratch, &self.pace.cancel) {
                    Some(saved) => self.docker(seed, saved?, None, done),
                    None => Ok(()),
                }
            }
            Source::Registry(wanted) => self.pulled(seed, wanted, done),
        }
    }

    fn layout<F: Files>(
        &self,
        seed: &Seed,
        layout: &Layout<F>,
        only: Option<&Tag>,
        done: Done<'_>,
    ) -> Result<(), Error> {
        let mut images = layout.images()?;
        if let Some(only) = only {
            images.retain(|image| image.name.tag.as_ref() == Some(only));
        }
        if images.is_empty() {
            let what = only.map_or_else(
                || "no image at all".to_owned(),
                |tag| format!("no image tagged {tag}"),
            );
            return Err(layout.files().wrong(INDEX_FILE, format!("it names {what}")));
        }
        self.of_layout(seed, layout, &images, &seed.choice(), done)
    }

    fn of_layout<F: Files>(
        &self,
        seed: &Seed,
        layout: &Layout<F>,
        images: &[Image],
        choice: &Choice,
        done: Done<'_>,
    ) -> Result<(), Error> {
        // An index has an entry for each name of an image.
        let mut distinct: Vec<&Image> = Vec::new();
        let mut own: Vec<(Vec<ImageName>, &Digest)> = Vec::new();
        for image in images {
            let digest = &image.root.digest;
            match own.iter_mut().find(|(_, known)| *known == digest) {
                Some((names, _)) => names.push(image.name.clone()),
                None => {
                    distinct.push(image);
                    own.push((vec![image.name.clone()], digest));
                }
            }
        }
        let names = names(seed, layout.files().stem(), &own);
        let names = names.map_err(|why| layout.files().wrong(INDEX_FILE, why))?;
        let walk = self.walk(layout);
        for (image, names) in distinct.into_iter().zip(&names) {
            carry(&walk, image, choice, names, (0, 0), done)?;
        }
        Ok(())
    }

    /// What docker saves, in the form of any of its versions.
    fn docker(
        &self,
        seed: &Seed,
        spooled: Spooled,
        only: Option<&Selector>,
        done: Done<'_>,
    ) -> Result<(), Error> {
        let files = Tarball::new(spooled)?;
        let is_layout = files.open(VERSION_FILE)?.is_some() && files.open(INDEX_FILE)?.is_some();
        if is_layout && seed.layers.is_none() {
            let layout = Layout::open(files, self.pace.manifest_limit)?;
            return self.docker_layout(seed, &layout, only, done);
        }
        let scratch = || -> io::Result<File> { self.destination.scratch() };
        let layers = seed.layers.unwrap_or_default();
        let archive = DockerArchive::new(files, layers, &scratch, self.observer, self.pace)?;
        let wrong = |why: String| archive.files().wrong("", why);
        let mut chosen: Vec<(usize, Vec<ImageName>)> = Vec::new();
        for (nth, listed) in archive.listed().iter().enumerate() {
            let names = meant(only, nth, &listed.names);
            if !names.is_empty() && seed.means(listed.platform.as_ref()) {
                chosen.push((nth, names));
            }
        }
        if chosen.is_empty() {
            let names = archive.listed().iter().flat_map(|listed| &listed.names);
            return Err(wrong(none_meant(seed, only, names)));
        }
        let listed = archive.listed();
        let own: Vec<(Vec<ImageName>, &Digest)> = chosen
            .iter()
            .map(|(nth, names)| (names.clone(), &listed[*nth].id))
            .collect();
        let names = names(seed, archive.files().stem(), &own).map_err(wrong)?;
        let walk = self.walk(&archive);
        for ((nth, _), names) in chosen.iter().zip(&names) {
            let Some(first) = names.first() else {
                continue;
            };
            self.observer.begins(&first.repository, first.tags.first());
            let sent = Mutex::new((0, 0));
            let image = archive.prepare(*nth, &|blob, content| {
                if walk.send_ahead(&first.repository, blob, content)? {
                    let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                    *sent = (sent.0 + 1, sent.1 + blob.size);
                }
                Ok(())
            })?;
            let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
            carry(&walk, &image, &Choice::Whole, names, sent, done)?;
        }
        Ok(())
    }

    /// Docker's own manifests, of which an index may name more than was saved.
    fn docker_layout(
        &self,
        seed: &Seed,
        layout: &Layout<Tarball>,
        only: Option<&Selector>,
        done: Done<'_>,
    ) -> Result<(), Error> {
        let mut distinct: Vec<Digest> = Vec::new();
        let mut chosen = Vec::new();
        let all = layout.images()?;
        for image in &all {
            let nth = distinct
                .iter()
                .position(|known| *known == image.root.digest);
            let nth = nth.unwrap_or_else(|| {
                distinct.push(image.root.digest.clone());
                distinct.len() - 1
            });
            if !meant(only, nth, std::slice::from_ref(&image.name)).is_empty() {
                chosen.push(image.clone());
            }
        }
        if chosen.is_empty() {
            let why = none_meant(seed, only, all.iter().map(|image| &image.name));
            return Err(layout.files().wrong("", why));
        }
        let choice = match seed.platforms.is_empty() {
            true => Choice::Present,
            false => seed.choice(),
        };
        self.of_layout(seed, layout, &chosen, &choice, done)
    }

    /// An image that the destination pulls through, which is the job's own from now on.
    fn pulled(&self, seed: &Seed, wanted: &Wanted, done: Done<'_>) -> Result<(), Error> {
        let tagged = seed.name.as_ref().is_some_and(|name| name.tag.is_some());
        if wanted.tag.is_none() && !tagged && seed.tags.is_empty() {
            return Err(Error::Origin {
                place: format!("docker://{wanted}"),
                why:
                    "it has no tag: say which one it is to get, as in docker://NAME@DIGEST=NAME:TAG"
                        .to_owned(),
            });
        }
        let origin = (self.pulled)(wanted.clone())?;
        let walk = self.walk(&*origin);
        for image in origin.images()? {
            let own = [(vec![image.name.clone()], &image.root.digest)];
            let names = names(seed, None, &own).map_err(|why| Error::Origin {
                place: format!("docker://{wanted}"),
                why,
            })?;
            walk.fetch(&image, &seed.choice())?;
            for names in &names {
                carry(&walk, &image, &seed.choice(), names, (0, 0), done)?;
            }
        }
        Ok(())
    }

    fn walk<'b>(&'b self, origin: &'b dyn Origin) -> Walk<'b> {
        Walk {
            origin,
            destination: self.destination,
            observer: self.observer,
            pace: self.pace,
        }
    }
}

/// One image under each of its names. `sent` are blobs and bytes that went ahead of it.
fn carry(
    walk: &Walk<'_>,
    image: &Image,
    choice: &Choice,
    names: &[Name],
    mut sent: (usize, u64),
    done: Done<'_>,
) -> Result<(), Error> {
    for name in names {
        let copied = walk.copy(image, choice, &name.repository, &name.tags)?;
        sent = (sent.0 + copied.blobs, sent.1 + copied.bytes);
        for tag in &name.tags {
            // What was sent is told of once.
            let (blobs, bytes) = std::mem::take(&mut sent);
            done(SeededImage {
                name: name.repository.clone(),
                tag: tag.clone(),
                digest: copied.digest.clone(),
                blobs,
                bytes,
            });
        }
    }
    Ok(())
}

/// Which of an image's names are asked for; none if the image is not.
fn meant(only: Option<&Selector>, nth: usize, names: &[ImageName]) -> Vec<ImageName> {
    match only {
        None => names.to_vec(),
        Some(Selector::Index(index)) if *index == nth => names.to_vec(),
        Some(Selector::Index(_)) => Vec::new(),
        Some(Selector::Name(wanted)) => {
            let same = |name: &&ImageName| {
                let repository = name.repository.as_ref();
                repository.is_some_and(|name| plain(name) == plain(&wanted.repository))
                    && (wanted.tag.is_none() || name.tag == wanted.tag)
            };
            names.iter().filter(same).cloned().collect()
        }
    }
}

/// A name without what it may lack: docker and podman write `app`, `docker.io/library/app` and `localhost/app`.
fn plain(name: &RepositoryName) -> &str {
    let name = name.as_str();
    let short = ["docker.io/library/", "docker.io/", "library/", "localhost/"];
    let rest = short.iter().find_map(|prefix| name.strip_prefix(prefix));
    rest.unwrap_or(name)
}

fn none_meant<'a>(
    seed: &Seed,
    only: Option<&Selector>,
    names: impl Iterator<Item = &'a ImageName>,
) -> String {
    let shown = |name: &ImageName| {
        let repository = name.repository.clone()?;
        let tag = name.tag.clone();
        Some(SeedName { repository, tag }.to_string())
    };
    let there: Vec<String> = names.filter_map(shown).collect();
    let there = match there.is_empty() {
        true => "images without names".to_owned(),
        false => there.join(", "),
    };
    let platforms: Vec<String> = seed.platforms.iter().map(ToString::to_string).collect();
    match (only, platforms.is_empty()) {
        (None, true) => "it names no image at all".to_owned(),
        (Some(only), true) => format!("it has no image {only}; it has {there}"),
        (None, false) => format!(
            "it has no image for {}; it has {there}",
            platforms.join(", ")
        ),
        (Some(only), false) => format!(
            "it has no image {only} for {}; it has {there}",
            platforms.join(", ")
        ),
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
            "it names {} images, and one name can't be given to all: choose one of them, by its tag or its name",
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
                        "two of its images would be called {name}: choose one of them, by its tag or its name"
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
