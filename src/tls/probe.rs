//! One question asked as a client would ask it: does this server answer, under a certificate that is trusted, and what?

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
    let asked = Asked {
        host,
        port,
        path,
        authorization: None,
    };
    let stream = connect(host, port)?;
    let (status, _) = match authorities {
        None => asked.of(stream),
        Some(authorities) => asked.of(secured(stream, host, authorities)?),
    }?;
    Ok(status)
}

/// GETs `path` from `host:port` in the clear, with that `Authorization`. Answers the status and the body.
///
/// # Errors
/// As for [`status`]; a body that is no text, or too long.
pub fn get(
    host: &str,
    port: u16,
    path: &str,
    authorization: Option<&str>,
) -> Result<(u16, String), String> {
    let asked = Asked {
        host,
        port,
        path,
        authorization,
    };
    asked.of(connect(host, port)?)
}

fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
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
    Ok(stream)
}

fn secured(
    stream: TcpStream,
    host: &str,
    authorities: &str,
) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
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
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|error| error.to_string())?;
    let client =
        ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    Ok(StreamOwned::new(client, stream))
}

struct Asked<'a> {
    host: &'a str,
    port: u16,
    path: &'a str,
    authorization: Option<&'a str>,
}

impl Asked<'_> {
    fn of(&self, mut stream: impl Read + Write) -> Result<(u16, String), String> {
        let Self {
            host, port, path, ..
        } = self;
        let failed =
            |error: io::Error| format!("{host}:{port} does not answer as it should: {error}");
        // Of version 1.0, so that the body comes as it is, up to the end of the connection.
        let mut request = format!("GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n");
        if let Some(authorization) = self.authorization {
            request.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = Vec::new();
        match stream.take(LARGEST).read_to_end(&mut answer) {
            // A server that ends TLS without saying so: the length tells whether all is there.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            other => {
                other.map_err(failed)?;
            }
        }
        let no_http = || format!("{host}:{port} does not speak HTTP");
        let text = String::from_utf8(answer).map_err(|_| no_http())?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(no_http)?;
        // "HTTP/1.1 200"
        let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
        let status = status
            .and_then(|status| status.parse().ok())
            .ok_or_else(no_http)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        if length.is_some_and(|length| length != body.len()) {
            return Err(format!("{host}:{port} broke off its answer to {path}"));
        }
        Ok((status, body.to_owned()))
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
const LARGEST: u64 = 64 << 20;
