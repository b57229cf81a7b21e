//! Who gets to see the log-in, and what `Retry-After` comes to.

#![allow(clippy::unwrap_used)]

use std::time::SystemTime;

use super::*;
use crate::upstream::testing::{QUICK, Server, at, quay, redirect, reply};

#[tokio::test]
async fn the_log_in_never_leaves_for_another_host() {
    let good = || reply("200", "", "");
    let cdn = Server::start([good()]).await;
    let server = Server::start([
        redirect("/elsewhere"),
        redirect(&format!("{}/signed", cdn.url())),
    ])
    .await;
    // And from there back again, where it belongs.
    cdn.script([redirect(&format!("{}/back", server.url()))]);
    server.script([
        redirect("/elsewhere"),
        redirect(&format!("{}/signed", cdn.url())),
        good(),
    ]);
    let options = at(&server);
    let endpoint = Endpoint::new(
        &quay(),
        (&options.url, &[]),
        &options,
        Credentials::default(),
        &Arc::new(Dialer::new(options.trust.clone(), QUICK.connect, None)),
        Counted {
            activity: Arc::default(),
            label: "quay.io".to_owned(),
        },
        &QUICK,
    );
    let name: RepositoryName = "acme/app".parse().unwrap();
    let ask = Ask {
        name: &name,
        rest: "manifests/v1",
        accept: Some("x/y"),
        access: Access::Pull,
        want: Want::Head,
        effort: Patience::Full.into(),
    };
    let start = Url::parse(&format!("{}/start", server.url())).unwrap();
    let login = HeaderValue::from_static("Bearer secret");
    let reached = endpoint.follow(ask, &start, Some(&login)).await;
    assert!(reached.is_ok_and(|reached| reached.elsewhere.is_none()));
    assert_eq!(
        server.asked(),
        ["head /start", "head /elsewhere", "head /back"]
    );
    for head in server.requests() {
        assert!(head.contains("authorization: bearer secret"), "{head}");
    }
    assert_eq!(cdn.asked(), ["head /signed"]);
    for head in cdn.requests() {
        assert!(
            !head.contains("secret") && !head.contains("referer"),
            "{head}"
        );
        assert!(head.contains("accept: x/y"), "{head}");
        assert!(head.contains("accept-encoding: identity"), "{head}");
    }
}

#[test]
fn when_to_try_again() {
    for (text, expected) in [
        ("0", Some(0)),
        (" 120 ", Some(120)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("99999999999999999999999", None),
    ] {
        let expected = expected.map(Duration::from_secs);
        assert_eq!(delay(text), expected, "{text:?}");
    }
    let hour = Duration::from_secs(3600);
    let ahead = delay(&httpdate::fmt_http_date(SystemTime::now() + hour)).unwrap();
    assert!(ahead <= hour && ahead > hour / 2, "{ahead:?}");
}
