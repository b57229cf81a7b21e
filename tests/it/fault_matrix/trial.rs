//! One cell: an upstream and an image of its own, what is done to them, and what comes of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::Response;
use serde_json::{Value, json};

use super::{
    replies::challenged,
    table::{Cell, Client, Fault, LAYER, NOTHING, Place, Row, Stage},
};
use crate::support::{
    FakeUpstream, Reply, TestRegistry,
    image::{Image, ImageBuilder},
    upstream::ClosedPort,
};

/// What standin has before, and whom the client believes to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Nothing that this request could be answered with.
    Cold,
    /// The same, and the client believes that this is the registry itself.
    ColdItself,
    /// All of the image, fresh.
    Warm,
    /// All of the image, and the tag has been known for too long.
    Stale,
}

pub(super) const COLUMNS: [Column; 4] = [
    Column::Cold,
    Column::ColdItself,
    Column::Warm,
    Column::Stale,
];

pub(super) struct Trial {
    row: Arc<Row>,
    pub(super) column: Column,
    host: String,
    image: Image,
    /// What the tag is once it has moved.
    moved: Image,
    upstream: FakeUpstream,
    closed: ClosedPort,
}

impl Trial {
    pub(super) async fn new(row: &Arc<Row>, number: u64, column: Column) -> Self {
        let seed = number * 10 + column as u64;
        let image = |seed| ImageBuilder::new(seed).layer(LAYER).build();
        let (image, moved) = (image(2 * seed), image(2 * seed + 1));
        let upstream = FakeUpstream::start().await;
        upstream.add_image("acme/app", "v1", &image);
        Self {
            row: Arc::clone(row),
            column,
            host: format!("r{seed}.test"),
            image,
            moved,
            upstream,
            closed: ClosedPort::reserve(),
        }
    }

    /// What is expected of it.
    pub(super) fn cell(&self) -> Cell {
        match self.column {
            Column::Cold | Column::ColdItself => self.row.cold.clone(),
            Column::Warm => Cell::warm(),
            Column::Stale => self.row.stale.clone(),
        }
    }

    /// `--registry` while all is well.
    pub(super) fn well(&self) -> String {
        format!("{}={}", self.host, self.upstream.url())
    }

    /// `--registry` once the fault is there. `untrusted` speaks TLS and has a certificate that nobody knows.
    pub(super) fn faulty(&self, untrusted: &str) -> String {
        match self.row.how {
            Fault::At(place) if self.row.stage != Stage::Token => {
                format!("{}={}", self.host, self.place(place, untrusted))
            }
            _ => self.well(),
        }
    }

    fn place(&self, place: Place, untrusted: &str) -> String {
        match place {
            Place::Closed => self.closed.url(),
            Place::Unresolvable => "https://registry.invalid".to_owned(),
            Place::NoTls => self.upstream.url().replace("http:", "https:"),
            Place::Untrusted => untrusted.to_owned(),
        }
    }

    /// Brings into the store what the column says is there.
    pub(super) async fn prepare(&self, registry: &TestRegistry) {
        let client = registry.client();
        let name = format!("{}/acme/app", self.host);
        match self.column {
            Column::Warm | Column::Stale => client.pull_image(&name, "v1", &self.image).await,
            Column::Cold | Column::ColdItself
                if matches!(self.row.stage, Stage::Blob | Stage::Body) =>
            {
                client.get_manifest(&name, "v1").await.expect(200);
            }
            Column::Cold | Column::ColdItself => {}
        }
    }

    /// Lets the upstream have the fault.
    pub(super) fn fail(&self, untrusted: &str) {
        let by_tag = "/v2/acme/app/manifests/v1".to_owned();
        let replies = match &self.row.how {
            Fault::Replies(replies) | Fault::Late(replies) => replies.clone(),
            Fault::At(_) | Fault::Challenge(_) => Vec::new(),
        };
        match self.row.stage {
            Stage::Token => {
                let realm = match self.row.how {
                    Fault::At(place) => self.place(place, untrusted),
                    _ => self.upstream.url(),
                };
                let challenge = match self.row.how {
                    Fault::Challenge(challenge) => challenge.to_owned(),
                    _ => format!("Bearer realm=\"{realm}/token\",service=\"upstream\""),
                };
                // Who gets a token at the second try is let in then.
                let times = if replies.len() == 1 { 2 } else { 100 };
                for method in ["HEAD", "GET"] {
                    let refusals = vec![challenged(&challenge); times];
                    self.upstream.script(method, &by_tag, refusals);
                }
                self.upstream.script("GET", "/token", replies);
                let token = json!({"token": "let-me-in"});
                self.upstream
                    .add_answer("/token", "application/json", &token);
            }
            Stage::Head => self.upstream.script("HEAD", &by_tag, replies),
            Stage::Get => {
                if let Fault::Late(_) = self.row.how {
                    self.upstream.script("HEAD", &by_tag, [Reply::Silent]);
                }
                let mut asked = by_tag;
                if self.column == Column::Stale {
                    self.upstream.add_image("acme/app", "v1", &self.moved);
                    asked = format!("/v2/acme/app/manifests/{}", self.moved.manifest.digest);
                }
                self.upstream.script("GET", &asked, replies);
            }
            Stage::Blob | Stage::Body => {
                let blob = format!("/v2/acme/app/blobs/{}", self.image.layers[0].digest);
                self.upstream.script("GET", &blob, replies);
            }
        }
    }

    /// Asks as a client does; a line with everything that is not as expected, if anything is not.
    pub(super) async fn run(&self, registry: &TestRegistry) -> Option<String> {
        let cell = self.cell();
        let before = self.upstream.requests().len();
        let client = registry.client();
        let path = match self.row.stage {
            Stage::Token | Stage::Head | Stage::Get => "acme/app/manifests/v1".to_owned(),
            Stage::Blob | Stage::Body => {
                format!("acme/app/blobs/{}", self.image.layers[0].digest)
            }
        };
        let path = match self.column {
            Column::ColdItself => format!("/v2/{path}"),
            _ => format!("/v2/{}/{path}", self.host),
        };
        let mut request = match self.row.stage {
            Stage::Head => client.head(&path),
            _ => client.get(&path),
        };
        if self.column == Column::ColdItself {
            request = request.header("host", &self.host);
        }
        let begin = Instant::now();
        let mut wrong = Vec::new();
        match request.send().await {
            Ok(response) => {
                let received = Received::read(response).await;
                self.judge(&cell, &received, &mut wrong);
                if matches!(cell.client, Client::Cut | Client::CutOrRefused) {
                    // Too late for the client to be told.
                    registry.log().line_with(&[&self.host, self.row.told]).await;
                }
            }
            Err(error) => wrong.push(format!("no answer: {error:?}")),
        }
        let took = begin.elapsed();
        if took < cell.waits || took > cell.time.limit() + MARGIN {
            wrong.push(format!("took {took:?}"));
        }
        let requests = self.upstream.requests().split_off(before);
        let count = |of: &str| {
            requests
                .iter()
                .filter(|asked| asked.starts_with(of))
                .count()
        };
        let (head, token) = (count("HEAD "), count("GET /token"));
        let get = requests.len() - head - token;
        for (what, times, (least, most)) in [
            ("HEAD", head, cell.asked.head),
            ("GET", get, cell.asked.get),
            ("token", token, cell.asked.token),
        ] {
            if !(least..=most).contains(&times) {
                wrong.push(format!("{what} x{times}, not {least} to {most}"));
            }
        }
        let kept = self.kept(registry);
        if kept != cell.kept {
            wrong.push(format!("keeps {kept}, not {}", cell.kept));
        }
        let (stage, fault, column) = (self.row.stage, self.row.fault, self.column);
        let wrong = wrong.join("; ");
        (!wrong.is_empty()).then(|| format!("{stage:?}, {fault}, {column:?}: {wrong}"))
    }

    fn judge(&self, cell: &Cell, received: &Received, wrong: &mut Vec<String>) {
        let expected = match (cell.client, received.status) {
            (Client::CutOrRefused, 200) => Client::Cut,
            (Client::CutOrRefused, _) => Client::Refused {
                mirror: 404,
                itself: 502,
            },
            (expected, _) => expected,
        };
        let status = match expected {
            Client::Whole | Client::Stale | Client::Cut | Client::CutOrRefused => 200,
            Client::Refused { itself, .. } if self.column == Column::ColdItself => itself,
            Client::Refused { mirror, .. } => mirror,
        };
        if received.status != status {
            let (found, body) = (received.status, String::from_utf8_lossy(&received.body));
            wrong.push(format!("{found}, not {status}: {body:.300}"));
            return;
        }
        let warning = received.warning.as_deref();
        let is_head = self.row.stage == Stage::Head;
        match expected {
            Client::Cut | Client::CutOrRefused => {
                if received.whole {
                    wrong.push("the body ended as if it were right".to_owned());
                }
            }
            Client::Refused { .. } if is_head => {}
            Client::Refused { .. } => {
                let error: Value = serde_json::from_slice(&received.body).unwrap_or_default();
                let error = &error["errors"][0];
                let message = error["message"].as_str().unwrap_or_default();
                if error["code"] != code(self.row.stage, status) {
                    wrong.push(format!("the code is {}", error["code"]));
                }
                let told = self.row.told;
                if ![told, &self.host].iter().all(|part| message.contains(part)) {
                    wrong.push(format!("the message is {message:?}"));
                }
            }
            Client::Whole | Client::Stale => {
                let bytes = match self.row.stage {
                    Stage::Head => &[][..],
                    Stage::Blob | Stage::Body => &self.image.layers[0].bytes,
                    _ if cell.kept == super::table::MOVED => &self.moved.manifest.bytes,
                    _ => &self.image.manifest.bytes,
                };
                if !received.whole || received.body != bytes {
                    wrong.push(format!("other bytes, {} of them", received.body.len()));
                }
                let told = warning.is_some_and(|warning| {
                    warning.starts_with("299 - \"stale: ")
                        && warning.contains(&self.host)
                        && warning.contains(self.row.told)
                });
                match expected {
                    Client::Stale if !told => wrong.push(format!("Warning: {warning:?}")),
                    Client::Whole if warning.is_some() => {
                        wrong.push(format!("Warning: {warning:?}"));
                    }
                    _ => {}
                }
            }
        }
    }

    /// What the store has of the image, in the table's words.
    fn kept(&self, registry: &TestRegistry) -> String {
        let store = registry.store();
        let entries = store.below(&format!("namespaces/{}", self.host));
        let named = |kind: &str, name: &str| {
            let name = name.replace(':', "-");
            let path = format!("/acme/app/{kind}/{name} ");
            entries.iter().any(|entry| entry.contains(&path))
        };
        let held = |digest: &str| named("_manifests", digest) && store.holds(digest);
        let parts = [
            ("tag", named("_tags", "v1")),
            ("manifest", held(&self.image.manifest.digest)),
            ("blob", store.holds(&self.image.layers[0].digest)),
            ("new manifest", held(&self.moved.manifest.digest)),
        ];
        let kept: Vec<&str> = parts
            .iter()
            .filter(|(_, here)| *here)
            .map(|(part, _)| *part)
            .collect();
        match (kept.is_empty(), entries.is_empty()) {
            (true, true) => NOTHING.to_owned(),
            (true, false) => format!("{entries:?}"),
            _ => kept.join(", "),
        }
    }
}

struct Received {
    status: u16,
    warning: Option<String>,
    body: Vec<u8>,
    whole: bool,
}

impl Received {
    async fn read(mut response: Response) -> Self {
        let warning = response.headers().get("warning");
        let mut received = Self {
            status: response.status().as_u16(),
            warning: warning
                .map(|warning| String::from_utf8_lossy(warning.as_bytes()).into_owned()),
            body: Vec::new(),
            whole: false,
        };
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => received.body.extend_from_slice(&chunk),
                Ok(None) => {
                    received.whole = true;
                    return received;
                }
                Err(_) => return received,
            }
        }
    }
}

/// The code that goes with a status.
pub(super) fn code(stage: Stage, status: u16) -> &'static str {
    match (status, stage) {
        (404, Stage::Blob | Stage::Body) => "BLOB_UNKNOWN",
        (404, _) => "MANIFEST_UNKNOWN",
        (503, _) => "TOOMANYREQUESTS",
        _ => "UNAVAILABLE",
    }
}

/// What a busy machine may add.
const MARGIN: Duration = Duration::from_secs(5);
