//! Parts of a blob that is still being fetched, and its bytes under another digest.

use std::ops::Range;

use super::*;

async fn part(cache: &Cache, digest: &Digest, range: Range<u64>) -> Pieces {
    let body = begin(cache, "quay.io/a", digest).await.unwrap();
    body.stream(Some(range), 1 << 12)
}

#[tokio::test]
async fn a_range_is_had_as_soon_as_its_bytes_are_here_and_the_last_byte_only_when_they_are_verified()
 {
    let blob = blob();
    let (digest, end) = (digest_of(&blob), blob.len() as u64);
    let mut wrong = blob.clone();
    wrong[200_000] ^= 1;
    for (sent, right) in [(&blob, true), (&wrong, false)] {
        let (fixture, gate) = (Fixture::new(), Gate::default());
        let upstream =
            FakeUpstream::start([(blob_path("a", &blob), Reply::held(sent, 100_000, &gate))]);
        let cache = cache(&fixture.store, &upstream);
        // It needs nothing of what is still to come.
        let inside = part(&cache, &digest, 10..90_000).await;
        assert!(soon(rest(inside)).await.unwrap() == blob[10..90_000]);
        let at_the_end = [end - 1..end, 150_000..end, 0..end];
        let mut waiting = Vec::new();
        for range in at_the_end.clone() {
            waiting.push(part(&cache, &digest, range).await);
        }
        gate.open();
        for (range, pieces) in at_the_end.into_iter().zip(waiting) {
            let got = soon(rest(pieces)).await;
            if right {
                let wanted = &blob[range.start as usize..range.end as usize];
                assert!(got.unwrap() == wanted, "{range:?}");
            } else {
                assert!(got.is_err(), "{range:?} of the wrong bytes");
            }
        }
        let kept = visible(fixture.directory.path());
        assert_eq!(kept, Vec::from_iter(right.then(|| digest.clone())));
        assert_eq!(upstream.count("GET"), 1, "{:?}", upstream.requests());
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_keeps_its_last_byte_until_it_is_verified() {
    let (fixture, blob) = (Fixture::new(), blob());
    let mut wrong = blob.clone();
    wrong[5] ^= 1;
    let chunked = Reply {
        chunked: true,
        ..Reply::of(&wrong)
    };
    let upstream = FakeUpstream::start([(blob_path("a", &blob), chunked)]);
    let cache = cache(&fixture.store, &upstream);
    let body = begin(&cache, "quay.io/a", &digest_of(&blob)).await.unwrap();
    assert_eq!(body.size(), None);
    let mut pieces = body.stream(None, 1 << 16);
    let mut got = 0;
    let error = soon(async {
        use futures_util::StreamExt as _;
        loop {
            match pieces.next().await.unwrap() {
                Ok(piece) => got += piece.len(),
                Err(error) => break error,
            }
        }
    })
    .await;
    assert!(got < blob.len(), "{error}");
    assert!(visible(fixture.directory.path()).is_empty());
}

#[tokio::test]
async fn whoever_wants_the_middle_hears_of_a_failure_before_the_first_byte() {
    let (fixture, blob, gate) = (Fixture::new(), blob(), Gate::default());
    let cut = Reply {
        cut_at: Some(1000),
        ..Reply::held(&blob, 1000, &gate)
    };
    let upstream = FakeUpstream::start([]);
    upstream.script(&blob_path("a", &blob), [cut, Reply::failure(404)]);
    let cache = cache(&fixture.store, &upstream);
    let digest = digest_of(&blob);
    let begun = begin(&cache, "quay.io/a", &digest).await;
    let mut body = begun.unwrap();
    soon(body.await_byte(500, SOON)).await.unwrap();
    // It may still come: whoever waits long enough goes on without knowing.
    let short = Duration::from_millis(1);
    body.await_byte(5000, short).await.unwrap();
    gate.open();
    let error = soon(body.await_byte(5000, SOON)).await.unwrap_err();
    assert!(error.to_string().contains("quay.io"), "{error}");
}

#[tokio::test]
async fn the_same_bytes_under_another_algorithm_are_another_content() {
    let (fixture, blob) = (Fixture::new(), blob());
    let sha512 = Digest::of(Algorithm::Sha512, &blob);
    let upstream = FakeUpstream::start([
        (blob_path("a", &blob), Reply::of(&blob)),
        (format!("a/blobs/{sha512}"), Reply::of(&blob)),
    ]);
    let cache = cache(&fixture.store, &upstream);
    for _ in 0..2 {
        for digest in [&digest_of(&blob), &sha512] {
            let size = Some(blob.len() as u64);
            let body = cache.blob(&name("quay.io/a"), digest, size).await;
            let body = body.unwrap().unwrap();
            assert!(soon(rest(body.stream(None, 1 << 16))).await.unwrap() == blob);
        }
    }
    assert_eq!(upstream.count("GET"), 2, "{:?}", upstream.requests());
    let mut both = [digest_of(&blob), sha512];
    both.sort();
    let mut found = visible(fixture.directory.path());
    found.sort();
    assert_eq!(found, both);
}
