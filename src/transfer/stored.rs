//! Images in the storage of docker, podman or buildah: they alone read that, so they are asked to save what is wanted.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    thread,
};

use super::{Cancel, Error, Source, input::Spooled};
/// Saves one image, in the manner of one client.
struct Client {
    program: &'static str,
    /// Before the image's name. It writes to its standard output.
    arguments: &'static [&'static str],
    /// What follows, behind which the name comes once more.
    target: Option<&'static str>,
}

/// The archive that the image's client makes of it; `None` for a source that is in no client's storage.
pub(super) fn saved(
    source: &Source,
    scratch: &dyn Fn() -> io::Result<File>,
    cancel: &Cancel,
) -> Option<Result<Spooled, Error>> {
    let (name, shown, clients) = match source {
        Source::DockerDaemon(name) => (name, format!("docker-daemon:{name}"), DOCKER),
        Source::ContainersStorage(name) => (name, format!("containers-storage:{name}"), PODMAN),
        _ => return None,
    };
    let wrong = |why: String| Error::Origin {
        place: shown.clone(),
        why,
    };
    for client in clients {
        match client.save(name, &shown, scratch, cancel) {
            Ok(saved) => return Some(saved),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let why = format!("{} can't be started: {error}", client.program);
                return Some(Err(wrong(why)));
            }
        }
    }
    let programs: Vec<&str> = clients.iter().map(|client| client.program).collect();
    let why = format!(
        "it takes {} to save it, which is not in PATH: save the image elsewhere, and seed docker-archive:FILE",
        programs.join(" or ")
    );
    Some(Err(wrong(why)))
}

impl Client {
    /// # Errors
    /// The program can't be started. What it fails in is within.
    fn save(
        &self,
        name: &str,
        shown: &str,
        scratch: &dyn Fn() -> io::Result<File>,
        cancel: &Cancel,
    ) -> io::Result<Result<Spooled, Error>> {
        let mut command = Command::new(self.program);
        command.args(self.arguments).arg(name);
        if let Some(target) = self.target {
            command.arg(format!("{target}{name}"));
        }
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut running = Running(piped.stderr(Stdio::piped()).spawn()?);
        let complaints = running.0.stderr.take().map(|mut stderr| {
            thread::spawn(move || {
                let mut text = Vec::new();
                let _ = stderr.by_ref().take(MOST_COMPLAINTS).read_to_end(&mut text);
                let _ = io::copy(&mut stderr, &mut io::sink());
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        let stdout = running.0.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let pipe = File::from(OwnedFd::from(stdout));
        let spooled = Spooled::of_pipe(pipe, shown.to_owned(), scratch, cancel);
        if spooled.is_err() {
            // It would wait for ever for somebody to take its output.
            let _ = running.0.kill();
        }
        let status = running.0.wait();
        let complaints = complaints.and_then(|reading| reading.join().ok());
        let complaints = complaints.unwrap_or_default();
        // It fails because its output could not be kept.
        if let Err(full @ Error::Destination { .. }) = spooled {
            return Ok(Err(full));
        }
        Ok(match status {
            _ if cancel.is_cancelled() => Err(Error::Interrupted),
            Ok(status) if status.success() => spooled,
            Ok(status) => {
                let said = complaints
                    .lines()
                    .rev()
                    .find(|line| !line.trim().is_empty());
                Err(Error::Origin {
                    place: shown.to_owned(),
                    why: match said {
                        Some(said) => format!("{} says: {}", self.program, line(said)),
                        None => format!("{} ended with {status}", self.program),
                    },
                })
            }
            Err(error) => Err(Error::Origin {
                place: shown.to_owned(),
                why: format!("{}: {error}", self.program),
            }),
        })
    }
}

/// A line for a message, without what a terminal or a CI would obey.
fn line(said: &str) -> String {
    let printed = said.trim().chars().filter(|c| !c.is_control());
    printed.take(500).collect()
}

/// A process that does not outlive this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const DOCKER: &[Client] = &[Client {
    program: "docker",
    arguments: &["save", "--"],
    target: None,
}];

const PODMAN: &[Client] = &[
    Client {
        program: "podman",
        arguments: &["save", "--quiet", "--format", "docker-archive", "--"],
        target: None,
    },
    Client {
        program: "buildah",
        arguments: &["push", "--quiet", "--"],
        target: Some("docker-archive:/dev/stdout:"),
    },
];

/// In bytes, of what a program says of its failure.
const MOST_COMPLAINTS: u64 = 64 << 10;
