//! `serve --detach`: a server that outlives the step which starts it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
    process::Child,
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal};

use super::{
    Process, Start,
    log::open_log,
    signals::{self, Events},
};

/// Starts a server whose log goes to `log`, and returns the ready line once that is printed. The server has no terminal,
/// holds none of our standard streams, and is in a session of its own.
///
/// # Errors
/// What the server says if it does not start; it is not ready after `patience`, or a signal came, and it was stopped.
pub fn detach(start: &Start, log: &Path, patience: Duration) -> anyhow::Result<String> {
    let mut file = open_log(log)?;
    let begin = file.metadata().map_or(0, |metadata| metadata.len());
    let ours = file.try_clone().context("can't hand on the log")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start threads")?;
    let (line, mut child) = runtime.block_on(async {
        let mut events = Events::listen()?;
        let mut child = start.command(ours.into())?.spawn()?;
        let stdout = child.stdout.take();
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            if let Some(stdout) = stdout {
                // Its end without a line is the server's.
                let _ = BufReader::new(stdout).read_line(&mut line);
            }
            line
        });
        let problem = tokio::select! {
            line = line => return Ok((line.unwrap_or_default(), child)),
            signal = events.end_asked_for() => format!("{} came before the server was ready", signals::name(signal)),
            () = tokio::time::sleep(patience) => format!(
                "the server was not ready after {patience:?}: {} says what it was doing, and --ready-timeout gives it longer",
                log.display()
            ),
        };
        // Nobody would know of it.
        end(&mut child);
        anyhow::bail!("{problem}; it was stopped")
    })?;
    if !line.is_empty() {
        return Ok(line.trim_end().to_owned());
    }
    let status = child.wait().context("can't wait for the server")?;
    let mut said = String::new();
    let _ = file.seek(SeekFrom::Start(begin));
    let _ = file.read_to_string(&mut said);
    match said.rfind(ERROR) {
        Some(at) => anyhow::bail!("{}", said[at + ERROR.len()..].trim_end()),
        None => anyhow::bail!(
            "the server ended before it was ready ({status}): see {}",
            log.display()
        ),
    }
}

/// SIGTERM, and SIGKILL if that does not help.
fn end(child: &mut Child) {
    if let Ok(Some(server)) = Process::open(Pid::from_child(child)) {
        let _ = server.signal(Signal::TERM);
        if server.ends_within(PATIENCE) {
            let _ = child.wait();
            return;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// What `main` puts before an error.
const ERROR: &str = "standin: error: ";
/// It has no requests yet that it could finish.
const PATIENCE: Duration = Duration::from_secs(5);
