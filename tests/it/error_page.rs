//! `docs/errors.md`: every message that it explains is said, and every one that is said here is explained.

use std::collections::BTreeSet;

use crate::support::{
    Answer, Client, Exchange, FakeUpstream, Raw, TestRegistry,
    client::finish,
    credentials::{ask_token, basic, other_address},
    image::{Blob, Image, OCI_MANIFEST, sha256},
    program::{refused as refusal, standin},
    registry::Builder,
};

/// What a client was told: the heading that it belongs under, and the message.
type Told = (String, String);

#[tokio::test]
async fn every_message_is_explained_and_every_explanation_is_of_one() {
    let mut told = Vec::new();
    unknown(&mut told).await;
    pushed(&mut told).await;
    limited(&mut told).await;
    refused(&mut told).await;
    proxied(&mut told).await;
    damaged(&mut told).await;
    full(&mut told).await;
    not_started(&mut told).await;
    not_looked_through(&mut told).await;

    let mut explained = explanations(include_str!("../../docs/errors.md"));
    if other_address().is_none() {
        eprintln!("skipped: what is said on other than loopback addresses, for there is none here");
        explained.retain(|(under, quoted)| {
            !under.starts_with("407") && !quoted.contains("standin itself is logged in at")
        });
    }
    let explains = |row: &&Told, told: &Told| row.0 == told.0 && quotes(&row.1, &told.1);
    let unexplained: Vec<_> = told
        .iter()
        .filter(|told| !explained.iter().any(|row| explains(&row, told)))
        .collect();
    assert!(unexplained.is_empty(), "not explained: {unexplained:#?}");
    let said: BTreeSet<_> = told
        .iter()
        .flat_map(|told| explained.iter().filter(move |row| explains(row, told)))
        .collect();
    let unsaid: Vec<_> = explained.iter().filter(|row| !said.contains(row)).collect();
    assert!(unsaid.is_empty(), "nobody says {unsaid:#?}");
}

/// What nobody has, and what a registry that fails may have.
async fn unknown(told: &mut Vec<Told>) {
    let upstream = FakeUpstream::start().await;
    let builder = || {
        TestRegistry::builder()
            .registry("quay.io", &upstream.url())
            .registry("broken.example", "http://127.0.0.1:9")
            .args(["--local-only", "ours/**"])
    };
    let registry = builder().start().await;
    let absent = sha256(b"nobody pushed this");
    for path in [
        "/v2/quay.io/acme/app/manifests/v1",
        "/v2/acme/app/manifests/v1",
        "/v2/quay.io/ours/app/manifests/v1",
        "/v2/broken.example/acme/app/manifests/v1",
        &format!("/v2/quay.io/acme/app/blobs/{absent}"),
        &format!("/v2/acme/app/blobs/{absent}"),
        "/v2/acme/app/tags/list",
        "/v2/acme/app/blobs/uploads/00000000-0000-4000-8000-000000000000",
        "/v2/Acme/app/manifests/v1",
        "/v2/acme/app/manifests/.v1",
        "/v2/acme/app/blobs/sha256:abc",
        "/v2/acme/app/manifests/v1?ns=quay.io&ns=ghcr.io",
        "/v2/acme/app/manifests/v1?ns=..",
        "/v1/search",
    ] {
        told.push(of(&registry.client().get(path).answer().await));
    }
    // To whoever believes that standin is the registry the same is an outage.
    let itself = "GET /v2/acme/app/manifests/v1\nHost: broken.example";
    told.push(raw(&registry, itself).await);
    let offline = builder().args(["--offline"]).start().await;
    let path = "/v2/quay.io/acme/app/manifests/v1";
    told.push(of(&offline.client().get(path).answer().await));
    let delete = registry.client();
    let path = format!("/v2/quay.io/acme/app/blobs/{absent}");
    told.push(of(&delete.delete(&path).answer().await));
    told.push(of(&delete.post("/v2/acme/app/tags/list").answer().await));
}

/// Pushes that no registry may take.
async fn pushed(told: &mut Vec<Told>) {
    let registry = TestRegistry::builder()
        .registry("broken.example", "http://127.0.0.1:9")
        .args(["--body-timeout", "200ms"])
        .start()
        .await;
    let client = registry.client();
    let image = Image::small(1);
    let blob = Blob::random(2, 1000);
    let absent = sha256(b"nobody pushed this");
    let manifest = |reference: &str, kind: &str, body: String| {
        let path = format!("/v2/acme/app/manifests/{reference}");
        client.put(&path).header("content-type", kind).body(body)
    };
    let whole = String::from_utf8(image.manifest.bytes.to_vec()).unwrap();
    let own = OCI_MANIFEST;
    let index = "application/vnd.oci.image.index.v1+json";
    for put in [
        manifest("v1", own, "{".to_owned()),
        manifest("v1", own, "[]".to_owned()),
        manifest("v1", own, r#"{"schemaVersion":1}"#.to_owned()),
        manifest("v1", index, whole.clone()),
        manifest("v1", own, r#"{"schemaVersion":2}"#.to_owned()),
        manifest("v1", "text/plain", r#"{"schemaVersion":2}"#.to_owned()),
        manifest(&absent, own, whole.clone()),
        manifest("v1", own, whole.clone()),
    ] {
        told.push(of(&put.answer().await));
    }
    let path = "/v2/broken.example/acme/app/manifests/v1";
    let unasked = client.put(path).header("content-type", own).body(whole);
    told.push(of(&unasked.answer().await));

    client.push_image("acme/app", "v1", &image).await;
    let lying = String::from_utf8(image.manifest.bytes.to_vec()).unwrap();
    let lying = lying.replace("\"size\":", "\"size\":1");
    told.push(of(&manifest("v2", own, lying).answer().await));
    let named = format!(
        "/v2/acme/app/blobs/{}",
        image.blobs().next().unwrap().digest
    );
    told.push(of(&client.delete(&named).answer().await));

    let location = client.start_upload("acme/app").await;
    let put = client.put(&location).body(blob.bytes.clone());
    told.push(of(&put.answer().await));
    let put = client.put(&finish(&location, &absent));
    told.push(of(&put.body(blob.bytes.clone()).answer().await));
    let location = client.start_upload("acme/app").await;
    for range in ["5-9", "0-3"] {
        let patch = client.patch(&location).header("content-range", range);
        told.push(of(&patch.body("12345").answer().await));
    }
    // A client that has gone silent in the middle of a chunk.
    let silent = format!("PATCH {location}\nContent-Length: 10");
    told.push(raw(&registry, &silent).await);
}

/// What is more than this standin takes.
async fn limited(told: &mut Vec<Told>) {
    let registry = TestRegistry::builder()
        .args(["--max-name-length", "20", "--max-uploads", "1"])
        .args(["--max-manifest-size", "1KiB"])
        .start()
        .await;
    let client = registry.client();
    let name = format!("/v2/{}/tags/list", "a".repeat(21));
    told.push(of(&client.get(&name).answer().await));
    let put = client.put("/v2/acme/app/manifests/v1");
    told.push(of(&put.body(vec![b' '; 2000]).answer().await));
    client.start_upload("acme/app").await;
    let second = client.post("/v2/acme/app/blobs/uploads/");
    told.push(of(&second.answer().await));
}

/// Whoever may not.
async fn refused(told: &mut Vec<Told>) {
    let upstream = FakeUpstream::start().await;
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .args(["--user", "ci:secret:write", "--user", "viewer:secret:read"])
        .start()
        .await;
    let client = registry.client();
    let path = "/v2/acme/app/blobs/uploads/";
    let token = ask_token(&client, &basic("ci", "secret"), "").await;
    let token = token.json()["token"].as_str().unwrap().to_owned();
    for who in [
        String::new(),
        basic("ci", "wrong"),
        "Basic !".to_owned(),
        "Bearer a.b.c".to_owned(),
        format!("Bearer {token}"),
        basic("viewer", "secret"),
    ] {
        let mut post = client.post(path);
        if !who.is_empty() {
            post = post.header("authorization", who);
        }
        told.push(of(&post.answer().await));
    }
    let form = "grant_type=magic";
    let kind = "application/x-www-form-urlencoded";
    let post = client.post("/auth/token").header("content-type", kind);
    told.push(of(&post.body(form).answer().await));
    told.extend(private().await);
}

/// What standin itself is logged in for, asked for from another machine.
async fn private() -> Option<Told> {
    let elsewhere = other_address()?;
    let upstream = FakeUpstream::start().await;
    let builder = TestRegistry::builder();
    let file = builder.home().join("standin.yaml");
    let yaml = format!(
        "registry:\n  - name: quay.io\n    url: {}\n    username: ci\n    password: secret\n",
        upstream.url()
    );
    std::fs::write(&file, yaml).unwrap();
    let listen = format!("{elsewhere}:0");
    let registry = builder
        .args(["--listen", &listen, "--config"])
        .args([file.to_str().unwrap()])
        .start()
        .await;
    let ready = std::fs::read(registry.home().join("state/ready.json")).unwrap();
    let ready: serde_json::Value = serde_json::from_slice(&ready).unwrap();
    let address = ready["listeners"][1].as_str().unwrap();
    let pem = std::fs::read(registry.ca()).unwrap();
    let client = Client::new(&format!("http://{address}"), &pem, &[]);
    let pull = client.get("/v2/quay.io/acme/app/manifests/v1");
    Some(of(&pull.answer().await))
}

/// What the proxy says.
async fn proxied(told: &mut Vec<Told>) {
    let builder = || TestRegistry::builder().registry("quay.io", "http://127.0.0.1:9");
    let registry = builder().start().await;
    for head in [
        "CONNECT no-port",
        "CONNECT 10.0.0.1:443",
        "CONNECT quay.io:22",
        "GET http://example.com/",
    ] {
        told.push(raw(&registry, head).await);
    }
    told.push(misdirected(&registry).await);
    let closed = closed_port();
    let tunnel = format!("127.0.0.1:{closed}");
    let open = builder().args(["--tunnel", &tunnel]).start().await;
    told.push(raw(&open, &format!("CONNECT {tunnel}")).await);
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = holder.local_addr().unwrap().to_string();
    let narrow = builder()
        .args(["--tunnel", &target, "--max-tunnels", "1"])
        .start()
        .await;
    let mut first = narrow.raw().await;
    first.head(&format!("CONNECT {target}")).await;
    assert_eq!(first.answer().await.status, 200);
    told.push(raw(&narrow, &format!("CONNECT {target}")).await);
    told.extend(by_password(builder()).await);
}

async fn by_password(builder: Builder) -> Vec<Told> {
    let Some(elsewhere) = other_address() else {
        return Vec::new();
    };
    let listen = format!("{elsewhere}:0");
    let registry = builder
        .args(["--listen", &listen, "--user", "ci:secret:write"])
        .start()
        .await;
    let ready = std::fs::read(registry.home().join("state/ready.json")).unwrap();
    let ready: serde_json::Value = serde_json::from_slice(&ready).unwrap();
    let address = ready["listeners"][1].as_str().unwrap().parse().unwrap();
    let mut told = Vec::new();
    let wrong = format!("\nProxy-Authorization: {}", basic("ci", "wrong"));
    for credentials in ["", &wrong] {
        let head = format!("CONNECT quay.io:443{credentials}");
        let answer = Raw::exchange(address, &head, b"").await;
        told.push(raw_of(answer.status, &answer.body));
    }
    told
}

/// TLS for one registry, and a request for another within.
async fn misdirected(registry: &TestRegistry) -> Told {
    let client = registry.client_as("quay.io");
    let request = client.get("/v2/").header("host", "docker.io");
    of(&request.answer().await)
}

/// Content that can't be read.
async fn damaged(told: &mut Vec<Told>) {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    client.push_image("acme/app", "v1", &Image::small(3)).await;
    let tag = registry
        .home()
        .join("data/namespaces/_local/docker.io/acme/app/_tags/v1");
    std::fs::write(tag, "no entry").unwrap();
    let pull = client.get_manifest("acme/app", "v1").await;
    told.push(of(&pull));
}

/// A disk that takes no more.
async fn full(told: &mut Vec<Told>) {
    let registry = TestRegistry::start().await;
    let location = registry.client().start_upload("acme/app").await;
    let put = finish(&location, &sha256(b"much"));
    let head = format!("PUT {put}\nContent-Length: {}", 1_u64 << 60);
    told.push(raw(&registry, &head).await);
}

/// What the program says in place of serving.
async fn not_started(told: &mut Vec<Told>) {
    let running = TestRegistry::start().await;
    let port = format!("127.0.0.1:{}", running.address().port());
    let fresh = || TestRegistry::builder();
    let file = |builder: &Builder, name: &str, text: &str| {
        let path = builder.home().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let newer = fresh();
    file(&newer, "data/version", "99\n");
    let foreign = fresh();
    file(&foreign, "data/thesis.txt", "");
    let taken = fresh();
    file(&taken, "data", "");
    let inside = fresh();
    let (data, state) = (inside.data(), inside.data().join("state"));
    let misspelt = fresh();
    let yaml = file(&misspelt, "standin.yaml", "lissten: 127.0.0.1:0\n");
    for builder in [
        fresh().args(["--listen", &port]),
        fresh().args(["--listen", "203.0.113.9:0"]),
        running.again(),
        taken,
        newer,
        foreign,
        inside.directories(data, state),
        fresh().args(["--tls-cert", "cert.pem"]),
        misspelt.args(["--config", &yaml]),
    ] {
        let (status, said) = builder.fails_to_start().await;
        assert!(matches!(status.code(), Some(1 | 2)), "{status}: {said}");
        let error = said.find("standin: error: ").expect(&said);
        told.push((
            "When it does not start".to_owned(),
            said[error..].to_owned(),
        ));
    }
}

/// What commands say that work on a data directory.
async fn not_looked_through(told: &mut Vec<Told>) {
    let running = TestRegistry::start().await;
    running
        .client()
        .push_image("acme/app", "v1", &Image::small(4))
        .await;
    let data = running.again().data();
    let tag = data.join("namespaces/_local/docker.io/acme/app/_tags/v1");
    std::fs::write(tag, "no entry").unwrap();
    for (data, args) in [
        (running.home(), &["list"][..]),
        (&data, &["verify", "--repair"]),
        (&data, &["prune", "--dry-run"]),
    ] {
        let under = "When list, verify or prune refuses".to_owned();
        told.push((under, refusal(&standin(data, args), 1)));
    }
}

fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

async fn raw(registry: &TestRegistry, head: &str) -> Told {
    let answer = Raw::exchange(registry.address(), head, b"").await;
    raw_of(answer.status, &answer.body)
}

fn of(answer: &Answer) -> Told {
    raw_of(answer.status, &answer.body)
}

fn raw_of(status: u16, body: &[u8]) -> Told {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["errors"][0];
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    let message = text("message");
    assert!(message.starts_with("standin"), "{status}: {body}");
    (format!("{status} {}", text("code")), message)
}

/// The page's headings and what it quotes below each.
fn explanations(page: &str) -> BTreeSet<Told> {
    let mut explained = BTreeSet::new();
    let mut heading = "";
    for line in page.lines() {
        if let Some(next) = line.strip_prefix("## ") {
            heading = next;
        }
        let cell = line.strip_prefix("| “").and_then(|row| row.split_once('”'));
        if let Some((quoted, _)) = cell {
            let new = explained.insert((heading.to_owned(), quoted.to_owned()));
            assert!(new, "{heading} has {quoted:?} twice");
        }
    }
    explained
}

/// Whether `message` has the parts of `quoted` between the dots, in their order.
fn quotes(quoted: &str, message: &str) -> bool {
    let mut rest = message;
    quoted.split('…').all(|part| {
        let found = rest.find(part);
        if let Some(at) = found {
            rest = &rest[at + part.len()..];
        }
        found.is_some()
    })
}
