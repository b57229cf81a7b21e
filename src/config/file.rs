//! The YAML file: one mapping whose keys are the flags' names, but for `users`. It must not know
//! what the values mean.
//!
//! ```yaml
//! listen: 127.0.0.1:5000            # a list may be a single value
//! data: ../cache                    # relative to this file
//! registry:
//!   - quay.io=http://127.0.0.1:5001
//!   - registry.example.com
//!   - name: docker.io               # or a mapping, for all that a flag has no room for
//!     mirrors: [https://mirror.gcr.io]
//! offline: false
//! tag-ttl: 5m
//! users:                            # mappings, where all else is text
//!   - name: ci
//!     password-env: CI_PASSWORD
//!     access: write
//! ```

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Spanned, UserMessageFormatter, options::DuplicateKeyPolicy};

use super::{
    source::{ConfigError, Field, Given, Key, Origin, Place},
    spelling::nearest,
};
use crate::types::digest::shown;

/// Reads the file; `from` says who named it.
///
/// # Errors
/// The file cannot be read, is no YAML, or says something that no option can mean.
pub(super) fn read(from: &str, path: &str) -> Result<Place, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        from: from.to_owned(),
        path: PathBuf::from(path),
        source,
    };
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    let text = std::fs::read_to_string(&absolute).map_err(unreadable)?;
    parse(&Arc::from(absolute), &text)
}

/// Reads YAML as options have it. The error says what is wrong and where.
pub(super) fn document(text: &str) -> Result<Value, String> {
    // Only what YAML 1.2 calls a boolean or a number is anything but text: `data: on` names a directory.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.render_with_formatter(&UserMessageFormatter);
        format!("this is no YAML that can be read: {error}")
    })
}

fn parse(path: &Arc<Path>, text: &str) -> Result<Place, ConfigError> {
    let refuse = |problem| ConfigError::File {
        path: path.to_path_buf(),
        problem,
    };
    let entries = match document(text).map_err(refuse)? {
        Value::Map(entries) => entries,
        Value::Nothing => Vec::new(),
        Value::Text(_) | Value::Fraction | Value::List(_) => {
            let problem = "the file must be a mapping, one \"key: value\" to a line";
            return Err(refuse(problem.to_owned()));
        }
    };
    let mut place = Place::new();
    for (name, value) in entries {
        let line = name.referenced.line();
        let Some(key) = Key::ALL.into_iter().find(|key| key.in_file() == name.value) else {
            let names = Key::ALL.map(Key::in_file);
            let hint = match nearest(&name.value, names, 0) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("the keys are {}", names.join(", ")),
            };
            let name = shown(&name.value);
            return Err(refuse(format!("{name} in line {line} is no key: {hint}")));
        };
        let origin = Origin::in_file(key, path, line);
        let items = match value.value {
            Value::List(items) if key == Key::Listen && items.is_empty() => {
                return Err(origin.refuse("the list is empty: give at least one ADDRESS:PORT"));
            }
            Value::List(items) if key.is_list() => items,
            Value::List(_) => return Err(origin.refuse("takes one value, not a list")),
            single => vec![Spanned {
                value: single,
                ..value
            }],
        };
        let mut given = Vec::with_capacity(items.len());
        for item in items {
            let origin = Origin::in_file(key, path, item.referenced.line());
            let problem = match item.value {
                Value::Text(text) => {
                    given.push(Given {
                        text,
                        fields: Vec::new(),
                        origin,
                    });
                    continue;
                }
                Value::Map(entries) if matches!(key, Key::User | Key::Registry) => {
                    given.push(Given {
                        text: String::new(),
                        fields: fields(key, path, entries)?,
                        origin,
                    });
                    continue;
                }
                Value::Nothing => "there is no value: give one, or leave the key out",
                Value::Fraction => "YAML takes this for a number: put it in quotes",
                Value::List(_) => "there is a list within the list",
                Value::Map(_) => "there is a mapping: give plain text",
            };
            return Err(origin.refuse(problem));
        }
        if place.insert(key, given).is_some() {
            return Err(origin.refuse("the key is there twice"));
        }
    }
    Ok(place)
}

/// A mapping's entries, whose values are texts or lists of texts.
fn fields(
    key: Key,
    path: &Arc<Path>,
    entries: Vec<(Spanned<String>, Spanned<Value>)>,
) -> Result<Vec<Field>, ConfigError> {
    let field = |(name, value): (Spanned<String>, Spanned<Value>)| {
        let origin = Origin::in_file(key, path, name.referenced.line());
        let items = match value.value {
            Value::List(items) => items.into_iter().map(|item| item.value).collect(),
            single => vec![single],
        };
        let name = name.value;
        let values = items.into_iter().map(|item| match item {
            Value::Text(text) => Ok(text),
            Value::Fraction => {
                Err(origin.refuse(format!("YAML takes {name} for a number: put it in quotes")))
            }
            Value::Nothing | Value::List(_) | Value::Map(_) => {
                Err(origin.refuse(format!("{name} takes text, or a list of texts")))
            }
        });
        Ok(Field {
            values: values.collect::<Result<_, _>>()?,
            name,
            origin,
        })
    };
    entries.into_iter().map(field).collect()
}

/// A YAML value as far as options have one.
pub(super) enum Value {
    Nothing,
    /// Text, a boolean or a whole number.
    Text(String),
    /// A number whose spelling is lost: 1.10 would come out as 1.1.
    Fraction,
    List(Vec<Spanned<Value>>),
    Map(Vec<(Spanned<String>, Spanned<Value>)>),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a list of texts, or a mapping")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Fraction)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Place, ConfigError> {
        parse(&Arc::from(Path::new("FILE")), text)
    }

    #[test]
    fn files_that_are_refused() {
        for (file, fragments) in [
            (
                "a: 1\n\ntag_ttl: 5m\n",
                &["FILE: \"a\" in line 1 is no key", "tag-ttl"][..],
            ),
            (
                "\n\ntag_ttl: 5m\n",
                &["\"tag_ttl\" in line 3", "mean \"tag-ttl\"?"],
            ),
            (
                "registries: []\n",
                &["\"registries\"", "mean \"registry\"?"],
            ),
            ("Data: x\n", &["\"Data\"", "mean \"data\"?"]),
            ("san: [a,\n", &["FILE: this is no YAML", "line 1"]),
            (
                "data: a\n---\ndata: b\n",
                &["FILE: this is no YAML", "line 3"],
            ),
            ("- data\n", &["FILE", "must be a mapping"]),
            ("data\n", &["FILE", "must be a mapping"]),
            ("data: a\ndata: b\n", &["data in FILE, line 2", "twice"]),
            ("data: [a]\n", &["data in FILE, line 1", "not a list"]),
            ("data: {a: b}\n", &["data in FILE, line 1", "plain text"]),
            ("data: 1.10\n", &["data in FILE, line 1", "in quotes"]),
            ("data:\n", &["data in FILE, line 1", "no value"]),
            ("listen: []\n", &["listen in FILE, line 1", "ADDRESS:PORT"]),
            ("san:\n- a\n-\n", &["san in FILE, line 3", "no value"]),
            ("san:\n- a\n- [b]\n", &["san in FILE, line 3", "list"]),
        ] {
            let refusal = parsed(file).unwrap_err().to_string();
            for fragment in fragments {
                assert!(refusal.contains(fragment), "no {fragment} in: {refusal}");
            }
        }
    }

    #[test]
    fn values_stay_as_they_are_spelled() {
        for (text, expected) in [
            ("data: on", "on"),
            ("data: y", "y"),
            ("data: 0755", "0755"),
            ("data: 1_000", "1_000"),
            ("data: 12", "12"),
            ("data: true", "true"),
            ("data: \"1.10\"", "1.10"),
            ("data: \"\"", ""),
            ("data: a b # c", "a b"),
            ("data: >-\n  a\n  b\n", "a b"),
        ] {
            let place = parsed(text).unwrap();
            assert_eq!(place[&Key::Data][0].text, expected, "{text:?}");
        }
    }

    #[test]
    fn a_single_value_is_a_list_of_one_and_a_list_may_be_empty() {
        for (text, expected) in [
            ("san: a", &["a"][..]),
            ("san: [a, b]", &["a", "b"]),
            ("san:\n- a\n- b\n", &["a", "b"]),
            ("san: []", &[]),
        ] {
            let place = parsed(text).unwrap();
            let texts: Vec<&str> = place[&Key::San]
                .iter()
                .map(|given| given.text.as_str())
                .collect();
            assert_eq!(texts, expected, "{text:?}");
        }
    }
}
