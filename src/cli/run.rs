//! `standin run`: `serve`'s options and the command become what `job` runs.

use std::{
    env,
    ffi::OsString,
    hash::{BuildHasher as _, RandomState},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;

use super::{configure, serve};
use crate::{
    clients::{Client, Mode, Request, Version},
    config::{Directories, Flags, Key, Sources},
    job::{self, Instance, READY_FILE, Run, Start},
    transfer::{Seed, temporary},
};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// The command, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// Point these clients here while the command runs, and put every file back at its end
    #[arg(
        long,
        value_name = "CLIENT",
        num_args = 1..,
        value_delimiter = ',',
        value_parser = configure::one_of(CLIENTS.map(|client| (client.name(), client))),
        help_heading = "Command"
    )]
    configure: Vec<Client>,
    /// Root of the file system whose clients --configure means, such as an image's
    #[arg(
        long,
        value_name = "DIR",
        requires = "configure",
        help_heading = "Command"
    )]
    configure_root: Option<PathBuf>,
    /// Version of the docker daemon that --configure means{n}[default: it is asked]
    #[arg(
        long,
        value_name = "VERSION",
        requires = "configure",
        help_heading = "Command"
    )]
    docker_version: Option<Version>,
    /// Version of containerd, likewise{n}[default: it is asked]
    #[arg(
        long,
        value_name = "VERSION",
        requires = "configure",
        help_heading = "Command"
    )]
    containerd_version: Option<Version>,
    /// Give the command HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and their like, so that programs without a mirror setting come
    /// here too
    #[arg(long, help_heading = "Command")]
    proxy_env: bool,
    /// Give the command a DOCKER_CONFIG: the user's own, and a log-in for here if one is needed
    #[arg(long, help_heading = "Command")]
    docker_config: bool,

    #[command(flatten)]
    serve: serve::Options,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let request = |client| Request {
            client,
            mode: Mode::Mirror,
            registries: Vec::new(),
            docker_version: self.docker_version,
            containerd_version: self.containerd_version,
        };
        let configure = match self.configure.as_slice() {
            [] => None,
            clients => Some((
                configure::place(self.configure_root.as_deref())?,
                clients.iter().copied().map(request).collect(),
            )),
        };
        let flags = self.serve.flags();
        let given = Sources::read(flags.clone(), env::vars_os().collect())?;
        let (data, state) = (given.gives(Key::Data), given.gives(Key::State));
        let kept = data
            .then(|| Directories::from_sources(&given))
            .transpose()?;
        let tag = RandomState::new().hash_one(std::process::id());
        // Beside what is kept if there is that: it may be all that can be written to.
        let base = match &kept {
            Some(directories) => directories.state.clone(),
            None => temporary(),
        };
        let directory = job::DIRECTORIES.path(&base);
        let below = |name| text(&directory.join(name));
        let mut flags = flags;
        if !data {
            flags = flags.with(Key::Data, [below("data")?]);
        }
        if !data && !state {
            flags = flags.with(Key::State, [below("state")?]);
        }
        if !given.gives(Key::Listen) {
            flags = flags.with(Key::Listen, [FRESH_PORT.to_owned()]);
        }
        let config = serve::configured(flags.clone())?;
        anyhow::ensure!(
            !config.seeds.iter().any(Seed::reads_input),
            "standard input is COMMAND's, and can't be seeded as well: let COMMAND do it, by `standin seed docker-archive:-`"
        );
        if let Some(parent) = config.parent {
            job::end_with(parent)?;
        }
        let mut variables = Vec::new();
        if let Some(problem) = config.ready_file.as_deref().and_then(taken) {
            anyhow::ensure!(given.gives_by_variable(Key::ReadyFile), problem);
            // It tells this command of the run or the server around it.
            variables.push((Key::ReadyFile.variable(), String::new()));
        }
        if config.log_file.is_none() && env::var_os("RUST_LOG").is_none() {
            // What goes well is nothing between the command's own lines.
            variables.push(("RUST_LOG".to_owned(), QUIET.to_owned()));
        }
        let log_in =
            (self.docker_config && !config.users.is_empty()).then(|| log_in(&mut variables, tag));
        let run = Run {
            start: Start {
                arguments: server(flags).arguments(),
                variables,
                reads_input: false,
            },
            ready_file: config.state.join(READY_FILE),
            kept: kept.map(|directories| directories.data),
            directory,
            ready_timeout: config.ready_timeout,
            log_file: config.log_file,
            grace: config.grace,
            configure,
            proxy_env: self.proxy_env,
            docker_config: self.docker_config,
            log_in,
            command: self.command,
        };
        run.run().map(ExitCode::from)
    }
}

/// The server's flags: it ends with the run, whoever that ends with.
fn server(flags: Flags) -> Flags {
    flags.without(Key::ExitWithParent)
}

/// A user of the run's own, beside those that are configured, whose passwords we may not know.
fn log_in(variables: &mut Vec<(String, String)>, tag: u64) -> (String, String) {
    let user = format!("standin-run-{tag:016x}");
    let secret = || RandomState::new().hash_one(tag);
    let password = format!("{:016x}{:016x}", secret(), secret());
    let name = Key::User.variable();
    let others = env::var(&name).unwrap_or_default();
    variables.push((name, format!("{others}\n{user}:{password}:write")));
    (user, password)
}

/// What is wrong with this as a ready file: it is that of a standin that runs.
pub(super) fn taken(ready_file: &Path) -> Option<String> {
    let instance = Instance::read(ready_file).ok()??;
    instance.process().ok()??;
    Some(format!(
        "{} is the ready file of the standin that runs as pid {}: give --ready-file another path, or `standin stop` that one",
        ready_file.display(),
        instance.pid()
    ))
}

fn text(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().with_context(|| {
        format!(
            "{} is not UTF-8: set TMPDIR, or give --data",
            path.display()
        )
    })?;
    Ok(text.to_owned())
}

/// Those whose files are changed; a shell's variables are --proxy-env's.
const CLIENTS: [Client; 6] = [
    Client::Docker,
    Client::Containerd,
    Client::Podman,
    Client::Buildkit,
    Client::Kind,
    Client::System,
];
const FRESH_PORT: &str = "127.0.0.1:0";
/// As the default, but for what standin itself tells.
const QUIET: &str = "warn,actix_http=off,rustls_platform_verifier=off";

const AFTER_HELP: &str = "\
The registry listens on a fresh port, with temporary data that is removed at the end, unless --listen, --data or --state say \
otherwise. Every option of `standin serve` is taken as well.

The command finds STANDIN_URL (http://127.0.0.1:PORT), STANDIN_HOST (127.0.0.1:PORT), STANDIN_CA (a file) and \
STANDIN_READY_FILE, by which `standin configure`, `seed` and the others find this registry.

The exit status is the command's own, 128 and the signal's number if a signal ended it, 127 if there is no such command, 126 if \
it can't be run, and 1 if the registry failed. A summary is told on standard error; --report writes all of it, and RUST_LOG=info \
has the registry tell what it does meanwhile. What the command leaves running in its process group is ended with it. SIGTERM and SIGHUP \
give the command --grace to end; a second one kills it.

Examples:
  standin run -- make images test
  standin run --configure docker -- ./build.sh
  standin run --data /cache/standin --report standin.html -- make images
  standin run --proxy-env -- sh -c 'buildah push app docker://$STANDIN_HOST/app'";
