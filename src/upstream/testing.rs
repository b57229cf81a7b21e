//! A registry that answers by a script, byte for byte: for faults that only the inside can tell apart.
#![allow(clippy::unwrap_used)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{Keyring, Options, Pace, Rest, Settings, Upstreams};
use crate::types::{RegistryHost, manifest::MANIFEST_LIMIT};

/// What is done with one request.
#[derive(Clone)]
pub(super) enum Reply {
    /// These bytes, then the connection closes.
    Raw(Vec<u8>),
    /// These bytes, then nothing more.
    Stall(Vec<u8>),
    /// The body is never read, and nothing comes.
    Unread,
    /// The same piece again and again, behind these bytes.
    Endless(&'static str, String),
}

pub(super) struct Server {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<VecDeque<Reply>>,
    requests: Mutex<Vec<String>>,
    bodies: Mutex<Vec<Vec<u8>>>,
}

impl Server {
    /// Answers by `script`, one request to a reply; the last one is for all that follow.
    pub(super) async fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub(super) fn on(listener: TcpListener, script: impl IntoIterator<Item = Reply>) -> Self {
        let this = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            shared: Arc::default(),
        };
        this.script(script);
        let shared = Arc::clone(&this.shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(answer(client, Arc::clone(&shared)));
            }
        });
        this
    }

    pub(super) fn script(&self, script: impl IntoIterator<Item = Reply>) {
        *self.shared.script.lock().unwrap() = script.into_iter().collect();
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whole heads, lower-case.
    pub(super) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Of each request that had one.
    pub(super) fn bodies(&self) -> Vec<Vec<u8>> {
        self.shared.bodies.lock().unwrap().clone()
    }

    /// `METHOD path` of each request.
    pub(super) fn asked(&self) -> Vec<String> {
        let requests = self.requests();
        let line = |head: &String| head.split(" http/").next().unwrap_or_default().to_owned();
        requests.iter().map(line).collect()
    }
}

async fn answer(client: TcpStream, shared: Arc<Shared>) {
    let mut client = BufReader::new(client);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match client.read_line(&mut head).await {
            Ok(0) => return,
            Ok(_) => {}
            // No text: what servers say to TLS on a plain port.
            Err(_) => return drop(client.write_all(b"HTTP/1.1 400 x\r\n\r\n").await),
        }
    }
    let length = head
        .to_ascii_lowercase()
        .split_once("content-length: ")
        .and_then(|(_, rest)| rest.split_once('\r')?.0.parse().ok())
        .unwrap_or(0);
    let unread = matches!(shared.script.lock().unwrap().front(), Some(Reply::Unread));
    let mut body = vec![0; length];
    if !unread && length > 0 && client.read_exact(&mut body).await.is_ok() {
        shared.bodies.lock().unwrap().push(body);
    }
    let reply = {
        shared
            .requests
            .lock()
            .unwrap()
            .push(head.to_ascii_lowercase());
        let mut script = shared.script.lock().unwrap();
        match script.len() {
            1 => script.front().cloned(),
            _ => script.pop_front(),
        }
    };
    // A client that goes away is none of the test's business.
    match reply.unwrap() {
        Reply::Raw(bytes) => drop(client.write_all(&bytes).await),
        Reply::Stall(bytes) => {
            let _ = client.write_all(&bytes).await;
            std::future::pending::<()>().await;
        }
        Reply::Unread => std::future::pending().await,
        Reply::Endless(head, piece) => {
            let mut sent = client.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sent = client.write_all(piece.as_bytes()).await;
            }
        }
    }
}

/// A status line's rest, headers parted by line ends, and a body with its length.
pub(super) fn reply(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    with_length(status, headers, body, length)
}

/// The same with a length that may be a lie.
pub(super) fn with_length(status: &str, headers: &str, body: &str, length: usize) -> Reply {
    let headers = match headers {
        "" => String::new(),
        headers => headers.replace('\n', "\r\n") + "\r\n",
    };
    let head = format!(
        "HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    Reply::Raw((head + body).into_bytes())
}

pub(super) fn redirect(to: &str) -> Reply {
    reply("307", &format!("location: {to}"), "")
}

/// Hurried, where nothing that passes waits; broken circuits stay so.
pub(super) const QUICK: Pace = Pace {
    budget: Duration::from_secs(20),
    connect: Duration::from_secs(10),
    silence: Duration::from_secs(10),
    retries: 3,
    blob_retries: 3,
    backoff: Duration::from_millis(1),
    rest: Rest {
        first: Duration::from_secs(600),
        longest: Duration::from_secs(600),
    },
};

/// Of one registry, quay.io.
pub(super) fn upstreams(options: Options, pace: Pace) -> Upstreams {
    Upstreams::new([(quay(), options)].into(), settings(pace))
}

pub(super) fn settings(pace: Pace) -> Settings {
    Settings {
        manifest_limit: MANIFEST_LIMIT,
        keyring: Keyring::empty(),
        proxy: None,
        pace,
        activity: Arc::default(),
    }
}

pub(super) fn quay() -> RegistryHost {
    "quay.io".parse().unwrap()
}

pub(super) fn at(server: &Server) -> Options {
    Options::at(server.url().parse().unwrap())
}
