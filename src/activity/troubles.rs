//! What upstreams failed at: how often, and in which words the first and the last time.

use std::{collections::BTreeMap, time::Duration};

use super::words::shortened;
use crate::metrics::Outcome;

/// One kind of failure of one upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// As its label has it.
    pub registry: String,
    pub outcome: Outcome,
    pub count: u64,
    pub first: (Duration, String),
    pub last: (Duration, String),
}

/// There are as many as registries are configured, times the kinds of failure.
#[derive(Default)]
pub(super) struct Troubles(BTreeMap<(String, &'static str), Trouble>);

impl Troubles {
    pub(super) fn add(&mut self, registry: &str, outcome: Outcome, message: &str, at: Duration) {
        let told = (at, shortened(message, MESSAGE));
        let trouble = self.0.entry((registry.to_owned(), outcome.as_str()));
        let trouble = trouble.or_insert_with(|| Trouble {
            registry: registry.to_owned(),
            outcome,
            count: 0,
            first: told.clone(),
            last: told.clone(),
        });
        trouble.count += 1;
        trouble.last = told;
    }

    pub(super) fn all(&self) -> Vec<Trouble> {
        self.0.values().cloned().collect()
    }
}

/// An upstream may say anything, at any length.
const MESSAGE: usize = 400;
