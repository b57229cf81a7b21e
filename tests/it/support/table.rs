//! Tables of exchanges: each row a request, its status, and the code of its refusal.

use reqwest::Method;
use serde_json::Value;

use super::{Client, Exchange};

/// `METHOD path`, the status, and the error's code; no code where the status is no refusal, or the request is a HEAD.
pub(crate) type Row<'a> = (&'a str, u16, &'a str);

/// Sends the rows' requests one after the other. `{word}` in a path stands for its value in `words`.
#[track_caller]
pub(crate) fn exchange<'a>(
    client: &'a Client,
    words: &'a [(&'a str, &'a str)],
    rows: &'a [Row<'a>],
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        for (request, status, code) in rows {
            let (method, path) = request.split_once(' ').unwrap();
            let path = words.iter().fold(path.to_owned(), |path, (word, value)| {
                path.replace(&format!("{{{word}}}"), value)
            });
            let method: Method = method.parse().unwrap();
            let answer = client.request(method, &path).answer().await;
            assert_eq!(answer.status, *status, "{caller}: {request}: {answer:?}");
            if !code.is_empty() {
                answer.refused(*status, code);
            }
        }
    }
}

/// Reads a listing from `path` on, page by page as `Link` leads; the entries under `key` of each page.
pub(crate) async fn pages(client: &Client, path: &str, key: &str) -> Vec<Vec<Value>> {
    let mut next = Some(path.to_owned());
    let mut pages = Vec::new();
    while let Some(path) = next {
        let answer = client.get(&path).answer().await.expect(200);
        let entries = answer.json()[key].as_array().unwrap().clone();
        pages.push(entries);
        assert!(pages.len() < 1000, "{path} has no end");
        next = answer.headers.contains_key("link").then(|| {
            let link = answer.header("link");
            let (target, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
            assert_eq!(rest, "; rel=\"next\"", "{link}");
            target.to_owned()
        });
    }
    pages
}

/// The whole listing as texts. Asserts that no page is longer than `n`, and that all but the last are as long.
pub(crate) async fn whole(client: &Client, path: &str, key: &str, n: usize) -> Vec<String> {
    let pages = pages(client, path, key).await;
    let (last, full) = pages.split_last().unwrap();
    assert!(full.iter().all(|page| page.len() == n), "{path}: {pages:?}");
    assert!(last.len() <= n, "{path}: {pages:?}");
    texts(&pages.concat())
}

/// JSON strings as strings.
pub(crate) fn texts(values: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    values.iter().map(text).collect()
}
