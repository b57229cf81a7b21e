//! Files of log-ins and helpers, in a directory of the test's own.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use super::{helper::ask, *};

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

fn password(user: &str, password: &str) -> Option<Login> {
    Some(Login::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

fn shown(login: Option<&Login>) -> String {
    match login {
        None => "none".to_owned(),
        Some(Login::Password { user, password }) => format!("{user}:{password}"),
        Some(Login::Identity(token)) => format!("token {token}"),
    }
}

#[test]
fn every_way_to_write_a_log_in() {
    // a:b, c:d:e
    for (key, entry, registry, expected) in [
        ("quay.io", "{\"auth\":\"YTpi\"}", "quay.io", "a:b"),
        ("quay.io", "{\"auth\":\"YzpkOmU\"}", "quay.io", "c:d:e"),
        ("https://quay.io", "{\"auth\":\"YTpi\"}", "quay.io", "a:b"),
        (
            "https://quay.io/v1/",
            "{\"auth\":\"YTpi\"}",
            "quay.io",
            "a:b",
        ),
        (
            "http://reg.ci:5000/v2/",
            "{\"auth\":\"YTpi\"}",
            "reg.ci:5000",
            "a:b",
        ),
        ("reg.ci:443", "{\"auth\":\"YTpi\"}", "reg.ci", "a:b"),
        (
            "https://index.docker.io/v1/",
            "{\"auth\":\"YTpi\"}",
            "docker.io",
            "a:b",
        ),
        (
            "index.docker.io/v1/",
            "{\"auth\":\"YTpi\"}",
            "docker.io",
            "a:b",
        ),
        ("docker.io", "{\"auth\":\"YTpi\"}", "docker.io", "a:b"),
        (
            "registry-1.docker.io",
            "{\"auth\":\"YTpi\"}",
            "docker.io",
            "a:b",
        ),
        ("[::1]:5000", "{\"auth\":\"YTpi\"}", "[::1]:5000", "a:b"),
        (
            "quay.io",
            "{\"username\":\"a\",\"password\":\"b\"}",
            "quay.io",
            "a:b",
        ),
        (
            "quay.io",
            "{\"auth\":\"YTo=\",\"identitytoken\":\"t\",\"email\":null}",
            "quay.io",
            "token t",
        ),
        ("quay.io", "{}", "quay.io", "none"),
        ("quay.io", "{\"auth\":\"\"}", "quay.io", "none"),
        ("quay.io", "{\"auth\":\"YTpi\"}", "ghcr.io", "none"),
        ("quay.io", "{\"auth\":\"YTpi\"}", "quay.io:8443", "none"),
        ("no host at all", "{\"auth\":\"YTpi\"}", "quay.io", "none"),
    ] {
        let file = format!("{{\"auths\":{{\"{key}\":{entry}}},\"psFormat\":[1]}}");
        let entries = Entries::parse(file.as_bytes()).unwrap();
        let found = entries.login(&host(registry), None);
        assert_eq!(shown(found), expected, "{file}");
        assert_eq!(entries.names(&host(registry)), expected != "none", "{file}");
    }
    assert!(!Entries::parse(b" \n").unwrap().names(&host("quay.io")));
}

#[test]
fn the_longest_path_wins() {
    // r:1, o:1, a:1
    let entries = Entries::parse(
        br#"{"auths": {
            "quay.io": {"auth": "cjox"},
            "quay.io/org": {"auth": "bzox"},
            "quay.io/org/app": {"auth": "YTox"},
            "docker.io/library": {"auth": "bzox"}
        }}"#,
    )
    .unwrap();
    for (registry, repository, expected) in [
        ("quay.io", "org/app", "a:1"),
        ("quay.io", "org/app/deep", "a:1"),
        ("quay.io", "org/application", "o:1"),
        ("quay.io", "org", "o:1"),
        ("quay.io", "organisation/app", "r:1"),
        ("docker.io", "library/alpine", "o:1"),
        ("docker.io", "acme/app", "none"),
    ] {
        let repository = repository.parse().unwrap();
        let found = entries.login(&host(registry), Some(&repository));
        assert_eq!(shown(found), expected, "{repository}");
    }
    assert!(entries.names(&host("docker.io")));
}

#[test]
fn a_file_that_cant_be_read_is_told_by_place_and_not_by_content() {
    for (text, expected) in [
        (
            "{\"auths\":\n {\"quay.io\": \"hunter2\"}}",
            "line 2, column",
        ),
        ("{\"auths\": {\"quay.io\": {\"auth\": hunter2", "is no JSON"),
        (
            "{\"auths\": {\"quay.io\": {\"auth\": \"hunter2",
            "is cut off",
        ),
        (
            "{\"auths\": {\"quay.io\": {\"auth\": \"hunter2\"}}}",
            "\"quay.io\" is not USER:PASSWORD",
        ),
        ("hunter2", "line 1, column 1"),
    ] {
        let problem = Entries::parse(text.as_bytes()).err().unwrap();
        assert!(problem.contains(expected), "{text}: {problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
    }
}

#[test]
fn the_usual_files() {
    let files = |variables: &[(&str, &str)]| {
        let variables = variables.iter();
        usual_files(
            variables
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
        .iter()
        .map(|file| file.display().to_string())
        .collect::<Vec<_>>()
    };
    assert_eq!(files(&[]), [""; 0]);
    assert_eq!(
        files(&[("HOME", "/h"), ("DOCKER_CONFIG", "")]),
        ["/h/.config/containers/auth.json", "/h/.docker/config.json"]
    );
    assert_eq!(
        files(&[
            ("HOME", "/h"),
            ("REGISTRY_AUTH_FILE", "/r"),
            ("XDG_RUNTIME_DIR", "/run/1"),
            ("XDG_CONFIG_HOME", "/c"),
            ("DOCKER_CONFIG", "/d"),
        ]),
        [
            "/r",
            "/run/1/containers/auth.json",
            "/c/containers/auth.json",
            "/d/config.json"
        ]
    );
}

#[tokio::test]
async fn files_are_read_when_they_come_and_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("auth.json"), dir.path().join("config.json"));
    let keyring = Keyring::files([first.clone(), second.clone()]);
    let quay = host("quay.io");
    let find = async || shown(keyring.find(&quay, None).await.as_ref());
    assert!(!keyring.has_login(&quay));
    assert_eq!(find().await, "none");
    // b:b, a:a
    fs::write(&second, "{\"auths\":{\"quay.io\":{\"auth\":\"Yjpi\"}}}").unwrap();
    assert!(keyring.has_login(&quay));
    assert_eq!(find().await, "b:b");
    let staged = dir.path().join("staged");
    fs::write(&staged, "{\"auths\":{\"quay.io\":{\"auth\":\"YTph\"}}}").unwrap();
    fs::rename(&staged, &first).unwrap();
    assert_eq!(find().await, "a:a");
    fs::write(&first, "{").unwrap();
    assert_eq!(find().await, "b:b");
    // What was fetched with it is still here.
    fs::remove_file(&second).unwrap();
    assert_eq!(find().await, "none");
    assert!(keyring.has_login(&quay));
    assert!(!keyring.has_login(&host("ghcr.io")));
    assert!(
        Keyring::files([dir.path().to_owned()])
            .find(&quay, None)
            .await
            .is_none()
    );
}

/// A helper at its own path, so that no test changes the process's PATH.
fn helper(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("docker-credential-fake");
    // By another process: one that is being written by ours can't be run while some test of ours forks.
    let status = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .arg(&path)
        .arg(format!("#!/bin/sh\n{script}\n"))
        .status();
    assert!(status.unwrap().success());
    path
}

#[tokio::test]
async fn helpers_are_asked_and_their_answers_kept() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script = format!(
        "read server; echo \"$1 $server\" >> {}\n\
         case $server in\n\
         quay.io) echo '{{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"s\"}}' ;;\n\
         https://index.docker.io/v1/) echo '{{\"Username\":\"<token>\",\"Secret\":\"t\"}}' ;;\n\
         *) echo credentials not found in native keychain; exit 1 ;;\n\
         esac",
        log.display()
    );
    helper(dir.path(), &script);
    let file = dir.path().join("config.json");
    // own:own
    fs::write(
        &file,
        "{\"credHelpers\":{\"https://index.docker.io/v1/\":\"fake\"},\"credsStore\":\"fake\",\
         \"auths\":{\"gcr.io\":{\"auth\":\"b3duOm93bg==\"},\"quay.io\":{}}}",
    )
    .unwrap();
    let keyring = Keyring::new([file], Helpers::in_directory(dir.path()));
    for (registry, expected) in [
        ("quay.io", "u:s"),
        ("docker.io", "token t"),
        ("ghcr.io", "none"),
        // The store has none, and the file has.
        ("gcr.io", "own:own"),
    ] {
        // Until it was asked, the store may have one.
        assert!(keyring.has_login(&host(registry)), "{registry}");
        for _ in 0..2 {
            let found = keyring.find(&host(registry), None).await;
            assert_eq!(shown(found.as_ref()), expected, "{registry}");
        }
        assert_eq!(keyring.has_login(&host(registry)), expected != "none");
    }
    let many = (0..8).map(|_| async { keyring.find(&host("lscr.io"), None).await });
    for found in futures_util::future::join_all(many).await {
        assert_eq!(found, None);
    }
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "get quay.io\nget https://index.docker.io/v1/\nget ghcr.io\nget gcr.io\nget lscr.io\n"
    );
}

#[tokio::test]
async fn a_helper_that_fails_is_told_and_gives_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (script, expected) in [
        (
            "echo oh no >&2; echo secret; exit 1",
            "it failed and said \"oh no\"",
        ),
        ("exit 3", "it failed and said nothing"),
        ("echo secret", "no JSON with Username and Secret"),
        (
            "echo '{\"Username\":\"secret\"}'",
            "no JSON with Username and Secret",
        ),
        ("exec sleep 600", "no answer within"),
    ] {
        let path = helper(dir.path(), script);
        let directory = path.parent();
        let problem = ask(directory, "fake", "quay.io", Duration::from_secs(2))
            .await
            .unwrap_err();
        assert!(problem.contains(expected), "{script}: {problem}");
        assert!(!problem.contains("secret"), "{problem}");
    }
    for (name, expected) in [
        ("missing", "no such program"),
        ("../fake", "no helper's name"),
        ("", "no helper's name"),
        ("a b", "no helper's name"),
    ] {
        let problem = ask(Some(dir.path()), name, "quay.io", Duration::from_secs(2))
            .await
            .unwrap_err();
        assert!(problem.contains(expected), "{name}: {problem}");
    }
    let loud = helper(
        dir.path(),
        "echo '{\"Username\":\"u\",\"Secret\":\"s\"}'; echo careful >&2",
    );
    let found = ask(loud.parent(), "fake", "quay.io", Duration::from_secs(30)).await;
    assert_eq!(found.unwrap(), password("u", "s"));
}

#[test]
fn nothing_shows_a_secret() {
    let fixed = Credentials::fixed("hunter", "hunter2");
    let shown = format!("{fixed:?} {:?}", Login::Identity("hunter2".to_owned()));
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(fixed.has_login());
    assert!(!Credentials::default().has_login());
}
