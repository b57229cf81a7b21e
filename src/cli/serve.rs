//! `standin serve`: its flags, handed to `config`, and what comes of them to `app`.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;

use crate::{
    app,
    config::{Config, Flags, Key, Sources},
    job::{self, LOG_FILE, Parent, Start},
    transfer::Seed,
};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    options: Options,

    /// Return once it is ready; it goes on in the background until `standin stop`
    #[arg(long, help_heading = "Process")]
    detach: bool,
    /// What --detach starts.
    #[arg(long, hide = true)]
    detached: bool,
    /// What `standin run` starts: the report is told to it as JSON, behind the ready line.
    #[arg(long, hide = true)]
    tells_report: bool,
}

// No flag has a default or reads a variable by clap: which place wins, and what is told about it, is `config`'s.
#[derive(Args, Debug)]
pub(super) struct Options {
    /// Address to serve on, plain HTTP and TLS alike; port 0 picks a free one, "bridge:PORT" is the
    /// gateway of docker's bridge; may be repeated{n}[default: 127.0.0.1:5000] [env: STANDIN_LISTEN]
    #[arg(long, value_name = "ADDRESS:PORT", help_heading = "Listening")]
    listen: Vec<String>,
    /// Where clients reach this registry if that is not where it listens{n}[env: STANDIN_EXTERNAL_URL]
    #[arg(long, value_name = "URL", help_heading = "Listening")]
    external_url: Option<String>,
    /// How long uploads in flight may go on after SIGTERM{n}[default: 30s] [env: STANDIN_GRACE]
    #[arg(long, value_name = "DURATION", help_heading = "Listening")]
    grace: Option<String>,

    #[command(flatten)]
    directories: Directories,
    /// What a finished push survives: "job" the end of this process, "full" a loss of power as
    /// well{n}[default: job] [env: STANDIN_DURABILITY]
    #[arg(long, value_name = "job|full", help_heading = "Storage")]
    durability: Option<String>,

    /// How much of what is pulled is kept: a size, or a share of what is free at the start; 0 keeps
    /// nothing{n}[default: 80%] [env: STANDIN_CACHE_MAX_SIZE]
    #[arg(long, value_name = "SIZE", help_heading = "Storage")]
    cache_max_size: Option<String>,
    /// Names under which nothing pulled is kept, such as 'acme/**'; may be repeated{n}[env: STANDIN_CACHE_NONE]
    #[arg(long, value_name = "PATTERN", help_heading = "Storage")]
    cache_none: Vec<String>,

    /// Registry to pull from, at https://HOST unless a URL says otherwise; may be repeated{n}[env: STANDIN_REGISTRY]
    #[arg(long, value_name = "HOST[=URL]", help_heading = "Registries")]
    registry: Vec<String>,
    /// Registry that has what HOST has, and is asked before it; may be repeated{n}[env: STANDIN_MIRROR]
    #[arg(long, value_name = "HOST=URL", help_heading = "Registries")]
    mirror: Vec<String>,
    /// Registry of the names that name none{n}[default: docker.io] [env: STANDIN_DEFAULT_REGISTRY]
    #[arg(long, value_name = "HOST", help_heading = "Registries")]
    default_registry: Option<String>,
    /// Log-ins of registries: docker's config.json or podman's auth.json, or none; may be repeated{n}[default: where docker
    /// login and podman login put them] [env: STANDIN_AUTHFILE]
    #[arg(long, value_name = "FILE|none", help_heading = "Registries")]
    authfile: Vec<String>,
    /// Contact no registry but those that --registry names{n}[env: STANDIN_NO_DEFAULT_REGISTRIES]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Registries"
    )]
    no_default_registries: Option<String>,
    /// Contact no registry at all: what is not here is not found{n}[env: STANDIN_OFFLINE]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Registries"
    )]
    offline: Option<String>,
    /// Names that are never asked of another registry, such as 'acme/**'; may be repeated{n}[env: STANDIN_LOCAL_ONLY]
    #[arg(long, value_name = "PATTERN", help_heading = "Registries")]
    local_only: Vec<String>,
    /// Names whose pushed images never hide the upstream's; may be repeated{n}[env: STANDIN_NO_SHADOW]
    #[arg(long, value_name = "PATTERN", help_heading = "Registries")]
    no_shadow: Vec<String>,
    /// Take manifests whose content is missing, such as indexes of which a job needs one platform{n}[env: STANDIN_ALLOW_SPARSE]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Registries"
    )]
    allow_sparse: Option<String>,
    /// How long an upstream's answer for a tag is good, for all names or for those that a pattern matches; may be
    /// repeated{n}[default: 5m] [env: STANDIN_TAG_TTL]
    #[arg(long, value_name = "[PATTERN=]DURATION", help_heading = "Registries")]
    tag_ttl: Vec<String>,
    /// How long an upstream's 404 to a manifest is good; 0 asks each time{n}[default: 10s] [env: STANDIN_NEGATIVE_TTL]
    #[arg(long, value_name = "DURATION", help_heading = "Registries")]
    negative_ttl: Option<String>,

    /// Further DNS name or IP address that the certificate holds; may be repeated{n}[env: STANDIN_SAN]
    #[arg(long, value_name = "NAME", help_heading = "Trust")]
    san: Vec<String>,
    /// Certificate chain of your own (PEM), with --tls-key{n}[default: made here] [env: STANDIN_TLS_CERT]
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    tls_cert: Option<String>,
    /// Its private key (PEM){n}[env: STANDIN_TLS_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    tls_key: Option<String>,
    /// Certificate authority of your own (PEM) to make certificates with, with --ca-key{n}[default: made here]
    /// [env: STANDIN_CA_CERT]
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    ca_cert: Option<String>,
    /// Its private key (PEM){n}[env: STANDIN_CA_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    ca_key: Option<String>,
    /// Let TLS clients choose HTTP/2, which is slower for large blobs{n}[env: STANDIN_H2]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Trust"
    )]
    h2: Option<String>,

    /// User who may log in; the password may hold colons; may be repeated{n}[env: STANDIN_USER, one to a line]
    #[arg(long, value_name = "NAME:PASSWORD:read|write", help_heading = "Access")]
    user: Vec<String>,
    /// Further users, who may write: a file of htpasswd -B{n}[env: STANDIN_HTPASSWD]
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    htpasswd: Option<String>,
    /// Key that signs tokens, 32 bytes or more; the same for all instances that share their
    /// content{n}[default: token.key in --state, made on the first start] [env: STANDIN_TOKEN_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    token_key: Option<String>,

    #[command(flatten)]
    proxy: Proxy,

    #[command(flatten)]
    limits: Limits,

    /// Images to hold before the first request: docker-archive:FILE, oci:DIR, docker://NAME or what else `standin seed` takes,
    /// or a list of them, FILE.yaml; may be repeated{n}[env: STANDIN_SEED]
    #[arg(long, value_name = "SOURCE", help_heading = "Seeding")]
    seed: Vec<String>,

    /// File to write, as JSON, once connections are accepted{n}[env: STANDIN_READY_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Readiness")]
    ready_file: Option<String>,
    /// How long --detach and `standin run` wait for it to be ready{n}[default: 5m] [env: STANDIN_READY_TIMEOUT]
    #[arg(long, value_name = "DURATION", help_heading = "Readiness")]
    ready_timeout: Option<String>,

    /// File to write at the end: what was pulled and pushed, and what was waited for; the ending .json, .md or .html
    /// says how; may be repeated. /status shows it while the job runs{n}[env: STANDIN_REPORT]
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    report: Vec<String>,

    #[command(flatten)]
    process: Process,

    #[command(flatten)]
    file: File,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let flags = self.options.flags();
        let mut start = Start {
            arguments: flags.arguments(),
            ..Start::default()
        };
        let mut config = configured(flags)?;
        config.report_to_stdout = self.tells_report;
        if self.tells_report {
            // A run's command has the terminal.
            job::write_from_background();
        }
        if let Some(problem) = config.ready_file.as_deref().and_then(super::run::taken) {
            anyhow::bail!(problem);
        }
        if self.detach {
            anyhow::ensure!(
                config.parent != Some(Parent::Ours),
                "--detach and --exit-with-parent contradict each other: give --exit-with-parent=PID the process to end with"
            );
            let log = config
                .log_file
                .unwrap_or_else(|| config.state.join(LOG_FILE));
            start.arguments.push("--detached".to_owned());
            start.reads_input = config.seeds.iter().any(Seed::reads_input);
            let line = job::detach(&start, &log, config.ready_timeout)?;
            // It runs, whether or not anybody reads where.
            let _ = super::print(line);
            return Ok(());
        }
        if self.detached {
            // Its log is its standard error by now.
            rustix::process::setsid().context("can't leave the terminal's session")?;
        } else if let Some(log) = &config.log_file {
            job::log_to(log)?;
        }
        if let Some(parent) = config.parent {
            job::end_with(parent)?;
        }
        app::serve(config)
    }
}

impl Options {
    /// What was typed.
    pub(super) fn flags(self) -> Flags {
        let flags = self
            .directories
            .add_to(Flags::new(self.file.config))
            .with(Key::Listen, self.listen)
            .with(Key::ExternalUrl, self.external_url)
            .with(Key::Grace, self.grace)
            .with(Key::Durability, self.durability)
            .with(Key::CacheMaxSize, self.cache_max_size)
            .with(Key::CacheNone, self.cache_none)
            .with(Key::Registry, self.registry)
            .with(Key::Mirror, self.mirror)
            .with(Key::DefaultRegistry, self.default_registry)
            .with(Key::Authfile, self.authfile)
            .with(Key::NoDefaultRegistries, self.no_default_registries)
            .with(Key::Offline, self.offline)
            .with(Key::LocalOnly, self.local_only)
            .with(Key::NoShadow, self.no_shadow)
            .with(Key::AllowSparse, self.allow_sparse)
            .with(Key::TagTtl, self.tag_ttl)
            .with(Key::NegativeTtl, self.negative_ttl)
            .with(Key::San, self.san)
            .with(Key::TlsCert, self.tls_cert)
            .with(Key::TlsKey, self.tls_key)
            .with(Key::CaCert, self.ca_cert)
            .with(Key::CaKey, self.ca_key)
            .with(Key::H2, self.h2)
            .with(Key::User, self.user)
            .with(Key::Htpasswd, self.htpasswd)
            .with(Key::TokenKey, self.token_key)
            .with(Key::Seed, self.seed)
            .with(Key::ReadyFile, self.ready_file)
            .with(Key::ReadyTimeout, self.ready_timeout)
            .with(Key::Report, self.report);
        self.process
            .add_to(self.limits.add_to(self.proxy.add_to(flags)))
    }
}

/// The configuration, with a warning for what is unlikely to be meant.
pub(super) fn configured(flags: Flags) -> anyhow::Result<Config> {
    let sources = Sources::read(flags, std::env::vars_os().collect())?;
    let config = Config::from_sources(&sources)?;
    for warning in sources.warnings().into_iter().chain(config.warnings()) {
        log::warn!("{warning}");
    }
    Ok(config)
}

/// The flags that bound what a client may take up.
#[derive(Args, Debug)]
struct Limits {
    /// Largest manifest, pushed, seeded or pulled; the distribution-spec asks for 4MiB or
    /// more{n}[default: 4MiB] [env: STANDIN_MAX_MANIFEST_SIZE]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    max_manifest_size: Option<String>,
    /// Characters of a repository's name, as the client spells it; 255 is the most{n}[default: 255] [env: STANDIN_MAX_NAME_LENGTH]
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    max_name_length: Option<String>,
    /// Upload sessions open at once{n}[default: 1000] [env: STANDIN_MAX_UPLOADS]
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    max_uploads: Option<String>,
    /// How long an upload session stays that no client goes on with{n}[default: 1h] [env: STANDIN_UPLOAD_LIFETIME]
    #[arg(long, value_name = "DURATION", help_heading = "Limits")]
    upload_lifetime: Option<String>,
    /// How long a client may take for a TLS handshake, and for a request's head{n}[default: 10s] [env: STANDIN_HEAD_TIMEOUT]
    #[arg(long, value_name = "DURATION", help_heading = "Limits")]
    head_timeout: Option<String>,
    /// How long a client may send nothing within a request's body{n}[default: 60s] [env: STANDIN_BODY_TIMEOUT]
    #[arg(long, value_name = "DURATION", help_heading = "Limits")]
    body_timeout: Option<String>,
    /// Entries on a page of tags, referrers or the catalog, at most{n}[default: 1000] [env: STANDIN_PAGE_SIZE]
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    page_size: Option<String>,
}

impl Limits {
    fn add_to(self, flags: Flags) -> Flags {
        flags
            .with(Key::MaxManifestSize, self.max_manifest_size)
            .with(Key::MaxNameLength, self.max_name_length)
            .with(Key::MaxUploads, self.max_uploads)
            .with(Key::UploadLifetime, self.upload_lifetime)
            .with(Key::HeadTimeout, self.head_timeout)
            .with(Key::BodyTimeout, self.body_timeout)
            .with(Key::PageSize, self.page_size)
    }
}

/// The flags about use as an HTTPS proxy, for hosts that are no registry.
#[derive(Args, Debug)]
struct Proxy {
    /// Where CONNECT may lead: public (443 and 80), or a HOST, *.SUFFIX, ADDRESS or NETWORK/BITS, each with :PORT if need
    /// be; or none; may be repeated{n}[default: public for clients on this machine, none for others] [env: STANDIN_TUNNEL]
    #[arg(long, value_name = "none|public|PATTERN", help_heading = "Proxy")]
    tunnel: Vec<String>,
    /// Tunnels open at once{n}[default: 512] [env: STANDIN_MAX_TUNNELS]
    #[arg(long, value_name = "NUMBER", help_heading = "Proxy")]
    max_tunnels: Option<String>,
    /// How long a tunnel stays that nothing moves through{n}[default: 10m] [env: STANDIN_TUNNEL_IDLE]
    #[arg(long, value_name = "DURATION", help_heading = "Proxy")]
    tunnel_idle: Option<String>,
    /// Proxy that tunnels and pulls go through, http:// or https://; "env" takes HTTPS_PROXY and NO_PROXY of this
    /// process{n}[env: STANDIN_UPSTREAM_PROXY]
    #[arg(long, value_name = "URL|env", help_heading = "Proxy")]
    upstream_proxy: Option<String>,
}

impl Proxy {
    fn add_to(self, flags: Flags) -> Flags {
        flags
            .with(Key::Tunnel, self.tunnel)
            .with(Key::MaxTunnels, self.max_tunnels)
            .with(Key::TunnelIdle, self.tunnel_idle)
            .with(Key::UpstreamProxy, self.upstream_proxy)
    }
}

/// The flags about the process: whose end is its own, and where it tells.
#[derive(Args, Debug)]
struct Process {
    /// End when the process ends that started this one, or the process with this id, such as $$, which leaves no
    /// gap{n}[env: STANDIN_EXIT_WITH_PARENT]
    #[arg(
        long,
        value_name = "BOOL|PID",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Process"
    )]
    exit_with_parent: Option<String>,
    /// File to add the log to{n}[default: standard error; with --detach, standin.log in --state] [env: STANDIN_LOG_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    log_file: Option<String>,
}

impl Process {
    fn add_to(self, flags: Flags) -> Flags {
        flags
            .with(Key::ExitWithParent, self.exit_with_parent)
            .with(Key::LogFile, self.log_file)
    }
}

/// The flags that say where things are kept.
#[derive(Args, Debug, Default)]
pub(super) struct Directories {
    /// Directory of the content{n}[default: standin in $XDG_DATA_HOME or ~/.local/share, else
    /// /var/tmp/standin-UID]{n}[env: STANDIN_DATA]
    #[arg(long, value_name = "DIR", help_heading = "Storage")]
    data: Option<String>,
    /// Directory of the keys, not inside --data{n}[default: the data directory's path with .state behind]{n}[env: STANDIN_STATE]
    #[arg(long, value_name = "DIR", help_heading = "Storage")]
    state: Option<String>,
}

impl Directories {
    /// Whether neither was typed.
    pub(super) fn are_default(&self) -> bool {
        self.data.is_none() && self.state.is_none()
    }

    /// The content is there.
    pub(super) fn at(self, data: &Path) -> anyhow::Result<Self> {
        let text = data.to_str();
        let text = text.with_context(|| format!("{} is not UTF-8", data.display()))?;
        Ok(Self {
            data: Some(text.to_owned()),
            ..self
        })
    }

    pub(super) fn add_to(self, flags: Flags) -> Flags {
        flags
            .with(Key::Data, self.data)
            .with(Key::State, self.state)
    }
}

/// The flag that names the file. It comes last, where help is concerned.
#[derive(Args, Debug, Default)]
pub(super) struct File {
    /// YAML file whose keys are these options' names; its paths are relative to it{n}[env: STANDIN_CONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub(super) config: Option<String>,
}

const AFTER_HELP: &str = "\
Every option can be given as a flag, as the variable shown with it (a list parted by commas or \
spaces), or in the YAML file (a list as a list). A flag beats a variable, a variable beats the file; \
--registry and --user add up over all three. Durations are written 500ms, 30s, 5m, 1h or 7d, sizes 512KiB, 4MiB or 1GiB. In a pattern, * is one \
component of a name and ** any number of them. \
docker.io, gcr.io, ghcr.io, lscr.io, mcr.microsoft.com, nvcr.io, public.ecr.aws, quay.io, \
registry.gitlab.com and registry.k8s.io need no --registry.

Without users, whoever reaches a loopback address may read and write. A password given with --user can \
be seen in the list of processes: STANDIN_USER, --htpasswd and the file's users keep it out of there.

Examples:
  standin serve
  standin serve --detach && standin status && standin stop
  standin serve --listen 127.0.0.1:0 --ready-file standin.json
  standin serve --report standin.html --report standin.json
  standin serve --registry quay.io=http://127.0.0.1:5001 --local-only 'acme/**'
  standin serve --offline --seed oci:fixtures/hello=acme/hello:1";
