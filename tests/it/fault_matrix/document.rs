//! The table as a document for people.

use super::table::{Cell, Client, Row, Stage, Time};

/// All of `docs/failure-behaviour.md`.
pub(super) fn document(rows: &[Row]) -> String {
    let mut text = OPENING.to_owned();
    for (stage, heading) in [
        (Stage::Token, TOKEN),
        (Stage::Head, HEAD),
        (Stage::Get, GET),
        (Stage::Blob, BLOB),
        (Stage::Body, BODY),
    ] {
        text.push_str(heading);
        text.push_str(
            "\n| The upstream | What is told | Cold | Warm | Stale |\n|---|---|---|---|---|\n",
        );
        for row in rows.iter().filter(|row| row.stage == stage) {
            let told = match row.told {
                "" => String::new(),
                told => format!("“{told}”"),
            };
            let [cold, warm, stale] = [&row.cold, &Cell::warm(), &row.stale].map(words);
            let fault = row.fault;
            text.push_str(&format!(
                "| {fault} | {told} | {cold} | {warm} | {stale} |\n"
            ));
        }
    }
    text
}

/// `**404** (502), after retries; GET ×5; keeps nothing`
fn words(cell: &Cell) -> String {
    let client = match cell.client {
        Client::Whole => "**200**".to_owned(),
        Client::Stale => "**200**, `Warning`".to_owned(),
        Client::Cut => "**200**, cut off".to_owned(),
        Client::CutOrRefused => "**200**, cut off, or **404** (502)".to_owned(),
        Client::Refused { mirror, itself } if mirror == itself => format!("**{mirror}**"),
        Client::Refused { mirror, itself } => format!("**{mirror}** ({itself})"),
    };
    let asked = [
        ("HEAD", cell.asked.head),
        ("GET", cell.asked.get),
        ("token", cell.asked.token),
    ]
    .map(|(what, times)| match times {
        (_, 0) => String::new(),
        (1, 1) => format!("; {what}"),
        (least, most) if least == most => format!("; {what} ×{least}"),
        (least, most) => format!("; {what} ×{least}–{most}"),
    })
    .concat();
    match (cell.time, cell.client) {
        (Time::AtOnce, Client::Whole) if asked.is_empty() => format!("{client}, not asked"),
        (time, _) => {
            let time = match time {
                Time::AtOnce => "at once",
                Time::Retries => "after retries",
                Time::Budget => "within 25 s",
            };
            format!("{client}, {time}{asked}; keeps {}", cell.kept)
        }
    }
}

const OPENING: &str = "\
# When an upstream fails

A job went red at three in the morning, and a pull through standin is in its log. The message of the error names the registry and
what it did, whatever the status; so do the `Warning` header of an answer that was made up for, and standin's own log. Look for
those words below. What it comes to:

| The client got | It means | To do |
|---|---|---|
| 200 with `Warning: 299 - \"stale: …\"` | The registry failed, and the tag is served as it was last known. | Nothing; the job can go on. |
| 404 with a cause in its message | The registry failed, and standin does not have it. Whoever has standin as a mirror goes on to the registry itself. | By the cause, below. |
| 502, 503, 504 | The same, told to whoever believes that standin is the registry. | By the cause, below. |
| a plain 404, or one that tells 401 or 403 | There is no such image, or it needs a log-in. | Check the name; [log in](credentials.md). |
| a body that breaks off | The rest of a blob can't be had, or it is not what it should be. Nothing of it is kept. | Pull again; if the digest was wrong, look for a proxy in between. |

| The cause | Whose it is | To do |
|---|---|---|
| “429, too many requests” | the registry's allowance for your address | [log in](credentials.md), name a mirror, or lower `requests-per-second` ([upstreams](upstreams.md)) |
| “it answered 5…”, “no answer within”, “broke before it answered”, “it broke off”, “it sent nothing for” | the registry, or the line to it | wait; look at its status page; what is cached is served meanwhile |
| “nothing listens there”, “can't be resolved” | the network of this machine, or a wrong `url` | check the name and the address; with `--offline` nothing is asked in vain |
| “does not speak TLS”, “does not trust” | certificates | `http://` for plain HTTP, or the registry's `ca` |
| “text/html”, “in the encoding”, “no JSON”, “which is no manifest” | a portal or proxy that answers in the registry's place | log in to it, or go around it |
| “it sent content of digest”, “its content has changed”, “more than the blob's size” | a broken cache in between, or an attack | find out who changes bytes; none of it was kept |
| “nobody may lead us”, “is not asked”, “in a circle” | a registry that is set up wrongly, or hostile | `auth-realm`, if the token server is right ([upstreams](upstreams.md)) |

The tables below are what the tests measure (`cargo test --test it fault_matrix`), a cell at a time:

- **Cold**: standin has nothing that answers; of a blob, only the manifest that names it. The status in parentheses is for clients
  that believe standin to be the registry ([names](names.md), rule 2), the other for all others.
- **Warm**: all is here, and the tag was asked for within `tag-ttl`. **Stale**: all is here, and the tag is older than that. What is
  called by its digest is never stale.
- **At once** is less than 3 s, **after retries** less than 12 s, **within 25 s** what it says, each from the request to the end of the
  answer; in the middle of a blob, from its last byte. “Not asked” is at once, too.
- HEAD, GET and token are the requests that the upstream got for it, where it could get any.
- “Keeps” is what is in standin's data of that image afterwards: its tag, its manifest, the blob in question.
- Codes: 404 is `MANIFEST_UNKNOWN` or `BLOB_UNKNOWN`, 503 `TOOMANYREQUESTS`, 502 and 504 `UNAVAILABLE`.
";

const TOKEN: &str = "
## The token

The registry answers 401 and names a token server, which fails. A client GETs a manifest by its tag; for a stale tag the
registry is asked with HEAD.
";

const HEAD: &str = "
## HEAD of a manifest

A client asks with HEAD for a tag. A GET of a stale tag asks the same first.
";

const GET: &str = "
## GET of a manifest

A client GETs a tag. Where it is stale, the registry's HEAD has told that the tag has moved, and what fails is the GET of
the new manifest: the old one is served.
";

const BLOB: &str = "
## A blob, before its headers
";

const BODY: &str = "
## A blob, in its middle

The client has 200 and, unless the table says otherwise, half of the bytes.
";
