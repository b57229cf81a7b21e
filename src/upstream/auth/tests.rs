//! Tokens and passwords, against a token server of the tests' own.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;

use reqwest::header::WWW_AUTHENTICATE;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{super::credentials::Keyring, *};

/// Long enough for a loaded machine; only a failure waits for it.
const SOON: Duration = Duration::from_secs(30);

/// A request as the token server saw it.
#[derive(Clone, Debug)]
struct Asked {
    /// `METHOD path?query`.
    line: String,
    authorization: Option<String>,
    body: String,
}

/// A token server that answers as its closure says and writes down what it was asked.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    async fn start(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let request = receive(&mut stream).await;
                    log.lock().unwrap().push(request.clone());
                    let (status, body) = answer(&request);
                    if status == 0 {
                        return std::future::pending().await;
                    }
                    let head = format!(
                        "HTTP/1.1 {status} x\r\nlocation: /elsewhere\r\nretry-after: 7\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    // Whoever asked may be gone.
                    let _ = stream.write_all((head + &body).as_bytes()).await;
                });
            }
        });
        Self { address, asked }
    }

    /// One that gives numbered tokens for the password "secret", and none for a wrong one.
    async fn numbered(expires_in: u64) -> Self {
        let count = AtomicUsize::new(0);
        Self::start(move |asked| {
            let right = basic("ci", "secret");
            match &asked.authorization {
                Some(shown) if *shown != right.to_str().unwrap() => (401, String::new()),
                _ => {
                    let n = count.fetch_add(1, Ordering::SeqCst);
                    (
                        200,
                        format!("{{\"token\":\"t{n}\",\"expires_in\":{expires_in}}}"),
                    )
                }
            }
        })
        .await
    }

    fn authority(&self, credentials: Credentials) -> Authority {
        let base = format!("http://{}", self.address).parse().unwrap();
        Authority::new("quay.io".parse().unwrap(), base, credentials)
    }

    fn challenge(&self) -> HeaderMap {
        challenge(&format!(
            "Bearer realm=\"http://{}/token?x=1\",service=\"a b\",scope=\"repository:acme/app:pull\"",
            self.address
        ))
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn receive(stream: &mut tokio::net::TcpStream) -> Asked {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let header = |name: &str| {
                let mut named = head.lines().filter_map(|line| {
                    let (key, value) = line.split_once(": ")?;
                    key.eq_ignore_ascii_case(name).then(|| value.to_owned())
                });
                named.next()
            };
            let length = header("content-length").map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                let line = head.lines().next().unwrap_or_default();
                return Asked {
                    line: line.trim_end_matches(" HTTP/1.1").to_owned(),
                    authorization: header("authorization"),
                    body: body.to_owned(),
                };
            }
        }
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap_or(0);
        assert_ne!(read, 0, "the client went away: {bytes:?}");
        bytes.extend_from_slice(&piece[..read]);
    }
}

fn challenge(line: &str) -> HeaderMap {
    HeaderMap::from_iter([(WWW_AUTHENTICATE, line.parse().unwrap())])
}

fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only([])
        .no_proxy()
        .build()
        .unwrap()
}

fn scope(name: &str) -> Scope {
    Scope::new(&name.parse().unwrap(), Access::Pull)
}

async fn answer(
    authority: &Authority,
    challenges: &HeaderMap,
    refused: Option<&HeaderValue>,
) -> Result<Option<String>, String> {
    let deadline = Instant::now() + SOON;
    let answered = authority
        .answer(&client(), challenges, &scope("acme/app"), refused, deadline)
        .await;
    answered
        .map(|header| header.map(|header| header.to_str().unwrap().to_owned()))
        .map_err(|error| error.to_string())
}

fn bearer(token: &str) -> Option<String> {
    Some(format!("Bearer {token}"))
}

#[tokio::test]
async fn a_token_is_asked_for_as_the_challenge_says() {
    let server = Server::numbered(300).await;
    let authority = server.authority(Credentials::fixed("ci", "secret"));
    assert_eq!(authority.ready(&scope("acme/app")).await, None);
    let found = answer(&authority, &server.challenge(), None).await;
    assert_eq!(found.unwrap(), bearer("t0"));
    let asked = server.asked();
    assert_eq!(
        asked[0].line,
        "GET /token?x=1&service=a+b&scope=repository%3Aacme%2Fapp%3Apull&account=ci"
    );
    assert_eq!(
        asked[0].authorization.as_deref(),
        basic("ci", "secret").to_str().ok()
    );
    let ready = authority.ready(&scope("acme/app")).await.unwrap();
    assert_eq!(ready, "Bearer t0");
    assert!(ready.is_sensitive());
    assert_eq!(authority.ready(&scope("acme/other")).await, None);

    // Refused, it is renewed; whoever was refused with an older one gets the new one.
    let found = answer(&authority, &server.challenge(), Some(&ready)).await;
    assert_eq!(found.unwrap(), bearer("t1"));
    let found = answer(&authority, &server.challenge(), Some(&ready)).await;
    assert_eq!(found.unwrap(), bearer("t1"));
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn many_wait_for_one_token_and_for_one_failure() {
    for (status, expected) in [(200, bearer("t")), (401, None)] {
        let server = Server::start(move |_| (status, "{\"access_token\":\"t\"}".to_owned())).await;
        let authority = server.authority(Credentials::default());
        let challenges = server.challenge();
        let all = (0..32).map(|_| answer(&authority, &challenges, None));
        for found in futures_util::future::join_all(all).await {
            assert_eq!(found.unwrap(), expected);
        }
        assert_eq!(server.asked().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    for (answered, good_for) in [
        ("\"expires_in\":300", 290.0),
        ("\"expires_in\":20", 18.0),
        ("\"expires_in\":0", 54.0),
        ("\"expires_in\":-5", 54.0),
        ("\"expires_in\":\"soon\"", 54.0),
        ("\"issued_at\":\"2020-01-01T00:00:00Z\"", 54.0),
        ("\"expires_in\":1e300", 86390.0),
    ] {
        let body = format!("{{\"token\":\"\",\"access_token\":\"t\",{answered}}}");
        let server = Server::start(move |_| (200, body.clone())).await;
        let authority = server.authority(Credentials::default());
        let before = Instant::now();
        answer(&authority, &server.challenge(), None).await.unwrap();
        let after = Instant::now();
        let slot = authority.slot(&scope("acme/app"));
        let renew_at = slot.token.lock().unwrap().as_ref().unwrap().renew_at;
        let good_for = Duration::from_secs_f64(good_for);
        assert!(
            before + good_for <= renew_at && renew_at <= after + good_for,
            "{answered}"
        );
        // The time has come.
        slot.token.lock().unwrap().as_mut().unwrap().renew_at = Instant::now();
        assert_eq!(authority.ready(&scope("acme/app")).await, None);
        answer(&authority, &server.challenge(), None).await.unwrap();
        assert_eq!(server.asked().len(), 2);
    }
}

#[tokio::test]
async fn an_identity_token_and_a_server_of_oauth_alone_take_a_form() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, r#"{"auths":{"quay.io":{"identitytoken":"id&="}}}"#).unwrap();
    let identity = Credentials::looked_up(Keyring::files([file]), ["quay.io".parse().unwrap()]);
    let end = "service=a+b&scope=repository%3Aacme%2Fapp%3Apull&client_id=standin";
    for (credentials, requests) in [
        (
            identity,
            vec![(
                "POST /token?x=1",
                format!("grant_type=refresh_token&refresh_token=id%26%3D&{end}"),
            )],
        ),
        (
            Credentials::fixed("ci", "se cret"),
            vec![
                (
                    "GET /token?x=1&service=a+b&scope=repository%3Aacme%2Fapp%3Apull&account=ci",
                    String::new(),
                ),
                (
                    "POST /token?x=1",
                    format!("grant_type=password&username=ci&password=se+cret&{end}"),
                ),
            ],
        ),
    ] {
        let server = Server::start(|asked| match asked.line.starts_with("POST") {
            true => (200, "{\"access_token\":\"t\"}".to_owned()),
            false => (405, String::new()),
        })
        .await;
        let authority = server.authority(credentials);
        let found = answer(&authority, &server.challenge(), None).await;
        assert_eq!(found.unwrap(), bearer("t"));
        let asked = server.asked();
        let asked: Vec<(&str, String)> = asked
            .iter()
            .map(|asked| (asked.line.as_str(), asked.body.clone()))
            .collect();
        assert_eq!(asked, requests);
    }
}

#[tokio::test]
async fn a_refused_log_in_costs_no_public_image_and_is_left_alone() {
    let server = Server::numbered(300).await;
    let authority = server.authority(Credentials::fixed("ci", "wrong"));
    let found = answer(&authority, &server.challenge(), None).await;
    assert_eq!(found.unwrap(), bearer("t0"));
    let refused = HeaderValue::from_static("Bearer t0");
    let found = answer(&authority, &server.challenge(), Some(&refused)).await;
    assert_eq!(found.unwrap(), bearer("t1"));
    let shown: Vec<bool> = server
        .asked()
        .iter()
        .map(|asked| asked.authorization.is_some())
        .collect();
    assert_eq!(shown, [true, false, false]);
}

#[tokio::test]
async fn basic_where_it_is_asked_for() {
    let server = Server::numbered(300).await;
    let challenges = challenge("Negotiate, Basic realm=\"x, y\"");
    let authority = server.authority(Credentials::fixed("ci", "secret"));
    assert_eq!(authority.ready(&scope("acme/app")).await, None);
    let found = answer(&authority, &challenges, None).await.unwrap();
    assert_eq!(found.as_deref(), Some("Basic Y2k6c2VjcmV0"));
    let ready = authority.ready(&scope("acme/other")).await.unwrap();
    assert_eq!(ready, "Basic Y2k6c2VjcmV0");
    let found = answer(&authority, &challenges, Some(&ready)).await;
    assert_eq!(found.unwrap(), None);
    // Bearer is preferred, whichever comes first.
    let both = format!(
        "Basic realm=x, Bearer realm=\"http://{}/token\"",
        server.address
    );
    let found = answer(&authority, &challenge(&both), None).await;
    assert_eq!(found.unwrap(), bearer("t0"));

    let nobody = server.authority(Credentials::default());
    assert_eq!(answer(&nobody, &challenges, None).await.unwrap(), None);
    for other in ["Negotiate", "Digest realm=x", ""] {
        let found = answer(&authority, &challenge(other), None).await;
        assert_eq!(found.unwrap(), None, "{other}");
    }
}

#[tokio::test]
async fn what_a_token_server_may_answer_and_what_not() {
    let big = "x".repeat(100_000);
    for (status, body, expected) in [
        (503, "", "it answered 503"),
        (404, "", "it answered 404"),
        (429, "", "429, too many requests, retry after 7"),
        (302, "", "redirects are not followed"),
        (200, "<html>", "no JSON with a token"),
        (200, "[]", "no JSON with a token"),
        (200, "{}", "neither token nor access_token"),
        (200, "{\"token\":\"\"}", "neither token nor access_token"),
        (200, "{\"token\":\"a\\nb\"}", "that no header can hold"),
        (200, &big, "larger than 65536 bytes"),
    ] {
        let (answered, body) = (body.to_owned(), body);
        let server = Server::start(move |_| (status, answered.clone())).await;
        let authority = server.authority(Credentials::default());
        let error = answer(&authority, &server.challenge(), None)
            .await
            .unwrap_err();
        let begin = format!("quay.io: its token server http://{}: ", server.address);
        assert!(
            error.starts_with(&begin) && error.contains(expected),
            "{status} {:.20}: {error}",
            body
        );
        assert!(!error.contains("<html>"), "{error}");
    }
}

#[tokio::test]
async fn a_silent_token_server_ends_with_the_deadline() {
    let server = Server::start(|_| (0, String::new())).await;
    let authority = server.authority(Credentials::default());
    let deadline = Instant::now() + Duration::from_millis(100);
    let (client, challenges) = (client(), server.challenge());
    let scope = scope("acme/app");
    let answered = authority.answer(&client, &challenges, &scope, None, deadline);
    let error = tokio::time::timeout(SOON, answered).await.unwrap();
    let Cause::Token { cause, .. } = error.unwrap_err().cause else {
        panic!("no failure of the token server");
    };
    assert!(matches!(*cause, Cause::Timeout(_)), "{cause}");
}

#[tokio::test]
async fn a_challenge_that_leads_nowhere_is_an_error_that_says_so() {
    let server = Server::numbered(300).await;
    let authority = server.authority(Credentials::fixed("ci", "secret"));
    for (line, expected) in [
        ("Bearer realm=\"x", "quotation mark"),
        ("Bearer service=x", "names no realm"),
        ("Bearer realm=\"/token\"", "no absolute URL"),
        ("Bearer realm=\"http://169.254.169.254/\"", "over http"),
        ("Bearer realm=\"https://10.0.0.1/\"", "auth-realm"),
    ] {
        let error = answer(&authority, &challenge(line), None)
            .await
            .unwrap_err();
        assert!(
            error.starts_with("quay.io: ") && error.contains(expected),
            "{line}: {error}"
        );
    }
    assert_eq!(server.asked().len(), 0);
}

#[test]
fn where_a_token_may_come_from() {
    const HTTPS: &str = "https://registry.example";
    const HTTP: &str = "http://10.0.0.5:5000";
    for (base, realm, allowed) in [
        (HTTPS, "https://registry.example/token", true),
        (HTTPS, "https://registry.example:8443/token", true),
        (HTTPS, "https://auth.other.example/token", true),
        (HTTPS, "http://registry.example/token", false),
        (HTTPS, "http://auth.other.example/token", false),
        (HTTPS, "https://127.0.0.1/token", false),
        (HTTPS, "https://2130706433/token", false),
        (HTTPS, "https://10.1.2.3/token", false),
        (HTTPS, "https://[::1]/token", false),
        (HTTPS, "https://[::ffff:10.0.0.1]/token", false),
        (HTTPS, "https://localhost/token", false),
        (HTTPS, "https://LOCALHOST./token", false),
        (HTTPS, "https://a.localhost/token", false),
        (HTTPS, "https://user@auth.other.example/token", false),
        (HTTPS, "ftp://registry.example/token", false),
        (HTTPS, "file:///etc/passwd", false),
        (HTTPS, "data:text/plain,x", false),
        (HTTP, "http://10.0.0.5:5000/token", true),
        (HTTP, "http://10.0.0.5:5001/token", true),
        (HTTP, "https://10.0.0.5/token", true),
        (HTTP, "http://10.0.0.6:5000/token", false),
        (HTTP, "https://10.0.0.6/token", false),
        (HTTPS, "http://sso.example:8080/any", true),
        (HTTPS, "https://sso.example:8080/any", true),
        (HTTPS, "http://sso.example:8081/any", false),
        (HTTPS, "https://192.168.0.1/token", true),
    ] {
        let trusted = ["http://sso.example:8080", "https://192.168.0.1"];
        let trusted = trusted.map(|url| url.parse().unwrap());
        let verdict = realm_allowed(
            &Url::parse(realm).unwrap(),
            &base.parse().unwrap(),
            &trusted,
        );
        assert_eq!(verdict.is_ok(), allowed, "{base} {realm}: {verdict:?}");
    }
}

#[test]
fn only_what_is_needed_is_asked_for() {
    let ours = "repository:acme/app:pull";
    for (offered, expected) in [
        (None, ours),
        (Some(ours), ours),
        (
            Some("repository(plugin):acme/app:pull"),
            "repository(plugin):acme/app:pull",
        ),
        (Some("repository:acme/app:pull,push"), ours),
        (Some("repository:acme/other:pull"), ours),
        (
            Some("repository:acme/app:pull repository:acme/b:pull"),
            ours,
        ),
        (Some("repository(a b):acme/app:pull"), ours),
        (Some("repositoryx:acme/app:pull"), ours),
        (Some("registry:catalog:*"), ours),
        (Some("aws"), ours),
        (Some(""), ours),
    ] {
        assert_eq!(scope("acme/app").asked(offered), expected, "{offered:?}");
    }
}

#[tokio::test]
async fn names_without_end_take_no_memory_without_end() {
    let server = Server::numbered(300).await;
    let authority = server.authority(Credentials::default());
    for n in 0..3 * SCOPES {
        authority.ready(&scope(&format!("acme/{n}"))).await;
    }
    assert!(authority.tokens.lock().unwrap().len() <= SCOPES);
}
