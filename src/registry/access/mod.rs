//! Who may do what. Knows users, tokens and repositories, and neither HTTP nor configuration.
//!
//! - Nobody needs to log in where no users are configured and the connection came to a loopback address. Elsewhere
//!   without users anyone reads, and to write takes the generated credential.
//! - With users anyone reads, unless some rule would be pointless then: one that lets a user pull and not push, or pull
//!   some repositories only.
//! - A request with a token is judged twice: the token's scope names the repository in the client's spelling, and the
//!   user's rules allow the canonical name. What a request does *besides* (a mount's source, what a manifest takes from
//!   the store, the catalog's entries) is judged by [`Identity::may`], the rules alone.
//! - What standin fetches with a log-in of its own is for clients on this machine and for users who may read it: see
//!   [`Access::keeping`].
//! - Where anyone may do a thing, credentials are not even looked at: a mirror is sent those of other registries.

mod key;
mod passwords;
mod private;
mod token;
mod user;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::SystemTime};

use super::Error;
use crate::types::{CanonicalName, RegistryHost, digest::shown};
use key::random_password;
use passwords::Passwords;
use private::Private;
use token::{Claims, Purpose, Tokens};

pub use key::{Key, KeyError};
pub use token::{BadToken, InvalidScope, Issued, NotSigned, Scope};
pub use user::{Action, Grant, InvalidUser, Secret, User, UserName};

/// Judges every request. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    parts: Arc<Parts>,
    private: Private,
}

struct Parts {
    passwords: Passwords,
    elsewhere: Anonymous,
    on_loopback: Anonymous,
    tokens: Tokens,
}

/// What may be done without a log-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Everything,
    Read,
    Nothing,
}

impl Anonymous {
    fn may(self, action: Action) -> bool {
        match self {
            Self::Everything => true,
            Self::Read => action == Action::Pull,
            Self::Nothing => false,
        }
    }
}

/// A credential that was made up at the start, for want of configured users.
#[derive(Clone)]
pub struct Generated {
    pub user: UserName,
    pub password: String,
}

/// Someone at the door: what they show, and whether the connection came to a loopback address.
#[derive(Clone, Copy)]
pub struct Visitor<'a> {
    pub credentials: Credentials<'a>,
    pub on_loopback: bool,
}

/// What a request brings to show who sent it. Never to be logged, so it has no `Debug`.
#[derive(Clone, Copy)]
pub enum Credentials<'a> {
    None,
    Password {
        user: &'a str,
        password: &'a str,
    },
    Token(&'a str),
    /// Good for fetching a token only.
    RefreshToken(&'a str),
    /// Something that can't be read.
    Malformed,
}

/// What a request wants of a repository.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub action: Action,
    pub name: &'a CanonicalName,
    /// The name in the client's spelling, which is the one that its token's scope has.
    pub spelled: &'a str,
}

/// Who sent a request, as far as it matters: the rules that apply.
#[derive(Clone)]
pub struct Identity {
    user: Option<Arc<User>>,
    anonymous: Anonymous,
    /// What is not for everyone; nothing on this machine.
    private: Private,
}

impl Identity {
    /// Whether the rules allow it, whatever a token's scope says. Nobody has less for having logged in.
    pub fn may(&self, action: Action, name: &CanonicalName) -> bool {
        let user = self.user.as_ref();
        self.anyone_may(action, name) || user.is_some_and(|user| user.may(action, name))
    }

    fn anyone_may(&self, action: Action, name: &CanonicalName) -> bool {
        self.anonymous.may(action)
            && (action != Action::Pull || !self.private.contains(name.source()))
    }

    /// The user who logged in, if any.
    pub fn user(&self) -> Option<&UserName> {
        self.user.as_deref().map(|user| &user.name)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("user", &self.user())
            .field("anonymous", &self.anonymous)
            .finish()
    }
}

impl Access {
    /// For `users`, whose tokens are signed with `key`.
    pub fn of_users(users: Vec<User>, key: Key) -> Result<Self, KeyError> {
        let reading_is_given = users.iter().any(User::is_given_to_read);
        let anonymous = match reading_is_given {
            true => Anonymous::Nothing,
            false => Anonymous::Read,
        };
        Self::new(users, key, anonymous, anonymous)
    }

    /// Without users, for listeners on loopback addresses: everyone may do everything.
    pub fn of_anyone() -> Result<Self, KeyError> {
        Self::new(
            Vec::new(),
            Key::random()?,
            Anonymous::Everything,
            Anonymous::Read,
        )
    }

    /// Without users, for listeners that others reach as well: a credential is made up for those who want to write.
    pub fn of_generated() -> Result<(Self, Generated), KeyError> {
        let password = random_password()?;
        let user = User::generated(&password);
        let access = Self::new(
            vec![user.clone()],
            Key::random()?,
            Anonymous::Everything,
            Anonymous::Read,
        )?;
        let user = user.name;
        Ok((access, Generated { user, password }))
    }

    /// Keeps the names of those `registries` that `is_private` says it of from whoever has not logged in, but for clients
    /// on this machine. It is asked at each request, and must not wait for anything.
    pub fn keeping(
        self,
        registries: impl IntoIterator<Item = RegistryHost>,
        is_private: impl Fn(&RegistryHost) -> bool + Send + Sync + 'static,
    ) -> Self {
        let private = Private::new(registries, is_private);
        Self { private, ..self }
    }

    fn new(
        users: Vec<User>,
        key: Key,
        on_loopback: Anonymous,
        elsewhere: Anonymous,
    ) -> Result<Self, KeyError> {
        let parts = Arc::new(Parts {
            passwords: Passwords::new(users)?,
            elsewhere,
            on_loopback,
            tokens: Tokens::new(key),
        });
        Ok(Self {
            parts,
            private: Private::default(),
        })
    }

    /// Lets the request pass, or says why not.
    pub async fn permit(
        &self,
        visitor: Visitor<'_>,
        wanted: Wanted<'_>,
    ) -> Result<Identity, Refusal> {
        let stranger = self.stranger(visitor);
        if stranger.may(wanted.action, wanted.name) {
            return Ok(stranger);
        }
        let (identity, claims) = self.identify(visitor).await?;
        if !identity.may(wanted.action, wanted.name) {
            let (action, name) = (wanted.action, wanted.name.clone());
            return Err(match identity.user() {
                None if stranger.anonymous.may(action) => Refusal::Private(name),
                None => Refusal::LogIn(format!("{action} of {name}")),
                Some(user) => Refusal::Denied {
                    user: user.clone(),
                    action,
                    name,
                },
            });
        }
        if let Some(claims) = claims
            && !claims
                .scopes
                .iter()
                .any(|scope| wanted.is_covered_by(scope))
        {
            return Err(Refusal::Scope {
                action: wanted.action,
                name: wanted.spelled.to_owned(),
            });
        }
        Ok(identity)
    }

    /// Lets a user pass who has logged in, to see whether logging in works. Where anyone may do anything, anyone passes.
    pub async fn log_in(&self, visitor: Visitor<'_>) -> Result<Identity, Refusal> {
        let stranger = self.stranger(visitor);
        if stranger.anonymous == Anonymous::Everything {
            return Ok(stranger);
        }
        let (identity, _) = self.identify(visitor).await?;
        match identity.user {
            Some(_) => Ok(identity),
            None => Err(Refusal::LogIn("this registry".to_owned())),
        }
    }

    /// Lets someone use the proxy: whoever came to a loopback address, elsewhere any user who gives the password.
    pub async fn admit(&self, visitor: Visitor<'_>) -> Result<(), Refusal> {
        if visitor.on_loopback {
            return Ok(());
        }
        match visitor.credentials {
            Credentials::Password { user, password } => {
                self.authenticate(user, password).await.map(drop)
            }
            Credentials::None => Err(Refusal::LogIn("the proxy".to_owned())),
            Credentials::Token(_) | Credentials::RefreshToken(_) | Credentials::Malformed => {
                Err(Refusal::Malformed)
            }
        }
    }

    /// Whoever sends a request that is judged by the rules alone, such as for the catalog. Where reading is for users
    /// only, someone has logged in.
    pub async fn reader(&self, visitor: Visitor<'_>) -> Result<Identity, Refusal> {
        let stranger = self.stranger(visitor);
        if !stranger.anonymous.may(Action::Pull) {
            return self.log_in(visitor).await;
        }
        if !stranger.private.is_empty()
            && let Ok((identity, _)) = self.identify(visitor).await
        {
            return Ok(identity);
        }
        Ok(stranger)
    }

    /// An access token for `scopes`; without any it says who has logged in and no more. `stay` asks for a refresh token
    /// as well.
    ///
    /// To read where anyone may read takes no log-in, and a wrong one does no harm: clients bring what they have. A right
    /// one counts where something is not for everyone.
    pub async fn issue(
        &self,
        visitor: Visitor<'_>,
        scopes: Vec<Scope>,
        stay: bool,
    ) -> Result<Issued, Error> {
        let now = SystemTime::now();
        let stranger = self.stranger(visitor);
        let anonymous = stranger.anonymous;
        let reads = !scopes.is_empty() && scopes.iter().all(Scope::is_pull);
        let tokens = &self.parts.tokens;
        let for_anyone =
            anonymous == Anonymous::Everything || (reads && anonymous.may(Action::Pull));
        if for_anyone && stranger.private.is_empty() {
            return Ok(tokens.access(None, scopes, now)?);
        }
        let user = match self.applicant(visitor.credentials).await {
            Ok(user) => user,
            Err(_) if for_anyone => return Ok(tokens.access(None, scopes, now)?),
            Err(refusal) => return Err(refusal.into()),
        };
        let mut issued = tokens.access(Some(&user), scopes, now)?;
        issued.refresh_token = match visitor.credentials {
            Credentials::RefreshToken(token) => Some(token.to_owned()),
            _ if stay => Some(tokens.refresh(&user, now)?),
            _ => None,
        };
        Ok(issued)
    }

    /// Whoever asks for a token.
    async fn applicant(&self, credentials: Credentials<'_>) -> Result<Arc<User>, Refusal> {
        match credentials {
            Credentials::None => Err(Refusal::LogIn("this".to_owned())),
            Credentials::Password { user, password } => self.authenticate(user, password).await,
            Credentials::RefreshToken(token) => {
                let claims = self.claims(token, Purpose::Refresh)?;
                self.holder(&claims)?.ok_or(Refusal::Token(BadToken::Stale))
            }
            Credentials::Token(_) | Credentials::Malformed => Err(Refusal::Malformed),
        }
    }

    /// One sentence for the log: what may be done without a log-in.
    pub fn summary(&self) -> String {
        let users: Vec<&str> = self.parts.passwords.names().map(UserName::as_str).collect();
        match (self.parts.on_loopback, self.parts.elsewhere) {
            (Anonymous::Everything, _) if users.is_empty() => {
                "no users are configured: whoever reaches this registry may read and write"
                    .to_owned()
            }
            (Anonymous::Everything, _) => format!(
                "no users are configured: whoever is on this machine may read and write, others may read, and write as \
                 {}",
                users.join(", ")
            ),
            (_, Anonymous::Nothing) => format!(
                "reading and writing need a log-in, since some rule is about who may read; users: {}",
                users.join(", ")
            ),
            (_, Anonymous::Read | Anonymous::Everything) => format!(
                "anyone may read, writing needs a log-in; users: {}",
                users.join(", ")
            ),
        }
    }

    /// The visitor before anything is known but the way that led here.
    fn stranger(&self, visitor: Visitor<'_>) -> Identity {
        Identity {
            user: None,
            anonymous: match visitor.on_loopback {
                true => self.parts.on_loopback,
                false => self.parts.elsewhere,
            },
            private: match visitor.on_loopback {
                true => Private::default(),
                false => self.private.clone(),
            },
        }
    }

    /// Who the visitor is, and if a token says so, what else it says.
    async fn identify(&self, visitor: Visitor<'_>) -> Result<(Identity, Option<Claims>), Refusal> {
        let (user, claims) = match visitor.credentials {
            Credentials::None => (None, None),
            Credentials::Password { user, password } => {
                (Some(self.authenticate(user, password).await?), None)
            }
            Credentials::Token(token) => {
                let claims = self.claims(token, Purpose::Access)?;
                (self.holder(&claims)?, Some(claims))
            }
            Credentials::RefreshToken(_) | Credentials::Malformed => {
                return Err(Refusal::Malformed);
            }
        };
        let stranger = self.stranger(visitor);
        Ok((Identity { user, ..stranger }, claims))
    }

    fn claims(&self, token: &str, purpose: Purpose) -> Result<Claims, Refusal> {
        let read = self.parts.tokens.read(token, purpose, SystemTime::now());
        read.map_err(Refusal::Token)
    }

    /// The user that a token was given to, who must still be one; nobody holds an anonymous token.
    fn holder(&self, claims: &Claims) -> Result<Option<Arc<User>>, Refusal> {
        let Some(name) = &claims.user else {
            return Ok(None);
        };
        let user = self.parts.passwords.user(name);
        match user.filter(|user| claims.is_of(user, &self.parts.tokens.key)) {
            Some(user) => Ok(Some(Arc::clone(user))),
            None => Err(Refusal::Token(BadToken::Stale)),
        }
    }

    async fn authenticate(&self, name: &str, password: &str) -> Result<Arc<User>, Refusal> {
        let user = self.parts.passwords.check(name, password).await;
        user.ok_or_else(|| Refusal::WrongPassword { user: shown(name) })
    }
}

impl Wanted<'_> {
    /// A client whose mirror's URL ends in a registry's name leaves that out of its scopes.
    fn is_covered_by(&self, scope: &Scope) -> bool {
        let source = self.name.source().component();
        let stripped = self.spelled.split_once('/').filter(|(first, _)| {
            RegistryHost::from_component(first).is_some_and(|host| host.component() == source)
        });
        let without_source = stripped.map_or(self.spelled, |(_, rest)| rest);
        scope.covers(self.action, &[self.spelled, without_source])
    }
}

/// Why a request is refused for the sake of whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody has logged in.
    #[error("{0} needs a log-in (docker login) as a user of this registry")]
    LogIn(String),
    /// It may be among what anyone may read only here.
    #[error(
        "{0} needs a log-in (docker login) as a user of this registry: standin itself is logged in at {source}, and gives \
         what may be private there to clients on its own machine and to users; public: true for {source} in its \
         configuration gives it to everyone",
        source = .0.source()
    )]
    Private(CanonicalName),
    /// The user's name, quoted, is for the log.
    #[error("wrong user name or password")]
    WrongPassword { user: String },
    #[error(
        "the credentials can't be read: send Basic with USER:PASSWORD, or Bearer with a token of this registry"
    )]
    Malformed,
    #[error("the token {0}: fetch a new one")]
    Token(BadToken),
    /// The rules would allow it.
    #[error("the token is not for {action} of {name}: fetch one whose scope is")]
    Scope { action: Action, name: String },
    /// No log-in of this user will help.
    #[error(
        "user {user:?} may not {action} {name}: no rule of that user's gives {action} there (see --user, and users in the \
         configuration file)",
        user = .user.as_str()
    )]
    Denied {
        user: UserName,
        action: Action,
        name: CanonicalName,
    },
}
