//! `standin run`: the command's environment, status and signals, and that nothing is left, whoever is killed.

use std::{fs, io::Read as _, process::Command};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::support::{
    eventually,
    job::{CONFIGURE, Home, configured, finish, guardian, listing},
};

#[test]
fn the_command_finds_the_registry_and_nothing_is_left_of_it() {
    let home = Home::new();
    let (status, printed, said) = home.sh(
        "echo $STANDIN_URL; echo $STANDIN_HOST; cat $STANDIN_CA; cat $STANDIN_READY_FILE; echo ${HTTPS_PROXY-none} \
         ${DOCKER_CONFIG-none}; echo told >&2",
    );
    assert_eq!(status, 0, "{said}");
    let lines: Vec<&str> = printed.lines().collect();
    let (url, host) = (lines[0], lines[1]);
    assert_eq!(url, format!("http://{host}"));
    assert!(host.starts_with("127.0.0.1:"), "{host}");
    assert!(!host.ends_with(":5000"), "a fresh port");
    assert_eq!(lines[2], "-----BEGIN CERTIFICATE-----");
    assert!(
        printed.contains(&format!("\"http\":\"{url}\"")),
        "{printed}"
    );
    assert_eq!(*lines.last().unwrap(), "none none");
    // The command's own line, and the summary.
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(said[0], "told");
    assert_eq!(said[1], "standin: nothing was pulled or pushed");
}

#[test]
fn the_status_is_the_commands_own() {
    let home = Home::new();
    assert_eq!(home.sh("exit 7").0, 7);
    assert_eq!(home.sh("kill -KILL $$").0, 137);
    assert_eq!(home.sh("kill -TERM $$").0, 143);
    let (status, printed, said) = home.run(&["--", "no-such-command"]);
    assert_eq!((status, printed.as_str()), (127, ""));
    assert!(
        said.contains("no-such-command") && said.contains("not found"),
        "{said}"
    );
    fs::write(home.path("plain"), "").unwrap();
    let (status, _, said) = home.run(&["--", "./plain"]);
    assert_eq!(status, 126);
    assert!(
        said.contains("./plain") && said.contains("can't be run"),
        "{said}"
    );
    let (status, _, said) = home.run(&["--", "./missing"]);
    assert_eq!(status, 127, "{said}");
    // What a person forgets.
    let (status, _, said) = home.run(&["true"]);
    assert_eq!(status, 2);
    assert!(said.contains("-- <COMMAND>"), "{said}");
}

#[test]
fn what_keeps_the_registry_from_starting_is_said_and_the_command_is_not_run() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, _, said) = home.run(&["--listen", &address, "--", "touch", "ran"]);
    assert_eq!(status, 1);
    assert!(said.contains(&format!("{address} is in use")), "{said}");
    assert!(said.contains("the command was not run"), "{said}");
    let mut nowhere = home.command(&["--", "touch", "ran"]);
    nowhere.env("TMPDIR", home.path("none"));
    let (status, _, said) = finish(&home, nowhere.spawn().unwrap());
    assert_eq!(status, 1);
    assert!(said.contains("TMPDIR") && said.contains("--data"), "{said}");
    assert_eq!(home.run(&["--grace", "soon", "--", "touch", "ran"]).0, 2);
    assert!(!home.path("ran").exists());
}

#[test]
fn what_data_names_is_kept() {
    let home = Home::new();
    let fixture = concat!("oci:", env!("CARGO_MANIFEST_DIR"), "/fixtures/hello");
    let options = ["--data", "kept", "--seed", fixture];
    let (status, _, said) = home.run(&[&options[..], &["--", "true"]].concat());
    assert_eq!(status, 0, "{said}");
    assert!(
        said.contains("kept in ") && said.contains("/kept"),
        "{said}"
    );
    assert!(home.path("kept/blobs").exists());
    let names: Vec<_> = fs::read_dir(home.path("kept.state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("standin-run"))
        .collect();
    assert_eq!(names, [""; 0], "beside it nothing temporary stays");
    let script = "exec \"$0\" status";
    let binary = env!("CARGO_BIN_EXE_standin");
    let (status, printed, _) = home.run(&["--data", "kept", "--", "sh", "-c", script, binary]);
    assert_eq!(status, 0);
    assert!(printed.contains("is up since"), "{printed}");
}

#[test]
fn two_runs_and_one_within_another_do_not_meet() {
    let home = Home::new();
    let first = home
        .command(&["--", "sh", "-c", "echo $STANDIN_HOST"])
        .spawn()
        .unwrap();
    let second = home
        .command(&["--", "sh", "-c", "echo $STANDIN_HOST"])
        .spawn()
        .unwrap();
    let (first, second) = (
        first.wait_with_output().unwrap(),
        second.wait_with_output().unwrap(),
    );
    assert!(first.status.success() && second.status.success());
    assert_ne!(first.stdout, second.stdout);
    let nested = "before=$(cat $STANDIN_READY_FILE); inner=$(\"$0\" run -- sh -c 'echo $STANDIN_HOST'); \
                  [ \"$inner\" ] && [ \"$inner\" != $STANDIN_HOST ] && [ \"$before\" = \"$(cat $STANDIN_READY_FILE)\" ]";
    let binary = env!("CARGO_BIN_EXE_standin");
    let (status, _, said) = home.run(&["--", "sh", "-c", nested, binary]);
    assert_eq!(status, 0, "{said}");
    // A server of its own would take the outer one's ready file.
    let serve = "exec \"$0\" serve --listen 127.0.0.1:0 --data inner";
    let (status, _, said) = home.run(&["--", "sh", "-c", serve, binary]);
    assert_eq!(status, 1);
    assert!(said.contains("give --ready-file another path"), "{said}");
}

#[tokio::test]
async fn signals_reach_the_commands_whole_group() {
    let home = Home::new();
    let script = "trap 'echo shell; exit 3' TERM; (trap 'echo child; exit' TERM; : >ready2; while :; do sleep 0.01; done) & \
                  while :; do sleep 0.01; done";
    let run = home.start(&[], script).await;
    eventually("the child starts", || async {
        home.path("ready2").exists()
    })
    .await;
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    let (status, printed, _) = finish(&home, run);
    assert_eq!(status, 3);
    assert!(
        printed.contains("shell") && printed.contains("child"),
        "{printed}"
    );
    home.nothing_is_left().await;
}

#[tokio::test]
async fn a_command_that_does_not_listen_is_killed() {
    // After a while, or at the second signal.
    for (grace, twice) in [("100ms", false), ("1h", true)] {
        let home = Home::new();
        let script = "trap : TERM; while :; do sleep 0.01; done";
        let mut run = home.start(&["--grace", grace], script).await;
        let pid = Pid::from_child(&run);
        kill_process(pid, Signal::TERM).unwrap();
        if twice {
            // One that comes at the same moment is the same signal.
            eventually("the second ends it", || {
                let _ = kill_process(pid, Signal::TERM);
                let ended = run.try_wait().unwrap().is_some();
                async move { ended }
            })
            .await;
        }
        let (status, _, said) = finish(&home, run);
        assert_eq!(status, 137, "{said}");
        assert!(said.contains("killed"), "{said}");
        home.nothing_is_left().await;
    }
}

#[test]
fn what_the_command_leaves_running_is_ended() {
    let home = Home::new();
    let (status, _, said) = home.sh("sleep 1h & exit 5");
    assert_eq!(status, 5);
    assert!(said.contains("left running"), "{said}");
}

#[tokio::test]
async fn clients_are_set_up_while_the_command_runs() {
    let home = Home::new();
    let before = listing(&home.path("root"));
    let conf = home.path("root/etc/containers/registries.conf.d/050-standin.conf");
    let script = format!(
        "cat {} && grep -F $STANDIN_HOST {0} >/dev/null; exit 4",
        conf.display()
    );
    let options = [
        &CONFIGURE[..],
        &["--registry", "quay.io=http://127.0.0.1:1"],
    ]
    .concat();
    let args = [&options[..], &["--", "sh", "-c", &script]].concat();
    let (status, printed, said) = home.run(&args);
    assert_eq!(status, 4, "{said}");
    assert!(printed.contains("quay.io"), "{printed}");
    assert_eq!(
        listing(&home.path("root")),
        before,
        "undone after a failure as well"
    );
    // One at a time.
    let first = home.start(&options, "while :; do sleep 0.01; done").await;
    let refused = home.command(&[&CONFIGURE[..], &["--", "true"]].concat());
    let refused = { refused }.output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("another `standin run --configure`"), "{said}");
    // Not SIGINT, which whoever started the tests in the background has had ignored.
    kill_process(Pid::from_child(&first), Signal::TERM).unwrap();
    assert_eq!(finish(&home, first).0, 143);
    assert_eq!(listing(&home.path("root")), before);
}

#[tokio::test]
async fn whoever_is_killed_takes_the_rest_along() {
    for victim in ["run", "server", "guardian", "run and server", "command"] {
        let home = Home::new();
        let before = listing(&home.path("root"));
        let options = [
            &CONFIGURE[..],
            &["--registry", "quay.io=http://127.0.0.1:1"],
        ]
        .concat();
        let mut run = home
            .start(
                &options,
                "sleep 1h & : >forked; while :; do sleep 0.01; done",
            )
            .await;
        let forked = home.path("forked");
        eventually("the command has a child", || async { forked.exists() }).await;
        assert!(configured(&home), "{victim}");
        let mut victims = Vec::new();
        if victim.contains("run") {
            victims.push(Pid::from_child(&run));
        }
        if victim.contains("server") {
            victims.push(home.server_pid());
        }
        if victim == "guardian" {
            victims.push(guardian(&home));
        }
        if victim == "command" {
            victims.push(home.started_pid());
        }
        for victim in victims {
            kill_process(victim, Signal::KILL).unwrap();
        }
        let mut said = String::new();
        run.stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        let status = run.wait().unwrap();
        home.nothing_is_left().await;
        assert!(test_kill_process(home.started_pid()).is_err() || victim.contains("run"));
        assert_eq!(listing(&home.path("root")), before, "{victim}: {said}");
        let (code, told, summary) = match victim {
            "run" | "run and server" => (None, "`standin run` was killed", ""),
            "server" => (
                Some(1),
                "the registry ended while the command ran",
                "the registry was killed: what it had done is not known",
            ),
            "guardian" => (
                Some(1),
                "the guardian of this run ended while the command ran",
                "nothing was pulled or pushed",
            ),
            _ => (Some(137), "left running", "nothing was pulled or pushed"),
        };
        assert_eq!(status.code(), code, "{victim}: {said}");
        assert!(said.contains(told), "{victim}: {said}");
        assert!(said.contains(summary), "{victim}: {said}");
        assert_eq!(code == Some(1), said.contains("the command was ended"));
    }
}

#[test]
fn programs_without_a_setting_come_by_the_proxy() {
    let home = Home::new();
    let script = "echo $HTTPS_PROXY $http_proxy; echo $NO_PROXY; grep -c BEGIN $SSL_CERT_FILE; grep -F \"$(sed -n 2p $STANDIN_CA)\" \
                  $SSL_CERT_FILE >/dev/null && echo trusted";
    let mut command = home.command(&["--proxy-env", "--", "sh", "-c", script]);
    command.env("NO_PROXY", "intra.example");
    let (status, printed, said) = finish(&home, command.spawn().unwrap());
    assert_eq!(status, 0, "{said}");
    assert!(printed.starts_with("http://127.0.0.1:"), "{printed}");
    assert!(
        printed.contains("intra.example,localhost,127.0.0.1"),
        "{printed}"
    );
    assert!(printed.ends_with("trusted\n"), "{printed}");
}

#[test]
fn docker_finds_its_own_configuration_and_a_log_in() {
    let home = Home::new();
    fs::create_dir_all(home.path("home/.docker/cli-plugins")).unwrap();
    fs::write(
        home.path("home/.docker/config.json"),
        r#"{"auths":{"quay.io":{"auth":"eDp5"}},"credsStore":"desktop"}"#,
    )
    .unwrap();
    let script = "cat $DOCKER_CONFIG/config.json; ls -d $DOCKER_CONFIG/cli-plugins/.; \
                  auth=$(sed -n \"/$STANDIN_HOST/,/auth/s/.*\\\"auth\\\": \\\"\\(.*\\)\\\".*/\\1/p\" $DOCKER_CONFIG/config.json); \
                  curl -s -o /dev/null -w '%{http_code}' -H \"Authorization: Basic $auth\" $STANDIN_URL/v2/";
    let args = [
        "--docker-config",
        "--user",
        "ci:secret:write",
        "--",
        "sh",
        "-c",
        script,
    ];
    let (status, printed, said) = home.run(&args);
    assert_eq!(status, 0, "{said}");
    for fragment in ["eDp5", "credHelpers", "cli-plugins/.", "127.0.0.1:"] {
        assert!(printed.contains(fragment), "no {fragment} in {printed}");
    }
    assert!(printed.ends_with("200"), "{printed}");
    let own = fs::read_to_string(home.path("home/.docker/config.json")).unwrap();
    assert!(!own.contains("127.0.0.1"), "the user's own is left alone");
}

/// Pulls what [`SEED`] is.
const PULL: &str = "curl -sf -o /dev/null -H 'Accept: */*' $STANDIN_URL/v2/hello/manifests/latest";
const SEED: [&str; 2] = [
    "--seed",
    concat!("oci:", env!("CARGO_MANIFEST_DIR"), "/fixtures/hello"),
];

/// Asserts that a run ends with what its report, which is over, begins with.
fn assert_summary(home: &Home, said: &str) {
    let report = fs::read(home.path("r.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["running"], false);
    let lines = report["summary"].as_array().unwrap();
    let lines: String = lines
        .iter()
        .map(|line| format!("standin: {}\n", line.as_str().unwrap()))
        .collect();
    assert!(said.contains(&lines), "no {lines:?} in {said:?}");
}

#[test]
fn the_summary_is_the_reports_and_both_are_there_however_the_command_ends() {
    for (end, status) in [("true", 0), ("exit 7", 7), ("kill -KILL $$", 137)] {
        let home = Home::new();
        let script = format!("{PULL}; {end}");
        let options = [&SEED[..], &["--report", "r.json", "--report", "r.md"]].concat();
        let mut command = home.command(&[&options[..], &["--", "sh", "-c", &script]].concat());
        command.env("GITHUB_STEP_SUMMARY", home.path("summary.md"));
        let (ended, _, said) = finish(&home, command.spawn().unwrap());
        assert_eq!(ended, status, "{said}");
        assert_summary(&home, &said);
        let pulled = "standin: 1 image pulled: 1 from what was pushed or seeded here\n";
        assert!(said.contains(pulled), "{said}");
        for file in ["r.md", "summary.md"] {
            let text = fs::read_to_string(home.path(file)).unwrap();
            assert!(
                text.contains("- 1 image pulled&#58; 1 from"),
                "{file}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn a_run_that_is_told_to_end_reports_all_the_same() {
    // Where reading takes a log-in, the summary needs none.
    let home = Home::new();
    let options = ["--report", "r.json", "--user", "ci:secret:read"];
    let script =
        "curl -sf -u ci:secret $STANDIN_URL/v2/acme/app/manifests/1; while :; do sleep 0.01; done";
    let run = home.start(&options, script).await;
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    let (status, _, said) = finish(&home, run);
    assert_eq!(status, 143, "{said}");
    assert_summary(&home, &said);
}

#[test]
fn a_report_that_cannot_be_written_at_the_end_fails_the_run() {
    let home = Home::new();
    fs::create_dir(home.path("out")).unwrap();
    let args = ["--report", "out/r.html", "--", "rm", "-r", "out"];
    let (status, _, said) = home.run(&args);
    assert_eq!(status, 1, "{said}");
    assert!(
        said.contains("the report can't be written as HTML to") && said.contains("out/r.html"),
        "{said}"
    );
    // A command that failed has the last word.
    fs::create_dir(home.path("out")).unwrap();
    let script = "rm -r out; exit 9";
    let (status, _, said) = home.run(&["--report", "out/r.html", "--", "sh", "-c", script]);
    assert_eq!(status, 9, "{said}");
    let early = ["--report", "none/r.html", "--", "touch", "ran"];
    let (status, _, said) = home.run(&early);
    assert_eq!(status, 1, "{said}");
    assert!(
        said.contains("none/r.html") && !home.path("ran").exists(),
        "{said}"
    );
}

#[test]
fn the_script_runs_a_command_with_whichever_standin_there_is() {
    let home = Home::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/with-registry");
    let run = |args: &[&str]| {
        let output = Command::new(script)
            .args(args)
            .env("STANDIN", env!("CARGO_BIN_EXE_standin"))
            .env("TMPDIR", home.path("tmp"))
            .env("STANDIN_NO_DEFAULT_REGISTRIES", "true")
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), printed)
    };
    let (status, printed) = run(&["sh", "-c", "echo $STANDIN_URL; exit 3"]);
    assert_eq!(status, 3);
    assert!(printed.starts_with("http://127.0.0.1:"), "{printed}");
    let (status, printed) = run(&["--proxy-env", "--", "sh", "-c", "echo $HTTPS_PROXY"]);
    assert_eq!(status, 0);
    assert!(printed.starts_with("http://127.0.0.1:"), "{printed}");
    assert_eq!(run(&[]).0, 2);
}
