//! CONNECT: answered in a registry's place, or ours; carried on to a remote host; or refused, in words.
//!
//! - Who may use the proxy is decided first, and everything before the 200: until then no name is resolved.
//! - Inside an answered CONNECT there is TLS or plain HTTP, as the client likes, and no other CONNECT.

use std::{fmt::Display, time::Duration};

use actix_codec::Framed;
use actix_http::{
    HttpMessage as _, Method, Request,
    h1::Codec,
    header::{HeaderMap, PROXY_AUTHORIZATION},
};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::BytesMut;
use tokio::{
    io::{AsyncWriteExt as _, copy, sink},
    time::timeout,
};

use super::{
    Front, Gateway,
    conn::{Conn, Connection, Rewound},
    policy::Target,
    tunnel::Tunnel,
};
use crate::registry::{
    Intercepted, Reached,
    access::{self, Credentials, Visitor},
};

/// Why a request that would take the connection away from HTTP is refused, as the client is told.
pub(super) struct Refusal {
    status: &'static str,
    code: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: &'static str, code: &'static str, message: String) -> Self {
        Self {
            status,
            code,
            message,
        }
    }

    /// `why` goes on after the target's name.
    pub(super) fn not_allowed(target: &Target, why: &str) -> Self {
        let message = format!(
            "no tunnel leads to {target}, which {why}: --tunnel {target} would allow it (without --tunnel, clients on this \
             machine are let through to public addresses on 443 and 80, and others nowhere)"
        );
        Self::new(FORBIDDEN, "DENIED", message)
    }

    pub(super) fn own(target: &Target) -> Self {
        let message = format!(
            "{target} is this proxy itself, by a name that it does not know: add --san for the name"
        );
        Self::new(FORBIDDEN, "DENIED", message)
    }

    pub(super) fn too_many(most: usize) -> Self {
        let message =
            format!("{most} tunnels are open, the most that --max-tunnels allows: try again");
        Self::new("503 Service Unavailable", "TOOMANYREQUESTS", message)
    }

    pub(super) fn timed_out(target: &Target, after: Duration) -> Self {
        let message = format!("{target} can't be reached: no answer within {after:?}");
        Self::new("504 Gateway Timeout", "UNAVAILABLE", message)
    }

    pub(super) fn unreachable(target: &Target, why: &str) -> Self {
        let message = format!("{target} can't be reached: {why}");
        Self::new("502 Bad Gateway", "UNAVAILABLE", message)
    }

    fn malformed(why: impl Display) -> Self {
        Self::new("400 Bad Request", "UNSUPPORTED", why.to_string())
    }
}

/// What a CONNECT becomes.
enum Verdict {
    /// Answered here: in the place of a registry, or as ourselves.
    Here(Option<Intercepted>),
    There(Target, Tunnel),
}

impl Front {
    /// Goes on with a connection whose client has sent a request that takes it away from HTTP.
    pub(super) async fn upgrade(&self, request: Request, framed: Framed<Conn, Codec>) {
        let parts = framed.into_parts();
        let (mut conn, mut answer) = (parts.io, parts.write_buf);
        let peer = conn.connection.peer;
        let verdict = tokio::select! {
            biased;
            verdict = self.judge(&request, &conn) => verdict,
            () = self.drain.notified() => return,
        };
        match verdict {
            Err(refusal) => {
                log::info!(
                    "refused {} {} from {peer}: {}",
                    request.method(),
                    request.uri(),
                    refusal.message
                );
                self.refuse(&refusal, conn, answer).await;
            }
            Ok(verdict) => {
                // Before it stand the answers to requests that came ahead of this one on the connection.
                answer.extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
                let told = async {
                    conn.write_all(&answer).await?;
                    conn.flush().await
                };
                if let Err(error) = told.await {
                    log::debug!("connection from {peer}: {error}");
                    return;
                }
                drop((request, answer));
                let stream = Rewound::new(parts.read_buf, conn);
                match verdict {
                    Verdict::Here(connect) => self.answer_within(stream, connect).await,
                    Verdict::There(target, tunnel) => {
                        let carried = self
                            .gateway
                            .tunnels
                            .carry(tunnel, stream, &self.drain)
                            .await;
                        log::debug!(
                            "tunnel from {peer} to {target}: {} bytes sent, {} received: {}",
                            carried.sent,
                            carried.received,
                            carried.end
                        );
                    }
                }
            }
        }
    }

    async fn judge(&self, request: &Request, conn: &Conn) -> Result<Verdict, Refusal> {
        if *request.method() != Method::CONNECT {
            return Err(Refusal::malformed(
                "no other protocol is served; send the request without Upgrade",
            ));
        }
        if conn.is_inner() {
            return Err(Refusal::malformed(
                "this is the end of a CONNECT already, and no further one is served within it",
            ));
        }
        let on_loopback = conn.connection.local.ip().is_loopback();
        self.admit(request.headers(), on_loopback).await?;
        let uri = request.uri();
        let target = uri
            .authority()
            .map_or_else(|| uri.path(), |target| target.as_str());
        let target: Target = target.parse().map_err(Refusal::malformed)?;
        let host = target.host();
        match self.gateway.sources.reached(&host, target.port) {
            Reached::Us => Ok(Verdict::Here(None)),
            Reached::Registry(registry) => {
                log::debug!(
                    "CONNECT {target} from {}: standing in for {registry}",
                    conn.connection.peer
                );
                Ok(Verdict::Here(Some(Intercepted { host, registry })))
            }
            Reached::BesideRegistry(registry) => {
                let message = format!(
                    "standin answers for the registry {registry}, and {target} is none of its ports (443, 80, and what \
                     --registry says); no tunnel leads there"
                );
                Err(Refusal::new(FORBIDDEN, "DENIED", message))
            }
            Reached::Elsewhere => {
                let Gateway {
                    tunnels, sources, ..
                } = &*self.gateway;
                let tunnel = tunnels.open(&target, on_loopback, sources).await?;
                Ok(Verdict::There(target, tunnel))
            }
        }
    }

    /// Lets a client use the proxy, by the header that is meant for proxies.
    async fn admit(&self, headers: &HeaderMap, on_loopback: bool) -> Result<(), Refusal> {
        let given = headers.get(PROXY_AUTHORIZATION);
        let decoded = given.and_then(|value| {
            let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
            let basic = scheme.eq_ignore_ascii_case("basic");
            let bytes = BASE64.decode(rest.trim()).ok().filter(|_| basic)?;
            String::from_utf8(bytes).ok()
        });
        let credentials = match (
            given,
            decoded.as_deref().and_then(|text| text.split_once(':')),
        ) {
            (None, _) => Credentials::None,
            (Some(_), Some((user, password))) => Credentials::Password { user, password },
            (Some(_), None) => Credentials::Malformed,
        };
        let visitor = Visitor {
            credentials,
            on_loopback,
        };
        let admitted = self.gateway.access.admit(visitor).await;
        admitted.map_err(|refusal| {
            let message = match refusal {
                access::Refusal::WrongPassword { user } => {
                    log::warn!("use of the proxy as {user} failed: wrong user name or password");
                    "wrong user name or password for the proxy".to_owned()
                }
                _ => "the proxy is for users of this registry: put http://USER:PASSWORD@ before its address in HTTPS_PROXY"
                    .to_owned(),
            };
            Refusal::new(LOG_IN, "UNAUTHORIZED", message)
        })
    }

    /// Speaks HTTP on a connection that has become ours by CONNECT.
    async fn answer_within(&self, stream: Rewound, connect: Option<Intercepted>) {
        let connection = Connection {
            tls: false,
            server_name: None,
            connect,
            ..stream.connection().clone()
        };
        let received = tokio::select! {
            biased;
            conn = self.sniff_within(stream, connection) => conn,
            () = self.drain.notified() => None,
        };
        if let Some(conn) = received {
            self.speak(conn).await;
        }
    }

    async fn sniff_within(&self, mut stream: Rewound, connection: Connection) -> Option<Conn> {
        let secure = self
            .begins_with_tls(stream.first_byte(), connection.peer)
            .await?;
        if !secure {
            return Some(Conn::inner(stream, connection));
        }
        let stream = self.handshake(stream, &connection).await?;
        Some(Conn::inner_tls(stream, connection))
    }

    async fn refuse(&self, refusal: &Refusal, mut conn: Conn, mut answer: BytesMut) {
        let message = format!("standin: {}", refusal.message);
        let error = serde_json::json!({ "code": refusal.code, "message": message });
        let body = serde_json::json!({ "errors": [error] }).to_string();
        let challenge = match refusal.status {
            LOG_IN => "proxy-authenticate: Basic realm=\"standin\"\r\n",
            _ => "",
        };
        answer.extend_from_slice(
            format!(
                "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{challenge}\
                 connection: close\r\n\r\n{body}",
                refusal.status,
                body.len()
            )
            .as_bytes(),
        );
        let peer = conn.connection.peer;
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

const FORBIDDEN: &str = "403 Forbidden";
const LOG_IN: &str = "407 Proxy Authentication Required";

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
