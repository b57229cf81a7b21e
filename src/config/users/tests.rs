//! Users from all places, and the refusals, which never repeat a secret.

#![allow(clippy::unwrap_used)]

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::config::{Config, Environment, Flags};

/// What `htpasswd -B -C 5` makes of some password.
const HASH: &str = "$2y$05$FeSA9szbv3ANMpNe.BuZpO9pPxuc.V1cbTl8uPOAQAaxQwuOCs3OG";

/// What the three places and the files beside the configuration say.
#[derive(Default)]
struct Case<'a> {
    flags: &'a [&'a str],
    variables: &'a [(&'a str, &'a str)],
    file: &'a str,
    htpasswd: Option<&'a str>,
    beside: &'a [(&'a str, &'a str)],
}

impl Case<'_> {
    fn users(&self) -> Result<Vec<User>, String> {
        let dir = TempDir::new().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        for (name, text) in self.beside {
            write(name, text);
        }
        let htpasswd = self.htpasswd.map(|text| write("htpasswd", text));
        let flags = Flags::new(Some(write("ci.yaml", self.file)))
            .with(Key::User, self.flags.iter().map(|text| (*text).to_owned()))
            .with(Key::Htpasswd, htpasswd);
        let variables = [("HOME", "/h")].iter().chain(self.variables);
        let environment: Environment = variables
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let config = Sources::read(flags, environment).and_then(|s| Config::from_sources(&s));
        let dir = format!("{}/", dir.path().to_str().unwrap());
        config
            .map(|config| config.users)
            .map_err(|error| error.to_string().replace(&dir, ""))
    }
}

fn user(name: &str, secret: &str, grants: Vec<Grant>) -> User {
    User {
        name: name.parse().unwrap(),
        secret: Secret::plain(secret).unwrap(),
        grants,
    }
}

fn write() -> Vec<Grant> {
    vec![Grant::everywhere(Action::ALL)]
}

fn read() -> Vec<Grant> {
    vec![Grant::everywhere([Action::Pull])]
}

fn on(patterns: &[&str], actions: &[Action]) -> Grant {
    let parse = |text: &&str| Pattern::parse(text, |_| false).unwrap();
    Grant::on(
        patterns.iter().map(parse).collect(),
        actions.iter().copied(),
    )
}

#[test]
fn one_to_a_flag() {
    for (text, expected) in [
        ("ci:hunter2:write", user("ci", "hunter2", write())),
        ("ci:hunter2:read", user("ci", "hunter2", read())),
        ("ci:a:b::c:write", user("ci", "a:b::c", write())),
        ("ci: a,b \t:read", user("ci", " a,b \t", read())),
        ("a b@c:é:read", user("a b@c", "é", read())),
    ] {
        let case = Case {
            flags: &[text],
            ..Case::default()
        };
        assert_eq!(case.users().unwrap(), [expected], "{text}");
    }
}

#[test]
fn users_add_up_and_the_stronger_place_wins_name_by_name() {
    let case = Case {
        flags: &["a:flag:read"],
        variables: &[("STANDIN_USER", "a:variable:write\nb:two, words:read\r\n\n")],
        file: "users:\n- name: b\n  password: file\n  access: write\n- c:plain:write\n",
        ..Case::default()
    };
    let expected = [
        user("a", "flag", read()),
        user("b", "two, words", read()),
        user("c", "plain", write()),
    ];
    assert_eq!(case.users().unwrap(), expected);
}

#[test]
fn users_in_the_file() {
    let case = Case {
        variables: &[("CI_PASSWORD", "from the environment")],
        beside: &[("secret", "from a file\n")],
        file: "users:
  - name: a
    password: 12345
    repositories: team-a/**
    actions: [pull, push]
  - {name: a, repositories: [shared/*, quay.io/x], access: read}
  - name: b
    password-env: CI_PASSWORD
    access: write
  - name: c
    password-file: secret
    actions: pull
",
        ..Case::default()
    };
    let rules = vec![
        on(&["team-a/**"], &[Action::Pull, Action::Push]),
        on(&["shared/*", "quay.io/x"], &[Action::Pull]),
    ];
    let expected = [
        user("a", "12345", rules),
        user("b", "from the environment", write()),
        user("c", "from a file", read()),
    ];
    assert_eq!(case.users().unwrap(), expected);
}

#[test]
fn users_of_an_htpasswd_file_write_unless_a_rule_says_otherwise() {
    let htpasswd = format!("# ours\na:{HASH}\n\nb:{HASH}\r\n");
    let case = Case {
        htpasswd: Some(&htpasswd),
        file: "users:\n- {name: b, repositories: [team-b/**], access: write}\n",
        ..Case::default()
    };
    let hashed = |name: &str, grants| User {
        secret: Secret::bcrypt(HASH).unwrap(),
        ..user(name, "x", grants)
    };
    let expected = [
        hashed("a", write()),
        hashed("b", vec![on(&["team-b/**"], &Action::ALL)]),
    ];
    assert_eq!(case.users().unwrap(), expected);
}

#[test]
fn users_that_are_refused() {
    let flag = "flag --user: ";
    for (text, fragments) in [
        ("", &[flag, "NAME:PASSWORD:read"][..]),
        ("hunter2", &[flag, "NAME:PASSWORD:read"]),
        ("ci:hunter2", &[flag, "NAME:PASSWORD:read"]),
        ("ci:hunter2:admin", &[flag, "NAME:PASSWORD:read"]),
        ("ci::write", &[flag, "ci", "empty"]),
        (":hunter2:write", &[flag, "\"\" is no user name"]),
        ("c\u{7}i:hunter2:write", &[flag, "is no user name"]),
    ] {
        refused(
            &Case {
                flags: &[text],
                ..Case::default()
            },
            fragments,
        );
    }
    refused(
        &Case {
            flags: &["ci:hunter2:read", "ci:hunter2:write"],
            ..Case::default()
        },
        &[flag, "ci", "already given (flag --user)"],
    );
    refused(
        &Case {
            variables: &[("STANDIN_USER", "hunter2")],
            ..Case::default()
        },
        &["variable STANDIN_USER: "],
    );
}

#[test]
fn users_in_the_file_that_are_refused() {
    for (entry, fragments) in [
        ("- name: ci", &["line 2", "access: read"][..]),
        (
            "- {name: ci, access: write}",
            &["ci", "has no password", "password-env"],
        ),
        ("- {password: hunter2, access: write}", &["has no name"]),
        (
            "- {name: a:b, password: hunter2, access: write}",
            &["\"a:b\""],
        ),
        (
            "- {name: ci, password: hunter2, access: admin}",
            &["ci", "\"admin\"", "neither read"],
        ),
        (
            "- {name: ci, password: hunter2, acces: read}",
            &["\"acces\"", "did you mean \"access\"?"],
        ),
        (
            "- {name: ci, password: hunter2, access: read, actions: [pull]}",
            &["ci", "either"],
        ),
        (
            "- {name: ci, password: hunter2, actions: [pull, pusch]}",
            &["ci", "\"pusch\"", "delete"],
        ),
        (
            "- {name: ci, password: hunter2, actions: []}",
            &["ci", "either"],
        ),
        (
            "- {name: ci, password: [hunter2, b], access: read}",
            &["password takes one value"],
        ),
        (
            "- {name: ci, password: 1.10, access: read}",
            &["password", "in quotes"],
        ),
        (
            "- {name: ci, password: , access: read}",
            &["password takes text"],
        ),
        ("- {name: ci, password: '', access: read}", &["ci", "empty"]),
        (
            "- {name: ci, password: hunter2, password-env: X, access: read}",
            &["ci", "give one of"],
        ),
        (
            "- {name: ci, password-env: UNSET, access: read}",
            &["ci", "\"UNSET\" is not set"],
        ),
        (
            "- {name: ci, password-env: EMPTY, access: read}",
            &["ci", "\"EMPTY\" is not set"],
        ),
        (
            "- {name: ci, password-file: none, access: read}",
            &["ci", "none cannot be read"],
        ),
        (
            "- {name: ci, password-file: empty, access: read}",
            &["ci", "empty"],
        ),
        (
            "- {name: ci, password: hunter2, access: read, repositories: []}",
            &["ci", "leave it out"],
        ),
        (
            "- {name: ci, password: hunter2, access: read, repositories: [A]}",
            &["ci", "\"A\""],
        ),
        (
            "- {name: ci, password: hunter2, access: read, repositories: [quay.io]}",
            &["quay.io/**"],
        ),
        (
            "- {name: ci, password: hunter2, access: read}\n- {name: ci, password: hunter2, access: write}",
            &["line 3", "already has a password", "line 2"],
        ),
        (
            "- {name: ci, password: hunter2, access: read}\n- ci:hunter2:read",
            &["line 3", "already given", "line 2"],
        ),
    ] {
        let file = format!("users:\n{entry}\n");
        let case = Case {
            file: &file,
            variables: &[("EMPTY", "")],
            beside: &[("empty", "\n")],
            ..Case::default()
        };
        refused(&case, fragments);
    }
    // The flag's name is none in the file.
    let case = Case {
        file: "user: [ci:hunter2:write]\n",
        ..Case::default()
    };
    refused(&case, &["\"user\"", "did you mean \"users\"?"]);
}

#[test]
fn htpasswd_files_that_are_refused() {
    let twice = format!("a:{HASH}\na:{HASH}\n");
    let dear = format!("a:{}", HASH.replace("$05$", "$18$"));
    for (htpasswd, fragments) in [
        ("hunter2\n", &["line 1", "NAME:HASH"][..]),
        (
            "# x\nci:$apr1$hunter2$x\n",
            &["line 2", "ci", "htpasswd -B"],
        ),
        ("ci:{SHA}hunter2=\n", &["ci", "htpasswd -B"]),
        ("ci:hunter2\n", &["ci", "htpasswd -B"]),
        ("ci:\n", &["ci", "htpasswd -B"]),
        (&twice, &["line 2", "already there"]),
        (&dear, &["cost of 18", "htpasswd -B -C"]),
    ] {
        let case = Case {
            htpasswd: Some(htpasswd),
            ..Case::default()
        };
        let place = ["flag --htpasswd: htpasswd, line"];
        refused(&case, &[fragments, &place].concat());
    }
    let both = Case {
        htpasswd: Some(&format!("ci:{HASH}")),
        flags: &["ci:hunter2:read"],
        ..Case::default()
    };
    refused(&both, &["ci", "already has a password (flag --htpasswd)"]);
}

#[track_caller]
fn refused(case: &Case<'_>, fragments: &[&str]) {
    let refusal = case.users().unwrap_err();
    for fragment in fragments {
        assert!(refusal.contains(fragment), "no {fragment} in: {refusal}");
    }
    for secret in ["hunter2", "$2y$", "1.1"] {
        assert!(!refusal.contains(secret), "{secret} in: {refusal}");
    }
}

#[test]
fn a_variable_that_the_file_names_is_not_warned_of() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ci.yaml");
    fs::write(
        &path,
        "users: {name: ci, password-env: STANDIN_CI, access: write}",
    )
    .unwrap();
    let flags = Flags::new(Some(path.to_str().unwrap().to_owned()));
    let environment = Environment::from([
        ("STANDIN_CI".into(), "hunter2".into()),
        ("STANDIN_CJ".into(), "hunter2".into()),
    ]);
    let warnings = Sources::read(flags, environment).unwrap().warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("STANDIN_CJ"), "{warnings:?}");
}

#[test]
fn what_is_printed_for_debugging_holds_no_secret() {
    let flags = Flags::default().with(Key::User, ["ci:hunter2:write".to_owned()]);
    let environment = Environment::from([
        ("HOME".into(), "/h".into()),
        ("OTHER".into(), "hunter2".into()),
    ]);
    let sources = Sources::read(flags.clone(), environment).unwrap();
    let config = Config::from_sources(&sources).unwrap();
    for printed in [
        format!("{flags:?}"),
        format!("{sources:?}"),
        format!("{config:?}"),
    ] {
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
