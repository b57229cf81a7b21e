//! Measures standin beside another registry in one run: the program behind `scripts/bench`.
//!
//! Both servers run all the while and take turns, so that whatever else the machine does meets both; a ratio is taken
//! within each round, and the median of the rounds is what counts. Nothing here is part of the shipped program.

mod client;
mod cold;
mod limit;
mod report;
mod scale;
mod seed;
mod server;

use std::{
    path::{Path, PathBuf},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Parser;

use client::{Blob, Connection, Content, Push};
use report::{Report, Unit};
use server::{Program, Server};

#[derive(Parser)]
#[command(about = "Measures standin beside docker-registry, or another standin")]
struct Arguments {
    /// The standin to measure
    #[arg(long, value_name = "PROGRAM")]
    standin: PathBuf,
    /// What to measure it beside
    #[arg(long, value_name = "PROGRAM", default_value = "docker-registry")]
    docker_registry: PathBuf,
    /// Measure it beside another standin instead
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// What to measure seeding beside
    #[arg(long, value_name = "PROGRAM", default_value = "skopeo")]
    skopeo: PathBuf,
    /// Directory for what the servers store; left empty
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Size of a blob, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: u16,
    /// How often each figure is taken
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Small blobs and one round: whether it works, not how fast it is
    #[arg(long, conflicts_with_all = ["size", "rounds"])]
    quick: bool,
    /// Only the rows whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// File to write the figures to as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let plan = if arguments.quick {
        Plan {
            size: 16 * MIB,
            rounds: 1,
            small_requests: Duration::from_millis(200),
            repositories: 500,
            archive: 64 * MIB,
            only: arguments.only,
        }
    } else {
        Plan {
            size: usize::from(arguments.size) * MIB,
            rounds: arguments.rounds,
            small_requests: Duration::from_secs(1),
            repositories: 10_000,
            archive: seed::ARCHIVE,
            only: arguments.only,
        }
    };
    let programs = [
        Program::Standin(arguments.standin),
        match arguments.against {
            Some(path) => Program::Standin(path),
            None => Program::DockerRegistry(arguments.docker_registry),
        },
    ];
    let mut report = Report::new(&programs, &arguments.dir, plan.size, plan.rounds)?;
    starts(&programs, &arguments.dir, &plan, &mut report)?;
    let content = Content::new(plan.size)?;
    for tls in [false, true] {
        let pair = Pair::start(&programs, &arguments.dir, tls, &plan, &content)?;
        for round in 0..plan.rounds {
            for clients in CLIENTS {
                limits(&arguments.dir, tls, clients, &plan, &mut report)?;
                pair.blobs(round, clients, &mut report)?;
            }
            pair.small_requests(round, &mut report)?;
        }
        let [standin, peer] = [pair.servers[0].memory()?, pair.servers[1].memory()?];
        let row = format!("memory, peak, {}", pair.wire);
        report.add(&row, Unit::Mebibytes, [standin.peak, peer.peak]);
    }
    cold::measure(&programs, &arguments.dir, &plan, &content, &mut report)?;
    let skopeo = &arguments.skopeo;
    seed::measure(&programs[0], skopeo, &arguments.dir, &plan, &mut report)?;
    scale::measure(&programs[0], &arguments.dir, &plan, &mut report)?;
    print!("{report}");
    if let Some(file) = &arguments.json {
        std::fs::write(file, report.json()?)
            .with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}

struct Plan {
    /// Of a blob, in bytes.
    size: usize,
    rounds: u16,
    /// For how long small requests are counted.
    small_requests: Duration,
    /// In a large store.
    repositories: usize,
    /// Bytes of a docker archive's layers.
    archive: usize,
    /// What the name of a row must contain.
    only: String,
}

impl Plan {
    fn wants(&self, row: &str) -> bool {
        row.contains(&self.only)
    }
}

/// Ready time and idle memory, each time from nothing.
fn starts(
    programs: &[Program; 2],
    directory: &Path,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (first, idle) = ("ready, first 200 over TLS", "memory, idle");
    if !plan.wants(first) && !plan.wants(idle) {
        return Ok(());
    }
    for _ in 0..plan.rounds.max(STARTS) {
        let mut readies = [0.0; 2];
        let mut idles = [0.0; 2];
        for (which, program) in programs.iter().enumerate() {
            let server = program.start(&directory.join("start"), true)?;
            readies[which] = server.ready.as_secs_f64() * 1e3;
            // What a start leaves to be done has been done by then.
            thread::sleep(Duration::from_millis(300));
            idles[which] = server.memory()?.now;
        }
        report.add(first, Unit::Milliseconds, readies);
        report.add(idle, Unit::Mebibytes, idles);
    }
    Ok(())
}

/// One round of what the machine allows, beside the rows that it bounds.
fn limits(
    directory: &Path,
    tls: bool,
    clients: usize,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    let row = |what| blobs_row(what, wire(tls), clients);
    let (push, pull) = (row("push"), row("pull"));
    if plan.wants(&push) || plan.wants(&pull) {
        rustix::fs::sync();
        let took = limit::push_and_pull(directory, plan.size, clients, tls)?;
        report.add_limit(&push, rate(clients * plan.size, took.push));
        report.add_limit(&pull, rate(clients * plan.size, took.pull));
    }
    Ok(())
}

/// How requests reach a server, in words.
fn wire(tls: bool) -> &'static str {
    if tls { "TLS" } else { "plain" }
}

fn blobs_row(what: &str, wire: &str, clients: usize) -> String {
    let plural = if clients == 1 { "" } else { "s" };
    format!("{what}, {wire}, {clients} client{plural}")
}

/// Both servers, started to be loaded.
struct Pair<'a> {
    servers: [Server; 2],
    /// How requests reach them, in words.
    wire: &'static str,
    plan: &'a Plan,
    content: &'a Content,
}

impl<'a> Pair<'a> {
    fn start(
        programs: &[Program; 2],
        directory: &Path,
        tls: bool,
        plan: &'a Plan,
        content: &'a Content,
    ) -> anyhow::Result<Self> {
        let servers = [
            programs[0].start(&directory.join("a"), tls)?,
            programs[1].start(&directory.join("b"), tls)?,
        ];
        // What is measured is right, too; and nothing is measured that is done for the first time.
        let small = Content::new(8 * MIB)?;
        for server in &servers {
            let mut connection = server.connect()?;
            for how in [Push::Put, Push::Patch] {
                let blob = small.blob();
                connection.push("bench/warm", &blob, how)?;
                connection.verify("bench/warm", &blob.digest)?;
            }
            connection.push_image("bench/image", "latest")?;
        }
        Ok(Self {
            servers,
            wire: wire(tls),
            plan,
            content,
        })
    }

    /// One round of pushing and pulling by so many clients at once.
    fn blobs(&self, round: u16, clients: usize, report: &mut Report) -> anyhow::Result<()> {
        let row = |what| blobs_row(what, self.wire, clients);
        let (push, patch, pull) = (row("push"), row("push by PATCH"), row("pull"));
        let bytes = clients * self.plan.size;
        let pushed = |server: &Server, how| -> anyhow::Result<_> {
            let blobs: Vec<Blob> = (0..clients).map(|_| self.content.blob()).collect();
            let took = at_once(server, &blobs, |connection, blob| {
                connection.push("bench/load", blob, how)
            })?;
            Ok((rate(bytes, took), blobs))
        };
        if self.plan.wants(&push) || self.plan.wants(&pull) {
            let mut pulls = [0.0; 2];
            let pushes = self.turns(round, |which| {
                let server = &self.servers[which];
                let (pushed, blobs) = pushed(server, Push::Put)?;
                if self.plan.wants(&pull) {
                    let took = at_once(server, &blobs, |connection, blob| {
                        let length = connection.pull("bench/load", &blob.digest)?;
                        ensure!(length == self.plan.size as u64, "a pull of {length} bytes");
                        Ok(())
                    })?;
                    pulls[which] = rate(bytes, took);
                }
                server.forget_blobs()?;
                Ok(pushed)
            })?;
            report.add(&push, Unit::MegabytesPerSecond, pushes);
            if self.plan.wants(&pull) {
                report.add(&pull, Unit::MegabytesPerSecond, pulls);
            }
        }
        if self.plan.wants(&patch) {
            let patches = self.turns(round, |which| {
                let (pushed, _) = pushed(&self.servers[which], Push::Patch)?;
                self.servers[which].forget_blobs()?;
                Ok(pushed)
            })?;
            report.add(&patch, Unit::MegabytesPerSecond, patches);
        }
        Ok(())
    }

    /// One round of requests that are answered with a head and little else.
    fn small_requests(&self, round: u16, report: &mut Report) -> anyhow::Result<()> {
        for (what, method, target) in [
            ("GET /v2/", "GET", "/v2/"),
            ("HEAD manifest", "HEAD", "/v2/bench/image/manifests/latest"),
        ] {
            let row = format!("{what}, {}, {REQUESTERS} clients", self.wire);
            if self.plan.wants(&row) {
                let rates = self.turns(round, |which| {
                    let server = &self.servers[which];
                    requests(server, method, target, self.plan.small_requests)
                })?;
                report.add(&row, Unit::PerSecond, rates);
            }
        }
        Ok(())
    }

    /// What `measure` finds for each server; who goes first changes with the round.
    fn turns(
        &self,
        round: u16,
        mut measure: impl FnMut(usize) -> anyhow::Result<f64>,
    ) -> anyhow::Result<[f64; 2]> {
        let mut values = [0.0; 2];
        for turn in 0..2 {
            let which = (turn + usize::from(round)) % 2;
            // What the other left to be written out is not paid for here.
            rustix::fs::sync();
            values[which] = measure(which)?;
        }
        Ok(values)
    }
}

/// How long it takes until all of `blobs` are through `work`, each on a connection of its own that is open by then.
fn at_once(
    server: &Server,
    blobs: &[Blob],
    work: impl Fn(&mut Connection, &Blob) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Duration> {
    let connections = blobs
        .iter()
        .map(|_| server.connect())
        .collect::<Result<Vec<_>, _>>()?;
    let begin = Barrier::new(blobs.len() + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = connections
            .into_iter()
            .zip(blobs)
            .map(|(mut connection, blob)| {
                let (begin, work) = (&begin, &work);
                scope.spawn(move || {
                    begin.wait();
                    work(&mut connection, blob)
                })
            })
            .collect();
        begin.wait();
        let began = Instant::now();
        for worker in workers {
            worker.join().ok().context("a client panicked")??;
        }
        Ok(began.elapsed())
    })
}

/// Answers per second, asked for by several clients one after the other each.
fn requests(
    server: &Server,
    method: &str,
    target: &str,
    duration: Duration,
) -> anyhow::Result<f64> {
    let connections = (0..REQUESTERS)
        .map(|_| server.connect())
        .collect::<Result<Vec<_>, _>>()?;
    let answered = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let began = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                let (answered, over) = (&answered, &over);
                scope.spawn(move || -> anyhow::Result<()> {
                    while !over.load(Ordering::Relaxed) {
                        connection.ask(method, target, 200)?;
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        thread::sleep(duration);
        over.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().ok().context("a client panicked")??;
        }
        Ok(answered.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
    })
}

/// In 10^6 bytes per second.
fn rate(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

pub(crate) const MIB: usize = 1 << 20;

/// How many clients push and pull at once.
const CLIENTS: [usize; 2] = [1, 8];

/// How many clients send small requests.
const REQUESTERS: usize = 8;

/// A start is quick, and its time varies: it is taken at least so often.
const STARTS: u16 = 7;
