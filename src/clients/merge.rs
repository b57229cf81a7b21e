//! Other people's JSON and TOML, edited by structure: what is not ours keeps its place, its form and its comments.

use serde::Serialize as _;
use serde_json::{Map, Value, ser::PrettyFormatter};
use toml_edit::{DocumentMut, Item, TableLike};

/// Reads a JSON object; nothing at all is an empty one. A byte order mark before it is nothing: docker takes one.
pub(super) fn json(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("it holds JSON, but no object: { … } belongs here".to_owned()),
        Err(error) => Err(format!("it is no valid JSON: {error}")),
    }
}

/// Writes it as people do, indented, and with line ends and a byte order mark, as `like` is.
pub(super) fn json_text(object: &Map<String, Value>, like: &[u8]) -> Vec<u8> {
    let indent: Vec<u8> = String::from_utf8_lossy(like)
        .lines()
        .find(|line| line.starts_with([' ', '\t']))
        .map(|line| {
            line.bytes()
                .take_while(|b| matches!(b, b' ' | b'\t'))
                .collect()
        })
        .unwrap_or_else(|| b"  ".to_vec());
    let mut text = Vec::new();
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(&indent));
    // Into memory, from values that are JSON already.
    let _ = object.serialize(&mut serializer);
    text.push(b'\n');
    if like.windows(2).any(|pair| pair == b"\r\n") {
        // Within a string it would be escaped.
        let lines = text.split_inclusive(|b| *b == b'\n');
        text = lines
            .flat_map(|line| [&line[..line.len() - 1], b"\r\n"].concat())
            .collect();
    }
    if like.starts_with(BYTE_ORDER_MARK) {
        text.splice(..0, BYTE_ORDER_MARK.iter().copied());
    }
    text
}

/// Reads a TOML file.
pub(super) fn toml(bytes: &[u8]) -> Result<DocumentMut, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    text.parse::<DocumentMut>()
        .map_err(|error| format!("it is no valid TOML: {}", error.to_string().trim_end()))
}

/// A TOML string, with its quotes.
pub(super) fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

/// Takes out of `current` what was changed from `before` to `after`, if nobody has changed those very things since.
/// `None` if nothing but ours was in it.
///
/// # Errors
/// The name of the first thing that somebody did change.
pub(super) fn take_out(
    name: &str,
    before: Option<&[u8]>,
    after: &[u8],
    current: &[u8],
) -> Result<Option<Vec<u8>>, String> {
    let whole = |_| "it".to_owned();
    if name.ends_with(".json") {
        let mut now = json(current).map_err(whole)?;
        let was = json(before.unwrap_or_default()).map_err(whole)?;
        take_out_json(&mut now, &was, &json(after).map_err(whole)?)?;
        return Ok((before.is_some() || !now.is_empty()).then(|| json_text(&now, current)));
    }
    if name.ends_with(".toml") || name.ends_with(".conf") {
        let mut now = toml(current).map_err(whole)?;
        let was = toml(before.unwrap_or_default()).map_err(whole)?;
        let after = toml(after).map_err(whole)?;
        take_out_toml(now.as_table_mut(), Some(was.as_table()), after.as_table())?;
        let text = now.to_string();
        return Ok((before.is_some() || !text.trim().is_empty()).then(|| text.into_bytes()));
    }
    Err("it".to_owned())
}

fn take_out_json(
    now: &mut Map<String, Value>,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> Result<(), String> {
    for (key, ours) in after {
        let was = before.get(key);
        if was == Some(ours) {
            continue;
        }
        match now.get_mut(key) {
            None if was.is_none() => {}
            current if current.as_deref() == was => {}
            // An empty list holds nothing of ours: docker has to read one to forget a mirror.
            Some(current) if current == ours || current == &Value::Array(Vec::new()) => match was {
                Some(was) => *current = was.clone(),
                None => {
                    now.shift_remove(key);
                }
            },
            Some(Value::Object(current)) if ours.is_object() => {
                let none = Map::new();
                let was = was.and_then(Value::as_object).unwrap_or(&none);
                take_out_json(current, was, ours.as_object().unwrap_or(&none))?;
            }
            _ => return Err(format!("{key:?}")),
        }
    }
    Ok(())
}

fn take_out_toml(
    now: &mut dyn TableLike,
    before: Option<&dyn TableLike>,
    after: &dyn TableLike,
) -> Result<(), String> {
    // Where the comments around a thing stand is not what it says.
    let same = |a: &Item, b: &Item| a.to_string().trim() == b.to_string().trim();
    for (key, ours) in after.iter() {
        let was = before.and_then(|before| before.get(key));
        if was.is_some_and(|was| same(was, ours)) {
            continue;
        }
        let Some(current) = now.get_mut(key) else {
            match was {
                None => continue,
                Some(_) => return Err(key.to_owned()),
            }
        };
        if same(current, ours) {
            match was {
                Some(was) => *current = was.clone(),
                None => {
                    now.remove(key);
                }
            }
            continue;
        }
        if was.is_some_and(|was| same(was, current)) {
            continue;
        }
        let (Some(table), Some(ours)) = (current.as_table_like_mut(), ours.as_table_like()) else {
            return Err(key.to_owned());
        };
        take_out_toml(table, was.and_then(Item::as_table_like), ours)
            .map_err(|inner| format!("{key}.{inner}"))?;
        if was.is_none() && table.is_empty() {
            now.remove(key);
        }
    }
    Ok(())
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn out(name: &str, before: &str, after: &str, current: &str) -> Result<Option<String>, String> {
        let before = (before != "-").then_some(before.as_bytes());
        take_out(name, before, after.as_bytes(), current.as_bytes())
            .map(|text| text.map(|text| String::from_utf8(text).unwrap()))
    }

    #[test]
    fn what_is_ours_is_taken_out_of_json_and_the_rest_stays() {
        for (before, after, current, expected) in [
            // Somebody added a key.
            (
                "-",
                r#"{"m":["a"]}"#,
                r#"{"m":["a"],"x":1}"#,
                Some(r#"{"x":1}"#),
            ),
            // Somebody removed ours.
            ("-", r#"{"m":["a"]}"#, r#"{"x":1}"#, Some(r#"{"x":1}"#)),
            ("-", r#"{"m":["a"]}"#, "{}", None),
            ("-", r#"{"m":["a"]}"#, r#"{"m":[]}"#, None),
            // Theirs comes back, in its place.
            (
                r#"{"m":["b"],"y":2}"#,
                r#"{"m":["a","b"],"y":2}"#,
                r#"{"m":["a","b"],"y":3}"#,
                Some(r#"{"m":["b"],"y":3}"#),
            ),
            // Inside an object that others share.
            (
                r#"{"p":{"no":"x"}}"#,
                r#"{"p":{"no":"x","https":"a"}}"#,
                r#"{"p":{"no":"z","https":"a"}}"#,
                Some(r#"{"p":{"no":"z"}}"#),
            ),
        ] {
            let got = out("daemon.json", before, after, current).unwrap();
            let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            assert_eq!(got.as_deref().map(value), expected.map(value), "{current}");
        }
    }

    #[test]
    fn what_is_ours_is_taken_out_of_toml_and_comments_stay() {
        let before = "# mine\na = 1\n";
        let after = "# mine\na = 1\n\n[r.\"x:1\"]\nhttp = false\n";
        let current = "# mine\na = 2 # two\n\n[r.\"x:1\"]\nhttp = false\n[s]\nb = 1\n";
        let got = out("buildkitd.toml", before, after, current).unwrap();
        assert_eq!(got.as_deref(), Some("# mine\na = 2 # two\n[s]\nb = 1\n"));
        assert_eq!(out("x.toml", "-", "a = 1\n", "").unwrap(), None);
    }

    #[test]
    fn what_somebody_changed_is_named() {
        let json = out("d.json", "-", r#"{"m":["a"]}"#, r#"{"m":["c"]}"#);
        assert_eq!(json.unwrap_err(), "\"m\"");
        let toml = out("d.toml", "-", "[r]\nm = [1]\n", "[r]\nm = [2]\n");
        assert_eq!(toml.unwrap_err(), "r.m");
        assert_eq!(out("d.json", "-", "{}", "{").unwrap_err(), "it");
        assert_eq!(out("ca.crt", "-", "a", "b").unwrap_err(), "it");
    }

    #[test]
    fn json_keeps_its_order_and_its_indentation() {
        let text = b"{\n    \"z\": 1,\n    \"a\": {\n        \"b\": []\n    }\n}\n";
        assert_eq!(json_text(&json(text).unwrap(), text), text);
        for text in [
            &b"{\r\n  \"a\": 1\r\n}\r\n"[..],
            b"\xef\xbb\xbf{\n  \"a\": \"\\r\\n\"\n}\n",
        ] {
            assert_eq!(json_text(&json(text).unwrap(), text), text);
        }
        for (bad, fragment) in [("[]", "no object"), ("{", "no valid JSON"), ("{}x", "JSON")] {
            assert!(json(bad.as_bytes()).unwrap_err().contains(fragment));
        }
    }
}
