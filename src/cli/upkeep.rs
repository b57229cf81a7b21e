//! What the commands share that look through a data directory: how it is opened, who waits, and what people read.

use std::time::SystemTime;

use anyhow::bail;
use indicatif::ProgressBar;

use super::{interrupt, progress};
use crate::{
    config::Config,
    storage::{OpenError, Store},
    transfer::Cancel,
    types::{InvalidPattern, Pattern},
    upkeep::Watch,
};

/// Looks into the data directory, whoever works on it. `None`: there is nothing in it, as where a CI's cache had nothing to
/// restore.
///
/// # Errors
/// It is none of standin's, or can't be read.
pub(super) fn look(config: &Config) -> anyhow::Result<Option<Store>> {
    match Store::look(&config.data) {
        Err(absent @ OpenError::Absent { .. }) => {
            log::warn!("{absent}");
            Ok(None)
        }
        looked => Ok(Some(looked?)),
    }
}

/// As `look`, but opens it as this command's own, for as long as the store lives.
///
/// # Errors
/// A standin works on it as well. `instead` says what can be done meanwhile.
pub(super) fn claim(config: &Config, instead: &str) -> anyhow::Result<Option<Store>> {
    // Nothing is made where nothing is.
    if look(config)?.is_none() {
        return Ok(None);
    }
    match Store::open(&config.data, config.durability) {
        Err(OpenError::InUse { path, pid }) => bail!(
            "standin with pid {pid} works on the data directory {}: stop it first (`standin stop`); {instead}",
            path.display()
        ),
        opened => Ok(Some(opened?)),
    }
}

/// For clap: the grammar alone. Which first components are registries is known later.
pub(super) fn pattern(text: &str) -> Result<String, InvalidPattern> {
    Pattern::parse(text, |_| false).map(|_| text.to_owned())
}

pub(super) fn patterns(texts: &[String], config: &Config) -> anyhow::Result<Vec<Pattern>> {
    let is_registry = |host: &_| config.registries.contains_key(host);
    let patterns = texts.iter().map(|text| Pattern::parse(text, is_registry));
    Ok(patterns.collect::<Result<_, _>>()?)
}

/// Ends the work on SIGINT and SIGTERM, and shows on a terminal how far it is.
pub(super) struct Waiting {
    cancel: Cancel,
    bar: ProgressBar,
}

impl Waiting {
    pub(super) fn new() -> anyhow::Result<Self> {
        let cancel = Cancel::default();
        interrupt::cancels(&cancel)?;
        Ok(Self {
            cancel,
            bar: progress::bar(LINE),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Waiting {
    fn is_over(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn read(&self, bytes: u64, of: u64) {
        self.bar.set_length(of);
        self.bar.set_position(bytes);
    }
}

const LINE: &str = "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}";

/// `5 min ago`.
pub(super) fn ago(moment: SystemTime) -> String {
    let seconds = moment.elapsed().unwrap_or_default().as_secs();
    let (number, unit) = match seconds {
        ..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "min"),
        3600..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{number} {unit} ago")
}

/// RFC 3339, in UTC, to the second.
pub(super) fn timestamp(moment: SystemTime) -> Option<String> {
    let moment = time::OffsetDateTime::from(moment).replace_nanosecond(0);
    let format = &time::format_description::well_known::Rfc3339;
    moment.ok()?.format(format).ok()
}

/// Lines the columns up. The last one is as long as it is.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells = cells.map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
