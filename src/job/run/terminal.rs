//! Job control, as a shell does it: the command is the terminal's foreground while it runs, so that Ctrl-C and Ctrl-Z are its
//! own, and what waits for us stops and goes on with it.

use std::{
    cell::Cell,
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _},
};

use nix::{
    sys::signal::{SigSet, Signal as Blocked},
    unistd::getpgrp,
};
use rustix::{
    process::{Pid, Signal, kill_current_process_group},
    termios::{tcgetpgrp, tcsetpgrp},
};

/// Has the calling thread, and those that it starts, write to the terminal from its background as well: `stty tostop` would
/// stop them for that. Processes that are started do not inherit this.
pub fn write_from_background() {
    let mut stop = SigSet::empty();
    stop.add(Blocked::SIGTTOU);
    let _ = stop.thread_block();
}

/// The terminal that we were started at. Whoever uses it has called [`write_from_background`].
pub(super) struct Terminal {
    tty: File,
    ours: Pid,
    was_given: Cell<bool>,
}

impl Terminal {
    /// `None` if there is no terminal, or our process group is of a namespace around ours.
    pub(super) fn open() -> Option<Self> {
        // That namespace's has no number here, of which rustix knows nothing.
        Self::of(Pid::from_raw(getpgrp().as_raw())?)
    }

    /// That of the run whose process group this is.
    pub(super) fn of(ours: Pid) -> Option<Self> {
        let mut open = OpenOptions::new();
        let tty = open.read(true).write(true).open("/dev/tty").ok()?;
        Some(Self {
            tty,
            ours,
            was_given: Cell::new(false),
        })
    }

    /// Who was in its foreground before the command.
    pub(super) fn ours(&self) -> Pid {
        self.ours
    }

    /// Makes the group the foreground if we are that, and read from the terminal: a shell without job control has us in
    /// its foreground even if it goes on beside us, but then gives us /dev/null to read.
    pub(super) fn give_at_start_to(&self, group: Pid) {
        if io::stdin().is_terminal() {
            self.give_to(group);
        }
    }

    /// Makes the group the foreground if we are that. Whether we were.
    pub(super) fn give_to(&self, group: Pid) -> bool {
        let ours = tcgetpgrp(&self.tty).is_ok_and(|foreground| foreground == self.ours);
        let given = ours && tcsetpgrp(&self.tty, group).is_ok();
        if given {
            self.was_given.set(true);
        }
        given
    }

    /// Takes it back from the group.
    pub(super) fn take_back_from(&self, group: Pid) {
        if tcgetpgrp(&self.tty).is_ok_and(|foreground| foreground == group) {
            let _ = tcsetpgrp(&self.tty, self.ours);
        }
    }

    /// The command was stopped at the terminal: stops whoever was started with us, and returns when all go on.
    pub(super) fn stop_with(&self, group: Pid) {
        self.take_back_from(group);
        // Where no shell could wake us, the kernel has this do nothing.
        let _ = kill_current_process_group(Signal::TSTP);
        if self.was_given.get() {
            self.give_to(group);
        }
    }

    /// Whether a Ctrl-C has reached the command alone, and none of those who were started with us.
    pub(super) fn was_given(&self) -> bool {
        self.was_given.get()
    }
}

/// Ctrl-C has ended the command: ends those that it would have ended without us, such as the script that we are a line of.
pub(super) fn pass_on_interrupt() {
    let _ = kill_current_process_group(Signal::INT);
}
