//! A process group: who is in it, and its end.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// Asks all in the group to end, and kills those who have not after `grace`. Answers how many there were.
///
/// The group's first process must not have been waited for yet, or one of the group be alive: else its id may be another's.
pub(super) fn end(group: Pid, grace: Duration) -> usize {
    let count = members(group);
    if count == 0 {
        return 0;
    }
    signal(group, Signal::TERM);
    // One that is stopped would not hear of it.
    signal(group, Signal::CONT);
    let deadline = Instant::now() + grace;
    while members(group) > 0 {
        if Instant::now() >= deadline {
            signal(group, Signal::KILL);
        }
        if Instant::now() >= deadline + STUBBORN {
            break;
        }
        std::thread::sleep(INTERVAL);
    }
    count
}

/// Signals the whole group; that it has ended meanwhile is no failure.
pub(super) fn signal(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}

/// How many of the group are alive.
fn members(group: Pid) -> usize {
    let group = group.as_raw_nonzero().to_string();
    let is_member = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((_, fields)) = stat.rsplit_once(')') else {
            return false;
        };
        let mut fields = fields.split_whitespace();
        // State, parent, group.
        fields
            .next()
            .is_some_and(|state| state != "Z" && state != "X")
            && fields.nth(1) == Some(&group)
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return 0;
    };
    let names = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && is_member(name))
        .count()
}

/// Even a kill waits for a process that waits for a disk.
const STUBBORN: Duration = Duration::from_secs(5);
/// Members announce their end to their parents, which we are not.
const INTERVAL: Duration = Duration::from_millis(10);
