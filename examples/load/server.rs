//! The registries under test: started by hand on loopback, each with directories of its own, looked at through /proc, and
//! ended when dropped.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::client::{self, Connection};

/// A program to measure.
#[derive(Clone)]
pub(crate) enum Program {
    Standin(PathBuf),
    /// Debian's, or any other build of distribution.
    DockerRegistry(PathBuf),
}

/// A server that has answered.
pub(crate) struct Server {
    child: Child,
    directory: PathBuf,
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    /// From just before its start to its first answer, certificate authority included where it makes one.
    pub(crate) ready: Duration,
}

/// What it needs of memory, in MiB.
pub(crate) struct Memory {
    pub(crate) now: f64,
    pub(crate) peak: f64,
}

impl Program {
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let (Self::Standin(path) | Self::DockerRegistry(path)) = self;
        let output = Command::new(path)
            .arg("--version")
            .output()
            .with_context(|| format!("can't run {}", path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_whitespace().last().unwrap_or("?");
        let name = match self {
            Self::Standin(_) => "standin",
            Self::DockerRegistry(_) => "docker-registry",
        };
        Ok(format!("{name} {version}"))
    }

    /// Starts it in `directory`, which must not exist, and waits for its first 200. It has no upstream.
    pub(crate) fn start(&self, directory: &Path, tls: bool) -> anyhow::Result<Server> {
        self.start_with(directory, tls, &["--offline"])
    }

    /// Starts it, over plain HTTP, as a mirror of what is at `upstream`; docker-registry would need more to be one.
    pub(crate) fn start_before(
        &self,
        upstream: SocketAddr,
        directory: &Path,
    ) -> anyhow::Result<Server> {
        let registry = format!("docker.io=http://{upstream}");
        let options = ["--no-default-registries", "--registry", &registry];
        self.start_with(directory, false, &options)
    }

    fn start_with(&self, directory: &Path, tls: bool, options: &[&str]) -> anyhow::Result<Server> {
        fs::create_dir(directory)?;
        let address = free_address()?;
        let mut command;
        let trusted = match self {
            Self::Standin(path) => {
                let state = directory.join("state");
                command = Command::new(path);
                command
                    .arg("serve")
                    .args(["--listen", &address.to_string()])
                    .args(options)
                    .arg("--data")
                    .arg(directory.join("data"))
                    .arg("--state")
                    .arg(&state);
                state.join("ca.pem")
            }
            Self::DockerRegistry(path) => {
                let config = directory.join("config.yml");
                let certificate = directory.join("certificate.pem");
                let key = directory.join("key.pem");
                let minted = rcgen::generate_simple_self_signed(vec![address.ip().to_string()])?;
                fs::write(&certificate, minted.cert.pem())?;
                fs::write(&key, minted.signing_key.serialize_pem())?;
                let tls = if tls {
                    format!(
                        "\n  tls: {{certificate: {certificate:?}, key: {key:?}}}\n  http2: {{disabled: true}}"
                    )
                } else {
                    String::new()
                };
                let root = directory.join("data");
                fs::write(
                    &config,
                    format!(
                        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                         storage: {{filesystem: {{rootdirectory: {root:?}}}}}\n\
                         http:\n  addr: {address}\n  secret: benchmark{tls}\n"
                    ),
                )?;
                command = Command::new(path);
                command.arg("serve").arg(&config);
                certificate
            }
        };
        let log = fs::File::create(directory.join("log"))?;
        // Each of them takes settings from its environment.
        command
            .env_clear()
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);

        let began = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("can't start {command:?}"))?;
        let mut server = Server {
            child,
            directory: directory.to_owned(),
            address,
            tls: None,
            ready: Duration::ZERO,
        };
        loop {
            if server.answers(tls.then_some(&trusted)) {
                server.ready = began.elapsed();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("{command:?} ended ({status}): {}", server.log());
            }
            if began.elapsed() > STARTED_WITHIN {
                bail!("{command:?} does not answer: {}", server.log());
            }
            sleep(LOOK_AGAIN);
        }
    }
}

impl Server {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.address, self.tls.as_ref())
            .with_context(|| format!("can't connect to {}", self.address))
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let id = self.child.id();
        Ok(Memory {
            now: memory_of(id, "VmRSS:")?,
            peak: peak_memory(id)?,
        })
    }

    /// Frees the blobs that were pushed, and with them the pages the kernel would still write out.
    pub(crate) fn forget_blobs(&self) -> anyhow::Result<()> {
        let mut directories = vec![self.directory.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    directories.push(entry.path());
                } else if metadata.len() >= crate::MIB as u64 {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Whether it answers a request by now, over TLS if there is a certificate to trust.
    fn answers(&mut self, trusted: Option<&PathBuf>) -> bool {
        if let (Some(path), None) = (trusted, &self.tls) {
            self.tls = CertificateDer::from_pem_file(path)
                .ok()
                .and_then(|root| client::trusting(&root).ok());
            if self.tls.is_none() {
                return false;
            }
        }
        Connection::open(self.address, self.tls.as_ref())
            .is_ok_and(|mut connection| connection.ask("GET", "/v2/", 200).is_ok())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A graceful end is not what is measured; nothing of it is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The most that a process that still runs has had, in MiB.
pub(crate) fn peak_memory(process: u32) -> anyhow::Result<f64> {
    memory_of(process, "VmHWM:")
}

fn memory_of(process: u32, field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kib: Option<f64> = status.lines().find_map(|line| {
        let value = line.strip_prefix(field)?.trim_end_matches("kB");
        value.trim().parse().ok()
    });
    let kib = kib.with_context(|| format!("/proc/{process}/status has no {field}"))?;
    Ok(kib / 1024.0)
}

fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// Short beside the time a start takes, long enough that looking costs the starting server nothing.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

const STARTED_WITHIN: Duration = Duration::from_secs(30);
