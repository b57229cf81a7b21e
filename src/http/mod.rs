//! The wire: the distribution-spec's endpoints over actix-web. Reads requests, writes answers, decides nothing.

mod auth;
mod body;
mod conditional;
mod discover;
mod elsewhere;
mod error;
mod manage;
mod path;
mod pull;
mod push;
mod status;
mod warning;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    dev::RequestHead,
    http::{
        Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web,
};
use bytes::Bytes;

use crate::{
    metrics::Metrics,
    registry::{
        Asked, Error, Intercepted, Registry, Target,
        access::{Access, Action, Identity},
    },
    types::{Digest, ExternalUrl, Reference, UploadId},
};
use body::Incoming;
use elsewhere::{elsewhere, foreign};
use error::ErrorCode;
use path::{Endpoint, Links};

pub use status::{Status, StatusAsked, StatusForm, StatusPage};

/// What every worker needs to answer requests. Cheap to clone.
#[derive(Clone)]
pub struct Http {
    pub registry: Registry,
    pub access: Access,
    /// Where clients find us, if that is not where we listen.
    pub external_url: Option<ExternalUrl>,
    /// How a request came in; the connection front knows.
    pub connection: fn(&HttpRequest) -> Connection,
    /// What `/ca.pem` serves.
    pub ca: Arc<dyn Fn() -> Bytes + Send + Sync>,
    /// What `/status` serves.
    pub status: Status,
    pub downloads: body::Downloads,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
}

/// Pages of our own that are made elsewhere.
pub struct Pages {
    /// `/ca.pem`.
    pub ca: Arc<dyn Fn() -> Bytes + Send + Sync>,
    /// `/status`.
    pub status: Status,
}

/// What the wire bounds by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a client may send nothing within a body before it counts as gone.
    pub silence: Duration,
    /// Entries on a page of a listing, whatever `n` asks for.
    pub page: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(60),
            page: 1000,
        }
    }
}

/// How a request came in.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    pub peer: Option<SocketAddr>,
    /// The address of ours that it came to.
    pub local: Option<SocketAddr>,
    pub tls: bool,
    /// The name in the TLS handshake.
    pub server_name: Option<String>,
    /// The registry that a CONNECT led to.
    pub connect: Option<Intercepted>,
}

impl Http {
    pub fn new(
        registry: Registry,
        access: Access,
        external_url: Option<ExternalUrl>,
        connection: fn(&HttpRequest) -> Connection,
        pages: Pages,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            registry,
            access,
            external_url,
            connection,
            ca: pages.ca,
            status: pages.status,
            downloads: body::Downloads::default(),
            limits,
            metrics,
        }
    }

    /// The refusal that a request with this head will meet whatever its body is, so that a client that waits with the body
    /// (`Expect: 100-continue`) need not send it.
    pub async fn refusal(
        &self,
        request: &RequestHead,
        connection: &Connection,
    ) -> Option<HttpResponse> {
        let path = request.uri.path();
        let Some(endpoint) = Endpoint::parse(path) else {
            let refused = path != auth::TOKEN_PATH;
            return match refused {
                true => Some(elsewhere(self, request, connection).await),
                false => None,
            };
        };
        let exchange = Exchange {
            http: self,
            request,
            connection,
            endpoint,
        };
        exchange.refusal().await
    }

    /// Tells the metrics how full the cache is, which is worked out when somebody looks.
    fn count_cache(&self) {
        let size = self.registry.cache_size();
        let (manifests, bytes) = (size.evicted_manifests, size.evicted_bytes);
        self.metrics.cache(size.used, size.cap, manifests, bytes);
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
    let request = request.head();
    let body = Incoming::new(payload, http.limits.silence, &http.metrics);
    let unanswered = Unanswered {
        request: name_of(request, &connection),
        since: Instant::now(),
    };
    let path = request.uri.path();
    let endpoint = Endpoint::parse(path);
    let word = match &endpoint {
        Some(endpoint) => endpoint.word(),
        None if path == auth::TOKEN_PATH => "token",
        None => "other",
    };
    let mut response = match (foreign(&http, request), endpoint) {
        (Some(refusal), _) => refusal,
        (None, Some(endpoint)) => {
            Exchange {
                http: &http,
                request,
                connection: &connection,
                endpoint,
            }
            .answer(&body)
            .await
        }
        (None, None) if path == auth::TOKEN_PATH => {
            auth::token(&http, request, &connection, &body).await
        }
        (None, None) => elsewhere(&http, request, &connection).await,
    };
    if path.starts_with("/v2") {
        let version = (
            HeaderName::from_static("docker-distribution-api-version"),
            HeaderValue::from_static("registry/2.0"),
        );
        response.headers_mut().insert(version.0, version.1);
    }
    let (status, took) = (response.status().as_u16(), unanswered.since.elapsed());
    let method = method_word(&request.method);
    http.metrics.request(method, word, status, took);
    body.drain().await;
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
        if response.extensions().get::<error::Told>().is_none() {
            log::debug!(
                "{request}: {} in {:.1?}",
                response.status().as_u16(),
                self.since.elapsed()
            );
        }
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

/// One request for an endpoint of the spec.
struct Exchange<'a> {
    http: &'a Http,
    request: &'a RequestHead,
    connection: &'a Connection,
    endpoint: Endpoint<'a>,
}

impl Exchange<'_> {
    async fn answer(&self, body: &Incoming) -> HttpResponse {
        if !self.has_method() {
            return self.wrong_method();
        }
        let routed = match (&self.endpoint, self.parameters()) {
            (Endpoint::Catalog, parameters) => self.list_repositories(&parameters).await,
            (_, parameters) => match self.resolve(parameters).await {
                Ok(named) => self.route(named, body).await,
                Err(error) => Err(error),
            },
        };
        routed.unwrap_or_else(|error| self.failed(&error))
    }

    async fn refusal(&self) -> Option<HttpResponse> {
        if !self.has_method() {
            return Some(self.wrong_method());
        }
        let judged = match self.resolve(self.parameters()).await {
            Ok(Some(named)) => self.judge_head(&named),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        judged.err().map(|error| self.failed(&error))
    }

    /// What can be told of a push before its body.
    fn judge_head(&self, named: &Named) -> Result<(), Error> {
        match &self.endpoint {
            Endpoint::Manifest { reference, .. } => {
                named.tags(&parse_reference(reference)?)?;
                self.check_manifest_length()
            }
            Endpoint::Uploads { .. } => {
                named.parameter("digest").map(parse_digest).transpose()?;
                named.algorithm().map(drop)
            }
            Endpoint::Upload { id, .. } => {
                let id = self.session(named, id)?;
                let range = self.content_range(id)?;
                named.parameter("digest").map(parse_digest).transpose()?;
                self.http.registry.check_chunk(id, range)
            }
            _ => Ok(()),
        }
    }

    fn has_method(&self) -> bool {
        let method = self.request.method.as_str();
        self.endpoint
            .allow()
            .split(", ")
            .any(|allowed| allowed == method)
    }

    fn failed(&self, error: &Error) -> HttpResponse {
        let head = self.request.method == Method::HEAD;
        let request = name_of(self.request, self.connection);
        let mut response = error::respond(error, &request, head);
        match error {
            Error::Refused(refusal) => self.refused(refusal, &mut response),
            // 405 names what can be done (RFC 9110, 15.5.6).
            Error::InUse(_) => {
                let allow = HeaderValue::from_static("GET, HEAD");
                response.headers_mut().insert(header::ALLOW, allow);
            }
            _ => {}
        }
        response
    }

    /// The route table, in the order of the spec's end points.
    async fn route(&self, named: Option<Named>, body: &Incoming) -> Result<HttpResponse, Error> {
        let method = &self.request.method;
        let get = *method == Method::GET;
        let head = *method == Method::HEAD;
        let Some(named) = named else {
            return Ok(HttpResponse::Ok().json(serde_json::json!({})));
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
                self.start_upload(&named, body).await
            }
            // end-5
            Endpoint::Upload { id, .. } if *method == Method::PATCH => {
                self.append_upload(&named, self.session(&named, id)?, body)
                    .await
            }
            // end-6
            Endpoint::Upload { id, .. } if *method == Method::PUT => {
                self.finish_upload(&named, self.session(&named, id)?, body)
                    .await
            }
            // end-7
            Endpoint::Manifest { reference, .. } if *method == Method::PUT => {
                self.push_manifest(&named, &parse_reference(reference)?, body)
                    .await
            }
            // end-8a, end-8b
            Endpoint::Tags { .. } if get || head => self.list_tags(&named).await,
            // end-9
            Endpoint::Manifest { reference, .. } if *method == Method::DELETE => {
                self.delete_manifest(&named, &parse_reference(reference)?)
                    .await
            }
            // end-10
            Endpoint::Blob { digest, .. } if *method == Method::DELETE => {
                self.delete_blob(&named, &parse_digest(digest)?).await
            }
            // end-12a, end-12b
            Endpoint::Referrers { digest, .. } if get || head => {
                self.list_referrers(&named, &parse_digest(digest)?).await
            }
            // end-13
            Endpoint::Upload { id, .. } if get || head => {
                self.upload_status(&named, self.session(&named, id)?)
            }
            // end-14
            Endpoint::Upload { id, .. } if *method == Method::DELETE => {
                self.cancel_upload(self.session(&named, id)?).await
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

    /// The repository that the request means, once it is known that its sender may do this; `/v2/` means none.
    async fn resolve(&self, parameters: Parameters) -> Result<Option<Named>, Error> {
        let ns = parameters.all("ns");
        let asked = self.asked(self.endpoint.name().unwrap_or_default(), &ns);
        let Some(name) = self.endpoint.name() else {
            self.http.registry.check_host(&asked)?;
            self.log_in().await?;
            return Ok(None);
        };
        let target = self.http.registry.resolve(&asked)?;
        let identity = self.permit(name, &target).await?;
        Ok(Some(Named {
            target,
            identity,
            name: name.to_owned(),
            parameters,
        }))
    }

    fn parameters(&self) -> Parameters {
        Parameters(path::parameters(
            self.request.uri.query().unwrap_or_default(),
        ))
    }

    /// What tells which registry's `name` is meant.
    fn asked<'a>(&'a self, name: &'a str, ns: &'a [String]) -> Asked<'a> {
        Asked {
            name,
            ns,
            host: host_of(self.request),
            server_name: self.connection.server_name.as_deref(),
            tls: self.connection.tls,
            connect: self.connection.connect.as_ref(),
        }
    }

    /// An upload session by its id, which belongs to the name it was opened under: whoever goes on with it may push there.
    fn session(&self, named: &Named, id: &str) -> Result<UploadId, Error> {
        let id = id.parse().map_err(|_| Error::BlobUploadUnknown)?;
        let opened_under = self.http.registry.upload_status(id)?.name;
        match named.identity.may(Action::Push, &opened_under) {
            true => Ok(id),
            false => Err(Error::BlobUploadUnknown),
        }
    }

    fn wrong_method(&self) -> HttpResponse {
        let message = format!("only {} can be done here", self.endpoint.allow());
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
    /// Whoever sent the request, who may do to this repository what it says. What it does besides is judged by
    /// `Identity::may`.
    identity: Identity,
    /// As the client spelled it.
    name: String,
    parameters: Parameters,
}

/// A query's parameters.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// The first one of that name.
    fn one(&self, key: &str) -> Option<&str> {
        let mut of_key = self.0.iter().filter(|(known, _)| known == key);
        of_key.next().map(|(_, value)| value.as_str())
    }

    fn all(&self, key: &str) -> Vec<String> {
        let of_key = self.0.iter().filter(|(known, _)| known == key);
        of_key.map(|(_, value)| value.clone()).collect()
    }
}

impl Named {
    fn links(&self) -> Links<'_> {
        Links {
            name: &self.name,
            ns: self.target.ns.as_deref(),
        }
    }

    fn parameter(&self, key: &str) -> Option<&str> {
        self.parameters.one(key)
    }
}

fn parse_digest(digest: &str) -> Result<Digest, Error> {
    digest
        .parse()
        .map_err(|error| Error::DigestInvalid(format!("{error}")))
}

fn parse_reference(reference: &str) -> Result<Reference, Error> {
    use crate::types::InvalidReference;
    reference.parse().map_err(|error| match error {
        InvalidReference::Digest(error) => Error::DigestInvalid(error.to_string()),
        InvalidReference::Tag(why) => Error::ManifestInvalid(why),
    })
}

/// The host that the request is for, as the client wrote it.
fn host_of(request: &RequestHead) -> Option<&str> {
    let authority = request.uri.authority();
    let header = || request.headers().get(header::HOST)?.to_str().ok();
    authority
        .map(|authority| authority.as_str())
        .or_else(header)
}

/// What a log line calls a request. Nothing in it is secret: credentials travel in headers and forms, and a query that is
/// mistaken for a form is left out.
fn name_of(request: &RequestHead, connection: &Connection) -> String {
    let target = match request.uri.path_and_query() {
        Some(target) if target.path() == auth::TOKEN_PATH => auth::TOKEN_PATH,
        Some(target) => target.as_str(),
        None => "/",
    };
    let peer = peer_of(connection);
    format!("{peer} {} {}", request.method, target.escape_debug())
}

/// A method as a label, of which there must not be as many as clients think up.
fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// What a log line calls a client.
fn peer_of(connection: &Connection) -> String {
    let peer = connection.peer;
    peer.map_or_else(|| "?".to_owned(), |peer| peer.to_string())
}
