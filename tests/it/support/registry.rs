//! The real binary, started and stopped: its ready line, its log and its store.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

use super::{Client, PATIENCE, raw::Raw, store::Store};

/// How to start one; data and state live as long as it does, over any number of starts.
#[derive(Clone)]
pub(crate) struct Builder {
    home: Arc<TempDir>,
    data: PathBuf,
    state: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    shell: Option<String>,
    own_mounts: bool,
}

impl Builder {
    /// Adds arguments to `standin serve`.
    pub(crate) fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Makes `upstream` the real address of `host`.
    pub(crate) fn registry(self, host: &str, upstream: &str) -> Self {
        self.args(["--registry".to_owned(), format!("{host}={upstream}")])
    }

    /// In place of directories of its own.
    pub(crate) fn directories(mut self, data: PathBuf, state: PathBuf) -> Self {
        (self.data, self.state) = (data, state);
        self
    }

    /// Forgets all arguments added so far.
    pub(crate) fn plain(mut self) -> Self {
        self.args.clear();
        self
    }

    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Runs `prelude` in the shell that becomes the server; `$DATA` is the data directory.
    pub(crate) fn shell(mut self, prelude: &str) -> Self {
        self.shell = Some(prelude.to_owned());
        self
    }

    /// Gives it a mount namespace of its own, in which the shell is root.
    pub(crate) fn own_mounts(mut self) -> Self {
        self.own_mounts = true;
        self
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.state.clone()
    }

    pub(crate) fn store(&self) -> Store {
        Store::at(self.data())
    }

    fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_standin");
        let mut command = match &self.shell {
            None => Command::new(binary),
            Some(prelude) => {
                let words: &[&str] = if self.own_mounts {
                    &["unshare", "--map-root-user", "--mount", "sh", "-ec"]
                } else {
                    &["sh", "-ec"]
                };
                let mut shell = Command::new(words[0]);
                shell.args(&words[1..]);
                shell.arg(format!("{prelude}\nexec \"$0\" \"$@\""));
                shell.arg(binary);
                shell
            }
        };
        command
            .arg("serve")
            .args(["--listen", "127.0.0.1:0", "--no-default-registries"])
            .arg("--data")
            .arg(&self.data)
            .arg("--state")
            .arg(&self.state)
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("DATA", &self.data)
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it and waits for the ready line.
    pub(crate) async fn start(self) -> TestRegistry {
        let mut child = self.command().spawn().unwrap();
        let log = Log::follow(child.stderr.take().unwrap());
        let (stdout, ready) = Stdout::follow(child.stdout.take().unwrap());
        let mut registry = TestRegistry {
            builder: self,
            child: Some(child),
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            ca: PathBuf::new(),
            log,
            stdout,
        };
        let line = match tokio::time::timeout(PATIENCE, ready).await {
            Ok(Ok(line)) => line,
            _ => panic!("no ready line"),
        };
        let fields: Vec<&str> = line.splitn(5, ' ').collect();
        let ["standin", "ready", http, https, ca] = fields[..] else {
            panic!("{line:?} is no ready line");
        };
        let address = http.strip_prefix("http://").unwrap();
        assert_eq!(https.strip_prefix("https://"), Some(address), "one port");
        registry.address = address.parse().unwrap();
        registry.ca = ca.strip_prefix("ca=").unwrap().into();
        registry
    }

    /// Runs it in the belief that it won't start; its status and what it said on standard error.
    pub(crate) async fn fails_to_start(self) -> (ExitStatus, String) {
        let mut child = self.command().spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let pid = Pid::from_child(&child);
        let run = tokio::task::spawn_blocking(move || {
            let mut said = String::new();
            stderr.read_to_string(&mut said).unwrap();
            let mut printed = String::new();
            stdout.read_to_string(&mut printed).unwrap();
            assert_eq!(printed, "", "standard output is for the ready line only");
            (child.wait().unwrap(), said)
        });
        match tokio::time::timeout(PATIENCE, run).await {
            Ok(done) => done.unwrap(),
            Err(_) => {
                let _ = kill_process(pid, Signal::KILL);
                panic!("it started");
            }
        }
    }
}

/// A running `standin serve`. Dropping it kills the process; only `stop` asserts that it ends well.
pub(crate) struct TestRegistry {
    builder: Builder,
    child: Option<Child>,
    address: SocketAddr,
    ca: PathBuf,
    log: Log,
    stdout: Stdout,
}

impl TestRegistry {
    /// An empty one that knows no other registry.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    pub(crate) fn builder() -> Builder {
        let home = TempDir::new().unwrap();
        Builder {
            data: home.path().join("data"),
            state: home.path().join("state"),
            home: Arc::new(home),
            args: Vec::new(),
            env: BTreeMap::new(),
            shell: None,
            own_mounts: false,
        }
    }

    /// The one port, for plain HTTP and TLS.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The CA as the ready line names it.
    pub(crate) fn ca(&self) -> &Path {
        &self.ca
    }

    pub(crate) fn pid(&self) -> Pid {
        self.child.as_ref().map(Pid::from_child).unwrap()
    }

    pub(crate) fn store(&self) -> Store {
        self.builder.store()
    }

    pub(crate) fn home(&self) -> &Path {
        self.builder.home()
    }

    /// A client over plain HTTP.
    pub(crate) fn client(&self) -> Client {
        self.client_of(&format!("http://{}", self.address), &[])
    }

    /// A client over TLS that trusts our CA and nothing else.
    pub(crate) fn tls_client(&self) -> Client {
        self.client_of(&format!("https://{}", self.address), &[])
    }

    /// A TLS client that believes this is `host`.
    pub(crate) fn client_as(&self, host: &str) -> Client {
        let base = format!("https://{host}:{}", self.address.port());
        self.client_of(&base, &[(host, self.address)])
    }

    fn client_of(&self, base: &str, dial: &[(&str, SocketAddr)]) -> Client {
        Client::new(base, &std::fs::read(&self.ca).unwrap(), dial)
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw::connect(self.address).await
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// The largest resident size so far, in bytes.
    pub(crate) fn peak_memory(&self) -> usize {
        let pid = self.pid().as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .unwrap();
        peak.trim().parse::<usize>().unwrap() * 1024
    }

    /// What it holds now: resident bytes, and open files.
    pub(crate) fn holdings(&self) -> (usize, usize) {
        let proc = PathBuf::from(format!("/proc/{}", self.pid().as_raw_nonzero()));
        let status = std::fs::read_to_string(proc.join("status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .unwrap();
        let files = std::fs::read_dir(proc.join("fd")).unwrap().count();
        (resident.trim().parse::<usize>().unwrap() * 1024, files)
    }

    /// Awaits the process's end.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let pid = Pid::from_child(&child);
        let exit = tokio::task::spawn_blocking(move || child.wait().unwrap());
        match tokio::time::timeout(PATIENCE + Duration::from_secs(10), exit).await {
            Ok(status) => status.unwrap(),
            Err(_) => {
                let _ = kill_process(pid, Signal::KILL);
                panic!("it does not end");
            }
        }
    }

    /// How it was started, to start it again on the same data once it has ended.
    pub(crate) fn again(&self) -> Builder {
        self.builder.clone()
    }

    /// SIGTERM; it must end with status 0 and have printed nothing but the ready line. The builder starts it again on
    /// the same data.
    pub(crate) async fn stop(mut self) -> Builder {
        self.signal(Signal::TERM);
        let status = self.exited().await;
        assert_eq!(status.code(), Some(0), "after SIGTERM: {status}");
        let printed = self.stdout.all().await;
        assert_eq!(printed.lines().count(), 1, "{printed}");
        self.again()
    }

    /// SIGKILL. The builder starts it again on the same data.
    pub(crate) async fn kill(mut self) -> Builder {
        self.signal(Signal::KILL);
        self.exited().await;
        self.again()
    }

    pub(crate) async fn restart(self) -> Self {
        self.stop().await.start().await
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the registry's log ---\n{}", self.log.text());
        }
    }
}

/// Standard error, line by line as it comes.
pub(crate) struct Log(watch::Receiver<Vec<String>>);

impl Log {
    fn follow(stderr: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = watch::channel(Vec::new());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sender.send_modify(|lines: &mut Vec<String>| lines.push(line));
            }
        });
        Self(receiver)
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    pub(crate) fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Awaits a line that holds all `fragments`, and returns it.
    pub(crate) async fn line_with(&self, fragments: &[&str]) -> String {
        let matches = |line: &String| fragments.iter().all(|fragment| line.contains(fragment));
        let mut lines = self.0.clone();
        let found = tokio::time::timeout(PATIENCE, lines.wait_for(|all| all.iter().any(matches)));
        match found.await {
            Ok(Ok(all)) => all.iter().find(|line| matches(line)).cloned().unwrap(),
            _ => panic!("no log line with {fragments:?} in:\n{}", self.text()),
        }
    }

    /// How many lines hold all `fragments`, so far.
    pub(crate) fn count(&self, fragments: &[&str]) -> usize {
        let matches = |line: &&String| fragments.iter().all(|fragment| line.contains(fragment));
        self.lines().iter().filter(matches).count()
    }
}

/// Standard output: its first line as an event, and all of it at the end.
struct Stdout(Option<oneshot::Receiver<String>>);

impl Stdout {
    fn follow(stdout: impl Read + Send + 'static) -> (Self, oneshot::Receiver<String>) {
        let (ready, first) = oneshot::channel();
        let (done, all) = oneshot::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut text = String::new();
            if reader.read_line(&mut text).is_ok_and(|read| read > 0) {
                let _ = ready.send(text.trim_end().to_owned());
            }
            let _ = reader.read_to_string(&mut text);
            let _ = done.send(text);
        });
        (Self(Some(all)), first)
    }

    async fn all(&mut self) -> String {
        self.0.take().unwrap().await.unwrap()
    }
}
