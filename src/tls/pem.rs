//! PEM files: certificates and keys, and what exactly is wrong with one that holds none.

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{Error, PemObject},
};

use super::error::Problem;

/// A certificate, and its block of the file.
pub(super) struct Block {
    pub(super) der: CertificateDer<'static>,
    pub(super) pem: String,
}

/// Every certificate of a file in its order, at least one. Whatever else the file holds, such as a key, is passed over.
pub(super) fn certificates(file: &[u8]) -> Result<Vec<Block>, Problem> {
    let text = String::from_utf8_lossy(file);
    let blocks: Vec<_> = text
        .split(BEGIN)
        .skip(1)
        .map(|rest| {
            let (body, _) = rest.split_once(END).ok_or_else(|| {
                Problem::Malformed(format!("a certificate without its line {END}"))
            })?;
            let pem = format!("{BEGIN}{body}{END}\n");
            let der = CertificateDer::from_pem_slice(pem.as_bytes())
                .map_err(|error| Problem::Malformed(error.to_string()))?;
            Ok(Block { der, pem })
        })
        .collect::<Result<_, _>>()?;
    if blocks.is_empty() {
        return Err(Problem::NoCertificate);
    }
    Ok(blocks)
}

/// The first private key of a file, as PKCS#8, PKCS#1 or SEC1.
pub(super) fn key(file: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    let text = String::from_utf8_lossy(file);
    if ENCRYPTED.iter().any(|marker| text.contains(marker)) {
        return Err(Problem::Encrypted);
    }
    PrivateKeyDer::from_pem_slice(file).map_err(|error| match error {
        Error::NoItemsFound => Problem::NoKey,
        error => Problem::Malformed(error.to_string()),
    })
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// PKCS#8's and OpenSSL's older way to say so.
const ENCRYPTED: [&str; 2] = [
    "-----BEGIN ENCRYPTED PRIVATE KEY-----",
    "Proc-Type: 4,ENCRYPTED",
];
