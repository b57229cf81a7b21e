//! What every command that works on a data directory puts together: the store, the upstreams, the cache and the rules.
//! Knows no listeners; whether anyone else may reach the registry is the caller's concern.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::runtime::Runtime;

use crate::{
    activity::Activity,
    cache::{self, Cache, Pace},
    config::Config,
    metrics::Metrics,
    registry::{OwnNames, Registry, Rules, Sources},
    storage::Store,
    upstream::{self, Keyring, Upstreams},
};

/// A registry at work on its data directory, which is nobody else's for as long as this lives.
pub(crate) struct Assembly {
    /// Where fills run. It outlives every request.
    pub(crate) runtime: Runtime,
    pub(crate) registry: Registry,
    pub(crate) cache: Cache,
    pub(crate) sources: Sources,
    pub(crate) activity: Arc<Activity>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Assembly {
    /// Opens the data directory; `own` are the names by which clients know us.
    ///
    /// # Errors
    /// The directory can't be used, or another standin uses it ([`OpenError`](crate::storage::OpenError)).
    pub(crate) fn new(config: &Config, own: OwnNames) -> anyhow::Result<Self> {
        let store = Arc::new(Store::open(&config.data, config.durability)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("standin-fetch")
            .enable_all()
            .build()
            .context("can't start threads")?;
        let keyring = match &config.authfiles {
            Some(files) => Keyring::files(files.iter().cloned()),
            None => Keyring::usual(),
        };
        let metrics = Arc::new(Metrics::new());
        let activity = Arc::new(Activity::new(Arc::clone(&metrics)));
        let upstreams = Upstreams::new(
            config.registries.clone(),
            upstream::Settings {
                manifest_limit: config.limits.registry.manifest,
                keyring,
                proxy: config.tunnels.upstream.clone(),
                pace: upstream::Pace::default(),
                activity: Arc::clone(&activity),
            },
        );
        let tag_ttl = config.tag_ttl.clone();
        let registries = config.registries.clone();
        let cache = Cache::new(
            Arc::clone(&store),
            upstreams,
            cache::Settings {
                tag_ttl: Arc::new(move |name| {
                    let of_registry = registries.get(name.source());
                    tag_ttl.of(name, of_registry.and_then(|options| options.tag_ttl))
                }),
                negative_ttl: config.negative_ttl,
                activity: Arc::clone(&activity),
                pace: Pace::default(),
                keep: config.keep.clone(),
            },
            runtime.handle().clone(),
        );
        let sources = Sources {
            own,
            configured: config.registries.keys().cloned().collect(),
            default: config.default_registry.clone(),
        };
        let rules = Rules {
            sources: sources.clone(),
            offline: config.offline,
            local_only: config.local_only.clone(),
            no_shadow: config.no_shadow.clone(),
            allow_sparse: config.allow_sparse,
            limits: config.limits.registry,
        };
        let registry = Registry::new(
            store,
            cache.clone(),
            rules,
            runtime.handle().clone(),
            Arc::clone(&activity),
        );
        Ok(Self {
            runtime,
            registry,
            cache,
            sources,
            activity,
            metrics,
        })
    }
}
