//! `standin configure`: which standin is meant and what is to be done; what is written for a client is `clients`' to say.

use std::{
    env,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{serve, which};
use crate::{
    clients::{
        self, Client, Format, Home, Mode, Place, Plan, Request, Standin, Variables, Version,
    },
    config::WELL_KNOWN,
    job::Instance,
    types::{ExternalUrl, RegistryHost},
};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// What is to be pointed at standin
    #[arg(value_parser = one_of(Client::ALL.map(|client| (client.name(), client))))]
    client: Client,

    /// Show what would be written; the default
    #[arg(long, group = "action", help_heading = "Action")]
    print: bool,
    /// Write it; what is there is merged and kept
    #[arg(long, group = "action", help_heading = "Action")]
    write: bool,
    /// Put every file back as it was
    #[arg(long, group = "action", help_heading = "Action")]
    undo: bool,
    /// Say whether the client would reach standin now
    #[arg(long, group = "action", help_heading = "Action")]
    check: bool,

    /// Where standin is reached{n}[default: what the ready file says]
    #[arg(
        long,
        value_name = "URL",
        conflicts_with = "ready_file",
        help_heading = "Standin"
    )]
    url: Option<ExternalUrl>,
    /// Ready file of a standin that runs{n}[default: ready.json in --state] [env: STANDIN_READY_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Standin")]
    ready_file: Option<PathBuf>,
    /// Certificate to trust (PEM){n}[default: what the ready file names]
    #[arg(long, value_name = "FILE", help_heading = "Standin")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    directories: serve::Directories,

    /// Whether the client asks standin first, or reaches the registries through it{n}[default: proxy for env, else mirror]
    #[arg(
        long,
        value_parser = one_of([("mirror", Mode::Mirror), ("proxy", Mode::Proxy)]),
        help_heading = "Client"
    )]
    mode: Option<Mode>,
    /// Only this registry; may be repeated{n}[default: all that standin pulls from]
    #[arg(long, value_name = "HOST", help_heading = "Client")]
    registry: Vec<RegistryHost>,
    /// Version of the docker daemon{n}[default: it is asked]
    #[arg(long, value_name = "VERSION", help_heading = "Client")]
    docker_version: Option<Version>,
    /// Version of containerd{n}[default: it is asked]
    #[arg(long, value_name = "VERSION", help_heading = "Client")]
    containerd_version: Option<Version>,
    /// Root of another file system, such as an image's; no program of this machine is asked or told then
    #[arg(long, value_name = "DIR", help_heading = "Client")]
    root: Option<PathBuf>,
    /// How env writes its variables down{n}[default: shell]
    #[arg(
        long,
        value_parser = one_of([("shell", Format::Shell), ("github", Format::Github)]),
        help_heading = "Client"
    )]
    format: Option<Format>,
    #[command(flatten)]
    file: serve::File,
}

impl Arguments {
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.format.is_none() || self.client == Client::Env,
            "--format is for env alone"
        );
        let place = place(self.root.as_deref())?;
        if self.undo {
            return self.undo_at(&place);
        }
        let standin = self.standin()?;
        let request = Request {
            client: self.client,
            mode: self.mode.unwrap_or(match self.client {
                Client::Env => Mode::Proxy,
                _ => Mode::Mirror,
            }),
            registries: std::mem::take(&mut self.registry),
            docker_version: self.docker_version,
            containerd_version: self.containerd_version,
        };
        if self.check {
            return check(&place, &request, &standin);
        }
        if self.client == Client::Env {
            return self.env(&place, &request, &standin);
        }
        if self.write {
            let (done, plan) = clients::write(&place, &request, &standin)?;
            return super::print(told("wrote", &done, plan.notes()).trim_end());
        }
        let plan = clients::plan(&place, &request, &standin)?;
        super::print(shown(&plan).trim_end())
    }

    /// A shell can't use the variables without the file they name, so that one is written whatever the action.
    fn env(&self, place: &Place, request: &Request, standin: &Standin) -> anyhow::Result<()> {
        let (_, plan) = clients::write(place, request, standin)?;
        for note in plan.notes() {
            log::warn!("{note}");
        }
        let existing = env::var("NO_PROXY")
            .or_else(|_| env::var("no_proxy"))
            .unwrap_or_default();
        let variables = Variables::new(request, standin, place, &existing)?;
        super::print(
            variables
                .lines(self.format.unwrap_or(Format::Shell))
                .trim_end(),
        )
    }

    fn undo_at(&self, place: &Place) -> anyhow::Result<()> {
        let (done, notes) = clients::undo(place, self.client)?;
        if self.client == Client::Env {
            let format = self.format.unwrap_or(Format::Shell);
            return super::print(Variables::unset().lines(format).trim_end());
        }
        super::print(told("restored", &done, &notes).trim_end())
    }

    /// The standin that is meant.
    fn standin(&mut self) -> anyhow::Result<Standin> {
        let certificate = |path: &Path| {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the certificate {}", path.display()))?;
            anyhow::ensure!(
                text.contains("-----BEGIN CERTIFICATE-----") && !text.contains("PRIVATE KEY-----"),
                "{} is no certificate (PEM): give the file that `standin ca path` prints",
                path.display()
            );
            Ok(text)
        };
        let given = self.ca.as_deref().map(certificate).transpose()?;
        if let Some(url) = self.url.take() {
            anyhow::ensure!(
                given.is_some() || !url.is_https(),
                "{url} is verified with a certificate: give --ca FILE (`standin ca path` prints it), or an http:// URL"
            );
            return Ok(Standin {
                url,
                listeners: Vec::new(),
                ca: given,
                registries: WELL_KNOWN
                    .iter()
                    .filter_map(|host| host.parse().ok())
                    .collect(),
            });
        }
        let file = which::ready_file(
            self.ready_file.take(),
            std::mem::take(&mut self.directories),
            std::mem::take(&mut self.file),
        )?;
        let ready = Instance::read(&file)?.with_context(|| {
            format!(
                "no standin is known to run: there is no {}; start `standin serve`, or give --ready-file or --url",
                file.display()
            )
        })?;
        Ok(Standin {
            url: ready.https,
            listeners: ready.listeners,
            ca: Some(match given {
                Some(given) => given,
                None => certificate(&ready.ca)?,
            }),
            registries: ready.registries,
        })
    }
}

/// Whose files are meant: this machine's as root, a user's own, or those of another root.
pub(super) fn place(root: Option<&Path>) -> anyhow::Result<Place> {
    if let Some(root) = root {
        let real = root
            .canonicalize()
            .with_context(|| format!("--root {} is no directory", root.display()))?;
        return Ok(if real == Path::new("/") {
            Place::system()
        } else {
            Place::under(real)
        });
    }
    if rustix::process::geteuid().is_root() {
        return Ok(Place::system());
    }
    // A relative path in these counts for nothing, as the XDG specification has it.
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let home = absolute("HOME");
    let below = |name, under: &str| {
        absolute(name)
            .or_else(|| home.as_ref().map(|home| home.join(under)))
            .with_context(|| {
                format!("neither {name} nor HOME says where this user's files are: set one")
            })
    };
    Ok(Place::of_user(Home {
        config: below("XDG_CONFIG_HOME", ".config")?,
        state: below("XDG_STATE_HOME", ".local/state")?,
        runtime: absolute("XDG_RUNTIME_DIR"),
    }))
}

fn check(place: &Place, request: &Request, standin: &Standin) -> anyhow::Result<()> {
    let findings = clients::check(place, request, standin)?;
    let mut text = String::new();
    for (holds, finding) in &findings {
        let _ = writeln!(text, "{} {finding}", if *holds { "ok " } else { "no " });
    }
    super::print(text.trim_end())?;
    let wrong = findings.iter().filter(|(holds, _)| !holds).count();
    let name = request.client.name();
    anyhow::ensure!(
        wrong == 0,
        "{name} would not reach standin: {wrong} of {} checks say no; where it is a file, `standin configure {name} --write` puts \
         it right",
        findings.len()
    );
    Ok(())
}

/// Files as they would be, each under its name.
fn shown(plan: &Plan) -> String {
    let mut text = String::new();
    for (path, bytes) in plan.files() {
        let _ = writeln!(text, "# {}", path.display());
        let content = String::from_utf8_lossy(bytes);
        if content.contains("-----BEGIN CERTIFICATE-----") {
            let count = content.matches("-----BEGIN CERTIFICATE-----").count();
            let what = if count == 1 {
                "certificate"
            } else {
                "certificates"
            };
            let _ = writeln!(text, "# ({count} {what})\n");
        } else {
            let _ = writeln!(text, "{}\n", content.trim_end());
        }
    }
    for note in plan.notes() {
        let _ = writeln!(text, "# {note}");
    }
    text
}

fn told(wrote: &str, done: &[clients::Done], notes: &[String]) -> String {
    let mut text = String::new();
    for done in done {
        let what = if done.removed { "removed" } else { wrote };
        let _ = writeln!(text, "{what} {}", done.path.display());
    }
    if done.is_empty() {
        let _ = writeln!(text, "nothing to do");
    }
    for note in notes {
        let _ = writeln!(text, "{note}");
    }
    text
}

/// Takes one of these names, and lists them to whoever types another.
pub(super) fn one_of<T, const N: usize>(
    values: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let names = PossibleValuesParser::new(values.map(|(name, _)| name));
    names.try_map(move |given| {
        let known = values.iter().find(|(name, _)| *name == given);
        known.map(|(_, value)| *value).ok_or("no such value")
    })
}

const AFTER_HELP: &str = "\
Files that exist are merged: what is not ours keeps its keys and comments. --undo puts every file back byte for byte; \
where somebody has changed one since, only our part is taken out of it, or nothing is changed and the exit status is 1. \
podman stands for buildah and skopeo as well. env always writes the bundle of certificates that its variables name.

Examples:
  standin configure docker --write
  standin configure containerd --root /mnt --containerd-version 2.1 --write
  eval \"$(standin configure env)\"
  standin configure env --format github >> \"$GITHUB_ENV\"
  standin configure docker --undo";
