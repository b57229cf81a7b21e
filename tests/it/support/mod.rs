//! What the tests are written with. It knows the wire and the command line, and nothing of the code behind them.

pub(crate) mod client;
pub(crate) mod credentials;
pub(crate) mod image;
pub(crate) mod job;
pub(crate) mod markup;
pub(crate) mod program;
pub(crate) mod raw;
pub(crate) mod registry;
pub(crate) mod samples;
pub(crate) mod saved;
pub(crate) mod seeding;
pub(crate) mod store;
pub(crate) mod table;
pub(crate) mod terminal;
pub(crate) mod upstream;

use std::{
    future::Future,
    path::PathBuf,
    time::{Duration, Instant},
};

pub(crate) use client::{Answer, Client, Exchange};
pub(crate) use raw::Raw;
pub(crate) use registry::TestRegistry;
pub(crate) use upstream::{FakeUpstream, Gate, Reply};

/// How long an event may take before a test calls it missing. Generous: it only decides how long a failure takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How much of the long tests to run: `STANDIN_TEST_ROUNDS=full` for all of it, else what a gate has time for.
pub(crate) fn full() -> bool {
    match std::env::var("STANDIN_TEST_ROUNDS").as_deref() {
        Ok("full") => true,
        Err(_) | Ok("" | "few") => false,
        Ok(other) => panic!("STANDIN_TEST_ROUNDS is {other:?}: full or few"),
    }
}

/// Awaits a condition that announces itself by no event (what the server knows of a client that went away). Panics
/// with `what` once patience runs out.
pub(crate) async fn eventually<F>(what: &str, mut holds: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Awaits an event, but not for ever.
pub(crate) async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, event)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// Whether this user may have a mount namespace. Where not, the tests that need one say so and pass.
pub(crate) fn may_mount() -> bool {
    let probe = std::process::Command::new("unshare")
        .args(["--map-root-user", "--mount", "mount", "-t", "tmpfs"])
        .args(["standin-test", "/mnt"])
        .output();
    let may = probe.is_ok_and(|probe| probe.status.success());
    if !may {
        eprintln!("skipped: `unshare --map-root-user --mount` is not permitted here");
    }
    may
}

/// A file or directory under `fixtures/`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}
