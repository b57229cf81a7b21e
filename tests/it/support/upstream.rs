//! A registry that is upstream of the one under test: it holds images, writes down who asks for what, and fails on
//! demand. For faults only; real registries are met in the end-to-end runs.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{
    image::{Image, Manifest},
    within,
};

/// How one request is answered, in place of the truth.
#[derive(Clone)]
pub(crate) enum Reply {
    /// The truth, but only `before` bytes of the body until the gate opens.
    Gated { before: usize, gate: Gate },
    /// The true headers, and `after` bytes of the body; then the connection closes.
    Truncated { after: usize },
    /// The true headers, and `after` bytes of the body; then nothing more, on an open connection.
    Stalled { after: usize },
    /// The truth from its first byte on, whatever range is asked for.
    IgnoresRange,
    /// Other bytes of the same length, under the true headers.
    Corrupt,
    /// The truth without a `Content-Length`.
    Chunked,
    /// An error without a body that a registry would send, as a gateway in between answers.
    Status(u16),
    /// The connection stays open and nothing is said.
    Silent,
    /// 307 to another path, where the truth is.
    Redirect(String),
    /// 200 and a page for people, as a captive portal or an expired session answers.
    LoginPage,
    /// Exactly these bytes; then the connection closes.
    Raw(Bytes),
    /// The true type, and a body that has no end.
    Endless,
}

/// Holds bytes back until the test lets them go.
#[derive(Clone)]
pub(crate) struct Gate {
    open: watch::Sender<bool>,
    reached: watch::Sender<usize>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            open: watch::Sender::new(false),
            reached: watch::Sender::new(0),
        }
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// Awaits that a reply has come as far as the gate.
    pub(crate) async fn reached(&self) {
        let mut reached = self.reached.subscribe();
        let waited = reached.wait_for(|count| *count > 0);
        within("a reply comes to the gate", waited).await.unwrap();
    }

    async fn pass(&self) {
        self.reached.send_modify(|count| *count += 1);
        let mut open = self.open.subscribe();
        let _ = open.wait_for(|open| *open).await;
    }
}

/// A scripted registry on loopback; it ends with the test's runtime.
pub(crate) struct FakeUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    guard: Mutex<Option<Guard>>,
    content: Mutex<HashMap<String, (String, Bytes)>>,
    tags: Mutex<BTreeMap<String, Vec<String>>>,
    page_cap: Mutex<Option<usize>>,
    scripts: Mutex<HashMap<String, VecDeque<Reply>>>,
    outage: Mutex<Option<Reply>>,
    log: Mutex<Vec<String>>,
    headers: Mutex<Vec<String>>,
}

impl FakeUpstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared::default());
        let address = listener.local_addr().unwrap();
        let served = shared.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, served.clone()));
            }
        });
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// Unplugs it for good: connections are refused for as long as what is returned lives.
    pub(crate) async fn stop(self) -> ClosedPort {
        self.accepting.abort();
        // The listener is closed once the task has ended.
        let _ = self.accepting.await;
        ClosedPort::at(self.address)
    }

    /// The base address, as `--registry HOST=URL` takes it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Holds `image` as `name:tag`.
    pub(crate) fn add_image(&self, name: &str, tag: &str, image: &Image) {
        for blob in image.blobs() {
            self.add_blob(name, &blob.digest, blob.bytes.clone());
        }
        self.add_manifest(name, tag, &image.manifest);
    }

    pub(crate) fn add_blob(&self, name: &str, digest: &str, bytes: Bytes) {
        let kind = "application/octet-stream".to_owned();
        let path = format!("/v2/{name}/blobs/{digest}");
        self.shared
            .content
            .lock()
            .unwrap()
            .insert(path, (kind, bytes));
    }

    /// Holds a manifest by its digest, and by `tag`, which may move.
    pub(crate) fn add_manifest(&self, name: &str, tag: &str, manifest: &Manifest) {
        let mut content = self.shared.content.lock().unwrap();
        for reference in [tag, &manifest.digest] {
            content.insert(
                format!("/v2/{name}/manifests/{reference}"),
                (manifest.media_type.clone(), manifest.bytes.clone()),
            );
        }
        let mut all = self.shared.tags.lock().unwrap();
        let tags = all.entry(name.to_owned()).or_default();
        tags.push(tag.to_owned());
        tags.sort();
        tags.dedup();
    }

    /// Answers `path` with this whatever the query says: a referrers listing, or tags that know no pages.
    pub(crate) fn add_answer(&self, path: &str, kind: &str, body: &serde_json::Value) {
        let answer = (kind.to_owned(), body.to_string().into());
        let mut content = self.shared.content.lock().unwrap();
        content.insert(path.to_owned(), answer);
    }

    /// Puts no more than `cap` tags on a page, whatever `n` is asked for.
    pub(crate) fn cap_pages(&self, cap: usize) {
        *self.shared.page_cap.lock().unwrap() = Some(cap);
    }

    /// Answers the next requests for `path` so, one after the other, and truly once the script is used up.
    pub(crate) fn script(
        &self,
        method: &str,
        path: &str,
        replies: impl IntoIterator<Item = Reply>,
    ) {
        self.shared
            .scripts
            .lock()
            .unwrap()
            .insert(format!("{method} {path}"), replies.into_iter().collect());
    }

    /// Lets in only whoever has a token from `/token`, which gives one for this `Authorization`.
    pub(crate) fn guard(&self, authorization: &str) {
        *self.shared.guard.lock().unwrap() = Some(Guard {
            authorization: authorization.to_owned(),
            realm: format!("{}/token", self.url()),
        });
    }

    /// Answers every request so, until `recover`.
    pub(crate) fn fail(&self, reply: Reply) {
        *self.shared.outage.lock().unwrap() = Some(reply);
    }

    /// Answers truly again: forgets scripts and failure.
    pub(crate) fn recover(&self) {
        *self.shared.outage.lock().unwrap() = None;
        self.shared.scripts.lock().unwrap().clear();
    }

    /// Every request so far, as `METHOD path?query`.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Every header line of those requests.
    pub(crate) fn headers(&self) -> Vec<String> {
        self.shared.headers.lock().unwrap().clone()
    }

    /// How often `path` was asked for with `method`, whatever the query.
    pub(crate) fn count(&self, method: &str, path: &str) -> usize {
        let wanted = format!("{method} {path}");
        self.requests()
            .iter()
            .filter(|request| request.split('?').next() == Some(wanted.as_str()))
            .count()
    }
}

/// An address that refuses connections for as long as this lives.
pub(crate) struct ClosedPort {
    _bound: TcpSocket,
    address: SocketAddr,
}

impl ClosedPort {
    pub(crate) fn reserve() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap())
    }

    fn at(address: SocketAddr) -> Self {
        // Bound and never listening: refused, and nobody else can take the port.
        let bound = TcpSocket::new_v4().unwrap();
        bound.set_reuseaddr(true).unwrap();
        bound.bind(address).unwrap();
        let address = bound.local_addr().unwrap();
        Self {
            _bound: bound,
            address,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Who is let in.
struct Guard {
    authorization: String,
    realm: String,
}

/// One request per connection keeps the log honest: no reply depends on the one before.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let mut stream = BufReader::new(stream);
    // Whoever begins with a TLS handshake hears what a server of plain HTTP says to it.
    if stream
        .fill_buf()
        .await
        .is_ok_and(|sent| sent.first() == Some(&0x16))
    {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        return;
    }
    let mut line = String::new();
    if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
        return;
    }
    let mut header = String::new();
    let mut authorization = String::new();
    let mut from = None;
    while stream
        .read_line(&mut header)
        .await
        .is_ok_and(|read| read > 2)
    {
        let line = header.trim_end().to_owned();
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            authorization = value.to_owned();
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok();
        }
        shared.headers.lock().unwrap().push(line);
        header.clear();
    }
    let mut words = line.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return;
    };
    shared
        .log
        .lock()
        .unwrap()
        .push(format!("{method} {target}"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(answer) = shared.guarded(path, &authorization) {
        let _ = stream.write_all(answer.as_bytes()).await;
        return;
    }
    let scripted = shared
        .scripts
        .lock()
        .unwrap()
        .get_mut(&format!("{method} {path}"))
        .and_then(VecDeque::pop_front);
    let reply = scripted.or_else(|| shared.outage.lock().unwrap().clone());
    // The server under test may go away at any time; that is no failure of ours.
    let asked = Asked {
        method,
        path,
        query,
        from,
    };
    let _ = answer(stream.get_mut(), asked, reply, &shared).await;
}

struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    /// The first byte that is wanted, where it is not the first there is.
    from: Option<usize>,
}

async fn answer(
    stream: &mut TcpStream,
    asked: Asked<'_>,
    reply: Option<Reply>,
    shared: &Shared,
) -> std::io::Result<()> {
    match &reply {
        Some(Reply::Silent) => return std::future::pending().await,
        Some(Reply::Raw(bytes)) => return stream.write_all(bytes).await,
        Some(Reply::Status(status)) => {
            let head = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: 0\r\n{CLOSE}");
            return stream.write_all(head.as_bytes()).await;
        }
        Some(Reply::LoginPage) => {
            let page = "<html>please log in</html>";
            let length = page.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n{CLOSE}"
            );
            return stream.write_all(format!("{head}{page}").as_bytes()).await;
        }
        Some(Reply::Redirect(to)) => {
            let head =
                format!("HTTP/1.1 307 Scripted\r\nLocation: {to}\r\nContent-Length: 0\r\n{CLOSE}");
            return stream.write_all(head.as_bytes()).await;
        }
        _ => {}
    }
    let mut truth = shared.truth(asked.path, asked.query);
    if let Some(from) = asked.from.filter(|_| truth.status == 200)
        && !matches!(reply, Some(Reply::IgnoresRange))
    {
        truth = truth.behind(from);
    }
    let mut head = format!("HTTP/1.1 {} Upstream\r\n{}", truth.status, truth.headers);
    let chunked = matches!(reply, Some(Reply::Chunked));
    if chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else if !matches!(reply, Some(Reply::Endless)) {
        head.push_str(&format!("Content-Length: {}\r\n", truth.body.len()));
    }
    head.push_str(CLOSE);
    stream.write_all(head.as_bytes()).await?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    let up_to = |end: usize| &truth.body[..end.min(truth.body.len())];
    match reply {
        Some(Reply::Gated { before, gate }) => {
            let before = up_to(before);
            stream.write_all(before).await?;
            stream.flush().await?;
            gate.pass().await;
            stream.write_all(&truth.body[before.len()..]).await
        }
        Some(Reply::Truncated { after }) => stream.write_all(up_to(after)).await,
        Some(Reply::Stalled { after }) => {
            stream.write_all(up_to(after)).await?;
            stream.flush().await?;
            std::future::pending().await
        }
        Some(Reply::Endless) => loop {
            stream.write_all(&[b' '; 16 << 10]).await?;
        },
        Some(Reply::Corrupt) => {
            let mut body = truth.body.to_vec();
            if let Some(last) = body.last_mut() {
                *last ^= 1;
            }
            stream.write_all(&body).await
        }
        _ if chunked => {
            for piece in truth.body.chunks(8 << 10) {
                let size = format!("{:x}\r\n", piece.len());
                stream.write_all(size.as_bytes()).await?;
                stream.write_all(piece).await?;
                stream.write_all(b"\r\n").await?;
            }
            stream.write_all(b"0\r\n\r\n").await
        }
        _ => stream.write_all(&truth.body).await,
    }
}

struct Truth {
    status: u16,
    headers: String,
    body: Bytes,
}

impl Truth {
    /// What is left of it behind the first `from` bytes.
    fn behind(self, from: usize) -> Self {
        let size = self.body.len();
        if from >= size {
            let headers = format!("Content-Range: bytes */{size}\r\n");
            return Self {
                status: 416,
                headers,
                body: Bytes::new(),
            };
        }
        let range = format!("Content-Range: bytes {from}-{}/{size}\r\n", size - 1);
        Self {
            status: 206,
            headers: self.headers + &range,
            body: self.body.slice(from..),
        }
    }
}

impl Shared {
    /// The answer to whoever has to show something else first, or wants a token.
    fn guarded(&self, path: &str, authorization: &str) -> Option<String> {
        let guard = self.guard.lock().unwrap();
        let guard = guard.as_ref()?;
        let (status, header, body) = match path {
            "/token" if authorization == guard.authorization => {
                (200, String::new(), format!("{{\"token\":\"{TOKEN}\"}}"))
            }
            "/token" => (401, String::new(), String::new()),
            _ if authorization == format!("Bearer {TOKEN}") => return None,
            _ => {
                let realm = &guard.realm;
                let challenge = format!("Bearer realm=\"{realm}\",service=\"upstream\"");
                (
                    401,
                    format!("WWW-Authenticate: {challenge}\r\n"),
                    String::new(),
                )
            }
        };
        let length = body.len();
        Some(format!(
            "HTTP/1.1 {status} Guarded\r\n{header}Content-Length: {length}\r\n{CLOSE}{body}"
        ))
    }

    fn truth(&self, path: &str, query: &str) -> Truth {
        if let Some((kind, body)) = self.content.lock().unwrap().get(path) {
            // A tag's manifest is small; a blob's digest is in its path.
            let digest = match path.rsplit_once("/blobs/") {
                Some((_, digest)) => digest.to_owned(),
                None => super::image::sha256(body),
            };
            return Truth {
                status: 200,
                headers: format!("Content-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\n"),
                body: body.clone(),
            };
        }
        let name = path
            .strip_prefix("/v2/")
            .and_then(|rest| rest.strip_suffix("/tags/list"));
        if let Some(name) = name
            && let Some(tags) = self.tags.lock().unwrap().get(name)
        {
            return page(name, tags, query, *self.page_cap.lock().unwrap());
        }
        if path == "/v2/" {
            return json(200, "", "{}".to_owned());
        }
        let code = if path.contains("/manifests/") {
            "MANIFEST_UNKNOWN"
        } else if path.contains("/blobs/") {
            "BLOB_UNKNOWN"
        } else {
            "NAME_UNKNOWN"
        };
        let body = format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"not here\"}}]}}");
        json(404, "", body)
    }
}

/// A page of the tags list, by the spec's `n` and `last`.
fn page(name: &str, tags: &[String], query: &str, cap: Option<usize>) -> Truth {
    let parameter = |key: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    };
    let last = parameter("last").unwrap_or_default();
    let n = parameter("n").map_or(usize::MAX, |n| n.parse().unwrap());
    let n = n.min(cap.unwrap_or(usize::MAX));
    let rest: Vec<&String> = tags.iter().filter(|tag| tag.as_str() > last).collect();
    let page = &rest[..n.min(rest.len())];
    let link = match page.last() {
        Some(end) if page.len() < rest.len() => {
            format!("Link: </v2/{name}/tags/list?n={n}&last={end}>; rel=\"next\"\r\n")
        }
        _ => String::new(),
    };
    let body = serde_json::json!({"name": name, "tags": page});
    json(200, &link, body.to_string())
}

fn json(status: u16, headers: &str, body: String) -> Truth {
    Truth {
        status,
        headers: format!("Content-Type: application/json\r\n{headers}"),
        body: body.into(),
    }
}

const CLOSE: &str = "Connection: close\r\n\r\n";

/// The token of a guarded upstream.
pub(crate) const TOKEN: &str = "let-me-in";
