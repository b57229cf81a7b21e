//! The certificate authority on disk: `ca.pem` and `ca.key` in the state directory, made once and kept across restarts.
//!
//! Knows files, validity and renewal; knows no handshake and no configuration beyond the hosts it must permit.
//!
//! - A first start mints. A CA of ours whose constraints lack a wanted host is replaced by one with another key and
//!   another name: two CAs that share a name and differ in constraints confuse OpenSSL, which tries only one of them.
//! - A CA of ours with a third of its life left is renewed: same key, same name, new dates. What it issues then verifies
//!   under the old certificate too, so a client has ten days to fetch the new one.
//! - Either way the old certificate stays beside it as `ca.previous.pem`.
//! - A file that cannot be read or does not fit is an error: it may be somebody's only copy.
//! - A CA that an operator put there, or gave from elsewhere, is used as it is, and never replaced.
//! - A certificate leaves its place before another key arrives, and returns last. Wherever a process is killed, either a
//!   whole CA is there, or a key without a certificate, which the next start completes.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SerialNumber,
};
use rustix::fs::{FlockOperation, flock};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    error::{Error, Problem},
    pem,
    permits::{Host, Permits},
};

/// The file a client should trust.
pub(super) const CERTIFICATE: &str = "ca.pem";
pub(super) const KEY: &str = "ca.key";
const PREVIOUS: &str = "ca.previous.pem";
const LOCK: &str = "ca.lock";

/// By this a CA of ours is known from an operator's.
const COMMON_NAME: &str = "standin CA ";

const CA_LIFE: Duration = Duration::days(30);
const LEAF_LIFE: Duration = Duration::hours(24);

/// Clients whose clock is behind ours must not find a certificate "not yet valid".
const BACKDATED: Duration = Duration::hours(24);

/// Where an authority is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityPlace {
    /// In the state directory, where it is made if it is missing.
    Kept(PathBuf),
    /// The operator's, as PEM files. Nothing is ever written there.
    Given { certificate: PathBuf, key: PathBuf },
}

impl AuthorityPlace {
    /// The file a client should trust.
    pub fn certificate(&self) -> PathBuf {
        match self {
            Self::Kept(state) => state.join(CERTIFICATE),
            Self::Given { certificate, .. } => certificate.clone(),
        }
    }
}

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    common_name: String,
    certificate: Certified,
    /// What certifies an operator's CA in its turn, if the operator gave that along.
    above: Vec<pem::Block>,
    previous: Option<Certified>,
    permits: Permits,
}

/// A leaf certificate's chain and key, and when it ends.
pub(super) struct Leaf {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) not_after: OffsetDateTime,
}

impl Authority {
    /// The CA of `place`, which afterwards permits `wanted`: loaded if it does and is not near its end, else minted,
    /// renewed or replaced; an operator's is refused then.
    pub(super) fn open(
        place: &AuthorityPlace,
        wanted: &Permits,
        now: OffsetDateTime,
    ) -> Result<Self, Error> {
        match place {
            AuthorityPlace::Kept(state) => Self::kept(state, wanted, now),
            AuthorityPlace::Given { certificate, key } => {
                let ca = Self::given(certificate, key)?;
                let refuse = |problem| Error::given(certificate.clone(), problem);
                let missing = ca.permits.missing(wanted);
                if !missing.is_empty() {
                    return Err(refuse(Problem::NotPermitted(missing.join(", "))));
                }
                let Certified {
                    not_before,
                    not_after,
                    ..
                } = ca.certificate;
                match ca.validity(now) {
                    Validity::Fresh | Validity::Ending => Ok(ca),
                    Validity::Over => Err(refuse(Problem::NotValid(
                        not_before.date(),
                        not_after.date(),
                    ))),
                }
            }
        }
    }

    fn kept(state: &Path, wanted: &Permits, now: OffsetDateTime) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(|reason| Error::io("create directory", state, reason))?;
        let key = state.join(KEY);
        if let Ok(metadata) = fs::metadata(&key)
            && metadata.permissions().mode() & 0o077 != 0
        {
            log::warn!(
                "{0} can be read by other users, who can then pose as any registry: chmod 600 {0}",
                key.display()
            );
        }
        // Only a change needs the lock, and with it a state directory that can be written. What is wrong here may be another
        // process halfway through its change, so that it counts only when read again under the lock.
        let loaded = match OnDisk::load(state) {
            Ok(OnDisk::Authority(ca)) if ca.permits.missing(wanted).is_empty() => Some(*ca),
            Ok(_) | Err(_) => None,
        };
        match loaded.map(|ca| (ca.validity(now), ca)) {
            Some((Validity::Fresh, ca)) => Ok(ca),
            Some((Validity::Ending, ca)) => Self::change(state, wanted, now).or_else(|error| {
                log::warn!(
                    "the CA ends on {}: {error}",
                    ca.certificate.not_after.date()
                );
                Ok(ca)
            }),
            Some((Validity::Over, _)) | None => Self::change(state, wanted, now),
        }
    }

    /// The CA of `place` as it is; nothing is made.
    pub(super) fn load(place: &AuthorityPlace) -> Result<Self, Error> {
        match place {
            AuthorityPlace::Kept(state) => Self::load_kept(state),
            AuthorityPlace::Given { certificate, key } => Self::given(certificate, key),
        }
    }

    /// An operator's CA: the first certificate of `file` and its key. What stands behind it in the file is sent along.
    fn given(file: &Path, key_file: &Path) -> Result<Self, Error> {
        let contents =
            |path: &Path| fs::read(path).map_err(|reason| Error::io("read", path, reason));
        let (pem, key) = (
            contents(file)?,
            key_pair(key_file, &contents(key_file)?, Error::given)?,
        );
        let refuse = |problem| Error::given(file.to_owned(), problem);
        let above = pem::certificates(&pem).map_err(refuse)?.split_off(1);
        Self::of(&pem, key, key_file, refuse).map(|ca| Self { above, ..ca })
    }

    fn load_kept(state: &Path) -> Result<Self, Error> {
        match OnDisk::load(state)? {
            OnDisk::Authority(ca) => Ok(*ca),
            OnDisk::Nothing | OnDisk::KeyAlone(_) => {
                let path = state.join(CERTIFICATE);
                Err(Error::authority(path, Problem::Missing))
            }
        }
    }

    pub(super) fn validity(&self, now: OffsetDateTime) -> Validity {
        let Certified {
            not_before,
            not_after,
            ..
        } = self.certificate;
        if now < not_before || now >= not_after {
            Validity::Over
        } else if now >= not_after - (not_after - not_before) / 3 {
            Validity::Ending
        } else {
            Validity::Fresh
        }
    }

    pub(super) fn permits(&self, host: &Host) -> bool {
        self.permits.covers(host)
    }

    /// What a client should trust, as PEM: this CA, then the previous one while it is valid.
    pub(super) fn bundle(&self, now: OffsetDateTime) -> String {
        let previous = self
            .previous
            .as_ref()
            .filter(|previous| now < previous.not_after)
            .map_or("", |previous| &*previous.pem);
        format!("{}{}{previous}", self.certificate.pem, self.above_pem())
    }

    /// A server certificate with a key of its own, for 24 hours or as long as this CA lives.
    ///
    /// One host that the CA does not permit makes clients refuse the whole certificate; that it permits them is the
    /// caller's to see to.
    pub(super) fn issue(&self, hosts: &[Host], now: OffsetDateTime) -> Result<Leaf, Error> {
        let (leaf, key) = self.sign(hosts, now)?;
        Ok(Leaf {
            chain: [leaf.der(), &self.certificate.der]
                .into_iter()
                .chain(self.above.iter().map(|block| &block.der))
                .cloned()
                .collect(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            not_after: self.leaf_end(now),
        })
    }

    /// The same as text: the chain, and the key.
    pub(super) fn issue_pem(
        &self,
        hosts: &[Host],
        now: OffsetDateTime,
    ) -> Result<(String, String), Error> {
        let (leaf, key) = self.sign(hosts, now)?;
        let chain = format!("{}{}{}", leaf.pem(), self.certificate.pem, self.above_pem());
        Ok((chain, key.serialize_pem()))
    }

    fn above_pem(&self) -> String {
        self.above.iter().map(|block| block.pem.as_str()).collect()
    }

    fn leaf_end(&self, now: OffsetDateTime) -> OffsetDateTime {
        (now + LEAF_LIFE).min(self.certificate.not_after)
    }

    fn sign(&self, hosts: &[Host], now: OffsetDateTime) -> Result<(Certificate, KeyPair), Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        // Hosts are alternative names only. OpenSSL holds a common name that looks like a host to the constraints too.
        params.distinguished_name = common_name("standin");
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = hosts
            .iter()
            .map(Host::subject)
            .collect::<Result<_, rcgen::Error>>()?;
        params.not_before = (now - BACKDATED).max(self.certificate.not_before);
        params.not_after = self.leaf_end(now);
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok((leaf, key))
    }

    /// Makes on disk what `open` promises. Processes that start at once take turns here, and find what the first one made.
    fn change(state: &Path, wanted: &Permits, now: OffsetDateTime) -> Result<Self, Error> {
        let path = state.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|reason| Error::io("open", &path, reason))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| Error::io("lock", &path, errno.into()))?;

        let path = state.join(CERTIFICATE);
        let shown = path.display();
        match OnDisk::load(state)? {
            OnDisk::Nothing => {
                certify(state, &new_key(state)?, &new_name()?, wanted, now)?;
                log::info!("minted a certificate authority, {shown}");
            }
            OnDisk::KeyAlone(key) => {
                certify(state, &key, &new_name()?, wanted, now)?;
                log::warn!("{shown} was missing: made a new one for the key beside it");
            }
            OnDisk::Authority(ca) => {
                let Certified {
                    not_before,
                    not_after,
                    ..
                } = ca.certificate;
                let missing = ca.permits.missing(wanted);
                let ours = ca.common_name.starts_with(COMMON_NAME);
                if !missing.is_empty() {
                    let missing = missing.join(", ");
                    if !ours {
                        return Err(Error::authority(path, Problem::NotPermitted(missing)));
                    }
                    rename(state, CERTIFICATE, PREVIOUS)?;
                    certify(state, &new_key(state)?, &new_name()?, wanted, now)?;
                    log::warn!(
                        "the certificate authority did not permit {missing}: minted a new one, {shown}, which clients must \
                         trust from now on"
                    );
                } else {
                    match (ca.validity(now), ours) {
                        (Validity::Fresh, _) | (Validity::Ending, false) => return Ok(*ca),
                        (Validity::Over, false) => {
                            let problem = Problem::NotValid(not_before.date(), not_after.date());
                            return Err(Error::authority(path, problem));
                        }
                        (Validity::Ending | Validity::Over, true) => {
                            rename(state, CERTIFICATE, PREVIOUS)?;
                            certify(state, ca.issuer.key(), &ca.common_name, wanted, now)?;
                            log::warn!(
                                "renewed {shown}: clients must have fetched it by {}, when the old one ends",
                                not_after.date()
                            );
                        }
                    }
                }
            }
        }
        Self::load_kept(state)
    }

    /// The CA of a file and its key; `refuse` says what is wrong with the file.
    fn of(
        file: &[u8],
        key: KeyPair,
        key_path: &Path,
        refuse: impl Fn(Problem) -> Error,
    ) -> Result<Self, Error> {
        let (certificate, (common_name, permits)) = Certified::parse(file, |x509| {
            if !x509.is_ca() {
                return Err(Problem::NotAnAuthority);
            }
            if !signs_servers(x509) {
                return Err(Problem::NotForServers);
            }
            if x509.public_key().raw != key.subject_public_key_info() {
                return Err(Problem::Mismatch(key_path.to_owned()));
            }
            let common_name = x509.subject().iter_common_name().next();
            let common_name = common_name.and_then(|name| name.as_str().ok());
            let permits =
                Permits::of(x509).map_err(|error| Problem::Malformed(error.to_string()))?;
            Ok((common_name.unwrap_or_default().to_owned(), permits))
        })
        .map_err(refuse)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate.der, key)?,
            common_name,
            certificate,
            above: Vec::new(),
            previous: None,
            permits,
        })
    }
}

/// Whether what it signs can be a server's certificate, as clients judge.
fn signs_servers(ca: &X509Certificate<'_>) -> bool {
    let signs = match ca.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    signs
        && match ca.extended_key_usage() {
            Ok(Some(usage)) => usage.value.any || usage.value.server_auth,
            Ok(None) => true,
            Err(_) => false,
        }
}

/// The key of a file; `refuse` says what is wrong with it.
fn key_pair(
    path: &Path,
    pem: &[u8],
    refuse: fn(PathBuf, Problem) -> Error,
) -> Result<KeyPair, Error> {
    pem::key(pem)
        .and_then(|key| {
            KeyPair::try_from(&key).map_err(|error| Problem::Malformed(error.to_string()))
        })
        .map_err(|problem| refuse(path.to_owned(), problem))
}

/// How a certificate stands to the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    Fresh,
    /// A third of its life is left, or less.
    Ending,
    /// It has ended, or has not begun.
    Over,
}

/// A certificate as clients get it.
struct Certified {
    der: CertificateDer<'static>,
    pem: String,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// What a state directory holds.
enum OnDisk {
    Nothing,
    KeyAlone(KeyPair),
    Authority(Box<Authority>),
}

impl OnDisk {
    fn load(state: &Path) -> Result<Self, Error> {
        let [key_path, path, previous_path] =
            [KEY, CERTIFICATE, PREVIOUS].map(|name| state.join(name));
        let pem = read(&path)?;
        let key = match (read(&key_path)?, &pem) {
            (None, None) => return Ok(Self::Nothing),
            (None, Some(_)) => return Err(Error::authority(key_path, Problem::Missing)),
            (Some(key), _) => key_pair(&key_path, &key, Error::authority)?,
        };
        let Some(pem) = pem else {
            return Ok(Self::KeyAlone(key));
        };
        let previous = match read(&previous_path)?.map(|pem| Certified::parse(&pem, |_| Ok(()))) {
            Some(Ok((previous, ()))) => Some(previous),
            Some(Err(problem)) => {
                log::warn!("{} {problem}: passing over it", previous_path.display());
                None
            }
            None => None,
        };
        let refuse = |problem| Error::authority(path.clone(), problem);
        let ca = Authority::of(&pem, key, &key_path, refuse)?;
        Ok(Self::Authority(Box::new(Authority { previous, ..ca })))
    }
}

impl Certified {
    /// The first certificate of a file, and what `read` makes of its fields.
    fn parse<T>(
        file: &[u8],
        read: impl FnOnce(&X509Certificate<'_>) -> Result<T, Problem>,
    ) -> Result<(Self, T), Problem> {
        let pem::Block { der, pem } = pem::certificates(file)?.swap_remove(0);
        let malformed = |error: &dyn std::fmt::Display| Problem::Malformed(error.to_string());
        let (_, x509) = X509Certificate::from_der(&der).map_err(|error| malformed(&error))?;
        let time = |time: i64| {
            OffsetDateTime::from_unix_timestamp(time).map_err(|error| malformed(&error))
        };
        let not_before = time(x509.validity().not_before.timestamp())?;
        let not_after = time(x509.validity().not_after.timestamp())?;
        let read = read(&x509)?;
        drop(x509);
        let certified = Self {
            der,
            pem,
            not_before,
            not_after,
        };
        Ok((certified, read))
    }
}

/// Writes a certificate for `key` that permits `wanted`, from yesterday on.
fn certify(
    state: &Path,
    key: &KeyPair,
    name: &str,
    wanted: &Permits,
    now: OffsetDateTime,
) -> Result<(), Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.serial_number = Some(serial()?);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(wanted.constraints());
    params.not_before = now - BACKDATED;
    params.not_after = now + CA_LIFE;
    let certificate = params.self_signed(key)?;
    write(state, CERTIFICATE, &certificate.pem(), 0o644)
}

fn new_key(state: &Path) -> Result<KeyPair, Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    write(state, KEY, &key.serialize_pem(), 0o600)?;
    Ok(key)
}

/// A name that no other CA has.
fn new_name() -> Result<String, Error> {
    let random = u32::from_be_bytes(random()?);
    Ok(format!("{COMMON_NAME}{random:08x}"))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Positive, and never twice.
fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = random::<16>()?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(rustls::Error::from)?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// Writes a whole file or none. Nobody else may write it at the same time.
pub(super) fn write(state: &Path, name: &str, contents: &str, mode: u32) -> Result<(), Error> {
    let unfinished = format!(".{name}.new");
    let path = state.join(&unfinished);
    let written = (|| {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // Absent, or left by a process that was killed.
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)?;
        file.write_all(contents.as_bytes())?;
        // Whatever the umask, a certificate is for everyone.
        file.set_permissions(Permissions::from_mode(mode))
    })();
    written.map_err(|reason| Error::io("write", &path, reason))?;
    rename(state, &unfinished, name)
}

fn rename(state: &Path, from: &str, to: &str) -> Result<(), Error> {
    let to = state.join(to);
    fs::rename(state.join(from), &to).map_err(|reason| Error::io("write", &to, reason))
}
