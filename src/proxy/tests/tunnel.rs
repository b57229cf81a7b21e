//! Tunnels: where they lead, what they carry, and when they end.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::net::TcpListener;

use super::{
    connect::{ESTABLISHED, head, message},
    *,
};
use crate::types::UpstreamProxy;

/// Answers names from a table, each time with the next of its answers, and counts the questions.
#[derive(Default)]
struct Names {
    answers: Mutex<HashMap<&'static str, Vec<Vec<IpAddr>>>>,
    asked: AtomicUsize,
}

impl Names {
    fn new(answers: &[(&'static str, &[&[&str]])]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        let answers = answers
            .iter()
            .map(|(name, answers)| (*name, answers.iter().map(parse).collect()));
        Arc::new(Self {
            answers: Mutex::new(answers.collect()),
            asked: AtomicUsize::new(0),
        })
    }

    fn resolver(self: &Arc<Self>) -> Resolver {
        let names = self.clone();
        Arc::new(move |name| {
            names.asked.fetch_add(1, Ordering::Relaxed);
            let mut answers = names.answers.lock().unwrap();
            let found = answers
                .get_mut(name.as_str())
                .map(|answers| match answers.len() {
                    1 => answers[0].clone(),
                    _ => answers.remove(0),
                });
            Box::pin(async move { found.ok_or_else(|| io::ErrorKind::NotFound.into()) })
        })
    }
}

fn options(listed: &[&str]) -> TunnelOptions {
    TunnelOptions {
        listed: Some(listed.iter().map(|text| text.parse().unwrap()).collect()),
        ..TunnelOptions::default()
    }
}

fn start(options: TunnelOptions, names: &Arc<Names>) -> Running {
    let tunnels = Tunnels::new(options, names.resolver(), Arc::default());
    Running::with("127.0.0.1:0", Limits::default(), tunnels)
}

/// Asks for `target`; the connection, and the answer's head.
async fn ask(server: &Running, target: &str) -> (TcpStream, String) {
    let mut conn = server.plain().await;
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    conn.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut conn).await;
    (conn, head)
}

/// A tunnel to `target`, and its other end.
async fn through(server: &Running, remote: &TcpListener, target: &str) -> (TcpStream, TcpStream) {
    let (asked, accepted) =
        within(async { tokio::join!(ask(server, target), remote.accept()) }).await;
    assert_eq!(asked.1, ESTABLISHED);
    (asked.0, accepted.unwrap().0)
}

async fn remote() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_end_is_passed_on() {
    let (listener, port) = remote().await;
    let server = start(options(&[&format!("127.0.0.1:{port}")]), &Names::new(&[]));
    let (mut client, mut far) = through(&server, &listener, &format!("127.0.0.1:{port}")).await;
    assert_eq!(server.gateway.tunnels.traffic().open(), 1);
    let mut buffer = [0; 5];
    far.write_all(b"first").await.unwrap();
    within(client.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(&buffer, b"first");
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    within(far.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"hello");
    // Its own direction lives on.
    let large = vec![7; 3 << 20];
    let send = async {
        far.write_all(&large).await.unwrap();
        far.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (_, read) = within(async { tokio::join!(send, client.read_to_end(&mut heard)) }).await;
    read.unwrap();
    assert!(heard == large, "{} bytes", heard.len());
    let traffic = server.gateway.tunnels.traffic();
    assert_eq!((traffic.sent(), traffic.received()), (5, (3 << 20) + 5));
    assert_eq!(traffic.opened(), 1);
    let ended = async {
        while traffic.open() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(ended).await;
    server.stop().await;
}

#[tokio::test]
async fn what_came_with_the_connect_goes_through_first() {
    let (listener, port) = remote().await;
    let server = start(options(&[&format!("127.0.0.1:{port}")]), &Names::new(&[]));
    let mut client = server.plain().await;
    let request = format!("CONNECT 127.0.0.1:{port} HTTP/1.0\r\n\r\nearly");
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut far, _) = within(listener.accept()).await.unwrap();
    let mut heard = [0; 5];
    within(far.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"early");
    assert_eq!(head(&mut client).await, ESTABLISHED);
    server.stop().await;
}

#[tokio::test]
async fn no_address_but_the_internets_is_reached_by_default() {
    let (listener, port) = remote().await;
    let inside: [(&'static str, &[&[&str]]); 9] = [
        ("loopback.example", &[&["127.0.0.1"]]),
        ("loopback6.example", &[&["::1"]]),
        ("mapped.example", &[&["::ffff:127.0.0.1"]]),
        ("private.example.net", &[&["10.0.0.1", "192.168.0.1"]]),
        ("ula.example", &[&["fd00::1"]]),
        ("metadata.example", &[&["169.254.169.254"]]),
        ("nat64.example", &[&["64:ff9b::7f00:1"]]),
        ("carrier.example", &[&["100.64.0.1"]]),
        ("any.example", &[&["0.0.0.0"]]),
    ];
    let server = start(TunnelOptions::default(), &Names::new(&inside));
    let names = inside.iter().map(|(name, _)| format!("{name}:443"));
    let literals = [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ];
    let literals = literals.map(|host| format!("{host}:443"));
    for target in names.chain(literals) {
        let (mut conn, head) = ask(&server, &target).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{target}: {head}");
        let message = message(&mut conn, &head).await;
        assert!(message.contains("--tunnel"), "{message}");
    }
    let spellings = [
        "2130706433",
        "0177.0.0.1",
        "0x7f000001",
        "0x7f.0.0.1",
        "127.1",
        "127.0.0.1.nope.0x1",
    ];
    for host in spellings {
        let (_, head) = ask(&server, &format!("{host}:{port}")).await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{host}: {head}");
    }
    let reached = timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(reached.is_err(), "something was reached");
    server.stop().await;
}

#[tokio::test]
async fn a_name_is_resolved_once_and_the_address_that_passed_is_dialled() {
    // Two machines: the one at 127.0.0.2 is listed, the one at 127.0.0.3 must not be reached.
    let allowed = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = allowed.local_addr().unwrap().port();
    let secret = TcpListener::bind(("127.0.0.3", port)).await.unwrap();
    let names = Names::new(&[
        ("rebinding.example", &[&["127.0.0.2"], &["127.0.0.3"]]),
        ("both.example", &[&["127.0.0.3", "127.0.0.2"]]),
    ]);
    let server = start(options(&[&format!("127.0.0.2:{port}")]), &names);
    through(&server, &allowed, &format!("rebinding.example:{port}")).await;
    assert_eq!(names.asked.load(Ordering::Relaxed), 1);
    let (_, head) = ask(&server, &format!("rebinding.example:{port}")).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    through(&server, &allowed, &format!("both.example:{port}")).await;
    let reached = timeout(Duration::from_millis(50), secret.accept()).await;
    assert!(reached.is_err(), "the other address was reached");
    server.stop().await;
}

#[tokio::test]
async fn no_tunnel_leads_back_whatever_is_listed() {
    let names = Names::new(&[("alias.example", &[&["127.0.0.1"]])]);
    let server = start(options(&["127.0.0.0/8", "alias.example"]), &names);
    let port = server.address.port();
    let listed = options(&[
        &format!("127.0.0.0/8:{port}"),
        &format!("alias.example:{port}"),
    ]);
    let tunnels = Tunnels::new(listed, names.resolver(), Arc::default());
    for host in ["alias.example", "127.0.0.2"] {
        let target = format!("{host}:{port}").parse().unwrap();
        let opened = tunnels.open(&target, true, &server.gateway.sources).await;
        assert!(opened.is_err(), "{host}");
    }
    server.stop().await;
}

#[tokio::test]
async fn there_are_no_more_tunnels_than_allowed() {
    let (listener, port) = remote().await;
    let target = format!("127.0.0.1:{port}");
    let bounded = TunnelOptions {
        most: 1,
        ..options(&[&target])
    };
    let server = start(bounded, &Names::new(&[]));
    let (client, mut far) = through(&server, &listener, &target).await;
    let (mut second, refused) = ask(&server, &target).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    let message = message(&mut second, &refused).await;
    assert!(message.contains("--max-tunnels"), "{message}");
    drop(client);
    closes(&mut far).await;
    drop(far);
    let free = async {
        while server.gateway.tunnels.traffic().open() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(free).await;
    through(&server, &listener, &target).await;
    server.stop().await;
}

#[tokio::test]
async fn a_tunnel_that_nothing_moves_through_ends() {
    let (listener, port) = remote().await;
    let target = format!("127.0.0.1:{port}");
    let impatient = TunnelOptions {
        idle: Duration::from_millis(300),
        ..options(&[&target])
    };
    let server = start(impatient, &Names::new(&[]));
    let (mut client, mut far) = through(&server, &listener, &target).await;
    closes(&mut client).await;
    closes(&mut far).await;
    server.stop().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_idle_tunnels() {
    let (listener, port) = remote().await;
    let target = format!("127.0.0.1:{port}");
    let tunnels = Tunnels::new(
        options(&[&target]),
        Names::new(&[]).resolver(),
        Arc::default(),
    );
    let patient = Limits {
        grace: Duration::from_secs(3600),
        ..Limits::default()
    };
    let server = Running::with("127.0.0.1:0", patient, tunnels);
    let (mut client, _far) = through(&server, &listener, &target).await;
    let stopping = tokio::spawn(server.handle.stop(true));
    closes(&mut client).await;
    within(stopping).await.unwrap();
}

#[tokio::test]
async fn what_can_not_be_reached_is_said() {
    let (listener, port) = remote().await;
    drop(listener);
    let target = format!("127.0.0.1:{port}");
    let server = start(options(&[&target]), &Names::new(&[]));
    let (mut conn, head) = ask(&server, &target).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    let message = message(&mut conn, &head).await;
    assert!(
        message.contains(&target) && message.contains("refused"),
        "{message}"
    );
    server.stop().await;
}

#[tokio::test]
async fn tunnels_go_through_the_upstream_proxy_where_there_is_one() {
    let (listener, port) = remote().await;
    let proxy: UpstreamProxy = format!("http://ci:p%40ss@127.0.0.1:{port}")
        .parse()
        .unwrap();
    let by_proxy = TunnelOptions {
        upstream: Some(proxy.except("direct.example")),
        ..TunnelOptions::default()
    };
    let names = Names::new(&[
        ("inside.example", &[&["10.0.0.1"]]),
        ("direct.example", &[&["10.0.0.2"]]),
    ]);
    let server = start(by_proxy, &names);
    for answer in [
        "HTTP/1.1 200 OK\r\nx: y\r\n\r\nbanner",
        "HTTP/1.0 200\r\n\r\nbanner",
    ] {
        let asked = ask(&server, "known-to-the-proxy.example:443");
        let proxied = async {
            let (mut far, _) = listener.accept().await.unwrap();
            let request = head(&mut far).await;
            far.write_all(answer.as_bytes()).await.unwrap();
            (far, request)
        };
        let ((mut client, told), (_far, request)) =
            within(async { tokio::join!(asked, proxied) }).await;
        assert_eq!(told, ESTABLISHED);
        let expected = "CONNECT known-to-the-proxy.example:443 HTTP/1.1\r\nhost: known-to-the-proxy.example:443\r\n\
                        proxy-authorization: Basic Y2k6cEBzcw==\r\n\r\n";
        assert_eq!(request, expected);
        let mut banner = [0; 6];
        within(client.read_exact(&mut banner)).await.unwrap();
        assert_eq!(&banner, b"banner");
    }
    let refusing = async {
        let (mut far, _) = listener.accept().await.unwrap();
        head(&mut far).await;
        far.write_all(b"HTTP/1.1 407 Who are you\r\n\r\n")
            .await
            .unwrap();
        far
    };
    let ((mut client, told), _far) =
        within(async { tokio::join!(ask(&server, "pypi.example:443"), refusing) }).await;
    assert!(told.starts_with("HTTP/1.1 502 "), "{told}");
    let said = message(&mut client, &told).await;
    assert!(
        said.contains("407 Who are you") && !said.contains("p@ss"),
        "{said}"
    );
    // What is known to be no address of the internet is not asked of a proxy either.
    for target in [
        "inside.example:443",
        "direct.example:443",
        "10.0.0.1:443",
        "localhost:443",
        "db:443",
    ] {
        let (_, head) = ask(&server, target).await;
        assert!(!head.starts_with("HTTP/1.1 200 "), "{target}: {head}");
    }
    server.stop().await;
}
