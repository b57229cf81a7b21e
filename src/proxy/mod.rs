//! The connection front: one port that answers plain HTTP and TLS, and the place where CONNECT arrives.
//!
//! Decides what a connection is by its first byte and whom TLS speaks for by the client's server name; then actix-http
//! speaks HTTP/1.1 on it, with the service that the caller brings. Knows nothing of what the requests mean.
//!
//! - A connection that has sent nothing, or only half a handshake, ends after a limit, and at once when the server drains.
//! - An idle connection ends at once when the server drains; a request in flight has until `Limits::grace`.
//! - A client that closes its sending side is gone: its request is dropped, since it may be waiting for an upstream.
//! - CONNECT is refused, plain and inside TLS alike.

use std::{fmt::Debug, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use actix_codec::Framed;
use actix_http::{
    HttpService, Method, Protocol, Request, Response,
    body::{BoxBody, MessageBody},
    h1::Codec,
};
use actix_server::{GracefulShutdownSignal, Server};
use actix_service::{Service, ServiceFactory, fn_factory, fn_service};
use rustls::{AlertDescription, server::Acceptor};
use tokio::{
    io::{AsyncWriteExt, copy, sink},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;

use crate::tls::Tls;

mod conn;

use conn::{Conn, Socket};

pub use conn::Connection;

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

/// A server on `listeners`, which starts when it is awaited inside a tokio runtime, and ends by
/// `Server::handle().stop(graceful)` only: signals are the caller's. `app` makes one HTTP service per worker and listener.
/// `judge` sees a request whose client waits before it sends the body (`Expect: 100-continue`), and may refuse it then.
///
/// A request's connection data hold its [`Connection`].
pub fn server<F, S, B, J, R>(
    listeners: Vec<std::net::TcpListener>,
    tls: Arc<Tls>,
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
        let (tls, drain) = (tls.clone(), drain.clone());
        let (app, judge) = (app.clone(), judge.clone());
        builder = builder.listen(name, listener, move || {
            let front = Rc::new(Front {
                tls: tls.clone(),
                limits,
                drain: drain.clone(),
            });
            let (app, judge) = (app.clone(), judge.clone());
            fn_factory(move || serve(front.clone(), app(), judge.clone()))
        })?;
    }
    Ok(builder.run())
}

/// What one worker does with the connections of one listener.
async fn serve<S, B, J, R>(
    front: Rc<Front>,
    app: S,
    judge: J,
) -> Result<impl Service<TcpStream, Response = (), Error = ()>, ()>
where
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
        .expect(fn_service(judge))
        .upgrade(fn_service(move |(request, framed)| {
            let front = upgraded.clone();
            async move {
                front.refuse(&request, framed).await;
                Ok::<_, actix_http::Error>(())
            }
        }))
        .finish(app)
        .new_service(())
        .await?;
    let http = Rc::new(http);
    Ok(fn_service(move |tcp| {
        let (front, http) = (front.clone(), http.clone());
        async move {
            if let Some(conn) = front.receive(tcp).await {
                let peer = conn.connection.peer;
                if let Err(error) = http.call((conn, Protocol::Http1, Some(peer))).await {
                    log::debug!("connection from {peer}: {error}");
                }
            }
            Ok(())
        }
    }))
}

struct Front {
    tls: Arc<Tls>,
    limits: Limits,
    drain: GracefulShutdownSignal,
}

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
        };
        let socket = Socket::new(tcp, self.limits.write_stall);
        tokio::select! {
            biased;
            conn = self.sniff(socket, connection) => conn,
            () = self.drain.notified() => None,
        }
    }

    async fn sniff(&self, socket: Socket, connection: Connection) -> Option<Conn> {
        let peer = connection.peer;
        let Limits {
            first_byte,
            handshake,
            ..
        } = self.limits;
        match timeout(first_byte, socket.first_byte()).await {
            Ok(Ok(Some(TLS_HANDSHAKE))) => {}
            Ok(Ok(Some(_))) => return Some(Conn::plain(socket, connection)),
            Ok(Ok(None) | Err(_)) => return None,
            Err(_) => {
                log::debug!("connection from {peer}: not a byte within {first_byte:?}");
                return None;
            }
        }
        match timeout(handshake, self.tls_accept(socket, connection)).await {
            Ok(Ok(conn)) => return Some(conn),
            Ok(Err(error)) => {
                log::info!("TLS handshake from {peer}: {}", self.reason(&error));
            }
            Err(_) => log::info!("TLS handshake from {peer}: not finished within {handshake:?}"),
        }
        None
    }

    async fn tls_accept(&self, socket: Socket, connection: Connection) -> io::Result<Conn> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let config = self
            .tls
            .server_config(start.client_hello().server_name(), connection.local.ip())
            .map_err(io::Error::other)?;
        Ok(Conn::tls(start.into_stream(config).await?, connection))
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

    /// Answers a request that would take the connection away from HTTP.
    async fn refuse(&self, request: &Request, framed: Framed<Conn, Codec>) {
        let parts = framed.into_parts();
        let (mut conn, mut answer) = (parts.io, parts.write_buf);
        let (status, message) = if *request.method() == Method::CONNECT {
            ("501 Not Implemented", CONNECT_REFUSED)
        } else {
            ("400 Bad Request", UPGRADE_REFUSED)
        };
        let peer = conn.connection.peer;
        log::info!("refused {} {} from {peer}", request.method(), request.uri());
        let body = format!(r#"{{"errors":[{{"code":"UNSUPPORTED","message":"{message}"}}]}}"#);
        // Before it stand the answers to requests that came ahead of this one on the connection.
        answer.extend_from_slice(
            format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        let told = async {
            conn.write_all(&answer).await?;
            conn.shutdown().await
        };
        if let Err(error) = told.await {
            log::debug!("connection from {peer}: {error}");
            return;
        }
        // To close on what the client still sends would take the answer from it.
        let mut void = sink();
        tokio::select! {
            _ = timeout(self.limits.disconnect, copy(&mut conn, &mut void)) => {}
            () = self.drain.notified() => {}
        }
    }
}

const CONNECT_REFUSED: &str =
    "standin: CONNECT is not served yet; use it as a mirror, not as an HTTPS proxy";
const UPGRADE_REFUSED: &str =
    "standin: no other protocol is served; send the request without Upgrade";

/// The first byte of every TLS connection: a record of type handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What actix-http gathers before it writes. One chunk of a download.
const WRITE_BUFFER: usize = 256 << 10;

/// Disk threads per worker: enough that slow disks do not queue, few enough that their stacks stay small.
const BLOCKING_THREADS: usize = 64;

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests;
