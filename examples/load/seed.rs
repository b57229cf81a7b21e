//! How long a docker archive takes into a registry: `standin seed` beside `skopeo copy`, of the same archive into the same
//! program, each into an empty one.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufWriter, Cursor},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    MIB, Plan,
    report::{Report, Unit},
    server::{Program, peak_memory},
};

/// Seeds in all rounds, at the first of the two programs.
pub(crate) fn measure(
    program: &Program,
    skopeo: &Path,
    directory: &Path,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    if !plan.wants(TOOK) && !plan.wants(PEAK) {
        return Ok(());
    }
    let Program::Standin(standin) = program else {
        bail!("only standin seeds");
    };
    let archive = directory.join("archive.tar");
    write(&archive, plan.archive)?;
    for _ in 0..plan.rounds {
        let mut took = [0.0; 2];
        let mut peak = [0.0; 2];
        for which in [0, 1] {
            let server = program.start(&directory.join("seeded"), false)?;
            let address = server.address();
            let mut command;
            if which == 0 {
                command = Command::new(standin);
                command
                    .args(["seed", "--to", &format!("http://{address}")])
                    .arg(format!("docker-archive:{}", archive.display()));
            } else {
                command = Command::new(skopeo);
                command
                    .args([
                        "copy",
                        "--quiet",
                        "--insecure-policy",
                        "--dest-tls-verify=false",
                    ])
                    .arg(format!("docker-archive:{}", archive.display()))
                    .arg(format!("docker://{address}/{NAME}"));
            }
            rustix::fs::sync();
            let began = Instant::now();
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            let child = child.with_context(|| format!("can't start {command:?}"))?;
            peak[which] = ended(child)?;
            took[which] = began.elapsed().as_secs_f64() * 1e3;
        }
        report.add(TOOK, Unit::Milliseconds, took);
        report.add(PEAK, Unit::Mebibytes, peak);
    }
    fs::remove_file(&archive).context("can't remove the archive")
}

/// Waits for its success; the most memory it had, in MiB.
fn ended(mut child: Child) -> anyhow::Result<f64> {
    let mut peak = 0.0;
    loop {
        if let Ok(now) = peak_memory(child.id()) {
            peak = now;
        }
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "it ended with {status}");
            return Ok(peak);
        }
        sleep(Duration::from_millis(10));
    }
}

/// An archive of an image whose layers are together about so large: of each two fifths noise, as programs that are
/// compressed already, and the rest words.
fn write(path: &Path, size: usize) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(BufWriter::new(File::create(path)?));
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, Cursor::new(bytes))
    };
    let (mut paths, mut diff_ids) = (Vec::new(), Vec::new());
    let mut noise = Noise(1);
    for _ in 0..LAYERS {
        let mut layer = Vec::with_capacity(size / LAYERS + BLOCK);
        while layer.len() < size / LAYERS {
            noise.block(&mut layer);
        }
        let digest = hex(&layer);
        paths.push(format!("{digest}.tar"));
        diff_ids.push(format!("sha256:{digest}"));
        add(&format!("{digest}.tar"), &layer)?;
    }
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "history": vec![json!({"created_by": "scripts/bench"}); LAYERS],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let name = format!("{}.json", hex(config.as_bytes()));
    add(&name, config.as_bytes())?;
    let listing = json!([{"Config": name, "RepoTags": [NAME], "Layers": paths}]);
    add("manifest.json", listing.to_string().as_bytes())?;
    archive.into_inner()?.into_inner()?.sync_all()?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The same bytes in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn block(&mut self, out: &mut Vec<u8>) {
        let end = out.len() + BLOCK;
        if self.next() % 5 < 2 {
            while out.len() < end {
                out.extend_from_slice(&self.next().to_le_bytes());
            }
        }
        while out.len() < end {
            // One of some thousand words, by what its number is spelled.
            let word = (self.next() >> 52) * 2_654_435_761;
            let _ = std::io::Write::write_fmt(out, format_args!("{word:x} "));
        }
        out.truncate(end);
    }
}

const TOOK: &str = "docker archive, standin seed / skopeo copy";
const PEAK: &str = "docker archive, standin seed / skopeo copy, memory";
const NAME: &str = "bench/archive:1";
const LAYERS: usize = 30;
const BLOCK: usize = 64 << 10;
/// Of the layers together, in bytes.
pub(crate) const ARCHIVE: usize = 1024 * MIB;
