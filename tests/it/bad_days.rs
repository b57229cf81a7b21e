//! `standin run` and `serve --detach` on a bad day: what a machine lacks or a shell has done, and processes that are killed.
//! Either it does not matter, or it is said and nothing is left.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Output},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    eventually,
    job::{CONFIGURE, Home, configured, finish, guardian, listing},
    may_mount,
};

/// Its exit status, standard output and standard error.
fn outcome(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (printed, said) = (text(output.stdout), text(output.stderr));
    (output.status.code().unwrap(), printed, said)
}

fn run(command: &mut Command) -> (i32, String, String) {
    outcome(command.output().unwrap())
}

/// `standin serve --detach` in the home, after the prelude in a shell.
fn detach(home: &Home, prelude: &str, args: &[&str]) -> Command {
    let words = [
        "serve",
        "--detach",
        "--data",
        "data",
        "--listen",
        "127.0.0.1:0",
    ];
    home.standin_after(prelude, &[&words[..], args].concat())
}

/// Options by which the server never becomes ready: nobody writes to that pipe.
fn never_ready(home: &Home) -> [&'static str; 2] {
    let made = Command::new("mkfifo").arg(home.path("pipe")).status();
    assert!(made.unwrap().success());
    ["--tls-cert=pipe", "--tls-key=pipe"]
}

#[tokio::test]
async fn a_server_that_does_not_become_ready_is_given_up() {
    let home = Home::new();
    let options = [&never_ready(&home)[..], &["--ready-timeout", "200ms"]].concat();
    let (status, _, said) = home.run(&[&options[..], &["--", "touch", "ran"]].concat());
    assert_eq!(status, 1);
    for fragment in [
        "not ready after 200ms",
        "the command was not run",
        "--ready-timeout",
    ] {
        assert!(said.contains(fragment), "no {fragment} in {said}");
    }
    assert!(!home.path("ran").exists());
    let (status, printed, said) = run(&mut detach(&home, ":", &options));
    assert_eq!((status, printed.as_str()), (1, ""));
    for fragment in ["not ready after 200ms", "standin.log", "--ready-timeout"] {
        assert!(said.contains(fragment), "no {fragment} in {said}");
    }
    let log = fs::read_to_string(home.path("data.state/standin.log")).unwrap();
    assert!(log.contains(" starts"), "{log}");
    home.nothing_is_left().await;
}

#[tokio::test]
async fn a_signal_before_it_is_ready_stops_what_was_begun() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        for what in ["run", "detach"] {
            let home = Home::new();
            let before = listing(&home.path("root"));
            let never = never_ready(&home);
            // Whoever started the tests in the background has had SIGINT ignored.
            let words = match what {
                "run" => [&["run"], &CONFIGURE[..], &never, &["--", "touch", "ran"]].concat(),
                _ => [&["serve", "--detach", "--data=data"], &never[..]].concat(),
            };
            let prelude = "set -- env --default-signal \"$0\" \"$@\"\nexec \"$@\"";
            let begun = home.standin_after(prelude, &words).spawn().unwrap();
            // Whoever starts it listens for signals by then.
            eventually("the server begins", || async {
                !home.processes_named("standin serve --data=").is_empty()
            })
            .await;
            kill_process(Pid::from_child(&begun), signal).unwrap();
            let (code, _, said) = outcome(begun.wait_with_output().unwrap());
            let name = format!("{signal:?}");
            assert!(
                said.contains("before the") && said.contains("ready"),
                "{name}: {said}"
            );
            let expected = if what == "run" { status } else { 1 };
            assert_eq!(code, expected, "{what}, {name}: {said}");
            assert!(!home.path("ran").exists());
            home.nothing_is_left().await;
            assert_eq!(listing(&home.path("root")), before);
        }
    }
}

#[test]
fn a_disk_without_room_is_told_of() {
    if !may_mount() {
        return;
    }
    let home = Home::new();
    // Room for nothing at all, and for the keys and no image.
    let within = |size: &str, script: &str| {
        let mount = format!("mount -t tmpfs -o {size} standin-test tmp");
        let mut command = Command::new("unshare");
        let run = home.standin_after(&mount, &["run", "--", "sh", "-c", script]);
        command
            .args(["--map-root-user", "--mount"])
            .arg(run.get_program())
            .args(run.get_args())
            .current_dir(run.get_current_dir().unwrap())
            .env_clear()
            .envs(
                run.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
        self::run(&mut command)
    };
    let (status, _, said) = within("size=64k,nr_inodes=6", "touch ran");
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("the command was not run"), "{said}");
    assert!(!home.path("ran").exists());
    let push = "head -c 3000000 /dev/zero | curl -s -o /dev/null -w '%{http_code}' --data-binary @- -X POST \
                $STANDIN_URL/v2/acme/app/blobs/uploads/?digest=sha256:$(head -c 3000000 /dev/zero | sha256sum | cut -c1-64)";
    let (status, printed, said) = within("size=512k", &format!("{push}; exit 5"));
    assert_eq!((status, printed.as_str()), (5, "507"), "{said}");
    assert!(said.contains("are free"), "{said}");
    assert!(
        said.contains("standin: nothing was pulled or pushed"),
        "{said}"
    );
}

#[test]
fn a_place_that_cannot_be_written_to_is_told_of() {
    let home = Home::new();
    fs::write(home.path("file"), "").unwrap();
    let mut nowhere = home.command(&["--", "touch", "ran"]);
    nowhere.env("TMPDIR", home.path("file"));
    let (status, _, said) = run(&mut nowhere);
    assert_eq!(status, 1);
    assert!(said.contains("TMPDIR") && said.contains("--data"), "{said}");
    if may_mount() {
        let mut command = Command::new("unshare");
        let script =
            "mount -t tmpfs -o ro standin-test tmp; TMPDIR=$PWD/tmp exec \"$0\" run -- touch ran";
        command
            .args(["--map-root-user", "--mount", "sh", "-ec", script])
            .arg(env!("CARGO_BIN_EXE_standin"))
            .current_dir(home.path("."));
        let (status, _, said) = run(&mut command);
        assert_eq!(status, 1);
        assert!(said.contains("TMPDIR") && said.contains("--data"), "{said}");
        assert!(said.contains("Read-only file system"), "{said}");
    }
    assert!(!home.path("ran").exists());
}

#[tokio::test]
async fn a_strict_umask_no_home_and_no_streams_do_not_matter() {
    for prelude in [
        "umask 077; unset HOME",
        "exec <&-",
        "exec >&-",
        "exec 2>&-",
        "exec <&- >&- 2>&-",
        "exec >/dev/full 2>/dev/full",
        "trap '' HUP INT",
    ] {
        let home = Home::new();
        let script = "cat; [ -r \"$STANDIN_CA\" ] && exit 3";
        let words = [&["run"], &CONFIGURE[..], &["--", "sh", "-c", script]].concat();
        let run = home.standin_after(prelude, &words).spawn().unwrap();
        let (status, _, said) = finish(&home, run);
        assert_eq!(status, 3, "{prelude}: {said}");
        assert!(!configured(&home));

        let (status, _, said) = outcome(detach(&home, prelude, &[]).output().unwrap());
        assert_eq!(status, 0, "{prelude}: {said}");
        let stop = ["stop", "--data", "data"];
        let (status, printed, _) = self::run(&mut home.standin(&stop));
        assert_eq!(status, 0);
        assert!(printed.contains("has ended"), "{prelude}: {printed}");
        home.nothing_is_left().await;
    }
}

#[tokio::test]
async fn nohup_holds_and_without_it_the_end_of_a_terminal_is_an_end() {
    let home = Home::new();
    let script = "kill -HUP $PPID; kill -HUP $$; exit 3";
    let words = ["run", "--", "sh", "-c", script];
    let run = home.standin_after("trap '' HUP", &words).spawn().unwrap();
    assert_eq!(finish(&home, run).0, 3);
    let run = home.start(&[], "while :; do sleep 0.01; done").await;
    kill_process(Pid::from_child(&run), Signal::HUP).unwrap();
    assert_eq!(finish(&home, run).0, 129);
    // A server in the foreground drains, and writes its report.
    for (prelude, ends) in [("trap '' HUP", false), ("trap - HUP", true)] {
        let home = Home::new();
        let words = [
            "serve",
            "--data=data",
            "--listen=127.0.0.1:0",
            "--report=r.json",
        ];
        let serve = home.standin_after(prelude, &words).spawn().unwrap();
        let wait = ["wait", "--data", "data"];
        assert_eq!(self::run(&mut home.standin(&wait)).0, 0);
        let pid = Pid::from_child(&serve);
        kill_process(pid, Signal::HUP).unwrap();
        if !ends {
            assert_eq!(self::run(&mut home.standin(&wait)).0, 0);
            kill_process(pid, Signal::TERM).unwrap();
        }
        let (status, _, said) = outcome(serve.wait_with_output().unwrap());
        assert_eq!(status, 0);
        let by = if ends { "SIGHUP:" } else { "SIGTERM:" };
        assert!(said.contains(by) && said.contains("drained"), "{said}");
        assert!(home.path("r.json").exists());
    }
}

#[tokio::test]
async fn what_is_left_of_a_dead_run_is_taken_back_by_the_next() {
    let home = Home::new();
    let own = home.path("root/etc/containers/registries.conf");
    fs::write(&own, "# mine\n").unwrap();
    let before = listing(&home.path("root"));
    let options = [
        &CONFIGURE[..],
        &["--registry", "quay.io=http://127.0.0.1:1"],
    ]
    .concat();
    let mut run = home.start(&options, "while :; do sleep 0.01; done").await;
    // Together with whom would have put it right.
    let guardian = guardian(&home);
    for victim in [Pid::from_child(&run), guardian] {
        kill_process(victim, Signal::STOP).unwrap();
    }
    for victim in [guardian, Pid::from_child(&run), home.started_pid()] {
        kill_process(victim, Signal::KILL).unwrap();
    }
    run.wait().unwrap();
    eventually("the server ends by itself", || async {
        home.processes_named("standin serve").is_empty()
    })
    .await;
    assert!(configured(&home), "nobody has taken it back");
    let script = format!("cat {}", own.display());
    let again = home.command(&[&options[..], &["--", "sh", "-c", &script]].concat());
    let (status, printed, said) = self::run(&mut { again });
    assert_eq!((status, printed.as_str()), (0, "# mine\n"), "{said}");
    assert!(
        said.contains("a run that was killed has left podman, docker set up"),
        "{said}"
    );
    assert_eq!(listing(&home.path("root")), before);
    home.nothing_is_left().await;
}

#[tokio::test]
async fn a_process_that_holds_the_output_keeps_nobody() {
    let home = Home::new();
    // In a session of its own, with the command's streams.
    let script = "setsid sh -c 'echo $$ >daemon.new; mv daemon.new daemon; exec sleep 1h' & \
                  until [ -e daemon ]; do sleep 0.01; done; exit 3";
    let mut run: Child = home.command(&["--", "sh", "-c", script]).spawn().unwrap();
    let mut status = None;
    eventually("the run ends", || {
        status = run.try_wait().unwrap();
        let ended = status.is_some();
        async move { ended }
    })
    .await;
    assert_eq!(status.unwrap().code(), Some(3));
    let daemon = fs::read_to_string(home.path("daemon")).unwrap();
    let daemon = Pid::from_raw(daemon.trim().parse().unwrap()).unwrap();
    kill_process(daemon, Signal::KILL).expect("setsid keeps a process");
    home.nothing_is_left().await;
}

#[test]
fn a_process_group_of_another_namespace_does_not_matter() {
    if !may_mount() {
        return;
    }
    // As in a container that was entered: the group that we are in has no number there.
    let home = Home::new();
    let run = home.command(&["--", "sh", "-c", "echo $$; exit 3"]);
    let mut command = Command::new("unshare");
    command
        .args([
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
        ])
        .arg(run.get_program())
        .args(run.get_args())
        .current_dir(run.get_current_dir().unwrap())
        .env_clear()
        .envs(
            run.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    let (status, printed, said) = self::run(&mut command);
    assert_eq!(status, 3, "{said}");
    assert_ne!(printed, "");
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is_begun() {
    let home = Home::new();
    let before = listing(&home.path("root"));
    let script = home.path("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(home.path("directory")).unwrap();
    for (command, status) in [
        ("no-such-command", 127),
        ("./missing", 127),
        ("./directory", 126),
        ("./script", 126),
    ] {
        let (code, _, said) = home.run(&[&CONFIGURE[..], &["--", command]].concat());
        assert_eq!(code, status, "{said}");
        assert!(said.contains(command.trim_start_matches("./")), "{said}");
        assert_eq!(listing(&home.path("root")), before);
    }
}
