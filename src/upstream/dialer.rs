//! The HTTP clients of an endpoint, by where they may connect to.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::{Client, ClientBuilder, Proxy, Url, redirect};

use super::{Cause, guard::Guarded, options::Trust};
use crate::types::{UpstreamProxy, Zone};

/// Clients that trust the same certificates. Each is made at its first use: reading the system's certificates takes
/// longer than all the rest of a start.
pub(super) struct Dialer {
    trust: Trust,
    connect: Duration,
    /// How the world is reached, if not by itself.
    proxy: Option<UpstreamProxy>,
    direct: OnceLock<Made>,
    public: OnceLock<Made>,
    private: OnceLock<Made>,
    loopback: OnceLock<Made>,
}

impl Dialer {
    /// Connections, with the look-up of the name and TLS, take at most `connect`.
    pub(super) fn new(trust: Trust, connect: Duration, proxy: Option<UpstreamProxy>) -> Self {
        Self {
            trust,
            connect,
            proxy,
            direct: OnceLock::new(),
            public: OnceLock::new(),
            private: OnceLock::new(),
            loopback: OnceLock::new(),
        }
    }

    /// For the configured scheme, host and port alone: goes wherever that leads, and shows our certificate.
    pub(super) fn direct(&self) -> Result<&Client, Cause> {
        let made = self.direct.get_or_init(|| {
            self.client(|builder| match self.trust.identity() {
                Some(identity) => builder.identity(identity),
                None => builder,
            })
        });
        made.as_ref().map_err(Clone::clone)
    }

    /// For wherever a registry of this reach leads. Only names are checked: [`super::guard::check`] has the rest.
    pub(super) fn guarded(&self, reach: Zone) -> Result<&Client, Cause> {
        let client = match reach {
            Zone::Public | Zone::Forbidden => &self.public,
            Zone::Private => &self.private,
            Zone::Loopback => &self.loopback,
        };
        let made = client
            .get_or_init(|| self.client(|builder| builder.dns_resolver(Arc::new(Guarded(reach)))));
        made.as_ref().map_err(Clone::clone)
    }

    /// Whether this is reached through the proxy, which then resolves the name and has the connection.
    pub(super) fn is_proxied(&self, url: &Url) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| covers(proxy, url))
    }

    fn client(&self, with: impl Fn(ClientBuilder) -> ClientBuilder) -> Made {
        let builder = || {
            with(Client::builder())
                .user_agent(concat!("standin/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(self.connect)
                .redirect(redirect::Policy::none())
                .referer(false)
                // HTTPS_PROXY in a job's environment may well be ourselves.
                .no_proxy()
                .tls_danger_accept_invalid_certs(self.trust.is_insecure())
        };
        let builder = || match self.proxy.clone() {
            Some(proxy) => builder().proxy(through(proxy)),
            None => builder(),
        };
        let authorities = self.trust.authorities();
        let made = builder().tls_certs_merge(authorities.clone()).build();
        made.or_else(|error| {
            log::warn!(
                "no system certificates can be used ({error}): of the upstreams over https only those with a ca of their \
                 own will be trusted"
            );
            builder().tls_certs_only(authorities).build()
        })
        .map_err(|error| Cause::Protocol(format!("no connection can be prepared: {error}")))
    }
}

fn through(proxy: UpstreamProxy) -> Proxy {
    let address = proxy.to_string();
    let login = proxy.credentials();
    let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
    let by = Proxy::custom(move |url| covers(&proxy, url).then(|| address.clone()));
    match login {
        Some((user, password)) => by.basic_auth(&user, &password),
        None => by,
    }
}

fn covers(proxy: &UpstreamProxy, url: &Url) -> bool {
    let (host, port) = (url.host_str(), url.port_or_known_default());
    !proxy.excepts(host.unwrap_or_default(), port.unwrap_or_default())
}

type Made = Result<Client, Cause>;
