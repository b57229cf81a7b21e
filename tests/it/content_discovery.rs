//! Content discovery: the lists of tags and of repositories, page by page, local and upstream in one (end-8).

use serde_json::json;

use crate::support::{
    Client, Exchange, FakeUpstream, Reply, TestRegistry,
    image::{Blob, Image},
    table::{exchange, pages, texts, whole},
};

const UPPER_FIRST: [&str; 9] = ["10", "9", "B", "Z", "_x", "a", "a-1", "a.1", "b"];

/// Pushes `image` under all of `tags`.
async fn push_tags(client: &Client, name: &str, tags: &[&str], image: &Image) {
    for blob in image.blobs() {
        client.push_blob(name, blob).await;
    }
    for tag in tags {
        let pushed = client.put_manifest(name, tag, &image.manifest).await;
        pushed.expect(201);
    }
}

#[tokio::test]
async fn tags_in_pages_of_every_length() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let shuffled = ["b", "a.1", "Z", "10", "a", "_x", "9", "a-1", "B"];
    push_tags(&client, "acme/app", &shuffled, &Image::small(1)).await;
    for n in 1..=10 {
        let path = format!("/v2/acme/app/tags/list?n={n}");
        let listed = whole(&client, &path, "tags", n).await;
        assert_eq!(listed, UPPER_FIRST, "n={n}");
    }
    for (query, expected) in [
        ("", &UPPER_FIRST[..]),
        ("?n=0", &[]),
        ("?n=0&last=a", &[]),
        ("?n=9", &UPPER_FIRST),
        ("?n=99999999999", &UPPER_FIRST),
        ("?last=", &UPPER_FIRST),
        ("?last=B", &UPPER_FIRST[3..]),
        // Behind where it would be, whether or not there is one.
        ("?last=C", &UPPER_FIRST[3..]),
        ("?last=!", &UPPER_FIRST),
        ("?last=b", &[]),
        ("?n=9&last=a", &UPPER_FIRST[6..]),
    ] {
        let path = format!("/v2/acme/app/tags/list{query}");
        let pages = pages(&client, &path, "tags").await;
        assert_eq!(pages.len(), 1, "{query}: {pages:?}");
        assert_eq!(texts(&pages[0]), expected, "{query}");
    }
    exchange(
        &client,
        &[],
        &[
            ("GET /v2/acme/app/tags/list?n=-1", 400, "UNSUPPORTED"),
            ("GET /v2/acme/app/tags/list?n=all", 400, "UNSUPPORTED"),
            ("GET /v2/acme/nowhere/tags/list?n=0", 404, "NAME_UNKNOWN"),
        ],
    )
    .await;
}

#[tokio::test]
async fn links_lead_on_by_the_name_the_client_used() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let tags = ["a", "b", "c"];
    push_tags(&client, "quay.io/acme/app", &tags, &Image::small(2)).await;
    for (path, starts) in [
        (
            "/v2/quay.io/acme/app/tags/list?n=1",
            "</v2/quay.io/acme/app/tags/list?",
        ),
        (
            "/v2/acme/app/tags/list?n=1&ns=quay.io",
            "</v2/acme/app/tags/list?",
        ),
    ] {
        let first = client.get(path).answer().await.expect(200);
        assert!(first.header("link").starts_with(starts), "{first:?}");
        assert_eq!(first.header("link").contains("ns="), path.contains("ns="));
        assert_eq!(whole(&client, path, "tags", 1).await, tags, "{path}");
    }
}

/// A registry in front of quay.io, where `acme/app` has `remote` tags, and has `local` ones here.
async fn both(remote: &[&str], local: &[&str]) -> (FakeUpstream, TestRegistry, Client) {
    let upstream = FakeUpstream::start().await;
    let image = Image::small(3);
    for tag in remote {
        upstream.add_image("acme/app", tag, &image);
    }
    let builder = TestRegistry::builder().registry("quay.io", &upstream.url());
    let registry = builder.start().await;
    let client = registry.client();
    push_tags(&client, "quay.io/acme/app", local, &Image::small(4)).await;
    (upstream, registry, client)
}

const LOCAL: &[&str] = &["a", "c", "e", "m", "zz"];
const REMOTE: &[&str] = &["b", "c", "d", "f", "g", "h", "z"];
const UNION: [&str; 11] = ["a", "b", "c", "d", "e", "f", "g", "h", "m", "z", "zz"];
const TAGS: &str = "/v2/quay.io/acme/app/tags/list";
const UPSTREAM_TAGS: &str = "/v2/acme/app/tags/list";

#[tokio::test]
async fn the_union_with_an_upstream_that_pages() {
    let (upstream, _registry, client) = both(REMOTE, LOCAL).await;
    for n in [1, 2, 3, 5, 11, 50] {
        let asked = upstream.requests().len();
        let path = format!("{TAGS}?n={n}");
        assert_eq!(whole(&client, &path, "tags", n).await, UNION, "n={n}");
        // Once for each page, for as many and from the same place on.
        let asked = upstream.requests().split_off(asked);
        assert_eq!(asked.len(), UNION.len().div_ceil(n), "{asked:?}");
        assert_eq!(asked[0], format!("GET {UPSTREAM_TAGS}?n={n}"));
        for request in &asked[1..] {
            let again = format!("GET {UPSTREAM_TAGS}?n={n}&last=");
            assert!(request.starts_with(&again), "{asked:?}");
        }
    }
    assert_eq!(client.tags("quay.io/acme/app").await, UNION);
}

#[tokio::test]
async fn the_union_with_an_upstream_whose_pages_are_shorter_than_asked_for() {
    let (upstream, _registry, client) = both(REMOTE, LOCAL).await;
    for cap in [1, 2, 4] {
        upstream.cap_pages(cap);
        for query in ["", "?n=3", "?n=5", "?n=100"] {
            let path = format!("{TAGS}{query}");
            let listed = texts(&pages(&client, &path, "tags").await.concat());
            assert_eq!(listed, UNION, "{query}, {cap} on a page");
        }
    }
}

#[tokio::test]
async fn the_union_with_an_upstream_that_knows_no_pages_or_no_order() {
    let shuffled = ["f", "z", "b", "h", "d", "c", "g"];
    for tags in [REMOTE, &shuffled] {
        let (upstream, _registry, client) = both(&[], LOCAL).await;
        let body = json!({"name": "acme/app", "tags": tags});
        upstream.add_answer(UPSTREAM_TAGS, "application/json", &body);
        for n in [1, 2, 5, 50] {
            let path = format!("{TAGS}?n={n}");
            assert_eq!(whole(&client, &path, "tags", n).await, UNION, "n={n}");
        }
        // Read whole, and kept: not once for each page.
        let asked = upstream.count("GET", UPSTREAM_TAGS);
        assert!(asked <= 4, "asked {asked} times");
    }
}

#[tokio::test]
async fn tags_while_the_upstream_fails_or_has_no_such_repository() {
    let (upstream, _registry, client) = both(REMOTE, LOCAL).await;
    upstream.fail(Reply::Status(400));
    let listed = client.get(TAGS).answer().await.expect(200);
    assert_eq!(listed.json()["tags"], json!(LOCAL));
    let warning = listed.header("warning");
    assert!(warning.starts_with("299 - \""), "{warning}");
    upstream.fail(Reply::Status(404));
    let listed = client.get(TAGS).answer().await.expect(200);
    assert_eq!(listed.json()["tags"], json!(LOCAL));
    assert!(!listed.headers.contains_key("warning"), "{listed:?}");
    upstream.recover();
    assert_eq!(client.tags("quay.io/acme/app").await, UNION);
}

#[tokio::test]
async fn the_catalog_as_each_client_would_write_its_names() {
    let upstream = FakeUpstream::start().await;
    upstream.add_image("acme/remote", "v1", &Image::small(5));
    let registry = TestRegistry::builder()
        .registry("quay.io", &upstream.url())
        .registry("docker.io", &upstream.url())
        .start()
        .await;
    let client = registry.client();
    let image = Image::small(6);
    for name in [
        "acme/app",
        "acme/app/deep",
        "tool",
        "quay.io/acme/app",
        "quay.io/zoo",
        "localhost_5001/acme/app",
    ] {
        client.push_image(name, "v1", &image).await;
    }
    // Pulled through, and blobs without a manifest, are no repositories of ours.
    let remote = Image::small(5);
    client
        .pull_image("quay.io/acme/remote", "v1", &remote)
        .await;
    client.push_blob("acme/blobs", &Blob::random(7, 100)).await;

    let everything = [
        "acme/app",
        "acme/app/deep",
        "library/tool",
        "localhost_5001/acme/app",
        "quay.io/acme/app",
        "quay.io/zoo",
    ];
    let rows: &[(Option<&str>, Option<&str>, &[&str])] = &[
        (None, None, &everything),
        (Some("quay.io"), None, &["acme/app", "zoo"]),
        (None, Some("quay.io"), &["acme/app", "zoo"]),
        (Some("docker.io"), None, &everything[..3]),
        (None, Some("registry-1.docker.io"), &everything[..3]),
        (Some("localhost:5001"), None, &["acme/app"]),
        (Some("ghcr.io"), None, &[]),
    ];
    for (ns, host, expected) in rows {
        for n in [1, 2, 100] {
            let ns = ns.map(|ns| format!("&ns={ns}")).unwrap_or_default();
            let mut next = Some(format!("/v2/_catalog?n={n}{ns}"));
            let mut listed = Vec::new();
            while let Some(path) = next {
                let get = match host {
                    Some(host) => client.get(&path).header("host", *host),
                    None => client.get(&path),
                };
                let answer = get.answer().await.expect(200);
                let page = texts(answer.json()["repositories"].as_array().unwrap());
                assert!(page.len() <= n, "{path}: {page:?}");
                listed.extend(page);
                let link = answer
                    .headers
                    .get("link")
                    .map(|link| link.to_str().unwrap());
                next = link.map(|link| link[1..link.find('>').unwrap()].to_owned());
            }
            assert_eq!(listed, *expected, "{ns} {host:?} n={n}");
        }
    }
    for (query, expected) in [
        ("?n=0", &[][..]),
        ("?last=acme/app/deep", &everything[2..]),
        ("?last=m&n=9", &everything[4..]),
        ("?last=zz", &[]),
    ] {
        let pages = pages(&client, &format!("/v2/_catalog{query}"), "repositories").await;
        assert_eq!(pages.len(), 1, "{query}");
        assert_eq!(texts(&pages[0]), expected, "{query}");
    }
    assert_eq!(upstream.count("GET", "/v2/_catalog"), 0);
}

#[tokio::test]
async fn the_catalog_follows_pushes_and_deletes_and_a_restart() {
    let registry = TestRegistry::start().await;
    let client = registry.client();
    let image = Image::small(8);
    let manifest = &image.manifest.digest;
    let catalog = async |client: &Client| whole(client, "/v2/_catalog", "repositories", 9).await;
    assert_eq!(catalog(&client).await, [""; 0]);
    for (turn, name) in ["acme/b", "acme/a", "acme/c"].into_iter().enumerate() {
        client.push_image(name, "v1", &image).await;
        assert_eq!(catalog(&client).await.len(), turn + 1);
    }
    // A tag that goes leaves its manifest.
    let tag = client.delete("/v2/acme/b/manifests/v1").answer().await;
    tag.expect(202);
    let gone = client.delete(&format!("/v2/acme/a/manifests/{manifest}"));
    gone.answer().await.expect(202);
    assert_eq!(catalog(&client).await, ["acme/b", "acme/c"]);
    let registry = registry.restart().await;
    let client = registry.client();
    assert_eq!(catalog(&client).await, ["acme/b", "acme/c"]);
    client.push_image("acme/a", "v1", &image).await;
    assert_eq!(catalog(&client).await, ["acme/a", "acme/b", "acme/c"]);
}
