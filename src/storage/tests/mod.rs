//! The store from inside: every backend's contract, faults, upload sessions, receiving.
#![allow(clippy::unwrap_used)]

mod durability;
mod eviction;
mod faults;
mod model;
mod races;
mod receiving;
mod sessions;

use super::{
    Durability,
    testing::{Bench, under_contract},
};
use crate::types::{Algorithm, CanonicalName, Digest};

under_contract!(local_disk, || super::Bench::local_disk(
    super::Durability::Job
));
under_contract!(local_disk_synced, || super::Bench::local_disk(
    super::Durability::Full
));
// The faults must be the only difference.
under_contract!(faulty_without_a_fault, super::Bench::faulty);

fn name() -> CanonicalName {
    "docker.io/acme/app".parse().unwrap()
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}
