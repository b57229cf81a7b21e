//! `standin completions`: what a shell completes, made from the same grammar that is parsed.

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Shell to write for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut command = described(Cli::command(), self.shell);
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "standin", &mut script);
        super::print(String::from_utf8_lossy(&script).trim_end())
    }
}

/// `command` with what shells have room for: of each option's help the first line, without default and variable.
fn described(command: Command, shell: Shell) -> Command {
    command
        .mut_args(|argument| {
            let help = argument.get_help().map(ToString::to_string);
            let argument = match help.as_deref().and_then(|help| help.split("{n}").next()) {
                Some(first) => argument.help(first.to_owned()),
                None => argument,
            };
            // zsh's specifications are parted by colons, which clap leaves in what a value is called.
            let value = match argument.get_value_names() {
                Some([value]) if shell == Shell::Zsh => value.replace(':', "\\:"),
                _ => return argument,
            };
            argument.value_name(value)
        })
        .mut_subcommands(|below| described(below, shell))
}

const AFTER_HELP: &str = "\
Examples:
  eval \"$(standin completions bash)\"
  standin completions bash > /etc/bash_completion.d/standin
  standin completions zsh > ~/.zfunc/_standin       # a directory of $fpath
  standin completions fish > ~/.config/fish/completions/standin.fish";
