//! What a pull costs that standin has to fetch first: through it, beside reading the same upstream directly. The upstream
//! is the program that standin is measured beside, behind a relay that sends no faster than a line would.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    MIB, Plan,
    client::{Connection, Content, Push},
    rate,
    report::{Report, Unit},
    server::Program,
};

/// Pulls of blobs that standin does not have, in all rounds.
pub(crate) fn measure(
    programs: &[Program; 2],
    directory: &Path,
    plan: &Plan,
    content: &Content,
    report: &mut Report,
) -> anyhow::Result<()> {
    let lines: Vec<&Line> = LINES.iter().filter(|line| plan.wants(line.row)).collect();
    if !plan.wants(FIRST_BYTE) && lines.is_empty() {
        return Ok(());
    }
    let upstream = programs[1].start(&directory.join("upstream"), false)?;
    let mut pusher = upstream.connect()?;
    if plan.wants(FIRST_BYTE) {
        let standin = programs[0].start_before(upstream.address(), &directory.join("first"))?;
        let small = Content::new(MIB)?;
        for _ in 0..plan.rounds.max(FIRST_BYTES) {
            let blob = small.blob();
            pusher.push(REPOSITORY, &blob, Push::Put)?;
            let mut values = [0.0; 2];
            for (which, server) in [&standin, &upstream].into_iter().enumerate() {
                let took = server.connect()?.first_byte(REPOSITORY, &blob.digest)?;
                values[which] = took.as_secs_f64() * 1e3;
            }
            report.add(FIRST_BYTE, Unit::Milliseconds, values);
        }
    }
    for line in lines {
        let relay = relay(upstream.address(), line.bytes_per_second)?;
        let standin = programs[0].start_before(relay, &directory.join(line.directory))?;
        for _ in 0..plan.rounds {
            let blob = content.blob();
            pusher.push(REPOSITORY, &blob, Push::Put)?;
            rustix::fs::sync();
            let mut values = [0.0; 2];
            let connections = [standin.connect()?, Connection::open(relay, None)?];
            for (value, mut connection) in values.iter_mut().zip(connections) {
                let began = Instant::now();
                let length = connection.pull(REPOSITORY, &blob.digest)?;
                ensure!(length == plan.size as u64, "a pull of {length} bytes");
                *value = rate(plan.size, began.elapsed());
            }
            report.add(line.row, Unit::MegabytesPerSecond, values);
            standin.forget_blobs()?;
            upstream.forget_blobs()?;
        }
    }
    Ok(())
}

struct Line {
    row: &'static str,
    directory: &'static str,
    bytes_per_second: f64,
}

/// An address where `upstream` answers, its bytes no faster than that. It lives as long as the process.
fn relay(upstream: SocketAddr, bytes_per_second: f64) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            thread::spawn(move || -> io::Result<()> {
                let server = TcpStream::connect(upstream)?;
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                let (asking, asked) = (client.try_clone()?, server.try_clone()?);
                thread::spawn(move || pass(asking, asked, f64::INFINITY));
                pass(server, client, bytes_per_second)
            });
        }
    });
    Ok(address)
}

fn pass(mut from: TcpStream, mut to: TcpStream, bytes_per_second: f64) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut due = Instant::now();
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return to.shutdown(Shutdown::Write);
        }
        // A line that was idle has saved nothing up.
        due = due.max(Instant::now()) + Duration::from_secs_f64(read as f64 / bytes_per_second);
        to.write_all(&buffer[..read])?;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

const REPOSITORY: &str = "bench/cold";

const FIRST_BYTE: &str = "cold blob, first byte";

/// One pull is quick, and its time varies: it is taken at least so often.
const FIRST_BYTES: u16 = 21;

const LINES: [Line; 3] = [
    Line {
        row: "cold pull, line of 1 Gbit/s",
        directory: "line-1",
        bytes_per_second: 125e6,
    },
    Line {
        row: "cold pull, line of 4 Gbit/s",
        directory: "line-4",
        bytes_per_second: 500e6,
    },
    Line {
        row: "cold pull, no line between",
        directory: "line-0",
        bytes_per_second: f64::INFINITY,
    },
];
