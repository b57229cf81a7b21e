//! Which standin `seed`, `export`, `list` and `verify` work on, and what they say of one that does not let them.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::job::Home;

const HELLO: &str = concat!("oci:", env!("CARGO_MANIFEST_DIR"), "/fixtures/hello");

/// In a run whose command is a script, in which `standin` is the program.
fn within_run(home: &Home, options: &[&str], script: &str) -> (i32, String, String) {
    let script = format!("standin() {{ \"$0\" \"$@\"; }}\n{script}");
    let command = ["--", "sh", "-c", &script, env!("CARGO_BIN_EXE_standin")];
    home.run(&[options, &command].concat())
}

#[test]
fn within_a_run_it_is_that_of_the_run() {
    let home = Home::new();
    let script = format!(
        "standin seed {HELLO}=acme/app:1 && curl -sS \"$STANDIN_URL/v2/_catalog\" && \
         standin list acme/app && standin verify && standin export acme/app:1 oci:out"
    );
    for options in [&[][..], &["--data", "kept"]] {
        let (status, printed, said) = within_run(&home, options, &script);
        assert_eq!(status, 0, "{said}");
        assert!(
            printed.contains("{\"repositories\":[\"acme/app\"]}"),
            "{printed}"
        );
        assert!(printed.contains("docker.io/acme/app:1"), "{printed}");
        assert!(printed.contains("checked 3 contents"), "{printed}");
        assert!(said.contains("images go to the standin at "), "{said}");
        assert!(said.contains("1 image pushed"), "{said}");
        fs::remove_dir_all(home.path("out")).unwrap();
    }
    // Where directories are typed, they are meant.
    let (status, printed, said) = within_run(
        &home,
        &[],
        &format!(
            "standin seed --data mine {HELLO}=acme/app:1 && curl -sS \"$STANDIN_URL/v2/_catalog\""
        ),
    );
    assert_eq!(status, 0, "{said}");
    assert!(printed.contains("{\"repositories\":[]}"), "{printed}");
    assert!(said.contains("/mine: no standin runs"), "{said}");
    // Nothing of it all was put where nobody looks.
    assert_eq!(fs::read_dir(home.path("home")).unwrap().count(), 0);
}

#[test]
fn one_that_is_named_and_has_ended_is_an_error() {
    let home = Home::new();
    let serve = [
        "serve",
        "--detach",
        "--listen",
        "127.0.0.1:0",
        "--data",
        "data",
    ];
    let started = home.standin(&[&serve[..], &["--ready-file", "ready"]].concat());
    assert!({ started }.output().unwrap().status.success());
    let by_flag = ["seed", "--ready-file", "ready", HELLO];
    let put = home.standin(&by_flag).output().unwrap();
    assert!(put.status.success(), "{put:?}");
    let ready: serde_json::Value =
        serde_json::from_slice(&fs::read(home.path("ready")).unwrap()).unwrap();
    let pid = i32::try_from(ready["pid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let said = |command: &mut std::process::Command| {
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    };
    for name in ["seed", "export"] {
        let images: &[&str] = match name {
            "seed" => &[HELLO],
            _ => &["hello", "oci:out"],
        };
        let mut typed = home.standin(&[&[name, "--ready-file", "ready"], images].concat());
        let (status, text) = said(&mut typed);
        assert_eq!(status, 1);
        assert!(
            text.contains("has ended") && text.contains("leave --ready-file out"),
            "{text}"
        );
        let mut variable = home.standin(&[&[name], images].concat());
        let (status, text) = said(variable.env("STANDIN_READY_FILE", home.path("ready")));
        assert_eq!(status, 1);
        assert!(
            text.contains("unset STANDIN_READY_FILE") && text.contains("--data"),
            "{text}"
        );
    }
    // Its content is there still.
    let mut listed = home.standin(&["list"]);
    let listed = listed
        .env("STANDIN_READY_FILE", home.path("ready"))
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&listed.stdout).contains("docker.io/library/hello"),
        "{listed:?}"
    );
    let mut nowhere = home.standin(&["seed", "--ready-file", "none", HELLO]);
    let (status, text) = said(&mut nowhere);
    assert_eq!(status, 1);
    assert!(text.contains("there is no ready file none"), "{text}");
    // A job may seed before the server is started that its variables name.
    let mut before = home.standin(&["seed", HELLO]);
    before.env("STANDIN_READY_FILE", home.path("later"));
    let (status, text) = said(before.env("STANDIN_DATA", home.path("data")));
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("no standin runs"), "{text}");
    // Nobody is there to log in at.
    for (images, flag) in [
        (&["seed", HELLO][..], "--to"),
        (&["export", "hello", "oci:out"], "--from"),
    ] {
        let (status, text) = said(&mut home.standin(&[images, &["--user", "ci:secret"]].concat()));
        assert_eq!(status, 1);
        assert!(
            text.contains("no standin runs here") && text.contains(flag),
            "{text}"
        );
    }
    assert!(!home.path("out").exists());
}

#[test]
fn what_it_does_not_give_or_take_is_said_in_its_words() {
    let home = Home::new();
    let options = ["--user", "ci:secret:write", "--user", "ro:pw:read"];
    let script = format!(
        "standin seed {HELLO}=acme/a:1 2>anonymous
         standin seed --user ci:secret {HELLO}=acme/a:1 || exit 9
         standin seed --user ro:pw {HELLO}=acme/a:2 2>reader
         standin export acme/a:1 oci:out 2>export
         standin export --user ro:pw acme/a:1 oci:out || exit 9
         standin seed --user ci:secret docker://reg.example/acme/x:1 2>unknown
         standin export --user ro:pw acme/none:1 oci:out 2>none
         exit 0"
    );
    let (status, _, said) = within_run(&home, &options, &script);
    assert_eq!(status, 0, "{said}");
    for (file, fragments) in [
        ("anonymous", &["401", "--user NAME:PASSWORD"][..]),
        (
            "reader",
            &["403", "user \"ro\" may not push docker.io/acme/a"],
        ),
        ("export", &["401", "--user NAME:PASSWORD"]),
        ("unknown", &["404", "reg.example is no configured registry"]),
        ("none", &["404", "docker.io/acme/none"]),
    ] {
        let text = fs::read_to_string(home.path(file)).unwrap();
        for fragment in fragments {
            assert!(text.contains(fragment), "{file}: {text}");
        }
    }
}
