//! The wire: the distribution-spec's endpoints over actix-web. Reads requests, writes answers, decides nothing.

mod body;
mod conditional;
mod error;
mod path;
mod pull;
mod push;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web,
};
use bytes::Bytes;

use crate::{
    registry::{Asked, Error, Registry, Target},
    types::{Digest, Reference, UploadId},
};
use error::ErrorCode;
use path::{Endpoint, Links};

/// What every worker needs to answer requests. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    pub registry: Registry,
    /// How a request came in; the connection front knows.
    pub connection: fn(&HttpRequest) -> Connection,
    /// What `/ca.pem` serves.
    pub ca: Arc<dyn Fn() -> Bytes + Send + Sync>,
    pub downloads: body::Downloads,
}

/// How a request came in.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    pub peer: Option<SocketAddr>,
    pub tls: bool,
    /// The name in the TLS handshake.
    pub server_name: Option<String>,
}

impl Http {
    pub fn new(
        registry: Registry,
        connection: fn(&HttpRequest) -> Connection,
        ca: Arc<dyn Fn() -> Bytes + Send + Sync>,
    ) -> Self {
        Self {
            registry,
            connection,
            ca,
            downloads: body::Downloads::default(),
        }
    }

    /// Puts all of it into an application.
    pub fn configure(self, config: &mut web::ServiceConfig) {
        config
            .app_data(web::Data::new(self))
            .default_service(web::to(answer));
    }
}

async fn answer(
    http: web::Data<Http>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let connection = (http.connection)(&request);
    let unanswered = Unanswered {
        request: name_of(&request, &connection),
        since: Instant::now(),
    };
    let path = request.uri().path();
    let mut response = match Endpoint::parse(path) {
        Some(endpoint) => {
            Exchange {
                http: &http,
                request: &request,
                connection: &connection,
                endpoint,
            }
            .answer(payload)
            .await
        }
        None => elsewhere(&http, &request),
    };
    if path.starts_with("/v2") {
        let version = (
            HeaderName::from_static("docker-distribution-api-version"),
            HeaderValue::from_static("registry/2.0"),
        );
        response.headers_mut().insert(version.0, version.1);
    }
    unanswered.answered(&response);
    response
}

/// A request whose client may go away before it is answered; then it is dropped where it stands.
struct Unanswered {
    request: String,
    since: Instant,
}

impl Unanswered {
    fn answered(mut self, response: &HttpResponse) {
        let request = std::mem::take(&mut self.request);
        log::debug!(
            "{request}: {} in {:?}",
            response.status().as_u16(),
            self.since.elapsed()
        );
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.request.is_empty() {
            log::info!(
                "{}: the client went away before it was answered",
                self.request
            );
        }
    }
}

/// What is not the distribution-spec's.
fn elsewhere(http: &Http, request: &HttpRequest) -> HttpResponse {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/ca.pem" if reads => HttpResponse::Ok()
            .content_type("application/x-pem-file")
            .body((http.ca)()),
        "/healthz" if reads => HttpResponse::Ok()
            .content_type("text/plain; charset=utf-8")
            .body("ok\n"),
        "/ca.pem" | "/healthz" => HttpResponse::MethodNotAllowed()
            .insert_header((header::ALLOW, "GET, HEAD"))
            .finish(),
        path => error::refuse(
            StatusCode::NOT_FOUND,
            ErrorCode::Unsupported,
            &format!("there is nothing at {path}"),
        ),
    }
}

/// One request for an endpoint of the spec.
struct Exchange<'a> {
    http: &'a Http,
    request: &'a HttpRequest,
    connection: &'a Connection,
    endpoint: Endpoint<'a>,
}

impl Exchange<'_> {
    async fn answer(&self, payload: web::Payload) -> HttpResponse {
        let routed = match self.resolve() {
            Ok(named) => self.route(named, payload).await,
            Err(error) => Err(error),
        };
        routed.unwrap_or_else(|error| {
            let head = *self.request.method() == Method::HEAD;
            error::respond(&error, &name_of(self.request, self.connection), head)
        })
    }

    /// The route table, in the order of the spec's end points.
    async fn route(
        &self,
        named: Option<Named>,
        payload: web::Payload,
    ) -> Result<HttpResponse, Error> {
        let method = self.request.method();
        let get = *method == Method::GET;
        let head = *method == Method::HEAD;
        let Some(named) = named else {
            return if get || head {
                Ok(HttpResponse::Ok().json(serde_json::json!({})))
            } else {
                Ok(self.wrong_method())
            };
        };
        let mut response = match &self.endpoint {
            // end-2
            Endpoint::Blob { digest, .. } if head => {
                self.stat_blob(&named, &parse_digest(digest)?).await
            }
            Endpoint::Blob { digest, .. } if get => {
                self.pull_blob(&named, &parse_digest(digest)?).await
            }
            // end-3
            Endpoint::Manifest { reference, .. } if get || head => {
                self.pull_manifest(&named, &parse_reference(reference)?)
                    .await
            }
            // end-4a, end-4b, end-11
            Endpoint::Uploads { .. } if *method == Method::POST => {
                self.start_upload(&named, payload).await
            }
            // end-5
            Endpoint::Upload { id, .. } if *method == Method::PATCH => {
                self.append_upload(&named, parse_upload(id)?, payload).await
            }
            // end-6
            Endpoint::Upload { id, .. } if *method == Method::PUT => {
                self.finish_upload(&named, parse_upload(id)?, payload).await
            }
            // end-7
            Endpoint::Manifest { reference, .. } if *method == Method::PUT => {
                self.push_manifest(&named, &parse_reference(reference)?, payload)
                    .await
            }
            // end-8a, end-8b
            Endpoint::Tags { .. } if get || head => self.list_tags(&named).await,
            // end-13
            Endpoint::Upload { id, .. } if get || head => {
                self.upload_status(&named, parse_upload(id)?)
            }
            // end-14
            Endpoint::Upload { id, .. } if *method == Method::DELETE => {
                self.cancel_upload(parse_upload(id)?).await
            }
            _ => Ok(self.wrong_method()),
        }?;
        if let Some(ns) = named
            .target
            .ns
            .as_deref()
            .and_then(|ns| HeaderValue::from_str(ns).ok())
        {
            response
                .headers_mut()
                .insert(HeaderName::from_static("oci-namespace"), ns);
        }
        Ok(response)
    }

    /// The repository that the request means; `/v2/` means none.
    fn resolve(&self) -> Result<Option<Named>, Error> {
        let query = self.request.uri().query().unwrap_or_default();
        let parameters = path::parameters(query);
        let ns = parameters.iter().filter(|(key, _)| key == "ns");
        let ns: Vec<String> = ns.map(|(_, value)| value.clone()).collect();
        let authority = self.request.uri().authority();
        let asked = Asked {
            name: self.endpoint.name().unwrap_or_default(),
            ns: &ns,
            host: authority
                .map(|authority| authority.as_str())
                .or(self.header(header::HOST)),
            server_name: self.connection.server_name.as_deref(),
            tls: self.connection.tls,
        };
        let Some(name) = self.endpoint.name() else {
            self.http.registry.check_host(&asked)?;
            return Ok(None);
        };
        let target = self.http.registry.resolve(&asked)?;
        Ok(Some(Named {
            target,
            name: name.to_owned(),
            parameters,
        }))
    }

    fn wrong_method(&self) -> HttpResponse {
        let message = format!(
            "{} can't be done here, only {}",
            self.request.method(),
            self.endpoint.allow()
        );
        let mut response = error::refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::Unsupported,
            &message,
        );
        response.headers_mut().insert(
            header::ALLOW,
            HeaderValue::from_static(self.endpoint.allow()),
        );
        response
    }

    fn header(&self, name: HeaderName) -> Option<&str> {
        self.request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    }
}

/// A request's repository, and the words it was named by.
struct Named {
    target: Target,
    /// As the client spelled it.
    name: String,
    parameters: Vec<(String, String)>,
}

impl Named {
    fn links(&self) -> Links<'_> {
        Links {
            name: &self.name,
            ns: self.target.ns.as_deref(),
        }
    }

    fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }
}

fn parse_digest(digest: &str) -> Result<Digest, Error> {
    digest
        .parse()
        .map_err(|error| Error::DigestInvalid(format!("{error}")))
}

fn parse_upload(id: &str) -> Result<UploadId, Error> {
    id.parse().map_err(|_| Error::BlobUploadUnknown)
}

fn parse_reference(reference: &str) -> Result<Reference, Error> {
    use crate::types::InvalidReference;
    reference.parse().map_err(|error| match error {
        InvalidReference::Digest(error) => Error::DigestInvalid(error.to_string()),
        InvalidReference::Tag(why) => Error::ManifestInvalid(why),
    })
}

/// What a log line calls a request. Nothing in it is secret: credentials travel in headers.
fn name_of(request: &HttpRequest, connection: &Connection) -> String {
    let peer = connection
        .peer
        .map_or_else(|| "?".to_owned(), |peer| peer.to_string());
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    format!("{peer} {} {}", request.method(), target.escape_debug())
}
