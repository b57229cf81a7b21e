//! The guardian: a small process beside a run that is told of everything the run brings into the world, and ends it all if
//! the run is killed. A signal meant for the run does not reach it: it ends with the run, after it.

use std::{
    fs::File,
    io::{self, BufRead as _, Write as _},
    process::{Child, ChildStdin, Stdio},
};

use anyhow::Context as _;
use std::os::unix::process::CommandExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    belongings::{Belongings, Order},
    terminal::write_from_background,
};
use crate::job::server::ourselves;

/// The guardian, seen from the run.
pub(super) struct Guardian {
    pub(super) process: Child,
    orders: Option<ChildStdin>,
}

impl Guardian {
    /// Starts it; `lock` is what it is to hold.
    pub(super) fn start(lock: Option<File>) -> anyhow::Result<Self> {
        let mut process = ourselves(COMMAND)?
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(lock.map_or_else(Stdio::null, Stdio::from))
            .spawn()
            .context("can't start the guardian of this run")?;
        let orders = process.stdin.take();
        Ok(Self { process, orders })
    }

    /// Tells it. One that has been killed is noticed elsewhere.
    pub(super) fn tell(&mut self, order: &Order) {
        if let Some(orders) = &mut self.orders
            && let Ok(mut line) = serde_json::to_vec(order)
        {
            line.push(b'\n');
            let _ = orders.write_all(&line);
        }
    }

    /// Dismisses it.
    pub(super) fn dismiss(mut self) {
        self.tell(&Order::Done);
        drop(self.orders.take());
        let _ = self.process.wait();
    }
}

/// What the guardian does: listens until the run has ended, and then ends what the run has not.
///
/// # Errors
/// What could not be ended.
pub fn guard() -> anyhow::Result<()> {
    write_from_background();
    // A handler that does nothing: what ends the whole job is no reason to go before the run does.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("can't start threads")?;
    let _deaf = {
        let _entered = runtime.enter();
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::quit(),
        ];
        kinds.map(signal)
    };
    let mut belongings = Belongings::default();
    for line in io::stdin().lock().lines() {
        // Half a line is one that was never sent whole.
        let Some(order) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
            break;
        };
        if matches!(order, Order::Done) {
            return Ok(());
        }
        belongings.take(order);
    }
    let problems = belongings.end();
    let _ = writeln!(
        io::stderr(),
        "standin: `standin run` was killed: its command and its registry were ended, and what was temporary is removed"
    );
    anyhow::ensure!(problems.is_empty(), problems.join("\n"));
    Ok(())
}

/// The guardian's subcommand, which nobody types.
const COMMAND: &str = "guard";
