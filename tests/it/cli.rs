//! The command line as scripts use it: the ready line and file, exit statuses, and refusals that say what to do.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Exchange, TestRegistry, image::Image};

/// `standin` with `args`, in an environment that holds `env` and nothing else.
fn standin(args: &[&str], env: &[(&str, &Path)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn the_ready_file_holds_what_the_ready_line_says_and_more() {
    let builder = TestRegistry::builder();
    let file = builder.home().join("ready.json");
    let registry = builder
        .args(["--ready-file", file.to_str().unwrap()])
        .start()
        .await;
    let ready: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let address = registry.address().to_string();
    assert_eq!(ready["address"], address);
    assert_eq!(ready["http"], format!("http://{address}"));
    assert_eq!(ready["https"], format!("https://{address}"));
    assert_eq!(ready["proxy"], format!("http://{address}"));
    assert_eq!(ready["ca"], registry.ca().to_str().unwrap());
    let data = registry.home().join("data");
    assert_eq!(ready["data"], data.to_str().unwrap());
    assert_eq!(ready["pid"], registry.pid().as_raw_nonzero().get());
    assert_eq!(ready["listeners"].as_array().unwrap().len(), 1);
    assert!(registry.ca().is_absolute());
    // Written beside and renamed: whoever sees the file sees all of it, and nothing else is left.
    let mut names: Vec<_> = std::fs::read_dir(registry.home())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["data", "ready.json", "state"]);
}

#[tokio::test]
async fn it_listens_in_several_places() {
    let builder = TestRegistry::builder();
    let file = builder.home().join("ready.json");
    let registry = builder
        .args(["--listen", "127.0.0.2:0"])
        .args(["--ready-file", file.to_str().unwrap()])
        .start()
        .await;
    let ready: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let listeners = ready["listeners"].as_array().unwrap();
    assert_eq!(listeners.len(), 2, "{ready}");
    assert_eq!(ready["address"], registry.address().to_string());
    let image = Image::small(1);
    registry.client().push_image("acme/app", "v1", &image).await;
    let second = ready.to_string();
    let second = second.split("127.0.0.2:").nth(1).unwrap();
    let port: String = second.chars().take_while(char::is_ascii_digit).collect();
    let pem = std::fs::read(registry.ca()).unwrap();
    for scheme in ["http", "https"] {
        let base = format!("{scheme}://127.0.0.2:{port}");
        let client = crate::support::Client::new(&base, &pem, &[]);
        client.pull_image("acme/app", "v1", &image).await;
    }
}

#[tokio::test]
async fn a_port_in_use_is_refused_by_name() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let builder = TestRegistry::builder().args(["--listen", &address]);
    let (status, said) = builder.fails_to_start().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&address), "{said}");
    assert!(said.contains("in use"), "{said}");
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused_with_the_pid() {
    let registry = TestRegistry::start().await;
    let data = registry.home().join("data");
    let second = TestRegistry::builder();
    let state = second.state();
    let second = second.directories(data.clone(), state);
    let (status, said) = second.fails_to_start().await;
    assert_eq!(status.code(), Some(1), "{said}");
    let pid = registry.pid().as_raw_nonzero().to_string();
    assert!(said.contains(&pid), "{said}");
    assert!(said.contains(data.to_str().unwrap()), "{said}");
    // The first is none the worse.
    let image = Image::small(2);
    registry.client().push_image("acme/app", "v1", &image).await;
}

#[tokio::test]
async fn a_stale_lock_is_taken_over() {
    let registry = TestRegistry::start().await;
    let image = Image::small(3);
    registry.client().push_image("acme/app", "v1", &image).await;
    let registry = registry.kill().await.start().await;
    registry.client().pull_image("acme/app", "v1", &image).await;
}

#[test]
fn usage_errors_exit_with_2_and_name_what_is_wrong() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("data");
    let data = directory.to_str().unwrap();
    let rows: [(&[&str], &[&str]); 9] = [
        (&["serve", "--frobnicate"], &["--frobnicate"]),
        (&["frobnicate"], &["frobnicate"]),
        (
            &["serve", "--listen", "nonsense"],
            &["--listen", "nonsense"],
        ),
        (&["serve", "--tag-ttl", "5"], &["--tag-ttl", "5m"]),
        (&["serve", "--grace", "soon"], &["--grace", "soon"]),
        (&["serve", "--durability", "none"], &["job", "full"]),
        (
            &["serve", "--local-only", "a//b"],
            &["--local-only", "a//b"],
        ),
        (&["serve", "--registry", "not a host"], &["--registry"]),
        (
            &["serve", "--tls-cert", "x.pem"],
            &["--tls-cert", "tls-key"],
        ),
    ];
    for (args, fragments) in rows {
        let mut args = args.to_vec();
        if args[0] == "serve" {
            args.extend(["--data", data]);
        }
        let output = standin(&args, &[("HOME", home.path())]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        for fragment in fragments {
            assert!(said.contains(fragment), "{args:?}: {said}");
        }
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(!directory.exists(), "{args:?} made a directory");
    }
}

#[test]
fn a_config_file_is_refused_with_the_key_that_nobody_knows() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("standin.yaml");
    std::fs::write(&file, "offline: true\ntag-tll: 5m\n").unwrap();
    let config = file.to_str().unwrap();
    let output = standin(&["serve", "--config", config], &[("HOME", home.path())]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for fragment in [config, "tag-tll", "tag-ttl"] {
        assert!(said.contains(fragment), "{said}");
    }
}

#[tokio::test]
async fn options_from_the_environment_and_a_file() {
    let builder = TestRegistry::builder();
    let file = builder.home().join("standin.yaml");
    let ready = builder.home().join("from-env.json");
    let text = format!(
        "ready-file: {}\nlocal-only: ['secret/**']\n",
        builder.home().join("from-file.json").display()
    );
    std::fs::write(&file, text).unwrap();
    let registry = builder
        .env("STANDIN_CONFIG", file.to_str().unwrap())
        .env("STANDIN_READY_FILE", ready.to_str().unwrap())
        .start()
        .await;
    assert!(ready.exists(), "the variable beats the file");
    assert!(!registry.home().join("from-file.json").exists());
}

#[test]
fn help_and_version() {
    let rows: [(&[&str], &[&str]); 3] = [
        (&["--version"], &[env!("CARGO_PKG_VERSION")]),
        (&["--help"], &["serve", "ca"]),
        (
            &["serve", "--help"],
            &["--listen", "--registry", "--seed", "STANDIN_TAG_TTL", "5m"],
        ),
    ];
    for (args, fragments) in rows {
        let output = standin(args, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        for fragment in fragments {
            assert!(text.contains(fragment), "{args:?} lacks {fragment}: {text}");
        }
    }
}

#[tokio::test]
async fn ca_path_and_show() {
    let builder = TestRegistry::builder();
    let state = builder.state();
    let of_state = ["--state", state.to_str().unwrap()];
    let early = standin(&[&["ca", "path"][..], &of_state].concat(), &[]);
    assert_eq!(early.status.code(), Some(1));
    assert!(said(&early).contains("standin serve"), "{}", said(&early));

    let registry = builder.start().await;
    let path = standin(&[&["ca", "path"][..], &of_state].concat(), &[]);
    assert_eq!(path.status.code(), Some(0), "{}", said(&path));
    let printed = String::from_utf8(path.stdout).unwrap();
    assert_eq!(printed.trim_end(), registry.ca().to_str().unwrap());

    let show = standin(&[&["ca", "show"][..], &of_state].concat(), &[]);
    assert_eq!(show.status.code(), Some(0), "{}", said(&show));
    let printed = String::from_utf8(show.stdout).unwrap();
    assert!(printed.contains(registry.ca().to_str().unwrap()));
    assert!(printed.contains("localhost"), "{printed}");
}

#[tokio::test]
async fn it_runs_without_a_home() {
    let home = tempfile::tempdir().unwrap();
    // Another program's idea of a home: neither HOME nor TMPDIR, but a place for data.
    let child = Command::new(env!("CARGO_BIN_EXE_standin"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--no-default-registries",
        ])
        .args(["--ready-file", "ready.json"])
        .current_dir(home.path())
        .env_clear()
        .env("XDG_DATA_HOME", home.path().join("share"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::inherit())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let ready = home.path().join("ready.json");
    crate::support::eventually("the ready file", || async { ready.exists() }).await;
    let ready: Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
    let data = home.path().join("share/standin");
    assert_eq!(ready["data"], data.to_str().unwrap());
    // The state is beside the data and never in it: a cache of the data must not carry keys.
    let ca = home.path().join("share/standin.state/ca.pem");
    assert_eq!(ready["ca"], ca.to_str().unwrap());
    kill_process(pid, Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.starts_with(b"standin ready "));
}

#[tokio::test]
async fn state_inside_data_is_refused() {
    let builder = TestRegistry::builder();
    let state = builder.data().join("state");
    let builder = builder.clone().directories(builder.data(), state.clone());
    let (status, said) = builder.fails_to_start().await;
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains(state.to_str().unwrap()), "{said}");
}

#[tokio::test]
async fn a_newer_layout_is_refused_with_a_sentence() {
    let builder = TestRegistry::start().await.stop().await;
    let version = builder.data().join("version");
    let known = std::fs::read_to_string(&version).unwrap();
    std::fs::write(&version, "999\n").unwrap();
    let data = builder.data();
    let (status, said) = builder.clone().fails_to_start().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("999"), "{said}");
    assert!(said.contains(data.to_str().unwrap()), "{said}");
    std::fs::write(&version, known).unwrap();
    builder.start().await;
}

#[tokio::test]
async fn a_directory_with_other_things_in_it_is_left_alone() {
    let builder = TestRegistry::builder();
    let data = builder.data();
    std::fs::create_dir_all(data.join("uploads")).unwrap();
    std::fs::write(data.join("uploads/thesis.txt"), "mine").unwrap();
    let (status, said) = builder.clone().fails_to_start().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains(data.to_str().unwrap()) && said.contains("uploads"),
        "{said}"
    );
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1);
    assert_eq!(
        std::fs::read(data.join("uploads/thesis.txt")).unwrap(),
        b"mine"
    );
}

#[tokio::test]
async fn a_strict_umask_and_another_tmpdir() {
    let registry = TestRegistry::builder()
        .shell("umask 077")
        .env("TMPDIR", "/nonexistent")
        .start()
        .await;
    let image = Image::small(4);
    registry.client().push_image("acme/app", "v1", &image).await;
    let registry = registry.restart().await;
    registry.client().pull_image("acme/app", "v1", &image).await;
    let mode = std::fs::metadata(registry.home().join("data")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o077, 0);
}

#[tokio::test]
async fn the_log_goes_to_standard_error_alone_and_can_be_asked_for() {
    let registry = TestRegistry::builder()
        .env("RUST_LOG", "debug")
        .start()
        .await;
    registry.client().get("/v2/").answer().await.expect(200);
    registry.log().line_with(&["DEBUG"]).await;
    // `stop` asserts that standard output holds the ready line only.
    registry.stop().await;
}
