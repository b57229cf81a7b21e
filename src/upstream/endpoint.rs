//! One place where a registry is asked: a mirror, or the registry itself. Here a request is tried until it is answered or
//! its time is up; which endpoint comes next is not known here.

mod push;
mod refusal;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, LOCATION, RANGE, RETRY_AFTER},
};
use tokio::time::{Instant, sleep, timeout_at};

use self::refusal::refusal;
use super::{
    Cause, Effort, Options, Pace, Patience,
    answer::{Answer, Content, delay, extent, refuse_foreign},
    auth::{Access, Authority, Scope},
    body::{self, Expected},
    circuit::Circuit,
    content_length,
    credentials::Credentials,
    dialer::Dialer,
    guard,
    limits::{Limiter, Permit},
    options::{Rewrite, rewritten},
    quota::Gauge,
    text,
};
use crate::{
    activity::Activity,
    metrics::{Metrics, Outcome},
    types::{RegistryHost, RepositoryName, UpstreamUrl, Zone},
};

/// What is asked of a registry, whichever endpoint answers.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) name: &'a RepositoryName,
    /// Behind the name: `manifests/latest`.
    pub(super) rest: &'a str,
    pub(super) accept: Option<&'a str>,
    pub(super) access: Access,
    pub(super) want: Want,
    pub(super) effort: Effort,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Head,
    /// The body as a stream, from this byte on.
    Stream(u64),
    /// All of the body, of at most so many bytes.
    Whole(usize),
}

pub(super) use push::{Manifest, Opened, Upload};

pub(super) struct Endpoint {
    registry: RegistryHost,
    base: UpstreamUrl,
    /// `base` once more, for comparisons.
    origin: Option<Url>,
    rewrite: Vec<Rewrite>,
    dialer: Arc<Dialer>,
    authority: Authority,
    circuit: Circuit,
    limiter: Limiter,
    gauge: Gauge,
    counted: Counted,
}

/// Where requests are counted, and as what.
pub(super) struct Counted {
    pub(super) activity: Arc<Activity>,
    pub(super) label: String,
}

impl Counted {
    fn parts(&self) -> (&Metrics, &str) {
        (self.activity.metrics(), &self.label)
    }
}

impl Endpoint {
    pub(super) fn new(
        registry: &RegistryHost,
        (base, rewrite): (&UpstreamUrl, &[Rewrite]),
        options: &Options,
        credentials: Credentials,
        dialer: &Arc<Dialer>,
        counted: Counted,
        pace: &Pace,
    ) -> Self {
        Self {
            registry: registry.clone(),
            base: base.clone(),
            origin: Url::parse(base.as_str()).ok(),
            rewrite: rewrite.to_vec(),
            dialer: Arc::clone(dialer),
            authority: Authority::new(registry.clone(), base.clone(), credentials),
            circuit: Circuit::new(pace.rest),
            limiter: Limiter::new(options),
            gauge: Gauge::default(),
            counted,
        }
    }

    pub(super) fn registry(&self) -> &RegistryHost {
        &self.registry
    }

    pub(super) fn base(&self) -> &UpstreamUrl {
        &self.base
    }

    pub(super) fn has_login(&self) -> bool {
        self.authority.has_login()
    }

    /// The answer, or `None` for a 404, by `until`.
    pub(super) async fn ask(
        &self,
        ask: Ask<'_>,
        pace: &Pace,
        until: Instant,
    ) -> Result<Option<Answer>, Cause> {
        let (metrics, label) = self.counted.parts();
        let pass = self
            .circuit
            .enter(std::time::Instant::now())
            .inspect_err(|_| metrics.upstream_request(label, Outcome::Withheld, Duration::ZERO))?;
        let outcome = tokio::select! {
            biased;
            outcome = self.tries(ask, pace, until) => outcome,
            cause = pass.broken() => return Err(cause),
        };
        let now = std::time::Instant::now();
        match &outcome {
            Err(failure) if matches!(failure.cause, Cause::Busy(_)) => drop(pass),
            Err(failure) if failure.outage => {
                if let Some(rest) = pass.failed(&failure.cause, now) {
                    metrics.upstream_withheld(label, true);
                    log::warn!(
                        "{}: {} is not asked again for {} s: {}",
                        self.registry,
                        self.base,
                        rest.as_secs_f64().ceil(),
                        failure.cause
                    );
                }
            }
            Ok(_) | Err(_) => {
                if pass.answered(now) {
                    metrics.upstream_withheld(label, false);
                    log::info!("{}: {} answers again", self.registry, self.base);
                }
            }
        }
        outcome.map_err(|failure| failure.cause)
    }

    /// When to ask for a blob again, if others have found this endpoint away a moment ago: it may only be restarting.
    pub(super) fn may_be_back(&self, ask: Ask<'_>, cause: &Cause) -> Option<Duration> {
        let met_by_others = cause.rests().is_some();
        match (ask.want, cause.essence()) {
            (Want::Stream(_), Cause::Unreachable(_)) if met_by_others => self
                .circuit
                .first_rest(std::time::Instant::now())
                .map(|rest| rest.max(LOOK)),
            _ => None,
        }
    }

    async fn tries(
        &self,
        ask: Ask<'_>,
        pace: &Pace,
        until: Instant,
    ) -> Result<Option<Answer>, Failure> {
        let began = Instant::now();
        let retries = match (ask.effort.patience, ask.want) {
            (Patience::Once, _) => 0,
            (Patience::Full, Want::Stream(_)) => pace.blob_retries,
            (Patience::Full, _) => pace.retries,
        };
        for tried in 0.. {
            let last = tried == retries;
            // One silent try must leave time for another: connections die without a word.
            let left = until.saturating_duration_since(Instant::now());
            let by = match last {
                true => until,
                false => Instant::now() + left * 3 / 5,
            };
            let asked = Instant::now();
            let failure = match timeout_at(by, self.attempt(ask, pace, by)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let (metrics, label) = self.counted.parts();
                    metrics.upstream_request(label, Outcome::Timeout, asked.elapsed());
                    Failure {
                        outage: true,
                        ..Failure::from(Cause::Timeout(began.elapsed()))
                    }
                }
            };
            if let Some(outcome) = failure.cause.outcome() {
                let Counted { activity, label } = &self.counted;
                activity.trouble(label, outcome, &failure.cause.to_string());
            }
            let pause = failure.after.unwrap_or_else(|| pace.backoff(tried));
            // What answers at all does not fare better for being asked more.
            let enough = last
                || (tried >= pace.retries && matches!(failure.cause.essence(), Cause::Status(_)));
            if enough || !failure.cause.is_temporary() || Instant::now() + pause >= until {
                return Err(failure);
            }
            // Once says that it is slow, and why; how it ends is told as well.
            let level = match tried {
                0 => log::Level::Info,
                _ => log::Level::Debug,
            };
            log::log!(
                level,
                "{}/{}: {} is asked for {} again in {} ms: {}",
                self.registry,
                ask.name,
                self.base,
                ask.rest,
                pause.as_millis(),
                failure.cause
            );
            sleep(pause).await;
        }
        Err(Cause::Timeout(began.elapsed()).into())
    }

    /// One try: with the log-in that is asked for, and all redirects.
    async fn attempt(
        &self,
        ask: Ask<'_>,
        pace: &Pace,
        until: Instant,
    ) -> Result<Option<Answer>, Failure> {
        let permit = self.limiter.admit(until).await?;
        let name = rewritten(&self.rewrite, ask.name)
            .map_err(|name| Cause::Protocol(format!("{name} is too long for a name there")))?;
        let start = Url::parse(&format!("{}/v2/{name}/{}", self.base, ask.rest))
            .map_err(|error| Cause::Protocol(format!("{} is no address: {error}", self.base)))?;
        let scope = Scope::new(&name, ask.access);
        let mut authorization = self.authority.ready(&scope).await;
        let (mut challenges, mut anew) = (0, false);
        let reached = loop {
            let reached = self.follow(ask, &start, authorization.as_ref()).await?;
            let status = reached.response.status();
            match &reached.elsewhere {
                None if status == StatusCode::UNAUTHORIZED && challenges < CHALLENGES => {
                    challenges += 1;
                    let client = self.dialer.guarded(reached.reach)?;
                    let headers = reached.response.headers();
                    let refused = authorization.as_ref();
                    let answer = self
                        .authority
                        .answer(client, headers, &scope, refused, until)
                        .await
                        .map_err(|error| Failure {
                            outage: error.cause.essence().is_outage(),
                            after: error.cause.retry_after(),
                            cause: error.cause,
                        })?;
                    match answer {
                        Some(header) => authorization = Some(header),
                        None => return Err(Cause::Unauthorized(status.as_u16()).into()),
                    }
                    self.limiter.turn(until).await?;
                }
                // A signed address that has expired, or was for somebody else: the registry gives a fresh one.
                Some(_) if !anew && is_worth_another_address(status) => {
                    anew = true;
                    self.limiter.turn(until).await?;
                }
                _ => break reached,
            }
        };
        self.judged(ask, reached, permit, pace).await
    }

    /// Asks at `start` and wherever that leads. `authorization` goes to this endpoint and nowhere else.
    async fn follow(
        &self,
        ask: Ask<'_>,
        start: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Reached, Failure> {
        let method = match ask.want {
            Want::Head => Method::HEAD,
            Want::Stream(_) | Want::Whole(_) => Method::GET,
        };
        let origin = self.origin.as_ref().unwrap_or(start);
        let mut url = start.clone();
        let mut seen = Vec::new();
        let mut reach = Zone::Public;
        loop {
            let own = url.origin() == origin.origin();
            let elsewhere = (!own).then(|| {
                format!(
                    "where it redirects to, {}",
                    url.origin().ascii_serialization()
                )
            });
            let proxied = self.dialer.is_proxied(&url);
            if !own {
                guard::check(&url, origin, reach)?;
                if proxied {
                    guard::check_beyond_proxy(&url, reach).await?;
                }
            }
            let client = match own {
                true => self.dialer.direct()?,
                false => self.dialer.guarded(reach)?,
            };
            let mut request = client
                .request(method.clone(), url.clone())
                .header(ACCEPT_ENCODING, "identity");
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if let Want::Stream(from @ 1..) = ask.want {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = authorization.filter(|_| own) {
                request = request.header(AUTHORIZATION, authorization);
            }
            // Of a signed address the query is the key.
            let shown = format!(
                "{method} {}{}",
                url.origin().ascii_serialization(),
                url.path()
            );
            log::debug!("upstream {shown}");
            let sent = Instant::now();
            let sending = request.send().await;
            self.count(&sending, sent.elapsed());
            let response = sending.map_err(|error| {
                let cause = Cause::of_request(&error);
                match &elsewhere {
                    None => Failure {
                        outage: cause.is_outage(),
                        ..Failure::from(cause)
                    },
                    Some(at) => cause.at(at).into(),
                }
            })?;
            let status = response.status();
            log::debug!("upstream {shown}: {status}");
            if own {
                // Of a proxy's own address nothing follows.
                let met = response.remote_addr().filter(|_| !proxied);
                reach = guard::reach(met);
                let (metrics, label) = self.counted.parts();
                if let Some(quota) = self.gauge.read(&self.registry, response.headers()) {
                    metrics.pull_limit(label, quota.limit, quota.remaining);
                }
            }
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Reached {
                    response,
                    url,
                    reach,
                    elsewhere,
                });
            }
            let target = text(response.headers(), LOCATION);
            let target = target.and_then(|target| url.join(&target).ok());
            let Some(mut target) = target else {
                let why = format!("it answered {status} and does not say where to");
                return Err(Cause::Protocol(why).into());
            };
            target.set_fragment(None);
            seen.push(url);
            if seen.contains(&target) {
                let at = target.origin().ascii_serialization();
                return Err(Cause::Protocol(format!("it redirects in a circle, by {at}")).into());
            }
            if seen.len() > REDIRECTS {
                let why = format!("it redirects more than {REDIRECTS} times");
                return Err(Cause::Protocol(why).into());
            }
            url = target;
        }
    }

    fn count(&self, sending: &Result<Response, reqwest::Error>, took: Duration) {
        let outcome = match sending {
            Ok(response) => match response.status().as_u16() {
                100..=399 => Outcome::Answered,
                401 | 403 => Outcome::Unauthorized,
                404 => Outcome::Absent,
                429 => Outcome::RateLimited,
                _ => Outcome::Refused,
            },
            Err(error) => match Cause::of_request(error) {
                Cause::Unreachable(_) => Outcome::Unreachable,
                Cause::Timeout(_) => Outcome::Timeout,
                _ => Outcome::Broken,
            },
        };
        let (metrics, label) = self.counted.parts();
        metrics.upstream_request(label, outcome, took);
    }

    /// What an answer comes to.
    async fn judged(
        &self,
        ask: Ask<'_>,
        reached: Reached,
        permit: Permit,
        pace: &Pace,
    ) -> Result<Option<Answer>, Failure> {
        let Reached {
            response,
            url,
            elsewhere,
            ..
        } = reached;
        let status = response.status();
        if !status.is_success() {
            if elsewhere.is_none() && ask.effort.explained {
                return Err(refusal(response).await);
            }
            if status == StatusCode::NOT_FOUND && elsewhere.is_none() {
                return Ok(None);
            }
            let retry_after = text(response.headers(), RETRY_AFTER);
            let after = retry_after.as_deref().and_then(delay);
            let cause = match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if elsewhere.is_none() => {
                    Cause::Unauthorized(status.as_u16())
                }
                StatusCode::TOO_MANY_REQUESTS => Cause::RateLimited { retry_after },
                StatusCode::RANGE_NOT_SATISFIABLE => Cause::Protocol(
                    "it has nothing where the rest should be: its content has changed".to_owned(),
                ),
                status => Cause::Status(status.as_u16()),
            };
            let cause = match &elsewhere {
                Some(at) => cause.at(at),
                None => cause,
            };
            return Err(Failure {
                after,
                ..Failure::from(cause)
            });
        }
        let headers = response.headers().clone();
        refuse_foreign(&headers)?;
        let length = content_length(&headers);
        let silence = pace.silence;
        let (metrics, label) = self.counted.parts();
        let received = metrics.upstream_received(label);
        let content = match ask.want {
            Want::Head => Content::None,
            Want::Whole(limit) => {
                let expected = Expected {
                    skip: 0,
                    length,
                    silence,
                };
                let pieces = body::stream(response, expected, permit);
                let whole = body::whole(pieces, length, limit).await?;
                received.add(whole.len());
                Content::Whole(whole)
            }
            Want::Stream(from) => {
                let (size, expected) = extent(&response, from, silence)?;
                let body = body::stream(response, expected, permit);
                let body = body.inspect_ok(move |piece| received.add(piece.len()));
                Content::Stream {
                    size,
                    body: body.boxed(),
                }
            }
        };
        Ok(Some(Answer {
            headers,
            url,
            content,
        }))
    }
}

/// An answer that is no redirect.
struct Reached {
    response: Response,
    url: Url,
    /// How near the registry may lead us.
    reach: Zone,
    /// Whose answer it is, if not the endpoint's own.
    elsewhere: Option<String>,
}

/// A try that came to nothing.
pub(super) struct Failure {
    pub(super) cause: Cause,
    /// The endpoint could not be reached at all, or its token server.
    outage: bool,
    /// When to try again, if it says so.
    pub(super) after: Option<Duration>,
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Self {
            cause,
            outage: false,
            after: None,
        }
    }
}

/// Of an answer from where the registry redirected to.
fn is_worth_another_address(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 404 | 410) || status.is_server_error()
}

/// Log-ins tried for one request: with a token that went stale, and with a fresh one.
const CHALLENGES: usize = 2;

const REDIRECTS: usize = 5;

/// Between two looks whether somebody else has found it back.
const LOOK: Duration = Duration::from_millis(200);
