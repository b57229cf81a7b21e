//! Who may do what: every policy against every kind of credentials, and what is kept from whom.

use reqwest::Method;

use crate::support::{
    Answer, Client, Exchange, TestRegistry,
    client::finish,
    credentials::{Authorized, ask_token, basic, bearer, push, start_upload},
    image::{Blob, Image},
};

const WRITER: &[&str] = &["--user", "ci:se:cret:write"];
const READER: &[&str] = &["--user", "ci:se:cret:write", "--user", "viewer:secret:read"];

/// The three things that credentials can be good for, by a request of each kind.
const LOG_IN: &[(Method, &str)] = &[(Method::GET, "/v2/"), (Method::HEAD, "/v2/")];

fn reads(blob: &str) -> Vec<(Method, String)> {
    let paths = ["manifests/v1".to_owned(), format!("blobs/{blob}")];
    let mut reads = vec![(Method::GET, "tags/list".to_owned())];
    for path in paths {
        reads.push((Method::GET, path.clone()));
        reads.push((Method::HEAD, path));
    }
    reads
}

/// Sends a request under `acme/app`.
async fn send(client: &Client, who: &str, method: Method, path: &str) -> Answer {
    let request = client.request(method, path).authorized(who);
    let answer = request.answer().await;
    assert_eq!(
        answer.header("docker-distribution-api-version"),
        "registry/2.0"
    );
    answer
}

/// `200`: it is done; `401`: a log-in would help, and one line says where; `403`: it would not.
#[track_caller]
fn verdict(answer: &Answer, what: &str) -> u16 {
    let challenges = answer.headers.get_all("www-authenticate").iter().count();
    let has_body = !answer.body.is_empty();
    match answer.status {
        200..=299 => 200,
        401 => {
            assert_eq!(challenges, 1, "{what}: {:?}", answer.headers);
            let challenge = answer.header("www-authenticate");
            assert!(
                challenge.starts_with("Bearer realm=\"http"),
                "{what}: {challenge}"
            );
            assert!(
                !challenge.to_ascii_lowercase().contains("basic"),
                "{what}: {challenge}"
            );
            assert!(
                !has_body || answer.json()["errors"][0]["code"] == "UNAUTHORIZED",
                "{what}"
            );
            401
        }
        403 => {
            assert_eq!(challenges, 0, "{what}: {:?}", answer.headers);
            assert!(
                !has_body || answer.json()["errors"][0]["code"] == "DENIED",
                "{what}"
            );
            403
        }
        other => panic!("{what}: {other} {:?}", answer.body),
    }
}

#[tokio::test]
async fn every_policy_and_every_kind_of_credentials() {
    let image = Image::small(1);
    let scope = "repository:acme/app:pull,push";
    for (policy, args, rows) in [
        (
            "without users, on loopback",
            &[][..],
            &[
                ("none", [200, 200, 200]),
                ("wrong", [200, 200, 200]),
                ("garbage", [200, 200, 200]),
                ("foreign token", [200, 200, 200]),
            ][..],
        ),
        (
            "a generated user, on loopback",
            &["--listen", "0.0.0.0:0"],
            &[("none", [200, 200, 200]), ("wrong", [200, 200, 200])],
        ),
        (
            "one who writes",
            WRITER,
            &[
                ("none", [401, 200, 401]),
                ("ci", [200, 200, 200]),
                ("wrong", [401, 200, 401]),
                ("unknown", [401, 200, 401]),
                ("garbage", [401, 200, 401]),
                ("foreign token", [401, 200, 401]),
                ("ci's token", [200, 200, 200]),
                ("ci's token for reading", [401, 200, 401]),
                ("ci's token for another", [200, 200, 401]),
                ("ci's token for nothing", [200, 200, 401]),
                ("nobody's token", [401, 200, 401]),
            ],
        ),
        (
            "one who writes, one who reads",
            READER,
            &[
                ("none", [401, 401, 401]),
                ("ci", [200, 200, 200]),
                ("viewer", [200, 200, 403]),
                ("wrong", [401, 401, 401]),
                ("unknown", [401, 401, 401]),
                ("garbage", [401, 401, 401]),
                ("foreign token", [401, 401, 401]),
                ("ci's token", [200, 200, 200]),
                ("ci's token for reading", [200, 200, 401]),
                ("ci's token for another", [200, 401, 401]),
                ("ci's token for nothing", [200, 401, 401]),
                ("viewer's token", [200, 200, 403]),
            ],
        ),
    ] {
        let registry = TestRegistry::builder()
            .args(args.iter().copied())
            .start()
            .await;
        let client = registry.client();
        let ci = basic("ci", "se:cret");
        let (writes, digest) = prepare(&client, &ci, &image).await;
        for (who, expected) in rows {
            let shown = match *who {
                "none" => String::new(),
                "ci" => ci.clone(),
                "viewer" => basic("viewer", "secret"),
                "wrong" => basic("ci", "secret"),
                "unknown" => basic("cy", "se:cret"),
                "garbage" => "Basic se:cret".to_owned(),
                "foreign token" => "Bearer eyJhbGciOiJub25lIn0.e30.".to_owned(),
                "ci's token" => bearer(&client, &ci, scope).await,
                "ci's token for reading" => bearer(&client, &ci, "repository:acme/app:pull").await,
                "ci's token for another" => {
                    bearer(&client, &ci, "repository:acme/other:pull,push").await
                }
                "ci's token for nothing" => {
                    let answer = ask_token(&client, &ci, "account=ci").await;
                    crate::support::credentials::token_of(&answer.expect(200))
                }
                "viewer's token" => bearer(&client, &basic("viewer", "secret"), scope).await,
                "nobody's token" => bearer(&client, "", "repository:acme/app:pull").await,
                other => panic!("{other}"),
            };
            let what = |method: &Method, path: &str| format!("{policy}, {who}: {method} {path}");
            for (method, path) in LOG_IN {
                let answer = send(&client, &shown, method.clone(), path).await;
                let what = what(method, path);
                assert_eq!(verdict(&answer, &what), expected[0], "{what}");
            }
            for (method, path) in reads(&digest) {
                let path = format!("/v2/acme/app/{path}");
                let answer = send(&client, &shown, method.clone(), &path).await;
                let what = what(&method, &path);
                assert_eq!(verdict(&answer, &what), expected[1], "{what}");
            }
            for (method, path) in &writes {
                let body = match path.contains("manifests") {
                    true => image.manifest.bytes.clone(),
                    false => bytes::Bytes::new(),
                };
                let request = client.request(method.clone(), path).authorized(&shown);
                let answer = request.body(body).answer().await;
                let what = what(method, path);
                assert_eq!(verdict(&answer, &what), expected[2], "{what}");
            }
        }
    }
}

/// Pushes `acme/app:v1` and opens an upload. Returns requests that write and can be sent again, and a blob to read.
async fn prepare(client: &Client, who: &str, image: &Image) -> (Vec<(Method, String)>, String) {
    push(client, who, "acme/app", image).await;
    let location = start_upload(client, who, "acme/app").await;
    let writes = vec![
        (Method::POST, "/v2/acme/app/blobs/uploads/".to_owned()),
        (Method::PUT, "/v2/acme/app/manifests/v1".to_owned()),
        (Method::GET, location.clone()),
        (Method::PATCH, location),
    ];
    (writes, image.config.digest.clone())
}

const TEAMS: &str = "\
users:
  - name: admin
    password-file: admin.password
    access: write
  - name: team-a
    password-env: TEAM_A
    repositories: [team-a/**]
    actions: [pull, push, delete]
  - {name: team-a, repositories: [quay.io/shared/*], access: read}
";

#[tokio::test]
async fn a_team_is_kept_to_its_own() {
    let builder = TestRegistry::builder();
    let home = builder.home().to_owned();
    let config = home.join("ci.yaml");
    std::fs::write(&config, TEAMS).unwrap();
    std::fs::write(home.join("admin.password"), "root\n").unwrap();
    let builder = builder.env("TEAM_A", "a's own");
    let registry = builder
        .args(["--config", config.to_str().unwrap()])
        .start()
        .await;
    let client = registry.client();
    let (admin, team) = (basic("admin", "root"), basic("team-a", "a's own"));
    let image = Image::small(1);
    let mut all = Vec::new();
    for name in ["team-a/x", "team-b/x", "quay.io/shared/x"] {
        push(&client, &admin, name, &image).await;
        let upload = start_upload(&client, &admin, name).await;
        all.push((name, upload));
    }
    for (name, expected, upload) in all
        .iter()
        .zip([[200, 200], [403, 403], [200, 403]])
        .map(|((name, upload), expected)| (name, expected, upload))
    {
        let scope = format!("repository:{name}:pull,push,delete");
        for who in [team.clone(), bearer(&client, &team, &scope).await] {
            for (method, path) in reads(&image.config.digest) {
                let path = format!("/v2/{name}/{path}");
                let answer = send(&client, &who, method.clone(), &path).await;
                let found = verdict(&answer, &path);
                assert_eq!(found, expected[0], "{method} {path}");
                if found == 403 && method == Method::GET {
                    let message = answer.message();
                    assert!(
                        message.contains(name) && message.contains("pull"),
                        "{message}"
                    );
                }
            }
            for (method, path) in [
                (Method::POST, format!("/v2/{name}/blobs/uploads/")),
                (Method::PUT, format!("/v2/{name}/manifests/v2")),
                (Method::PATCH, upload.clone()),
                (Method::GET, upload.clone()),
            ] {
                let body = match method {
                    Method::PUT => image.manifest.bytes.clone(),
                    _ => bytes::Bytes::new(),
                };
                let request = client.request(method.clone(), &path).authorized(&who);
                let answer = request.body(body).answer().await;
                let found = verdict(&answer, &path);
                assert_eq!(found, expected[1], "{method} {path}");
                if found == 403 {
                    let message = answer.message();
                    assert!(
                        message.contains(name) && message.contains("push"),
                        "{message}"
                    );
                }
            }
        }
        // Nothing of it without a log-in, since reading is something that is given here.
        client
            .get_manifest(name, "v1")
            .await
            .refused(401, "UNAUTHORIZED");
    }
    // A session of another repository is none of theirs, under whatever name they ask for it.
    let (_, foreign) = &all[1];
    let session = foreign.rsplit('/').next().unwrap();
    let blob = Blob::random(7, 100);
    for (method, path) in [
        (Method::GET, format!("/v2/team-a/x/blobs/uploads/{session}")),
        (
            Method::PATCH,
            format!("/v2/team-a/x/blobs/uploads/{session}"),
        ),
        (
            Method::DELETE,
            format!("/v2/team-a/x/blobs/uploads/{session}"),
        ),
        (
            Method::PUT,
            finish(
                &format!("/v2/team-a/x/blobs/uploads/{session}"),
                &blob.digest,
            ),
        ),
    ] {
        let request = client.request(method, &path).authorized(&team);
        let answer = request.body(blob.bytes.clone()).answer().await;
        answer.refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    let request = client
        .put(&finish(foreign, &blob.digest))
        .authorized(&admin);
    request.body(blob.bytes.clone()).answer().await.expect(201);
}

#[tokio::test]
async fn users_of_an_htpasswd_file() {
    let builder = TestRegistry::builder();
    let file = builder.home().join("htpasswd");
    // htpasswd -nbB -C 5 ci letmein
    let line = "ci:$2y$05$FeSA9szbv3ANMpNe.BuZpO9pPxuc.V1cbTl8uPOAQAaxQwuOCs3OG\n";
    std::fs::write(&file, line).unwrap();
    let registry = builder
        .args(["--htpasswd", file.to_str().unwrap()])
        .start()
        .await;
    let client = registry.client();
    let ci = basic("ci", "letmein");
    push(&client, &ci, "acme/app", &Image::small(1)).await;
    let token = bearer(&client, &ci, "repository:acme/app:pull,push").await;
    push(&client, &token, "acme/app", &Image::small(2)).await;
    for wrong in [basic("ci", "letmeim"), basic("co", "letmein")] {
        let request = client
            .post("/v2/acme/app/blobs/uploads/")
            .authorized(&wrong);
        request.answer().await.refused(401, "UNAUTHORIZED");
    }

    let md5 = TestRegistry::builder();
    let file = md5.home().join("htpasswd");
    std::fs::write(&file, "ci:$apr1$x$hunter2\n").unwrap();
    let (status, said) = md5
        .args(["--htpasswd", file.to_str().unwrap()])
        .fails_to_start()
        .await;
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(
        said.contains("htpasswd -B") && !said.contains("hunter2"),
        "{said}"
    );
}

#[tokio::test]
async fn no_credential_is_ever_logged_or_answered() {
    let (password, wrong) = ("correct-horse", "wrong-battery");
    let builder = TestRegistry::builder();
    let builder = builder
        .args(["--user", "ci:correct-horse:write"])
        .env("RUST_LOG", "trace");
    let registry = builder.start().await;
    let client = registry.client();
    let mut secrets = vec![password.to_owned(), wrong.to_owned()];
    let mut answers = Vec::new();
    for who in [
        basic("ci", password),
        basic("ci", wrong),
        "Bearer no-token-of-ours".to_owned(),
    ] {
        secrets.push(who.split_once(' ').unwrap().1.to_owned());
        for client in [&client, &registry.tls_client()] {
            answers.push(send(client, &who, Method::GET, "/v2/").await);
            answers.push(send(client, &who, Method::POST, "/v2/a/blobs/uploads/").await);
            let query = format!("offline_token=true&password={wrong}");
            answers.push(ask_token(client, &who, &query).await);
        }
    }
    for (user, password) in [("ci", password), ("o\nther", wrong)] {
        let form = [
            ("grant_type", "password"),
            ("username", user),
            ("password", password),
        ];
        let form = form.iter().chain(&[("access_type", "offline")]);
        let body: Vec<String> = form
            .map(|(k, v)| format!("{k}={}", v.replace('\n', "%0A")))
            .collect();
        let request = client.post("/auth/token").body(body.join("&"));
        answers.push(request.answer().await);
    }
    let given: Vec<String> = answers
        .iter()
        .filter(|answer| answer.status == 200 && answer.request.contains("/auth/token"))
        .flat_map(|answer| ["token", "refresh_token"].map(|key| answer.json()[key].to_string()))
        .map(|token| token.trim_matches('"').to_owned())
        .collect();
    assert_eq!(given.len(), 6, "{given:?}");
    for answer in &answers {
        let body = String::from_utf8_lossy(&answer.body);
        for secret in &secrets {
            assert!(
                !body.contains(secret.as_str()),
                "{}: {body}",
                answer.request
            );
            assert!(!format!("{:?}", answer.headers).contains(secret.as_str()));
        }
    }
    secrets.extend(given);

    let log = registry.log();
    log.line_with(&["WARN", "127.0.0.1:", "log-in as \"ci\" failed"])
        .await;
    log.line_with(&["WARN", "127.0.0.1:", "log-in as \"o\\nther\" failed"])
        .await;
    for secret in &secrets {
        assert_eq!(log.count(&[secret]), 0, "{secret} in:\n{}", log.text());
    }
    assert!(
        log.lines().len() > answers.len(),
        "the log says more than nothing"
    );
}
