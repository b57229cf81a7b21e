//! What is expected: a row for each fault, at each stage where it can be met.

use super::{
    body::body,
    replies::{gzipped, hang_up, header_bomb, limited, no_json, oversized, raw, redirect},
    table::{
        Cell, Fault, GONE, IMAGE, MANIFEST, MOVED, NEVER, NOTHING, ONCE, Place, Row, Stage, TAG,
        Time, always, refused, stale, whole,
    },
};
use crate::support::Reply;

pub(super) fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    token(&mut rows);
    for stage in [Stage::Head, Stage::Get, Stage::Blob] {
        answers(stage, &mut rows);
    }
    body(&mut rows);
    rows
}

/// How a fault is met, whatever it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    /// It is an answer; another would be the same.
    Believed,
    /// An error that may pass, from somebody who answers.
    Retried,
    /// The same, of what may come back if it is waited for.
    Outlasted,
    /// The same, after the second that it asks for each time.
    Heeded,
    Waited,
}

impl Met {
    fn timed(self, cell: Cell) -> Cell {
        match self {
            Self::Believed => cell,
            Self::Retried | Self::Outlasted => cell.time(Time::Retries),
            Self::Heeded => cell.time(Time::Retries).waits(4),
            Self::Waited => cell.time(Time::Budget),
        }
    }

    fn times(self, stage: Stage) -> (usize, usize) {
        match (self, stage) {
            (Self::Believed, _) => ONCE,
            (Self::Outlasted | Self::Heeded, Stage::Blob) => (9, 9),
            (Self::Retried | Self::Outlasted | Self::Heeded, _) => (5, 5),
            // How many fit is up to chance.
            (Self::Waited, _) => (2, 9),
        }
    }
}

type Usual = (&'static str, &'static str, Fault, u16, Met);

/// What may happen wherever something is asked of a registry or its token server.
fn usual() -> Vec<Usual> {
    use Met::{Believed, Heeded, Outlasted, Retried, Waited};
    use Reply::{LoginPage, Silent, Status};
    let at = Fault::At;
    vec![
        (
            "401 without a challenge",
            "it answered 401",
            always(Status(401)),
            404,
            Believed,
        ),
        ("403", "it answered 403", always(Status(403)), 404, Believed),
        (
            "429",
            "429, too many requests",
            always(Status(429)),
            503,
            Outlasted,
        ),
        (
            "429, `Retry-After: 1`",
            "retry after 1",
            always(limited(1)),
            503,
            Heeded,
        ),
        (
            "429, `Retry-After: 3600`",
            "retry after 3600",
            always(limited(3600)),
            503,
            Believed,
        ),
        ("500", "it answered 500", always(Status(500)), 502, Retried),
        ("503", "it answered 503", always(Status(503)), 502, Retried),
        (
            "accepts, and says nothing",
            "no answer within",
            always(Silent),
            504,
            Waited,
        ),
        (
            "closes before it answers",
            "broke before it answered",
            always(hang_up()),
            502,
            Outlasted,
        ),
        (
            "refuses connections",
            "nothing listens there",
            at(Place::Closed),
            502,
            Outlasted,
        ),
        (
            "a name that does not resolve",
            "can't be resolved",
            at(Place::Unresolvable),
            502,
            Outlasted,
        ),
        (
            "no TLS at an https address",
            "does not speak TLS",
            at(Place::NoTls),
            502,
            Outlasted,
        ),
        (
            "a certificate of an unknown authority",
            "does not trust",
            at(Place::Untrusted),
            502,
            Outlasted,
        ),
        (
            "a login page under 200",
            "text/html",
            always(LoginPage),
            502,
            Believed,
        ),
        (
            "`Content-Encoding: gzip`",
            "in the encoding",
            always(gzipped()),
            502,
            Believed,
        ),
        (
            "2000 header lines",
            "no HTTP that we can read",
            always(header_bomb()),
            502,
            Believed,
        ),
    ]
}

/// Faults that pass, of which nothing is told, and the seconds that they cost at least.
fn passing() -> [(&'static str, Reply, u64); 3] {
    [
        ("429, `Retry-After: 1`, once", limited(1), 1),
        ("500, once", Reply::Status(500), 0),
        ("closes before it answers, once", hang_up(), 0),
    ]
}

/// The registry wants a token, and none is to be had.
fn token(rows: &mut Vec<Row>) {
    let mut faults = usual();
    for (fault, told, ..) in &mut faults {
        // Without a log-in to show, all that counts is that the registry wants one.
        if *fault == "403" {
            *told = "it answered 401";
        }
        // A page is as good as any other text here.
        if *fault == "a login page under 200" || *fault == "`Content-Encoding: gzip`" {
            *told = "no JSON with a token";
        }
    }
    faults.extend([
        (
            "404",
            "it answered 404",
            always(Reply::Status(404)),
            502,
            Met::Believed,
        ),
        (
            "no JSON",
            "no JSON with a token",
            always(raw("200 OK", "welcome")),
            502,
            Met::Believed,
        ),
        (
            "JSON without a token",
            "neither token nor",
            always(raw("200 OK", "{}")),
            502,
            Met::Believed,
        ),
        (
            "endless",
            "larger than",
            always(Reply::Endless),
            502,
            Met::Believed,
        ),
        (
            "redirects",
            "redirects are not followed",
            always(redirect("/elsewhere")),
            502,
            Met::Believed,
        ),
    ]);
    for (fault, told, how, itself, met) in faults {
        let times = met.times(Stage::Token);
        let asked = match how {
            Fault::At(_) => NEVER,
            _ => times,
        };
        rows.push(Row {
            stage: Stage::Token,
            fault,
            told,
            how,
            cold: met.timed(refused(itself, NOTHING).get(times).token(asked)),
            stale: met.timed(stale().head(times).token(asked)),
        });
    }
    for (fault, told, challenge) in [
        (
            "a challenge that is none",
            "can't be read",
            "Bearer realm=\"half",
        ),
        (
            "a challenge without a realm",
            "names no realm",
            "Bearer service=\"us\"",
        ),
        (
            "a token server at a link-local address",
            "is not asked",
            "Bearer realm=\"https://169.254.169.254/token\"",
        ),
        (
            "a token server at a private address",
            "is not asked",
            "Bearer realm=\"https://10.0.0.1/token\"",
        ),
        (
            "a token server over plain HTTP, elsewhere",
            "is not asked",
            "Bearer realm=\"http://tokens.invalid/token\"",
        ),
    ] {
        rows.push(Row {
            stage: Stage::Token,
            fault,
            told,
            how: Fault::Challenge(challenge),
            cold: refused(502, NOTHING).get(ONCE),
            stale: stale().head(ONCE),
        });
    }
    for (fault, reply, waits) in passing() {
        rows.push(Row {
            stage: Stage::Token,
            fault,
            told: "",
            how: Fault::Replies(vec![reply]),
            cold: whole(MANIFEST).get((3, 3)).token((2, 2)).waits(waits),
            stale: whole(IMAGE).head((3, 3)).token((2, 2)).waits(waits),
        });
    }
}

/// The registry itself answers wrongly, or not at all.
fn answers(stage: Stage, rows: &mut Vec<Row>) {
    let mut faults = usual();
    faults.extend([
        (
            "redirects to itself",
            "in a circle",
            always(redirect("#again")),
            502,
            Met::Believed,
        ),
        (
            "redirects to a link-local address",
            "nobody may lead us",
            always(redirect("http://169.254.169.254/latest")),
            502,
            Met::Believed,
        ),
        (
            "the same, spelt otherwise",
            "nobody may lead us",
            always(redirect("http://[::ffff:169.254.169.254]/")),
            502,
            Met::Believed,
        ),
    ]);
    if stage == Stage::Get {
        let truncated = always(Reply::Truncated { after: 10 });
        faults.extend([
            (
                "another digest",
                "it sent content of digest",
                always(Reply::Corrupt),
                502,
                Met::Believed,
            ),
            (
                "less than `Content-Length` says",
                "it broke off",
                truncated,
                502,
                Met::Outlasted,
            ),
            (
                "more than 4 MiB",
                "larger than",
                always(oversized()),
                502,
                Met::Believed,
            ),
            (
                "endless",
                "larger than",
                always(Reply::Endless),
                502,
                Met::Believed,
            ),
            ("no JSON", "", always(no_json()), 502, Met::Believed),
        ]);
    }
    let kept = match stage {
        Stage::Blob => MANIFEST,
        _ => NOTHING,
    };
    if stage == Stage::Get {
        rows.push(Row {
            stage,
            fault: "says nothing, and the HEAD before was answered late",
            told: "no answer within",
            how: Fault::Late(vec![Reply::Silent; 100]),
            cold: refused(504, kept).get((2, 9)).time(Time::Budget),
            stale: stale().head((2, 2)).get((1, 9)).time(Time::Budget),
        });
    }
    for (fault, told, how, itself, met) in faults {
        let times = match how {
            Fault::At(_) => NEVER,
            _ => met.times(stage),
        };
        let once = match how {
            Fault::At(_) => NEVER,
            _ => ONCE,
        };
        let (cold, stale) = match stage {
            Stage::Head => (
                refused(itself, kept).head(times),
                met.timed(stale().head(times)),
            ),
            Stage::Get => (
                refused(itself, kept).get(times),
                met.timed(stale().head(once).get(times)),
            ),
            _ => (refused(itself, kept).get(times), Cell::warm()),
        };
        let cold = met.timed(cold);
        rows.push(Row {
            stage,
            fault,
            told,
            how,
            cold,
            stale,
        });
    }
    let (cold, stale) = match stage {
        Stage::Head => (refused(404, kept).head(ONCE), refused(404, GONE).head(ONCE)),
        Stage::Get => (
            refused(404, kept).get(ONCE),
            refused(404, IMAGE).head(ONCE).get(ONCE),
        ),
        _ => (refused(404, kept).get(ONCE), Cell::warm()),
    };
    let how = always(Reply::Status(404));
    rows.push(Row {
        stage,
        fault: "404",
        told: "",
        how,
        cold,
        stale,
    });
    for (fault, reply, waits) in passing() {
        let twice = (2, 2);
        let (cold, stale) = match stage {
            Stage::Head => (
                whole(TAG).head(twice),
                whole(IMAGE).head(twice).waits(waits),
            ),
            Stage::Get => (
                whole(MANIFEST).get(twice),
                whole(MOVED).head(ONCE).get(twice).waits(waits),
            ),
            _ => (whole(IMAGE).get(twice), Cell::warm()),
        };
        let how = Fault::Replies(vec![reply]);
        rows.push(Row {
            stage,
            fault,
            told: "",
            how,
            cold: cold.waits(waits),
            stale,
        });
    }
}
