//! Job control, as a shell does it: the command is the terminal's foreground while it runs, so that Ctrl-C and Ctrl-Z are its
//! own, and what waits for us stops and goes on with it.

use std::fs::{File, OpenOptions};

use nix::sys::signal::{SigSet, Signal as Blocked};
use rustix::{
    process::{Pid, Signal, getpgrp, kill_current_process_group},
    termios::{tcgetpgrp, tcsetpgrp},
};

/// The terminal in whose foreground we were started.
pub(super) struct Terminal {
    tty: File,
    ours: Pid,
}

impl Terminal {
    /// `None` if there is no terminal, or somebody else is in its foreground.
    pub(super) fn in_foreground() -> Option<Self> {
        let tty = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .ok()?;
        let terminal = Self {
            tty,
            ours: getpgrp(),
        };
        terminal.is_ours().then_some(terminal)
    }

    /// Whether a shell would say that we are in its foreground.
    fn is_ours(&self) -> bool {
        tcgetpgrp(&self.tty).is_ok_and(|group| group == self.ours)
    }

    /// Makes the group the foreground, unless we are in the background ourselves.
    pub(super) fn give_to(&self, group: Pid) {
        if self.is_ours() {
            let _ = tcsetpgrp(&self.tty, group);
        }
    }

    /// Takes it back from the group.
    pub(super) fn take_back_from(&self, group: Pid) {
        if tcgetpgrp(&self.tty).is_ok_and(|foreground| foreground == group) {
            // Whoever does this from the background is stopped, unless that signal is blocked.
            let mut stop = SigSet::empty();
            stop.add(Blocked::SIGTTOU);
            let _ = stop.thread_block();
            let _ = tcsetpgrp(&self.tty, self.ours);
            let _ = stop.thread_unblock();
        }
    }

    /// The command was stopped at the terminal: stops whoever was started with us, and returns when all go on.
    pub(super) fn stop_with(&self, group: Pid) {
        self.take_back_from(group);
        // Where no shell could wake us, the kernel has this do nothing.
        let _ = kill_current_process_group(Signal::TSTP);
        self.give_to(group);
    }
}
