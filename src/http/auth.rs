//! Logging in on the wire: what a request shows, where a client is sent for a token, and the tokens it gets there.
//!
//! Basic is taken from whoever sends it, and only Bearer is advertised, in one line: docker answers every challenge it is
//! offered, and without a log-in fails on Basic.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/>

use std::str::FromStr as _;

use actix_web::{
    HttpResponse,
    dev::RequestHead,
    http::{
        Method,
        header::{self, HeaderMap, HeaderValue},
    },
};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Connection, Exchange, Http,
    body::{self, Incoming},
    error, host_of, name_of,
    path::{self, Endpoint},
    peer_of,
};
use crate::{
    registry::{
        Error, Target,
        access::{Action, Credentials, Identity, Issued, Refusal, Scope, Visitor, Wanted},
    },
    types::{ExternalUrl, url::split_port},
};

/// Where tokens are to be had.
pub(super) const TOKEN_PATH: &str = "/auth/token";

/// Parameters of a token request, GET and POST alike.
type Parameters = [(String, String)];

/// `/auth/token`: GET with Basic as distribution's clients send it, or the form of OAuth 2.
pub(super) async fn token(
    http: &Http,
    request: &RequestHead,
    connection: &Connection,
    body: &Incoming,
) -> HttpResponse {
    let answered = match request.method {
        Method::GET | Method::HEAD => {
            let parameters = path::parameters(request.uri.query().unwrap_or_default());
            let shown = Shown::by(request.headers());
            let stay = value(&parameters, "offline_token") == Some("true");
            issue(http, connection, shown.credentials(), &parameters, stay).await
        }
        Method::POST => by_form(http, connection, body).await,
        _ => {
            return HttpResponse::MethodNotAllowed()
                .insert_header((header::ALLOW, "GET, HEAD, POST"))
                .finish();
        }
    };
    let error = match answered {
        Ok(issued) => return granted(&issued),
        Err(error) => error,
    };
    let head = request.method == Method::HEAD;
    let mut response = error::respond(&error, &name_of(request, connection), head);
    if let Error::Refused(refusal) = &error {
        refused(http, request, connection, refusal, None, &mut response);
    }
    response
}

async fn by_form(http: &Http, connection: &Connection, body: &Incoming) -> Result<Issued, Error> {
    let whole = body::whole(body.stream(), FORM_LIMIT).await;
    let bytes = whole
        .map_err(|broken| Error::TokenRequest(format!("the form broke off: {broken}")))?
        .ok_or_else(|| Error::TokenRequest(format!("the form has more than {FORM_LIMIT} bytes")))?;
    let parameters = path::parameters(&String::from_utf8_lossy(&bytes));
    let of = |key| value(&parameters, key).unwrap_or_default();
    let credentials = match of("grant_type") {
        "password" => Credentials::Password {
            user: of("username"),
            password: of("password"),
        },
        "refresh_token" => Credentials::RefreshToken(of("refresh_token")),
        _ => {
            let message = "grant_type is neither password nor refresh_token";
            return Err(Error::TokenRequest(message.to_owned()));
        }
    };
    let stay = of("access_type") == "offline";
    issue(http, connection, credentials, &parameters, stay).await
}

async fn issue(
    http: &Http,
    connection: &Connection,
    credentials: Credentials<'_>,
    parameters: &Parameters,
    stay: bool,
) -> Result<Issued, Error> {
    let scopes = parameters
        .iter()
        .filter(|(key, _)| key == "scope")
        .flat_map(|(_, scopes)| scopes.split_whitespace())
        .map(Scope::from_str)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::TokenRequest(error.to_string()))?;
    if scopes.len() > SCOPES_LIMIT {
        let message = format!("a token has at most {SCOPES_LIMIT} scopes");
        return Err(Error::TokenRequest(message));
    }
    let visitor = connection.visitor(credentials);
    http.access.issue(visitor, scopes, stay).await
}

/// Both the names that distribution has for the token's fields and those of OAuth 2.
fn granted(issued: &Issued) -> HttpResponse {
    let issued_at = OffsetDateTime::from(issued.issued_at).truncate_to_second();
    let mut body = json!({
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.expires_in.as_secs(),
        "issued_at": issued_at.format(&Rfc3339).unwrap_or_default(),
    });
    if let Some(token) = &issued.refresh_token {
        body["refresh_token"] = json!(token);
    }
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(body)
}

impl Exchange<'_> {
    /// Whoever sent the request, if they may do what it says.
    pub(super) async fn permit(&self, name: &str, target: &Target) -> Result<Identity, Error> {
        let shown = Shown::by(self.request.headers());
        let visitor = self.connection.visitor(shown.credentials());
        let wanted = Wanted {
            action: self.action(),
            name: &target.name,
            spelled: name,
        };
        Ok(self.http.access.permit(visitor, wanted).await?)
    }

    /// `/v2/` is where `docker login` tries its password.
    pub(super) async fn log_in(&self) -> Result<(), Error> {
        let shown = Shown::by(self.request.headers());
        let visitor = self.connection.visitor(shown.credentials());
        self.http.access.log_in(visitor).await?;
        Ok(())
    }

    /// Whoever asks for what the rules alone decide on, such as the catalog.
    pub(super) async fn reader(&self) -> Result<Identity, Error> {
        let shown = Shown::by(self.request.headers());
        let visitor = self.connection.visitor(shown.credentials());
        Ok(self.http.access.reader(visitor).await?)
    }

    /// What the request does to the repository it names.
    fn action(&self) -> Action {
        match (&self.endpoint, &self.request.method) {
            // Whatever is done to an upload session is part of a push.
            (Endpoint::Uploads { .. } | Endpoint::Upload { .. }, _) => Action::Push,
            (_, &Method::GET | &Method::HEAD) => Action::Pull,
            (_, &Method::DELETE) => Action::Delete,
            _ => Action::Push,
        }
    }

    /// Adds to a refusal's answer how to log in for what was asked.
    pub(super) fn refused(&self, refusal: &Refusal, response: &mut HttpResponse) {
        let catalog = (self.endpoint == Endpoint::Catalog).then(|| "registry:catalog:*".to_owned());
        let scope = self.endpoint.name().map(|name| {
            // Whoever pushes or deletes looks first.
            let actions = match self.action() {
                Action::Pull => "pull",
                Action::Push => "pull,push",
                Action::Delete => "pull,delete",
            };
            format!("repository:{name}:{actions}")
        });
        let scope = scope.or(catalog);
        let Self {
            http,
            request,
            connection,
            ..
        } = self;
        refused(http, request, connection, refusal, scope, response);
    }
}

/// Tells the log of a failed log-in, and the client where to get a token, if one would help.
fn refused(
    http: &Http,
    request: &RequestHead,
    connection: &Connection,
    refusal: &Refusal,
    scope: Option<String>,
    response: &mut HttpResponse,
) {
    let error = match refusal {
        Refusal::Denied { .. } => return,
        Refusal::WrongPassword { user } => {
            let peer = peer_of(connection);
            log::warn!("{peer}: log-in as {user} failed: wrong user name or password");
            None
        }
        Refusal::LogIn(_) | Refusal::Private(_) | Refusal::Malformed => None,
        Refusal::Token(_) => Some("invalid_token"),
        Refusal::Scope { .. } => Some("insufficient_scope"),
    };
    let realm = realm(http.external_url.as_ref(), request, connection);
    let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{SERVICE}\"");
    // A repository's name has been parsed by now, so nothing here needs quoting.
    if let Some(scope) = scope {
        challenge.push_str(&format!(",scope=\"{scope}\""));
    }
    if let Some(error) = error {
        challenge.push_str(&format!(",error=\"{error}\""));
    }
    if let Ok(challenge) = HeaderValue::try_from(challenge) {
        let headers = response.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
}

/// The token end point as this client can reach it: at the host it asked for, in the way it came.
fn realm(external: Option<&ExternalUrl>, request: &RequestHead, connection: &Connection) -> String {
    let usable = |host: &&str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        !host.is_empty() && host.bytes().all(allowed)
    };
    let host = host_of(request).filter(usable);
    if let Some(external) = external
        && host.is_some_and(|host| is_at(external, host))
    {
        return format!("{external}{TOKEN_PATH}");
    }
    let scheme = if connection.tls { "https" } else { "http" };
    match (host, connection.local) {
        (Some(host), _) => format!("{scheme}://{host}{TOKEN_PATH}"),
        (None, Some(local)) => format!("{scheme}://{local}{TOKEN_PATH}"),
        (None, None) => TOKEN_PATH.to_owned(),
    }
}

/// Whether a `Host` header speaks of that URL, behind which TLS may end before it comes to us. Without a port it means
/// the scheme's, which only the URL tells.
fn is_at(external: &ExternalUrl, host: &str) -> bool {
    let (host, port) = split_port(host);
    let default = if external.is_https() { 443 } else { 80 };
    let port = port.map_or(Some(default), |port| port.parse().ok());
    host.eq_ignore_ascii_case(external.host()) && port == Some(external.port())
}

impl Connection {
    pub(super) fn visitor<'a>(&self, credentials: Credentials<'a>) -> Visitor<'a> {
        Visitor {
            credentials,
            on_loopback: self.is_on_loopback(),
        }
    }

    /// Whether it came to an address that only this machine reaches.
    pub(super) fn is_on_loopback(&self) -> bool {
        self.local.is_some_and(|local| local.ip().is_loopback())
    }
}

/// What the Authorization header holds. Never to be logged, so it has no `Debug`.
pub(super) enum Shown {
    Nothing,
    Password { user: String, password: String },
    Token(String),
    Malformed,
}

impl Shown {
    pub(super) fn by(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Self::Nothing;
        };
        let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return Self::Malformed;
        };
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
            return Self::Token(rest.to_owned());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Self::Malformed;
        }
        let decoded = BASE64.decode(rest).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|text| text.split_once(':')) {
            Some((user, password)) => Self::Password {
                user: user.to_owned(),
                password: password.to_owned(),
            },
            None => Self::Malformed,
        }
    }

    pub(super) fn credentials(&self) -> Credentials<'_> {
        match self {
            Self::Nothing => Credentials::None,
            Self::Password { user, password } => Credentials::Password { user, password },
            Self::Token(token) => Credentials::Token(token),
            Self::Malformed => Credentials::Malformed,
        }
    }
}

fn value<'a>(parameters: &'a Parameters, key: &str) -> Option<&'a str> {
    parameters
        .iter()
        .find(|(known, _)| known == key)
        .map(|(_, value)| value.as_str())
}

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What clients file their tokens under, beside the realm.
const SERVICE: &str = "standin";

/// A form holds a token, a password and some scopes.
const FORM_LIMIT: usize = 64 << 10;

/// A push asks for its own repository and one for each mount; beyond this a token would burst a header.
const SCOPES_LIMIT: usize = 100;
