//! What is expected once a blob's headers are through to the client, which then can be told of a fault in one way only.

use super::{
    replies::{grown, raw},
    table::{
        Cell, Fault, IMAGE, LAYER, ONCE, Row, Stage, Time, always, cut, cut_or_refused, then, whole,
    },
};
use crate::support::Reply;

/// The client has its 200 and half of the bytes.
pub(super) fn body(rows: &mut Vec<Row>) {
    use Reply::{Corrupt, Endless, IgnoresRange, Silent, Stalled, Status, Truncated};
    let half = || Truncated { after: LAYER / 2 };
    let stalled = || Stalled { after: LAYER / 2 };
    let nothing = || Truncated { after: 0 };
    let short = raw(
        "200 OK\r\nContent-Type: application/octet-stream",
        "0123456789",
    );
    let (at_once, retries, budget) = (Time::AtOnce, Time::Retries, Time::Budget);
    let mut row = |fault, told, how, cell: Cell, times, time| {
        rows.push(Row {
            stage: Stage::Body,
            fault,
            told,
            how,
            cold: cell.get(times).time(time),
            stale: Cell::warm(),
        });
    };
    let first = |first: Reply| Fault::Replies(vec![first]);
    row(
        "breaks off, once",
        "",
        first(half()),
        whole(IMAGE),
        (2, 2),
        at_once,
    );
    row(
        "breaks off, then ignores `Range`",
        "",
        then(half(), IgnoresRange),
        whole(IMAGE),
        (2, 2),
        at_once,
    );
    row(
        "breaks off, then never sends a byte",
        "it broke off",
        then(half(), nothing()),
        cut(),
        (6, 6),
        retries,
    );
    row(
        "breaks off, then 500",
        "it answered 500",
        then(half(), Status(500)),
        cut(),
        (6, 26),
        budget,
    );
    row(
        "breaks off, then 404",
        "it has the blob no more",
        then(half(), Status(404)),
        cut_or_refused(),
        (2, 2),
        at_once,
    );
    row(
        "breaks off, then says nothing",
        "",
        then(half(), Silent),
        cut(),
        (2, 26),
        budget,
    );
    row(
        "stalls, once",
        "",
        first(stalled()),
        whole(IMAGE),
        (2, 2),
        budget,
    );
    row(
        "stalls, then never sends a byte",
        "it sent nothing for",
        then(stalled(), Stalled { after: 0 }),
        cut(),
        (2, 26),
        budget,
    );
    row(
        "breaks off, then goes on with other content",
        "it sent content of digest",
        then(half(), Corrupt),
        cut_or_refused(),
        (2, 2),
        at_once,
    );
    row(
        "breaks off, then has another length",
        "its content has changed",
        then(half(), grown(LAYER / 2, LAYER)),
        cut_or_refused(),
        (2, 2),
        at_once,
    );
    row(
        "another digest",
        "it sent content of digest",
        always(Corrupt),
        cut_or_refused(),
        ONCE,
        at_once,
    );
    row(
        "another length",
        "it sent content of digest",
        always(short),
        cut_or_refused(),
        ONCE,
        at_once,
    );
    row(
        "endless",
        "more than the blob's size",
        always(Endless),
        cut_or_refused(),
        ONCE,
        at_once,
    );
}
