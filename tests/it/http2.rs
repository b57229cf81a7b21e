//! HTTP/2, which clients may choose over TLS where `--h2` offers it: everything is as over HTTP/1.1, many at once.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request, request};
use rustix::process::Signal;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    Exchange, TestRegistry,
    image::{Blob, Image},
    raw::BEYOND_BUFFERS,
    within,
};

/// TLS with the registry as `name`, offering `protocols`.
async fn secure(registry: &TestRegistry, name: &str, protocols: &[&str]) -> TlsStream<TcpStream> {
    let mut trusted = RootCertStore::empty();
    trusted
        .add(CertificateDer::from_pem_file(registry.ca()).unwrap())
        .unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let tcp = TcpStream::connect(registry.address()).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    within("a TLS handshake", connector.connect(name, tcp))
        .await
        .unwrap()
}

fn chosen(stream: &TlsStream<TcpStream>) -> Option<String> {
    let chosen = stream.get_ref().1.alpn_protocol()?;
    Some(String::from_utf8(chosen.to_vec()).unwrap())
}

/// One HTTP/2 connection.
struct Session {
    requests: SendRequest<Bytes>,
    authority: String,
    /// Ends with the connection.
    ended: JoinHandle<Result<(), h2::Error>>,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

impl Session {
    async fn with(registry: &TestRegistry) -> Self {
        Self::named(registry, "127.0.0.1", &registry.address().to_string()).await
    }

    async fn named(registry: &TestRegistry, name: &str, authority: &str) -> Self {
        let stream = secure(registry, name, &["h2", "http/1.1"]).await;
        assert_eq!(chosen(&stream).as_deref(), Some("h2"));
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        Self {
            requests,
            authority: authority.to_owned(),
            ended: tokio::spawn(connection),
        }
    }

    fn request(&self, method: &str, path: &str) -> request::Builder {
        let uri = format!("https://{}{path}", self.authority);
        Request::builder().method(method).uri(uri)
    }

    async fn send(&self, request: request::Builder, body: impl Into<Bytes>) -> Answer {
        let body = body.into();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let request = request.body(()).unwrap();
        let (response, mut stream) = requests.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            stream.send_data(body, true).unwrap();
        }
        answer(response).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path), "").await
    }
}

async fn answer(response: ResponseFuture) -> Answer {
    let (head, mut stream) = within("an answer", response).await.unwrap().into_parts();
    let mut body = Vec::new();
    while let Some(piece) = within("the body", stream.data()).await {
        let piece = piece.unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        body.extend_from_slice(&piece);
    }
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    }
}

async fn with_h2() -> TestRegistry {
    TestRegistry::builder().args(["--h2"]).start().await
}

#[tokio::test]
async fn it_is_offered_only_where_it_is_asked_for_and_never_forced_on_anyone() {
    let (plain, offering) = (TestRegistry::start().await, with_h2().await);
    let variable = TestRegistry::builder().env("STANDIN_H2", "true");
    let by_variable = variable.start().await;
    for (registry, offered, expected) in [
        (&plain, &["h2", "http/1.1"][..], Some("http/1.1")),
        (&plain, &[], None),
        (&offering, &["http/1.1"], Some("http/1.1")),
        (&offering, &["h2", "http/1.1"], Some("h2")),
        (&offering, &["h2"], Some("h2")),
        (&offering, &[], None),
        (&by_variable, &["h2"], Some("h2")),
    ] {
        let stream = secure(registry, "127.0.0.1", offered).await;
        assert_eq!(chosen(&stream).as_deref(), expected, "{offered:?}");
    }
    // Those that know HTTP/1.1 alone go on as ever, on the same port.
    let image = Image::small(1);
    offering
        .tls_client()
        .push_image("acme/app", "v1", &image)
        .await;
    offering.client().pull_image("acme/app", "v1", &image).await;
}

#[tokio::test]
async fn a_push_and_a_pull_and_what_lists_them() {
    let registry = with_h2().await;
    let session = Session::with(&registry).await;
    let blob = Blob::random(1, 3 << 20);
    let opened = session
        .send(session.request("POST", "/v2/acme/app/blobs/uploads/"), "")
        .await;
    assert_eq!(opened.status, 202);
    // Larger than any window: it has to be taken for the rest to come.
    let location = opened.header("location").to_owned();
    let patched = session
        .send(session.request("PATCH", &location), blob.bytes.clone())
        .await;
    assert_eq!(patched.status, 202);
    let location = patched.header("location").to_owned();
    let put = format!("{location}?digest={}", blob.digest);
    let finished = session.send(session.request("PUT", &put), "").await;
    assert_eq!(finished.status, 201);

    let image = Image::small(2);
    for blob in image.layers.iter().chain([&image.config]) {
        let post = format!("/v2/acme/app/blobs/uploads/?digest={}", blob.digest);
        let posted = session
            .send(session.request("POST", &post), blob.bytes.clone())
            .await;
        assert_eq!(posted.status, 201);
    }
    let path = "/v2/acme/app/manifests/v1";
    let put = session
        .request("PUT", path)
        .header("content-type", &image.manifest.media_type);
    assert_eq!(
        session.send(put, image.manifest.bytes.clone()).await.status,
        201
    );

    let head = session.send(session.request("HEAD", path), "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let length = image.manifest.bytes.len().to_string();
    assert_eq!(head.header("content-length"), length);
    assert_eq!(session.get(path).await.body, image.manifest.bytes);
    let tags: serde_json::Value =
        serde_json::from_slice(&session.get("/v2/acme/app/tags/list").await.body).unwrap();
    assert_eq!(tags["tags"], serde_json::json!(["v1"]));

    // Ranges and conditions.
    let path = format!("/v2/acme/app/blobs/{}", blob.digest);
    let whole = session.get(&path).await;
    assert!(whole.body == blob.bytes);
    let range = session.request("GET", &path).header("range", "bytes=5-9");
    let part = session.send(range, "").await;
    assert_eq!((part.status, &part.body[..]), (206, &blob.bytes[5..10]));
    let known = session
        .request("GET", &path)
        .header("if-none-match", whole.header("etag"));
    assert_eq!(session.send(known, "").await.status, 304);

    // Many at once on the one connection.
    let all = (0..40).map(|_| session.get(&path));
    for answer in futures_util::future::join_all(all).await {
        assert!(answer.body == blob.bytes);
    }
    registry
        .tls_client()
        .pull_image("acme/app", "v1", &image)
        .await;
}

#[tokio::test]
async fn limits_hold() {
    let registry = TestRegistry::builder()
        .args(["--h2", "--max-manifest-size", "1KiB"])
        .start()
        .await;
    let session = Session::with(&registry).await;
    let put = session
        .request("PUT", "/v2/acme/app/manifests/v1")
        .header("content-type", "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(session.send(put, vec![b' '; 2000]).await.status, 413);
    let missing = session.get("/v2/acme/app/manifests/v1").await;
    assert_eq!(missing.status, 404);
    // It is told before the body to who waits for that.
    let put = session
        .request("PUT", "/v2/acme/app/manifests/v1")
        .header("content-length", "2000")
        .header("expect", "100-continue");
    let mut requests = session.requests.clone().ready().await.unwrap();
    let (response, _body) = requests.send_request(put.body(()).unwrap(), false).unwrap();
    assert_eq!(answer(response).await.status, 413);
}

#[tokio::test]
async fn the_authority_is_judged_as_a_host_is() {
    let registry = TestRegistry::builder()
        .args(["--h2"])
        .registry("quay.io", "http://127.0.0.1:9")
        .start()
        .await;
    let SocketAddr::V4(address) = registry.address() else {
        panic!("no IPv4");
    };
    for (name, authority, path, status) in [
        ("quay.io", "quay.io", "/v2/", 200),
        ("quay.io", "quay.io:443", "/v2/", 200),
        // There is nothing of ours where we stand in for another.
        ("quay.io", "quay.io", "/ca.pem", 404),
        ("quay.io", "docker.io", "/v2/", 421),
        ("127.0.0.1", &address.to_string(), "/ca.pem", 200),
    ] {
        let session = Session::named(&registry, name, authority).await;
        let answer = session.get(path).await;
        assert_eq!(answer.status, status, "{name}, {authority}");
    }
    let session = Session::named(&registry, "quay.io", "quay.io").await;
    let two = session.request("GET", "/v2/").header("host", "ghcr.io");
    assert_eq!(session.send(two, "").await.status, 400);
    let same = session.request("GET", "/v2/").header("host", "quay.io");
    assert_eq!(session.send(same, "").await.status, 200);
}

#[tokio::test]
async fn a_connect_is_refused_in_words() {
    let registry = with_h2().await;
    let session = Session::with(&registry).await;
    let connect = Request::builder().method("CONNECT").uri("quay.io:443");
    let refused = session.send(connect, "").await;
    assert_eq!(refused.status, 501);
    let said = String::from_utf8(refused.body).unwrap();
    assert!(
        said.contains("HTTP/1.1") && said.contains("http://"),
        "{said}"
    );
    // And harms nothing else there.
    assert_eq!(session.get("/v2/").await.status, 200);
}

#[tokio::test]
async fn an_upload_that_is_cut_off_leaves_no_trace() {
    let registry = with_h2().await;
    let client = registry.client();
    client.push_image("acme/app", "v1", &Image::small(3)).await;
    let before = registry.store().visible();
    let blob = Blob::random(4, BEYOND_BUFFERS);
    for cut_off in ["the connection", "the stream"] {
        let session = Session::with(&registry).await;
        let location = client.start_upload("acme/app").await;
        let mut requests = session.requests.clone().ready().await.unwrap();
        let put = session.request("PUT", &format!("{location}?digest={}", blob.digest));
        let put = put.header("content-length", blob.bytes.len());
        let (response, mut stream) = requests.send_request(put.body(()).unwrap(), false).unwrap();
        stream
            .send_data(blob.bytes.slice(..blob.bytes.len() / 2), false)
            .unwrap();
        // Once this much is taken the registry is reading.
        stream.reserve_capacity(blob.bytes.len());
        let taken = futures_util::future::poll_fn(|cx| stream.poll_capacity(cx));
        within("room for more", taken).await.unwrap().unwrap();
        if cut_off == "the connection" {
            session.ended.abort();
        } else {
            stream.send_reset(h2::Reason::CANCEL);
        }
        assert!(within("the end", response).await.is_err(), "{cut_off}");
        registry
            .log()
            .line_with(&["PUT", "went away before it was answered"])
            .await;
        let status = client.get(&location).answer().await.expect(204);
        assert_eq!(status.header("range"), "0-0", "{cut_off}");
        assert_eq!(registry.store().visible(), before, "{cut_off}");
        client.delete(&location).answer().await.expect(204);
    }
}

#[tokio::test]
async fn an_idle_connection_is_told_to_leave_and_a_busy_one_finishes() {
    let mut registry = TestRegistry::builder()
        .args(["--h2", "--grace", "1h"])
        .start()
        .await;
    let idle = Session::with(&registry).await;
    assert_eq!(idle.get("/v2/").await.status, 200);
    let busy = Session::with(&registry).await;
    let blob = Blob::random(5, BEYOND_BUFFERS);
    let location = registry.client().start_upload("acme/app").await;
    let mut requests = busy.requests.clone().ready().await.unwrap();
    let put = busy.request("PUT", &format!("{location}?digest={}", blob.digest));
    let (response, mut stream) = requests.send_request(put.body(()).unwrap(), false).unwrap();
    let half = blob.bytes.len() / 2;
    stream.send_data(blob.bytes.slice(..half), false).unwrap();
    stream.reserve_capacity(blob.bytes.len());
    let taken = futures_util::future::poll_fn(|cx| stream.poll_capacity(cx));
    within("room for more", taken).await.unwrap().unwrap();

    registry.signal(Signal::TERM);
    // Either side may hang up first.
    let _ = within("its end", idle.ended).await.unwrap();
    stream.send_data(blob.bytes.slice(half..), true).unwrap();
    assert_eq!(answer(response).await.status, 201);
    drop(busy.requests);
    let _ = within("its end", busy.ended).await.unwrap();
    assert_eq!(registry.exited().await.code(), Some(0));
    assert!(registry.store().blobs().contains(&blob.digest));
}
