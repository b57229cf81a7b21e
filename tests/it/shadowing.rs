//! What a name means, and who answers for it: the rules that find the source, and local before upstream.

use reqwest::RequestBuilder;

use crate::support::{
    Client, Exchange, FakeUpstream, Reply, TestRegistry,
    client::finish,
    image::{Image, OCI_INDEX, index},
    registry::Builder,
};

/// Two upstreams and no others.
async fn upstreams() -> (FakeUpstream, FakeUpstream, Builder) {
    let (hub, quay) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let builder = TestRegistry::builder()
        .registry("docker.io", &hub.url())
        .registry("quay.io", &quay.url());
    (hub, quay, builder)
}

/// How a client writes a name: path, `ns`, and `Host` header.
type Spelling<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

fn get_manifest(client: &Client, spelling: Spelling, reference: &str) -> RequestBuilder {
    let (name, ns, host) = spelling;
    let ns = ns.map(|ns| format!("?ns={ns}")).unwrap_or_default();
    let request = client.get(&format!("/v2/{name}/manifests/{reference}{ns}"));
    match host {
        Some(host) => request.header("host", host),
        None => request,
    }
}

#[tokio::test]
async fn every_spelling_of_a_name_is_one_repository() {
    let (hub, quay, builder) = upstreams().await;
    let registry = builder.start().await;
    let client = registry.client();
    let port = registry.address().port();
    let (own, local) = (format!("127.0.0.1:{port}"), format!("localhost:{port}"));
    let groups: [&[Spelling]; 4] = [
        &[
            ("acme/app", None, None),
            ("docker.io/acme/app", None, None),
            ("registry-1.docker.io/acme/app", None, None),
            ("index.docker.io/acme/app", None, None),
            ("acme/app", Some("docker.io"), None),
            ("acme/app", Some("DOCKER.IO"), None),
            ("acme/app", Some("registry-1.docker.io"), None),
            ("acme/app", Some("index.docker.io:443"), None),
            ("docker.io/acme/app", Some("docker.io"), None),
            ("acme/app", None, Some("docker.io")),
            ("acme/app", None, Some("registry-1.docker.io")),
            ("acme/app", None, Some("registry-1.docker.io:443")),
            ("acme/app", None, Some(&local)),
            // Our own name is no source: the next rule decides.
            ("acme/app", Some(&own), None),
            ("acme/app", Some(&local), None),
        ],
        &[
            ("app", None, None),
            ("library/app", None, None),
            ("docker.io/app", None, None),
            ("docker.io/library/app", None, None),
            ("app", Some("docker.io"), None),
            ("library/app", None, Some("registry-1.docker.io")),
        ],
        &[
            ("quay.io/acme/app", None, None),
            ("acme/app", Some("quay.io"), None),
            ("acme/app", Some("quay.io:443"), None),
            ("quay.io/acme/app", Some("quay.io"), None),
            ("acme/app", None, Some("quay.io")),
            ("quay.io/acme/app", Some(&own), None),
        ],
        // Not configured: local only, and a registry of its own all the same.
        &[
            ("localhost_5001/acme/app", None, None),
            ("acme/app", Some("localhost:5001"), None),
            ("localhost_5001/acme/app", Some("localhost:5001"), None),
        ],
    ];
    for (group, spellings) in groups.iter().enumerate() {
        for (turn, pushed) in spellings.iter().enumerate() {
            // Each spelling has its turn at pushing, and all must see it.
            let image = Image::small((group * 100 + turn) as u64);
            push(&client, *pushed, "v1", &image).await;
            for pulled in *spellings {
                let answer = get_manifest(&client, *pulled, "v1").answer().await;
                let answer = answer.expect(200);
                let digest = answer.header("docker-content-digest");
                assert_eq!(digest, image.manifest.digest, "{pushed:?} {pulled:?}");
            }
        }
    }
    // What was pushed last to each is still what it has: no two groups are one.
    for (group, spellings) in groups.iter().enumerate() {
        let image = Image::small((group * 100 + spellings.len() - 1) as u64);
        let answer = get_manifest(&client, spellings[0], "v1").answer().await;
        assert_eq!(answer.expect(200).body, image.manifest.bytes);
    }
    // Single-component and other hosts.
    let other = get_manifest(&client, ("ghcr.io/acme/app", None, None), "v1");
    other.answer().await.refused(404, "MANIFEST_UNKNOWN");
    assert!(no_reads(&hub) && no_reads(&quay), "a push asked for a tag");
}

/// Whether nobody asked for a manifest or a blob's bytes.
fn no_reads(upstream: &FakeUpstream) -> bool {
    let reads = |r: &String| r.starts_with("GET ") || r.contains("/manifests/");
    !upstream.requests().iter().any(reads)
}

async fn push(client: &Client, spelling: Spelling<'_>, tag: &str, image: &Image) {
    let (name, ns, host) = spelling;
    let with_host = |request: RequestBuilder| match host {
        Some(host) => request.header("host", host),
        None => request,
    };
    let ns = ns.map(|ns| format!("?ns={ns}")).unwrap_or_default();
    for blob in image.blobs() {
        let post = client.post(&format!("/v2/{name}/blobs/uploads/{ns}"));
        let opened = with_host(post).answer().await.expect(202);
        let put = client.put(&finish(opened.header("location"), &blob.digest));
        let done = with_host(put).body(blob.bytes.clone()).answer().await;
        done.expect(201);
    }
    let put = client
        .put(&format!("/v2/{name}/manifests/{tag}{ns}"))
        .header("content-type", &image.manifest.media_type)
        .body(image.manifest.bytes.clone());
    with_host(put).answer().await.expect(201);
}

#[tokio::test]
async fn by_server_name_the_source_is_that_host() {
    let (_hub, _quay, builder) = upstreams().await;
    let registry = builder.start().await;
    let client = registry.client();
    let (hub_image, quay_image) = (Image::small(1), Image::small(2));
    client.push_image("acme/app", "v1", &hub_image).await;
    client
        .push_image("quay.io/acme/app", "v1", &quay_image)
        .await;
    for (host, image) in [
        ("registry-1.docker.io", &hub_image),
        ("index.docker.io", &hub_image),
        ("quay.io", &quay_image),
    ] {
        // As if it had dialled port 443.
        let secure = registry.client_as(host);
        let answer = get_manifest(&secure, ("acme/app", None, Some(host)), "v1");
        let answer = answer.answer().await.expect(200);
        assert_eq!(answer.body, image.manifest.bytes, "{host}");
    }
}

#[tokio::test]
async fn answers_use_the_clients_own_name() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(3);
    push(&client, ("acme/app", Some("quay.io"), None), "v1", &image).await;
    let opened = client
        .post("/v2/acme/app/blobs/uploads/?ns=quay.io")
        .answer()
        .await
        .expect(202);
    assert_eq!(opened.header("oci-namespace"), "quay.io");
    let location = opened.header("location");
    assert!(
        location.starts_with("/v2/acme/app/blobs/uploads/"),
        "{location}"
    );
    assert!(location.contains("ns=quay.io"), "{location}");
    let blob = &image.layers[0];
    let done = client
        .put(&finish(location, &blob.digest))
        .body(blob.bytes.clone())
        .answer()
        .await
        .expect(201);
    let location = done.header("location").to_owned();
    let path = format!("/v2/acme/app/blobs/{}", blob.digest);
    assert!(location.starts_with(&path), "{location}");
    client.get(&location).answer().await.expect(200);
    for path in [
        "/v2/acme/app/manifests/v1?ns=quay.io",
        "/v2/acme/app/tags/list?ns=quay.io",
    ] {
        let answer = client.get(path).answer().await.expect(200);
        assert_eq!(answer.header("oci-namespace"), "quay.io");
    }
}

#[tokio::test]
async fn a_local_image_answers_and_its_upstream_is_not_asked() {
    let (hub, _quay, builder) = upstreams().await;
    let (remote, local) = (Image::small(4), Image::small(5));
    hub.add_image("acme/app", "v1", &remote);
    let registry = builder.start().await;
    let client = registry.client();
    client.pull_image("acme/app", "v1", &remote).await;
    assert!(!hub.requests().is_empty());

    client.push_image("acme/app", "v1", &local).await;
    let asked = hub.requests().len();
    for _ in 0..3 {
        client.pull_image("acme/app", "v1", &local).await;
        client.head_manifest("acme/app", "v1").await.expect(200);
    }
    assert_eq!(hub.requests().len(), asked, "{:?}", hub.requests());
    // Once, however often it is pulled.
    let log = registry.log();
    let hit = ["INFO", "docker.io/acme/app", "is not asked"];
    log.line_with(&hit).await;
    assert_eq!(log.count(&hit), 1);

    // By digest both are there: a shadow hides a tag, no content.
    let by_digest = client.get_manifest("acme/app", &remote.manifest.digest);
    by_digest.await.expect(200);
}

#[tokio::test]
async fn a_local_tag_hides_that_tag_and_nothing_else() {
    let (hub, quay, builder) = upstreams().await;
    let (remote, local) = (Image::small(6), Image::small(7));
    for tag in ["v1", "v2", "v10"] {
        hub.add_image("acme/app", tag, &remote);
        quay.add_image("acme/app", tag, &remote);
    }
    let registry = builder.start().await;
    let client = registry.client();
    client.push_image("acme/app", "v1", &local).await;
    client.push_image("acme/app", "mine", &local).await;
    for (name, tag, image) in [
        ("acme/app", "v1", &local),
        ("acme/app", "mine", &local),
        ("acme/app", "v2", &remote),
        ("quay.io/acme/app", "v1", &remote),
    ] {
        client.pull_image(name, tag, image).await;
    }
    assert_eq!(client.tags("acme/app").await, ["mine", "v1", "v10", "v2"]);
    assert_eq!(client.tags("quay.io/acme/app").await, ["v1", "v10", "v2"]);
}

#[tokio::test]
async fn a_push_never_reaches_the_upstream() {
    let (hub, quay, builder) = upstreams().await;
    let image = Image::small(8);
    let all = index(OCI_INDEX, &[&image.manifest]);
    let registry = builder.start().await;
    let client = registry.client();
    for name in ["acme/app", "quay.io/acme/app"] {
        for blob in image.blobs() {
            // As a real client does: is it there already?
            client.head_blob(name, &blob.digest).await.expect(404);
            client.push_blob(name, blob).await;
            client.head_blob(name, &blob.digest).await.expect(200);
        }
        let pushed = client.put_manifest(name, "v1", &image.manifest).await;
        pushed.expect(201);
        client.put_manifest(name, "all", &all).await.expect(201);
    }
    for upstream in [&hub, &quay] {
        assert_eq!(upstream.requests(), [""; 0]);
    }
}

#[tokio::test]
async fn a_push_does_not_need_the_upstream() {
    let (hub, _quay, builder) = upstreams().await;
    hub.fail(Reply::Status(503));
    let registry = builder.start().await;
    let client = registry.client();
    let image = Image::small(9);
    for blob in image.blobs() {
        client.head_blob("acme/app", &blob.digest).await.expect(404);
        client.push_blob("acme/app", blob).await;
    }
    // containerd gives up unless this is 200 or 404, whichever rule found the source.
    for host in [None, Some("registry-1.docker.io")] {
        let mut head = client.head("/v2/acme/app/manifests/v1");
        if let Some(host) = host {
            head = head.header("host", host);
        }
        head.answer().await.expect(404);
    }
    let pushed = client.put_manifest("acme/app", "v1", &image.manifest).await;
    pushed.expect(201);
    client.pull_image("acme/app", "v1", &image).await;
}

#[tokio::test]
async fn a_local_only_name_is_never_asked_for() {
    let (hub, quay, builder) = upstreams().await;
    let image = Image::small(10);
    for upstream in [&hub, &quay] {
        for name in ["secret/app", "library/tool", "acme/app"] {
            upstream.add_image(name, "v1", &image);
        }
    }
    let registry = builder
        .args([
            "--local-only",
            "secret/**",
            "--local-only",
            "docker.io/tool",
        ])
        .start()
        .await;
    let client = registry.client();
    for (turn, name) in [
        "secret/app",
        "quay.io/secret/app",
        "tool",
        "quay.io/secret/deep/app",
    ]
    .into_iter()
    .enumerate()
    {
        let missing = Image::small(2000 + turn as u64);
        let manifest = client.get_manifest(name, "v1").await;
        manifest.refused(404, "MANIFEST_UNKNOWN");
        let by_digest = client.get_manifest(name, &image.manifest.digest).await;
        by_digest.refused(404, "MANIFEST_UNKNOWN");
        let blob = client.get_blob(name, &image.config.digest).await;
        blob.refused(404, "BLOB_UNKNOWN");
        let tags = client.get(&format!("/v2/{name}/tags/list")).answer().await;
        tags.expect(404);
        let pushed = client.put_manifest(name, "v1", &missing.manifest).await;
        pushed.refused(400, "MANIFEST_BLOB_UNKNOWN");
        client.push_image(name, "v1", &missing).await;
        client.pull_image(name, "v1", &missing).await;
    }
    assert_eq!(hub.requests(), [""; 0]);
    assert_eq!(quay.requests(), [""; 0]);
    // Only those.
    client.pull_image("acme/app", "v1", &image).await;
    client
        .pull_image("quay.io/library/tool", "v1", &image)
        .await;
}

#[tokio::test]
async fn offline_nobody_is_asked_and_a_miss_is_a_plain_404() {
    let (hub, quay, builder) = upstreams().await;
    let (cached, never) = (Image::small(12), Image::small(13));
    for upstream in [&hub, &quay] {
        upstream.add_image("acme/app", "cached", &cached);
        upstream.add_image("acme/app", "never", &never);
    }
    let registry = builder.start().await;
    registry
        .client()
        .pull_image("acme/app", "cached", &cached)
        .await;
    let builder = registry.stop().await.args(["--offline"]);
    let asked = hub.requests().len();
    let registry = builder.start().await;
    let client = registry.client();
    client.pull_image("acme/app", "cached", &cached).await;
    for (name, host) in [
        ("acme/app", None),
        ("quay.io/acme/app", None),
        ("acme/app", Some("quay.io")),
    ] {
        let answer = get_manifest(&client, (name, None, host), "never");
        answer.answer().await.refused(404, "MANIFEST_UNKNOWN");
        let blob = client.get_blob(name, &never.config.digest).await;
        blob.refused(404, "BLOB_UNKNOWN");
    }
    assert_eq!(hub.requests().len(), asked);
    assert_eq!(quay.requests(), [""; 0]);
}

#[tokio::test]
async fn a_name_that_may_not_be_shadowed_is_the_upstreams() {
    let (hub, _quay, builder) = upstreams().await;
    let (remote, local) = (Image::small(14), Image::small(15));
    for name in ["library/debian", "acme/app"] {
        hub.add_image(name, "v1", &remote);
    }
    let builder = builder.args(["--no-shadow", "library/*"]);
    let registry = builder.start().await;
    let client = registry.client();
    for name in ["debian", "acme/app"] {
        for blob in local.blobs() {
            client.push_blob(name, blob).await;
        }
        client.put_manifest(name, "v1", &local.manifest).await;
    }
    client.pull_image("debian", "v1", &remote).await;
    client.pull_image("acme/app", "v1", &local).await;
}

#[tokio::test]
async fn a_registry_that_is_not_configured_is_never_contacted() {
    let (hub, quay, builder) = upstreams().await;
    // It would answer, and is not asked.
    let stranger = FakeUpstream::start().await;
    let image = Image::small(16);
    for upstream in [&hub, &quay, &stranger] {
        upstream.add_image("acme/app", "v1", &image);
        upstream.add_image("localhost/acme/app", "v1", &image);
    }
    let registry = builder.start().await;
    let client = registry.client();
    let port = stranger.url().rsplit(':').next().unwrap().to_owned();
    let host = format!("127.0.0.1:{port}");
    let component = format!("127.0.0.1_{port}/acme/app");
    let spellings = [
        ("acme/app", Some(host.as_str()), None),
        (component.as_str(), None, None),
        ("localhost/acme/app", None, None),
        ("registry.example.com/acme/app", None, None),
        ("acme/app", Some("registry.example.com"), None),
    ];
    for spelling in spellings {
        let answer = get_manifest(&client, spelling, "v1").answer().await;
        answer.refused(404, "MANIFEST_UNKNOWN");
    }
    // They are names of their own, and pushes to them are captured.
    for spelling in spellings {
        push(&client, spelling, "v1", &image).await;
        let answer = get_manifest(&client, spelling, "v1").answer().await;
        answer.expect(200);
    }
    for upstream in [&hub, &quay, &stranger] {
        assert_eq!(upstream.requests(), [""; 0], "a name leaked");
    }
}

#[tokio::test]
async fn the_default_registry_can_be_another() {
    let (hub, quay, builder) = upstreams().await;
    let image = Image::small(17);
    for upstream in [&hub, &quay] {
        upstream.add_image("acme/app", "v1", &image);
    }
    let builder = builder.args(["--default-registry", "quay.io"]);
    let registry = builder.start().await;
    registry.client().pull_image("acme/app", "v1", &image).await;
    assert!(!quay.requests().is_empty());
    assert_eq!(hub.requests(), [""; 0]);
}
