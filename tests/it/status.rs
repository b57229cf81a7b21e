//! `/status` itself: who sees it, in which forms, and that it holds whatever clients and upstreams say.

use std::net::SocketAddr;

use crate::support::{
    Client, Exchange, FakeUpstream, Reply, TestRegistry,
    credentials::{Authorized as _, basic, other_address},
    eventually,
    image::{Image, ImageBuilder},
    markup::Document,
};

#[tokio::test]
async fn names_are_for_those_who_may_pull_them() {
    let registry = TestRegistry::builder()
        .args(["--user", "ci:secret:write", "--user", "reader:secret:read"])
        .start()
        .await;
    let client = registry.client();
    let refused = client.get("/status").answer().await.expect(401);
    assert!(
        refused
            .header("www-authenticate")
            .starts_with("Basic realm="),
        "{refused:?}"
    );
    let as_user = |user: &str, password: &str| {
        client
            .get("/status?format=json")
            .basic_auth(user, Some(password))
            .answer()
    };
    as_user("reader", "wrong").await.expect(401);
    let seen = as_user("reader", "secret").await.expect(200).json();
    assert_eq!(seen["version"], 1);
}

#[tokio::test]
async fn elsewhere_it_tells_only_what_whoever_asks_may_pull() {
    let Some(address) = other_address() else {
        eprintln!(
            "skipped: what /status tells on other than loopback addresses, for there is none here"
        );
        return;
    };
    let (open, closed) = (FakeUpstream::start().await, FakeUpstream::start().await);
    open.add_image("acme/open", "v1", &Image::small(1));
    closed.add_image("acme/secret", "v1", &Image::small(2));
    closed.guard(&basic("ci", "up:stream"));
    let builder = TestRegistry::builder()
        .registry("quay.io", &open.url())
        .registry("private.example", &closed.url());
    let (authfile, ready) = (
        builder.home().join("auth.json"),
        builder.home().join("ready.json"),
    );
    let auth = basic("ci", "up:stream");
    let auth = auth.strip_prefix("Basic ").unwrap();
    let text = format!("{{\"auths\":{{\"private.example\":{{\"auth\":\"{auth}\"}}}}}}");
    std::fs::write(&authfile, text).unwrap();
    // The first listener is the one that `standin status` asks.
    let elsewhere = format!("{address}:0");
    let registry = builder
        .env("STANDIN_AUTHFILE", authfile.to_str().unwrap())
        .args([
            "--listen",
            &elsewhere,
            "--ready-file",
            ready.to_str().unwrap(),
        ])
        .start()
        .await;
    let here = registry.client();
    for (name, status) in [
        ("quay.io/acme/open", 200),
        ("private.example/acme/secret", 200),
        ("private.example/acme/hidden", 404),
    ] {
        here.get_manifest(name, "v1").await.expect(status);
    }
    open.fail(Reply::Raw("HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm=\"innermost\"\r\ncontent-length: 0\r\n\r\n".into()));
    here.get_manifest("quay.io/acme/refused", "v1").await;
    let all = here
        .get("/status?format=json")
        .answer()
        .await
        .expect(200)
        .json();
    assert_eq!(all["left_out"]["hidden"], 0);

    let ready_text = std::fs::read(&ready).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&ready_text).unwrap();
    let listener: SocketAddr = told["listeners"][1].as_str().unwrap().parse().unwrap();
    let there = Client::new(
        &format!("http://{listener}"),
        &std::fs::read(registry.ca()).unwrap(),
        &[],
    );
    for form in ["json", "html", "md"] {
        let page = format!("/status?format={form}");
        let text = |answer: crate::support::Answer| {
            String::from_utf8(answer.expect(200).body.to_vec()).unwrap()
        };
        let seen = text(there.get(&page).answer().await);
        assert!(seen.contains("acme/open"), "{form}: {seen}");
        for secret in ["acme/secret", "acme/hidden", "innermost"] {
            assert!(!seen.contains(secret), "{form} tells {secret}: {seen}");
        }
        let password = told["password"].as_str().unwrap();
        let user = basic("standin", password);
        let seen = text(there.get(&page).authorized(&user).answer().await);
        for known in ["acme/open", "acme/secret", "acme/hidden", "innermost"] {
            assert!(seen.contains(known), "{form} hides {known}: {seen}");
        }
    }
    let seen = there
        .get("/status?format=json")
        .answer()
        .await
        .expect(200)
        .json();
    assert_eq!(seen["left_out"]["hidden"], 2);
    assert_eq!(seen["totals"], all["totals"], "sums are of all");
    there.get("/status?login").answer().await.expect(401);

    // Which asks as the user that was made up.
    let directory = registry.home().join("alone");
    let start = |word: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_standin"));
        command.arg(word).arg("--data").arg(&directory).env_clear();
        command
    };
    let mut serve = start("serve");
    let served = serve
        .args(["--detach", "--listen", &elsewhere])
        .output()
        .unwrap();
    assert!(served.status.success(), "{served:?}");
    let status = start("status").output().unwrap();
    let stopped = start("stop").output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains(&format!("http://{address}:")), "{status}");
    assert!(
        status.contains("nothing was pulled or pushed yet"),
        "{status}"
    );
    assert!(stopped.status.success());
}

#[tokio::test]
async fn where_it_stands_in_for_another_there_is_no_status() {
    let upstream = FakeUpstream::start().await;
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .start()
        .await;
    let elsewhere = registry.client().get("/status").header("host", "quay.io");
    elsewhere.answer().await.expect(404);
    let refused = registry.client().post("/status").answer().await.expect(405);
    assert_eq!(refused.header("allow"), "GET, HEAD");
    for query in ["format=pdf", "refresh=0", "refresh=soon"] {
        registry
            .client()
            .get(&format!("/status?{query}"))
            .answer()
            .await
            .expect(400);
    }
    for (accept, kind) in [
        ("application/json", "application/json"),
        (
            "text/html,application/xhtml+xml,application/json;q=0.9",
            "text/html; charset=utf-8",
        ),
        ("text/markdown", "text/markdown; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
    ] {
        let request = registry.client().get("/status").header("accept", accept);
        assert_eq!(
            request.answer().await.expect(200).header("content-type"),
            kind,
            "{accept}"
        );
    }
}

#[tokio::test]
async fn what_upstreams_say_is_text_in_every_form() {
    let upstream = FakeUpstream::start().await;
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .start()
        .await;
    let client = registry.client();
    let challenge = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm=\"<script>alert(1)</script>|`x`\"\r\n\
                     content-length: 0\r\n\r\n";
    upstream.fail(Reply::Raw(challenge.into()));
    client.get_manifest("quay.io/acme/app", "v1").await;
    let html = client.get("/status").answer().await.expect(200);
    let html = String::from_utf8(html.body.to_vec()).unwrap();
    assert!(Document::parse(&html).all("script").is_empty(), "{html}");
    assert!(html.contains("script"), "it is told of: {html}");
    let markdown = client.get("/status?format=md").answer().await.expect(200);
    let markdown = String::from_utf8(markdown.body.to_vec()).unwrap();
    assert!(
        !markdown.contains("<script") && !markdown.contains('`'),
        "{markdown}"
    );
}

#[tokio::test]
async fn it_is_bounded_whatever_clients_ask_for() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    for n in 0..1100 {
        client
            .get_manifest(&format!("nowhere{n}.test/app"), "v1")
            .await
            .expect(404);
    }
    let status = client
        .get("/status?format=json")
        .answer()
        .await
        .expect(200)
        .json();
    assert_eq!(status["pulled"].as_array().unwrap().len(), 1000);
    assert_eq!(status["left_out"]["pulls"], 100);
    assert_eq!(status["totals"]["from"]["nowhere"], 1100);
    let markdown = client.get("/status?format=md").answer().await.expect(200);
    assert!(markdown.body.len() < 100_000, "{}", markdown.body.len());
}

#[tokio::test]
async fn what_flows_is_seen_while_it_flows() {
    use crate::support::Gate;
    let upstream = FakeUpstream::start().await;
    let image = ImageBuilder::new(1).layer(300_000).build();
    upstream.add_image("acme/app", "v1", &image);
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .start()
        .await;
    let client = registry.client();
    let gate = Gate::new();
    let layer = &image.layers[0].digest;
    let gated = Reply::Gated {
        before: 100_000,
        gate: gate.clone(),
    };
    upstream.script("GET", &format!("/v2/acme/app/blobs/{layer}"), [gated]);
    client
        .get_manifest("quay.io/acme/app", "v1")
        .await
        .expect(200);
    let path = format!("/v2/quay.io/acme/app/blobs/{layer}");
    let mut response = client.get(&path).send().await.unwrap();
    response.chunk().await.unwrap().unwrap();
    let status = || async {
        client
            .get("/status?format=json")
            .answer()
            .await
            .expect(200)
            .json()
    };
    eventually("it waits for the upstream, and that is seen", || async {
        let status = status().await;
        let pull = &status["pulled"][0];
        pull["times"][0]["under_way"] == true
            && pull["bytes"].as_u64().unwrap() >= 100_000
            && pull["waited_seconds"].as_f64().unwrap() >= 0.3
    })
    .await;
    gate.open();
    while response.chunk().await.unwrap().is_some() {}
    eventually("it is over", || async {
        status().await["pulled"][0]["times"][0]["under_way"] == false
    })
    .await;
}
