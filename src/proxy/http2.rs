//! HTTP/2, where it is offered: many requests at once on one connection, for the same service as over HTTP/1.1.
//!
//! - A request whose client resets it, or is gone, is dropped where it stands.
//! - When the server drains the client is told so, by GOAWAY; what it has asked until then may finish, and an idle
//!   connection ends at once.
//! - A request arrives at the service in the form it has over HTTP/1.1, with its authority as `Host`.
//! - CONNECT is refused: a tunnel needs a connection of its own.
//!
//! actix-http has HTTP/2 as well, but says no goodbye, runs on with requests that nobody waits for, and drops the length
//! of an answer to HEAD.

use std::{error::Error, future::poll_fn, io, pin::pin, rc::Rc, time::SystemTime};

use actix_http::{
    HttpMessage as _, Method, Payload, Request, Response, ResponseHead, StatusCode, Uri, Version,
    body::{BodySize, BoxBody, MessageBody},
    error::PayloadError,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use actix_server::GracefulShutdownSignal;
use actix_service::Service;
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Limits,
    conn::{Conn, Connection},
};

/// What ALPN calls it.
pub(super) const PROTOCOL: &[u8] = b"h2";

/// What answers requests: the service, and who sees those whose client would wait with the body.
pub(super) struct Answers<S, J> {
    pub(super) service: S,
    pub(super) judge: J,
}

/// Speaks HTTP/2 on `conn` until it ends.
///
/// # Errors
/// The client broke off, or the protocol.
pub(super) async fn speak<S, B, J, R>(
    conn: Conn,
    answers: &Answers<S, J>,
    limits: Limits,
    drain: &GracefulShutdownSignal,
) -> Result<(), Box<dyn Error>>
where
    S: Service<Request>,
    S::Error: Into<Response<BoxBody>>,
    S::Response: Into<Response<B>>,
    B: MessageBody + 'static,
    J: Fn(Request) -> R,
    R: Future<Output = Result<Request, Response<BoxBody>>>,
{
    let connection = Rc::new(conn.connection.clone());
    let handshake = Builder::new()
        .initial_window_size(REQUEST_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(LARGEST_FRAME)
        .max_header_list_size(LARGEST_HEAD)
        .max_concurrent_streams(REQUESTS)
        .handshake(conn);
    let mut client = tokio::select! {
        client = timeout(limits.head, handshake) => client??,
        () = drain.notified() => return Ok(()),
    };
    let mut under_way = FuturesUnordered::new();
    let mut leaving = false;
    let mut idle = pin!(sleep(limits.head));
    loop {
        tokio::select! {
            next = client.accept() => match next {
                None => return Ok(()),
                Some(next) => {
                    let (request, respond) = next?;
                    under_way.push(answer(request, respond, &connection, answers, limits));
                }
            },
            Some(()) = under_way.next() => {
                let patience = if leaving { GOODBYE } else { limits.keep_alive };
                idle.as_mut().reset(Instant::now() + patience);
            }
            () = &mut idle, if under_way.is_empty() => {
                if leaving {
                    return Ok(());
                }
                leaving = true;
                client.graceful_shutdown();
                idle.as_mut().reset(Instant::now() + GOODBYE);
            }
            () = drain.notified(), if !leaving => {
                leaving = true;
                client.graceful_shutdown();
                idle.as_mut().reset(Instant::now() + GOODBYE);
            }
        }
    }
}

/// Answers one request, unless its client loses interest.
async fn answer<S, B, J, R>(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: &Rc<Connection>,
    answers: &Answers<S, J>,
    limits: Limits,
) where
    S: Service<Request>,
    S::Error: Into<Response<BoxBody>>,
    S::Response: Into<Response<B>>,
    B: MessageBody + 'static,
    J: Fn(Request) -> R,
    R: Future<Output = Result<Request, Response<BoxBody>>>,
{
    let peer = connection.peer;
    let head_only = *request.method() == http::Method::HEAD;
    let response = async {
        let mut request = received(request, connection)?;
        if request.headers().contains_key(header::EXPECT) {
            request = (answers.judge)(request).await?;
        }
        let response = answers.service.call(request).await.map_err(Into::into)?;
        Ok(response.into().map_into_boxed_body())
    };
    let response = tokio::select! {
        response = response => response.unwrap_or_else(|refusal: Response<BoxBody>| refusal),
        // The stream, or the connection under it, is gone.
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let (response, body) = response.into_parts();
    let size = body.size();
    let whole = head_only || matches!(size, BodySize::None | BodySize::Sized(0));
    let sent = match respond.send_response(head_of(response.head(), size), whole) {
        Ok(_) if whole => Ok(()),
        Ok(mut stream) => send(&mut stream, body, limits).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = sent {
        log::debug!("connection from {peer}: {error}");
    }
}

/// Sends the body as fast as the client takes it. One that breaks off resets the stream, so that nobody takes it for whole.
async fn send(
    stream: &mut SendStream<Bytes>,
    body: BoxBody,
    limits: Limits,
) -> Result<(), Box<dyn Error>> {
    let mut body = pin!(body);
    loop {
        let piece = tokio::select! {
            piece = poll_fn(|cx| body.as_mut().poll_next(cx)) => piece,
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return Ok(()),
        };
        let mut piece = match piece {
            None => return Ok(stream.send_data(Bytes::new(), true)?),
            Some(Ok(piece)) => piece,
            Some(Err(error)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Err(error);
            }
        };
        while !piece.is_empty() {
            stream.reserve_capacity(piece.len());
            let room = timeout(limits.write_stall, poll_fn(|cx| stream.poll_capacity(cx)));
            match room.await {
                Ok(Some(room)) => {
                    stream.send_data(piece.split_to(room?.min(piece.len())), false)?
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    stream.send_reset(Reason::CANCEL);
                    let patience = limits.write_stall;
                    return Err(format!("the client has read nothing for {patience:?}").into());
                }
            }
        }
    }
}

/// The request as the service knows requests, or its refusal.
fn received(
    request: http::Request<RecvStream>,
    connection: &Rc<Connection>,
) -> Result<Request, Response<BoxBody>> {
    let (parts, body) = request.into_parts();
    if parts.method == http::Method::CONNECT {
        let message = "CONNECT is served over HTTP/1.1 alone: have the client speak that to the proxy (curl --proxy-http1.1), \
                       or reach the proxy by an http:// URL";
        return Err(refusal(StatusCode::NOT_IMPLEMENTED, message));
    }
    let malformed = |what: &str| refusal(StatusCode::BAD_REQUEST, what);
    let mut headers = HeaderMap::with_capacity(parts.headers.len() + 1);
    for (name, value) in &parts.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        let value = HeaderValue::from_bytes(value.as_bytes());
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(malformed("a header is malformed"));
        };
        headers.append(name, value);
    }
    if let Some(authority) = parts.uri.authority() {
        let authority = authority.as_str();
        let agrees =
            |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_bytes());
        if !headers.get_all(header::HOST).all(agrees) {
            return Err(malformed("Host and :authority name different hosts"));
        }
        let host =
            HeaderValue::from_str(authority).map_err(|_| malformed("no host has this name"))?;
        headers.insert(header::HOST, host);
    } else if headers.get_all(header::HOST).count() != 1 {
        return Err(malformed("the request names no host"));
    }
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let payload = match body.is_end_stream() {
        true => Payload::None,
        false => Payload::Stream {
            payload: pieces(body).boxed_local(),
        },
    };
    let mut request = Request::with_payload(payload);
    let head = request.head_mut();
    head.method = Method::from_bytes(parts.method.as_str().as_bytes())
        .map_err(|_| malformed("there is no such method"))?;
    head.uri = Uri::try_from(target).map_err(|_| malformed("the path is malformed"))?;
    head.version = Version::HTTP_2;
    head.headers = headers;
    head.peer_addr = Some(connection.peer);
    request
        .extensions_mut()
        .insert(Connection::clone(connection));
    Ok(request)
}

/// A body's pieces. Only what was taken makes room for more.
fn pieces(body: RecvStream) -> impl stream::Stream<Item = Result<Bytes, PayloadError>> {
    stream::unfold(body, |mut body| async move {
        let piece = body.data().await?.and_then(|piece| {
            body.flow_control().release_capacity(piece.len())?;
            Ok(piece)
        });
        let broken = |error: h2::Error| PayloadError::Incomplete(Some(io::Error::other(error)));
        Some((piece.map_err(broken), body))
    })
}

fn refusal(status: StatusCode, message: &str) -> Response<BoxBody> {
    let error =
        serde_json::json!({ "code": "UNSUPPORTED", "message": format!("standin: {message}") });
    let body = serde_json::json!({ "errors": [error] }).to_string();
    Response::build(status)
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .body(body)
        .map_into_boxed_body()
}

/// The answer's head without what only HTTP/1.1 has.
fn head_of(head: &ResponseHead, size: BodySize) -> http::Response<()> {
    let mut response = http::Response::new(());
    if let Ok(status) = http::StatusCode::from_u16(head.status.as_u16()) {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    for (name, value) in head.headers.iter() {
        let of_http1 = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
        ];
        if of_http1.contains(&name.as_str()) {
            continue;
        }
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = http::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    if let BodySize::Sized(size) = size
        && !matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        )
    {
        headers.insert(http::header::CONTENT_LENGTH, size.into());
    }
    let now = httpdate::fmt_http_date(SystemTime::now());
    if let Ok(now) = http::HeaderValue::from_str(&now) {
        headers.entry(http::header::DATE).or_insert(now);
    }
    response
}

/// What a client may send of one body, and of all bodies, before the first of it is taken. An upload is taken by the
/// mebibyte.
const REQUEST_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What a client may send in one piece; 16 KiB, the protocol's own, costs more than it saves.
const LARGEST_FRAME: u32 = 256 << 10;

/// As over HTTP/1.1, where the read buffer is the limit.
const LARGEST_HEAD: u32 = 128 << 10;

/// Requests at once on one connection; a client that wants more opens another.
const REQUESTS: u32 = 100;

/// How long a client that was told to leave may take to hear it.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(1);
