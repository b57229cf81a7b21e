//! CONNECT as clients send it: to registries in whose place we answer, to ourselves, broken, slow, and not at all.

use actix_http::test::TestRequest;

use super::*;
use crate::proxy::conn::Conn;

/// Asks for `target` on `conn`; the answer's head.
async fn ask(conn: &mut (impl Wire + ?Sized), target: &str) -> String {
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    conn.write_all(request.as_bytes()).await.unwrap();
    head(conn).await
}

/// Reads a head and nothing behind it.
pub(super) async fn head(conn: &mut (impl Wire + ?Sized)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(conn.read_u8()).await.expect("a whole head"));
    }
    String::from_utf8(head).unwrap()
}

pub(super) const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// The message of a refusal that was read up to its body.
pub(super) async fn message(conn: &mut (impl Wire + ?Sized), head: &str) -> String {
    let head = head.to_lowercase();
    let (_, length) = head.split_once("content-length: ").expect("a length");
    let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
    within(conn.read_exact(&mut body)).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    body["errors"][0]["message"].as_str().unwrap().to_owned()
}

const ASK: &[u8] = b"GET /connect HTTP/1.1\r\nhost: x\r\n\r\n";

async fn told(conn: &mut (impl Wire + ?Sized)) -> String {
    conn.write_all(ASK).await.unwrap();
    let (head, body) = response(&mut Pin::new(conn)).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    body
}

#[tokio::test]
async fn a_registry_is_answered_for_whichever_way_the_client_goes_on() {
    let server = Running::start(Limits::default());
    let root = server.tls.ca_pem();
    for (target, name, sni, registry) in [
        ("quay.io:443", "quay.io", true, "quay.io"),
        ("QUAY.io:80", "quay.io", true, "quay.io"),
        (
            "registry-1.docker.io:443",
            "registry-1.docker.io",
            true,
            "docker.io",
        ),
        (
            "private.example:8443",
            "private.example",
            true,
            "private.example:8443",
        ),
        (
            "private.example:443",
            "private.example",
            true,
            "private.example:8443",
        ),
        ("10.9.9.9:5000", "10.9.9.9", false, "10.9.9.9:5000"),
        ("[2001:db8::5]:443", "2001:db8::5", false, "[2001:db8::5]"),
    ] {
        for outer_tls in [false, true] {
            let outer = || async {
                let mut conn: Box<dyn Wire> = match outer_tls {
                    true => Box::new(server.secure("localhost").await),
                    false => Box::new(server.plain().await),
                };
                assert_eq!(ask(&mut conn, target).await, ESTABLISHED, "{target}");
                conn
            };
            let host = target.rsplit_once(':').unwrap().0.to_lowercase();
            let tell = |tls: bool| {
                let server_name = (tls && sni).then_some(name);
                let connect = Some((&host, registry));
                format!("tls={tls} server_name={server_name:?} connect={connect:?}")
            };
            assert_eq!(told(&mut outer().await).await, tell(false), "{target}");
            let mut inner = connect(outer().await, name, &root).await.expect(target);
            assert_eq!(told(&mut inner).await, tell(true), "{target}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn without_a_server_name_the_connect_decides_the_certificate() {
    let server = Running::start(Limits::default());
    let mut conn = server.plain().await;
    assert_eq!(ask(&mut conn, "quay.io:443").await, ESTABLISHED);
    let mut trusted = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(&server.tls.ca_pem()).unwrap();
    trusted.add(root).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    config.enable_sni = false;
    let name = ServerName::try_from("quay.io").unwrap();
    let mut conn = TlsConnector::from(Arc::new(config))
        .connect(name, conn)
        .await
        .unwrap();
    let expected = r#"tls=true server_name=None connect=Some(("quay.io", "quay.io"))"#;
    assert_eq!(told(&mut conn).await, expected);
    server.stop().await;
}

#[tokio::test]
async fn our_own_address_is_answered_as_such() {
    let server = Running::start(Limits::default());
    for host in ["localhost", "127.0.0.1"] {
        let mut conn = server.plain().await;
        let target = format!("{host}:{}", server.address.port());
        assert_eq!(ask(&mut conn, &target).await, ESTABLISHED);
        let mut inner = connect(conn, host, &server.tls.ca_pem()).await.unwrap();
        assert!(told(&mut inner).await.ends_with("connect=None"));
    }
    server.stop().await;
}

/// The bytes with which a client begins TLS.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn a_connect_may_come_in_any_pieces() {
    let server = Running::start(Limits::default());
    let request = "CONNECT quay.io:443 HTTP/1.1\r\nhost: quay.io:443\r\n\r\n";
    let with_tls = [request.as_bytes(), &hello("quay.io")].concat();
    let with_plain = [request.as_bytes(), ASK].concat();
    let old = [b"CONNECT quay.io:443 HTTP/1.0\r\n\r\n".as_slice(), ASK].concat();
    for (wire, first) in [
        (&with_tls, TLS_HANDSHAKE),
        (&with_plain, b'H'),
        (&old, b'H'),
    ] {
        for piecewise in [false, true] {
            let mut conn = server.plain().await;
            conn.set_nodelay(true).unwrap();
            // A request that came ahead on the connection has its answer first.
            conn.write_all(GET.as_bytes()).await.unwrap();
            if piecewise {
                for byte in wire {
                    conn.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            } else {
                conn.write_all(wire).await.unwrap();
            }
            assert!(response(&mut conn).await.0.starts_with("http/1.1 200 "));
            assert_eq!(head(&mut conn).await, ESTABLISHED);
            assert_eq!(within(conn.read_u8()).await.unwrap(), first);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_refused_is_refused_in_words() {
    let server = Running::start(Limits::default());
    let websocket =
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_owned();
    let connect =
        |target: &str| format!("CONNECT {target} HTTP/1.1\r\nhost: x\r\n\r\n\x16\x03\x01");
    for (request, status, said) in [
        (websocket, "400 Bad Request", "without Upgrade"),
        (connect("quay.io:22"), "403 Forbidden", "none of its ports"),
        (connect("quay.io"), "400 Bad Request", "HOST:PORT"),
        (
            connect("2130706433:443"),
            "400 Bad Request",
            "neither a DNS name nor an address",
        ),
        (
            connect("0x7f.1:443"),
            "400 Bad Request",
            "neither a DNS name nor an address",
        ),
        (
            connect("127.0.0.1:9"),
            "403 Forbidden",
            "--tunnel 127.0.0.1:9",
        ),
        (
            connect("nowhere.example:22"),
            "403 Forbidden",
            "--tunnel nowhere.example:22",
        ),
        (
            connect("nowhere.example:443"),
            "502 Bad Gateway",
            "can't be resolved",
        ),
    ] {
        let mut plain = server.plain().await;
        let mut secure = server.secure("localhost").await;
        for conn in [&mut plain as &mut dyn Wire, &mut secure] {
            conn.write_all(request.as_bytes()).await.unwrap();
            let head = head(conn).await;
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{request}: {head}"
            );
            assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
            let message = message(conn, &head).await;
            assert!(
                message.starts_with("standin: ") && message.contains(said),
                "{message}"
            );
            closes(&mut Pin::new(conn)).await;
        }
    }
    let mut nested = server.plain().await;
    assert_eq!(ask(&mut nested, "quay.io:443").await, ESTABLISHED);
    let head = ask(&mut nested, "quay.io:443").await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    assert!(message(&mut nested, &head).await.contains("within it"));
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_talks_on_after_a_refusal_still_reads_it() {
    let server = Running::start(Limits::default());
    let mut conn = server.plain().await;
    conn.write_all(b"CONNECT quay.io:22 HTTP/1.1\r\nhost: quay.io:22\r\n\r\n")
        .await
        .unwrap();
    within(conn.write_all(&vec![0; 8 << 20])).await.unwrap();
    let (head, _) = response(&mut conn).await;
    assert!(head.starts_with("http/1.1 403 "), "{head}");
    server.stop().await;
}

#[tokio::test]
async fn slowness_is_bounded_on_either_side_of_the_answer() {
    let short = Duration::from_secs(1);
    let server = Running::start(Limits {
        first_byte: short,
        handshake: short,
        head: short,
        ..Limits::default()
    });
    let mut slow = server.plain().await;
    slow.write_all(b"CONNECT quay.io:443 HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    let refused = head(&mut slow).await;
    assert!(refused.starts_with("HTTP/1.1 408 "), "{refused}");

    let mut silent = server.plain().await;
    assert_eq!(ask(&mut silent, "quay.io:443").await, ESTABLISHED);
    closes(&mut silent).await;

    let mut half = server.plain().await;
    assert_eq!(ask(&mut half, "quay.io:443").await, ESTABLISHED);
    half.write_all(&hello("quay.io")[..20]).await.unwrap();
    closes(&mut half).await;

    get(&mut server.plain().await).await;
    server.stop().await;
}

#[tokio::test]
async fn garbage_behind_a_connect_harms_nobody() {
    let server = Running::start(Limits::default());
    for garbage in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"SSH-2.0-x\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
    ] {
        let mut conn = server.plain().await;
        assert_eq!(ask(&mut conn, "quay.io:443").await, ESTABLISHED);
        conn.write_all(garbage).await.unwrap();
        let refused = head(&mut conn).await;
        assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    }
    let mut conn = server.plain().await;
    assert_eq!(ask(&mut conn, "quay.io:443").await, ESTABLISHED);
    conn.write_all(b"\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff")
        .await
        .unwrap();
    // With an alert or without.
    let _ = within(conn.read_to_end(&mut Vec::new())).await;
    get(&mut server.plain().await).await;
    server.stop().await;
}

#[tokio::test]
async fn an_answered_connect_drains_as_any_connection_does() {
    let server = Running::start(Limits::default());
    let root = server.tls.ca_pem();
    let mut silent = server.plain().await;
    assert_eq!(ask(&mut silent, "quay.io:443").await, ESTABLISHED);
    let mut idle = server.plain().await;
    assert_eq!(ask(&mut idle, "quay.io:443").await, ESTABLISHED);
    let mut idle = connect(idle, "quay.io", &root).await.unwrap();
    told(&mut idle).await;
    let mut busy = server.plain().await;
    assert_eq!(ask(&mut busy, "quay.io:443").await, ESTABLISHED);
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    within(server.events.entered.notified()).await;
    let stopping = tokio::spawn(server.handle.stop(true));
    closes(&mut silent).await;
    closes(&mut idle).await;
    server.events.release.notify_one();
    assert_eq!(response(&mut busy).await.1, "waited");
    within(stopping).await.unwrap();
}

#[tokio::test]
async fn elsewhere_the_proxy_is_for_users_and_before_anything_is_resolved() {
    let server = Running::start(Limits::default());
    let (access, generated) = Access::of_generated().unwrap();
    let resolver: Resolver = Arc::new(|name| panic!("{name} was resolved"));
    let everywhere = TunnelOptions {
        listed: Some(vec![TunnelPattern::Public]),
        ..TunnelOptions::default()
    };
    let front = Front {
        tls: server.tls.clone(),
        gateway: Arc::new(Gateway {
            sources: server.gateway.sources.clone(),
            access,
            tunnels: Tunnels::new(everywhere, resolver, Arc::default()),
        }),
        limits: Limits::default(),
        drain: Server::build().graceful_shutdown_signal(),
        http: RefCell::default(),
    };
    let conn = async |local: &str| {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (tcp, peer) = listener.accept().await.unwrap();
        let connection = Connection {
            peer,
            local: local.parse().unwrap(),
            tls: false,
            server_name: None,
            connect: None,
        };
        (client, Conn::plain(Socket::new(tcp, SOON), connection))
    };
    let right = format!("{}:{}", generated.user, generated.password);
    let basic = |text: &str| {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        format!("Basic {}", BASE64_STANDARD.encode(text))
    };
    for (local, target, header, allowed) in [
        ("127.0.0.1:1", "quay.io:443", None, true),
        ("192.0.2.1:1", "quay.io:443", None, false),
        ("192.0.2.1:1", "unheard.example:443", None, false),
        ("192.0.2.1:1", "quay.io:443", Some(basic(&right)), true),
        (
            "192.0.2.1:1",
            "quay.io:443",
            Some(basic(&right).replace("Basic", "basic")),
            true,
        ),
        (
            "192.0.2.1:1",
            "unheard.example:443",
            Some(basic("standin:wrong")),
            false,
        ),
        (
            "192.0.2.1:1",
            "unheard.example:443",
            Some(basic("nobody:x")),
            false,
        ),
        (
            "192.0.2.1:1",
            "unheard.example:443",
            Some("Basic ???".to_owned()),
            false,
        ),
        (
            "192.0.2.1:1",
            "unheard.example:443",
            Some("Bearer x".to_owned()),
            false,
        ),
    ] {
        let mut request = TestRequest::default();
        request.method(actix_http::Method::CONNECT).uri(target);
        if let Some(header) = &header {
            request.insert_header((actix_http::header::PROXY_AUTHORIZATION, header.as_str()));
        }
        let (mut client, conn) = conn(local).await;
        let asked = async {
            let head = head(&mut client).await;
            drop(client);
            head
        };
        let answered = async {
            let framed = actix_codec::Framed::new(conn, actix_http::h1::Codec::default());
            tokio::join!(front.upgrade(request.finish(), framed), asked)
        };
        let (_, head) = tokio::task::LocalSet::new().run_until(answered).await;
        if allowed {
            assert_eq!(head, ESTABLISHED, "{header:?}");
        } else {
            assert!(head.starts_with("HTTP/1.1 407 "), "{header:?} {head}");
            let challenge = "\r\nproxy-authenticate: Basic realm=\"standin\"\r\n";
            assert!(head.contains(challenge), "{head}");
        }
    }
    server.stop().await;
}
