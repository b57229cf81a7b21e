//! Certificates for a job's other servers, made with the authority that `serve` left in the state directory.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::{
    authority::{self, Authority, AuthorityPlace, Validity},
    error::Error,
    permits::Host,
};

/// A server certificate with its key. Neither is kept anywhere but here.
pub struct MintedLeaf {
    /// The certificate and the authority's behind it, as PEM.
    chain: String,
    /// PKCS#8 as PEM.
    key: String,
    /// What the files are called.
    name: String,
}

impl MintedLeaf {
    /// A certificate for all of `names` (DNS names and addresses), good for 24 hours or as long as the authority of
    /// `place`. Nothing is written.
    ///
    /// # Errors
    /// There is no authority, it has ended, or it does not permit one of the names: clients would refuse them all.
    pub fn new(place: &AuthorityPlace, names: &[String]) -> Result<Self, Error> {
        let hosts = names
            .iter()
            .map(|name| Host::parse(name).ok_or_else(|| Error::Name(name.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        let now = OffsetDateTime::now_utc();
        let authority = Authority::load(place)?;
        let path = place.certificate();
        if authority.validity(now) == Validity::Over {
            return Err(Error::Ended(path));
        }
        if let Some(foreign) = hosts.iter().find(|host| !authority.permits(host)) {
            let host = foreign.to_string();
            return Err(Error::NotPermitted { path, host });
        }
        let name = hosts.first().map_or(String::new(), Host::to_string);
        let (chain, key) = authority.issue_pem(&hosts, now)?;
        Ok(Self {
            chain,
            key,
            name: name.replace(':', "_"),
        })
    }

    /// Writes `NAME.pem`, and `NAME.key` for the owner alone, into `directory`; what was there of these names is replaced,
    /// whole. Their paths.
    pub fn write(&self, directory: &Path) -> Result<[PathBuf; 2], Error> {
        let [chain, key] = ["pem", "key"].map(|kind| format!("{}.{kind}", self.name));
        authority::write(directory, &key, &self.key, 0o600)?;
        authority::write(directory, &chain, &self.chain, 0o644)?;
        Ok([chain, key].map(|name| directory.join(name)))
    }
}
