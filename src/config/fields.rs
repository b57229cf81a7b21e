//! The entries of a mapping in the file: each known, each once, and secrets from where they are said to be.

use std::{collections::BTreeMap, fmt};

use super::{
    source::{ConfigError, Field, Given, Sources},
    spelling::nearest,
};
use crate::types::digest::shown;

/// A mapping's entries, by name.
pub(super) struct Fields<'a> {
    given: &'a Given,
    by_name: BTreeMap<&'a str, &'a Field>,
}

impl<'a> Fields<'a> {
    /// `whose` is what the mapping describes: "a user".
    pub(super) fn of<const N: usize>(
        given: &'a Given,
        known: [&'static str; N],
        whose: &str,
    ) -> Result<Self, ConfigError> {
        let mut by_name: BTreeMap<&str, &Field> = BTreeMap::new();
        for field in &given.fields {
            let Some(name) = known.into_iter().find(|known| *known == field.name) else {
                let hint = match nearest(&field.name, known, 0) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => format!("{whose} has {}", known.join(", ")),
                };
                let name = shown(&field.name);
                return Err(field
                    .origin
                    .refuse(format!("{name} is nothing {whose} has: {hint}")));
            };
            if by_name.insert(name, field).is_some() {
                return Err(field.origin.refuse(format!("{name} is there twice")));
            }
        }
        Ok(Self { given, by_name })
    }

    /// An entry that may be a list.
    pub(super) fn list(&self, name: &str) -> Option<&'a Field> {
        self.by_name.get(name).copied()
    }

    /// An entry that is one value, and its text.
    pub(super) fn one(&self, name: &str) -> Result<Option<(&'a Field, &'a str)>, ConfigError> {
        match self.list(name) {
            None => Ok(None),
            Some(field) => match field.values.as_slice() {
                [value] => Ok(Some((field, value.as_str()))),
                _ => Err(field.origin.refuse(format!("{name} takes one value"))),
            },
        }
    }

    /// An entry that is one value, parsed. A refusal is about `whom`: "user ci".
    pub(super) fn parsed<T, E: fmt::Display>(
        &self,
        name: &str,
        whom: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ConfigError> {
        self.one(name)?
            .map(|(field, text)| {
                parse(text)
                    .map_err(|problem| field.origin.refuse(format!("{whom}, {name}: {problem}")))
            })
            .transpose()
    }

    /// What the file has that an entry names.
    pub(super) fn file(
        &self,
        name: &str,
        whom: &str,
    ) -> Result<Option<(&'a Field, Vec<u8>)>, ConfigError> {
        let Some((field, text)) = self.one(name)? else {
            return Ok(None);
        };
        let refuse = |problem: String| field.origin.refuse(format!("{whom}: {problem}"));
        let path = self.given.path(text).map_err(refuse)?;
        let bytes = std::fs::read(&path)
            .map_err(|error| refuse(format!("{} cannot be read: {error}", path.display())))?;
        Ok(Some((field, bytes)))
    }

    /// The one of `password`, `password-env` and `password-file` that is there.
    pub(super) fn password(
        &self,
        sources: &Sources,
        whom: &str,
    ) -> Result<Option<(&'a Field, String)>, ConfigError> {
        let secrets = [
            self.one("password")?,
            self.one("password-env")?,
            self.one("password-file")?,
        ];
        match secrets {
            [None, None, None] => Ok(None),
            [Some((field, password)), None, None] => Ok(Some((field, password.to_owned()))),
            [None, Some((field, variable)), None] => {
                let named = shown(variable);
                let value = sources.ambient(variable).ok_or_else(|| {
                    field.origin.refuse(format!(
                        "{whom}: the variable {named} is not set, or is empty"
                    ))
                })?;
                let text = value.to_str().ok_or_else(|| {
                    field.origin.refuse(format!(
                        "{whom}: the value of the variable {named} is not UTF-8"
                    ))
                })?;
                Ok(Some((field, text.to_owned())))
            }
            [None, None, Some(_)] => {
                let Some((field, bytes)) = self.file("password-file", whom)? else {
                    return Ok(None);
                };
                let text = String::from_utf8(bytes).map_err(|_| {
                    field
                        .origin
                        .refuse(format!("{whom}: the file is not UTF-8"))
                })?;
                let line = text.strip_suffix('\n').unwrap_or(&text);
                let line = line.strip_suffix('\r').unwrap_or(line);
                Ok(Some((field, line.to_owned())))
            }
            _ => Err(self.given.origin.refuse(format!(
                "{whom}: give one of password, password-env and password-file"
            ))),
        }
    }
}
