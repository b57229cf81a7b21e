//! `standin ca`: the certificate authority in the state directory, as `serve` has made it. Makes none itself,
//! but certificates with it.

use std::{path::PathBuf, time::SystemTime};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::serve;
use crate::{
    config::{self, Directories, Flags, Key, Sources},
    tls::{AuthorityPlace, MintedLeaf, facts::Facts},
};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
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
    /// Certificate authority that `serve` was given, with --ca-key{n}[default: ca.pem in --state] [env: STANDIN_CA_CERT]
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    ca_cert: Option<String>,
    /// Its private key{n}[env: STANDIN_CA_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    ca_key: Option<String>,
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
                let place = locate(location)?;
                for path in MintedLeaf::new(&place, &names)?.write(&out)? {
                    super::print(path.display())?;
                }
            }
            Command::Path { location } => super::print(locate(location)?.certificate().display())?,
            Command::Show { location, pem } => {
                let path = locate(location)?.certificate();
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

/// Where the authority is, whose certificate exists.
fn locate(location: Location) -> anyhow::Result<AuthorityPlace> {
    let flags = location
        .directories
        .add_to(Flags::new(location.file.config))
        .with(Key::CaCert, location.ca_cert)
        .with(Key::CaKey, location.ca_key);
    let sources = Sources::read(flags, std::env::vars_os().collect())?;
    if let Some((certificate, key)) = config::certified(&sources, Key::CaCert, Key::CaKey)? {
        return Ok(AuthorityPlace::Given { certificate, key });
    }
    let state = Directories::from_sources(&sources)?.state;
    let place = AuthorityPlace::Kept(state.clone());
    let path = place.certificate();
    let found = path
        .try_exists()
        .with_context(|| format!("cannot look for {}", path.display()))?;
    anyhow::ensure!(
        found,
        "there is no certificate authority in {}: start `standin serve` once, or give the --data, --state or --config \
         that it was started with",
        state.display()
    );
    Ok(place)
}

const AFTER_HELP: &str = "\
Examples:
  standin ca show
  curl --cacert \"$(standin ca path)\" https://127.0.0.1:5000/v2/
  standin ca mint registry.test 10.0.0.5";
