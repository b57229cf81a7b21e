//! One question asked as a client would ask it: does this server answer, under a certificate that is trusted?

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

/// GETs `path` from `host:port`, over TLS if `authorities` (PEM) are given, which are all that is trusted then. Answers
/// the status.
///
/// # Errors
/// What was in the way, as a person reads it. No answer within a few seconds is one of them.
pub fn status(host: &str, port: u16, path: &str, authorities: Option<&str>) -> Result<u16, String> {
    let bare = host.trim_matches(['[', ']']);
    let unreachable = |error: io::Error| format!("{host}:{port} cannot be reached: {error}");
    let addresses = (bare, port).to_socket_addrs().map_err(unreachable)?;
    let mut stream = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
    for address in addresses {
        stream = TcpStream::connect_timeout(&address, PATIENCE);
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream.map_err(unreachable)?;
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&stream, Some(PATIENCE)).map_err(unreachable)?;
    }
    let Some(authorities) = authorities else {
        return ask(stream, host, port, path);
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        let certificate =
            certificate.map_err(|error| format!("the authority is no PEM: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("the authority is no certificate: {error}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| error.to_string())?;
    let client =
        ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    ask(StreamOwned::new(client, stream), host, port, path)
}

fn ask(mut stream: impl Read + Write, host: &str, port: u16, path: &str) -> Result<u16, String> {
    let failed = |error: io::Error| format!("{host}:{port} does not answer as it should: {error}");
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    // "HTTP/1.1 200"
    Read::by_ref(&mut stream)
        .take(12)
        .read_to_end(&mut answer)
        .map_err(failed)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    status
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| format!("{host}:{port} does not speak HTTP"))
}

const PATIENCE: Duration = Duration::from_secs(5);
