//! A bar on a terminal for whoever waits for images. Elsewhere, in the logs of jobs, it is silent.

use std::{io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    transfer::Observer,
    types::{RepositoryName, Tag},
};

/// One line on standard error, for the image whose turn it is.
pub(super) struct Progress(ProgressBar);

/// Bytes, of as many as are to come, in one line on standard error; `template` says how.
pub(super) fn bar(template: &str) -> ProgressBar {
    // The bar is for a person: not for a file, and not for a terminal that takes no more than text.
    let target = match std::io::stderr().is_terminal()
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
    {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(REDRAWN);
    bar
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = bar(LINE);
        // There is nothing to see before the first image.
        bar.disable_steady_tick();
        Self(bar)
    }

    /// Prints while the bar is out of the way.
    pub(super) fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Observer for Progress {
    fn begins(&self, name: &RepositoryName, tag: Option<&Tag>) {
        let tag = tag.map_or(String::new(), |tag| format!(":{tag}"));
        self.0.set_message(format!("{name}{tag}"));
        self.0.set_length(0);
        self.0.reset();
        self.0.enable_steady_tick(REDRAWN);
    }

    fn expects(&self, bytes: u64) {
        self.0.inc_length(bytes);
    }

    fn sends(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

const LINE: &str = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}";
const REDRAWN: Duration = Duration::from_millis(200);
