//! The authority and its leaves as clients meet them: certificates parsed back, and handshakes with a rustls client.

use std::{fs, io::Read, os::unix::fs::PermissionsExt, time::Duration as StdDuration};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConnection,
    pki_types::{ServerName, UnixTime, pem::PemObject},
    time_provider::TimeProvider,
};
use tempfile::TempDir;
use time::Duration;
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;

mod authority;
mod leaf;

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn options(dir: &TempDir, registries: &[&str]) -> Options {
    Options {
        state: dir.path().join("state"),
        registries: registries
            .iter()
            .map(|host| host.parse().unwrap())
            .collect(),
        own_names: vec!["localhost".to_owned(), "Registry.CI".to_owned()],
        own_addresses: vec![LOOPBACK, "10.0.0.5".parse().unwrap()],
        certificate: None,
        authority: None,
        http2: false,
    }
}

fn open(dir: &TempDir, registries: &[&str]) -> Tls {
    Tls::open(options(dir, registries)).unwrap()
}

/// Whole seconds, as certificates have them.
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc().replace_nanosecond(0).unwrap()
}

fn read(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join("state").join(name)).unwrap()
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem)
        .map(|der| der.unwrap())
        .collect()
}

#[derive(Debug)]
struct Clock(OffsetDateTime);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = StdDuration::from_secs(self.0.unix_timestamp() as u64);
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// What a client that trusts `roots` gets who connects to `host` at `now`: the server's chain.
fn handshake_at(
    tls: &Tls,
    roots: &[u8],
    host: &str,
    now: OffsetDateTime,
) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let asked = matches!(name, ServerName::DnsName(_)).then_some(host);
    let local = host.parse().unwrap_or(LOOPBACK);
    handshake(
        tls.server_config_at(asked, local, now).unwrap(),
        roots,
        name,
        now,
    )
}

fn handshake(
    server: Arc<ServerConfig>,
    roots: &[u8],
    name: ServerName<'static>,
    now: OffsetDateTime,
) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
    let mut trusted = RootCertStore::empty();
    for root in certificates(roots) {
        trusted.add(root).unwrap();
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(Clock(now)))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), name)?;
    let client = shake(client, ServerConnection::new(server)?)?;
    Ok(client
        .peer_certificates()
        .unwrap()
        .iter()
        .map(|der| der.clone().into_owned())
        .collect())
}

/// Has both sides talk until the handshake is over; the client afterwards.
fn shake(
    mut client: ClientConnection,
    mut server: ServerConnection,
) -> Result<ClientConnection, rustls::Error> {
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire as &mut dyn Read).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(client)
}

/// The alternative names of a leaf, addresses as text.
fn subjects(leaf: &CertificateDer<'_>) -> BTreeSet<String> {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    names.value.general_names.iter().map(general_name).collect()
}

fn general_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).unwrap()).to_string(),
            16 => IpAddr::from(<[u8; 16]>::try_from(*bytes).unwrap()).to_string(),
            // Address and mask.
            len => {
                let ones: u32 = bytes[len / 2..].iter().map(|byte| byte.count_ones()).sum();
                let address = general_name(&GeneralName::IPAddress(&bytes[..len / 2]));
                format!("{address}/{ones}")
            }
        },
        other => panic!("{other:?}"),
    }
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
