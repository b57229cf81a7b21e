//! The connection front: one port that answers plain HTTP and TLS, and the place where CONNECT arrives.
//!
//! Decides what a connection is by its first byte and whom TLS speaks for by the client's server name; then actix-http
//! speaks HTTP/1.1 on it, or `http2` what its name says, with the service that the caller brings. Knows nothing of what the
//! requests mean.
//!
//! - A connection that has sent nothing, or only half a handshake, ends after a limit, and at once when the server drains.
//! - An idle connection ends at once when the server drains; a request in flight has until `Limits::grace`.
//! - A client that closes its sending side is gone: its request is dropped, since it may be waiting for an upstream.
//! - CONNECT, plain and inside TLS alike, leads to the same service in the place of a registry, by a tunnel to a remote
//!   host, or nowhere (`connect`).

use std::{
    cell::RefCell,
    fmt::Debug,
    io,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use actix_http::{
    HttpService, Protocol, Request, Response,
    body::{BoxBody, MessageBody},
};
use actix_server::{GracefulShutdownSignal, Server};
use actix_service::{Service, ServiceFactory, fn_factory, fn_service};
use futures_util::future::LocalBoxFuture;
use rustls::{AlertDescription, server::Acceptor};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{
    registry::{Sources, access::Access},
    tls::Tls,
};

mod conn;
mod connect;
mod http2;
mod policy;
mod tunnel;
mod via;

use conn::{Conn, Io, Socket};
use http2::Answers;

pub use conn::Connection;
pub use policy::{TunnelHosts, TunnelPattern};
pub use tunnel::{Resolver, TunnelOptions, Tunnels, system_resolver};

/// How long a client may take. The defaults are for clients on the same network; a body has no limit here.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To send its first byte.
    pub first_byte: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// To send the head of its first request.
    pub head: Duration,
    /// To take any byte of what is being written to it.
    pub write_stall: Duration,
    /// Between two requests.
    pub keep_alive: Duration,
    /// To stop sending a body that was refused, so that it sees the refusal.
    pub disconnect: Duration,
    /// To finish its request when the server drains; rounded up to seconds.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            write_stall: Duration::from_secs(60),
            keep_alive: Duration::from_secs(75),
            disconnect: Duration::from_secs(5),
            grace: Duration::from_secs(30),
        }
    }
}

/// What decides about CONNECT.
pub struct Gateway {
    /// Which hosts are ours, and in whose place we answer.
    pub sources: Sources,
    /// Who may use the proxy.
    pub access: Access,
    pub tunnels: Tunnels,
}

/// A server on `listeners`, which starts when it is awaited inside a tokio runtime, and ends by
/// `Server::handle().stop(graceful)` only: signals are the caller's. `app` makes one HTTP service per worker and listener.
/// `judge` sees a request whose client waits before it sends the body (`Expect: 100-continue`), and may refuse it then.
///
/// A request's connection data, or over HTTP/2 its extensions, hold its [`Connection`].
pub fn server<F, S, B, J, R>(
    listeners: Vec<std::net::TcpListener>,
    tls: Arc<Tls>,
    gateway: Arc<Gateway>,
    workers: usize,
    limits: Limits,
    app: F,
    judge: J,
) -> io::Result<Server>
where
    F: Fn() -> S + Send + Clone + 'static,
    J: Fn(Request) -> R + Send + Clone + 'static,
    R: Future<Output = Result<Request, Response<BoxBody>>> + 'static,
    S: ServiceFactory<Request, Config = ()> + 'static,
    S::Error: Into<Response<BoxBody>> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    if listeners.is_empty() {
        let error = "there is no address to listen on";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    }
    let mut builder = Server::build()
        .workers(workers.max(1))
        .worker_max_blocking_threads(BLOCKING_THREADS)
        .shutdown_timeout(limits.grace.as_secs_f64().ceil() as u64)
        .disable_signals();
    let drain = builder.graceful_shutdown_signal();
    for listener in listeners {
        let name = listener.local_addr()?.to_string();
        let (tls, gateway, drain) = (tls.clone(), gateway.clone(), drain.clone());
        let (app, judge) = (app.clone(), judge.clone());
        builder = builder.listen(name, listener, move || {
            let front = Rc::new(Front {
                tls: tls.clone(),
                gateway: gateway.clone(),
                limits,
                drain: drain.clone(),
                http: RefCell::default(),
            });
            let (app, judge) = (app.clone(), judge.clone());
            fn_factory(move || serve(front.clone(), app.clone(), judge.clone()))
        })?;
    }
    Ok(builder.run())
}

/// What one worker does with the connections of one listener.
async fn serve<F, S, B, J, R>(
    front: Rc<Front>,
    app: F,
    judge: J,
) -> Result<impl Service<TcpStream, Response = (), Error = ()>, ()>
where
    F: Fn() -> S,
    S: ServiceFactory<Request, Config = ()> + 'static,
    S::Error: Into<Response<BoxBody>> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
    J: Fn(Request) -> R + Clone + 'static,
    R: Future<Output = Result<Request, Response<BoxBody>>> + 'static,
{
    let Limits {
        head,
        keep_alive,
        disconnect,
        ..
    } = front.limits;
    let drain = front.drain.clone();
    let upgraded = front.clone();
    let http = HttpService::<Conn, _, _>::build()
        .client_request_timeout(head)
        .keep_alive(keep_alive)
        .client_disconnect_timeout(disconnect)
        .h1_allow_half_closed(false)
        .h1_write_buffer_size(WRITE_BUFFER)
        .graceful_shutdown_signal(move || {
            let drain = drain.clone();
            async move { drain.notified().await }
        })
        .on_connect_ext(|conn: &Conn, data| {
            data.insert(conn.connection.clone());
        })
        .expect(fn_service(judge.clone()))
        .upgrade(fn_service(move |(request, framed)| {
            let front = upgraded.clone();
            async move {
                front.upgrade(request, framed).await;
                Ok::<_, actix_http::Error>(())
            }
        }))
        .finish(app())
        .new_service(())
        .await?;
    let http = Rc::new(http);
    let http2 = match front.tls.offers_http2() {
        true => {
            let service = app().new_service(()).await;
            let service = service.map_err(|error| log::error!("can't start serving: {error:?}"))?;
            Some(Rc::new(Answers { service, judge }))
        }
        false => None,
    };
    let (limits, drain) = (front.limits, front.drain.clone());
    let http: Rc<Http> = Rc::new(move |conn: Conn| {
        let (http, http2, drain) = (http.clone(), http2.clone(), drain.clone());
        Box::pin(async move {
            let peer = conn.connection.peer;
            let spoken = match http2.filter(|_| conn.speaks_http2()) {
                Some(answers) => http2::speak(conn, &answers, limits, &drain)
                    .await
                    .map_err(|error| error.to_string()),
                None => {
                    let spoken = http.call((conn, Protocol::Http1, Some(peer))).await;
                    spoken.map_err(|error| error.to_string())
                }
            };
            if let Err(error) = spoken {
                log::debug!("connection from {peer}: {error}");
            }
        })
    });
    front.http.replace(Some(Rc::downgrade(&http)));
    Ok(fn_service(move |tcp| {
        let (front, http) = (front.clone(), http.clone());
        async move {
            if let Some(conn) = front.receive(tcp).await {
                http(conn).await;
            }
            Ok(())
        }
    }))
}

struct Front {
    tls: Arc<Tls>,
    gateway: Arc<Gateway>,
    limits: Limits,
    drain: GracefulShutdownSignal,
    /// The service that speaks HTTP, which has this front within it.
    http: RefCell<Option<Weak<Http>>>,
}

type Http = dyn Fn(Conn) -> LocalBoxFuture<'static, ()>;

impl Front {
    /// The connection, once the client has begun to speak HTTP; `None` if that comes to nothing.
    async fn receive(&self, tcp: TcpStream) -> Option<Conn> {
        // An error here is a client that is already gone.
        let (peer, local) = (tcp.peer_addr().ok()?, tcp.local_addr().ok()?);
        tcp.set_nodelay(true).ok()?;
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let connection = Connection {
            peer: canonical(peer),
            local: canonical(local),
            tls: false,
            server_name: None,
            connect: None,
        };
        let socket = Socket::new(tcp, self.limits.write_stall);
        tokio::select! {
            biased;
            conn = self.sniff(socket, connection) => conn,
            () = self.drain.notified() => None,
        }
    }

    async fn sniff(&self, socket: Socket, connection: Connection) -> Option<Conn> {
        let secure = self
            .begins_with_tls(socket.first_byte(), connection.peer)
            .await?;
        if !secure {
            return Some(Conn::plain(socket, connection));
        }
        let stream = self.handshake(socket, &connection).await?;
        Some(Conn::tls(stream, connection))
    }

    /// Whether the client begins with a TLS handshake; `None` if it does not begin at all.
    async fn begins_with_tls(
        &self,
        first_byte: impl Future<Output = io::Result<Option<u8>>>,
        peer: SocketAddr,
    ) -> Option<bool> {
        let limit = self.limits.first_byte;
        match timeout(limit, first_byte).await {
            Ok(Ok(first)) => first.map(|byte| byte == TLS_HANDSHAKE),
            Ok(Err(_)) => None,
            Err(_) => {
                log::debug!("connection from {peer}: not a byte within {limit:?}");
                None
            }
        }
    }

    async fn handshake<S: Io>(&self, stream: S, connection: &Connection) -> Option<TlsStream<S>> {
        let peer = connection.peer;
        let limit = self.limits.handshake;
        match timeout(limit, self.tls_accept(stream, connection)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => {
                log::info!("TLS handshake from {peer}: {}", self.reason(&error));
            }
            Err(_) => log::info!("TLS handshake from {peer}: not finished within {limit:?}"),
        }
        None
    }

    async fn tls_accept<S: Io>(
        &self,
        stream: S,
        connection: &Connection,
    ) -> io::Result<TlsStream<S>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        // Clients send no server name for an address.
        let connect = connection.connect.as_ref().map(|connect| &*connect.host);
        let hello = start.client_hello();
        let asked = hello.server_name();
        let foreign = asked.filter(|name| !self.tls.vouches_for(name));
        let foreign = foreign.map(str::to_owned);
        let config = self
            .tls
            .server_config(asked.or(connect), connection.local.ip())
            .map_err(io::Error::other)?;
        let accepted = start.into_stream(config).await;
        accepted.map_err(|error| match foreign {
            Some(name) => io::Error::other(format!(
                "the client asked for {name}, which is neither a registry (--registry) nor a name of this server (--san) \
                 ({error})"
            )),
            None => error,
        })
    }

    /// Speaks HTTP on `conn` until it ends.
    async fn speak(&self, conn: Conn) {
        let http = self.http.borrow().as_ref().and_then(Weak::upgrade);
        if let Some(http) = http {
            http(conn).await;
        }
    }

    /// Why a handshake failed, and what to do about it if we know.
    fn reason(&self, error: &io::Error) -> String {
        let tls = error
            .get_ref()
            .and_then(|error| error.downcast_ref::<rustls::Error>());
        match tls {
            // OpenSSL, Go and Java each say it in their own way.
            Some(rustls::Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown,
            )) => {
                let ca = self.tls.ca_path().display();
                format!("the client does not trust {ca} ({error})")
            }
            _ if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the client closed the connection".to_owned()
            }
            _ => error.to_string(),
        }
    }
}

/// The first byte of every TLS connection: a record of type handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What actix-http gathers before it writes. One chunk of a download.
const WRITE_BUFFER: usize = 256 << 10;

/// Disk threads per worker: enough that slow disks do not queue, few enough that their stacks stay small.
const BLOCKING_THREADS: usize = 64;

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests;
