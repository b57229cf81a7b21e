//! A process that cannot be mistaken for another: held by a handle, and known by when it was started.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// A process that is or was there. Its id may be another's by now; what is done through this is done to none but it.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    handle: OwnedFd,
}

impl Process {
    /// `None` if there is no such process (here: it may be another container's).
    ///
    /// # Errors
    /// The system gives out no handle.
    pub fn open(pid: Pid) -> io::Result<Option<Self>> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Ok(Some(Self { pid, handle })),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`open`](Self::open), if the process was started at `start` ([`start_of`]).
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn started_at(pid: Pid, start: u64) -> io::Result<Option<Self>> {
        let process = Self::open(pid)?;
        // Asked after the handle is had: from then on the id is that process's, or nobody's that matters.
        Ok(process.filter(|process| start_of(process.pid) == Some(start) && !process.has_ended()))
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether it has ended, waited for by its parent or not.
    pub fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Waits for its end, but no longer than this.
    pub fn ends_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = Timespec::try_from(left).ok();
            let mut ready = [PollFd::new(&self.handle, PollFlags::IN)];
            match poll(&mut ready, wait.as_ref()) {
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => return false,
                Ok(_) => return true,
            }
        }
    }

    /// Waits for its end, however long that takes.
    pub fn wait(&self) {
        while !self.ends_within(Duration::from_secs(3600)) {}
    }

    /// Sends it a signal, unless it has ended.
    ///
    /// # Errors
    /// It is somebody else's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.handle, signal) {
            Err(Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// When the process was started, in clock ticks since the machine was: with the id it names one process for good.
pub fn start_of(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The program's name comes second, in brackets, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(FIELDS_BETWEEN)?.parse().ok()
}

/// Between the name and `starttime`, of proc_pid_stat(5).
const FIELDS_BETWEEN: usize = 19;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use rustix::process::getpid;

    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let start = start_of(getpid()).unwrap();
        assert!(Process::started_at(getpid(), start).unwrap().is_some());
        assert!(Process::started_at(getpid(), start + 1).unwrap().is_none());
    }

    #[test]
    fn its_end_is_noticed_and_its_id_is_not_mistaken() {
        let mut child = Command::new("sleep").arg("1h").spawn().unwrap();
        let process = Process::open(Pid::from_child(&child)).unwrap().unwrap();
        let start = start_of(process.pid()).unwrap();
        assert!(!process.has_ended());
        process.signal(Signal::KILL).unwrap();
        process.wait();
        // Not waited for yet, and already nobody to talk to.
        assert!(Process::started_at(process.pid(), start).unwrap().is_none());
        child.wait().unwrap();
        assert!(process.has_ended());
        process.signal(Signal::TERM).unwrap();
        assert!(Process::open(process.pid()).unwrap().is_none());
    }
}
