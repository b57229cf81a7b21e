//! Users: from `--user`, `users:` in the file, and an htpasswd file, each name once.
//!
//! - They add up over flags, variable and file; under one name the stronger place's count.
//! - In the file several entries of one name add up to one user, so that each rule can have its own actions.
//! - An htpasswd file brings secrets. Its users may write everything unless `users:` has rules for them.
//! - No refusal repeats a secret, or a text that may be one.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::Path};

use super::{
    fields::Fields,
    source::{ConfigError, Given, Key, Origin, Sources},
};
use crate::{
    registry::access::{Action, Grant, Secret, User, UserName},
    types::{Pattern, RegistryHost, digest::shown},
};

/// All users, by name.
pub(super) fn users(
    sources: &Sources,
    is_registry: impl Fn(&RegistryHost) -> bool + Copy,
) -> Result<Vec<User>, ConfigError> {
    let mut drafts: BTreeMap<UserName, Draft> = BTreeMap::new();
    for place in sources.weakest_first(Key::User) {
        let mut here: BTreeMap<UserName, Draft> = BTreeMap::new();
        for given in place {
            let (name, draft) = match given.fields.is_empty() {
                true => plain(given)?,
                false => mapping(given, sources, is_registry)?,
            };
            match here.remove(&name) {
                None => here.insert(name, draft),
                Some(earlier) if given.fields.is_empty() => {
                    return Err(draft.origin.refuse(format!(
                        "user {name} is already given ({}): give each once",
                        earlier.origin
                    )));
                }
                Some(earlier) => {
                    let draft = earlier.with(draft, &name)?;
                    here.insert(name, draft)
                }
            };
        }
        drafts.extend(here);
    }
    if let Some(origin) = sources.origin(Key::Htpasswd) {
        let path = sources.one(Key::Htpasswd, |given| given.path(&given.text))?;
        for (name, secret) in htpasswd(path.as_deref().unwrap_or(Path::new("")), origin)? {
            let fresh = Draft {
                secret: Some(secret),
                grants: Vec::new(),
                origin: origin.clone(),
            };
            let draft = match drafts.remove(&name) {
                Some(rules) => fresh.with(rules, &name)?,
                None => Draft {
                    grants: vec![Grant::everywhere(Action::ALL)],
                    ..fresh
                },
            };
            drafts.insert(name, draft);
        }
    }
    let user = |(name, draft): (UserName, Draft)| {
        match draft.secret {
        Some(secret) => Ok(User {
            name,
            secret,
            grants: draft.grants,
        }),
        None => Err(draft.origin.refuse(format!(
            "user {name} has no password: give password, password-env or password-file, or an htpasswd file that has one"
        ))),
    }
    };
    drafts.into_iter().map(user).collect()
}

/// A user as far as it is known.
struct Draft {
    secret: Option<Secret>,
    grants: Vec<Grant>,
    origin: Origin,
}

impl Draft {
    /// Both as one; `other` came later.
    fn with(mut self, other: Self, name: &UserName) -> Result<Self, ConfigError> {
        if self.secret.is_some() && other.secret.is_some() {
            return Err(other.origin.refuse(format!(
                "user {name} already has a password ({}): give one",
                self.origin
            )));
        }
        self.secret = self.secret.or(other.secret);
        self.grants.extend(other.grants);
        Ok(self)
    }
}

/// `NAME:PASSWORD:read|write`; the password may hold colons.
fn plain(given: &Given) -> Result<(UserName, Draft), ConfigError> {
    let refuse = |problem: String| given.origin.refuse(problem);
    let form = || refuse("a user is given as NAME:PASSWORD:read or NAME:PASSWORD:write".to_owned());
    let (name, rest) = given.text.split_once(':').ok_or_else(form)?;
    let (password, access) = rest.rsplit_once(':').ok_or_else(form)?;
    let actions = actions_of(access).ok_or_else(form)?;
    let name: UserName = name.parse().map_err(|error| refuse(format!("{error}")))?;
    let secret =
        Secret::plain(password).map_err(|error| refuse(format!("user {name}: {error}")))?;
    let draft = Draft {
        secret: Some(secret),
        grants: vec![Grant::everywhere(actions.iter().copied())],
        origin: given.origin.clone(),
    };
    Ok((name, draft))
}

/// An entry of `users:`.
fn mapping(
    given: &Given,
    sources: &Sources,
    is_registry: impl Fn(&RegistryHost) -> bool + Copy,
) -> Result<(UserName, Draft), ConfigError> {
    let fields = Fields::of(given, FIELDS, "a user")?;
    let (field, name) = fields
        .one("name")?
        .ok_or_else(|| given.origin.refuse("the user has no name"))?;
    let name: UserName = name.parse().map_err(|error| field.origin.refuse(error))?;

    let secret = fields.password(sources, &format!("user {name}"))?;
    let secret = secret
        .map(|(field, password)| {
            Secret::plain(&password)
                .map_err(|error| field.origin.refuse(format!("user {name}: {error}")))
        })
        .transpose()?;

    let actions: Vec<Action> = match (fields.one("access")?, fields.list("actions")) {
        (Some((field, access)), None) => actions_of(access)
            .ok_or_else(|| {
                let access = shown(access);
                field
                    .origin
                    .refuse(format!("user {name}: {access} is neither read nor write"))
            })?
            .to_vec(),
        (None, Some(field)) if !field.values.is_empty() => field
            .values
            .iter()
            .map(|action| action.parse())
            .collect::<Result<_, _>>()
            .map_err(|error| field.origin.refuse(format!("user {name}: {error}")))?,
        _ => {
            return Err(given.origin.refuse(format!(
                "user {name}: say what the user may do, either \"access: read\" or \"access: write\", or \"actions:\" with \
                 some of pull, push and delete"
            )));
        }
    };
    let grant = match fields.list("repositories") {
        None => Grant::everywhere(actions),
        Some(field) if field.values.is_empty() => {
            return Err(field.origin.refuse(format!(
                "user {name}: the list of repositories is empty: leave it out to mean all"
            )));
        }
        Some(field) => {
            let patterns = field
                .values
                .iter()
                .map(|text| Pattern::parse(text, is_registry));
            let patterns: Vec<Pattern> = patterns
                .collect::<Result<_, _>>()
                .map_err(|error| field.origin.refuse(format!("user {name}: {error}")))?;
            Grant::on(patterns, actions)
        }
    };
    let draft = Draft {
        secret,
        grants: vec![grant],
        origin: given.origin.clone(),
    };
    Ok((name, draft))
}

/// The entries of an htpasswd file, which must all be bcrypt's.
fn htpasswd(path: &Path, origin: &Origin) -> Result<BTreeMap<UserName, Secret>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| origin.refuse(format!("{} cannot be read: {error}", path.display())))?;
    let mut entries = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refuse = |problem: String| {
            origin.refuse(format!("{}, line {}: {problem}", path.display(), at + 1))
        };
        let (name, hash) = line
            .split_once(':')
            .ok_or_else(|| refuse("there is no NAME:HASH".to_owned()))?;
        let name: UserName = name.parse().map_err(|error| refuse(format!("{error}")))?;
        let secret = Secret::bcrypt(hash.trim_end())
            .map_err(|error| refuse(format!("user {name}: {error}")))?;
        if entries.insert(name, secret).is_some() {
            return Err(refuse(
                "this user is already there: delete one of the lines".to_owned(),
            ));
        }
    }
    Ok(entries)
}

/// What the two words for a user's access stand for.
fn actions_of(access: &str) -> Option<&'static [Action]> {
    match access {
        "read" => Some(&[Action::Pull]),
        "write" => Some(&Action::ALL),
        _ => None,
    }
}

const FIELDS: [&str; 7] = [
    "name",
    "password",
    "password-env",
    "password-file",
    "access",
    "repositories",
    "actions",
];
