//! Answers that no good registry gives.

use crate::support::Reply;

/// A whole answer: status and further header lines, then the body.
pub(super) fn raw(head: &str, body: &str) -> Reply {
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    Reply::Raw(answer.into())
}

/// The connection closes before a byte is said.
pub(super) fn hang_up() -> Reply {
    Reply::Raw("".into())
}

pub(super) fn limited(retry_after: u32) -> Reply {
    let head = format!("429 Too Many Requests\r\nRetry-After: {retry_after}");
    raw(&head, "")
}

pub(super) fn challenged(with: &str) -> Reply {
    raw(&format!("401 Unauthorized\r\nWWW-Authenticate: {with}"), "")
}

pub(super) fn gzipped() -> Reply {
    let head = "200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Encoding: gzip";
    raw(head, "\u{1f}")
}

/// More header lines than anybody needs.
pub(super) fn header_bomb() -> Reply {
    let mut head = "200 OK".to_owned();
    for n in 0..2000 {
        head.push_str(&format!("\r\nX-{n}: {n}"));
    }
    raw(&head, "{}")
}

pub(super) fn redirect(to: &str) -> Reply {
    Reply::Redirect(to.to_owned())
}

/// A manifest larger than the 4 MiB that are taken, by its own account.
pub(super) fn oversized() -> Reply {
    let head = "200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json";
    raw(head, &" ".repeat((4 << 20) + 1))
}

/// Text of a manifest's type that is no JSON.
pub(super) fn no_json() -> Reply {
    let head = "200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json";
    raw(head, "not here, not today")
}

/// The rest behind `from`, of a blob that is twice as long as before.
pub(super) fn grown(from: usize, size: usize) -> Reply {
    let (last, size) = (2 * size - 1, 2 * size);
    let head = format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{size}");
    raw(&head, &" ".repeat(size - from))
}
