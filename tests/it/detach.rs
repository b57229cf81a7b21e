//! A server beside the steps of a job: `serve --detach`, `status`, `wait`, `stop`, and the end with a parent.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{Raw, TestRegistry, eventually};

/// Directories of one server, which is killed with it if it still runs.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `standin ARGS` in this directory, where the data are in `data`.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_standin"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env_clear()
            .env("STANDIN_DATA", self.path("data"))
            .stdin(Stdio::null());
        command
    }

    /// Its exit status, standard output and standard error; both streams have ended.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        outcome(self.command(args).output().unwrap())
    }

    fn detach(&self, args: &[&str]) -> (i32, String, String) {
        let all = [&["serve", "--detach", "--listen", "127.0.0.1:0"], args].concat();
        self.run(&all)
    }

    fn ready_file(&self) -> PathBuf {
        self.path("data.state/ready.json")
    }

    fn ready(&self) -> Value {
        serde_json::from_slice(&fs::read(self.ready_file()).unwrap()).unwrap()
    }

    fn pid(&self) -> Pid {
        let pid = self.ready()["pid"].as_i64().unwrap();
        Pid::from_raw(pid.try_into().unwrap()).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.ready_file().exists() {
            let _ = kill_process(self.pid(), Signal::KILL);
        }
    }
}

fn outcome(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().unwrap();
    (status, text(output.stdout), text(output.stderr))
}

/// Whether it has ended. One that nobody has waited for is as good as gone.
fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

async fn gone(pid: Pid) {
    eventually("the process ends", || async { is_gone(pid) }).await;
}

#[tokio::test]
async fn a_detached_server_is_ready_found_and_stopped() {
    let home = Home::new();
    // That this returns says that the server holds neither stream.
    let (status, line, said) = home.detach(&["--ready-file", "ready.json"]);
    assert_eq!((status, said.as_str()), (0, ""));
    let ready = home.ready();
    let http = ready["http"].as_str().unwrap();
    assert!(
        line.starts_with(&format!("standin ready {http} https://")),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
    let ready_file = fs::read(home.path("ready.json")).unwrap();
    assert_eq!(ready_file, fs::read(home.ready_file()).unwrap());

    let pid = home.pid();
    let proc = format!("/proc/{}", pid.as_raw_nonzero());
    let stat = fs::read_to_string(format!("{proc}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let (session, terminal) = (fields[3], fields[4]);
    assert_eq!(
        session,
        pid.as_raw_nonzero().to_string(),
        "a session of its own"
    );
    assert_eq!(terminal, "0");
    let open = |n| fs::read_link(format!("{proc}/fd/{n}")).unwrap();
    assert_eq!(open(0), Path::new("/dev/null"));
    assert_eq!(open(2), home.path("data.state/standin.log"));

    let (status, text, _) = home.run(&["status"]);
    assert_eq!(status, 0, "{text}");
    for fragment in ["is up since 20", http, "nothing was pulled or pushed yet"] {
        assert!(text.contains(fragment), "no {fragment} in: {text}");
    }
    let (_, json, _) = home.run(&["status", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["up"], true);
    assert_eq!(json["instance"]["http"], http);
    assert_eq!(json["report"]["totals"]["pulls"], 0);
    assert_eq!(json["report"]["running"], true);

    assert_eq!(home.run(&["wait"]).0, 0);
    assert_eq!(home.run(&["wait", "--url", http]).0, 0);
    let (status, text, _) = home.run(&["stop", "--ready-file", "ready.json"]);
    assert_eq!(status, 0);
    assert!(text.contains("has ended"), "{text}");
    assert!(is_gone(pid), "it is waited for");
    assert!(!home.ready_file().exists());
    assert!(!home.path("ready.json").exists());
    let log = fs::read_to_string(home.path("data.state/standin.log")).unwrap();
    // The story ends with what it was about.
    for line in [
        format!(
            "listens on {}; what it does is told at {http}/status",
            &http[7..]
        ),
        "drained".to_owned(),
        "in all: nothing was pulled or pushed".to_owned(),
    ] {
        assert!(log.contains(&line), "no {line} in {log}");
    }

    let (status, text, _) = home.run(&["stop"]);
    assert_eq!(status, 0, "stopping twice is no failure");
    assert!(text.contains("no standin runs"), "{text}");
    let (status, text, _) = home.run(&["status"]);
    assert_eq!(status, 1);
    assert!(text.contains("not up"), "{text}");
    let (status, json, _) = home.run(&["status", "--json"]);
    assert_eq!(status, 1);
    assert!(json.contains("\"up\":false"), "{json}");
}

#[test]
fn a_detached_servers_report_is_there_when_it_is_stopped() {
    let home = Home::new();
    let args = [
        "serve",
        "--detach",
        "--listen",
        "127.0.0.1:0",
        "--report",
        "r.json",
    ];
    let mut start = home.command(&args);
    start.env("GITHUB_STEP_SUMMARY", home.path("summary.md"));
    assert_eq!(outcome(start.output().unwrap()).0, 0);
    let (_, live, _) = home.run(&["status"]);
    assert!(!home.path("r.json").exists() && !home.path("summary.md").exists());
    assert_eq!(home.run(&["stop"]).0, 0);
    let report: Value = serde_json::from_slice(&fs::read(home.path("r.json")).unwrap()).unwrap();
    assert_eq!(report["running"], false);
    assert_eq!(report["summary"][0], "nothing was pulled or pushed");
    assert!(live.contains(report["started"].as_str().unwrap()), "{live}");
    let summary = fs::read_to_string(home.path("summary.md")).unwrap();
    assert!(
        summary.contains("- nothing was pulled or pushed"),
        "{summary}"
    );
}

#[test]
fn what_a_server_has_done_is_told_to_those_who_may_read() {
    let home = Home::new();
    assert_eq!(home.detach(&["--user", "ci:secret:read"]).0, 0);
    let (status, text, _) = home.run(&["status"]);
    assert_eq!(status, 0, "it is up all the same: {text}");
    assert!(text.contains("give --user NAME:PASSWORD"), "{text}");
    let (status, text, _) = home.run(&["status", "--user", "ci:wrong"]);
    assert_eq!(status, 0);
    assert!(
        text.contains("knows none of that name and password"),
        "{text}"
    );
    let (_, text, _) = home.run(&["status", "--user", "ci:secret"]);
    assert!(text.contains("nothing was pulled or pushed yet"), "{text}");
    let (_, json, _) = home.run(&["status", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["up"], &json["report"]),
        (&Value::Bool(true), &Value::Null)
    );
}

#[test]
fn what_keeps_a_detached_server_from_starting_is_said() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, printed, said) = home.run(&["serve", "--detach", "--listen", &address]);
    assert_eq!((status, printed.as_str()), (1, ""));
    assert_eq!(
        said.trim_end(),
        format!(
            "standin: error: {address} is in use: stop what listens there, or give --listen another port (0 picks a free one)"
        )
    );
    let (status, _, said) = home.detach(&["--grace", "soon"]);
    assert_eq!(status, 2, "a mistake of usage is one all the same: {said}");
    fs::write(home.path("file"), "").unwrap();
    let (status, _, said) = home.detach(&["--log-file", "file/log"]);
    assert_eq!(status, 1);
    assert!(
        said.contains("file/log") && said.contains("--log-file"),
        "{said}"
    );
    let (status, _, said) = home.detach(&["--exit-with-parent"]);
    assert_eq!(status, 1);
    assert!(said.contains("=PID"), "{said}");
}

#[tokio::test]
async fn a_stop_never_meets_another_process() {
    let home = Home::new();
    assert_eq!(home.detach(&[]).0, 0);
    let server = home.pid();
    kill_process(server, Signal::KILL).unwrap();
    gone(server).await;
    let (status, text, _) = home.run(&["stop"]);
    assert_eq!(status, 0);
    assert!(text.contains("has ended before"), "{text}");
    // The id is another's now.
    let mut other = Command::new("sleep").arg("1h").spawn().unwrap();
    let mut ready = home.ready();
    ready["pid"] = other.id().into();
    fs::write(home.ready_file(), ready.to_string()).unwrap();
    let (status, text, _) = home.run(&["stop"]);
    assert_eq!(status, 0);
    assert!(text.contains("has ended before"), "{text}");
    assert!(other.try_wait().unwrap().is_none(), "it was killed");
    let (status, text, _) = home.run(&["status"]);
    assert_eq!(status, 1, "{text}");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn a_stop_waits_for_the_requests_in_flight() {
    let home = Home::new();
    assert_eq!(home.detach(&["--grace", "1h"]).0, 0);
    let address = home.ready()["address"].as_str().unwrap().parse().unwrap();
    let mut raw = Raw::connect(address).await;
    raw.head("POST /v2/acme/app/blobs/uploads/\nContent-Length: 0")
        .await;
    let location = raw.answer().await.header("location").unwrap().to_owned();
    raw.head(&format!("PATCH {location}\nContent-Length: 1000"))
        .await;
    raw.send(b"a beginning").await;
    let pid = home.pid();
    let (status, _, said) = home.run(&["stop", "--timeout", "300ms"]);
    assert_eq!(status, 1);
    assert!(said.contains("another `standin stop`"), "{said}");
    eventually("the listener closes", || async {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    let (status, text, said) = home.run(&["stop"]);
    assert_eq!(status, 0, "{said}");
    assert!(text.contains("has ended"), "{text}");
    gone(pid).await;
}

#[test]
fn waiting_ends_when_it_is_ready_or_says_why_it_is_not() {
    let home = Home::new();
    let (status, printed, said) = home.run(&["wait", "--timeout", "100ms"]);
    assert_eq!((status, printed.as_str()), (1, ""));
    assert!(
        said.contains("ready.json") && said.contains("100ms"),
        "{said}"
    );
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{nobody}");
    let (status, _, said) = home.run(&["wait", "--timeout", "100ms", "--url", &url]);
    assert_eq!(status, 1);
    assert!(said.contains("refused"), "{said}");
    let early = home
        .command(&["wait"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(home.detach(&[]).0, 0);
    let early = early.wait_with_output().unwrap();
    assert_eq!(early.status.code(), Some(0));
    // One that was killed has left its file; that is not being ready.
    kill_process(home.pid(), Signal::KILL).unwrap();
    let (status, _, said) = home.run(&["wait", "--timeout", "100ms"]);
    assert_eq!(status, 1, "{said}");
}

/// A shell that starts a server by `command` and goes on; killed, it leaves nobody to say good-bye.
fn shell_with(home: &Home, command: &str) -> Child {
    let script = format!("{command} & while :; do sleep 1; done");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &script, env!("CARGO_BIN_EXE_standin")])
        .env("STANDIN_DATA", home.path("data"))
        .env("STANDIN_LISTEN", "127.0.0.1:0")
        .env("STANDIN_LOG_FILE", home.path("log"))
        .stdout(Stdio::null());
    shell.spawn().unwrap()
}

#[tokio::test]
async fn a_server_ends_with_its_parent_however_that_ends() {
    for command in [
        "\"$0\" serve --exit-with-parent",
        "\"$0\" serve --exit-with-parent=$$",
    ] {
        let home = Home::new();
        let mut shell = shell_with(&home, command);
        assert_eq!(home.run(&["wait"]).0, 0);
        let server = home.pid();
        shell.kill().unwrap();
        shell.wait().unwrap();
        gone(server).await;
        let log = fs::read_to_string(home.path("log")).unwrap();
        assert!(log.contains("has ended, and this one with it"), "{log}");
        assert!(log.contains("drained"), "{log}");
        assert!(!home.ready_file().exists());
    }
}

#[test]
fn a_parent_that_has_ended_is_told_of() {
    let home = Home::new();
    let mut short = Command::new("true").spawn().unwrap();
    short.wait().unwrap();
    let flag = format!("--exit-with-parent={}", short.id());
    let (status, _, said) = home.run(&["serve", "--listen", "127.0.0.1:0", &flag]);
    assert_eq!(status, 1);
    assert!(said.contains("has ended already"), "{said}");
}

#[tokio::test]
async fn the_log_goes_to_a_file() {
    let builder = TestRegistry::builder();
    let log = builder.home().join("logs/standin.log");
    let registry = builder
        .args(["--log-file", log.to_str().unwrap()])
        .start()
        .await;
    let starts = || {
        fs::read_to_string(&log)
            .unwrap()
            .matches("listens on")
            .count()
    };
    eventually("the start is told", || async { starts() == 1 }).await;
    let registry = registry.stop().await.start().await;
    eventually("the log is added to", || async { starts() == 2 }).await;
    assert_eq!(registry.log().text(), "");
}
