//! The way through another proxy: a CONNECT of our own, over TCP or TLS.
//!
//! <https://www.rfc-editor.org/rfc/rfc9110#CONNECT>

use std::{io, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{BufMut as _, BytesMut};
use rustls::{ClientConfig, crypto::aws_lc_rs};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::conn::Io;
use crate::types::UpstreamProxy;

/// What is at the other end, and what it said before it was asked.
pub(super) struct Remote {
    pub(super) stream: Box<dyn Io>,
    pub(super) unread: BytesMut,
}

/// What speaks TLS to a proxy, as a client that trusts what this machine trusts. Made once: it reads every authority.
pub(super) fn secure() -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Has `proxy`, to which `stream` leads, connect us to `target` (`HOST:PORT`).
pub(super) async fn connect(
    proxy: &UpstreamProxy,
    mut stream: Box<dyn Io>,
    target: &str,
) -> io::Result<Remote> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n");
    if let Some((user, password)) = proxy.credentials() {
        let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
        request.push_str(&format!("proxy-authorization: Basic {credentials}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;

    let mut unread = BytesMut::new();
    let end = loop {
        if let Some(at) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if unread.len() >= LONGEST_HEAD {
            return Err(io::Error::other("its answer has no end"));
        }
        if stream
            .read_buf(&mut (&mut unread).limit(LONGEST_HEAD))
            .await?
            == 0
        {
            return Err(io::Error::other(
                "it closed the connection without an answer",
            ));
        }
    };
    let head = unread.split_to(end);
    let line = head[..].split(|byte| *byte == b'\r').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
    let status = line.split(' ').nth(1).unwrap_or_default();
    if !line.starts_with("HTTP/1.") || !status.starts_with('2') {
        return Err(io::Error::other(format!(
            "it answered {}",
            line.escape_debug()
        )));
    }
    Ok(Remote { stream, unread })
}

/// More than any proxy says in front of a connection.
const LONGEST_HEAD: usize = 16 << 10;
