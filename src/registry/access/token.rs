//! Tokens: signed statements of who asked for what, and until when. What the holder may do is not decided here.
//!
//! - An access token carries the scopes as they were asked for. Whether the user's rules allow them is judged at each
//!   request, so a token never gives more than the rules do at that moment.
//! - A user's token is bound to the user's secret by a keyed hash: it ends when the secret changes.
//! - A refresh token buys access tokens and nothing else, an access token no others.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::{
    key::{Key, same},
    user::{Action, User},
};
use crate::types::digest::shown;

/// One `scope` of a token request: `repository:NAME:pull,push`.
///
/// <https://distribution.github.io/distribution/spec/auth/scope/>
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

impl Scope {
    /// Whether it asks for nothing but to read a repository.
    pub(super) fn is_pull(&self) -> bool {
        self.kind == REPOSITORY && self.actions.iter().all(|action| action == "pull")
    }

    /// Whether it is for `action` on the repository that goes by any of `names`.
    pub(super) fn covers(&self, action: Action, names: &[&str]) -> bool {
        let wanted = action.as_str();
        self.kind == REPOSITORY
            && names.contains(&self.name.as_str())
            && self
                .actions
                .iter()
                .any(|given| given == wanted || given == "*")
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(s: &str) -> Result<Self, InvalidScope> {
        let invalid = || InvalidScope(shown(s));
        // A name may hold a host's port, so it ends with the last colon.
        let (kind, rest) = s.split_once(':').ok_or_else(invalid)?;
        let (name, actions) = rest.rsplit_once(':').ok_or_else(invalid)?;
        // `repository(plugin)` is a repository.
        let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
        if kind.is_empty() || name.is_empty() {
            return Err(invalid());
        }
        let actions = actions.split(',').filter(|action| !action.is_empty());
        Ok(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.map(str::to_owned).collect(),
        })
    }
}

/// Not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no scope: it is written repository:NAME:pull,push")]
pub struct InvalidScope(String);

/// A token that was made, and for how long it is good.
#[derive(Clone, Debug)]
pub struct Issued {
    pub token: String,
    pub issued_at: SystemTime,
    pub expires_in: Duration,
    /// Given to a user who asked to stay logged in.
    pub refresh_token: Option<String>,
}

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    /// The user; nobody in an anonymous token.
    #[serde(rename = "sub", default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    /// Which of the user's secrets it was given for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(rename = "use")]
    purpose: Purpose,
    #[serde(rename = "access", default)]
    pub(super) scopes: Vec<Scope>,
    #[serde(rename = "iat")]
    issued_at: u64,
    #[serde(rename = "exp")]
    expires_at: u64,
}

impl Claims {
    /// Whether it was given to this user under the secret that the user has now.
    pub(super) fn is_of(&self, user: &User, key: &Key) -> bool {
        let bound = self.secret.as_deref().unwrap_or_default();
        same(bound, &user.fingerprint(key).hex())
    }
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Purpose {
    Access,
    Refresh,
}

/// Makes and reads tokens.
pub(super) struct Tokens {
    pub(super) key: Key,
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
}

impl Tokens {
    pub(super) fn new(key: Key) -> Self {
        let mut validation = Validation::new(ALGORITHM);
        // Judged in `read`, against the clock the caller names.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        Self {
            signing: EncodingKey::from_secret(key.bytes()),
            verifying: DecodingKey::from_secret(key.bytes()),
            validation,
            key,
        }
    }

    /// An access token for `user`, or for nobody in particular.
    pub(super) fn access(
        &self,
        user: Option<&User>,
        scopes: Vec<Scope>,
        now: SystemTime,
    ) -> Result<Issued, NotSigned> {
        Ok(Issued {
            token: self.sign(user, Purpose::Access, scopes, now, ACCESS_LIFE)?,
            issued_at: now,
            expires_in: ACCESS_LIFE,
            refresh_token: None,
        })
    }

    /// What a user who stays logged in shows in place of the password.
    pub(super) fn refresh(&self, user: &User, now: SystemTime) -> Result<String, NotSigned> {
        self.sign(Some(user), Purpose::Refresh, Vec::new(), now, REFRESH_LIFE)
    }

    fn sign(
        &self,
        user: Option<&User>,
        purpose: Purpose,
        scopes: Vec<Scope>,
        now: SystemTime,
        life: Duration,
    ) -> Result<String, NotSigned> {
        let claims = Claims {
            user: user.map(|user| user.name.to_string()),
            secret: user.map(|user| user.fingerprint(&self.key).hex()),
            purpose,
            scopes,
            issued_at: seconds(now),
            expires_at: seconds(now + life),
        };
        jsonwebtoken::encode(&Header::new(ALGORITHM), &claims, &self.signing)
            .map_err(|error| NotSigned(error.to_string()))
    }

    /// What a token says, if it is one of ours for that purpose and has not ended.
    pub(super) fn read(
        &self,
        token: &str,
        purpose: Purpose,
        now: SystemTime,
    ) -> Result<Claims, BadToken> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, &self.validation)
            .map_err(|_| BadToken::Foreign)?
            .claims;
        if claims.purpose != purpose {
            return Err(BadToken::Purpose);
        }
        if seconds(now) >= claims.expires_at {
            return Err(BadToken::Expired);
        }
        Ok(claims)
    }
}

/// Why a token is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("is none of this registry's")]
    Foreign,
    #[error("is not for this purpose")]
    Purpose,
    #[error("has expired")]
    Expired,
    #[error("is of a user who is gone or has a new password")]
    Stale,
}

/// The signature could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token can't be signed: {0}")]
pub struct NotSigned(String);

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

const ALGORITHM: Algorithm = Algorithm::HS256;
const REPOSITORY: &str = "repository";

/// Long enough for any push, since clients such as docker do not fetch a new one halfway through a blob.
const ACCESS_LIFE: Duration = Duration::from_secs(60 * 60);

/// As long as the certificate authority lives: whoever still trusts this registry is still logged in.
const REFRESH_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
