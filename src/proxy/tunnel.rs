//! Tunnels: bytes carried to a host that we do not stand in for, and back.
//!
//! - What may be reached is `policy`'s; here it is made sure of: a name is resolved once, its addresses are judged, and
//!   one of those that passed is dialled.
//! - No tunnel leads back to us, whatever is listed.
//! - The end of one direction is passed on, and the other lives on. A tunnel ends when nothing has moved either way for
//!   `--tunnel-idle`, and soon once the server drains.

use std::{
    cell::Cell,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use actix_server::GracefulShutdownSignal;
use bytes::BytesMut;
use futures_util::future::BoxFuture;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    net::TcpStream,
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    conn::Io,
    connect::Refusal,
    policy::{Host, Policy, Target, TunnelPattern},
    via::{self, Remote},
};
use crate::{
    metrics::{Metrics, UnderWay},
    registry::Sources,
    types::{UpstreamProxy, Zone},
};

/// The addresses of a name.
pub type Resolver =
    Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// The system's resolver. It blocks threads of `runtime`, not those that serve files.
pub fn system_resolver(runtime: Handle) -> Resolver {
    Arc::new(move |name| {
        let asked = runtime.spawn(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        });
        Box::pin(async move { asked.await.map_err(io::Error::other)? })
    })
}

/// What decides about tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelOptions {
    /// Where they may lead; if `None`, to public addresses for those who came to a loopback address, and nowhere for
    /// others.
    pub listed: Option<Vec<TunnelPattern>>,
    /// How many at once.
    pub most: usize,
    /// How long one stays that nothing moves through.
    pub idle: Duration,
    /// The proxy that they go through themselves.
    pub upstream: Option<UpstreamProxy>,
}

impl Default for TunnelOptions {
    fn default() -> Self {
        Self {
            listed: None,
            most: 512,
            idle: Duration::from_secs(10 * 60),
            upstream: None,
        }
    }
}

/// All tunnels of this process.
pub struct Tunnels {
    options: TunnelOptions,
    resolver: Resolver,
    slots: Arc<Semaphore>,
    /// For a proxy that is spoken to over TLS.
    secure: OnceLock<TlsConnector>,
    metrics: Arc<Metrics>,
}

impl Tunnels {
    pub fn new(options: TunnelOptions, resolver: Resolver, metrics: Arc<Metrics>) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(options.most)),
            options,
            resolver,
            secure: OnceLock::new(),
            metrics,
        }
    }

    #[cfg(test)]
    pub(super) fn traffic(&self) -> &crate::metrics::Tunnels {
        self.metrics.tunnels()
    }

    /// Connects to `target`, for a client that came to a listener which is `on_loopback` or not.
    pub(super) async fn open(
        &self,
        target: &Target,
        on_loopback: bool,
        sources: &Sources,
    ) -> Result<Tunnel, Refusal> {
        let public = [TunnelPattern::Public];
        let policy = match &self.options.listed {
            Some(listed) => Policy(listed),
            None if on_loopback => Policy(&public),
            None => Policy(&[]),
        };
        if !policy.may_allow(target) {
            let why = match &target.host {
                Host::Address(address) if Zone::of(*address) != Zone::Public => {
                    Zone::of(*address).described()
                }
                _ => "not listed",
            };
            return Err(Refusal::not_allowed(target, &format!("is {why}")));
        }
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot.map_err(|_| Refusal::too_many(self.options.most))?;
        match timeout(OPENING, self.dial(target, policy, sources)).await {
            Ok(dialled) => dialled.map(|remote| Tunnel {
                remote,
                _open: self.metrics.tunnels().begin(),
                _slot: slot,
            }),
            Err(_) => Err(Refusal::timed_out(target, OPENING)),
        }
    }

    async fn dial(
        &self,
        target: &Target,
        policy: Policy<'_>,
        sources: &Sources,
    ) -> Result<Remote, Refusal> {
        let upstream = self.options.upstream.as_ref();
        let upstream = upstream.filter(|proxy| !proxy.excepts(&target.host(), target.port));
        let resolved = match &target.host {
            Host::Address(address) => Ok(vec![*address]),
            Host::Name(name) => (self.resolver)(name.clone()).await,
        };
        let allowed = match resolved {
            Ok(addresses) => {
                let judged = self.judge(target, &addresses, policy, sources);
                Some(judged?)
            }
            // Where a proxy is needed, the names of the internet are often known to it alone.
            Err(_) if upstream.is_some() && policy.allows_unresolved(target) => None,
            Err(error) => {
                return Err(Refusal::unreachable(
                    target,
                    &format!("its name can't be resolved: {error}"),
                ));
            }
        };
        if let Some(proxy) = upstream {
            let stream = self.reach(proxy, sources).await;
            let failed = |error: io::Error| {
                Refusal::unreachable(target, &format!("by the upstream proxy {proxy}: {error}"))
            };
            let stream = stream.map_err(failed)?;
            return via::connect(proxy, stream, &target.to_string())
                .await
                .map_err(failed);
        }
        let stream = dial_one_of(&allowed.unwrap_or_default()).await;
        let stream = stream.map_err(|error| Refusal::unreachable(target, &error.to_string()))?;
        Ok(Remote {
            stream: Box::new(stream),
            unread: BytesMut::new(),
        })
    }

    /// Those of the target's addresses that may be dialled, at least one.
    fn judge(
        &self,
        target: &Target,
        addresses: &[IpAddr],
        policy: Policy<'_>,
        sources: &Sources,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let addresses = addresses
            .iter()
            .map(|address| SocketAddr::new(address.to_canonical(), target.port));
        let (own, others): (Vec<_>, Vec<_>) =
            addresses.partition(|address| sources.loops(*address));
        let (allowed, refused): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|address| policy.allows(target, address.ip()));
        if !allowed.is_empty() {
            return Ok(allowed);
        }
        if !own.is_empty() {
            return Err(Refusal::own(target));
        }
        match refused.first() {
            Some(address) => {
                let zone = Zone::of(address.ip()).described();
                let why = format!("is at {}, {zone}", address.ip());
                Err(Refusal::not_allowed(target, &why))
            }
            None => Err(Refusal::unreachable(target, "its name has no address")),
        }
    }

    /// A connection to our own proxy.
    async fn reach(&self, proxy: &UpstreamProxy, sources: &Sources) -> io::Result<Box<dyn Io>> {
        let addresses = match proxy.host().parse() {
            Ok(address) => vec![address],
            Err(_) => (self.resolver)(proxy.host().to_owned()).await?,
        };
        let addresses: Vec<_> = addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, proxy.port()))
            .filter(|address| !sources.loops(*address))
            .collect();
        if addresses.is_empty() {
            let why = "it is at no address, or at this server's own";
            return Err(io::Error::other(why));
        }
        let tcp = dial_one_of(&addresses).await?;
        if !proxy.is_tls() {
            return Ok(Box::new(tcp));
        }
        let secure = match self.secure.get() {
            Some(secure) => secure,
            None => {
                let made = via::secure().map_err(io::Error::other)?;
                self.secure.get_or_init(|| made)
            }
        };
        let name = ServerName::try_from(proxy.host().to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(secure.connect(name, tcp).await?))
    }

    /// Carries bytes until both sides have ended, or nothing moves any more.
    pub(super) async fn carry(
        &self,
        tunnel: Tunnel,
        client: impl AsyncRead + AsyncWrite,
        drain: &GracefulShutdownSignal,
    ) -> Carried {
        let (sent, received) = (Cell::new(0), Cell::new(0));
        let moved = Cell::new(Instant::now());
        let Tunnel {
            remote: Remote {
                stream: remote,
                unread,
            },
            _open,
            _slot,
        } = tunnel;
        let (mut from_client, mut to_client) = split(client);
        let (mut from_remote, mut to_remote) = split(remote);
        let up = async {
            let count = |bytes| {
                moved.set(Instant::now());
                sent.set(sent.get() + bytes);
                self.metrics.tunnels().add_sent(bytes);
            };
            pump(&mut from_client, &mut to_remote, count).await
        };
        let down = async {
            let count = |bytes| {
                moved.set(Instant::now());
                received.set(received.get() + bytes);
                self.metrics.tunnels().add_received(bytes);
            };
            to_client.write_all(&unread).await?;
            count(unread.len() as u64);
            pump(&mut from_remote, &mut to_client, count).await
        };
        let end = tokio::select! {
            both = async { tokio::try_join!(up, down) } => match both {
                Ok(_) => "both sides closed".to_owned(),
                Err(error) => error.to_string(),
            },
            idle = idle(&moved, self.options.idle, drain) => format!("nothing moved for {idle:?}"),
        };
        Carried {
            sent: sent.get(),
            received: received.get(),
            end,
        }
    }
}

/// A connection to a remote host, which counts as a tunnel for as long as it lives.
pub(super) struct Tunnel {
    remote: Remote,
    _open: UnderWay,
    _slot: OwnedSemaphorePermit,
}

/// What went through a tunnel, and why it ended.
pub(super) struct Carried {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) end: String,
}

async fn dial_one_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (n, address) in addresses.iter().enumerate() {
        // The last one may take what is left of the whole time.
        let patience = if n + 1 == addresses.len() {
            OPENING
        } else {
            ONE_ADDRESS
        };
        match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Carries one direction to its end, and passes the end on.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: impl Fn(u64),
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(PIECE);
    loop {
        buffer.clear();
        if from.read_buf(&mut buffer).await? == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer).await?;
        // TLS keeps what it could not write at once.
        to.flush().await?;
        count(buffer.len() as u64);
    }
}

/// Returns once nothing has moved for `limit`, which is short when the server drains.
async fn idle(
    moved: &Cell<Instant>,
    mut limit: Duration,
    drain: &GracefulShutdownSignal,
) -> Duration {
    let drained = drain.notified();
    tokio::pin!(drained);
    let mut draining = false;
    loop {
        let left = limit.saturating_sub(moved.get().elapsed());
        if left.is_zero() {
            return limit;
        }
        tokio::select! {
            () = sleep(left) => {}
            () = &mut drained, if !draining => {
                draining = true;
                limit = limit.min(IDLE_WHEN_DRAINING);
            }
        }
    }
}

/// To resolve a name and connect, by another proxy as well. Clients wait 30 seconds or longer.
const OPENING: Duration = Duration::from_secs(20);

/// For one of several addresses.
const ONE_ADDRESS: Duration = Duration::from_secs(5);

/// Clients keep connections that they have no more use for; a transfer does not pause for so long.
const IDLE_WHEN_DRAINING: Duration = Duration::from_secs(2);

/// What is read at once; with 512 tunnels both ways 16 MiB.
const PIECE: usize = 16 << 10;
