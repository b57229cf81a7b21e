//! `standin man`: the manual's pages, made from the same grammar and texts as `--help`.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::Cli;

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Command whose page to print, such as "ca mint"{n}[default: standin's own page]
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write all pages into this directory instead, made if missing, and print their paths
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut root = legible(Cli::command()).disable_help_subcommand(true);
        root.build();
        if let Some(directory) = &self.dir {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
            return write_all(&root, None, directory);
        }
        let mut command = &root;
        let mut parent = None;
        for name in &self.command {
            let below = command.find_subcommand(name).with_context(|| {
                format!(
                    "there is no command {:?}: `standin man --dir DIR` writes the page of each one there is",
                    self.command.join(" ")
                )
            })?;
            parent = Some(command);
            command = below;
        }
        super::print(page(command, parent)?.trim_end())
    }
}

/// Writes the page of `command` and of all below it.
fn write_all(command: &Command, parent: Option<&Command>, directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(format!("{}.1", title(command)));
    std::fs::write(&path, page(command, parent)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    super::print(path.display())?;
    command
        .get_subcommands()
        .try_for_each(|below| write_all(below, Some(command), directory))
}

/// The page of `command`, in roff.
fn page(command: &Command, parent: Option<&Command>) -> anyhow::Result<String> {
    let title = title(command);
    let man = Man::new(command.clone());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let about = command.get_about().map(ToString::to_string);
    let about = about.as_deref().unwrap_or_default();
    let notes = command.get_after_help().map(ToString::to_string);
    let (notes, examples) = match notes.as_deref() {
        Some(text) => text.split_once("Examples:\n").unwrap_or((text, "")),
        None => ("", ""),
    };

    let mut out = Vec::new();
    // By hand: between the section and the source is a date, which a build that is to be repeated has none of.
    let source = concat!("standin ", env!("CARGO_PKG_VERSION"));
    writeln!(
        out,
        ".TH {} 1 \"\" \"{source}\" \"Standin's manual\"",
        title.to_uppercase()
    )?;
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"])
        .text([roman(format!("{title} - {about}"))])
        .control("SH", ["SYNOPSIS"])
        .text([bold(usage)])
        .control("SH", ["DESCRIPTION"])
        .text([roman(format!("{about}."))]);
    for paragraph in notes.split("\n\n").map(str::trim) {
        if !paragraph.is_empty() {
            roff.control("PP", []).text([roman(paragraph)]);
        }
    }
    roff.to_writer(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let mut roff = Roff::new();
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples.lines() {
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
        roff.control("fi", []);
    }
    let related = parent
        .into_iter()
        .chain(command.get_subcommands())
        .flat_map(|other| [roman(", "), bold(self::title(other)), roman("(1)")])
        .skip(1);
    roff.control("SH", ["SEE ALSO"])
        .text(related.collect::<Vec<_>>());
    roff.to_writer(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// `standin-ca-mint`, of a command that was built.
fn title(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// `command` with its line breaks as such: only clap's own pages know its sign for them.
fn legible(command: Command) -> Command {
    command
        .mut_args(|argument| match argument.get_help() {
            Some(help) => {
                let help = help.to_string().replace("{n}", "\n");
                argument.help(help)
            }
            None => argument,
        })
        .mut_subcommands(legible)
}

const AFTER_HELP: &str = "\
Examples:
  standin man serve | man -l -
  standin man --dir ~/.local/share/man/man1";
