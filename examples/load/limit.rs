//! What this machine allows: bare loops that receive, hash and write, or read and send, over the same loopback and to the
//! same file system, with nothing of a registry about them.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

use crate::MIB;

/// How long it took `size` bytes to be received, hashed and written to a new file in `directory`, and then to be read and
/// sent back.
pub(crate) fn push_and_pull(directory: &Path, size: usize) -> anyhow::Result<(Duration, Duration)> {
    let path = directory.join("limit");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let bytes = vec![0x5a; MIB];
    let took = thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, &path, size));
        let client = || -> anyhow::Result<_> {
            let mut tcp = TcpStream::connect(address)?;
            let mut buffer = vec![0; MIB];
            let began = Instant::now();
            let mut left = size;
            while left > 0 {
                let piece = left.min(MIB);
                tcp.write_all(&bytes[..piece])?;
                left -= piece;
            }
            tcp.read_exact(&mut buffer[..1])?;
            let pushed = began.elapsed();
            let began = Instant::now();
            let mut left = size;
            while left > 0 {
                let piece = left.min(MIB);
                let read = tcp.read(&mut buffer[..piece])?;
                ensure!(read > 0, "the plain loop ended early");
                left -= read;
            }
            Ok((pushed, began.elapsed()))
        };
        let took = client();
        server.join().ok().context("the plain loop panicked")??;
        took
    });
    let _ = fs::remove_file(&path);
    took
}

fn serve(listener: &TcpListener, path: &Path, size: usize) -> anyhow::Result<()> {
    let (mut tcp, _) = listener.accept()?;
    let mut buffer = vec![0; MIB];
    let mut hasher = Sha256::new();
    let mut file = File::create_new(path)?;
    let mut left = size;
    while left > 0 {
        let piece = left.min(MIB);
        tcp.read_exact(&mut buffer[..piece])?;
        hasher.update(&buffer[..piece]);
        file.write_all(&buffer[..piece])?;
        left -= piece;
    }
    std::hint::black_box(hasher.finalize());
    tcp.write_all(b".")?;
    let mut file = File::open(path)?;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        tcp.write_all(&buffer[..read])?;
    }
}
