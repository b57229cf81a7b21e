//! What an upstream can do to us, one row for each, and what comes of it.

#![allow(clippy::unwrap_used)]

mod endpoints;
mod push;

use futures_util::TryStreamExt as _;
use tokio::net::TcpSocket;

use super::{
    testing::{QUICK, Reply, Server, at, quay, redirect, reply, settings, upstreams, with_length},
    *,
};
use crate::types::{Algorithm, manifest::MANIFEST_LIMIT};

fn name() -> RepositoryName {
    "acme/app".parse().unwrap()
}

fn digest() -> Digest {
    Digest::of(Algorithm::Sha256, b"0123456789")
}

fn good() -> Reply {
    reply("200", "", "good")
}

/// A manifest's bytes, `absent`, or what is told.
async fn pull(upstreams: &Upstreams, patience: Patience) -> String {
    let tag = "v1".parse().unwrap();
    match upstreams
        .get_manifest(&quay(), &name(), &tag, patience.into())
        .await
    {
        Ok(Some(manifest)) => String::from_utf8(manifest.bytes.to_vec()).unwrap(),
        Ok(None) => "absent".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// What a script comes to, and how often the registry was asked.
async fn outcome(script: Vec<Reply>, pace: Pace) -> (String, usize) {
    let server = Server::start(script).await;
    let told = pull(&upstreams(at(&server), pace), Patience::Full).await;
    (told, server.requests().len())
}

#[tokio::test]
async fn a_manifest_comes_or_the_cause_is_told() {
    let many: String = (0..200).map(|n| format!("x-{n}: y\n")).collect();
    let long = format!("x: {}", "y".repeat(1 << 20));
    let failure = |status: &str| reply(status, "", "");
    for (what, script, expected, asked) in [
        ("as it should be", vec![good()], "good", 1),
        ("404", vec![failure("404")], "absent", 1),
        (
            "401",
            vec![failure("401")],
            "401: that does not exist there, or wants credentials",
            1,
        ),
        (
            "403",
            vec![failure("403")],
            "403: that does not exist there, or wants credentials",
            1,
        ),
        ("400", vec![failure("400")], "quay.io: it answered 400", 1),
        ("500 once", vec![failure("500"), good()], "good", 2),
        ("503 for good", vec![failure("503")], "it answered 503", 4),
        (
            "Retry-After",
            vec![reply("429", "retry-after: 0", ""), good()],
            "good",
            2,
        ),
        (
            "Retry-After of a date",
            vec![
                reply("503", "retry-after: Sun, 06 Nov 1994 08:49:37 GMT", ""),
                good(),
            ],
            "good",
            2,
        ),
        (
            "Retry-After beyond the budget",
            vec![reply("429", "retry-after: 3600", "")],
            "429, too many requests, retry after 3600",
            1,
        ),
        (
            "no headers",
            vec![Reply::Raw(Vec::new()), good()],
            "good",
            2,
        ),
        (
            "no headers for good",
            vec![Reply::Raw(Vec::new())],
            "the connection broke before it answered",
            4,
        ),
        (
            "half a head",
            vec![Reply::Raw(b"HTTP/1.1 200 OK\r\nconte".to_vec()), good()],
            "good",
            2,
        ),
        (
            "a short body",
            vec![with_length("200", "", "go", 4), good()],
            "good",
            2,
        ),
        (
            "no HTTP",
            vec![Reply::Raw(b"hello\r\n\r\n".to_vec())],
            "no HTTP that we can read",
            1,
        ),
        (
            "many headers",
            vec![reply("200", many.trim_end(), "")],
            "no HTTP that we can read",
            1,
        ),
        (
            "a long header",
            vec![reply("200", &long, "")],
            "no HTTP that we can read",
            1,
        ),
        (
            "a page",
            vec![reply("200", "content-type: Text/HTML; x", "")],
            "text/html",
            1,
        ),
        (
            "gzip",
            vec![reply("200", "content-encoding: gzip", "x")],
            "encoding \"gzip\"",
            1,
        ),
        (
            "identity",
            vec![reply("200", "content-encoding: identity", "x")],
            "x",
            1,
        ),
        (
            "too large by its own word",
            vec![with_length("200", "", "", MANIFEST_LIMIT + 1)],
            "larger than 4194304 bytes",
            1,
        ),
        (
            "endless",
            vec![Reply::Endless(
                "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n",
                format!("1000\r\n{}\r\n", "x".repeat(0x1000)),
            )],
            "larger than 4194304 bytes",
            1,
        ),
        (
            "more than it said",
            vec![with_length("200", "", "good and more", 4)],
            "good",
            1,
        ),
        (
            "nowhere to go",
            vec![failure("302")],
            "does not say where to",
            1,
        ),
        (
            "a circle",
            vec![redirect("/v2/acme/app/manifests/v1")],
            "in a circle",
            1,
        ),
        (
            "a file",
            vec![redirect("file:///etc/passwd")],
            "scheme file",
            1,
        ),
        (
            "metadata",
            vec![redirect("http://169.254.169.254/latest")],
            "169.254.169.254, a link-local, metadata or reserved address",
            1,
        ),
    ] {
        let (told, requests) = outcome(script, QUICK).await;
        assert!(told.contains(expected), "{what}: {told}");
        assert_eq!(requests, asked, "{what}: {told}");
    }
}

#[tokio::test]
async fn silence_is_bounded_wherever_it_sets_in() {
    let pace = Pace {
        budget: Duration::from_millis(600),
        silence: Duration::from_millis(50),
        ..QUICK
    };
    let (told, _) = outcome(vec![Reply::Stall(Vec::new())], pace).await;
    assert!(told.contains("no answer within"), "{told}");
    let half = Reply::Stall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngo".to_vec());
    let pace = Pace {
        budget: QUICK.budget,
        ..pace
    };
    let (told, asked) = outcome(vec![half, good()], pace).await;
    assert_eq!((told.as_str(), asked), ("good", 2));
}

#[tokio::test]
async fn who_has_no_patience_asks_once() {
    let server = Server::start([reply("500", "", ""), good()]).await;
    let told = pull(&upstreams(at(&server), QUICK), Patience::Once).await;
    assert!(told.contains("500"), "{told}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let cdn = Server::start([good()]).await;
    let hops = |count: usize| {
        let last = format!("{}/signed?key=1#fragment", cdn.url());
        let hops = (1..count).map(|n| redirect(&format!("/{n}")));
        hops.chain([redirect(&last)]).collect::<Vec<_>>()
    };
    for (count, expected) in [(1, "good"), (5, "good"), (6, "more than 5 times")] {
        let (told, _) = outcome(hops(count), QUICK).await;
        assert!(told.contains(expected), "{count}: {told}");
    }
    assert_eq!(cdn.asked(), ["get /signed?key=1"; 2]);
}

#[tokio::test]
async fn an_address_that_has_expired_is_asked_for_anew_once() {
    for (replies, expected) in [
        (vec![reply("403", "", ""), good()], "good"),
        (vec![reply("404", "", ""), good()], "good"),
        (vec![reply("403", "", "")], "it answered 403"),
        (vec![reply("404", "", "")], "it answered 404"),
    ] {
        let cdn = Server::start(replies).await;
        let server = Server::start([redirect(&format!("{}/signed", cdn.url()))]).await;
        let told = pull(&upstreams(at(&server), QUICK), Patience::Full).await;
        assert!(told.contains(expected), "{told}");
        // What is refused elsewhere is told as such, for it is no word of the registry's.
        assert_eq!(told.contains(cdn.url()), expected != "good", "{told}");
        assert_eq!(cdn.requests().len(), 2);
        assert_eq!(server.requests().len(), 2);
    }
}

/// Size, body, and the cause of its end, of the blob `0123456789` from byte 4 on.
async fn rest(answer: Reply, pace: Pace) -> (Option<u64>, String, Option<Cause>) {
    let server = Server::start([answer]).await;
    let blob = upstreams(at(&server), pace)
        .get_blob(&quay(), &name(), &digest(), 4, Patience::Full.into())
        .await;
    assert!(server.requests()[0].contains("range: bytes=4-\r\n"));
    let mut blob = match blob {
        Ok(blob) => blob.unwrap(),
        Err(error) => return (None, String::new(), Some(error.cause)),
    };
    let mut body = String::new();
    loop {
        match blob.body.try_next().await {
            Ok(Some(piece)) => body.push_str(std::str::from_utf8(&piece).unwrap()),
            Ok(None) => return (blob.size, body, None),
            Err(error) => return (blob.size, body, Some(error.cause)),
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_blob() {
    let part = |range: &str, body| reply("206", &format!("content-range: bytes {range}"), body);
    let chunked =
        "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n";
    for (what, answer, size, body, cause) in [
        (
            "as asked",
            part("4-9/10", "456789"),
            Some(10),
            "456789",
            None,
        ),
        (
            "of unknown size",
            part("4-9/*", "456789"),
            Some(10),
            "456789",
            None,
        ),
        (
            "ignored",
            reply("200", "", "0123456789"),
            Some(10),
            "456789",
            None,
        ),
        (
            "without a length",
            Reply::Raw(chunked.into()),
            None,
            "456789",
            None,
        ),
        (
            "less than asked",
            part("4-6/10", "456"),
            Some(10),
            "456",
            Some((true, "3 bytes early")),
        ),
        (
            "cut",
            with_length("206", "content-range: bytes 4-9/10", "45", 6),
            Some(10),
            "45",
            Some((true, "broke off")),
        ),
        (
            "another part",
            part("3-9/10", "3456789"),
            None,
            "",
            Some((false, "bytes 3-9/10")),
        ),
        (
            "no part",
            reply("206", "", "456789"),
            None,
            "",
            Some((false, "request for 4-")),
        ),
        (
            "beyond the end",
            part("4-9/9", "456789"),
            None,
            "",
            Some((false, "4-9/9")),
        ),
        (
            "of another length",
            part("4-8/10", "456789"),
            None,
            "",
            Some((false, "4-8/10")),
        ),
        (
            "shrunk",
            reply("200", "", "012"),
            None,
            "",
            Some((false, "less than the 4 bytes")),
        ),
        (
            "gone",
            reply("416", "", ""),
            None,
            "",
            Some((false, "content has changed")),
        ),
        (
            "gzip",
            reply("200", "content-encoding: gzip", "0123456789"),
            None,
            "",
            Some((false, "gzip")),
        ),
    ] {
        let (found_size, found, end) = rest(answer, QUICK).await;
        assert_eq!((found_size, found.as_str()), (size, body), "{what}");
        match (end, cause) {
            (None, None) => {}
            (Some(end), Some((resumable, fragment))) => {
                assert!(end.to_string().contains(fragment), "{what}: {end}");
                assert_eq!(end.is_resumable(), resumable, "{what}: {end}");
            }
            (end, _) => panic!("{what}: {end:?}"),
        }
    }
    let half = b"HTTP/1.1 200 x\r\ncontent-length: 10\r\n\r\n01234".to_vec();
    let pace = Pace {
        silence: Duration::from_millis(50),
        ..QUICK
    };
    let (_, body, end) = rest(Reply::Stall(half), pace).await;
    assert_eq!(body, "4");
    assert!(end.unwrap().is_resumable());
}

#[tokio::test]
async fn the_rest_of_another_blob_is_refused() {
    let server = Server::start([reply("206", "content-range: bytes 4-9/10", "456789")]).await;
    let upstreams = upstreams(at(&server), QUICK);
    for (known, fine) in [(None, true), (Some(10), true), (Some(11), false)] {
        let blob = upstreams
            .get_blob(&quay(), &name(), &digest(), 4, Patience::Full.into())
            .await
            .unwrap();
        let continued = blob.unwrap().continuing(known);
        assert_eq!(continued.is_ok(), fine, "{known:?}");
        assert!(
            continued
                .err()
                .is_none_or(|error| !error.cause.is_resumable())
        );
    }
}

#[tokio::test]
async fn each_way_of_not_being_reached_has_words_of_its_own() {
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = closed.local_addr().unwrap();
    let plain = Server::start([good()]).await;
    for (url, fragments) in [
        (
            format!("http://{closed}"),
            [
                &format!("at http://{closed} was refused"),
                "nothing listens",
            ],
        ),
        (
            plain.url().replace("http:", "https:"),
            ["no TLS connection at https://127", "HOST=http://"],
        ),
    ] {
        let options = Options::at(url.parse().unwrap());
        let told = pull(&upstreams(options, QUICK), Patience::Full).await;
        for fragment in fragments {
            assert!(told.contains(fragment), "{url}: {told}");
        }
    }
}

#[tokio::test]
async fn what_is_left_of_an_allowance_is_kept() {
    let headers = "ratelimit-limit: 100;w=21600\nratelimit-remaining: 76;w=21600";
    let server = Server::start([reply("200", headers, "good")]).await;
    let activity = Arc::new(Activity::default());
    let settings = Settings {
        activity: Arc::clone(&activity),
        ..settings(QUICK)
    };
    let upstreams = Upstreams::new([(quay(), at(&server))].into(), settings);
    pull(&upstreams, Patience::Full).await;
    let page = activity.metrics().page().unwrap();
    for line in [
        r#"standin_upstream_pull_limit{registry="quay.io"} 100"#,
        r#"standin_upstream_pulls_remaining{registry="quay.io"} 76"#,
    ] {
        assert!(page.lines().any(|found| found == line), "{page}");
    }
}
