//! `standin verify`: whether a data directory is sound, and what can be done if it is not.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::{
    serve,
    upkeep::{Waiting, claim, look},
};
use crate::{
    activity::words::{count, size},
    config::{Config, Flags, Key, Sources},
    storage::Store,
    upkeep::{self, Fault, Verified},
};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Set aside what is wrong, in quarantine/ below --data, so that it is not served
    #[arg(long)]
    repair: bool,
    /// Print it as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    directories: serve::Directories,
    /// What was pushed may lack content, as where the server has this option{n}[env: STANDIN_ALLOW_SPARSE]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Registries"
    )]
    allow_sparse: Option<String>,
    #[command(flatten)]
    file: serve::File,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let flags = self
            .directories
            .or_of_the_named()?
            .add_to(Flags::new(self.file.config))
            .with(Key::AllowSparse, self.allow_sparse);
        let sources = Sources::read(flags, std::env::vars_os().collect())?;
        let config = Config::from_sources(&sources)?;
        let store = match self.repair {
            true => claim(&config, "verify without --repair works beside it")?,
            false => look(&config)?,
        };
        let verified = match store {
            Some(store) => verified(&store, config.allow_sparse, self.repair)?,
            None => Verified::default(),
        };
        let text = match self.json {
            true => serde_json::to_string(&Json::from(&verified))?,
            false => text(&verified),
        };
        super::print(text)?;
        if !self.json && !self.repair && !verified.faults.is_empty() {
            eprintln!(
                "`standin verify --repair` sets aside what is wrong: what was pulled is fetched anew then, and what was pushed must \
                 be pushed again"
            );
        }
        Ok(match verified.is_sound() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

fn verified(store: &Store, sparse: bool, repair: bool) -> anyhow::Result<Verified> {
    let waiting = Waiting::new()?;
    let mut verified = upkeep::verify(store, sparse, &waiting)
        .context("not everything was looked at, and nothing changed")?;
    if repair && !verified.faults.is_empty() {
        upkeep::repair(store, &mut verified, sparse, &waiting)
            .context("the repair ended early: what it did is done, and another goes on")?;
    }
    Ok(verified)
}

fn text(verified: &Verified) -> String {
    let mut text = String::new();
    for fault in &verified.faults {
        text.push_str(&format!("{}: {}\n", fault.record, fault.what));
        for hurt in &fault.hurts {
            let whose = if hurt.local { "local" } else { "cached" };
            text.push_str(&format!("  hurts {} ({whose})\n", hurt.image));
        }
        if let Some(place) = &fault.quarantined {
            text.push_str(&format!("  moved to {place}\n"));
        }
    }
    for image in &verified.lost {
        text.push_str(&format!(
            "{image} is not whole and no longer served: push or seed it again\n"
        ));
    }
    let checked = &verified.checked;
    let faults = match verified.faults.len() {
        0 => "all is right".to_owned(),
        faults => {
            let left = verified.faults.iter().filter(|fault| !fault.repaired);
            let faults = count(faults as u64, "fault", "faults");
            match left.count() {
                0 => format!("{faults}, all seen to"),
                _ => faults,
            }
        }
    };
    text.push_str(&format!(
        "checked {} ({}), {} and {}: {faults}",
        count(checked.contents as u64, "content", "contents"),
        size(checked.bytes),
        count(checked.manifests as u64, "manifest", "manifests"),
        count(checked.tags as u64, "tag", "tags"),
    ));
    text
}

#[derive(Serialize)]
struct Json<'a> {
    sound: bool,
    checked: JsonChecked,
    faults: Vec<JsonFault<'a>>,
    lost: &'a [String],
}

#[derive(Serialize)]
struct JsonChecked {
    contents: usize,
    bytes: u64,
    manifests: usize,
    tags: usize,
}

#[derive(Serialize)]
struct JsonFault<'a> {
    file: String,
    kind: &'static str,
    what: &'a str,
    hurts: Vec<JsonHurt<'a>>,
    repaired: bool,
    quarantined: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonHurt<'a> {
    image: &'a str,
    local: bool,
}

impl<'a> From<&'a Verified> for Json<'a> {
    fn from(verified: &'a Verified) -> Self {
        let checked = verified.checked;
        Self {
            sound: verified.is_sound(),
            checked: JsonChecked {
                contents: checked.contents,
                bytes: checked.bytes,
                manifests: checked.manifests,
                tags: checked.tags,
            },
            faults: verified.faults.iter().map(JsonFault::from).collect(),
            lost: &verified.lost,
        }
    }
}

impl<'a> From<&'a Fault> for JsonFault<'a> {
    fn from(fault: &'a Fault) -> Self {
        let hurts = fault.hurts.iter().map(|hurt| JsonHurt {
            image: &hurt.image,
            local: hurt.local,
        });
        Self {
            file: fault.record.to_string(),
            kind: fault.damage.name(),
            what: &fault.what,
            hurts: hurts.collect(),
            repaired: fault.repaired,
            quarantined: fault.quarantined.as_deref(),
        }
    }
}

const AFTER_HELP: &str = "\
Reads all content and compares it with its digest, and looks whether every tag names a manifest that is \
here, and every manifest what it should. The exit status is 0 if all is right, else 1; with --repair it \
is 1 only if something that was pushed is lost, or could not be set right. A standin may be at work on \
the directory, unless --repair is given.

A repair deletes nothing. What was pulled is fetched anew when it is asked for. An image that was pushed \
or seeded and is not whole is taken out of sight with its tags, until it is pushed or seeded again: \
nobody is served a part of it, and where its name has an upstream, that one is asked as before the push.

Examples:
  standin verify
  standin verify --repair
  standin verify --json | jq -r '.faults[].file'";
