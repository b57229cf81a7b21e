//! What scripts and `standin configure` are told once connections are accepted: the ready line and the ready files.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    config::Config,
    job,
    registry::{Seeded, access::Generated},
    types::RegistryHost,
};

/// What scripts read once connections are accepted.
#[derive(Serialize)]
pub(super) struct Ready {
    address: SocketAddr,
    http: String,
    https: String,
    proxy: String,
    ca: PathBuf,
    data: PathBuf,
    pid: u32,
    /// When the process was started, in clock ticks since the machine was: the id may be another's later.
    start: Option<u64>,
    listeners: Vec<SocketAddr>,
    registries: Vec<RegistryHost>,
    /// The generated credential, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

impl Ready {
    pub(super) fn new(
        listeners: &[SocketAddr],
        config: &Config,
        ca: &Path,
        generated: Option<Generated>,
    ) -> anyhow::Result<Self> {
        let reachable: Vec<SocketAddr> = listeners.iter().copied().map(reachable).collect();
        let address = *reachable
            .first()
            .context("there is no address to listen on")?;
        let (user, password) = generated
            .map(|generated| (generated.user.to_string(), generated.password))
            .unzip();
        Ok(Self {
            address,
            http: format!("http://{address}"),
            https: format!("https://{address}"),
            proxy: format!("http://{address}"),
            ca: ca.to_owned(),
            data: config.data.clone(),
            pid: std::process::id(),
            start: job::start_of(rustix::process::getpid()),
            listeners: reachable,
            registries: config.registries.keys().cloned().collect(),
            user,
            password,
        })
    }

    pub(super) fn announce(&self, own: &Path, file: Option<&Path>) -> anyhow::Result<()> {
        // Without an authority of ours nothing else has made that directory.
        let directory = own.parent().unwrap_or(own);
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        if let Err(error) = made
            .map_err(anyhow::Error::from)
            .and_then(|()| self.write(own))
        {
            log::warn!(
                "can't write {} ({error}): `standin configure` has to be told --ready-file or --url",
                own.display()
            );
        }
        if let Some(file) = file {
            self.write(file).with_context(|| {
                format!("can't write the ready file {}: give --ready-file a path in a directory that can be written to", file.display())
            })?;
        }
        if let (Some(user), Some(password)) = (&self.user, &self.password) {
            // No log line: it is told once, whatever is logged.
            let _ = writeln!(
                io::stderr(),
                "standin: to push from another machine, log in as {user} with the password {password} (until the next \
                 start; --user gives lasting ones)"
            );
        }
        // Whoever closed standard output does not read it.
        let _ = writeln!(
            io::stdout(),
            "standin ready {} {} ca={}",
            self.http,
            self.https,
            self.ca.display()
        );
        let _ = io::stdout().flush();
        Ok(())
    }

    /// Whole or not at all: whoever waits for the file reads it the moment it is there.
    fn write(&self, file: &Path) -> anyhow::Result<()> {
        let name = file
            .file_name()
            .context("it has no file name")?
            .to_string_lossy();
        let staged = file.with_file_name(format!(".{name}.{}", self.pid));
        let written = serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|mut json| {
                json.push(b'\n');
                // What is there was left by a process that was killed.
                let _ = fs::remove_file(&staged);
                let mut open = OpenOptions::new();
                open.write(true).create_new(true);
                if self.password.is_some() {
                    open.mode(0o600);
                }
                open.open(&staged)?.write_all(&json)?;
                fs::rename(&staged, file)
            });
        if written.is_err() {
            let _ = fs::remove_file(&staged);
        }
        Ok(written?)
    }

    /// Where it is reached in the clear.
    pub(super) fn http(&self) -> &str {
        &self.http
    }

    /// The shortest name by which a client of ours pulls the image.
    pub(super) fn pull_name(&self, image: &Seeded, default: &RegistryHost) -> String {
        let name = if image.name.source() == default {
            let repository = image.name.repository().as_str();
            match repository.strip_prefix("library/") {
                Some(official) if default.is_docker_hub() => official.to_owned(),
                _ => repository.to_owned(),
            }
        } else {
            image.name.to_string()
        };
        format!("{}/{name}:{}", self.address, image.tag)
    }
}

/// A wildcard can be listened on and not connected to.
fn reachable(listener: SocketAddr) -> SocketAddr {
    match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), listener.port())
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), listener.port())
        }
        _ => listener,
    }
}
