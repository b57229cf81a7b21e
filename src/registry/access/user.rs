//! Users: their names, their secrets, and what their rules let them do. Knows no tokens and no requests.
//!
//! A secret leaves this file only as a keyed hash or as the answer to "is this the password?", and its `Debug` is empty.

use std::{collections::BTreeSet, fmt, str::FromStr};

use subtle::ConstantTimeEq as _;

use super::key::{Key, Tag};
use crate::types::{CanonicalName, Pattern, digest::shown};

/// What can be done to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// The word that rules and token scopes have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

impl FromStr for Action {
    type Err = InvalidUser;

    fn from_str(s: &str) -> Result<Self, InvalidUser> {
        Self::ALL
            .into_iter()
            .find(|action| action.as_str() == s)
            .ok_or_else(|| InvalidUser::Action(shown(s)))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Actions on some repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `None` stands for all.
    repositories: Option<Vec<Pattern>>,
    actions: BTreeSet<Action>,
}

impl Grant {
    /// `actions` on the repositories that match any of the patterns.
    pub fn on(repositories: Vec<Pattern>, actions: impl IntoIterator<Item = Action>) -> Self {
        let all = repositories.iter().any(Pattern::is_all);
        Self {
            repositories: (!all).then_some(repositories),
            actions: actions.into_iter().collect(),
        }
    }

    /// `actions` on every repository.
    pub fn everywhere(actions: impl IntoIterator<Item = Action>) -> Self {
        Self {
            repositories: None,
            actions: actions.into_iter().collect(),
        }
    }

    fn allows(&self, action: Action, name: &CanonicalName) -> bool {
        self.actions.contains(&action)
            && self
                .repositories
                .as_ref()
                .is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(name)))
    }

    /// Whether this grant would be without effect if anyone could read everything.
    fn makes_reading_a_privilege(&self) -> bool {
        let reads = self.actions.contains(&Action::Pull);
        reads && (self.repositories.is_some() || !self.actions.contains(&Action::Push))
    }
}

/// The name of a user: 1 to 255 bytes without colons, which end a name in Basic, and without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(Box<str>);

impl UserName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = InvalidUser;

    fn from_str(s: &str) -> Result<Self, InvalidUser> {
        if s.is_empty() || s.len() > 255 || s.contains(|c: char| c == ':' || c.is_control()) {
            return Err(InvalidUser::Name(shown(s)));
        }
        Ok(Self(s.into()))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for UserName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A password, or what `htpasswd -B` made of one.
#[derive(Clone)]
pub struct Secret(Kind);

#[derive(Clone)]
enum Kind {
    Plain(Box<str>),
    Bcrypt { hash: Box<str>, cost: u32 },
}

impl Secret {
    /// The password itself.
    pub fn plain(password: &str) -> Result<Self, InvalidUser> {
        if password.is_empty() {
            return Err(InvalidUser::EmptyPassword);
        }
        Ok(Self(Kind::Plain(password.into())))
    }

    /// A bcrypt hash as htpasswd files hold it.
    pub fn bcrypt(hash: &str) -> Result<Self, InvalidUser> {
        let parts: bcrypt::HashParts = hash.parse().map_err(|_| InvalidUser::NotBcrypt)?;
        match parts.get_cost() {
            cost @ 4..=DEAREST => Ok(Self(Kind::Bcrypt {
                hash: hash.into(),
                cost,
            })),
            cost => Err(InvalidUser::Cost(cost)),
        }
    }

    /// What it takes to check a password against it: the logarithm of bcrypt's rounds, if it is a hash.
    pub(super) fn cost(&self) -> Option<u32> {
        match &self.0 {
            Kind::Plain(_) => None,
            Kind::Bcrypt { cost, .. } => Some(*cost),
        }
    }

    /// The password itself, if it is known.
    pub(super) fn password(&self) -> Option<&str> {
        match &self.0 {
            Kind::Plain(password) => Some(password),
            Kind::Bcrypt { .. } => None,
        }
    }

    /// Whether the hash is one of `password`. Takes its time: as much as bcrypt's rounds need.
    pub(super) fn is_hash_of(&self, password: &str) -> bool {
        match &self.0 {
            Kind::Plain(_) => false,
            Kind::Bcrypt { hash, .. } => bcrypt::verify(password, hash).unwrap_or(false),
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Kind::Plain(password) => password.as_bytes(),
            Kind::Bcrypt { hash, .. } => hash.as_bytes(),
        }
    }
}

/// Takes as long as checking `password` against hashes does whose rounds add up to those between the two costs.
pub(super) fn waste(password: &str, costs: std::ops::Range<u32>) {
    let bytes = password.as_bytes();
    let mut padded = bytes[..bytes.len().min(71)].to_vec();
    padded.push(0);
    for cost in costs {
        std::hint::black_box(bcrypt::bcrypt(cost, [0; 16], &padded));
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.bytes().ct_eq(other.bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Who may log in, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: UserName,
    pub secret: Secret,
    /// What any of them gives is given.
    pub grants: Vec<Grant>,
}

impl User {
    /// The one that stands in for configured users.
    pub(super) fn generated(password: &str) -> Self {
        Self {
            name: UserName("standin".into()),
            secret: Secret(Kind::Plain(password.into())),
            grants: vec![Grant::everywhere(Action::ALL)],
        }
    }

    pub(super) fn may(&self, action: Action, name: &CanonicalName) -> bool {
        self.grants.iter().any(|grant| grant.allows(action, name))
    }

    /// Whether some rule of this user's would be pointless if reading needed no log-in.
    pub(super) fn is_given_to_read(&self) -> bool {
        self.grants.iter().any(Grant::makes_reading_a_privilege)
    }

    /// Tells secrets apart without telling them.
    pub(super) fn fingerprint(&self, key: &Key) -> Tag {
        key.tag(&[
            b"secret",
            self.name.as_str().as_bytes(),
            self.secret.bytes(),
        ])
    }
}

/// Not a user; the text says what would be right and never repeats a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUser {
    #[error("{0} is no user name: it has 1 to 255 bytes, no colon and no control character")]
    Name(String),
    #[error("{0} is no action: pull, push or delete")]
    Action(String),
    #[error("the password is empty")]
    EmptyPassword,
    #[error("the hash is none of bcrypt's: make it with htpasswd -B")]
    NotBcrypt,
    #[error(
        "the hash has a cost of {0}, and only 4 to {DEAREST} are taken: make it with htpasswd -B -C 10"
    )]
    Cost(u32),
}

/// `htpasswd` itself goes no further. A check takes some seconds by then.
const DEAREST: u32 = 17;
