//! `standin prune`: what is to go from a data directory, and what went.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    serve,
    upkeep::{Waiting, ago, claim, look, pattern, patterns, table, timestamp},
};
use crate::{
    activity::words::{count, size},
    config::{Config, Flags, Key, Sources, duration},
    types::Digest,
    upkeep::{self, Gone, Pruned, Pruning},
};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Remove nothing, and say what would go
    #[arg(long)]
    dry_run: bool,
    /// Print it as JSON
    #[arg(long)]
    json: bool,

    /// What was pulled, least recently used first, until no more than this is left: a size, or a share of
    /// what is free or cached{n}[env: STANDIN_CACHE_MAX_SIZE]
    #[arg(long, value_name = "SIZE", help_heading = "What goes")]
    cache_max_size: Option<String>,
    /// What was pulled and not used for so long, such as 7d
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "What goes")]
    older_than: Option<Duration>,
    /// All that was pulled
    #[arg(
        long,
        help_heading = "What goes",
        conflicts_with_all = ["cache_max_size", "older_than"]
    )]
    all_cached: bool,
    /// What was pushed or seeded under these names, such as 'acme/pr-*'; with --older-than if it was not
    /// pushed for so long; may be repeated
    #[arg(long, value_name = "PATTERN", value_parser = pattern, num_args = 1.., help_heading = "What goes")]
    local: Vec<String>,
    /// What `standin verify --repair` has set aside
    #[arg(long, help_heading = "What goes")]
    quarantine: bool,

    #[command(flatten)]
    directories: serve::Directories,
    #[command(flatten)]
    file: serve::File,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let flags = self
            .directories
            .or_of_the_named()?
            .add_to(Flags::new(self.file.config))
            .with(Key::CacheMaxSize, self.cache_max_size);
        let sources = Sources::read(flags, std::env::vars_os().collect())?;
        let config = Config::from_sources(&sources)?;
        let pruning = Pruning {
            cache: sources.gives(Key::CacheMaxSize).then_some(config.keep.most),
            unused_since: self.older_than.map(|age| {
                let since = SystemTime::now().checked_sub(age);
                since.unwrap_or(SystemTime::UNIX_EPOCH)
            }),
            all_cached: self.all_cached,
            local: patterns(&self.local, &config)?,
            quarantine: self.quarantine,
        };
        let store = match self.dry_run {
            true => look(&config)?,
            false => claim(
                &config,
                "--dry-run works beside it, and its own --cache-max-size bounds what it keeps",
            )?,
        };
        let pruned = match store {
            Some(store) => upkeep::prune(&store, &pruning, self.dry_run, &Waiting::new()?)
                .context("not all is pruned: what is left is whole, and another prune goes on")?,
            None => Pruned::default(),
        };
        let text = match self.json {
            true => serde_json::to_string(&Json::new(&pruned, self.dry_run))?,
            false => text(&pruned, self.dry_run),
        };
        super::print(text)
    }
}

fn text(pruned: &Pruned, dry_run: bool) -> String {
    let mut rows = Vec::new();
    for gone in &pruned.manifests {
        let kept = if gone.local { "local" } else { "cached" };
        let verb = if gone.local { "pushed" } else { "used" };
        for (nth, name) in gone.names.iter().enumerate() {
            let bytes = if nth == 0 { gone.bytes } else { 0 };
            let used = format!("{verb} {}", ago(gone.used));
            rows.push(vec![name.clone(), size(bytes), kept.to_owned(), used]);
        }
    }
    let mut text = table(&rows);
    if !rows.is_empty() {
        text.push('\n');
    }
    let mut parts = Vec::new();
    if !pruned.manifests.is_empty() {
        let manifests = count(pruned.manifests.len() as u64, "manifest", "manifests");
        let bytes = pruned.manifests.iter().map(|gone| gone.bytes).sum();
        parts.push(format!("{manifests} ({})", size(bytes)));
    }
    if pruned.unnamed > 0 {
        let contents = count(pruned.unnamed as u64, "content", "contents");
        let bytes = size(pruned.unnamed_bytes);
        parts.push(format!("{contents} that no manifest named ({bytes})"));
    }
    if pruned.quarantined_bytes > 0 {
        parts.push(format!(
            "the quarantine ({})",
            size(pruned.quarantined_bytes)
        ));
    }
    let what = match parts.is_empty() {
        true => "nothing".to_owned(),
        false => parts.join(", "),
    };
    let verb = if dry_run { "would remove" } else { "removed" };
    text.push_str(&format!(
        "{verb} {what}; {} are left, {} of them cached",
        size(pruned.left),
        size(pruned.left_cached)
    ));
    text
}

#[derive(Serialize)]
struct Json<'a> {
    dry_run: bool,
    manifests: Vec<JsonGone<'a>>,
    unnamed: usize,
    unnamed_bytes: u64,
    quarantined_bytes: u64,
    bytes: u64,
    left_bytes: u64,
    left_cached_bytes: u64,
}

#[derive(Serialize)]
struct JsonGone<'a> {
    names: &'a [String],
    digest: &'a Digest,
    local: bool,
    bytes: u64,
    used: Option<String>,
}

impl<'a> Json<'a> {
    fn new(pruned: &'a Pruned, dry_run: bool) -> Self {
        let gone = |gone: &'a Gone| JsonGone {
            names: &gone.names,
            digest: &gone.digest,
            local: gone.local,
            bytes: gone.bytes,
            used: timestamp(gone.used),
        };
        Self {
            dry_run,
            manifests: pruned.manifests.iter().map(gone).collect(),
            unnamed: pruned.unnamed,
            unnamed_bytes: pruned.unnamed_bytes,
            quarantined_bytes: pruned.quarantined_bytes,
            bytes: pruned.bytes,
            left_bytes: pruned.left,
            left_cached_bytes: pruned.left_cached,
        }
    }
}

const AFTER_HELP: &str = "\
What no manifest names goes in any case, such as what a push left that never came to its end; what else \
goes, the options say. What was pushed or seeded goes only by --local, and what it needs stays as long as \
it does. --older-than and --cache-max-size may be given together.

No standin may be at work on the directory, but for --dry-run. Names go before content: whatever ends it, \
what is left is whole.

Examples:
  standin prune --dry-run --older-than 7d
  standin prune --cache-max-size 2GiB
  standin prune --older-than 7d --cache-max-size 5GiB --local 'acme/pr-*'
  standin prune --all-cached --data /cache/standin";
