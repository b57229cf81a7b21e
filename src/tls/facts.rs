//! What a CA file says, for a person to read. It only reads certificates; it makes and checks none.

use std::{
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use time::OffsetDateTime;
use x509_parser::{
    extensions::{GeneralName, NameConstraints},
    pem::Pem,
};

use crate::types::{Algorithm, Digest};

/// The certificates in a PEM file: more than one while a CA is being renewed. `Display` gives them line by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub path: PathBuf,
    /// At least one, in the file's order.
    pub certificates: Vec<Certificate>,
    read_at: OffsetDateTime,
}

/// What one certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// The names it may vouch for, and those below them; `None` if it may vouch for any.
    pub permitted: Option<Vec<String>>,
    /// SHA-256 of the certificate in lower-case hex.
    pub sha256: String,
}

impl Facts {
    /// Reads the file. `now` decides how many days are left.
    ///
    /// # Errors
    /// The file cannot be read, or does not consist of certificates.
    pub fn read(path: &Path, now: SystemTime) -> Result<Self, FactsError> {
        let bytes = std::fs::read(path).map_err(|source| FactsError::Io {
            path: path.to_owned(),
            source,
        })?;
        let invalid = |problem: String| FactsError::Invalid {
            path: path.to_owned(),
            problem,
        };
        let mut certificates = Vec::new();
        for pem in Pem::iter_from_buffer(&bytes) {
            let pem = pem.map_err(|error| invalid(format!("it is no PEM: {error}")))?;
            if pem.label != "CERTIFICATE" {
                return Err(invalid(format!("it holds a {}", pem.label)));
            }
            let unreadable =
                |error: &dyn fmt::Display| invalid(format!("a certificate is broken: {error}"));
            let x509 = pem.parse_x509().map_err(|error| unreadable(&error))?;
            let constraints = x509
                .name_constraints()
                .map_err(|error| unreadable(&error))?;
            let validity = x509.validity();
            certificates.push(Certificate {
                subject: x509.subject().to_string(),
                not_before: validity.not_before.to_datetime(),
                not_after: validity.not_after.to_datetime(),
                permitted: constraints.and_then(|extension| permitted(extension.value)),
                sha256: Digest::of(Algorithm::Sha256, &pem.contents)
                    .hex()
                    .to_owned(),
            });
        }
        if certificates.is_empty() {
            return Err(invalid("it holds no certificate".to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            certificates,
            read_at: now.into(),
        })
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "path:        {}", self.path.display())?;
        for certificate in &self.certificates {
            let left = (certificate.not_after - self.read_at).whole_days();
            let state = if self.read_at > certificate.not_after {
                "expired".to_owned()
            } else if self.read_at < certificate.not_before {
                "not valid yet".to_owned()
            } else {
                format!("{left} {} left", if left == 1 { "day" } else { "days" })
            };
            let fingerprint = certificate.sha256.as_bytes().chunks(2);
            let fingerprint: Vec<String> = fingerprint
                .map(|pair| String::from_utf8_lossy(pair).to_uppercase())
                .collect();
            write!(
                f,
                "\nsubject:     {}\nvalid:       {} to {} ({state})\npermitted:   ",
                certificate.subject,
                timestamp(certificate.not_before),
                timestamp(certificate.not_after),
            )?;
            match &certificate.permitted {
                None => f.write_str("any name")?,
                Some(names) if names.is_empty() => f.write_str("no name")?,
                Some(names) => f.write_str(&names.join("\n             "))?,
            }
            write!(f, "\nfingerprint: SHA-256 {}", fingerprint.join(":"))?;
        }
        Ok(())
    }
}

/// `None` if the constraints leave every name free.
fn permitted(constraints: &NameConstraints<'_>) -> Option<Vec<String>> {
    let subtrees = constraints.permitted_subtrees.as_ref()?;
    Some(
        subtrees
            .iter()
            .map(|subtree| match &subtree.base {
                GeneralName::DNSName(name) => (*name).to_owned(),
                GeneralName::IPAddress(bytes) => {
                    subnet(bytes).unwrap_or_else(|| format!("an address of {} bytes", bytes.len()))
                }
                other => other.to_string(),
            })
            .collect(),
    )
}

/// RFC 5280, section 4.2.1.10: an address, then a mask of the same length.
fn subnet(bytes: &[u8]) -> Option<String> {
    let (address, mask) = bytes.split_at(bytes.len() / 2);
    let address = match mask.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    if mask.iter().all(|byte| *byte == u8::MAX) {
        return Some(address.to_string());
    }
    let bits: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
    Some(format!("{address}/{bits}"))
}

fn timestamp(time: OffsetDateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// The file tells nothing about a CA.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error("cannot read the certificate {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is no file of certificates: {problem}", path.display())]
    Invalid { path: PathBuf, problem: String },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        CertificateParams, CidrSubnet, DnType, DnValue, GeneralSubtree, KeyPair, date_time_ymd,
    };

    use super::*;

    /// A CA for 2026, as PEM.
    fn minted(permitted: Option<Vec<GeneralSubtree>>) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        let name = DnValue::Utf8String("a test's CA".to_owned());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.not_before = date_time_ymd(2026, 1, 2);
        params.not_after = date_time_ymd(2026, 12, 31);
        params.name_constraints = permitted.map(|permitted_subtrees| rcgen::NameConstraints {
            permitted_subtrees,
            excluded_subtrees: Vec::new(),
        });
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    fn read(pem: &str, now: OffsetDateTime) -> Result<Facts, FactsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, pem).unwrap();
        Facts::read(&path, now.into())
    }

    #[test]
    fn a_constrained_ca_tells_its_names_and_how_long_it_lasts() {
        let pem = minted(Some(vec![
            GeneralSubtree::DnsName("quay.io".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix([127, 0, 0, 0].into(), 8)),
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
                std::net::Ipv6Addr::LOCALHOST.into(),
                128,
            )),
        ]));
        let facts = read(&pem, date_time_ymd(2026, 12, 1)).unwrap();
        let text = facts.to_string();
        for line in [
            "subject:     CN=a test's CA",
            "valid:       2026-01-02T00:00:00Z to 2026-12-31T00:00:00Z (30 days left)",
            "permitted:   quay.io",
            "             127.0.0.0/8",
            "             ::1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
        let der = &Pem::iter_from_buffer(pem.as_bytes())
            .next()
            .unwrap()
            .unwrap()
            .contents;
        let sha256 = Digest::of(Algorithm::Sha256, der);
        let fingerprint = text.lines().last().unwrap().replace(':', "").to_lowercase();
        assert_eq!(fingerprint, format!("fingerprint sha-256 {}", sha256.hex()));
    }

    #[test]
    fn a_day_too_early_or_too_late_is_told() {
        let pem = minted(None);
        let hour = Duration::from_secs(3600);
        for (now, state) in [
            (date_time_ymd(2026, 1, 1), "(not valid yet)"),
            (date_time_ymd(2026, 12, 29) + hour, "(1 day left)"),
            (date_time_ymd(2026, 12, 30) + hour, "(0 days left)"),
            (date_time_ymd(2027, 1, 1), "(expired)"),
        ] {
            let text = read(&pem, now).unwrap().to_string();
            assert!(text.contains(state), "no {state} in:\n{text}");
            assert!(text.contains("permitted:   any name"), "{text}");
        }
    }

    #[test]
    fn every_certificate_of_a_renewal_is_shown() {
        let both = minted(None) + &minted(None);
        let facts = read(&both, date_time_ymd(2026, 2, 1)).unwrap();
        assert_eq!(facts.certificates.len(), 2);
        assert_eq!(facts.to_string().matches("fingerprint:").count(), 2);
    }

    #[test]
    fn files_that_are_no_ca() {
        let key = KeyPair::generate().unwrap().serialize_pem();
        let cut = minted(None).replace("-----END CERTIFICATE-----", "");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (pem, fragment) in [
            ("", "no certificate"),
            ("hello\n", "no certificate"),
            (&key, "PRIVATE KEY"),
            (&cut, "no PEM"),
            (broken, "is broken"),
        ] {
            let error = read(pem, date_time_ymd(2026, 2, 1))
                .unwrap_err()
                .to_string();
            assert!(error.contains(fragment), "{pem:?}: {error}");
            assert!(error.contains("ca.pem"), "{error}");
        }
        let missing = Facts::read(Path::new("/nonexistent/ca.pem"), SystemTime::now());
        assert!(matches!(missing, Err(FactsError::Io { .. })));
    }
}
