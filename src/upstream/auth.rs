//! Logging in to one endpoint: which token or password a request carries, and where tokens come from. Knows no files and
//! no retries.
//!
//! - A token is fetched once for a scope, however many wait for it, and again shortly before it expires or when it is
//!   refused. Never more is asked for than what is to be done with the one repository.
//! - A token server is chosen by the registry, which is not trusted: `realm_allowed` says where we go.
//! - A log-in that the token server refuses costs no public image: the token is then asked for without, and the log-in
//!   is left alone for a minute.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/>,
//! <https://distribution.github.io/distribution/spec/auth/oauth/>

mod realm;
mod request;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Url,
    header::{HeaderMap, HeaderValue},
};
use tokio::{
    sync::Mutex as Flight,
    time::{Instant, timeout_at},
};

use super::{
    Cause, Error,
    challenge::Challenge,
    credentials::{Credentials, Login},
};
use crate::types::{RegistryHost, RepositoryName, UpstreamUrl, digest::shown};
use realm::realm_allowed;
use request::{Request, Token, basic};

/// What a token is good for in a repository, under the name that the endpoint has for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    repository: RepositoryName,
    access: Access,
    /// A repository that content is mounted from, and so pulled.
    from: Option<RepositoryName>,
}

/// What is to be done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    /// With all that it takes to find out what need not be sent.
    Push,
}

impl Scope {
    pub(super) fn new(repository: &RepositoryName, access: Access) -> Self {
        Self {
            repository: repository.clone(),
            access,
            from: None,
        }
    }

    /// To push to `repository` what is mounted from `from`.
    pub(super) fn mount(repository: &RepositoryName, from: &RepositoryName) -> Self {
        Self {
            from: Some(from.clone()),
            ..Self::new(repository, Access::Push)
        }
    }

    /// What to ask a token server for: in the registry's words if they are for this and no more. Several are parted by
    /// spaces.
    fn asked(&self, offered: Option<&str>) -> String {
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let ours = format!("repository:{}:{actions}", self.repository);
        let is_ours = |offered: &&str| {
            let Some((kind, rest)) = offered.split_once(':') else {
                return false;
            };
            // `repository(plugin)` is docker's for what is no image.
            let class = kind.strip_prefix("repository");
            let plain = class.is_some_and(|class| {
                class.is_empty()
                    || (class.starts_with('(')
                        && class.ends_with(')')
                        && class[1..]
                            .bytes()
                            .rev()
                            .skip(1)
                            .all(|b| b.is_ascii_lowercase()))
            });
            plain && Some(rest) == ours.strip_prefix("repository:")
        };
        let asked = offered
            .filter(is_ours)
            .map_or_else(|| ours.clone(), str::to_owned);
        match &self.from {
            None => asked,
            Some(from) => format!("{asked} repository:{from}:pull"),
        }
    }
}

/// What one endpoint, a registry or a mirror of it, lets us in by.
pub(super) struct Authority {
    registry: RegistryHost,
    base: UpstreamUrl,
    credentials: Credentials,
    wants_basic: AtomicBool,
    tokens: Mutex<HashMap<Scope, Arc<Slot>>>,
    /// The log-in that the token server refused last.
    refused: Mutex<Option<(Login, Instant)>>,
}

/// The token of a scope.
#[derive(Default)]
struct Slot {
    token: Mutex<Option<Token>>,
    /// Held by whoever fetches; what came of it if no token did.
    flight: Flight<Option<Missed>>,
}

struct Missed {
    at: Instant,
    /// `None`: the token server refused.
    error: Option<Error>,
}

impl Slot {
    fn usable(&self) -> Option<HeaderValue> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = token
            .as_ref()
            .filter(|token| Instant::now() < token.renew_at);
        usable.map(|token| token.header.clone())
    }
}

impl Authority {
    /// For the endpoint at `base` of `registry`.
    pub(super) fn new(registry: RegistryHost, base: UpstreamUrl, credentials: Credentials) -> Self {
        Self {
            registry,
            base,
            credentials,
            wants_basic: AtomicBool::new(false),
            tokens: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Whether there is a log-in for this endpoint, or may be one.
    pub(super) fn has_login(&self) -> bool {
        self.credentials.has_login()
    }

    /// The `Authorization` to send with the first try: a token that is not about to expire, or the log-in where the
    /// endpoint wanted it before.
    pub(super) async fn ready(&self, scope: &Scope) -> Option<HeaderValue> {
        if let Some(token) = self.slot(scope).usable() {
            return Some(token);
        }
        match self.wants_basic.load(Ordering::Relaxed) {
            true => self.basic(scope).await,
            false => None,
        }
    }

    /// The `Authorization` to send after a 401 with these headers; `refused` is the one that it answered. `None`: there
    /// is nothing to send that would help.
    ///
    /// To be asked once in a request: what is refused again is refused. `client` must not follow redirects.
    ///
    /// # Errors
    /// The challenge can't be read, its token server may not be asked, or has not answered.
    pub(super) async fn answer(
        &self,
        client: &reqwest::Client,
        challenges: &HeaderMap,
        scope: &Scope,
        refused: Option<&HeaderValue>,
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, Error> {
        let challenges = Challenge::all(challenges).map_err(|why| {
            self.protocol(format!(
                "its challenge (the header WWW-Authenticate) can't be read: {why}"
            ))
        })?;
        let of = |scheme| move |challenge: &&Challenge| challenge.scheme == scheme;
        if let Some(bearer) = challenges.iter().find(of("bearer")) {
            return self.token(client, bearer, scope, refused, deadline).await;
        }
        if challenges
            .iter()
            .any(|challenge| challenge.scheme == "basic")
        {
            self.wants_basic.store(true, Ordering::Relaxed);
            // A helper may take its time.
            let header = timeout_at(deadline, self.basic(scope))
                .await
                .unwrap_or(None);
            return Ok(header.filter(|header| Some(header) != refused));
        }
        Ok(None)
    }

    async fn token(
        &self,
        client: &reqwest::Client,
        bearer: &Challenge,
        scope: &Scope,
        refused: Option<&HeaderValue>,
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, Error> {
        let realm = self.realm(bearer)?;
        let at = realm.origin().ascii_serialization();
        let failed = |cause| {
            let (realm, cause) = (at.clone(), Box::new(cause));
            Error::new(&self.registry, Cause::Token { realm, cause })
        };
        let began = Instant::now();
        let late = |_| failed(Cause::Timeout(began.elapsed()));
        let slot = self.slot(scope);
        let mut missed = timeout_at(deadline, slot.flight.lock())
            .await
            .map_err(late)?;
        if let Some(token) = slot.usable().filter(|token| Some(token) != refused) {
            return Ok(Some(token));
        }
        // Whoever asked while this one waited has had an answer that counts for both.
        if let Some(missed) = missed.as_ref().filter(|missed| missed.at >= began) {
            return missed.error.clone().map_or(Ok(None), Err);
        }
        let service = bearer.parameter("service");
        let offered = bearer.parameter("scope");
        let fetched = timeout_at(
            deadline,
            self.fetch(client, &realm, service, offered, scope),
        );
        let error = match fetched.await {
            Ok(Ok(Some(token))) => {
                let header = token.header.clone();
                *slot.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
                *missed = None;
                return Ok(Some(header));
            }
            Ok(Ok(None)) => None,
            Ok(Err(cause)) => Some(failed(cause)),
            Err(elapsed) => Some(late(elapsed)),
        };
        let at = Instant::now();
        *slot.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *missed = Some(Missed {
            at,
            error: error.clone(),
        });
        error.map_or(Ok(None), Err)
    }

    /// The token server that the challenge names, if we go there.
    fn realm(&self, bearer: &Challenge) -> Result<Url, Error> {
        let Some(realm) = bearer.parameter("realm") else {
            return Err(self.protocol("its Bearer challenge names no realm to get a token from"));
        };
        let allowed = Url::parse(realm)
            .map_err(|error| format!("it is no absolute URL ({error})"))
            .and_then(|url| {
                realm_allowed(&url, &self.base, self.credentials.realms())?;
                Ok(url)
            });
        allowed.map_err(|why| {
            let realm = shown(realm);
            self.protocol(format!("its token server {realm} is not asked: {why}"))
        })
    }

    /// `None`: the token server refuses.
    async fn fetch(
        &self,
        client: &reqwest::Client,
        realm: &Url,
        service: Option<&str>,
        offered: Option<&str>,
        scope: &Scope,
    ) -> Result<Option<Token>, Cause> {
        let asked = scope.asked(offered);
        let request = Request {
            client,
            realm,
            service,
            scope: &asked,
        };
        let login = self.credentials.find(Some(&scope.repository)).await;
        let Some(login) = login.filter(|login| !self.was_refused(login)) else {
            return request.send(None).await;
        };
        if let Some(token) = request.send(Some(&login)).await? {
            return Ok(Some(token));
        }
        log::warn!(
            "{}: its token server {} refuses the log-in that standin has for it (docker login anew); it is asked without",
            self.registry,
            realm.origin().ascii_serialization()
        );
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((login, Instant::now()));
        request.send(None).await
    }

    fn was_refused(&self, login: &Login) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let same = refused.as_ref().filter(|(refused, _)| refused == login);
        same.is_some_and(|(_, at)| at.elapsed() < LEFT_ALONE)
    }

    async fn basic(&self, scope: &Scope) -> Option<HeaderValue> {
        match self.credentials.find(Some(&scope.repository)).await? {
            Login::Password { user, password } => Some(basic(&user, &password)),
            Login::Identity(_) => None,
        }
    }

    fn slot(&self, scope: &Scope) -> Arc<Slot> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = tokens.get(scope) {
            return Arc::clone(slot);
        }
        // Clients choose the names; what is lost costs one token each.
        if tokens.len() >= SCOPES {
            tokens.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(tokens.entry(scope.clone()).or_default())
    }

    fn protocol(&self, problem: impl Into<String>) -> Error {
        Error::new(&self.registry, Cause::Protocol(problem.into()))
    }
}

/// Token servers lock accounts that are refused too often.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// Tokens kept for an endpoint, about.
const SCOPES: usize = 1000;
