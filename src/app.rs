//! The composition root: a `Config` becomes a store, a registry, listeners and a certificate, and they run until a signal.

mod addresses;
mod assembly;
mod ready;
mod reports;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, map_config};
use actix_web::{App, HttpMessage as _, HttpRequest, dev::AppConfig};
use anyhow::Context as _;
use tokio::{
    runtime::{Handle, Runtime},
    signal::unix::{self, SignalKind, signal},
};

use crate::{
    config::Config,
    http::{self, Http},
    job::{READY_FILE, is_ignored},
    proxy,
    registry::{
        Reached, Registry, Seeded, Sources,
        access::{Access, Generated, Key},
    },
    tls::{self, Tls},
    transfer::{Local, Pace, SeededImage, Seeder, Served, Wanted},
    types::{RegistryHost, UpstreamProxy},
};

use addresses::{bind, local_addresses, own_names};
use assembly::Assembly;
use ready::Ready;
use reports::Reports;

/// The registry on its data directory, for a command that serves nobody.
pub(crate) fn offline(config: &Config) -> anyhow::Result<Assembly> {
    Assembly::new(config, own_names(config, &config.listen))
}

/// Serves until SIGTERM, SIGINT or SIGHUP, then drains: requests in flight may finish within `--grace`. A second signal ends
/// the process at once.
pub fn serve(config: Config) -> anyhow::Result<()> {
    raise_open_files();
    log::info!(
        "standin {} (pid {}) starts, with content in {} and keys in {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        config.data.display(),
        config.state.display()
    );
    let listeners = bind(&config.listen)?;
    let addresses = local_addresses(&listeners)?;
    let own = own_names(&config, &addresses);
    let assembly = Assembly::new(&config, own)?;
    let own = &assembly.sources.own;
    let tls = Arc::new(Tls::open(tls::Options {
        state: config.state.clone(),
        registries: config.registries.keys().cloned().collect(),
        own_names: own.names.iter().cloned().collect(),
        own_addresses: own.addresses.iter().copied().collect(),
        certificate: config.certificate.clone(),
        authority: config.authority.clone(),
        http2: config.http2,
    })?);
    let Assembly {
        runtime,
        registry,
        cache,
        sources,
        activity,
        metrics,
    } = assembly;
    if let Some(proxy) = &config.tunnels.upstream {
        check_upstream_proxy(proxy, &sources)?;
    }
    let (access, generated) = access(&config, &addresses)?;
    if addresses.iter().any(|address| !address.ip().is_loopback()) {
        let private = config
            .registries
            .keys()
            .filter(|host| cache.is_private(host));
        let private: Vec<String> = private.map(RegistryHost::to_string).collect();
        if !private.is_empty() {
            log::info!(
                "standin is or may be logged in at {}: those names are read without a log-in on this machine only",
                private.join(", ")
            );
        }
    }
    let access = {
        let cache = cache.clone();
        access.keeping(config.registries.keys().cloned(), move |registry| {
            cache.is_private(registry)
        })
    };
    log::info!("{}", access.summary());
    let reports = Reports::new(&activity, &registry, &config)?;
    let seeded = seed(&registry, runtime.handle(), &config)?;
    let ready = Ready::new(&addresses, &config, tls.ca_path(), generated)?;
    let own_ready_file = config.state.join(READY_FILE);
    let gateway = proxy::Gateway {
        sources,
        access: access.clone(),
        tunnels: proxy::Tunnels::new(
            config.tunnels.clone(),
            proxy::system_resolver(runtime.handle().clone()),
            Arc::clone(&metrics),
        ),
    };
    let certificate = Arc::clone(&tls);
    let live = reports.clone();
    let http = Http::new(
        registry,
        access,
        config.external_url.clone(),
        connection,
        http::Pages {
            ca: Arc::new(move || certificate.ca_pem()),
            status: Arc::new(move |asked| live.page(asked)),
        },
        config.limits.http,
        metrics,
    );
    let front = Front {
        listeners,
        tls,
        gateway: Arc::new(gateway),
    };
    runtime.spawn(Reports::tell(activity));
    let stopping = || reports.write_early();
    let ended = run(&runtime, &config, front, http, stopping, || {
        ready.announce(&own_ready_file, config.ready_file.as_deref())?;
        cache.count_in_background();
        let listeners: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        log::info!(
            "standin listens on {}; what it does is told at {}/status",
            listeners.join(", "),
            ready.http()
        );
        for image in &seeded {
            log::info!(
                "seeded {}:{} ({}): docker pull {}",
                image.name,
                image.tag,
                image.digest,
                ready.pull_name(image, &config.default_registry)
            );
        }
        Ok(())
    });
    let reported = reports.write();
    // Whoever looks must not be sent to a server that is gone.
    for file in config.ready_file.iter().chain([&own_ready_file]) {
        let _ = fs::remove_file(file);
    }
    ended.and(reported)
}

/// What connections come to.
struct Front {
    listeners: Vec<TcpListener>,
    tls: Arc<Tls>,
    gateway: Arc<proxy::Gateway>,
}

fn run(
    runtime: &Runtime,
    config: &Config,
    front: Front,
    http: Http,
    stopping: impl FnOnce(),
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (registry, judging) = (http.registry.clone(), http.clone());
    let app = move || {
        let app = App::new()
            .configure(|routes| http.clone().configure(routes))
            .into_factory();
        let app = app.map_err(|error| error.error_response());
        map_config(app, |()| AppConfig::default())
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let limits = proxy::Limits {
        first_byte: config.limits.head,
        handshake: config.limits.head,
        head: config.limits.head,
        grace: config.grace,
        ..proxy::Limits::default()
    };
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("can't listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for SIGINT")?;
        let mut hangup = Hangup::listen()?;
        let judge = move |request: actix_http::Request| {
            let http = judging.clone();
            async move {
                let connection = {
                    let extensions = request.extensions();
                    described(request.conn_data().or_else(|| extensions.get()))
                };
                match http.refusal(request.head(), &connection).await {
                    Some(refusal) => Err(refusal.into()),
                    None => Ok(request),
                }
            }
        };
        let Front {
            listeners,
            tls,
            gateway,
        } = front;
        let server = proxy::server(listeners, tls, gateway, workers, limits, app, judge);
        let server = server.context("can't start serving")?;
        let handle = server.handle();
        let server = tokio::spawn(server);
        tokio::spawn(expire(registry.clone()));
        registry.resume_owed().await?;
        ready()?;
        let by = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = hangup.comes() => "SIGHUP",
        };
        log::info!(
            "{by}: requests in flight have {} to finish; a second signal ends them",
            seconds(config.grace)
        );
        let drained = handle.stop(true);
        stopping();
        let ended = tokio::select! {
            () = drained => {
                log::info!("drained: no request is left");
                Ok(())
            }
            _ = terminate.recv() => Err(CUT_OFF),
            _ = interrupt.recv() => Err(CUT_OFF),
            () = hangup.comes() => Err(CUT_OFF),
        };
        server.abort();
        ended.map_err(anyhow::Error::msg)
    })
}

/// The terminal was closed, unless that is to be no matter (`nohup`).
struct Hangup(Option<unix::Signal>);

impl Hangup {
    fn listen() -> anyhow::Result<Self> {
        let heard = !is_ignored(rustix::process::Signal::HUP);
        let stream = heard.then(|| signal(SignalKind::hangup())).transpose();
        Ok(Self(stream.context("can't listen for SIGHUP")?))
    }

    async fn comes(&mut self) {
        match &mut self.0 {
            Some(stream) => {
                stream.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}

const CUT_OFF: &str =
    "a second signal came before the requests in flight had finished; they were cut off";

fn seconds(duration: Duration) -> String {
    format!("{} seconds", duration.as_secs())
}

/// Frees what clients left behind.
async fn expire(registry: Registry) {
    // Soon enough that a session outlives its lifetime by a quarter at most, where that is a time worth counting.
    let period = registry.limits().upload_lifetime / 4;
    let mut tick =
        tokio::time::interval(period.clamp(Duration::from_millis(100), Duration::from_secs(60)));
    loop {
        tick.tick().await;
        registry.expire_uploads().await;
    }
}

/// What the connection front knows, in the words of the HTTP layer.
fn connection(request: &HttpRequest) -> http::Connection {
    let extensions = request.extensions();
    described(request.conn_data().or_else(|| extensions.get()))
}

fn described(connection: Option<&proxy::Connection>) -> http::Connection {
    match connection {
        Some(connection) => http::Connection {
            peer: Some(connection.peer),
            local: Some(connection.local),
            tls: connection.tls,
            server_name: connection.server_name.clone(),
            connect: connection.connect.clone(),
        },
        None => http::Connection::default(),
    }
}

/// Takes as many open files as the system allows: each connection, open blob and idle upload holds one, and the usual
/// soft limit of 1024 is a relic of `select`.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::debug!(
            "the limit on open files stays at {:?}: {error}",
            limit.current
        );
    }
}

/// A proxy that is this server would send each tunnel round and round.
fn check_upstream_proxy(proxy: &UpstreamProxy, sources: &Sources) -> anyhow::Result<()> {
    let (host, port) = (proxy.host(), proxy.port());
    let itself = match host.parse() {
        Ok(address) => sources.loops(SocketAddr::new(address, port)),
        Err(_) => sources.reached(host, port) == Reached::Us,
    };
    anyhow::ensure!(
        !itself,
        "the upstream proxy {proxy} is this server itself: give --upstream-proxy the one that leads to the internet, or \
         leave it out"
    );
    Ok(())
}

/// Who may do what, and the credential that is made up where others reach us and no users are configured.
fn access(
    config: &Config,
    listeners: &[SocketAddr],
) -> anyhow::Result<(Access, Option<Generated>)> {
    if !config.users.is_empty() {
        let key = match &config.token_key {
            Some(file) => Key::in_file(file),
            None => Key::kept_in(&config.state),
        };
        return Ok((Access::of_users(config.users.clone(), key?)?, None));
    }
    if listeners.iter().all(|listener| listener.ip().is_loopback()) {
        return Ok((Access::of_anyone()?, None));
    }
    let (access, generated) = Access::of_generated()?;
    Ok((access, Some(generated)))
}

/// Images that the registry serves, as an origin. `runtime` is not the caller's own.
pub(crate) fn served(
    registry: &Registry,
    runtime: &Handle,
    config: &Config,
    wanted: Vec<Wanted>,
) -> Served {
    let default = config.default_registry.clone();
    Served::new(registry.clone(), runtime.clone(), default, wanted)
}

/// Puts what `--seed` names into the registry.
fn seed(registry: &Registry, runtime: &Handle, config: &Config) -> anyhow::Result<Vec<Seeded>> {
    let local = Local::new(registry);
    let pace = Pace::usual(registry.limits().manifest);
    let seeder = Seeder {
        destination: &local,
        pulled: &|wanted| Ok(Box::new(served(registry, runtime, config, vec![wanted]))),
        observer: &(),
        pace: &pace,
    };
    let mut images = Vec::new();
    for seed in &config.seeds {
        log::info!("seeding {}", seed.source);
        seeder.seed(seed, &mut |image| images.push(image))?;
    }
    let seeded = |image: SeededImage| {
        Ok(Seeded {
            name: local.canonical(&image.name)?,
            tag: image.tag,
            digest: image.digest,
        })
    };
    images.into_iter().map(seeded).collect()
}
