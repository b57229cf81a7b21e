//! What a run brings into the world, and its end: in the run itself when all goes well, else in its guardian.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal},
};
use serde::{Deserialize, Serialize};

use super::{group, terminal::Terminal};
use crate::{
    clients::{self, Client, Place},
    job::Process,
    transfer::Claim,
};

/// One thing that is to end with the run. The guardian is told before it is there, or as soon as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// How long processes have to end.
    Grace(Duration),
    /// A directory to remove.
    Directory(PathBuf),
    /// The server, by its process id.
    Server(i32),
    /// The command's process group; `None` once it has ended.
    Group(Option<i32>),
    /// The process group whose terminal the command's group may have.
    Terminal(i32),
    /// Clients that are set up at this place.
    Clients(Place, Vec<Client>),
    /// All has been done.
    Done,
}

/// All that is to end with the run.
#[derive(Debug, Default)]
pub(super) struct Belongings {
    grace: Duration,
    /// Held, so that no other run takes them for a dead one's.
    directories: Vec<(PathBuf, Option<Claim>)>,
    server: Option<Process>,
    group: Option<Pid>,
    terminal: Option<Pid>,
    clients: Option<(Place, Vec<Client>)>,
}

impl Belongings {
    pub(super) fn take(&mut self, order: Order) {
        match order {
            Order::Grace(grace) => self.grace = grace,
            Order::Directory(path) => {
                let claim = Claim::of(&path).ok();
                self.directories.push((path, claim));
            }
            Order::Server(pid) => {
                self.server = Pid::from_raw(pid).and_then(|pid| Process::open(pid).ok()?);
            }
            Order::Group(group) => self.group = group.and_then(Pid::from_raw),
            Order::Terminal(ours) => self.terminal = Pid::from_raw(ours),
            Order::Clients(place, clients) => self.clients = Some((place, clients)),
            Order::Done => *self = Self::default(),
        }
    }

    /// Ends, takes back and removes all of it, and goes on where one thing fails. Answers what did.
    pub(super) fn end(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(group) = self.group.take() {
            group::end(group, self.grace.min(PATIENCE));
            if let Some(terminal) = self.terminal.and_then(Terminal::of) {
                terminal.take_back_from(group);
            }
        }
        // While the server still answers: a daemon that is in the middle of a pull may finish it.
        if let Some((place, clients)) = self.clients.take() {
            problems.extend(take_back(&place, &clients));
            ClientsLock::remove(&place);
        }
        if let Some(server) = self.server.take() {
            let _ = server.signal(Signal::TERM);
            if !server.ends_within(self.grace + PATIENCE) {
                problems.push("the server did not end in time and was killed".to_owned());
                let _ = server.signal(Signal::KILL);
                server.wait();
            }
        }
        for (directory, _claim) in self.directories.drain(..) {
            if let Err(error) = remove(&directory) {
                problems.push(format!("{} can't be removed: {error}", directory.display()));
            }
        }
        problems
    }
}

/// Takes back what was written for the clients. What could not be is answered.
fn take_back(place: &Place, clients: &[Client]) -> Vec<String> {
    let undone = clients.iter().rev().filter_map(|client| {
        let error = clients::undo(place, *client).err()?;
        let name = client.name();
        let error = anyhow::Error::from(error);
        Some(format!(
            "{name} is still set up for this run's registry: {error:#}; then: standin configure {name} --undo"
        ))
    });
    undone.collect()
}

/// A process that is about to end may make files while its directory is removed.
fn remove(directory: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for _ in 0..3 {
        result = fs::remove_dir_all(directory);
        match &result {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => break,
        }
    }
    result
}

/// What the lock's file says.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    clients: Vec<Client>,
    /// Those that were made for the file, outermost first.
    directories: Vec<PathBuf>,
}

/// Setting up clients is one run's at a time: their files name one certificate. The lock is held by whoever has the file
/// open, and so until the guardian has ended as well.
pub(super) struct ClientsLock(File);

impl ClientsLock {
    /// Takes it, and takes back what a run left that was killed with its guardian.
    ///
    /// # Errors
    /// Another run has it, or a client is set up by hand.
    pub(super) fn take(place: &Place, clients: &[Client]) -> anyhow::Result<Self> {
        let path = place.run_lock();
        let failed = || format!("can't lock {}", path.display());
        let mut directories = Vec::new();
        if let Some(directory) = path.parent() {
            let missing = directory.ancestors().take_while(|above| !above.exists());
            directories.extend(missing.map(Path::to_owned));
            directories.reverse();
            fs::create_dir_all(directory).with_context(failed)?;
        }
        let mut file = loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .with_context(failed)?;
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
            anyhow::ensure!(
                locked.is_ok(),
                "another `standin run --configure` has its clients set up here: wait for its end, or leave --configure out"
            );
            // Whoever had it may have removed it in between.
            let ours = file.metadata().with_context(failed)?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours) {
                break file;
            }
        };
        let mut left = String::new();
        file.read_to_string(&mut left).with_context(failed)?;
        if let Ok(left) = serde_json::from_str::<Holder>(&left) {
            directories.extend(left.directories);
            let left = left.clients;
            let names: Vec<&str> = left.iter().map(|client| client.name()).collect();
            log::warn!(
                "a run that was killed has left {} set up: that is taken back first",
                names.join(", ")
            );
            for problem in take_back(place, &left) {
                log::warn!("{problem}");
            }
        }
        let holder = Holder {
            clients: clients.to_vec(),
            directories,
        };
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(&serde_json::to_vec(&holder)?))
            .with_context(failed)?;
        for client in clients {
            let name = client.name();
            if clients::is_set_up(place, *client)? {
                Self::remove(place);
                anyhow::bail!(
                    "{name} is set up for a standin already, by `standin configure`: take that back with `standin configure \
                     {name} --undo`, or leave --configure {name} out"
                );
            }
        }
        Ok(Self(file))
    }

    /// For the guardian to hold as well.
    pub(super) fn share(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// Removes the file, and the directories that were made for it if nothing else is in them.
    fn remove(place: &Place) {
        let path = place.run_lock();
        let text = fs::read(&path).unwrap_or_default();
        let _ = fs::remove_file(&path);
        if let Ok(holder) = serde_json::from_slice::<Holder>(&text) {
            for directory in holder.directories.iter().rev() {
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

/// What an end takes that is nobody's wish, so that it comes before a CI system loses its own patience.
const PATIENCE: Duration = Duration::from_secs(5);
