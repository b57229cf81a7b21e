//! `standin run` at a terminal: its keys are the command's, and the terminal is the shell's again afterwards.

use std::{fs, process::Command};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    eventually,
    job::{CONFIGURE, Home, configured, listing},
    terminal::{CTRL_C, CTRL_Z, Terminal},
};

/// `sh` at a terminal; `run` in its script is `standin run` with podman pointed at it.
fn at_terminal(home: &Home, script: &str) -> Terminal {
    let run = home.command(&CONFIGURE);
    let words = run.get_args().map(|word| word.to_str().unwrap());
    // Without the program, and what gives it signals that the shell is to have instead.
    let words: Vec<&str> = words.skip_while(|word| *word != "run").collect();
    let function = format!("run() {{ \"$0\" {} \"$@\"; }}\n", words.join(" "));
    let mut shell = Command::new("sh");
    shell
        .args([
            "-c",
            &format!("{function}{script}"),
            env!("CARGO_BIN_EXE_standin"),
        ])
        .current_dir(run.get_current_dir().unwrap())
        .envs(
            run.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    Terminal::start(&shell)
}

/// A command that says its process id, and then does as it is told.
fn told(then: &str) -> String {
    format!("sh -c 'echo $$ >pid.new; mv pid.new pid; echo begun; {then}'")
}

async fn command(home: &Home) -> Pid {
    eventually("the command begins", || async { home.path("pid").exists() }).await;
    home.started_pid()
}

async fn is_foreground(terminal: &Terminal, group: Pid) {
    eventually("it is the terminal's foreground", || async {
        terminal.foreground() == group
    })
    .await;
}

fn state(pid: Pid) -> String {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let stat = stat.unwrap_or_default();
    let fields = stat.rsplit_once(") ").unwrap_or_default().1;
    fields.chars().take(1).collect()
}

const FOR_EVER: &str = "while :; do sleep 0.01; done";

#[tokio::test]
async fn ctrl_c_is_the_commands_and_all_is_put_back() {
    let home = Home::new();
    let before = listing(&home.path("root"));
    // A shell with job control goes on behind it, and says what it sees.
    let script = format!(
        "set -m; run -- {}; echo \"status $?\"; read line",
        told(FOR_EVER)
    );
    let terminal = at_terminal(&home, &script);
    let command = command(&home).await;
    is_foreground(&terminal, command).await;
    assert!(configured(&home));
    terminal.types(CTRL_C);
    terminal.shows("status 130").await;
    assert!(
        terminal
            .shown()
            .contains("standin: nothing was pulled or pushed")
    );
    assert_eq!(terminal.foreground(), terminal.shell());
    assert_eq!(listing(&home.path("root")), before);
    home.nothing_is_left_but(terminal.shell()).await;
}

#[tokio::test]
async fn ctrl_c_ends_the_script_around_it_as_it_would_without() {
    let home = Home::new();
    let script = format!("run -- {}; echo went on", told(FOR_EVER));
    let mut terminal = at_terminal(&home, &script);
    let command = command(&home).await;
    is_foreground(&terminal, command).await;
    terminal.types(CTRL_C);
    let status = terminal.ended().await;
    assert!(!status.success(), "{status}");
    assert!(!terminal.shown().contains("went on"));
    home.nothing_is_left().await;
    // A command that makes something else of it has that status, and the script goes on.
    let home = Home::new();
    let script = format!(
        "run -- {}; echo \"status $?\"",
        told(&format!("trap \"exit 5\" INT; echo deaf; {FOR_EVER}"))
    );
    let mut terminal = at_terminal(&home, &script);
    terminal.shows("deaf").await;
    let command = self::command(&home).await;
    is_foreground(&terminal, command).await;
    terminal.types(CTRL_C);
    terminal.shows("status 5").await;
    assert!(terminal.ended().await.success());
}

#[tokio::test]
async fn ctrl_z_stops_it_all_and_fg_goes_on() {
    let home = Home::new();
    let script = format!(
        "set -m; run -- {}; echo \"stopped $?\"; read line; fg; echo \"status $?\"; read line",
        told(&format!(
            "trap \"echo went on\" CONT; echo ready; {FOR_EVER}"
        ))
    );
    let terminal = at_terminal(&home, &script);
    terminal.shows("ready").await;
    let command = command(&home).await;
    is_foreground(&terminal, command).await;
    for round in 1..=2 {
        terminal.types(CTRL_Z);
        if round == 1 {
            terminal.shows("stopped 148").await;
            eventually("the shell has the terminal", || async {
                terminal.foreground() == terminal.shell()
            })
            .await;
            assert_eq!(state(command), "T");
            terminal.types("\n");
        } else {
            // fg has returned.
            terminal.shows("status 148").await;
            break;
        }
        terminal.shows("went on").await;
        is_foreground(&terminal, command).await;
    }
    // Told to end while it is stopped, it ends.
    let run = home.processes_named("standin run");
    for run in run {
        kill_process(run, Signal::TERM).unwrap();
        kill_process(run, Signal::CONT).unwrap();
    }
    home.nothing_is_left_but(terminal.shell()).await;
    assert!(!configured(&home));
}

#[tokio::test]
async fn a_command_that_reads_the_terminal_gets_what_is_typed() {
    let home = Home::new();
    let script = format!(
        "run -- {}; read line; echo \"shell $line\"",
        told("read line; echo \"command $line\"")
    );
    let mut terminal = at_terminal(&home, &script);
    terminal.shows("begun").await;
    terminal.types("one\n");
    terminal.shows("command one").await;
    // The terminal is the script's again, which would be stopped else.
    terminal.shows("standin: nothing").await;
    terminal.types("two\n");
    terminal.shows("shell two").await;
    assert!(terminal.ended().await.success());
    home.nothing_is_left().await;
}

#[tokio::test]
async fn one_in_the_background_leaves_the_terminal_to_the_script() {
    let home = Home::new();
    let script = format!(
        "run -- {} & while ! [ -e pid ]; do sleep 0.01; done; read line; echo \"shell $line\"; \
         kill $!; wait $!; echo \"status $?\"",
        told(FOR_EVER)
    );
    let mut terminal = at_terminal(&home, &script);
    terminal.shows("begun").await;
    terminal.types("one\n");
    terminal.shows("shell one").await;
    terminal.shows("status 143").await;
    terminal.ended().await;
    home.nothing_is_left().await;
    // One that reads there is stopped like any other, until it is in the foreground.
    let home = Home::new();
    let script = format!(
        "set -m; run -- {} & read line; fg; echo \"status $?\"",
        told("read line </dev/tty; echo \"command $line\"; exit 3")
    );
    let mut terminal = at_terminal(&home, &script);
    let command = command(&home).await;
    eventually("it is stopped for reading", || async {
        state(command) == "T"
    })
    .await;
    terminal.types("\n");
    eventually("it has the terminal", || async {
        terminal.foreground() == command
    })
    .await;
    terminal.types("two\n");
    terminal.shows("command two").await;
    terminal.shows("status 3").await;
    terminal.ended().await;
    home.nothing_is_left().await;
}

#[tokio::test]
async fn a_closed_terminal_ends_it() {
    let home = Home::new();
    let before = listing(&home.path("root"));
    let script = format!("run -- {}; :", told(FOR_EVER));
    let mut terminal = at_terminal(&home, &script);
    command(&home).await;
    terminal.close();
    home.nothing_is_left().await;
    assert_eq!(listing(&home.path("root")), before);
}

#[tokio::test]
async fn whoever_kills_the_run_leaves_the_terminal_to_the_shell() {
    let home = Home::new();
    let script = format!(
        "run -- {} 2>&1 | cat; read line; echo \"shell $line\"",
        told(FOR_EVER)
    );
    let mut terminal = at_terminal(&home, &script);
    let command = command(&home).await;
    is_foreground(&terminal, command).await;
    for run in home.processes_named("standin run") {
        kill_process(run, Signal::KILL).unwrap();
    }
    terminal.shows("`standin run` was killed").await;
    eventually("the shell has the terminal", || async {
        terminal.foreground() == terminal.shell()
    })
    .await;
    terminal.types("one\n");
    terminal.shows("shell one").await;
    terminal.ended().await;
    home.nothing_is_left().await;
}

#[tokio::test]
async fn a_terminal_that_stops_writers_in_its_background_stops_nobody() {
    let home = Home::new();
    let script = format!(
        "stty tostop; RUST_LOG=info run -- {}; echo \"status $?\"",
        told("sleep 0.1 & exit 4")
    );
    let mut terminal = at_terminal(&home, &script);
    terminal.shows("listens on").await;
    terminal.shows("status 4").await;
    terminal.ended().await;
    home.nothing_is_left().await;
}
