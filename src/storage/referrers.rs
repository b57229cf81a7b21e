//! Referrers: which manifests of a repository are about another one.

use super::{Error, Store, layout};
use crate::types::{CanonicalName, Digest, Namespace, Referrer};

impl Store {
    /// Records that `referrer` is about `subject`, which need not be here.
    pub(super) fn add_referrer(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        subject: &Digest,
        referrer: &Referrer,
    ) -> Result<(), Error> {
        self.put_entry(
            &layout::referrer(namespace, name, subject, &referrer.digest),
            referrer,
        )
    }

    /// What is about `subject`, in the order of digests.
    pub fn referrers(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
        subject: &Digest,
    ) -> Result<Vec<Referrer>, Error> {
        let mut referrers = Vec::new();
        for component in self.list(&layout::referrers(namespace, name, subject))? {
            let Some(digest) = layout::parse_digest(&component) else {
                continue;
            };
            let key = layout::referrer(namespace, name, subject, &digest);
            // One that is being deleted may be listed and gone.
            if let Some(referrer) = self.entry(&key)? {
                referrers.push(referrer);
            }
        }
        referrers.sort_unstable_by(|a: &Referrer, b| a.digest.cmp(&b.digest));
        Ok(referrers)
    }
}
