//! What this machine allows: bare loops that receive, hash and write, or read and send, over the same loopback and to the
//! same file system, with nothing of a registry about them. With several clients each has a thread of its own.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use sha2::{Digest as _, Sha256};

use crate::{MIB, client};

/// How long everybody needed.
pub(crate) struct Took {
    /// To have `size` bytes received, hashed and written to a new file.
    pub(crate) push: Duration,
    /// To have them read and sent back.
    pub(crate) pull: Duration,
}

/// Runs so many loops at once, each of `size` bytes, with files in `directory`.
pub(crate) fn push_and_pull(
    directory: &Path,
    size: usize,
    clients: usize,
    tls: bool,
) -> anyhow::Result<Took> {
    let wire = if tls { Some(Tls::new()?) } else { None };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    // Everybody is connected, then pushes; when the last is through, everybody pulls.
    let turn = Barrier::new(clients + 1);
    thread::scope(|scope| {
        let mut servers = Vec::new();
        let mut pushers = Vec::new();
        for client in 0..clients {
            let (turn, wire) = (&turn, wire.as_ref());
            let connecting = scope.spawn(move || connect(address, wire));
            let stream = accept(&listener, wire)?;
            let path = directory.join(format!("limit-{client}"));
            servers.push(scope.spawn(move || serve(stream, &path, size)));
            let stream = connecting.join().ok().context("a client panicked")??;
            pushers.push(scope.spawn(move || ask(stream, size, turn)));
        }
        turn.wait();
        let began = Instant::now();
        turn.wait();
        let push = began.elapsed();
        let began = Instant::now();
        turn.wait();
        let pull = began.elapsed();
        for thread in servers.into_iter().chain(pushers) {
            thread.join().ok().context("a plain loop panicked")??;
        }
        Ok(Took { push, pull })
    })
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    fn new() -> anyhow::Result<Self> {
        let name = Ipv4Addr::LOCALHOST.to_string();
        let minted = rcgen::generate_simple_self_signed(vec![name])?;
        let key = PrivatePkcs8KeyDer::from(minted.signing_key.serialize_der());
        let certificate = minted.cert.der().clone();
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(key))?;
        Ok(Self {
            server: Arc::new(server),
            client: client::trusting(&certificate)?,
        })
    }
}

fn connect(address: SocketAddr, tls: Option<&Tls>) -> anyhow::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect(address)?;
    let Some(tls) = tls else {
        return Ok(Box::new(tcp));
    };
    let mut session = ClientConnection::new(tls.client.clone(), ServerName::from(address.ip()))?;
    session.set_buffer_limit(Some(MIB));
    let mut stream = StreamOwned::new(session, tcp);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(Box::new(stream))
}

fn accept(listener: &TcpListener, tls: Option<&Tls>) -> anyhow::Result<Box<dyn Stream>> {
    let (tcp, _) = listener.accept()?;
    let Some(tls) = tls else {
        return Ok(Box::new(tcp));
    };
    let mut session = ServerConnection::new(tls.server.clone())?;
    session.set_buffer_limit(Some(MIB));
    let mut stream = StreamOwned::new(session, tcp);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(Box::new(stream))
}

fn ask(mut stream: Box<dyn Stream>, size: usize, turn: &Barrier) -> anyhow::Result<()> {
    let mut buffer = vec![0x5a; MIB];
    turn.wait();
    let mut left = size;
    while left > 0 {
        let piece = left.min(MIB);
        stream.write_all(&buffer[..piece])?;
        left -= piece;
    }
    stream.flush()?;
    stream.read_exact(&mut buffer[..1])?;
    turn.wait();
    stream.write_all(b".")?;
    stream.flush()?;
    let mut left = size;
    while left > 0 {
        let piece = left.min(MIB);
        let read = stream.read(&mut buffer[..piece])?;
        ensure!(read > 0, "a plain loop ended early");
        left -= read;
    }
    turn.wait();
    Ok(())
}

fn serve(mut stream: Box<dyn Stream>, path: &Path, size: usize) -> anyhow::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut hasher = Sha256::new();
    let mut file = File::create_new(path)?;
    let mut left = size;
    while left > 0 {
        let piece = left.min(PIECE);
        stream.read_exact(&mut buffer[..piece])?;
        hasher.update(&buffer[..piece]);
        file.write_all(&buffer[..piece])?;
        left -= piece;
    }
    std::hint::black_box(hasher.finalize());
    stream.write_all(b".")?;
    stream.flush()?;
    stream.read_exact(&mut buffer[..1])?;
    let mut file = File::open(path)?;
    fs::remove_file(path)?;
    let mut buffer = vec![0; MIB];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            stream.flush()?;
            return Ok(());
        }
        stream.write_all(&buffer[..read])?;
    }
}

/// What is received, hashed and written at once: small enough to stay in the processor's cache from one to the next.
const PIECE: usize = 128 << 10;
