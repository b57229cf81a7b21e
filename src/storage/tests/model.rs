//! Random sequences of what clients do to upload sessions, against a model that is a map of byte strings.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{Algorithm, Digest, Durability, name};
use crate::{
    storage::{
        NotTaken, Store,
        testing::{staged, visible},
    },
    types::UploadId,
};

#[derive(Clone, Debug)]
enum Step {
    Start(Algorithm),
    /// A chunk of several writes, kept or not.
    Append {
        session: Index,
        pieces: Vec<Vec<u8>>,
        kept: bool,
    },
    Finish {
        session: Index,
        pieces: Vec<Vec<u8>>,
        algorithm: Algorithm,
        right: bool,
    },
    Cancel {
        session: Index,
        /// While a chunk is under way.
        busy: bool,
    },
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)]
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    // Few letters, so that sessions often come to the same content.
    vec(vec(0..3_u8, 0..6), 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let session = any::<Index>;
    prop_oneof![
        2 => algorithm().prop_map(Step::Start),
        4 => (session(), pieces(), any::<bool>())
            .prop_map(|(session, pieces, kept)| Step::Append { session, pieces, kept }),
        2 => (session(), pieces(), algorithm(), prop::bool::weighted(0.8))
            .prop_map(|(session, pieces, algorithm, right)| Step::Finish {
                session,
                pieces,
                algorithm,
                right,
            }),
        1 => (session(), any::<bool>()).prop_map(|(session, busy)| Step::Cancel { session, busy }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn sessions_are_what_a_map_of_byte_strings_is(steps in vec(step(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Durability::Job).unwrap();
        let mut sessions: BTreeMap<UploadId, Vec<u8>> = BTreeMap::new();
        let mut gone: BTreeSet<UploadId> = BTreeSet::new();
        let mut contents: BTreeSet<Digest> = BTreeSet::new();
        for step in steps {
            let ids: Vec<UploadId> = sessions.keys().copied().collect();
            match step {
                Step::Start(algorithm) => {
                    let id = store.start_upload(name(), algorithm, usize::MAX).unwrap().unwrap();
                    sessions.insert(id, Vec::new());
                }
                _ if ids.is_empty() => {}
                Step::Append { session, pieces, kept } => {
                    let id = *session.get(&ids);
                    let held = sessions.get_mut(&id).unwrap();
                    let mut chunk = store.take_upload(id).unwrap();
                    let bytes = pieces.concat();
                    for piece in &pieces {
                        chunk.write(piece).unwrap();
                    }
                    let end = (held.len() + bytes.len()) as u64;
                    prop_assert_eq!(chunk.offset(), end);
                    let busy = NotTaken::Busy { offset: held.len() as u64 };
                    prop_assert_eq!(store.take_upload(id).err(), Some(busy));
                    if kept {
                        prop_assert_eq!(chunk.keep(), end);
                        held.extend(bytes);
                    }
                }
                Step::Finish { session, pieces, algorithm, right } => {
                    let id = *session.get(&ids);
                    let mut held = sessions.remove(&id).unwrap();
                    gone.insert(id);
                    let mut chunk = store.take_upload(id).unwrap();
                    for piece in &pieces {
                        chunk.write(piece).unwrap();
                    }
                    held.extend(pieces.concat());
                    let found = Digest::of(algorithm, &held);
                    if right {
                        let verified = chunk.finish().verify(&found).unwrap();
                        store.commit(verified.ok().unwrap()).unwrap();
                        contents.insert(found);
                    } else {
                        held.push(9);
                        let wrong = Digest::of(algorithm, &held);
                        let refused = chunk.finish().verify(&wrong).unwrap();
                        prop_assert_eq!(refused.err(), Some(found));
                    }
                }
                Step::Cancel { session, busy } => {
                    let id = *session.get(&ids);
                    sessions.remove(&id);
                    gone.insert(id);
                    let chunk = busy.then(|| store.take_upload(id).unwrap());
                    prop_assert!(store.cancel_upload(id));
                    drop(chunk);
                }
            }
            for (id, held) in &sessions {
                let status = store.upload_status(*id).unwrap();
                prop_assert_eq!(status.offset, held.len() as u64);
            }
            for id in &gone {
                prop_assert_eq!(store.upload_status(*id), None);
                prop_assert_eq!(store.take_upload(*id).err(), Some(NotTaken::Unknown));
            }
            let expected: BTreeSet<String> = sessions.keys().map(UploadId::to_string).collect();
            let found: BTreeSet<String> = staged(directory.path()).into_iter().collect();
            prop_assert_eq!(found, expected);
            let visible: BTreeSet<Digest> = visible(directory.path()).into_iter().collect();
            prop_assert_eq!(&visible, &contents);
        }
    }
}
