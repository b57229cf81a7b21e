//! The house rules that a machine can check: who may import whom, and how long a file may be.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What each part of `src/` may name behind `crate::`. A part may always name itself; the parts not listed here put the
/// others together and may name all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("metrics", &[]),
    ("activity", &["types", "metrics"]),
    ("storage", &["types", "metrics"]),
    ("upstream", &["types", "storage", "metrics", "activity"]),
    (
        "cache",
        &["types", "storage", "upstream", "metrics", "activity"],
    ),
    (
        "registry",
        &["types", "storage", "cache", "metrics", "activity"],
    ),
    (
        "upkeep",
        &["types", "storage", "cache", "metrics", "activity"],
    ),
    ("http", &["types", "registry", "metrics"]),
    ("tls", &["types", "metrics"]),
    ("proxy", &["types", "registry", "tls", "metrics"]),
    (
        "clients",
        &["types", "registry", "cache", "upstream", "tls", "metrics"],
    ),
    (
        "transfer",
        &["types", "registry", "upstream", "metrics", "activity"],
    ),
    (
        "job",
        &[
            "types", "registry", "cache", "upstream", "tls", "metrics", "transfer", "clients",
            "activity",
        ],
    ),
];

/// Parts that may name everything.
const COMPOSERS: &[&str] = &["config", "app", "cli", "main", "lib"];

/// Crates that only these parts touch, tests included.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("actix_http", &["proxy", "app"]),
    ("actix_web", &["http", "app"]),
    ("aws_lc_rs", &["proxy", "registry", "tls"]),
    ("base64", &["http", "job", "proxy", "upstream"]),
    ("bcrypt", &["registry"]),
    ("clap", &["config", "cli", "main"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("env_logger", &["config", "app", "cli", "main"]),
    ("flate2", &["transfer"]),
    ("h2", &["proxy"]),
    ("indicatif", &["cli"]),
    ("jsonwebtoken", &["registry"]),
    ("nix", &["job"]),
    ("prometheus_client", &["metrics"]),
    ("rcgen", &["tls"]),
    ("reqwest", &["upstream"]),
    ("rustls", &["tls", "proxy"]),
    ("sha2", &["types"]),
    ("subtle", &["registry"]),
    ("tar", &["transfer"]),
    ("zstd", &["transfer"]),
    ("toml_edit", &["clients", "job"]),
    ("uuid", &["types"]),
];

const LONGEST_FILE: usize = 600;

/// The Rust files below `directory`, which is relative to the package.
fn rust_files(directory: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut directories = vec![root.join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                files.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    files.sort();
    assert!(!files.is_empty());
    files
}

fn read(file: &Path) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The part of `src/` that a file belongs to: `src/http/pull.rs` is `http`, `src/cache.rs` is `cache`.
fn part_of(file: &Path) -> String {
    let first = file.components().nth(1).unwrap();
    let first = Path::new(first.as_os_str());
    first.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// The code of a file, line by line, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let without_comment = |line| match str::find(line, "//") {
        // Not the one in a URL.
        Some(at) if at == 0 || !line[..at].ends_with(':') => &line[..at],
        _ => line,
    };
    text.lines()
        .enumerate()
        .map(move |(n, line)| (n + 1, without_comment(line)))
}

/// The parts that a file names behind `crate::`, with the line. In `crate::{…}` every first segment counts.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut group_depth = None;
    for (line, code) in code(text) {
        let mut rest = code;
        loop {
            if let Some(depth) = &mut group_depth {
                rest = in_group(rest, line, depth, &mut found);
                if *depth > 0 {
                    break;
                }
                group_depth = None;
            }
            let Some(at) = rest.find("crate::") else {
                break;
            };
            let preceded = rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            rest = &rest[at + "crate::".len()..];
            if preceded {
                continue;
            }
            if let Some(group) = rest.strip_prefix('{') {
                rest = group;
                group_depth = Some(1);
            } else {
                found.extend(first_word(rest).map(|word| (line, word)));
            }
        }
    }
    found
}

/// Reads on in a `{…}` group; what is left of the line behind it.
fn in_group<'a>(
    code: &'a str,
    line: usize,
    depth: &mut usize,
    found: &mut Vec<(usize, String)>,
) -> &'a str {
    let mut begins = *depth == 1;
    for (at, c) in code.char_indices() {
        match c {
            '{' => *depth += 1,
            '}' => {
                *depth -= 1;
                if *depth == 0 {
                    return &code[at + 1..];
                }
            }
            ',' => begins = *depth == 1,
            c if c.is_whitespace() => {}
            _ if begins && *depth == 1 => {
                found.extend(first_word(&code[at..]).map(|word| (line, word)));
                begins = false;
            }
            _ => {}
        }
    }
    ""
}

fn first_word(code: &str) -> Option<String> {
    let word: String = code
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    // `crate::Name` is an item of lib.rs, which has none.
    (!word.is_empty()).then_some(word)
}

#[test]
fn every_part_imports_only_from_the_layers_below() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let part = part_of(&file);
        if COMPOSERS.contains(&part.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == part) else {
            wrong.push(format!("{}: which layer is this?", file.display()));
            continue;
        };
        let text = read(&file);
        for (line, import) in imports(&text) {
            if import != part && !allowed.contains(&import.as_str()) {
                let shown = text.lines().nth(line - 1).unwrap().trim();
                wrong.push(format!("{}:{line}: {shown}", file.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports against the layers:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn some_crates_have_one_owner() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let part = part_of(&file);
        let text = read(&file);
        for (line, code) in code(&text) {
            for (name, owners) in ONLY_IN {
                let named = [format!("{name}::"), format!("use {name}")]
                    .iter()
                    .any(|pattern| names(code, pattern));
                if named && !owners.contains(&part.as_str()) {
                    let shown = code.trim();
                    wrong.push(format!("{}:{line}: {shown}", file.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "crates out of their part:\n{}",
        wrong.join("\n")
    );
}

/// Whether `code` holds `pattern` as a path of its own and not as the end of another word.
fn names(code: &str, pattern: &str) -> bool {
    code.match_indices(pattern).any(|(at, _)| {
        let before = &code[..at];
        let after = &code[at + pattern.len()..];
        let whole = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        let ended = pattern.ends_with(':') || after.starts_with([';', ':', ' ']);
        whole && ended
    })
}

#[test]
fn no_file_is_too_long_and_each_says_what_it_is() {
    let mut wrong = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")) {
        let text = read(&file);
        let lines = text.lines().count();
        if lines > LONGEST_FILE {
            wrong.push(format!("{}: {lines} lines", file.display()));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{}: opens without //!", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_scanner_sees_what_it_should() {
    let text = "use crate::types::{Digest, name};\n\
                use crate::{\n    storage::Store, http::{self, Error},\n    tls,\n};\n\
                // use crate::proxy::X;\n\
                fn f() { crate::cache::g(); mycrate::job::h() }\n";
    let found: Vec<String> = imports(text).into_iter().map(|(_, word)| word).collect();
    assert_eq!(found, ["types", "storage", "http", "tls", "cache"]);
    for (code, pattern, seen) in [
        ("use reqwest::Client;", "reqwest::", true),
        ("use reqwest;", "use reqwest", true),
        ("let x = reqwest::get(y);", "reqwest::", true),
        ("use tokio_rustls::X;", "rustls::", false),
        ("webpki::rustls::X", "rustls::", false),
    ] {
        assert_eq!(names(code, pattern), seen, "{code}");
    }
}
