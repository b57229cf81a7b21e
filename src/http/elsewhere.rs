//! What is not the distribution-spec's: a few pages of our own, and requests that were meant for somebody else.

use actix_web::{
    HttpResponse,
    dev::RequestHead,
    http::{ConnectionType, Method, StatusCode, header},
};

use super::{
    Connection, Http, auth,
    error::{self, ErrorCode},
    host_of,
    status::status,
};
use crate::{
    metrics,
    registry::{Asked, Reached},
};

/// The refusal of a request in absolute form that is for another host: it was sent to a proxy for plain HTTP, which we
/// are not. And of a CONNECT that comes with a body, for which nothing is connected (RFC 9110, 9.3.6).
pub(super) fn foreign(http: &Http, request: &RequestHead) -> Option<HttpResponse> {
    if request.method == Method::CONNECT {
        let message = "a CONNECT has no body: send it without Content-Length and Transfer-Encoding";
        let mut refusal = error::refuse(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message);
        refusal
            .head_mut()
            .set_connection_type(ConnectionType::Close);
        return Some(refusal);
    }
    let authority = request.uri.authority()?;
    let port = authority
        .port_u16()
        .unwrap_or(match request.uri.scheme_str() {
            Some("https") => 443,
            _ => 80,
        });
    match http.registry.reached(authority.host(), port) {
        Reached::Us | Reached::Registry(_) => None,
        Reached::BesideRegistry(_) | Reached::Elsewhere => Some(error::refuse(
            StatusCode::FORBIDDEN,
            ErrorCode::Denied,
            &format!(
                "no plain HTTP is forwarded, and {authority} is asked for: set HTTPS_PROXY and not HTTP_PROXY, or add the \
                 host to NO_PROXY"
            ),
        )),
    }
}

/// What is not the distribution-spec's. Where we stand in for another registry there is nothing of ours.
pub(super) async fn elsewhere(
    http: &Http,
    request: &RequestHead,
    connection: &Connection,
) -> HttpResponse {
    let asked = Asked {
        host: host_of(request),
        server_name: connection.server_name.as_deref(),
        tls: connection.tls,
        connect: connection.connect.as_ref(),
        ..Asked::default()
    };
    if http.registry.stands_in(&asked) {
        return error::refuse(
            StatusCode::NOT_FOUND,
            ErrorCode::Unsupported,
            &format!(
                "there is nothing at {}: standin stands in for this registry, and has /v2/ and {} of it",
                request.uri.path(),
                auth::TOKEN_PATH
            ),
        );
    }
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    match request.uri.path() {
        "/ca.pem" if reads => HttpResponse::Ok()
            .content_type("application/x-pem-file")
            .body((http.ca)()),
        "/healthz" if reads => HttpResponse::Ok()
            .content_type("text/plain; charset=utf-8")
            .body("ok\n"),
        "/metrics" if reads => {
            http.count_cache();
            match http.metrics.page() {
                Ok(page) => HttpResponse::Ok()
                    .content_type(metrics::CONTENT_TYPE)
                    .body(page),
                Err(_) => HttpResponse::InternalServerError().finish(),
            }
        }
        "/status" if reads => status(http, request, connection).await,
        "/ca.pem" | "/healthz" | "/metrics" | "/status" => HttpResponse::MethodNotAllowed()
            .insert_header((header::ALLOW, "GET, HEAD"))
            .finish(),
        path => error::refuse(
            StatusCode::NOT_FOUND,
            ErrorCode::Unsupported,
            &format!("there is nothing at {path}"),
        ),
    }
}
