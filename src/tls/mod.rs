//! Certificates: an authority of our own and a leaf per server name, or the certificate an operator gave.
//!
//! Answers one question, which TLS configuration serves a connection, and knows no sockets and no HTTP.
//!
//! - A client that asks for a configured registry by name gets a leaf for that name alone: it believes it talks to the
//!   real one. Everyone else gets the leaf for our own names and addresses.
//! - Leaves live for 24 hours, keep their key in memory only, and are made at a handshake, in some 50 microseconds.
//! - HTTP/1.1 is the only protocol offered unless HTTP/2 is asked for: it is the faster one for blobs.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{NoServerSessionStorage, ProducesTickets},
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::types::RegistryHost;

pub mod facts;
pub mod probe;

mod authority;
mod error;
mod mint;
mod pem;
mod permits;

pub use authority::AuthorityPlace;
use authority::{Authority, Leaf, Validity};
pub use error::{Error, Problem};
pub use mint::MintedLeaf;
use permits::{Host, Permits};

/// What certificates are made for.
pub struct Options {
    /// Directory of the authority's files; made, for the owner alone, if it is missing.
    pub state: PathBuf,
    /// The configured registries: with our own, the only names a certificate can be had for.
    pub registries: Vec<RegistryHost>,
    /// DNS names of this server.
    pub own_names: Vec<String>,
    /// Addresses of this server, none of them a wildcard.
    pub own_addresses: Vec<IpAddr>,
    /// The operator's own certificate chain and key, as PEM files: then every handshake uses these, and there is no
    /// authority.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The operator's own authority and its key, as PEM files, in place of the one in `state`.
    pub authority: Option<(PathBuf, PathBuf)>,
    /// Whether clients may choose HTTP/2.
    pub http2: bool,
}

/// The TLS configurations of this server.
pub struct Tls {
    identity: Identity,
    trusted: PathBuf,
    http2: bool,
}

impl Tls {
    /// Loads the operator's certificate, or loads, mints, renews or replaces the authority.
    pub fn open(options: Options) -> Result<Self, Error> {
        Self::open_at(options, OffsetDateTime::now_utc())
    }

    /// The configuration for a connection to `local` whose client asks for `server_name`.
    pub fn server_config(
        &self,
        server_name: Option<&str>,
        local: IpAddr,
    ) -> Result<Arc<ServerConfig>, Error> {
        self.server_config_at(server_name, local, OffsetDateTime::now_utc())
    }

    /// Whether a client that asks for `server_name` gets a certificate that names it.
    pub fn vouches_for(&self, server_name: &str) -> bool {
        match &self.identity {
            // What an operator's certificate names is the operator's to know.
            Identity::Given { .. } => true,
            Identity::Minted(minted) => Host::parse(server_name).is_some_and(|host| {
                minted.own.contains(&host) || minted.registries.contains(&host)
            }),
        }
    }

    /// What a client should trust, as PEM: the authority, then the one before it while that is valid; or the operator's
    /// chain.
    pub fn ca_pem(&self) -> Bytes {
        match &self.identity {
            Identity::Given { chain, .. } => chain.clone(),
            Identity::Minted(minted) => {
                let now = OffsetDateTime::now_utc();
                lock(&minted.authority).bundle(now).into()
            }
        }
    }

    /// Whether a client may choose HTTP/2 in its handshake.
    pub fn offers_http2(&self) -> bool {
        self.http2
    }

    /// The file a client should trust, as an absolute path.
    pub fn ca_path(&self) -> &Path {
        &self.trusted
    }

    fn open_at(options: Options, now: OffsetDateTime) -> Result<Self, Error> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|reason| Error::io("resolve", path, reason))
        };
        let http2 = options.http2;
        let settings = Settings::new(http2)?;
        if let Some((certificate, key)) = options.certificate {
            let (chain, config) = given(&settings, &certificate, &key, now)?;
            return Ok(Self {
                identity: Identity::Given {
                    chain: chain.into(),
                    config: config.into(),
                },
                trusted: absolute(&certificate)?,
                http2,
            });
        }
        let mut own = BTreeSet::new();
        for name in options.own_names {
            own.insert(Host::parse(&name).ok_or(Error::Name(name))?);
        }
        own.extend(options.own_addresses.into_iter().map(Host::address));
        let mut registries = BTreeSet::new();
        for registry in &options.registries {
            let name = || Error::Name(registry.host().to_owned());
            registries.insert(Host::parse(registry.host()).ok_or_else(name)?);
        }
        let wanted = Permits::exactly(&own.union(&registries).cloned().collect());
        if options.registries.iter().any(RegistryHost::is_docker_hub) {
            registries.extend(DOCKER_HUB_HOSTS.into_iter().filter_map(Host::parse));
        }
        let place = match options.authority {
            Some((certificate, key)) => AuthorityPlace::Given {
                certificate: absolute(&certificate)?,
                key: absolute(&key)?,
            },
            None => AuthorityPlace::Kept(absolute(&options.state)?),
        };
        let trusted = place.certificate();
        let authority = Authority::open(&place, &wanted, now)?;
        Ok(Self {
            identity: Identity::Minted(Box::new(Minted {
                settings,
                place,
                own,
                registries,
                wanted,
                authority: Mutex::new(Arc::new(authority)),
                configs: Mutex::default(),
                unnamed: Mutex::default(),
            })),
            trusted,
            http2,
        })
    }

    fn server_config_at(
        &self,
        server_name: Option<&str>,
        local: IpAddr,
        now: OffsetDateTime,
    ) -> Result<Arc<ServerConfig>, Error> {
        match &self.identity {
            Identity::Given { config, .. } => Ok(config.clone()),
            Identity::Minted(minted) => minted.config(server_name, Host::address(local), now),
        }
    }
}

enum Identity {
    Given {
        chain: Bytes,
        config: Arc<ServerConfig>,
    },
    Minted(Box<Minted>),
}

struct Minted {
    settings: Settings,
    place: AuthorityPlace,
    own: BTreeSet<Host>,
    registries: BTreeSet<Host>,
    wanted: Permits,
    authority: Mutex<Arc<Authority>>,
    configs: Mutex<HashMap<Subject, Cached>>,
    /// Addresses of ours that were connected to and that no certificate can name.
    unnamed: Mutex<HashSet<Host>>,
}

/// Whom a leaf is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Registry(Host),
    /// This server, also at an address that is not among the configured ones.
    Own(Option<Host>),
}

struct Cached {
    config: Arc<ServerConfig>,
    renew_at: OffsetDateTime,
}

impl Minted {
    fn config(
        &self,
        server_name: Option<&str>,
        local: Host,
        now: OffsetDateTime,
    ) -> Result<Arc<ServerConfig>, Error> {
        let asked = server_name.and_then(Host::parse);
        let subject = match asked {
            Some(host) if self.registries.contains(&host) && !self.own.contains(&host) => {
                Subject::Registry(host)
            }
            _ if self.own.contains(&local) => Subject::Own(None),
            _ if lock(&self.authority).permits(&local) => Subject::Own(Some(local)),
            _ => {
                let mut unnamed = lock(&self.unnamed);
                if unnamed.len() < CACHED_CONFIGS && unnamed.insert(local.clone()) {
                    log::warn!(
                        "clients connect to {local} over TLS, which the certificate does not name: add --san {local}"
                    );
                }
                Subject::Own(None)
            }
        };
        if let Some(cached) = lock(&self.configs).get(&subject)
            && now < cached.renew_at
        {
            return Ok(cached.config.clone());
        }

        let hosts = match &subject {
            Subject::Registry(host) => vec![host.clone()],
            Subject::Own(local) => self.own.iter().chain(local).cloned().collect(),
        };
        let Leaf {
            chain,
            key,
            not_after,
        } = self.authority(now)?.issue(&hosts, now)?;
        let config = Arc::new(self.settings.server_config(chain, key)?);
        let cached = Cached {
            config: config.clone(),
            renew_at: not_after - (not_after - now) / 4,
        };
        let mut configs = lock(&self.configs);
        if configs.len() >= CACHED_CONFIGS
            && !configs.contains_key(&subject)
            && let Some(any) = configs.keys().next().cloned()
        {
            configs.remove(&any);
        }
        configs.insert(subject, cached);
        Ok(config)
    }

    /// The authority, renewed if it is time.
    fn authority(&self, now: OffsetDateTime) -> Result<Arc<Authority>, Error> {
        let mut current = lock(&self.authority);
        let validity = current.validity(now);
        if validity != Validity::Fresh {
            match Authority::open(&self.place, &self.wanted, now) {
                Ok(authority) => *current = Arc::new(authority),
                Err(error) if validity == Validity::Over => return Err(error),
                Err(error) => log::error!("the certificate authority cannot be renewed: {error}"),
            }
        }
        Ok(current.clone())
    }
}

/// What all configurations share.
struct Settings {
    provider: Arc<CryptoProvider>,
    ticketer: Arc<dyn ProducesTickets>,
    /// Those that clients may choose from.
    protocols: Vec<Vec<u8>>,
}

impl Settings {
    fn new(http2: bool) -> Result<Self, Error> {
        let http2 = http2.then_some(&b"h2"[..]);
        let protocols = http2.into_iter().chain([&b"http/1.1"[..]]);
        Ok(Self {
            protocols: protocols.map(<[u8]>::to_vec).collect(),
            provider: Arc::new(aws_lc_rs::default_provider()),
            ticketer: aws_lc_rs::Ticketer::new()?,
        })
    }

    fn server_config(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = self.protocols.clone();
        config.ticketer = self.ticketer.clone();
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }
}

/// The operator's chain as PEM, and the configuration that serves it.
fn given(
    settings: &Settings,
    certificate: &Path,
    key: &Path,
    now: OffsetDateTime,
) -> Result<(String, ServerConfig), Error> {
    let read = |path: &Path| std::fs::read(path).map_err(|reason| Error::io("read", path, reason));
    let problem = |path: &Path, problem| Error::Certificate {
        path: path.to_owned(),
        problem,
    };
    let blocks =
        pem::certificates(&read(certificate)?).map_err(|found| problem(certificate, found))?;
    let private = pem::key(&read(key)?).map_err(|found| problem(key, found))?;
    let (chain, text): (Vec<_>, Vec<_>) = blocks
        .into_iter()
        .map(|block| (block.der, block.pem))
        .unzip();

    let (_, leaf) = X509Certificate::from_der(&chain[0])
        .map_err(|error| problem(certificate, Problem::Malformed(error.to_string())))?;
    let validity = leaf.validity();
    if !(validity.not_before.timestamp()..=validity.not_after.timestamp())
        .contains(&now.unix_timestamp())
    {
        log::warn!(
            "{} is valid only from {} to {}: clients will refuse it",
            certificate.display(),
            validity.not_before,
            validity.not_after
        );
    }
    let config = match settings.server_config(chain, private) {
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(problem(certificate, Problem::Mismatch(key.to_owned())))
        }
        other => other.map_err(|error| problem(certificate, Problem::Malformed(error.to_string()))),
    };
    Ok((text.concat(), config?))
}

/// A thread that panicked while it held one of our locks left the value whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The hosts that docker.io is reached by, besides itself. As names below it they are permitted with it.
const DOCKER_HUB_HOSTS: [&str; 3] = ["registry-1.docker.io", "index.docker.io", "auth.docker.io"];

/// A client chooses among the addresses it connects to, and 127.0.0.0/8 alone has 16 million.
const CACHED_CONFIGS: usize = 256;

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests;
