//! `standin serve`: its flags, handed to `config`, and what comes of them to `app`.

use clap::Args;

use crate::{
    app,
    config::{Config, Flags, Key, Sources},
};

// No flag has a default or reads a variable by clap: which place wins, and what is told about it, is `config`'s.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Address to serve on, plain HTTP and TLS alike; port 0 picks a free one; may be repeated{n}[default: 127.0.0.1:5000] [env: STANDIN_LISTEN]
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

    /// Registry to pull from, at https://HOST unless a URL says otherwise; may be repeated{n}[env: STANDIN_REGISTRY]
    #[arg(long, value_name = "HOST[=URL]", help_heading = "Registries")]
    registry: Vec<String>,
    /// Registry of the names that name none{n}[default: docker.io] [env: STANDIN_DEFAULT_REGISTRY]
    #[arg(long, value_name = "HOST", help_heading = "Registries")]
    default_registry: Option<String>,
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
    /// How long an upstream's answer for a tag is good{n}[default: 5m] [env: STANDIN_TAG_TTL]
    #[arg(long, value_name = "DURATION", help_heading = "Registries")]
    tag_ttl: Option<String>,

    /// Further DNS name or IP address that the certificate holds; may be repeated{n}[env: STANDIN_SAN]
    #[arg(long, value_name = "NAME", help_heading = "Trust")]
    san: Vec<String>,
    /// Certificate chain of your own (PEM), with --tls-key{n}[default: made here] [env: STANDIN_TLS_CERT]
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    tls_cert: Option<String>,
    /// Its private key (PEM){n}[env: STANDIN_TLS_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    tls_key: Option<String>,

    /// Image to hold before the first request: oci:DIR[:TAG][=NAME[:TAG]], an OCI layout; may be
    /// repeated{n}[env: STANDIN_SEED]
    #[arg(long, value_name = "SOURCE", help_heading = "Seeding")]
    seed: Vec<String>,

    /// File to write, as JSON, once connections are accepted{n}[env: STANDIN_READY_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Readiness")]
    ready_file: Option<String>,

    #[command(flatten)]
    file: File,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let flags = self
            .directories
            .add_to(Flags::new(self.file.config))
            .with(Key::Listen, self.listen)
            .with(Key::ExternalUrl, self.external_url)
            .with(Key::Grace, self.grace)
            .with(Key::Durability, self.durability)
            .with(Key::Registry, self.registry)
            .with(Key::DefaultRegistry, self.default_registry)
            .with(Key::NoDefaultRegistries, self.no_default_registries)
            .with(Key::Offline, self.offline)
            .with(Key::LocalOnly, self.local_only)
            .with(Key::NoShadow, self.no_shadow)
            .with(Key::TagTtl, self.tag_ttl)
            .with(Key::San, self.san)
            .with(Key::TlsCert, self.tls_cert)
            .with(Key::TlsKey, self.tls_key)
            .with(Key::Seed, self.seed)
            .with(Key::ReadyFile, self.ready_file);
        let sources = Sources::read(flags, std::env::vars_os().collect())?;
        for warning in sources.warnings() {
            log::warn!("{warning}");
        }
        app::serve(Config::from_sources(&sources)?)
    }
}

/// The flags that say where things are kept.
#[derive(Args, Debug)]
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
    pub(super) fn add_to(self, flags: Flags) -> Flags {
        flags
            .with(Key::Data, self.data)
            .with(Key::State, self.state)
    }
}

/// The flag that names the file. It comes last, where help is concerned.
#[derive(Args, Debug)]
pub(super) struct File {
    /// YAML file whose keys are these options' names; its paths are relative to it{n}[env: STANDIN_CONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    pub(super) config: Option<String>,
}

const AFTER_HELP: &str = "\
Every option can be given as a flag, as the variable shown with it (a list parted by commas or \
spaces), or in the YAML file (a list as a list). A flag beats a variable, a variable beats the file; \
--registry adds up over all three. Durations are written 500ms, 30s, 5m or 1h. In a pattern, * is one \
component of a name and ** any number of them. \
docker.io, gcr.io, ghcr.io, lscr.io, mcr.microsoft.com, nvcr.io, public.ecr.aws, quay.io, \
registry.gitlab.com and registry.k8s.io need no --registry.

Examples:
  standin serve
  standin serve --listen 127.0.0.1:0 --ready-file standin.json
  standin serve --registry quay.io=http://127.0.0.1:5001 --local-only 'acme/**'
  standin serve --offline --seed oci:fixtures/hello=acme/hello:1";
