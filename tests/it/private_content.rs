//! What standin pulls with a log-in of its own: where the log-in comes from, and who may read what it brought.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use reqwest::Method;

use crate::support::{
    Client, Exchange, FakeUpstream, TestRegistry,
    credentials::{Authorized, basic, bearer, other_address, push},
    image::Image,
};

const PRIVATE: &str = "private.example";

/// An upstream that lets nobody in but `ci`, and its image `acme/app:v1`.
async fn guarded() -> (FakeUpstream, Image) {
    let upstream = FakeUpstream::start().await;
    let image = Image::small(7);
    upstream.add_image("acme/app", "v1", &image);
    upstream.guard(&basic("ci", "up:stream"));
    (upstream, image)
}

/// A file with that log-in.
fn auths(password: &str) -> String {
    let auth = basic("ci", password);
    let auth = auth.strip_prefix("Basic ").unwrap();
    format!("{{\"auths\":{{\"{PRIVATE}\":{{\"auth\":\"{auth}\"}}}}}}")
}

/// Writes an executable. By another process: one that is being written by ours can't be run while some test of ours forks.
fn write_program(path: &Path, text: &str) {
    let status = Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""])
        .args([path.to_str().unwrap(), text])
        .status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_log_in_comes_from_where_clients_keep_it() {
    for way in ["~/.docker", "auth.json", "helper", "--authfile"] {
        let (upstream, image) = guarded().await;
        let builder = TestRegistry::builder().registry(PRIVATE, &upstream.url());
        let home = builder.home().to_owned();
        let place = |path: &str, text: &str| {
            let path = home.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let builder = match way {
            "~/.docker" => {
                place(".docker/config.json", &auths("up:stream"));
                builder
            }
            "auth.json" => {
                let file = place("auth.json", &auths("up:stream"));
                builder.env("REGISTRY_AUTH_FILE", &file)
            }
            "helper" => {
                let helpers = format!("{{\"credHelpers\":{{\"{PRIVATE}\":\"standin-test\"}}}}");
                place(".docker/config.json", &helpers);
                let answer = "{\"Username\":\"ci\",\"Secret\":\"up:stream\"}";
                write_program(
                    &home.join("docker-credential-standin-test"),
                    &format!(
                        "#!/bin/sh\nread server\n[ \"$server\" = {PRIVATE} ] && echo '{answer}'\n"
                    ),
                );
                let path = std::env::var("PATH").unwrap();
                builder.env("PATH", &format!("{}:{path}", home.display()))
            }
            _ => {
                place(".docker/config.json", &auths("wrong"));
                builder.args(["--authfile", &place("mine", &auths("up:stream"))])
            }
        };
        let registry = builder.env("RUST_LOG", "debug").start().await;
        // A client's own credentials are for nobody else.
        let request = registry
            .client()
            .get(&format!("/v2/{PRIVATE}/acme/app/manifests/v1"))
            .authorized(&basic("client", "client"));
        let answer = request.answer().await;
        assert_eq!(answer.expect(200).body, image.manifest.bytes, "{way}");
        for blob in image.blobs() {
            let path = format!("/v2/{PRIVATE}/acme/app/blobs/{}", blob.digest);
            registry.client().get(&path).answer().await.expect(200);
        }
        assert_eq!(upstream.count("GET", "/token"), 1, "{way}");
        let sent = upstream.headers().join("\n");
        assert!(!sent.contains(basic("client", "client").as_str()), "{sent}");
        let basic = basic("ci", "up:stream");
        assert_eq!(registry.log().count(&["up:stream"]), 0);
        assert_eq!(registry.log().count(&[basic.as_str()]), 0);
        assert_eq!(registry.log().count(&[super::support::upstream::TOKEN]), 0);
    }
}

#[tokio::test]
async fn a_log_in_during_the_job_counts_and_none_reads_none() {
    let (upstream, _) = guarded().await;
    for (args, answered) in [(&[][..], 200), (&["--authfile", "none"], 404)] {
        let builder = TestRegistry::builder().registry(PRIVATE, &upstream.url());
        let file = builder.home().join(".docker/config.json");
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        let registry = builder.args(args.iter().copied()).start().await;
        let path = format!("/v2/{PRIVATE}/acme/app/manifests/v1");
        let refused = registry.client().get(&path).answer().await;
        let message = refused.refused(404, "MANIFEST_UNKNOWN").message();
        assert!(
            message.contains(PRIVATE) && message.contains("docker login"),
            "{message}"
        );
        std::fs::write(&file, auths("up:stream")).unwrap();
        registry.client().get(&path).answer().await.expect(answered);
    }
}

#[tokio::test]
async fn a_file_that_cant_be_read_is_named_and_its_content_is_not() {
    let (upstream, _) = guarded().await;
    let builder = TestRegistry::builder().registry(PRIVATE, &upstream.url());
    let file = builder.home().join("broken.json");
    std::fs::write(&file, "{\"auths\":\n{\"hunter2\"").unwrap();
    let registry = builder
        .args(["--authfile", file.to_str().unwrap()])
        .start()
        .await;
    let path = format!("/v2/{PRIVATE}/acme/app/manifests/v1");
    for _ in 0..2 {
        registry.client().get(&path).answer().await.expect(404);
    }
    let parts = [file.to_str().unwrap(), "line 2"];
    registry.log().line_with(&parts).await;
    assert_eq!(registry.log().count(&parts), 1);
    assert_eq!(registry.log().count(&["hunter2"]), 0);
}

#[tokio::test]
async fn what_a_log_in_brought_is_for_this_machine_and_for_users() {
    let Some(address) = other_address() else {
        eprintln!(
            "this machine has no address but loopback: what others may read is not tried here"
        );
        return;
    };
    let (private, image) = guarded().await;
    let public = FakeUpstream::start().await;
    public.add_image("acme/app", "v1", &image);
    for args in [&[][..], &["--user", "standin:secret:write"]] {
        let builder = TestRegistry::builder()
            .registry(PRIVATE, &private.url())
            .registry("public.example", &public.url())
            .args(["--listen", "0.0.0.0:0"])
            .args(args.iter().copied());
        let (authfile, ready) = (builder.home().join("auths"), builder.home().join("ready"));
        std::fs::write(&authfile, auths("up:stream")).unwrap();
        let registry = builder
            .args(["--authfile", authfile.to_str().unwrap()])
            .args(["--ready-file", ready.to_str().unwrap()])
            .start()
            .await;
        let mode = std::fs::metadata(&ready).unwrap().permissions().mode();
        assert_eq!(mode & 0o077 == 0, args.is_empty());
        let ready: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
        let password = ready["password"].as_str().unwrap_or("secret");
        let user = basic("standin", password);
        let port = ready["listeners"][1].as_str().unwrap();
        let port = port.rsplit_once(':').unwrap().1;
        let base = format!("http://{address}:{port}");
        let client = Client::new(&base, &std::fs::read(registry.ca()).unwrap(), &[]);

        let here = registry.client();
        let digest = &image.manifest.digest;
        let blob = &image.blobs().next().unwrap().digest;
        let paths = [
            "manifests/v1".to_owned(),
            format!("manifests/{digest}"),
            format!("blobs/{blob}"),
            "tags/list".to_owned(),
            format!("referrers/{digest}"),
        ];
        for path in &paths {
            let path = format!("/v2/{PRIVATE}/acme/app/{path}");
            here.get(&path).answer().await.expect(200);
        }
        let asked = private.requests().len();
        let token = bearer(
            &client,
            &user,
            &format!("repository:{PRIVATE}/acme/app:pull"),
        )
        .await;
        let nobodys = bearer(&client, "", &format!("repository:{PRIVATE}/acme/app:pull")).await;
        for path in &paths {
            for (registry, who, status) in [
                ("public.example", "", 200),
                (PRIVATE, "", 401),
                (PRIVATE, nobodys.as_str(), 401),
                (PRIVATE, basic("standin", "wrong").as_str(), 401),
                (PRIVATE, user.as_str(), 200),
                (PRIVATE, token.as_str(), 200),
            ] {
                let path = format!("/v2/{registry}/acme/app/{path}");
                for method in [Method::HEAD, Method::GET] {
                    if method == Method::HEAD && path.contains("referrers") {
                        continue;
                    }
                    let request = client.request(method.clone(), &path).authorized(who);
                    let answer = request.answer().await;
                    assert_eq!(answer.status, status, "{method} {path} {who}");
                    if status == 401 {
                        let challenge = answer.header("www-authenticate");
                        let scope = format!("scope=\"repository:{PRIVATE}/acme/app:pull\"");
                        assert!(challenge.contains(&scope), "{challenge}");
                    }
                }
            }
        }
        let refused = client
            .get(&format!("/v2/{PRIVATE}/acme/app/tags/list"))
            .answer()
            .await;
        let message = refused.refused(401, "UNAUTHORIZED").message();
        assert!(message.contains("public: true"), "{message}");
        // Whoever was refused had nothing asked: manifests and blobs were here, listings are asked for anew.
        let blobs = private.requests()[asked..]
            .iter()
            .any(|line| line.contains("/blobs/"));
        assert!(!blobs, "{:?}", private.requests());

        // What was pushed under such a name is one of its names, in the catalog too.
        for name in [
            format!("{PRIVATE}/acme/pushed"),
            "public.example/pushed".to_owned(),
        ] {
            push(&client, &user, &name, &image).await;
        }
        for (who, shown) in [("", false), (user.as_str(), true)] {
            let answer = client.get("/v2/_catalog").authorized(who).answer().await;
            let text = String::from_utf8(answer.expect(200).body.to_vec()).unwrap();
            assert!(text.contains("public.example/pushed"), "{text}");
            assert_eq!(text.contains(PRIVATE), shown, "{text}");
        }
    }
}
