//! `standin run` in a directory of its own: started, and what is left of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::Pid;
use tempfile::TempDir;

use super::eventually;

/// A directory of its own for all that a run makes.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self(TempDir::new().unwrap());
        for name in [
            "tmp",
            "home",
            "root/etc/containers/registries.conf.d",
            "root/etc/docker",
        ] {
            fs::create_dir_all(home.path(name)).unwrap();
        }
        // As nobody but a person would write it.
        fs::write(
            home.path("root/etc/docker/daemon.json"),
            "{ \"debug\" :true}",
        )
        .unwrap();
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `standin run ARGS`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.standin(&[&["run"], args].concat())
    }

    /// `standin ARGS`, with nothing in its environment that is not of this directory.
    pub(crate) fn standin(&self, args: &[&str]) -> Command {
        let mut command = as_from_a_shell(env!("CARGO_BIN_EXE_standin"));
        command.args(args);
        self.within(command)
    }

    /// The same, in `sh`, which runs `prelude` before and becomes it.
    pub(crate) fn standin_after(&self, prelude: &str, args: &[&str]) -> Command {
        let mut command = as_from_a_shell("sh");
        command
            .args(["-ec", &format!("{prelude}\nexec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_standin"))
            .args(args);
        self.within(command)
    }

    fn within(&self, mut command: Command) -> Command {
        command
            .current_dir(self.0.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("STANDIN_NO_DEFAULT_REGISTRIES", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Its exit status, standard output and standard error, with nothing left behind.
    pub(crate) fn run(&self, args: &[&str]) -> (i32, String, String) {
        finish(self, self.command(args).spawn().unwrap())
    }

    pub(crate) fn sh(&self, script: &str) -> (i32, String, String) {
        self.run(&["--", "sh", "-c", script])
    }

    /// Starts one whose command writes `started` and then does as it is told.
    pub(crate) async fn start(&self, options: &[&str], script: &str) -> Child {
        let script =
            format!("echo $$ >pid; cat \"$STANDIN_READY_FILE\" >ready; : >started\n{script}");
        let args = [options, &["--", "sh", "-c", &script]].concat();
        let child = self.command(&args).spawn().unwrap();
        eventually("the command starts", || async {
            self.path("started").exists()
        })
        .await;
        child
    }

    pub(crate) fn started_pid(&self) -> Pid {
        pid(&fs::read_to_string(self.path("pid")).unwrap())
    }

    pub(crate) fn server_pid(&self) -> Pid {
        let ready: serde_json::Value =
            serde_json::from_slice(&fs::read(self.path("ready")).unwrap()).unwrap();
        pid(&ready["pid"].to_string())
    }

    /// Neither a process nor a file is left of it.
    pub(crate) async fn nothing_is_left(&self) {
        self.nothing_is_left_of(|_| true).await;
    }

    /// The same, but for the shell around it.
    pub(crate) async fn nothing_is_left_but(&self, shell: Pid) {
        self.nothing_is_left_of(|pid| pid != shell).await;
    }

    async fn nothing_is_left_of(&self, counts: impl Fn(Pid) -> bool) {
        let tmp = self.path("tmp");
        eventually("what is temporary is removed", || async {
            fs::read_dir(&tmp).unwrap().count() == 0
        })
        .await;
        eventually("no process is left", || async {
            !self.processes().iter().any(|(pid, _)| counts(*pid))
        })
        .await;
    }

    /// Processes whose environment names the directory, with their command lines.
    fn processes(&self) -> Vec<(Pid, String)> {
        let root = self.0.path().to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
                continue;
            };
            let read = |name| fs::read(entry.path().join(name)).unwrap_or_default();
            if String::from_utf8_lossy(&read("environ")).contains(root) {
                let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
                found.push((Pid::from_raw(pid).unwrap(), line));
            }
        }
        found
    }

    /// Those of its processes whose command line begins so, by whichever path the program was found.
    pub(crate) fn processes_named(&self, name: &str) -> Vec<Pid> {
        let begins = |line: &str| {
            let program = line.split(' ').next().unwrap_or_default();
            line[program.rfind('/').map_or(0, |at| at + 1)..].starts_with(name)
        };
        let all = self.processes().into_iter();
        all.filter_map(|(pid, line)| begins(&line).then_some(pid))
            .collect()
    }
}

pub(crate) fn pid(text: &str) -> Pid {
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

/// The guardian of the only run of this directory.
pub(crate) fn guardian(home: &Home) -> Pid {
    home.processes_named("standin guard")[0]
}

pub(crate) fn finish(home: &Home, child: Child) -> (i32, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let said = text(output.stderr);
    let left = fs::read_dir(home.path("tmp")).unwrap().count();
    assert_eq!(left, 0, "something temporary is left: {said}");
    (output.status.code().unwrap(), text(output.stdout), said)
}

/// Points podman and docker at it in a root of its own.
pub(crate) const CONFIGURE: [&str; 5] = [
    "--configure",
    "podman",
    "docker",
    "--configure-root=root",
    "--docker-version=28.0.0",
];

/// Whether that is so.
pub(crate) fn configured(home: &Home) -> bool {
    let daemon = fs::read_to_string(home.path("root/etc/docker/daemon.json")).unwrap();
    let podman = home.path("root/etc/containers/registries.conf.d/050-standin.conf");
    let configured = podman.exists();
    assert_eq!(configured, daemon.contains("registry-mirrors"), "{daemon}");
    configured
}

/// All that is below, with the content of files.
pub(crate) fn listing(root: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path.clone());
            }
            let content = fs::read(&path).ok();
            found.push((path, content));
        }
    }
    found.sort();
    found
}

/// With the signals as a shell has them: whoever runs the tests may ignore some, as `nohup` does, and what is ignored stays so.
fn as_from_a_shell(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,QUIT", program]);
    command
}
