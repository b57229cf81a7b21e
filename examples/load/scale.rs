//! Whether a request costs by what it asks for and not by all that is stored: standin with a large store beside standin with
//! a small one.
//!
//! Both stores are filled by pushes of one image. In each a repository has many tags, the others a few.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    Plan,
    client::Manifest,
    report::{Report, Unit},
    requests,
    server::{Program, Server},
};

/// A standin with a filled store.
struct Filled {
    server: Server,
    manifest: Manifest,
    repositories: usize,
    /// Of the repository that has many.
    tags: usize,
}

/// A row: what is asked for again and again, and whether new repositories are pushed meanwhile.
struct Asked {
    what: &'static str,
    method: &'static str,
    target: fn(&Filled) -> String,
    pushes: bool,
}

/// The rows of both stores, in all rounds.
pub(crate) fn measure(
    program: &Program,
    directory: &Path,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    let row = |asked: &Asked| format!("{} of {} repositories", asked.what, plan.repositories);
    let wanted: Vec<&Asked> = ASKED
        .iter()
        .filter(|&asked| plan.wants(&row(asked)))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let filled = [
        Filled::start(
            program,
            &directory.join("large"),
            plan.repositories,
            plan.repositories,
        )?,
        Filled::start(program, &directory.join("small"), SMALL, SMALL_TAGS)?,
    ];
    for round in 0..plan.rounds {
        for asked in &wanted {
            let mut values = [0.0; 2];
            for turn in 0..2 {
                let which = (turn + usize::from(round)) % 2;
                rustix::fs::sync();
                values[which] = filled[which].answers(asked, round, plan.small_requests)?;
            }
            report.add_scale(&row(asked), Unit::PerSecond, values);
        }
    }
    Ok(())
}

impl Filled {
    fn start(
        program: &Program,
        directory: &Path,
        repositories: usize,
        tags: usize,
    ) -> anyhow::Result<Self> {
        let server = program.start(directory, false)?;
        let mut connection = server.connect()?;
        let manifest = connection.push_image(MANY_TAGS, "latest")?;
        let tagged = |tags: &[String]| format!("{}?tag={}", manifest.digest, tags.join("&tag="));
        let names: Vec<String> = (0..tags).map(tag).collect();
        for tags in names.chunks(100) {
            connection.push_manifest(MANY_TAGS, &tagged(tags), &manifest)?;
        }
        let few: Vec<String> = (0..FEW_TAGS).map(tag).collect();
        let few = tagged(&few);
        thread::scope(|scope| {
            let pushers: Vec<_> = (0..PUSHERS)
                .map(|pusher| {
                    let (server, few, manifest) = (&server, &few, &manifest);
                    scope.spawn(move || -> anyhow::Result<()> {
                        let mut connection = server.connect()?;
                        for at in (pusher..repositories).step_by(PUSHERS) {
                            connection.push_manifest(&repository(at), few, manifest)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            pushers
                .into_iter()
                .try_for_each(|pusher| pusher.join().ok().context("a client panicked")?)
        })?;
        Ok(Self {
            server,
            manifest,
            repositories,
            tags,
        })
    }

    /// Answers per second. The first one, which may list what no one has asked for yet, does not count.
    fn answers(&self, asked: &Asked, round: u16, duration: Duration) -> anyhow::Result<f64> {
        let target = (asked.target)(self);
        let mut connection = self.server.connect()?;
        connection.ask(asked.method, &target, 200)?;
        if !asked.pushes {
            return requests(&self.server, asked.method, &target, duration);
        }
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let pusher = scope.spawn(|| -> anyhow::Result<()> {
                for at in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("new/r{round}-{at}");
                    connection.push_manifest(&name, "latest", &self.manifest)?;
                    // Few beside what a large store holds.
                    thread::sleep(Duration::from_millis(5));
                }
                Ok(())
            });
            let answers = requests(&self.server, asked.method, &target, duration);
            over.store(true, Ordering::Relaxed);
            pusher.join().ok().context("the pusher panicked")??;
            answers
        })
    }
}

fn repository(at: usize) -> String {
    format!("bench/r{at:05}")
}

fn tag(at: usize) -> String {
    format!("t{at:05}")
}

fn middle_of_catalog(filled: &Filled) -> String {
    let last = repository(filled.repositories / 2);
    format!("/v2/_catalog?n={PAGE}&last={last}")
}

const ASKED: [Asked; 6] = [
    Asked {
        what: "HEAD manifest, one",
        method: "HEAD",
        target: |filled| {
            format!(
                "/v2/{}/manifests/t00001",
                repository(filled.repositories / 2)
            )
        },
        pushes: false,
    },
    Asked {
        what: "GET manifest, one",
        method: "GET",
        target: |filled| {
            format!(
                "/v2/{}/manifests/t00001",
                repository(filled.repositories / 2)
            )
        },
        pushes: false,
    },
    Asked {
        what: "catalog, its first page",
        method: "GET",
        target: |_| format!("/v2/_catalog?n={PAGE}"),
        pushes: false,
    },
    Asked {
        what: "catalog, a middle page",
        method: "GET",
        target: middle_of_catalog,
        pushes: false,
    },
    Asked {
        what: "catalog, a page amid pushes",
        method: "GET",
        target: middle_of_catalog,
        pushes: true,
    },
    Asked {
        what: "tags, a page of 100 in one",
        method: "GET",
        target: |filled| {
            let last = tag(filled.tags / 2);
            format!("/v2/{MANY_TAGS}/tags/list?n=100&last={last}")
        },
        pushes: false,
    },
];

/// The repository with many tags: as many as a large store has repositories.
const MANY_TAGS: &str = "bench/many-tags";

const FEW_TAGS: usize = 9;

/// Repositories of a small store, and of each catalog's page, so that both stores fill it from the middle on.
const SMALL: usize = 10;
const PAGE: usize = 4;

/// A small store's tags in the repository with many: two pages and more.
const SMALL_TAGS: usize = 300;

const PUSHERS: usize = 4;
