//! What is to be seeded: each text is a SOURCE, or names a YAML file that lists them.
//!
//! ```yaml
//! - oci-archive:base.tar                # a SOURCE, as on the command line; its path is relative to this file
//! - source: oci:layouts/base
//!   name: acme/base                     # what to call it, if not as the source does
//!   tags: [latest, "3"]
//!   platforms: [linux/amd64]            # of an index these only
//! - source: docker-archive:tools.tar
//!   layers: uncompressed                # as the archive has them; or gzip
//! ```

use std::{cell::Cell, fmt, path::Path, sync::Arc};

use serde_saphyr::Spanned;

use super::{
    Origin,
    file::{Value, document},
    source::{ConfigError, Given, Key, Sources},
    spelling::nearest,
};
use crate::{
    transfer::{Seed, Source},
    types::digest::shown,
};

/// All that `--seed` names, lists in place of the files that hold them.
pub(super) fn seeds(sources: &Sources) -> Result<Vec<Seed>, ConfigError> {
    let taken = Cell::new(false);
    let once = |given: &Given| {
        let seeds = parse(given)?;
        for seed in &seeds {
            if seed.reads_input() && taken.replace(true) {
                return Err(
                    "standard input can be read once: put one of the archives into a file"
                        .to_owned(),
                );
            }
        }
        Ok(seeds)
    };
    let lists = sources.list(Key::Seed, once)?;
    Ok(lists.into_iter().flatten().flatten().collect())
}

fn parse(given: &Given) -> Result<Vec<Seed>, String> {
    let text = given.text.as_str();
    let is_list = !text.contains(':') && (text.ends_with(".yaml") || text.ends_with(".yml"));
    if !is_list {
        return Ok(vec![Seed::parse(text, |path| given.path(path))?]);
    }
    let path = given.path(text)?;
    let failed = |problem: &dyn fmt::Display| format!("{}: {problem}", path.display());
    let content = std::fs::read_to_string(&path).map_err(|error| failed(&error))?;
    list(&Arc::from(path.as_path()), &content).map_err(|problem| failed(&problem))
}

/// The list of a file. The error says in which line.
fn list(path: &Arc<Path>, text: &str) -> Result<Vec<Seed>, String> {
    let Value::List(items) = document(text)? else {
        return Err(
            "the file must be a list, one \"- SOURCE\" or \"- source: SOURCE\" for each entry"
                .to_owned(),
        );
    };
    let mut seeds = Vec::with_capacity(items.len());
    for item in items {
        let line = item.referenced.line();
        let seed = match item.value {
            Value::Text(text) => {
                let given = at(path, line, text);
                Seed::parse(&given.text, |path| given.path(path))
            }
            Value::Map(entries) => mapping(path, line, entries),
            Value::Nothing | Value::Fraction | Value::List(_) => {
                Err("an entry is a SOURCE, or a mapping with the key source".to_owned())
            }
        };
        seeds.push(seed.map_err(|problem| match problem.starts_with("line ") {
            true => problem,
            false => format!("line {line}: {problem}"),
        })?);
    }
    Ok(seeds)
}

fn mapping(
    path: &Arc<Path>,
    line: u64,
    entries: Vec<(Spanned<String>, Spanned<Value>)>,
) -> Result<Seed, String> {
    let mut source = None;
    let mut seed = None;
    let mut seen: Vec<String> = Vec::new();
    // The rest is kept until the source is known, which may come last.
    let mut rest: Vec<(u64, String, Vec<String>)> = Vec::new();
    for (key, value) in entries {
        let at_line = key.referenced.line();
        let refuse = |problem: String| Err(format!("line {at_line}: {problem}"));
        let name = key.value;
        if !KEYS.contains(&name.as_str()) {
            let hint = match nearest(&name, KEYS, 0) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("the keys are {}", KEYS.join(", ")),
            };
            return refuse(format!("{} is no key: {hint}", shown(&name)));
        }
        if seen.contains(&name) {
            return refuse(format!("{name} is there twice"));
        }
        seen.push(name.clone());
        let is_list = matches!(value.value, Value::List(_));
        let texts = match texts(value.value) {
            Some(texts) if !is_list || matches!(name.as_str(), "tags" | "platforms") => texts,
            Some(_) => return refuse(format!("{name} takes one value, not a list")),
            None => {
                return refuse(format!(
                    "{name} takes text; what YAML takes for a number with a fraction is put in quotes"
                ));
            }
        };
        if name == "source" {
            source = texts.into_iter().next();
        } else {
            rest.push((at_line, name, texts));
        }
    }
    if let Some(text) = source {
        let given = at(path, line, text);
        seed = Some(Seed::new(Source::parse(&given.text, |path| {
            given.path(path)
        })?));
    }
    let Some(mut seed) = seed else {
        return Err("the entry has no source".to_owned());
    };
    for (line, name, texts) in rest {
        let field = set(&mut seed, &name, &texts);
        field.map_err(|problem| format!("line {line}: {name}: {problem}"))?;
    }
    let tagged = seed.name.as_ref().is_some_and(|name| name.tag.is_some());
    if tagged && !seed.tags.is_empty() {
        return Err(
            "the name has a tag, and tags gives others: write all of them there".to_owned(),
        );
    }
    Ok(seed)
}

fn set(seed: &mut Seed, key: &str, texts: &[String]) -> Result<(), String> {
    let first = texts.first().map_or("", String::as_str);
    match key {
        "name" => seed.name = Some(first.parse()?),
        "layers" => seed.layers = Some(first.parse()?),
        "tags" => {
            let tags = texts.iter().map(|text| text.parse());
            let tags = tags.collect::<Result<_, crate::types::InvalidReference>>();
            seed.tags = tags.map_err(|error| error.to_string())?;
        }
        _ => {
            let platforms = texts.iter().map(|text| text.parse());
            seed.platforms = platforms.collect::<Result<_, String>>()?;
        }
    }
    Ok(())
}

/// The value as texts, if it is one or a list of them.
fn texts(value: Value) -> Option<Vec<String>> {
    let items = match value {
        Value::List(items) => items.into_iter().map(|item| item.value).collect(),
        single => vec![single],
    };
    let text = |item| match item {
        Value::Text(text) => Some(text),
        Value::Nothing | Value::Fraction | Value::List(_) | Value::Map(_) => None,
    };
    items.into_iter().map(text).collect()
}

fn at(path: &Arc<Path>, line: u64, text: String) -> Given {
    Given {
        text,
        fields: Vec::new(),
        origin: Origin::in_file(Key::Seed, path, line),
    }
}

const KEYS: [&str; 5] = ["source", "name", "tags", "platforms", "layers"];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Seed>, String> {
        list(&Arc::from(Path::new("/lists/seed.yaml")), text)
    }

    #[test]
    fn lists_of_sources() {
        let seeds = read(
            "- oci:a:1=x/y\n\
             - name: acme/app\n  source: oci:../b\n  tags: [v1, latest]\n  platforms: linux/amd64\n",
        )
        .unwrap();
        let source = |dir: &str, tag: Option<&str>| Source::Layout {
            dir: dir.into(),
            tag: tag.map(|tag| tag.parse().unwrap()),
        };
        let expected = [
            Seed {
                name: Some("x/y".parse().unwrap()),
                ..Seed::new(source("/lists/a", Some("1")))
            },
            Seed {
                name: Some("acme/app".parse().unwrap()),
                tags: ["v1", "latest"].map(|tag| tag.parse().unwrap()).into(),
                platforms: vec!["linux/amd64".parse().unwrap()],
                ..Seed::new(source("/lists/../b", None))
            },
        ];
        assert_eq!(seeds, expected);
    }

    #[test]
    fn lists_that_are_refused() {
        for (text, fragment) in [
            ("a: b", "must be a list"),
            ("- a: b\n", "line 1: \"a\" is no key: the keys are source"),
            (
                "- source: oci:a\n  names: x\n",
                "line 2: \"names\" is no key: did you mean \"name\"?",
            ),
            ("- name: x\n", "line 1: the entry has no source"),
            ("- [x]\n", "line 1: an entry is a SOURCE"),
            ("- oci:a\n- dir:b\n", "line 2: \"dir:b\" cannot be seeded"),
            (
                "- source: oci:a\n  tags: [1.10]\n",
                "line 2: tags takes text",
            ),
            (
                "- source: oci:a\n  tags: [.x]\n",
                "line 2: tags: \".x\" is no tag",
            ),
            ("- source: [oci:a]\n", "takes one value"),
            ("- source: oci:a\n  platforms: amd64\n", "is no platform"),
            ("- source: oci:a\n  source: oci:b\n", "is there twice"),
            (
                "- source: oci:a\n  name: a:1\n  tags: 2\n",
                "the name has a tag",
            ),
            ("- {", "no YAML"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(fragment), "{text:?}: {error}");
        }
    }
}
