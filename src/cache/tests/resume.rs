//! Bodies that break off: who is asked again, for what, how often, and what comes of it.

use super::*;

/// Where each GET of a blob began.
fn asked_from(upstream: &FakeUpstream, repository: &str, blob: &[u8]) -> Vec<usize> {
    let path = format!("GET {}", blob_path(repository, blob));
    let requests = upstream.requests();
    let of_blob = requests.iter().filter_map(|line| line.strip_prefix(&path));
    of_blob
        .map(|behind| match behind.strip_prefix(" from ") {
            Some(from) => from.parse().unwrap(),
            None => 0,
        })
        .collect()
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_where_it_ended() {
    let (fixture, blob) = (Fixture::new(), blob());
    let path = blob_path("a", &blob);
    let upstream = FakeUpstream::start([]);
    upstream.script(
        &path,
        [
            Reply::cut(&blob, 100_000),
            Reply::cut(&blob, 1),
            Reply::cut(&blob, 99_999),
            Reply::of(&blob),
        ],
    );
    let cache = cache(&fixture.store, &upstream);
    let got = soon(pull(&cache, "quay.io/a", &blob)).await.unwrap();
    assert!(got.unwrap() == blob);
    let asked = asked_from(&upstream, "a", &blob);
    assert_eq!(asked, [0, 100_000, 100_001, 200_000]);
    assert_eq!(visible(fixture.directory.path()), [digest_of(&blob)]);
    fixture.assert_freed();
}

#[tokio::test]
async fn neither_an_unknown_length_nor_an_ignored_range_is_in_the_way() {
    let blob = blob();
    let ignoring = |reply| Reply {
        ignores_range: true,
        ..reply
    };
    let chunked = |reply| Reply {
        chunked: true,
        ..reply
    };
    for (what, replies, expected) in [
        (
            "no length",
            [chunked(Reply::cut(&blob, 1000)), chunked(Reply::of(&blob))],
            None,
        ),
        (
            "no range",
            [Reply::cut(&blob, 1000), ignoring(Reply::of(&blob))],
            None,
        ),
        (
            "a length only in the manifest",
            [chunked(Reply::cut(&blob, 1000)), Reply::of(&blob)],
            Some(blob.len() as u64),
        ),
    ] {
        let fixture = Fixture::new();
        let upstream = FakeUpstream::start([]);
        upstream.script(&blob_path("a", &blob), replies);
        let cache = cache(&fixture.store, &upstream);
        let (of, digest) = (name("quay.io/a"), digest_of(&blob));
        let body = cache.blob(&of, &digest, expected).await;
        let body = body.unwrap().unwrap();
        let got = soon(rest(body.stream(None, 1 << 16))).await.unwrap();
        assert!(got == blob, "{what}");
        assert_eq!(asked_from(&upstream, "a", &blob), [0, 1000], "{what}");
        assert_eq!(visible(fixture.directory.path()), [digest_of(&blob)]);
    }
}

#[tokio::test]
async fn a_body_that_ends_before_the_size_that_is_known_is_broken_off() {
    // Without a length of its own it ends as if it were whole.
    let (fixture, blob) = (Fixture::new(), blob());
    let short = Reply {
        chunked: true,
        ..Reply::of(&blob[..5000])
    };
    let upstream = FakeUpstream::start([]);
    upstream.script(&blob_path("a", &blob), [short, Reply::of(&blob)]);
    let cache = cache(&fixture.store, &upstream);
    let size = Some(blob.len() as u64);
    let (of, digest) = (name("quay.io/a"), digest_of(&blob));
    let body = cache.blob(&of, &digest, size).await;
    let body = body.unwrap().unwrap();
    let got = soon(rest(body.stream(None, 1 << 16))).await.unwrap();
    assert!(got == blob);
    assert_eq!(asked_from(&upstream, "a", &blob), [0, 5000]);
}

#[tokio::test]
async fn content_that_changes_on_the_way_is_never_received_to_its_end() {
    let blob = blob();
    let mut other = blob.clone();
    other[200_000] ^= 1;
    let longer = [&blob[..], b"more"].concat();
    for (what, changed) in [("bytes", &other), ("length", &longer)] {
        let fixture = Fixture::new();
        let upstream = FakeUpstream::start([]);
        upstream.script(
            &blob_path("a", &blob),
            [
                Reply::cut(&blob, 1000),
                Reply::of(changed),
                Reply::of(&blob),
            ],
        );
        let cache = cache(&fixture.store, &upstream);
        let got = soon(pull(&cache, "quay.io/a", &blob)).await.unwrap();
        assert!(got.is_err(), "{what}");
        assert!(visible(fixture.directory.path()).is_empty(), "{what}");
        fixture.assert_freed();
        // Nothing of it sticks.
        let got = soon(pull(&cache, "quay.io/a", &blob)).await.unwrap();
        assert!(got.unwrap() == blob, "{what}");
    }
}

#[tokio::test]
async fn five_tries_in_a_row_without_a_byte_are_the_last() {
    let (fixture, blob) = (Fixture::new(), blob());
    let nothing = || Reply::cut(&blob, 0);
    let mut replies = vec![Reply::cut(&blob, 10)];
    replies.extend((0..4).map(|_| nothing()));
    // One byte is enough to begin counting anew.
    replies.push(Reply::cut(&blob, 1));
    replies.extend((0..5).map(|_| nothing()));
    let tries = replies.len();
    replies.push(Reply::of(&blob));
    let upstream = FakeUpstream::start([]);
    upstream.script(&blob_path("a", &blob), replies);
    let cache = cache(&fixture.store, &upstream);
    let got = soon(pull(&cache, "quay.io/a", &blob)).await.unwrap();
    let error = got.unwrap_err().to_string();
    assert!(error.contains("quay.io"), "{error}");
    let asked = asked_from(&upstream, "a", &blob);
    assert_eq!(asked.len(), tries, "{asked:?}");
    assert_eq!(asked[4..7], [10, 10, 11]);
    fixture.assert_freed();
    let got = soon(pull(&cache, "quay.io/a", &blob)).await.unwrap();
    assert!(got.unwrap() == blob);
}

#[tokio::test]
async fn an_upstream_that_has_it_no_more_is_not_asked_for_long() {
    for status in [404, 401, 416] {
        let (fixture, blob) = (Fixture::new(), blob());
        let upstream = FakeUpstream::start([]);
        upstream.script(
            &blob_path("a", &blob),
            [Reply::cut(&blob, 10), Reply::failure(status)],
        );
        let cache = cache(&fixture.store, &upstream);
        let got = soon(pull(&cache, "quay.io/a", &blob)).await.unwrap();
        assert!(got.is_err());
        assert_eq!(asked_from(&upstream, "a", &blob), [0, 10], "{status}");
    }
}

#[tokio::test]
async fn a_joiners_upstream_takes_over_where_the_first_one_gives_out() {
    let (fixture, blob, gate) = (Fixture::new(), blob(), Gate::default());
    let cut = Reply {
        cut_at: Some(1000),
        ..Reply::held(&blob, 1000, &gate)
    };
    let upstream = FakeUpstream::start([(blob_path("b", &blob), Reply::of(&blob))]);
    upstream.script(&blob_path("a", &blob), [cut, Reply::failure(404)]);
    let cache = cache(&fixture.store, &upstream);
    let digest = digest_of(&blob);
    let first = begin(&cache, "quay.io/a", &digest).await.unwrap();
    // One that has no such blob lends nothing.
    assert!(begin(&cache, "quay.io/nosy", &digest).await.is_none());
    let joiner = begin(&cache, "quay.io/b", &digest).await.unwrap();
    gate.open();
    for body in [first, joiner] {
        assert!(soon(rest(body.stream(None, 1 << 16))).await.unwrap() == blob);
    }
    assert_eq!(asked_from(&upstream, "a", &blob), [0, 1000]);
    assert_eq!(asked_from(&upstream, "b", &blob), [1000]);
    assert_eq!(asked_from(&upstream, "nosy", &blob), [0_usize; 0]);
    assert_eq!(visible(fixture.directory.path()), [digest]);
}

#[tokio::test]
async fn a_joiners_upstream_does_for_a_known_member_from_the_start() {
    let (fixture, blob) = (Fixture::new(), blob());
    let upstream = FakeUpstream::start([
        (blob_path("a", &blob), Reply::failure(500)),
        (blob_path("b", &blob), Reply::of(&blob)),
    ]);
    let cache = cache(&fixture.store, &upstream);
    let (one, other, digest) = (name("quay.io/a"), name("quay.io/b"), digest_of(&blob));
    let size = Some(blob.len() as u64);
    let (one, other) = soon(async {
        tokio::join!(
            cache.blob(&one, &digest, size),
            cache.blob(&other, &digest, size)
        )
    })
    .await;
    for body in [one, other] {
        let body = body.unwrap().unwrap();
        assert!(soon(rest(body.stream(None, 1 << 16))).await.unwrap() == blob);
    }
    assert_eq!(asked_from(&upstream, "b", &blob), [0]);
}

#[tokio::test]
async fn a_joiners_upstream_does_not_speak_for_a_name_that_may_have_no_such_blob() {
    let (fixture, blob) = (Fixture::new(), blob());
    let upstream = FakeUpstream::start([
        (blob_path("a", &blob), Reply::failure(500)),
        (blob_path("b", &blob), Reply::of(&blob)),
    ]);
    let cache = cache(&fixture.store, &upstream);
    let (one, other, digest) = (name("quay.io/a"), name("quay.io/b"), digest_of(&blob));
    let (one, other) = soon(async {
        tokio::join!(
            cache.blob(&one, &digest, None),
            cache.blob(&other, &digest, Some(blob.len() as u64))
        )
    })
    .await;
    assert!(one.is_err());
    let other = other.unwrap().unwrap().stream(None, 1 << 16);
    assert!(soon(rest(other)).await.unwrap() == blob);
}

#[tokio::test]
async fn what_is_kept_nowhere_goes_on_too() {
    let blob = blob();
    // From the start, and once the disk gave out in the middle.
    for op in [Op::CreatePart, Op::WriteAt] {
        let (fixture, gate) = (Fixture::new(), Gate::default());
        let upstream = FakeUpstream::start([]);
        let mut replies = vec![
            Reply::cut(&blob, 100_000),
            Reply::cut(&blob, 0),
            Reply::of(&blob),
        ];
        if op == Op::WriteAt {
            replies.insert(0, Reply::held(&blob, 50_000, &gate));
        } else {
            fixture.faults.fail_from(op, 0, io::ErrorKind::StorageFull);
        }
        upstream.script(&blob_path("a", &blob), replies);
        let cache = cache(&fixture.store, &upstream);
        let body = begin(&cache, "quay.io/a", &digest_of(&blob)).await.unwrap();
        if op == Op::WriteAt {
            fixture.faults.forget();
            fixture.faults.fail_from(op, 0, io::ErrorKind::StorageFull);
            gate.open();
        }
        let got = soon(rest(body.stream(None, 1 << 16))).await.unwrap();
        assert!(got == blob, "{op:?}");
        assert!(visible(fixture.directory.path()).is_empty());
        fixture.assert_freed();
        assert!(upstream.count("GET") >= 3, "{:?}", upstream.requests());
    }
}
