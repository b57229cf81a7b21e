//! The front as clients meet it: a real listener, a tiny HTTP service behind it, and clients that behave and that don't.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
};

use actix_http::{
    HttpMessage as _, StatusCode,
    body::{BodySize, BodyStream, SizedStream},
};
use actix_server::ServerHandle;
use bytes::Bytes;
use futures_util::stream;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{registry::OwnNames, tls, types::RegistryHost};

mod connect;
mod http2;
mod tunnel;

/// Long enough for a loaded machine; nothing that passes waits for it.
const SOON: Duration = Duration::from_secs(20);

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// What the service tells a test.
#[derive(Default)]
struct Events {
    entered: Notify,
    release: Notify,
    dropped: Notify,
}

struct Dropped(Arc<Events>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.dropped.notify_one();
    }
}

struct Running {
    address: SocketAddr,
    tls: Arc<Tls>,
    gateway: Arc<Gateway>,
    events: Arc<Events>,
    handle: ServerHandle,
    task: JoinHandle<io::Result<()>>,
    _state: TempDir,
}

/// Lets every client send its body.
async fn take(request: Request) -> Result<Request, Response<BoxBody>> {
    Ok(request)
}

impl Running {
    fn start(limits: Limits) -> Self {
        Self::listen("127.0.0.1:0", limits)
    }

    fn listen(address: &str, limits: Limits) -> Self {
        let nobody: Resolver =
            Arc::new(|_| Box::pin(async { Err(io::ErrorKind::NotFound.into()) }));
        Self::with(
            address,
            limits,
            Tunnels::new(TunnelOptions::default(), nobody, Arc::default()),
        )
    }

    fn with(address: &str, limits: Limits, tunnels: Tunnels) -> Self {
        let state = TempDir::new().unwrap();
        let registries = REGISTRIES.map(|host| host.parse::<RegistryHost>().unwrap());
        let tls = Tls::open(tls::Options {
            state: state.path().to_owned(),
            registries: registries.to_vec(),
            own_names: vec!["localhost".to_owned()],
            own_addresses: vec![Ipv4Addr::LOCALHOST.into()],
            certificate: None,
            authority: None,
            http2: true,
        });
        let tls = Arc::new(tls.unwrap());
        let listener = std::net::TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let gateway = Arc::new(gateway(tunnels, registries.into(), address.port()));
        let events = Arc::new(Events::default());
        let app = {
            let events = events.clone();
            move || {
                let events = events.clone();
                fn_service(move |request: Request| answer(events.clone(), request))
            }
        };
        // One worker takes connections in the order they come.
        let server = server(
            vec![listener],
            tls.clone(),
            gateway.clone(),
            1,
            limits,
            app,
            take,
        );
        let server = server.unwrap();
        Self {
            address,
            tls,
            gateway,
            events,
            handle: server.handle(),
            task: tokio::spawn(server),
            _state: state,
        }
    }

    async fn plain(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.address.port()))
            .await
            .unwrap()
    }

    async fn secure(&self, name: &str) -> TlsStream<TcpStream> {
        connect(self.plain().await, name, &self.tls.ca_pem())
            .await
            .unwrap()
    }

    /// Stops gracefully; the server must have ended by then.
    async fn stop(self) {
        within(self.handle.stop(true)).await;
        within(self.task).await.unwrap().unwrap();
    }
}

const REGISTRIES: [&str; 5] = [
    "quay.io",
    "docker.io",
    "private.example:8443",
    "10.9.9.9:5000",
    "[2001:db8::5]",
];

/// Anyone may use it; `localhost` at `port` is us.
fn gateway(
    tunnels: Tunnels,
    configured: std::collections::BTreeSet<RegistryHost>,
    port: u16,
) -> Gateway {
    Gateway {
        sources: Sources {
            own: OwnNames {
                names: ["localhost".to_owned()].into(),
                addresses: [IpAddr::from(Ipv4Addr::LOCALHOST)].into(),
                ports: [port].into(),
                external: None,
            },
            configured,
            default: RegistryHost::docker_hub(),
        },
        access: Access::of_anyone().unwrap(),
        tunnels,
    }
}

/// TLS on `tcp`, as a client that trusts `root`.
async fn connect<S: Wire>(tcp: S, name: &str, root: &[u8]) -> io::Result<TlsStream<S>> {
    let mut trusted = RootCertStore::empty();
    trusted
        .add(CertificateDer::from_pem_slice(root).unwrap())
        .unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// `/` tells what the front knows; `/wait` answers when released; `/endless` never ends.
async fn answer(events: Arc<Events>, request: Request) -> Result<Response<BoxBody>, Infallible> {
    let body = match request.path() {
        "/wait" => {
            let _dropped = Dropped(events.clone());
            events.entered.notify_one();
            events.release.notified().await;
            BoxBody::new("waited")
        }
        "/endless" => {
            let dropped = Dropped(events);
            BoxBody::new(BodyStream::new(stream::repeat_with(move || {
                let _ = &dropped;
                Ok::<_, Infallible>(Bytes::from_static(&[0; 64 << 10]))
            })))
        }
        "/large" => BoxBody::new(SizedStream::new(
            LARGE,
            stream::iter(
                (0..LARGE >> 16).map(|_| Ok::<_, Infallible>(Bytes::from_static(&[0; 1 << 16]))),
            ),
        )),
        "/connect" => {
            let connection = connection_of(&request);
            let connect = connection.connect.as_ref();
            BoxBody::new(format!(
                "tls={} server_name={:?} connect={:?}",
                connection.tls,
                connection.server_name,
                connect.map(|connect| (connect.host.as_str(), connect.registry.to_string())),
            ))
        }
        _ => {
            let connection = connection_of(&request);
            BoxBody::new(format!(
                "tls={} server_name={:?} local={} loopback={}",
                connection.tls,
                connection.server_name,
                connection.local.ip(),
                connection.peer.ip().is_loopback(),
            ))
        }
    };
    assert_ne!(body.size(), BodySize::None);
    Ok(Response::with_body(StatusCode::OK, body))
}

fn connection_of(request: &Request) -> Connection {
    let extensions = request.extensions();
    let connection = request.conn_data().or_else(|| extensions.get());
    connection.cloned().unwrap()
}

const LARGE: u64 = 64 << 20;

async fn within<F: Future>(future: F) -> F::Output {
    timeout(SOON, future).await.expect("not soon enough")
}

/// Reads one response: its head, lower-case, and its body, which must have a length.
async fn response(conn: &mut (impl AsyncRead + Unpin)) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(conn.read_u8()).await.expect("a whole head"));
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let (_, length) = head.split_once("content-length: ").expect("a length");
    let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
    within(conn.read_exact(&mut body)).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

async fn get(conn: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    conn.write_all(GET.as_bytes()).await.unwrap();
    let (head, body) = response(conn).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    body
}

/// That the server closes the connection, having said nothing more.
async fn closes(conn: &mut (impl AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    within(conn.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

#[tokio::test]
async fn one_port_answers_plain_and_tls_and_tells_them_apart() {
    let server = Running::start(Limits::default());
    let tell = |tls: bool, name: Option<&str>| {
        format!("tls={tls} server_name={name:?} local=127.0.0.1 loopback=true")
    };
    assert_eq!(get(&mut server.plain().await).await, tell(false, None));
    assert_eq!(
        get(&mut server.secure("127.0.0.1").await).await,
        tell(true, None)
    );
    for name in ["localhost", "quay.io"] {
        assert_eq!(
            get(&mut server.secure(name).await).await,
            tell(true, Some(name))
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn ipv4_at_a_dual_stack_listener_is_ipv4() {
    let server = Running::listen("[::]:0", Limits::default());
    let expected = "tls=false server_name=None local=127.0.0.1 loopback=true";
    assert_eq!(get(&mut server.plain().await).await, expected);
    get(&mut server.secure("127.0.0.1").await).await;
    server.stop().await;
}

#[tokio::test]
async fn connections_are_kept_alive() {
    let server = Running::start(Limits::default());
    let (mut plain, mut secure) = (server.plain().await, server.secure("localhost").await);
    for _ in 0..3 {
        get(&mut plain).await;
        get(&mut secure).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let server = Running::start(Limits::default());
    let mut conn = server.plain().await;
    conn.set_nodelay(true).unwrap();
    for byte in GET.as_bytes() {
        conn.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(response(&mut conn).await.0.starts_with("http/1.1 200 "));
    server.stop().await;
}

#[tokio::test]
async fn silence_is_closed_before_the_first_byte_and_within_a_handshake() {
    let short = Duration::from_millis(300);
    let server = Running::start(Limits {
        first_byte: short,
        handshake: short,
        ..Limits::default()
    });
    closes(&mut server.plain().await).await;

    let mut half = server.plain().await;
    half.write_all(&[TLS_HANDSHAKE, 3, 1]).await.unwrap();
    closes(&mut half).await;

    get(&mut server.plain().await).await;
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_answered_408() {
    let server = Running::start(Limits {
        head: Duration::from_secs(1),
        ..Limits::default()
    });
    let mut conn = server.plain().await;
    conn.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let (head, _) = response(&mut conn).await;
    assert!(head.starts_with("http/1.1 408 "), "{head}");
    closes(&mut conn).await;
    server.stop().await;
}

trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

#[tokio::test]
async fn other_upgrades_are_plain_requests() {
    let server = Running::start(Limits::default());
    let mut conn = server.plain().await;
    let h2c = "GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
               http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
    conn.write_all(h2c.as_bytes()).await.unwrap();
    let (head, _) = response(&mut conn).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_off() {
    let server = Running::start(Limits {
        write_stall: Duration::from_millis(300),
        ..Limits::default()
    });
    for secure in [false, true] {
        let mut conn: Box<dyn Wire> = match secure {
            true => Box::new(server.secure("localhost").await),
            false => Box::new(server.plain().await),
        };
        conn.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        within(server.events.dropped.notified()).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_slow_reader_is_not_a_stopped_one() {
    let server = Running::start(Limits {
        write_stall: Duration::from_millis(200),
        ..Limits::default()
    });
    let mut conn = server.plain().await;
    conn.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut buffer = vec![0; 128 << 10];
    let mut taken = 0;
    // Far less between two ticks than what makes the kernel report room.
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..40 {
        tick.tick().await;
        taken += within(conn.read_exact(&mut buffer)).await.unwrap();
    }
    loop {
        match within(conn.read(&mut buffer)).await.unwrap() {
            0 => break,
            read => taken += read,
        }
        if taken as u64 > LARGE {
            break;
        }
    }
    assert!(taken as u64 > LARGE, "cut off after {taken} bytes");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_its_request_waits_is_noticed() {
    let server = Running::start(Limits::default());
    let mut plain = server.plain().await;
    let mut secure = server.secure("localhost").await;
    for conn in [&mut plain as &mut dyn Wire, &mut secure] {
        let mut conn = Pin::new(conn);
        conn.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        within(server.events.entered.notified()).await;
        conn.shutdown().await.unwrap();
        within(server.events.dropped.notified()).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn draining_closes_the_idle_at_once_and_lets_the_busy_finish() {
    let never = Duration::from_secs(3600);
    let server = Running::start(Limits {
        first_byte: never,
        handshake: never,
        ..Limits::default()
    });
    let mut silent = server.plain().await;
    let mut handshaking = server.plain().await;
    handshaking.write_all(&[TLS_HANDSHAKE, 3, 1]).await.unwrap();
    let (mut idle, mut idle_secure) = (server.plain().await, server.secure("localhost").await);
    get(&mut idle).await;
    get(&mut idle_secure).await;
    let mut busy = server.plain().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    within(server.events.entered.notified()).await;

    let stopping = tokio::spawn(server.handle.stop(true));
    closes(&mut silent).await;
    // The part of its hello that nobody read makes this end a reset.
    let end = within(handshaking.read(&mut [0])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    closes(&mut idle).await;
    closes(&mut idle_secure).await;

    server.events.release.notify_one();
    let (head, body) = response(&mut busy).await;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(body, "waited");
    closes(&mut busy).await;
    within(stopping).await.unwrap();
    within(server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_is_cut_off() {
    let server = Running::start(Limits {
        grace: Duration::from_secs(1),
        ..Limits::default()
    });
    let mut busy = server.plain().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    within(server.events.entered.notified()).await;
    let events = server.events.clone();
    server.stop().await;
    within(events.dropped.notified()).await;
}

#[tokio::test]
async fn a_client_that_does_not_trust_us_is_told_about_the_file() {
    let (server, stranger) = (
        Running::start(Limits::default()),
        Running::start(Limits::default()),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).await.unwrap();
    let (tcp, peer) = listener.accept().await.unwrap();
    let front = Front {
        tls: server.tls.clone(),
        gateway: server.gateway.clone(),
        limits: Limits::default(),
        drain: Server::build().graceful_shutdown_signal(),
        http: RefCell::default(),
    };
    let connection = Connection {
        peer,
        local: address,
        tls: false,
        server_name: None,
        connect: None,
    };
    let socket = Socket::new(tcp, SOON);
    let other_root = stranger.tls.ca_pem();
    let (served, trusted) = within(async {
        tokio::join!(
            front.tls_accept(socket, &connection),
            connect(client, "localhost", &other_root),
        )
    })
    .await;
    assert!(trusted.is_err());
    let reason = front.reason(&served.err().unwrap());
    let file = server.tls.ca_path().display();
    let expected = format!("the client does not trust {file} (");
    assert!(reason.starts_with(&expected), "{reason}");

    // Nobody else is worse off.
    get(&mut server.secure("localhost").await).await;
    server.stop().await;
    stranger.stop().await;
}

#[test]
fn a_server_needs_an_address() {
    let state = TempDir::new().unwrap();
    let tls = Tls::open(tls::Options {
        state: state.path().to_owned(),
        registries: Vec::new(),
        own_names: Vec::new(),
        own_addresses: vec![IpAddr::from([127, 0, 0, 1])],
        certificate: None,
        authority: None,
        http2: false,
    });
    let app = || fn_service(|_: Request| async { Ok::<_, Infallible>(Response::ok()) });
    let nobody: Resolver = Arc::new(|_| Box::pin(async { Err(io::ErrorKind::NotFound.into()) }));
    let tunnels = Tunnels::new(TunnelOptions::default(), nobody, Arc::default());
    let refused = server(
        Vec::new(),
        Arc::new(tls.unwrap()),
        Arc::new(gateway(tunnels, [].into(), 1)),
        1,
        Limits::default(),
        app,
        take,
    );
    assert!(refused.err().unwrap().to_string().contains("no address"));
}
