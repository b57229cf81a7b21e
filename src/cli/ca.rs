//! `standin ca`: the certificate authority in the state directory, as `serve` has made it. Makes none itself,
//! but certificates with it.

use std::{path::PathBuf, time::SystemTime};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::serve;
use crate::{
    config::{Directories, Flags, Sources},
    tls::{MintedLeaf, facts::Facts},
};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what the certificate says: whom it may vouch for, until when, its fingerprint
    Show {
        #[command(flatten)]
        location: Location,
        /// Print the certificate itself (PEM) instead
        #[arg(long)]
        pem: bool,
    },
    /// Make a certificate for another server of the job, and print the paths of NAME.pem (with the authority's
    /// behind it) and NAME.key; it is good for 24 hours
    Mint {
        /// DNS names and IP addresses of that server; the first one names the files
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Directory to write into
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
        #[command(flatten)]
        location: Location,
    },
    /// Print the certificate's path
    Path {
        #[command(flatten)]
        location: Location,
    },
}

/// What leads to the state directory.
#[derive(Args, Debug)]
struct Location {
    #[command(flatten)]
    directories: serve::Directories,
    #[command(flatten)]
    file: serve::File,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Mint {
                names,
                out,
                location,
            } => {
                let ca = locate(location)?;
                let state = ca.parent().unwrap_or(&ca);
                for path in MintedLeaf::new(state, &names)?.write(&out)? {
                    super::print(path.display())?;
                }
            }
            Command::Path { location } => super::print(locate(location)?.display())?,
            Command::Show { location, pem } => {
                let path = locate(location)?;
                if pem {
                    let text = std::fs::read_to_string(&path)
                        .with_context(|| format!("cannot read {}", path.display()))?;
                    super::print(text.trim_end())?;
                } else {
                    super::print(Facts::read(&path, SystemTime::now())?)?;
                }
            }
        }
        Ok(())
    }
}

/// The path of the certificate, which exists.
fn locate(location: Location) -> anyhow::Result<PathBuf> {
    let flags = location
        .directories
        .add_to(Flags::new(location.file.config));
    let sources = Sources::read(flags, std::env::vars_os().collect())?;
    let state = Directories::from_sources(&sources)?.state;
    let path = state.join("ca.pem");
    let found = path
        .try_exists()
        .with_context(|| format!("cannot look for {}", path.display()))?;
    anyhow::ensure!(
        found,
        "there is no certificate authority in {}: start `standin serve` once, or give the --data, --state or --config \
         that it was started with",
        state.display()
    );
    Ok(path)
}
