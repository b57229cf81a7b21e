//! `/auth/token`, as docker, containerd and OAuth 2 ask there.

use std::time::{Duration, SystemTime};

use crate::support::{
    Answer, Client, Exchange, TestRegistry,
    credentials::{Authorized, ask_token, basic, token_of},
};

const WRITER: &[&str] = &["--user", "ci:secret:write"];
const READER: &[&str] = &["--user", "ci:secret:write", "--user", "viewer:secret:read"];

async fn form(client: &Client, fields: &[(&str, &str)]) -> Answer {
    let field = |(key, value): &(&str, &str)| format!("{key}={}", value.replace(' ', "+"));
    let body: Vec<String> = fields.iter().map(field).collect();
    let request = client.post("/auth/token").body(body.join("&"));
    let content_type = "application/x-www-form-urlencoded";
    request.header("content-type", content_type).answer().await
}

/// Whether `/v2/` takes it for a user's.
async fn logs_in(client: &Client, token: &str) -> bool {
    let answer = client.get("/v2/").authorized(token).answer().await;
    answer.status == 200
}

#[tokio::test]
async fn who_gets_a_token_for_what() {
    const PULL: &str = "scope=repository:acme/app:pull";
    const PUSH: &str = "scope=repository:acme/app:pull,push";
    for (policy, args, rows) in [
        (
            "reads are for anyone",
            WRITER,
            &[
                // With the right password, a wrong one, and none: "user", "nobody" or a refusal.
                ("account=ci", ["user", "401", "401"]),
                ("scope=", ["user", "401", "401"]),
                (PULL, ["nobody", "nobody", "nobody"]),
                (PUSH, ["user", "401", "401"]),
                (
                    "scope=repository:a:pull+repository:b:pull",
                    ["nobody", "nobody", "nobody"],
                ),
                (
                    "scope=repository:a:pull&scope=repository:b:push",
                    ["user", "401", "401"],
                ),
                ("scope=registry:catalog:*", ["user", "401", "401"]),
            ][..],
        ),
        (
            "reads are for users",
            READER,
            &[
                ("account=ci", ["user", "401", "401"]),
                (PULL, ["user", "401", "401"]),
                (PUSH, ["user", "401", "401"]),
            ],
        ),
        (
            "everything is for anyone",
            &[],
            &[
                ("account=ci", ["200", "200", "200"]),
                (PUSH, ["200", "200", "200"]),
            ],
        ),
    ] {
        let registry = TestRegistry::builder()
            .args(args.iter().copied())
            .start()
            .await;
        let client = registry.client();
        for (query, expected) in rows {
            let shown = [basic("ci", "secret"), basic("ci", "secre"), String::new()];
            for (who, expected) in shown.iter().zip(expected) {
                let by_get = ask_token(&client, who, query).await;
                let scopes = query
                    .split('&')
                    .filter_map(|part| part.strip_prefix("scope="));
                let mut fields = match who.as_str() {
                    "" => vec![("grant_type", "refresh_token"), ("refresh_token", "x")],
                    _ => vec![("grant_type", "password"), ("username", "ci")],
                };
                if *who == shown[0] {
                    fields.push(("password", "secret"));
                } else if *who == shown[1] {
                    fields.push(("password", "secre"));
                }
                fields.extend(scopes.map(|scope| ("scope", scope)));
                let by_form = form(&client, &fields).await;
                for (how, answer) in [("GET", by_get), ("POST", by_form)] {
                    let found = match answer.status {
                        200 if *expected == "200" => "200",
                        200 if logs_in(&client, &token_of(&answer)).await => "user",
                        200 => "nobody",
                        401 => {
                            answer.refused(401, "UNAUTHORIZED");
                            "401"
                        }
                        other => panic!("{other}"),
                    };
                    assert_eq!(found, *expected, "{policy}: {how} {query} {who:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_a_token_comes_with() {
    let registry = TestRegistry::builder()
        .args(WRITER.iter().copied())
        .start()
        .await;
    let client = registry.client();
    let answer = ask_token(&client, &basic("ci", "secret"), "scope=repository:a:push").await;
    let answer = answer.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    let body = answer.json();
    assert_eq!(body["token"], body["access_token"]);
    assert_eq!(body["expires_in"], 3600);
    assert_eq!(body.get("refresh_token"), None, "nobody asked for one");
    let issued_at = body["issued_at"].as_str().unwrap();
    let at = |time: SystemTime| {
        let time = time::OffsetDateTime::from(time).truncate_to_second();
        time.format(&time::format_description::well_known::Rfc3339)
            .unwrap()
    };
    // Written so that the order of texts is that of times.
    let (now, ago) = (SystemTime::now(), Duration::from_secs(60));
    assert!(
        *issued_at <= *at(now) && *issued_at > *at(now - ago),
        "{issued_at}"
    );

    let head = client
        .head("/auth/token")
        .authorized(&basic("ci", "secret"));
    assert!(head.answer().await.expect(200).body.is_empty());
}

#[tokio::test]
async fn who_stays_logged_in() {
    let registry = TestRegistry::builder()
        .args(WRITER.iter().copied())
        .start()
        .await;
    let client = registry.client();
    let password = [
        ("grant_type", "password"),
        ("username", "ci"),
        ("password", "secret"),
    ];
    let query = "offline_token=true&client_id=docker";
    let by_get = ask_token(&client, &basic("ci", "secret"), query).await;
    let fields = [&password[..], &[("access_type", "offline")]].concat();
    let by_form = form(&client, &fields).await;
    for answer in [by_get, by_form] {
        let body = answer.expect(200).json();
        let refresh = body["refresh_token"].as_str().unwrap();
        let grant = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
        let scope = [
            ("service", "standin"),
            ("scope", "repository:acme/app:pull,push"),
        ];
        let answer = form(&client, &[grant, scope].concat()).await.expect(200);
        assert_eq!(answer.json()["refresh_token"], refresh);
        let request = client.post("/v2/acme/app/blobs/uploads/");
        request
            .authorized(&token_of(&answer))
            .answer()
            .await
            .expect(202);
        // It is no token itself.
        let request = client.post("/v2/acme/app/blobs/uploads/");
        let refused = request
            .authorized(&format!("Bearer {refresh}"))
            .answer()
            .await;
        refused.refused(401, "UNAUTHORIZED");
    }
    // Nobody stays logged in who has not logged in.
    let answer = ask_token(&client, "", "offline_token=true&scope=repository:a:pull").await;
    assert_eq!(answer.expect(200).json().get("refresh_token"), None);
}

#[tokio::test]
async fn requests_that_are_none() {
    let registry = TestRegistry::builder()
        .args(WRITER.iter().copied())
        .start()
        .await;
    let client = registry.client();
    let many = vec!["scope=repository:a:pull"; 101].join("&");
    for (query, fragment) in [
        ("scope=acme/app", "repository:NAME:pull,push"),
        ("scope=repository::pull", "repository:NAME:pull,push"),
        (&many, "at most 100 scopes"),
    ] {
        let answer = ask_token(&client, &basic("ci", "secret"), query).await;
        let message = answer.refused(400, "UNSUPPORTED").message();
        assert!(message.contains(fragment), "{message}");
    }
    let large = "x".repeat(100_000);
    for fields in [
        &[][..],
        &[("grant_type", "authorization_code")],
        &[("grant_type", "password"), ("password", &large)],
    ] {
        form(&client, fields).await.refused(400, "UNSUPPORTED");
    }
    // A form without credentials has wrong ones.
    form(&client, &[("grant_type", "password")])
        .await
        .refused(401, "UNAUTHORIZED");
    form(&client, &[("grant_type", "refresh_token")])
        .await
        .refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn a_token_outlives_the_process_and_not_the_user() {
    let registry = TestRegistry::builder()
        .args(WRITER.iter().copied())
        .start()
        .await;
    let ci = basic("ci", "secret");
    let answer = ask_token(&registry.client(), &ci, "offline_token=true")
        .await
        .expect(200);
    let token = token_of(&answer);
    let refresh = answer.json()["refresh_token"].as_str().unwrap().to_owned();
    let mut registry = registry;
    for (what, args, good) in [
        ("the same users", WRITER, true),
        (
            "more users, other rights",
            &["--user", "ci:secret:read", "--user", "a:b:read"],
            true,
        ),
        ("another password", &["--user", "ci:secret2:write"], false),
        ("another user", &["--user", "cj:secret:write"], false),
        ("the first users again", WRITER, true),
    ] {
        registry = registry
            .stop()
            .await
            .plain()
            .args(args.iter().copied())
            .start()
            .await;
        let client = registry.client();
        assert_eq!(logs_in(&client, &token).await, good, "{what}");
        let grant = [
            ("grant_type", "refresh_token"),
            ("refresh_token", &*refresh),
        ];
        let status = if good { 200 } else { 401 };
        form(&client, &grant).await.expect(status);
    }
}

#[tokio::test]
async fn instances_that_share_a_key_share_their_tokens() {
    let key = TestRegistry::builder();
    let file = key.home().join("shared.key");
    std::fs::write(&file, [7; 32]).unwrap();
    let start = || {
        let builder = TestRegistry::builder().args(WRITER.iter().copied());
        builder
            .args(["--token-key", file.to_str().unwrap()])
            .start()
    };
    let (one, other) = (start().await, start().await);
    let stranger = TestRegistry::builder()
        .args(WRITER.iter().copied())
        .start()
        .await;
    let answer = ask_token(&one.client(), &basic("ci", "secret"), "")
        .await
        .expect(200);
    let token = token_of(&answer);
    assert!(logs_in(&other.client(), &token).await);
    assert!(!logs_in(&stranger.client(), &token).await);

    let absent = TestRegistry::builder().args(WRITER.iter().copied());
    let (status, said) = absent
        .args(["--token-key", "/nonexistent/key"])
        .fails_to_start()
        .await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("/nonexistent/key") && said.contains("openssl rand"),
        "{said}"
    );
}
