//! The numbers of `/metrics`.

use std::collections::BTreeMap;

use super::{Client, Exchange};

/// By name and labels.
pub(crate) type Samples = BTreeMap<String, f64>;

/// What `/metrics` says now.
pub(crate) async fn samples(client: &Client) -> Samples {
    let page = client.get("/metrics").answer().await.expect(200);
    let kind = page.header("content-type");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}
