//! Ending with another process, so that a job that is killed leaves no server behind.

use anyhow::Context as _;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};

use super::Process;

/// Whose end is to be ours as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The process that started this one.
    Ours,
    /// Any process.
    Process(Pid),
}

/// From now on this process gets SIGTERM when `parent` ends, however that ends.
///
/// # Errors
/// It has ended already.
pub fn end_with(parent: Parent) -> anyhow::Result<()> {
    let pid = match parent {
        Parent::Ours => getppid().context("the parent has ended")?,
        Parent::Process(pid) => pid,
    };
    let id = pid.as_raw_nonzero();
    let process = Process::open(pid)
        .with_context(|| format!("can't watch the process {id}"))?
        .with_context(|| format!("the process {id} to end with has ended already"))?;
    // A thread of its own: whatever the rest is busy with, the signal comes.
    std::thread::Builder::new()
        .name("standin-parent".to_owned())
        .spawn(move || {
            process.wait();
            log::warn!("the process {id} has ended, and this one with it");
            let _ = kill_process(getpid(), Signal::TERM);
        })
        .context("can't start threads")?;
    Ok(())
}
