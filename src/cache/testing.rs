//! An upstream that answers as a test says, for what only the inside can show. Whatever a client can see has its tests in
//! `tests/it`.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use tokio::runtime::Handle;

use super::{Cache, Keep, Pace, Settings};
use crate::{
    storage::Store,
    types::{Algorithm, Digest, RegistryHost, manifest::MANIFEST_LIMIT},
    upstream::{self, Keyring, Options, Upstreams},
};

/// Long enough for a loaded machine; nothing that passes waits for it.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A server on loopback, which lives as long as the test.
pub(crate) struct FakeUpstream {
    url: String,
    content: Arc<Mutex<Content>>,
    requests: Arc<Mutex<Vec<String>>>,
}

/// What is there, by the path behind `/v2/`: the answers to one GET after the other, the last one for all that follow.
/// Everything else is answered 404.
type Content = BTreeMap<String, VecDeque<Reply>>;

/// An answer of 200, or 206 to a `Range`.
#[derive(Clone, Default)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    pub(crate) content_type: Option<&'static str>,
    /// Of a GET's body so many bytes are sent, and the rest when the gate is open.
    pub(crate) held_at: Option<(usize, Gate)>,
    /// Of a GET's body so many bytes are sent, and then the connection is closed.
    pub(crate) cut_at: Option<usize>,
    /// A `Range` is answered with everything.
    pub(crate) ignores_range: bool,
    /// Nothing is said of the length.
    pub(crate) chunked: bool,
    /// This status and no body.
    pub(crate) status: Option<u16>,
}

/// Shut until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(open, SOON, |open| !*open));
    }
}

impl Reply {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            ..Self::default()
        }
    }

    pub(crate) fn held(bytes: &[u8], at: usize, gate: &Gate) -> Self {
        Self {
            held_at: Some((at, gate.clone())),
            ..Self::of(bytes)
        }
    }

    pub(crate) fn cut(bytes: &[u8], at: usize) -> Self {
        Self {
            cut_at: Some(at),
            ..Self::of(bytes)
        }
    }

    pub(crate) fn failure(status: u16) -> Self {
        Self {
            status: Some(status),
            ..Self::default()
        }
    }
}

impl FakeUpstream {
    pub(crate) fn start<const N: usize>(content: [(String, Reply); N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let content = content.map(|(path, reply)| (path, VecDeque::from([reply])));
        let content = Arc::new(Mutex::new(Content::from(content)));
        let served = Arc::clone(&content);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (content, log) = (Arc::clone(&served), Arc::clone(&log));
                // A client that goes away is none of the test's business.
                thread::spawn(move || drop(answer(&client, &content, &log)));
            }
        });
        Self {
            url,
            content,
            requests,
        }
    }

    /// Answers GETs of `path` so from now on, one after the other.
    pub(crate) fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies = replies.into_iter().collect();
        self.content
            .lock()
            .unwrap()
            .insert(path.to_owned(), replies);
    }

    /// `<method> <path behind /v2/>[ from <offset>]` of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests begin so.
    pub(crate) fn count(&self, beginning: &str) -> usize {
        let requests = self.requests();
        let such = requests.iter().filter(|line| line.starts_with(beginning));
        such.count()
    }
}

fn answer(
    client: &TcpStream,
    content: &Mutex<Content>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(client).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut from = 0;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap_or(0);
        }
        if line.is_empty() {
            break;
        }
    }
    let mut words = request.split(' ');
    let method = words.next().unwrap_or_default();
    let path = words.next().unwrap_or_default();
    let path = path.strip_prefix("/v2/").unwrap_or(path);
    let behind = match from {
        0 => String::new(),
        from => format!(" from {from}"),
    };
    log.lock().unwrap().push(format!("{method} {path}{behind}"));

    let mut client = client;
    let reply = match content.lock().unwrap().get_mut(path) {
        Some(replies) if method == "GET" && replies.len() > 1 => replies.pop_front(),
        Some(replies) => replies.front().cloned(),
        None => None,
    };
    let reply = reply.unwrap_or(Reply::failure(404));
    if reply.ignores_range {
        from = 0;
    }
    if let Some(status) = reply.status {
        return write!(
            client,
            "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
    }
    let rest = reply.bytes.get(from..).unwrap_or_default();
    match from {
        0 => write!(client, "HTTP/1.1 200 OK\r\n")?,
        from => write!(
            client,
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{}/{}\r\n",
            reply.bytes.len() - 1,
            reply.bytes.len()
        )?,
    }
    if let Some(content_type) = reply.content_type {
        write!(client, "content-type: {content_type}\r\n")?;
    }
    match reply.chunked {
        true => write!(client, "transfer-encoding: chunked\r\n")?,
        false => write!(client, "content-length: {}\r\n", rest.len())?,
    }
    write!(client, "connection: close\r\n\r\n")?;
    if method == "HEAD" {
        return Ok(());
    }
    if reply.chunked {
        let sent = &rest[..reply.cut_at.unwrap_or(rest.len())];
        write!(client, "{:x}\r\n", sent.len())?;
        client.write_all(sent)?;
        let end: &[u8] = match reply.cut_at {
            Some(_) => b"",
            None => b"\r\n0\r\n\r\n",
        };
        return client.write_all(end);
    }
    if let Some((at, gate)) = reply.held_at.filter(|_| from == 0) {
        client.write_all(&rest[..at])?;
        client.flush()?;
        gate.wait();
        let end = reply.cut_at.unwrap_or(rest.len());
        return client.write_all(&rest[at..end]);
    }
    let end = reply.cut_at.unwrap_or(rest.len()).min(rest.len());
    client.write_all(&rest[..end])
}

/// A cache over `store` that asks `upstream` for quay.io and docker.io both.
pub(crate) fn cache(store: &Arc<Store>, upstream: &FakeUpstream) -> Cache {
    cache_on(store, upstream, impatient(), Handle::current())
}

pub(crate) fn cache_on(
    store: &Arc<Store>,
    upstream: &FakeUpstream,
    settings: Settings,
    runtime: Handle,
) -> Cache {
    let registries = registries()
        .into_iter()
        .map(|host| (host, Options::at(upstream.url.parse().unwrap())));
    let upstreams = Upstreams::new(
        registries.collect(),
        upstream::Settings {
            manifest_limit: MANIFEST_LIMIT,
            keyring: Keyring::empty(),
            proxy: None,
            pace: upstream::Pace {
                retries: 0,
                blob_retries: 0,
                ..upstream::Pace::default()
            },
            activity: Arc::default(),
        },
    );
    Cache::new(Arc::clone(store), upstreams, settings, runtime)
}

/// Every question is asked, and none waits long before it is asked again.
pub(crate) fn impatient() -> Settings {
    Settings {
        tag_ttl: Arc::new(|_| Duration::ZERO),
        negative_ttl: Duration::ZERO,
        activity: Arc::default(),
        keep: Keep::default(),
        pace: Pace {
            pause: Duration::from_millis(1),
            ..Pace::default()
        },
    }
}

pub(crate) fn registries() -> [RegistryHost; 2] {
    ["docker.io", "quay.io"].map(|host| host.parse().unwrap())
}

/// Where an upstream has the blob of these bytes under a repository.
pub(crate) fn blob_path(repository: &str, bytes: &[u8]) -> String {
    format!(
        "{repository}/blobs/{}",
        Digest::of(Algorithm::Sha256, bytes)
    )
}
