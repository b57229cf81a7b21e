//! `receive`: order, batches, the tail, and what is left of a body that broke off.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::mpsc as pieces;

use super::{Algorithm, Durability, name, sha256};
use crate::storage::{
    Batches, Error, Interrupted, Op, Received, Sink, Store, receive,
    testing::{self, faulty_store, staged},
};

const BATCH: usize = 1 << 20;

/// Long enough for a loaded machine; nothing that passes waits for it.
const SOON: Duration = Duration::from_secs(20);

/// Keeps what it is given, batch by batch.
#[derive(Default)]
struct Recorder {
    batches: Vec<Vec<u8>>,
    /// Before each write: tells that it has begun, and waits for the word to go on.
    gate: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>,
    fails_at: Option<usize>,
    /// Goes with it.
    _alive: Option<Arc<()>>,
}

impl Sink for Recorder {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some((begun, go_on)) = &self.gate {
            begun.send(()).unwrap();
            go_on.recv_timeout(SOON).unwrap();
        }
        if self.fails_at == Some(self.batches.len()) {
            return Err(Error::Io {
                op: Op::Stage,
                key: "uploads/x".to_owned(),
                source: io::ErrorKind::StorageFull.into(),
            });
        }
        self.batches.push(bytes.to_vec());
        Ok(())
    }
}

impl Recorder {
    fn lengths(&self) -> Vec<usize> {
        self.batches.iter().map(Vec::len).collect()
    }
}

/// Bytes that differ from their neighbours, so that no batch can take another's place.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 251 + n % 251) as u8).collect()
}

fn body(
    bytes: &[u8],
    piece: usize,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin + use<> {
    let pieces: Vec<_> = bytes
        .chunks(piece)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    stream::iter(pieces)
}

/// A body whose pieces come when the test sends them.
fn sent() -> (
    pieces::UnboundedSender<Result<Bytes, &'static str>>,
    impl Stream<Item = Result<Bytes, &'static str>> + Unpin,
) {
    let (sender, mut receiver) = pieces::unbounded_channel();
    (sender, stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}

fn unwrapped<S, E>(received: Result<Received<S>, Interrupted<S, E>>) -> Received<S> {
    received.ok().unwrap()
}

#[tokio::test]
async fn all_bytes_come_in_order_in_full_batches_and_a_tail() {
    let bytes = noise(5 * BATCH + 12_345);
    for piece in [1 << 10, 65_536, 100_003, 3 << 20] {
        let recorder = Recorder::default();
        let received = receive(recorder, body(&bytes, piece), Batches::Full, |_| {}).await;
        let Received { sink, tail } = unwrapped(received);
        let mut got = sink.batches.concat();
        got.extend_from_slice(&tail);
        assert!(got == bytes, "pieces of {piece}");
        for length in sink.lengths() {
            assert!(
                length >= BATCH,
                "a batch of {length} from pieces of {piece}"
            );
            assert!(length < BATCH + piece, "{length} from pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn a_small_body_is_all_tail() {
    for batches in [Batches::Full, Batches::Eager] {
        let none = receive(Recorder::default(), body(b"", 1), batches, |_| {}).await;
        let Received { sink, tail } = unwrapped(none);
        assert!(sink.batches.is_empty() && tail.is_empty());
    }
    let small = receive(
        Recorder::default(),
        body(b"small", 2),
        Batches::Full,
        |_| {},
    );
    let Received { sink, tail } = unwrapped(small.await);
    assert!(sink.batches.is_empty());
    assert_eq!(tail, b"small");
}

#[tokio::test]
async fn an_eager_sink_gets_what_there_is_without_waiting_for_more() {
    let (sender, body) = sent();
    let (written, mut seen) = pieces::unbounded_channel();
    let received = receive(Recorder::default(), body, Batches::Eager, move |sink| {
        written.send(sink.batches.concat()).unwrap();
    });
    let feeding = async {
        sender.send(Ok(Bytes::from_static(b"first"))).unwrap();
        assert_eq!(seen.recv().await.unwrap(), b"first");
        sender.send(Ok(Bytes::from_static(b" second"))).unwrap();
        assert_eq!(seen.recv().await.unwrap(), b"first second");
        drop(sender);
    };
    let both = async { tokio::join!(received, feeding) };
    let (received, ()) = tokio::time::timeout(SOON, both).await.unwrap();
    let Received { sink, tail } = unwrapped(received);
    assert_eq!([sink.batches.concat(), tail].concat(), b"first second");
}

#[tokio::test]
async fn bytes_are_gathered_while_the_sink_is_busy() {
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let (sender, body) = sent();
    let recorder = Recorder {
        gate: Some((begun, may_go_on)),
        ..Recorder::default()
    };
    let receiving = tokio::spawn(receive(recorder, body, Batches::Eager, |_| {}));
    sender.send(Ok(Bytes::from_static(b"0"))).unwrap();
    tokio::task::spawn_blocking(move || has_begun.recv_timeout(SOON).map(|()| has_begun))
        .await
        .unwrap()
        .unwrap();
    for piece in ["1", "2", "3"] {
        sender
            .send(Ok(Bytes::from_static(piece.as_bytes())))
            .unwrap();
    }
    drop(sender);
    // They are taken while the first is being written: `begun` has nobody to tell any more, so a second write would fail.
    go_on.send(()).unwrap();
    let Received { sink, tail } = unwrapped(receiving.await.unwrap());
    assert_eq!(sink.batches, [b"0"]);
    assert_eq!(tail, b"123");
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_everything_before_it_in_the_sink() {
    for batches in [Batches::Full, Batches::Eager] {
        let bytes = noise(2 * BATCH + 777);
        let mut pieces: Vec<Result<Bytes, &str>> = bytes
            .chunks(10_000)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        pieces.push(Err("reset by peer"));
        pieces.push(Ok(Bytes::from_static(b"never asked for")));
        let mut told = 0;
        let received = receive(Recorder::default(), stream::iter(pieces), batches, |sink| {
            told = sink.batches.concat().len()
        });
        let Err(Interrupted::Body { sink, error }) = received.await else {
            panic!("the body was taken for whole");
        };
        assert_eq!(error, "reset by peer");
        assert!(sink.batches.concat() == bytes, "{batches:?}");
        assert_eq!(told, bytes.len(), "{batches:?}");
    }
}

#[tokio::test]
async fn a_sink_that_fails_ends_the_body() {
    let recorder = Recorder {
        fails_at: Some(1),
        ..Recorder::default()
    };
    let (sender, body) = sent();
    let piece = Bytes::from(noise(BATCH));
    for _ in 0..3 {
        sender.send(Ok(piece.clone())).unwrap();
    }
    // The client goes on sending; nobody waits for it.
    let received = receive(recorder, body, Batches::Full, |_| {});
    let received = tokio::time::timeout(SOON, received).await.unwrap();
    let Err(Interrupted::Sink { sink, error }) = received else {
        panic!("the failure went unnoticed");
    };
    assert!(error.is_no_room());
    assert_eq!(sink.lengths(), [BATCH]);
    drop(sender);
}

#[tokio::test]
async fn a_sink_that_fails_at_the_end_of_a_broken_body_is_told_of() {
    let recorder = Recorder {
        fails_at: Some(0),
        ..Recorder::default()
    };
    let pieces = [Ok(Bytes::from_static(b"x")), Err("broken")];
    let received = receive(recorder, stream::iter(pieces), Batches::Full, |_| {}).await;
    assert!(matches!(received, Err(Interrupted::Sink { .. })));
}

#[tokio::test]
async fn a_receiver_that_goes_away_lets_the_write_end_and_then_drops_the_sink() {
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let alive = Arc::new(());
    let watched = Arc::downgrade(&alive);
    let recorder = Recorder {
        gate: Some((begun, may_go_on)),
        _alive: Some(alive),
        ..Recorder::default()
    };
    let (sender, body) = sent();
    let receiving = tokio::spawn(receive(recorder, body, Batches::Eager, |_| {}));
    sender.send(Ok(Bytes::from_static(b"x"))).unwrap();
    let has_begun =
        tokio::task::spawn_blocking(move || has_begun.recv_timeout(SOON).map(|()| has_begun));
    let has_begun = has_begun.await.unwrap().unwrap();
    receiving.abort();
    assert!(receiving.await.err().unwrap().is_cancelled());
    assert!(watched.upgrade().is_some(), "the write still has it");
    go_on.send(()).unwrap();
    // Its sender goes with the sink.
    let gone = tokio::task::spawn_blocking(move || has_begun.recv_timeout(SOON));
    assert_eq!(
        gone.await.unwrap(),
        Err(mpsc::RecvTimeoutError::Disconnected)
    );
}

#[tokio::test]
async fn a_chunk_that_breaks_off_in_mid_write_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Durability::Job).unwrap();
    let id = store
        .start_upload(name(), Algorithm::Sha256, usize::MAX)
        .unwrap()
        .unwrap();
    let chunk = store.take_upload(id).unwrap();
    let pieces = [Ok(Bytes::from(noise(BATCH + 1))), Err("gone")];
    let received = receive(chunk, stream::iter(pieces), Batches::Full, |_| {}).await;
    let Err(Interrupted::Body { sink, .. }) = received else {
        panic!("the body was taken for whole");
    };
    assert_eq!(sink.offset(), BATCH as u64 + 1);
    drop(sink);
    assert_eq!(store.upload_status(id).unwrap().offset, 0);

    let mut chunk = store.take_upload(id).unwrap();
    chunk.write(b"anew").unwrap();
    let verified = chunk.finish().verify(&sha256(b"anew")).unwrap();
    store.commit(verified.ok().unwrap()).unwrap();
}

#[tokio::test]
async fn a_full_disk_in_mid_body_is_told_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let (store, faults) = faulty_store(directory.path());
    faults.fail_from(testing::Op::WriteAt, 1, io::ErrorKind::StorageFull);
    let staging = store.stage(Algorithm::Sha256).unwrap();
    let received = receive(
        staging,
        body(&noise(4 * BATCH), BATCH),
        Batches::Full,
        |_| {},
    );
    let Err(Interrupted::Sink { sink, error }) = received.await else {
        panic!("the failure went unnoticed");
    };
    assert!(error.is_no_room());
    drop(sink);
    assert!(staged(directory.path()).is_empty());
}
