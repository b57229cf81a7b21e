//! A terminal with a shell on it: keys are typed, what it shows is awaited.

use std::{
    ffi::OsStr,
    fs::File,
    io::{PipeWriter, Read as _, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    process::{Child, Command},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::Pid,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::tcgetpgrp,
};

use super::eventually;

/// The shell is killed with it, as when its window is closed.
pub(crate) struct Terminal {
    master: Option<File>,
    /// Reads what is shown until the writer is dropped: a terminal is closed once nobody holds its other end.
    reading: Option<(PipeWriter, JoinHandle<()>)>,
    shell: Child,
    shown: Arc<Mutex<String>>,
}

pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_Z: &str = "\x1a";

impl Terminal {
    /// Runs `command` on a terminal of its own, as the leader of its session.
    pub(crate) fn start(command: &Command) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let open = || -> OwnedFd {
            let name = OsStr::from_bytes(name.to_bytes());
            let mut open = File::options();
            std::os::unix::fs::OpenOptionsExt::custom_flags(
                &mut open,
                OpenptFlags::NOCTTY.bits() as i32,
            );
            open.read(true).write(true).open(name).unwrap().into()
        };
        // Whoever started the tests in the background has had Ctrl-C ignored.
        let mut leader = Command::new("env");
        leader
            .args(["--default-signal", "setsid", "--ctty"])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(command.get_current_dir().unwrap())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(open())
            .stdout(open())
            .stderr(open());
        let shell = leader.spawn().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let mut reader = File::from(master.try_clone().unwrap());
        let seen = Arc::clone(&shown);
        let (closed, closing) = std::io::pipe().unwrap();
        let reading = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let mut ready = [
                    PollFd::new(&reader, PollFlags::IN),
                    PollFd::new(&closed, PollFlags::IN),
                ];
                poll(&mut ready, None).unwrap();
                if !ready[1].revents().is_empty() {
                    break;
                }
                // It fails once nobody is at the terminal any more.
                let Ok(count @ 1..) = reader.read(&mut bytes) else {
                    break;
                };
                let text = String::from_utf8_lossy(&bytes[..count]);
                seen.lock().unwrap().push_str(&text);
            }
        });
        Self {
            master: Some(master.into()),
            reading: Some((closing, reading)),
            shell,
            shown,
        }
    }

    pub(crate) fn types(&self, keys: &str) {
        let mut master = self.master.as_ref().unwrap();
        master.write_all(keys.as_bytes()).unwrap();
    }

    /// All that it has shown.
    pub(crate) fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    pub(crate) async fn shows(&self, text: &str) {
        eventually(&format!("the terminal shows {text:?}"), || async {
            self.shown().contains(text)
        })
        .await;
    }

    /// The process group in its foreground.
    pub(crate) fn foreground(&self) -> Pid {
        tcgetpgrp(self.master.as_ref().unwrap()).unwrap()
    }

    pub(crate) fn shell(&self) -> Pid {
        Pid::from_child(&self.shell)
    }

    /// Closes it, as a window is closed.
    pub(crate) fn close(&mut self) {
        self.master = None;
        let (closing, reading) = self.reading.take().unwrap();
        drop(closing);
        reading.join().unwrap();
    }

    /// The exit status of its shell, which has ended or is about to.
    pub(crate) async fn ended(&mut self) -> std::process::ExitStatus {
        let mut status = None;
        eventually("the shell ends", || {
            status = self.shell.try_wait().unwrap();
            let ended = status.is_some();
            async move { ended }
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        if std::thread::panicking() {
            eprintln!("the terminal has shown:\n{}", self.shown());
        }
    }
}
