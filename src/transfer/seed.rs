//! Seeding: each source is opened as an origin, its images get their names, and the walk carries them.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    sync::{Mutex, PoisonError},
};

use super::{
    Choice, Copied, Destination, Error, Image, ImageName, Observer, Origin, Pace, Seed, SeedName,
    Selector, Source, Walk, Wanted,
    docker::{self, DockerArchive},
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
        let mut at: HashMap<&Digest, usize> = HashMap::new();
        for image in images {
            let digest = &image.root.digest;
            let nth = *at.entry(digest).or_insert_with(|| {
                distinct.push(image);
                own.push((Vec::new(), digest));
                own.len() - 1
            });
            own[nth].0.push(image.name.clone());
        }
        let names = self.names(seed, layout.files().stem(), &own);
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
            let names = meant(only, Some(nth), &listed.names);
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
        let names = self.names(seed, archive.files().stem(), &own);
        let names = names.map_err(wrong)?;
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
        let mut chosen = Vec::new();
        let all = layout.images()?;
        let numbers = match only {
            Some(Selector::Index(_)) => numbers(layout, &all)?,
            None | Some(Selector::Name(_)) => vec![None; all.len()],
        };
        for (image, nth) in all.iter().zip(numbers) {
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
            let names = self.names(seed, None, &own).map_err(|why| Error::Origin {
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

    /// What each image is to be called. `own` are the names that the source gives it, at least one that may be empty, and
    /// what tells it from the others; `stem` stands in for a repository that neither gives.
    fn names<T: PartialEq>(
        &self,
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
        // By what the destination makes of a name: whose it is, and how that one spells it.
        let mut taken: HashMap<(String, Tag), (usize, RepositoryName)> = HashMap::new();
        for (nth, (names, this)) in own.iter().enumerate() {
            let mut chosen: Vec<Name> = Vec::new();
            let mut at: HashMap<RepositoryName, usize> = HashMap::new();
            let mut known: HashSet<(usize, Tag)> = HashSet::new();
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
                let place = *at.entry(repository.clone()).or_insert_with(|| {
                    chosen.push(Name {
                        repository: repository.clone(),
                        tags: Vec::new(),
                    });
                    chosen.len() - 1
                });
                for tag in tags {
                    if !known.insert((place, tag.clone())) {
                        continue;
                    }
                    let meant = (self.destination.identity(&repository), tag.clone());
                    let (other, spelled) = taken
                        .entry(meant)
                        .or_insert_with(|| (nth, repository.clone()));
                    if own[*other].1 != *this {
                        let also = match *spelled == repository {
                            true => String::new(),
                            false => format!(", which {spelled}:{tag} means as well"),
                        };
                        return Err(format!(
                            "two of its images would be called {repository}:{tag}{also}: choose one of them, by its tag or its name"
                        ));
                    }
                    chosen[place].tags.push(tag);
                }
            }
            all.push(chosen);
        }
        Ok(all)
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
        let mut first = true;
        let mut visible = |tag: &Tag, copied: &Copied| {
            // What was sent is told of once.
            let (mut blobs, mut bytes) = std::mem::take(&mut sent);
            if std::mem::take(&mut first) {
                (blobs, bytes) = (blobs + copied.blobs, bytes + copied.bytes);
            }
            done(SeededImage {
                name: name.repository.clone(),
                tag: tag.clone(),
                digest: copied.digest.clone(),
                blobs,
                bytes,
            });
        };
        walk.copy_telling(image, choice, &name.repository, &name.tags, &mut visible)?;
    }
    Ok(())
}

/// Which of an image's names are asked for; none if the image is not.
fn meant(only: Option<&Selector>, nth: Option<usize>, names: &[ImageName]) -> Vec<ImageName> {
    match only {
        None => names.to_vec(),
        Some(Selector::Index(index)) if Some(*index) == nth => names.to_vec(),
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

/// Which of the entries of `manifest.json` each image is; without that file they are counted as the index names them.
fn numbers(layout: &Layout<Tarball>, images: &[Image]) -> Result<Vec<Option<usize>>, Error> {
    let Some(listed) = docker::numbered(layout.files())? else {
        let mut counted: HashMap<&Digest, usize> = HashMap::new();
        let number = |image| {
            let next = counted.len();
            Some(*counted.entry(image).or_insert(next))
        };
        let digests = images.iter().map(|image| &image.root.digest);
        return Ok(digests.map(number).collect());
    };
    let key = |name: &ImageName| {
        let repository = plain(name.repository.as_ref()?).to_owned();
        Some((repository, name.tag.clone()))
    };
    let mut by_name = HashMap::new();
    let mut by_id = HashMap::new();
    for (nth, entry) in listed.iter().enumerate() {
        for name in entry.names.iter().filter_map(key) {
            by_name.entry(name).or_insert(nth);
        }
        by_id.entry(entry.id.as_ref()).or_insert(nth);
    }
    let number = |image: &Image| {
        if let Some(nth) = key(&image.name).and_then(|name| by_name.get(&name)) {
            return Ok(Some(*nth));
        }
        let configs = layout.configs(image)?;
        let mut found = configs.iter().filter_map(|id| by_id.get(&Some(id)));
        Ok(found.next().copied())
    };
    images.iter().map(number).collect()
}

/// A name without what it may lack: docker and podman write `app`, `docker.io/library/app` and `localhost/app`.
fn plain(name: &RepositoryName) -> &str {
    let text = name.as_str();
    let local = text.strip_prefix("localhost/");
    local.unwrap_or_else(|| docker_hub(name))
}

/// A name without what docker.io's may begin with.
pub(super) fn docker_hub(name: &RepositoryName) -> &str {
    let name = name.as_str();
    let hosts = ["docker.io/", "index.docker.io/"];
    let rest = hosts.iter().find_map(|host| name.strip_prefix(host));
    let rest = rest.unwrap_or(name);
    rest.strip_prefix("library/").unwrap_or(rest)
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
