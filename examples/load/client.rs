//! A client that costs little: blocking, one thread per connection, nothing hashed and nothing allocated while the clock
//! runs. Speaks as much HTTP/1.1 and of the distribution-spec as the measurements need.

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use sha2::{Digest as _, Sha256};

/// Random bytes that all blobs begin with; each ends with bytes of its own, so that no two have one digest.
pub(crate) struct Content {
    shared: Vec<u8>,
    hasher: Sha256,
}

/// Bytes to push, whose digest is known before the clock starts.
pub(crate) struct Blob<'a> {
    shared: &'a [u8],
    own: [u8; OWN],
    pub(crate) digest: String,
}

/// A manifest that was pushed.
pub(crate) struct Manifest {
    text: String,
    pub(crate) digest: String,
}

/// How a blob's bytes travel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Push {
    /// POST, then PUT with all bytes.
    Put,
    /// POST, PATCH of unknown length, PUT without bytes, as docker does.
    Patch,
}

impl Content {
    pub(crate) fn new(size: usize) -> anyhow::Result<Self> {
        let mut shared = vec![0; size - OWN];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut shared))
            .context("can't read random bytes")?;
        let hasher = Sha256::new_with_prefix(&shared);
        Ok(Self { shared, hasher })
    }

    pub(crate) fn blob(&self) -> Blob<'_> {
        let mut own = [0; OWN];
        for half in own.chunks_exact_mut(16) {
            half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        }
        let digest = digest(self.hasher.clone().chain_update(own));
        Blob {
            shared: &self.shared,
            own,
            digest,
        }
    }
}

impl Blob<'_> {
    fn length(&self) -> usize {
        self.shared.len() + self.own.len()
    }

    /// Its bytes in pieces of `size`, but for the last two.
    fn pieces(&self, size: usize) -> impl Iterator<Item = &[u8]> {
        self.shared.chunks(size).chain([&self.own[..]])
    }
}

/// The settings of a client that trusts the certificate `root` and likes AES-128 best, as Go's clients do: the others
/// would give one server another cipher than the other.
pub(crate) fn trusting(root: &CertificateDer<'static>) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A kept-alive connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    host: String,
    /// Room for a head, and for pieces of a body that nobody wants.
    buffer: Vec<u8>,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Connection {
    /// Plain without `tls`.
    pub(crate) fn open(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::IpAddress(address.ip().into());
                let mut session =
                    ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                session.set_buffer_limit(Some(PIECE));
                Box::new(StreamOwned::new(session, tcp))
            }
        };
        Ok(Self {
            stream,
            host: address.to_string(),
            buffer: vec![0; PIECE],
        })
    }

    /// A request without a body, whose answer must have `status`.
    pub(crate) fn ask(&mut self, method: &str, target: &str, status: u16) -> anyhow::Result<()> {
        self.send_head(method, target, "")?;
        self.answer(method, target)?.expect(status)
    }

    /// Pushes to `repository`.
    pub(crate) fn push(&mut self, repository: &str, blob: &Blob, how: Push) -> anyhow::Result<()> {
        let start = format!("/v2/{repository}/blobs/uploads/");
        self.send_head("POST", &start, "content-length: 0\r\n")?;
        let mut session = self.answer("POST", &start)?.location(202)?;
        let length = match how {
            Push::Put => blob.length(),
            Push::Patch => {
                self.send_head("PATCH", &session, "transfer-encoding: chunked\r\n")?;
                let mut framed = Vec::with_capacity(CHUNK + 16);
                for piece in blob.pieces(CHUNK) {
                    framed.clear();
                    write!(framed, "{:x}\r\n", piece.len())?;
                    framed.extend_from_slice(piece);
                    framed.extend_from_slice(b"\r\n");
                    self.stream.write_all(&framed)?;
                }
                self.stream.write_all(b"0\r\n\r\n")?;
                self.stream.flush()?;
                session = self.answer("PATCH", &session)?.location(202)?;
                0
            }
        };
        let separator = if session.contains('?') { '&' } else { '?' };
        let target = format!("{session}{separator}digest={}", blob.digest);
        self.send_head("PUT", &target, &format!("content-length: {length}\r\n"))?;
        if length > 0 {
            for piece in blob.pieces(PIECE) {
                self.stream.write_all(piece)?;
            }
            self.stream.flush()?;
        }
        self.answer("PUT", &target)?.expect(201)
    }

    /// Pulls a blob and forgets it; its length.
    pub(crate) fn pull(&mut self, repository: &str, digest: &str) -> anyhow::Result<u64> {
        self.pull_into(repository, digest, |_| {})
    }

    /// How long it takes until a blob's first byte is there; then pulls the rest.
    pub(crate) fn first_byte(
        &mut self,
        repository: &str,
        digest: &str,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let mut first = None;
        self.pull_into(repository, digest, |bytes| {
            if !bytes.is_empty() {
                first.get_or_insert_with(|| began.elapsed());
            }
        })?;
        first.context("a blob without a byte")
    }

    /// Pulls a blob, which must have the digest it is asked for by.
    pub(crate) fn verify(&mut self, repository: &str, digest: &str) -> anyhow::Result<()> {
        let mut hasher = Sha256::new();
        self.pull_into(repository, digest, |bytes| hasher.update(bytes))?;
        let found = self::digest(hasher);
        ensure!(found == digest, "{digest} came with the digest {found}");
        Ok(())
    }

    /// Pushes a small image of one blob, which is its config; its manifest.
    pub(crate) fn push_image(&mut self, repository: &str, tag: &str) -> anyhow::Result<Manifest> {
        let content = Content {
            shared: Vec::new(),
            hasher: Sha256::new(),
        };
        let config = content.blob();
        self.push(repository, &config, Push::Put)?;
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{OWN}}},"layers":[]}}"#,
            config.digest
        );
        let digest = digest(Sha256::new_with_prefix(&text));
        let manifest = Manifest { text, digest };
        self.push_manifest(repository, tag, &manifest)?;
        Ok(manifest)
    }

    /// Pushes a manifest whose content is there, under `reference` and what follows it in the URL.
    pub(crate) fn push_manifest(
        &mut self,
        repository: &str,
        reference: &str,
        manifest: &Manifest,
    ) -> anyhow::Result<()> {
        let target = format!("/v2/{repository}/manifests/{reference}");
        let headers = format!(
            "content-type: {MANIFEST}\r\ncontent-length: {}\r\n",
            manifest.text.len()
        );
        self.send_head("PUT", &target, &headers)?;
        self.stream.write_all(manifest.text.as_bytes())?;
        self.stream.flush()?;
        self.answer("PUT", &target)?.expect(201)
    }

    fn pull_into(
        &mut self,
        repository: &str,
        digest: &str,
        mut take: impl FnMut(&[u8]),
    ) -> anyhow::Result<u64> {
        let target = format!("/v2/{repository}/blobs/{digest}");
        self.send_head("GET", &target, "")?;
        let head = self.head("GET", &target)?;
        if head.status != 200 {
            return self.finish(head, "GET", &target)?.expect(200).map(|()| 0);
        }
        take(&head.begun);
        let mut left = head.length - head.begun.len() as u64;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let read = self.stream.read(&mut self.buffer[..wanted])?;
            ensure!(read > 0, "GET {target}: {left} bytes are missing");
            take(&self.buffer[..read]);
            left -= read as u64;
        }
        Ok(head.length)
    }

    fn send_head(&mut self, method: &str, target: &str, headers: &str) -> anyhow::Result<()> {
        let mut head = String::with_capacity(512);
        write!(
            head,
            "{method} {target} HTTP/1.1\r\nhost: {}\r\naccept: */*, {MANIFEST}\r\n{headers}\r\n",
            self.host
        )?;
        self.stream.write_all(head.as_bytes())?;
        self.stream.flush()?;
        Ok(())
    }

    fn answer(&mut self, method: &str, target: &str) -> anyhow::Result<Answer> {
        let head = self.head(method, target)?;
        self.finish(head, method, target)
    }

    /// The rest of an answer whose head has come.
    fn finish(&mut self, head: Head, method: &str, target: &str) -> anyhow::Result<Answer> {
        let mut body = head.begun;
        let begun = body.len();
        body.resize(usize::try_from(head.length)?, 0);
        self.stream.read_exact(&mut body[begun..])?;
        Ok(Answer {
            request: format!("{method} {target}"),
            status: head.status,
            location: head.location,
            body,
        })
    }

    fn head(&mut self, method: &str, target: &str) -> anyhow::Result<Head> {
        let mut filled = 0;
        let end = loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            ensure!(read > 0, "{method} {target}: closed without an answer");
            let searched = filled.saturating_sub(3);
            filled += read;
            let found = self.buffer[searched..filled]
                .windows(4)
                .position(|window| window == b"\r\n\r\n");
            if let Some(at) = found {
                break searched + at + 4;
            }
            ensure!(filled < PIECE, "{method} {target}: a head without end");
        };
        let text = String::from_utf8_lossy(&self.buffer[..end]).to_string();
        let mut lines = text.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .with_context(|| format!("{method} {target}: answered {text:?}"))?;
        let mut length = 0;
        let mut location = None;
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            match &*name.to_ascii_lowercase() {
                "content-length" => length = value.parse()?,
                "location" => location = Some(value.to_owned()),
                "transfer-encoding" => bail!("{method} {target}: answered in chunks"),
                _ => {}
            }
        }
        if method == "HEAD" {
            length = 0;
        }
        Ok(Head {
            status,
            location,
            length,
            begun: self.buffer[end..filled].to_vec(),
        })
    }
}

struct Head {
    status: u16,
    location: Option<String>,
    /// Of the body.
    length: u64,
    /// What came of the body with the head.
    begun: Vec<u8>,
}

struct Answer {
    request: String,
    status: u16,
    location: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn expect(&self, status: u16) -> anyhow::Result<()> {
        ensure!(
            self.status == status,
            "{}: answered {}: {}",
            self.request,
            self.status,
            String::from_utf8_lossy(&self.body)
        );
        Ok(())
    }

    /// The path and query of the answer's `Location`, which may be a whole URL.
    fn location(self, status: u16) -> anyhow::Result<String> {
        self.expect(status)?;
        let location = self
            .location
            .with_context(|| format!("{}: no Location", self.request))?;
        let path = location
            .split_once("://")
            .and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].to_owned()));
        Ok(path.unwrap_or(location))
    }
}

fn digest(hasher: Sha256) -> String {
    let mut digest = "sha256:".to_owned();
    for byte in hasher.finalize() {
        // Writing to a string does not fail.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

/// docker-registry answers 404 where it is not asked for by name.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A server that says nothing for so long is taken for broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is written and read at once.
const PIECE: usize = 1 << 20;

/// docker copies a layer in pieces of this size, each of which becomes a chunk.
const CHUNK: usize = 32 << 10;

/// Bytes that only one blob has.
const OWN: usize = 64;
