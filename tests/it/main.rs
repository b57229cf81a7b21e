//! The black-box suite: the real binary on loopback, by the distribution-spec and the command line's contract.
//!
//! The list below is the table of contents. Nothing here knows how the server is built; only `layers` reads its source.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

// The spec's sections.
mod content_discovery;
mod content_management;
mod error_page;
mod errors;

mod http;
mod http2;
mod limits;

mod pull;
mod push;
mod push_manifests;
mod push_parameters;
mod ranges;
mod reach;
mod referrers;

// Who may do what.
mod auth;
mod auth_challenges;
mod auth_generated;
mod auth_tokens;
mod private_content;

// What a name means, and where its content comes from.
mod cache_size;
mod fault_matrix;
mod mirrors;
mod proxy;
mod pull_through;
mod pull_through_faults;
mod resume;
mod shadowing;
mod stale;
mod transfer_faults;
mod upstream_errors;

// The program.
mod bad_days;
mod cli;
mod configure;
mod detach;
mod disk;
mod export;
mod export_there;
mod list;
mod manual;
mod metrics;
mod prune;
mod relocate;
mod report;
mod run;
mod seed;
mod seed_docker;
mod seed_hostile;
mod seed_sources;
mod status;
mod terminal;
mod tls;
mod tls_constraints;
mod verify;
mod verify_amid;

// What holds under load and after a crash.
mod big;
mod crash;
mod crash_fills;
mod drain;
mod many;
mod model;
mod race;
mod vanish;

// The house.
mod layers;
