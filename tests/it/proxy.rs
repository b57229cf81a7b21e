//! As an HTTPS proxy: registries in whose place it answers, tunnels to everyone else, and who is kept from where.

use std::{net::TcpListener, sync::Arc};

use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

use crate::support::{
    Client, Exchange, FakeUpstream, Raw, TestRegistry, eventually, image::Image, registry::Builder,
};

/// A client of `base` by the proxy that `registry` is, spoken to by `scheme`.
fn by_proxy(registry: &TestRegistry, scheme: &str, base: &str) -> Client {
    let pem = std::fs::read(registry.ca()).unwrap();
    let proxy = format!("{scheme}://{}", registry.address());
    Client::by_proxy(base, &pem, &proxy)
}

async fn quay() -> (FakeUpstream, Builder) {
    let upstream = FakeUpstream::start().await;
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    (upstream, builder)
}

#[tokio::test]
async fn a_client_that_trusts_our_ca_alone_pulls_and_pushes() {
    let (upstream, builder) = quay().await;
    let (theirs, ours) = (Image::small(1), Image::small(2));
    upstream.add_image("acme/tool", "v1", &theirs);
    let registry = builder.start().await;
    for (proxy, base) in [
        ("http", "https://quay.io"),
        ("https", "https://quay.io"),
        ("http", "http://quay.io"),
    ] {
        let client = by_proxy(&registry, proxy, base);
        client.get("/v2/").answer().await.expect(200);
        client.pull_image("acme/tool", "v1", &theirs).await;
        let tag = format!("by-{proxy}-{}", base.len());
        client.push_image("acme/tool", &tag, &ours).await;
        client.pull_image("acme/tool", &tag, &ours).await;
        assert!(client.tags("acme/tool").await.contains(&tag));
        // The same thing as by the mirror's name.
        registry
            .client()
            .pull_image("quay.io/acme/tool", &tag, &ours)
            .await;
    }
    // A local image of the name is preferred, and the push went nowhere else.
    let client = by_proxy(&registry, "http", "https://quay.io");
    client.push_image("acme/tool", "v1", &ours).await;
    client.pull_image("acme/tool", "v1", &ours).await;
    let sent = upstream.requests();
    assert!(
        sent.iter()
            .all(|line| line.starts_with("GET ") || line.starts_with("HEAD ")),
        "{sent:?}"
    );
}

#[tokio::test]
async fn an_operators_own_authority_signs_for_registries_as_well() {
    let builder = TestRegistry::builder().registry("quay.io", "http://127.0.0.1:9");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "our own");
    let ca = params.self_signed(&key).unwrap();
    std::fs::create_dir(builder.state()).unwrap();
    std::fs::write(builder.state().join("ca.pem"), ca.pem()).unwrap();
    std::fs::write(builder.state().join("ca.key"), key.serialize_pem()).unwrap();
    let registry = builder.start().await;
    assert_eq!(std::fs::read_to_string(registry.ca()).unwrap(), ca.pem());
    let client = by_proxy(&registry, "http", "https://quay.io");
    client.get("/v2/").answer().await.expect(200);
}

#[tokio::test]
async fn a_registrys_host_has_nothing_of_ours() {
    let (_upstream, builder) = quay().await;
    let registry = builder.start().await;
    for base in ["https://quay.io", "http://quay.io"] {
        let client = by_proxy(&registry, "http", base);
        client.get("/v2/").answer().await.expect(200);
        client.get("/auth/token").answer().await.expect(200);
        for path in ["/", "/healthz", "/metrics", "/ca.pem", "/status"] {
            client.get(path).answer().await.refused(404, "UNSUPPORTED");
        }
    }
    registry.client().get("/healthz").answer().await.expect(200);
}

#[tokio::test]
async fn a_request_for_another_host_than_the_connects_is_misdirected() {
    let (_upstream, builder) = quay().await;
    let registry = builder
        .registry("ghcr.io", "http://127.0.0.1:9")
        .start()
        .await;
    let client = by_proxy(&registry, "http", "https://quay.io");
    for host in ["ghcr.io", "localhost", "example.com"] {
        let misdirected = client.get("/v2/").header("host", host).answer().await;
        misdirected.expect(421);
    }
}

#[tokio::test]
async fn a_dot_behind_a_hosts_name_makes_it_no_other_host() {
    let (_upstream, builder) = quay().await;
    let registry = builder.start().await;
    let address = registry.address();
    for host in ["quay.io", "quay.io.", "QUAY.io.:443"] {
        let ask = |path: &str| format!("GET {path}\nHost: {host}");
        let ours = Raw::exchange(address, &ask("/ca.pem"), b"").await;
        assert_eq!(ours.status, 404, "{host}");
        let tags = Raw::exchange(address, &ask("/v2/acme/nothing/tags/list"), b"").await;
        let said = String::from_utf8(tags.body).unwrap();
        assert!(said.contains("quay.io/acme/nothing"), "{host}: {said}");
    }
    let client = by_proxy(&registry, "http", "https://quay.io");
    let dotted = client.get("/v2/").header("host", "quay.io.");
    dotted.answer().await.expect(200);
}

#[tokio::test]
async fn a_connect_with_a_body_is_refused_in_words_and_its_body_is_no_request() {
    let (_upstream, builder) = quay().await;
    let registry = builder.start().await;
    let hidden = "GET /v2/ HTTP/1.1\r\nHost: quay.io\r\n\r\n";
    let chunked = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    for (header, body) in [
        (format!("Content-Length: {}", hidden.len()), hidden),
        ("Transfer-Encoding: chunked".to_owned(), &chunked),
    ] {
        let mut raw = registry.raw().await;
        raw.head(&format!("CONNECT quay.io:443\n{header}")).await;
        raw.send(body.as_bytes()).await;
        let refused = raw.answer().await;
        assert_eq!(refused.status, 400, "{refused:?}");
        let said = String::from_utf8(refused.body).unwrap();
        assert!(said.contains("a CONNECT has no body"), "{said}");
        assert!(raw.try_answer().await.is_none(), "{header}");
    }
}

#[tokio::test]
async fn an_upstreams_outage_is_told_as_one() {
    let registry = TestRegistry::builder()
        .registry("quay.io", "http://127.0.0.1:9")
        .start()
        .await;
    // A client that believes it talks to quay.io has no other host to try.
    let client = by_proxy(&registry, "http", "https://quay.io");
    client.get_manifest("acme/app", "v1").await.expect(502);
}

#[tokio::test]
async fn hosts_that_are_no_registry_are_tunnelled_to_if_listed() {
    let other = TestRegistry::start().await;
    let image = Image::small(3);
    other.client().push_image("acme/app", "v1", &image).await;
    let target = other.address().to_string();
    let registry = TestRegistry::builder()
        .args(["--tunnel", &target])
        .start()
        .await;
    let base = format!("https://{target}");
    let pem = std::fs::read(other.ca()).unwrap();
    let client = Client::by_proxy(&base, &pem, &format!("http://{}", registry.address()));
    // The other one's certificate is what arrives.
    client.pull_image("acme/app", "v1", &image).await;

    let mut raw = registry.raw().await;
    raw.head(&format!("CONNECT 127.0.0.1:9\nHost: {target}"))
        .await;
    let refused = raw.answer().await;
    assert_eq!((refused.status, refused.code()), (403, "DENIED".to_owned()));
    assert!(String::from_utf8_lossy(&refused.body).contains("--tunnel 127.0.0.1:9"));
    registry
        .log()
        .line_with(&["refused CONNECT 127.0.0.1:9"])
        .await;
}

#[tokio::test]
async fn nothing_inside_is_reached_unless_configured() {
    let inside = TcpListener::bind("127.0.0.1:0").unwrap();
    inside.set_nonblocking(true).unwrap();
    let port = inside.local_addr().unwrap().port();
    for arguments in [&[][..], &["--tunnel", "public"], &["--tunnel", "none"]] {
        let registry = TestRegistry::builder()
            .args(arguments.iter().copied())
            .start()
            .await;
        for host in [
            "127.0.0.1",
            "localhost",
            "localhost.",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "0.0.0.0",
            "[::]",
            "127.1",
            "2130706433",
            "0177.0.0.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "[64:ff9b::a9fe:a9fe]",
            "224.0.0.1",
        ] {
            for port in [port, 443, 80] {
                let mut raw = registry.raw().await;
                raw.head(&format!("CONNECT {host}:{port}\nHost: {host}:{port}"))
                    .await;
                let answer = raw.answer().await;
                assert!(
                    matches!(answer.status, 400 | 403),
                    "{host}:{port}: {}",
                    answer.head
                );
            }
        }
    }
    let error = inside.accept().unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::WouldBlock,
        "it was reached"
    );
}

#[tokio::test]
async fn plain_http_for_others_is_not_answered_from_here() {
    let registry = TestRegistry::start().await;
    let client = by_proxy(&registry, "http", "http://example.com");
    let refused = client.get("/v2/acme/app/manifests/v1").answer().await;
    let refused = refused.refused(403, "DENIED");
    assert!(refused.message().contains("HTTPS_PROXY"), "{refused:?}");
    // In absolute form a request for ourselves is one like any other.
    let own = format!("GET http://{}/v2/", registry.address());
    let answer = Raw::exchange(registry.address(), &own, b"").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn tunnels_go_through_an_upstream_proxy_over_tls_as_well() {
    // The one further out, which is the proxy of the other and answers for the address.
    let outer = TestRegistry::builder()
        .registry("192.0.2.9", "http://127.0.0.1:9")
        .start()
        .await;
    let client = async |trusted: &str| {
        let inner = TestRegistry::builder()
            .args(["--tunnel", "192.0.2.9", "--upstream-proxy"])
            .args([format!("https://{}", outer.address())])
            .env("SSL_CERT_FILE", trusted)
            .start()
            .await;
        let pem = std::fs::read(outer.ca()).unwrap();
        let proxy = format!("http://{}", inner.address());
        let client = Client::by_proxy("https://192.0.2.9", &pem, &proxy);
        let answer = client.get("/v2/").send().await;
        (inner, answer.map(|answer| answer.status().as_u16()))
    };
    let (_inner, answer) = client(outer.ca().to_str().unwrap()).await;
    assert_eq!(answer.unwrap(), 200);
    let (inner, answer) = client("/dev/null").await;
    assert!(answer.is_err(), "a proxy that nobody trusts was used");
    inner
        .log()
        .line_with(&["refused CONNECT 192.0.2.9:443", "upstream proxy https://"])
        .await;
}

#[tokio::test]
async fn registries_are_reached_by_the_upstream_proxy() {
    let (upstream, builder) = quay().await;
    let image = Image::small(1);
    upstream.add_image("acme/tool", "v1", &image);
    // The one further out, which answers for quay.io where it is asked to connect there.
    let outer = builder.start().await;
    let proxy = format!("http://{}", outer.address());
    let inner = |settings: &[&str], variables: &[(&str, &str)]| {
        let mut inner = TestRegistry::builder()
            .args(["--registry", "quay.io"])
            .args(settings.iter().copied())
            .env("SSL_CERT_FILE", outer.ca().to_str().unwrap());
        for (name, value) in variables {
            inner = inner.env(name, value);
        }
        inner
    };
    let by_env = [("HTTPS_PROXY", proxy.as_str()), ("NO_PROXY", "docker.io")];
    for (settings, variables) in [
        (&["--upstream-proxy", &proxy][..], &[][..]),
        (&["--upstream-proxy", "env"], &by_env),
    ] {
        let registry = inner(settings, variables).start().await;
        let client = registry.client();
        client.pull_image("quay.io/acme/tool", "v1", &image).await;
    }
}

#[tokio::test]
async fn our_own_address_as_upstream_proxy_is_refused_at_the_start() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let proxy = format!("http://{host}:{}", free.port());
        let builder = TestRegistry::builder().args(["--listen", &free.to_string()]);
        let (status, said) = builder
            .args(["--upstream-proxy", &proxy])
            .fails_to_start()
            .await;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(&proxy) && said.contains("itself"), "{said}");
    }
}

/// The bytes with which a client begins TLS that asks for `name`.
fn hello(config: &Arc<ClientConfig>, name: String) -> Vec<u8> {
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(config.clone(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn a_flood_of_connects_and_of_names_leaves_nothing_behind() {
    let (_upstream, builder) = quay().await;
    let registry = builder.env("RUST_LOG", "error").start().await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let config = Arc::new(config);
    let address = registry.address();
    let ask = async |n: usize| {
        let mut raw = Raw::connect(address).await;
        // Every other one is silent behind its CONNECT.
        raw.head("CONNECT quay.io:443\nHost: quay.io:443").await;
        assert_eq!(raw.answer().await.status, 200);
        if n.is_multiple_of(2) {
            raw.send(&hello(&config, format!("n{n}.quay.io"))).await;
            while raw.unread().is_empty() && raw.fill().await > 0 {}
            assert_eq!(raw.unread().first(), Some(&0x16), "no handshake");
        }
        raw
    };
    let warm = async |from: usize, names: usize| {
        for start in (from..from + 2 * names).step_by(200) {
            let batch = (start..start + 200).map(&ask);
            futures_util::future::join_all(batch).await;
        }
    };
    warm(0, 1000).await;
    let settled = async || {
        registry.client().get("/v2/").answer().await.expect(200);
        registry.holdings()
    };
    eventually("the first wave's connections are closed", async || {
        settled().await.1 < 100
    })
    .await;
    let (memory, files) = settled().await;
    warm(2000, 9000).await;
    eventually("descriptors are back", async || {
        settled().await.1 <= files + 4
    })
    .await;
    let (after, _) = settled().await;
    assert!(
        after < memory + (8 << 20),
        "{memory} bytes before 9000 names, {after} after"
    );
}
