//! Figures taken in rounds, and what is told of them: medians, as a table and as JSON.

use std::{collections::BTreeMap, fmt, fs, path::Path, process::Command};

use serde_json::json;

use crate::{MIB, server::Program};

/// The figures of one run.
pub(crate) struct Report {
    programs: [String; 2],
    machine: String,
    /// Of a blob, in MiB.
    size: usize,
    rounds: u16,
    rows: Vec<Row>,
    /// Of a large store beside a small one.
    scales: Vec<Row>,
    limits: BTreeMap<String, Vec<f64>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Milliseconds,
    Mebibytes,
    /// 10^6 bytes per second.
    MegabytesPerSecond,
    PerSecond,
}

struct Row {
    name: String,
    unit: Unit,
    /// One pair per round, standin's first.
    values: Vec<[f64; 2]>,
}

impl Report {
    pub(crate) fn new(
        programs: &[Program; 2],
        directory: &Path,
        size: usize,
        rounds: u16,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            programs: [programs[0].version()?, programs[1].version()?],
            machine: machine(directory),
            size: size / MIB,
            rounds,
            rows: Vec::new(),
            scales: Vec::new(),
            limits: BTreeMap::new(),
        })
    }

    /// One round's figures of both servers.
    pub(crate) fn add(&mut self, name: &str, unit: Unit, values: [f64; 2]) {
        add_to(&mut self.rows, name, unit, values);
    }

    /// One round's figures of standin with a large store and with a small one.
    pub(crate) fn add_scale(&mut self, name: &str, unit: Unit, values: [f64; 2]) {
        add_to(&mut self.scales, name, unit, values);
    }

    /// What a plain loop reaches where the servers have the row `name`.
    pub(crate) fn add_limit(&mut self, name: &str, value: f64) {
        self.limits.entry(name.to_owned()).or_default().push(value);
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.name,
                    "unit": row.unit.to_string(),
                    "standin": row.median(0),
                    "peer": row.median(1),
                    "ratio": row.ratio(),
                    "limit": self.limit(row),
                })
            })
            .collect();
        let scales: Vec<_> = self
            .scales
            .iter()
            .map(|row| {
                json!({
                    "name": row.name,
                    "unit": row.unit.to_string(),
                    "large": row.median(0),
                    "small": row.median(1),
                    "ratio": row.ratio(),
                })
            })
            .collect();
        let [standin, peer] = &self.programs;
        let mut text = serde_json::to_string_pretty(&json!({
            "standin": standin,
            "peer": peer,
            "machine": self.machine,
            "blob_mib": self.size,
            "rounds": self.rounds,
            "rows": rows,
            "scales": scales,
        }))?;
        text.push('\n');
        Ok(text)
    }

    fn limit(&self, row: &Row) -> Option<f64> {
        let values = self.limits.get(&row.name)?;
        Some(median(values.iter().copied()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [standin, peer] = &self.programs;
        writeln!(f, "{standin} beside {peer}: {}", self.machine)?;
        writeln!(
            f,
            "blobs of {} MiB, medians of {} rounds; the ratio is taken within each round",
            self.size, self.rounds
        )?;
        writeln!(f)?;
        let peer = peer.split(' ').next().unwrap_or(peer);
        if !self.rows.is_empty() {
            writeln!(
                f,
                "{:<44}{:>10}{peer:>18}{:>8}{:>12}",
                "", "standin", "ratio", "plain loop"
            )?;
        }
        for row in &self.rows {
            write!(
                f,
                "{:<44}{:>10}{:>18}{:>8.2}",
                format!("{}, {}", row.name, row.unit),
                row.unit.shown(row.median(0)),
                row.unit.shown(row.median(1)),
                row.ratio(),
            )?;
            match self.limit(row) {
                Some(limit) => writeln!(f, "{:>12}", row.unit.shown(limit))?,
                None => writeln!(f)?,
            }
        }
        if !self.scales.is_empty() {
            writeln!(
                f,
                "{:<54}{:>12}{:>12}{:>8}",
                "", "large store", "small store", "ratio"
            )?;
        }
        for row in &self.scales {
            writeln!(
                f,
                "{:<54}{:>12}{:>12}{:>8.2}",
                format!("{}, {}", row.name, row.unit),
                row.unit.shown(row.median(0)),
                row.unit.shown(row.median(1)),
                row.ratio(),
            )?;
        }
        Ok(())
    }
}

fn add_to(rows: &mut Vec<Row>, name: &str, unit: Unit, values: [f64; 2]) {
    if let Some(row) = rows.iter_mut().find(|row| row.name == name) {
        return row.values.push(values);
    }
    rows.push(Row {
        name: name.to_owned(),
        unit,
        values: vec![values],
    });
}

impl Row {
    fn median(&self, server: usize) -> f64 {
        median(self.values.iter().map(|pair| pair[server]))
    }

    fn ratio(&self) -> f64 {
        median(self.values.iter().map(|[standin, peer]| standin / peer))
    }
}

impl Unit {
    fn shown(self, value: f64) -> String {
        match self {
            Self::Milliseconds | Self::Mebibytes => format!("{value:.1}"),
            Self::MegabytesPerSecond | Self::PerSecond => format!("{value:.0}"),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::MegabytesPerSecond => "MB/s",
            Self::PerSecond => "per s",
        })
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The machine in one line.
fn machine(directory: &Path) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown processor");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let file_system = Command::new("stat")
        .args(["--file-system", "--format", "%T"])
        .arg(directory)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    format!("{cpus} x {model}, Linux {}, {file_system}", kernel.trim())
}
