//! HTTP/2 by clients that are slow, silent, or gone.

use h2::{
    Reason,
    client::{SendRequest, handshake},
};

use super::{
    connect::{ESTABLISHED, head},
    *,
};

/// A handshake in which the client offers nothing but HTTP/2.
async fn choose<S: Wire>(server: &Running, stream: S, name: &str) -> TlsStream<S> {
    let mut trusted = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(&server.tls.ca_pem()).unwrap();
    trusted.add(root).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    config.alpn_protocols = vec![crate::proxy::http2::PROTOCOL.to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.unwrap()
}

/// A client, and what ends with its connection.
async fn session(server: &Running) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = choose(server, server.plain().await, "localhost").await;
    let (client, connection) = handshake(stream).await.unwrap();
    (client.ready().await.unwrap(), tokio::spawn(connection))
}

fn asks(path: &str) -> http::Request<()> {
    let uri = format!("https://localhost{path}");
    http::Request::get(uri).body(()).unwrap()
}

#[tokio::test]
async fn it_is_spoken_within_a_connect_too() {
    let server = Running::start(Limits::default());
    let mut tcp = server.plain().await;
    tcp.write_all(b"CONNECT quay.io:443 HTTP/1.1\r\nhost: quay.io:443\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(head(&mut tcp).await, ESTABLISHED);
    let (client, connection) = handshake(choose(&server, tcp, "quay.io").await)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut client: SendRequest<Bytes> = client.ready().await.unwrap();
    let request = http::Request::get("https://quay.io/connect")
        .body(())
        .unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let mut body = within(response).await.unwrap().into_body();
    let said = within(body.data()).await.unwrap().unwrap();
    let expected = r#"tls=true server_name=Some("quay.io") connect=Some(("quay.io", "quay.io"))"#;
    assert_eq!(said, expected);
    drop((client, body));
    within(connection).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_is_reset_or_whose_connection_ends_is_dropped() {
    let server = Running::start(Limits::default());
    for reset in [true, false] {
        let (mut client, connection) = session(&server).await;
        let (response, mut stream) = client.send_request(asks("/wait"), true).unwrap();
        within(server.events.entered.notified()).await;
        match reset {
            true => stream.send_reset(Reason::CANCEL),
            false => connection.abort(),
        }
        within(server.events.dropped.notified()).await;
        assert!(within(response).await.is_err());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_stops_has_its_request_reset_and_others_go_on() {
    let server = Running::start(Limits {
        write_stall: Duration::from_millis(300),
        ..Limits::default()
    });
    let (mut client, _connection) = session(&server).await;
    let (response, _) = client.send_request(asks("/endless"), true).unwrap();
    let body = within(response).await.unwrap().into_body();
    within(server.events.dropped.notified()).await;
    let (other, _) = client.send_request(asks("/"), true).unwrap();
    assert_eq!(within(other).await.unwrap().status(), 200);
    drop((body, client));
    server.stop().await;
}

#[tokio::test]
async fn silence_is_bounded() {
    let server = Running::start(Limits {
        head: Duration::from_millis(300),
        keep_alive: Duration::from_millis(300),
        ..Limits::default()
    });
    // Not a byte behind the handshake.
    let mut silent = choose(&server, server.plain().await, "localhost").await;
    let _ = within(silent.read_to_end(&mut Vec::new())).await;
    // No request, and none after one. Either side may hang up first.
    let (_client, unused) = session(&server).await;
    let _ = within(unused).await.unwrap();
    let (mut client, idle) = session(&server).await;
    let (response, _) = client.send_request(asks("/"), true).unwrap();
    assert_eq!(within(response).await.unwrap().status(), 200);
    let _ = within(idle).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn one_that_hears_no_goodbye_is_not_waited_for() {
    let server = Running::start(Limits::default());
    let stream = choose(&server, server.plain().await, "localhost").await;
    let (client, connection) = handshake(stream).await.unwrap();
    let mut connection = Box::pin(connection);
    let mut client: SendRequest<Bytes> = client;
    let (response, _) = client.send_request(asks("/"), true).unwrap();
    let answered = tokio::select! {
        answered = response => answered,
        _ = &mut connection => panic!("it ended"),
    };
    assert_eq!(answered.unwrap().status(), 200);
    // From here on nobody reads at this end.
    server.stop().await;
}
