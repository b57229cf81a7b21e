//! The fault matrix: what an upstream may do wrong, at each stage of a pull, against what standin has already.
//!
//! `rows` is the expectation, a row for each fault, and the source of `docs/failure-behaviour.md`; [`Trial`] measures a
//! cell of it. Each cell has a registry and an image of its own, so that none sees another's circuit or absences.

mod body;
mod document;
mod replies;
mod rows;
mod table;
mod trial;

use std::{path::Path, sync::Arc};

use futures_util::{StreamExt as _, future, stream};

use self::{
    document::document,
    rows::table,
    table::Time,
    trial::{COLUMNS, Column, Trial},
};
use crate::support::{TestRegistry, eventually, registry::Builder};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_stage_cold_warm_and_stale() {
    let table = table().into_iter().map(Arc::new).collect::<Vec<_>>();
    let mut trials = Vec::new();
    for (number, row) in (1..).zip(&table) {
        for column in COLUMNS {
            trials.push(Trial::new(row, number, column).await);
        }
    }
    // Of one, tags are good for an hour; of the other, for no time at all.
    let (fresh, old) = (TestRegistry::builder(), TestRegistry::builder());
    let ask_each_time = |builder: Builder| builder.args(["--tag-ttl", "0"]);
    let ask_seldom = |builder: Builder| builder.args(["--tag-ttl", "1h"]);
    let is_stale = |trial: &&Trial| trial.column == Column::Stale;
    let registries = |builder: Builder, stale: bool, url: &dyn Fn(&Trial) -> String| {
        let mine = trials.iter().filter(|trial| is_stale(trial) == stale);
        builder.args(mine.map(|trial| format!("--registry={}", url(trial))))
    };
    let well = |builder, stale| registries(builder, stale, &Trial::well);
    let fresh = well(ask_seldom(fresh), false).start().await;
    let old = well(ask_each_time(old), true).start().await;
    stream::iter(&trials)
        .for_each_concurrent(QUICK_ONES, |trial| {
            trial.prepare(if is_stale(&trial) { &old } else { &fresh })
        })
        .await;

    // A registry's address can't be changed while standin runs.
    let stranger = TestRegistry::start().await;
    let untrusted = format!("https://{}", stranger.address());
    let faulty = |builder, stale| registries(builder, stale, &|trial| trial.faulty(&untrusted));
    let fresh = faulty(ask_seldom(fresh.stop().await.plain()), false);
    let old = faulty(ask_each_time(old.stop().await.plain()), true);
    let (fresh, old) = (fresh.start().await, old.start().await);
    let run = async |trial: &Trial| {
        trial.fail(&untrusted);
        trial
            .run(if is_stale(&trial) { &old } else { &fresh })
            .await
    };
    // Those that mostly wait do so beside each other.
    let (quick, slow): (Vec<_>, Vec<_>) = trials
        .iter()
        .partition(|trial| trial.cell().time == Time::AtOnce);
    let quick = stream::iter(quick).map(run).buffer_unordered(QUICK_ONES);
    let slow = stream::iter(slow).map(run).buffer_unordered(SLOW_ONES);
    let (quick, slow): (Vec<_>, Vec<_>) = future::join(quick.collect(), slow.collect()).await;
    let wrong: Vec<String> = quick.into_iter().chain(slow).flatten().collect();
    for registry in [fresh, old] {
        let store = registry.store();
        eventually("nothing is under way any more", || async {
            store.below("uploads").is_empty()
        })
        .await;
        registry.stop().await.store().assert_sound();
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The document is the table, word for word.
#[test]
fn the_document_says_what_is_tested() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/failure-behaviour.md");
    let is = document(&table());
    if std::env::var_os("STANDIN_WRITE_DOCS").is_some() {
        std::fs::write(&path, &is).unwrap();
        return;
    }
    let was = std::fs::read_to_string(&path).unwrap_or_default();
    let differs: Vec<String> = was
        .lines()
        .filter(|line| !is.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"))
        .chain(
            is.lines()
                .filter(|line| !was.lines().any(|other| other == *line))
                .map(|line| format!("+ {line}")),
        )
        .collect();
    assert!(
        was == is,
        "docs/failure-behaviour.md is not what is tested:\n{}\nSTANDIN_WRITE_DOCS=1 cargo test --test it fault_matrix \
         writes it anew",
        differs.join("\n")
    );
}

const QUICK_ONES: usize = 8;

/// All of them, unless there are very many: the longest takes as long as its budget.
const SLOW_ONES: usize = 256;
