//! What a registry that is pushed to can do to us, and what comes of it.

use futures_util::stream;

use super::*;

const BLOB: &[u8] = b"0123456789";

fn opened(path: &str) -> Reply {
    reply("202", &format!("location: {path}"), "")
}

fn refused(status: &str, code: &str) -> Reply {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"no, \u001bthank you"}}]}}"#);
    reply(status, "content-type: application/json", &body)
}

fn broken() -> Reply {
    Reply::Raw(Vec::new())
}

/// What pushing a blob comes to.
async fn push(upstreams: &Upstreams) -> String {
    let blob = BlobPush {
        name: &name(),
        digest: &digest(),
        size: BLOB.len() as u64,
    };
    let open = || {
        let pieces = BLOB.chunks(3).map(|piece| Ok(Bytes::from_static(piece)));
        let pieces: Vec<_> = pieces.collect();
        Some(stream::iter(pieces).boxed())
    };
    match upstreams.push_blob(&quay(), blob, open).await {
        Ok(()) => "pushed".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_blob_is_pushed_or_the_cause_is_told() {
    let session = || opened("/u/1?state=x");
    let created = || reply("201", "", "");
    for (what, script, expected, asked) in [
        ("as it should be", vec![session(), created()], "pushed", 2),
        (
            "a connection that breaks when it is opened",
            vec![broken(), session(), created()],
            "pushed",
            3,
        ),
        (
            "a connection that breaks under way: anew, and the session is given back",
            vec![session(), broken(), created(), session(), created()],
            "pushed",
            5,
        ),
        (
            "chunks only",
            vec![
                session(),
                refused("405", "UNSUPPORTED"),
                session(),
                opened("/u/2"),
                created(),
            ],
            "pushed",
            5,
        ),
        (
            "a refusal",
            vec![session(), refused("400", "DIGEST_INVALID"), created()],
            r"quay.io: it answered 400 (DIGEST_INVALID: no, \u{1b}thank you)",
            3,
        ),
        (
            "a full disk",
            vec![session(), refused("507", "UNKNOWN"), created()],
            "quay.io: it answered 507 (UNKNOWN",
            3,
        ),
        (
            "no rights",
            vec![refused("403", "DENIED")],
            "that wants credentials that may (--user NAME:PASSWORD, or docker login)",
            1,
        ),
        (
            "nowhere to go on",
            vec![reply("202", "", "")],
            "it answered 202 Accepted without saying where that goes on",
            1,
        ),
        (
            "an address that it must not lead to",
            vec![opened("http://169.254.169.254/u"), created()],
            "where nobody may lead us",
            1,
        ),
    ] {
        let server = Server::start(script).await;
        let told = push(&upstreams(at(&server), QUICK)).await;
        assert!(told.contains(expected), "{what}: {told}");
        assert_eq!(server.asked().len(), asked, "{what}: {:?}", server.asked());
        if expected == "pushed" {
            assert_eq!(server.bodies().last().unwrap(), BLOB, "{what}");
        }
    }
}

#[tokio::test]
async fn an_upload_goes_on_where_its_registry_says_with_the_digest_behind() {
    let server = Server::start([opened("/u/1?state=x"), reply("201", "", "")]).await;
    assert_eq!(push(&upstreams(at(&server), QUICK)).await, "pushed");
    let digest = digest().to_string().replace(':', "%3a");
    assert_eq!(
        server.asked(),
        [
            "post /v2/acme/app/blobs/uploads/".to_owned(),
            format!("put /u/1?state=x&digest={digest}"),
        ]
    );
}

#[tokio::test]
async fn a_connection_that_takes_nothing_more_counts_as_broken() {
    let pace = Pace {
        silence: Duration::from_millis(100),
        ..QUICK
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::on(
        listener,
        [opened("/u/1"), Reply::Unread, reply("204", "", "")],
    );
    let upstreams = upstreams(at(&server), Pace { retries: 0, ..pace });
    let size = 64 << 20;
    let blob = BlobPush {
        name: &name(),
        digest: &digest(),
        size,
    };
    let open = || {
        let pieces = (0..64).map(|_| Ok(Bytes::from(vec![0; 1 << 20])));
        Some(stream::iter(pieces.collect::<Vec<_>>()).boxed())
    };
    let error = upstreams.push_blob(&quay(), blob, open).await.unwrap_err();
    let told = error.to_string();
    assert!(told.contains("it took nothing of what was sent"), "{told}");
}

#[tokio::test]
async fn content_that_can_not_be_had_is_not_waited_for() {
    let server = Server::start([opened("/u/1"), reply("204", "", "")]).await;
    let upstreams = upstreams(at(&server), QUICK);
    let blob = BlobPush {
        name: &name(),
        digest: &digest(),
        size: 10,
    };
    let error = upstreams.push_blob(&quay(), blob, || None).await;
    let told = error.unwrap_err().to_string();
    assert!(told.contains("can't be read"), "{told}");
    assert_eq!(server.asked()[1], "delete /u/1");
}

#[tokio::test]
async fn a_token_is_fetched_for_pushing_and_mounts_name_their_source() {
    let server = Server::start([]).await;
    let challenge = format!(
        "www-authenticate: Bearer realm=\"{}/token\",service=\"s\"",
        server.url()
    );
    server.script([
        reply("401", &challenge, ""),
        reply("200", "", r#"{"token":"t"}"#),
        reply("201", "", ""),
    ]);
    let upstreams = upstreams(at(&server), QUICK);
    let (name, digest) = (name(), digest());
    let blob = BlobPush {
        name: &name,
        digest: &digest,
        size: 10,
    };
    let from = "acme/base".parse().unwrap();
    assert!(upstreams.mount_blob(&quay(), blob, &from).await.unwrap());
    let asked = server.asked();
    assert!(asked[0].contains("from=acme%2fbase"), "{asked:?}");
    assert_eq!(
        asked[1],
        "get /token?service=s&scope=repository%3aacme%2fapp%3apull%2cpush&scope=repository%3aacme%2fbase%3apull"
    );
    assert!(server.requests()[2].contains("authorization: bearer t"));
}

#[tokio::test]
async fn a_manifest_that_is_stored_otherwise_is_an_error() {
    let bytes = Bytes::from_static(b"{}");
    let (right, wrong) = (Digest::of(Algorithm::Sha256, &bytes), digest());
    for (found, pushed) in [(&right, true), (&wrong, false)] {
        let header = format!("docker-content-digest: {found}");
        let server = Server::start([reply("201", &header, "")]).await;
        let upstreams = upstreams(at(&server), QUICK);
        let reference = "v1".parse().unwrap();
        let told = upstreams
            .push_manifest(&quay(), &name(), &reference, (&right, "a/b", &bytes))
            .await;
        assert_eq!(told.is_ok(), pushed, "{told:?}");
        assert!(server.requests()[0].contains("content-type: a/b"));
    }
}
