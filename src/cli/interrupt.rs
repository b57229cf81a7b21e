//! SIGINT, SIGTERM and SIGHUP for commands that carry something: they end it in order, a second one at once.

use std::thread;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::{job, transfer::Cancel};

/// From now on a signal cancels, and the next one ends the process; SIGHUP not where it is ignored, as under `nohup`.
///
/// # Errors
/// The system has no thread or signal to spare.
pub(super) fn cancels(cancel: &Cancel) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't listen for signals")?;
    // Listening would end that.
    let hears_hangup = !job::is_ignored(rustix::process::Signal::HUP);
    let (mut terminate, mut interrupt, mut hangup) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context("can't listen for signals");
        (
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
            hears_hangup
                .then(|| listen(SignalKind::hangup()))
                .transpose()?,
        )
    };
    let cancel = cancel.clone();
    let waiting = thread::Builder::new().name("standin-signals".to_owned());
    waiting
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    let hung_up = async {
                        match &mut hangup {
                            Some(hangup) => hangup.recv().await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                        _ = hung_up => {}
                    }
                    if cancel.is_cancelled() {
                        std::process::exit(1);
                    }
                    cancel.cancel();
                }
            });
        })
        .context("can't listen for signals")?;
    Ok(())
}
