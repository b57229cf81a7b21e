//! One port, plain and TLS, under a certificate authority of its own that outlives the process.

use std::{os::unix::fs::PermissionsExt, path::Path};

use crate::support::{Client, Exchange, Raw, TestRegistry, image::Image};

#[tokio::test]
async fn one_port_answers_plain_and_tls_by_address_and_by_name() {
    let registry = TestRegistry::start().await;
    let image = Image::small(1);
    let client = registry.tls_client();
    client.push_image("acme/app", "v1", &image).await;
    let port = registry.address().port();
    let pem = std::fs::read(registry.ca()).unwrap();
    for base in [
        format!("http://127.0.0.1:{port}"),
        format!("http://localhost:{port}"),
        format!("https://127.0.0.1:{port}"),
        format!("https://localhost:{port}"),
    ] {
        let dial = [("localhost", registry.address())];
        let client = Client::new(&base, &pem, &dial);
        client.pull_image("acme/app", "v1", &image).await;
    }
}

#[tokio::test]
async fn the_authority_is_served_and_is_the_file_the_ready_line_names() {
    let registry = TestRegistry::start().await;
    let served = registry.client().get("/ca.pem").answer().await.expect(200);
    assert_eq!(served.body, std::fs::read(registry.ca()).unwrap());
    let text = String::from_utf8(served.body.to_vec()).unwrap();
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----"), "{text}");
    assert!(!text.contains("PRIVATE KEY"));
}

#[tokio::test]
async fn keys_are_nobody_elses() {
    let registry = TestRegistry::start().await;
    let state = registry.home().join("state");
    assert_eq!(registry.ca(), state.join("ca.pem"));
    assert_eq!(mode(&state.join("ca.key")), 0o600);
    assert_eq!(mode(&state) & 0o077, 0);
    let data = registry.store().listing();
    let carries_keys = |entry: &String| entry.contains(".key") || entry.contains(".pem");
    assert!(!data.iter().any(carries_keys), "{data:?}");
}

#[tokio::test]
async fn it_is_kept_across_restarts() {
    let registry = TestRegistry::start().await;
    let before = pem(&registry);
    let registry = registry.restart().await;
    assert_eq!(pem(&registry), before);
    registry.tls_client().get("/v2/").answer().await.expect(200);
}

#[tokio::test]
async fn it_is_made_anew_with_a_notice_when_a_registry_is_added() {
    let builder = TestRegistry::builder().args(["--registry", "quay.io=http://127.0.0.1:9"]);
    let registry = builder.start().await;
    let before = pem(&registry);
    let builder = registry.stop().await;
    let registry = builder
        .registry("ghcr.io", "http://127.0.0.1:9")
        .start()
        .await;
    registry
        .log()
        .line_with(&["WARN", "certificate authority", "ghcr.io"])
        .await;
    let after = pem(&registry);
    assert_ne!(after, before);
    let client = registry.client_as("ghcr.io");
    let ping = client.get("/v2/").header("host", "ghcr.io");
    ping.answer().await.expect(200);

    // Whoever trusts the old one hears of it in one file: both are served while both are valid.
    let served = registry.client().get("/ca.pem").answer().await.expect(200);
    let served = String::from_utf8(served.body.to_vec()).unwrap();
    let old = String::from_utf8(before).unwrap();
    assert!(served.contains(old.trim()), "the old one is gone");
    assert_eq!(served.matches("BEGIN CERTIFICATE").count(), 2);

    // Fewer registries are no reason.
    let builder = registry.stop().await.plain();
    let registry = builder.start().await;
    assert_eq!(pem(&registry), after);
}

#[tokio::test]
async fn a_configured_registrys_name_is_answered_for_and_no_others() {
    let registry = TestRegistry::builder()
        .registry("quay.io", "http://127.0.0.1:9")
        .registry("docker.io", "http://127.0.0.1:9")
        .start()
        .await;
    for host in ["quay.io", "docker.io", "registry-1.docker.io"] {
        let client = registry.client_as(host);
        let ping = client.get("/v2/").header("host", host);
        ping.answer().await.expect(200);
    }
    for host in ["ghcr.io", "example.com"] {
        let client = registry.client_as(host);
        let failed = client.get("/v2/").header("host", host).send().await;
        let error = format!("{:?}", failed.unwrap_err());
        assert!(error.contains("InvalidCertificate"), "{host}: {error}");
        let told = registry.log().line_with(&["TLS handshake", host]).await;
        assert!(
            told.contains("--registry") && told.contains("--san"),
            "{told}"
        );
    }
    registry.client().get("/v2/").answer().await.expect(200);
}

#[tokio::test]
async fn a_san_is_a_name_of_ours() {
    let registry = TestRegistry::builder()
        .args(["--san", "registry.ci", "--san", "192.0.2.7"])
        .start()
        .await;
    let image = Image::small(2);
    let client = registry.client_as("registry.ci");
    client.push_image("acme/app", "v1", &image).await;
    // It names us, and no source: the name is the same as by address.
    registry.client().pull_image("acme/app", "v1", &image).await;
}

#[tokio::test]
async fn an_operators_own_certificate() {
    // Any server certificate will do: the one made for another server, and its key.
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let builder = TestRegistry::builder();
    let (chain, key) = (
        builder.home().join("own.pem"),
        builder.home().join("own.key"),
    );
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
    let registry = builder
        .args(["--tls-cert", chain, "--tls-key", key])
        .start()
        .await;
    let base = format!("https://{}", registry.address());
    let client = Client::new(&base, made.cert.pem().as_bytes(), &[]);
    client.get("/v2/").answer().await.expect(200);
    let proxy = format!("http://{}", registry.address());
    let by_proxy = Client::by_proxy(&base, made.cert.pem().as_bytes(), &proxy);
    by_proxy.get("/v2/").answer().await.expect(200);

    let swapped = TestRegistry::builder().args(["--tls-cert", key, "--tls-key", chain]);
    let (status, said) = swapped.fails_to_start().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(key), "{said}");
}

#[tokio::test]
async fn a_host_that_contradicts_the_server_name_is_misdirected() {
    let registry = TestRegistry::builder()
        .registry("quay.io", "http://127.0.0.1:9")
        .registry("ghcr.io", "http://127.0.0.1:9")
        .start()
        .await;
    let client = registry.client_as("quay.io");
    let ask = |path: &'static str, host: &'static str| client.get(path).header("host", host);
    for path in ["/v2/acme/app/tags/list", "/v2/"] {
        let answer = ask(path, "ghcr.io").answer().await;
        answer.expect(421);
    }
    ask("/v2/", "quay.io").answer().await.expect(200);
}

#[tokio::test]
async fn a_certificate_for_another_server_of_the_job() {
    let registry = TestRegistry::builder()
        .args(["--san", "db.ci"])
        .start()
        .await;
    let out = registry.home().join("certs");
    std::fs::create_dir(&out).unwrap();
    let mint = |name: &str| {
        let state = registry.home().join("state");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_standin"));
        command.args(["ca", "mint", name, "--out"]).arg(&out);
        command.arg("--data").arg(registry.home().join("data"));
        command.arg("--state").arg(state).output().unwrap()
    };
    let made = mint("db.ci");
    assert!(made.status.success(), "{made:?}");
    let printed = String::from_utf8(made.stdout).unwrap();
    let paths: Vec<&Path> = printed.lines().map(Path::new).collect();
    assert_eq!(paths, [out.join("db.ci.pem"), out.join("db.ci.key")]);
    assert_eq!(mode(paths[1]), 0o600);

    let (chain, key) = (paths[0].to_str().unwrap(), paths[1].to_str().unwrap());
    let other = TestRegistry::builder();
    let other = other.args(["--tls-cert", chain, "--tls-key", key, "--san", "db.ci"]);
    let other = other.start().await;
    let base = format!("https://db.ci:{}", other.address().port());
    let client = Client::new(&base, &pem(&registry), &[("db.ci", other.address())]);
    client.get("/v2/").answer().await.expect(200);

    let refused = mint("pypi.org");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("--san pypi.org"), "{said}");
}

#[tokio::test]
async fn an_authority_of_the_operators_signs_in_place_of_ours() {
    // Anybody's will do: another registry's, which permits the same names.
    let theirs = TestRegistry::start().await;
    let state = theirs.home().join("state");
    let [cert, key] = ["ca.pem", "ca.key"].map(|name| state.join(name).display().to_string());
    let given = || TestRegistry::builder().args(["--ca-cert", &cert, "--ca-key", &key]);
    let registry = given().start().await;
    assert_eq!(registry.ca(), theirs.ca());
    registry.tls_client().get("/v2/").answer().await.expect(200);
    let served = registry.client().get("/ca.pem").answer().await.expect(200);
    assert_eq!(served.body, pem(&theirs));
    let own = registry.home().join("state");
    assert!(!own.join("ca.pem").exists() && !own.join("ca.key").exists());
    let asked = std::process::Command::new(env!("CARGO_BIN_EXE_standin"))
        .args(["ca", "path"])
        .env("STANDIN_CA_CERT", &cert)
        .env("STANDIN_CA_KEY", &key)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(asked.stdout).unwrap().trim_end(), cert);

    for (builder, fragments) in [
        (
            given().registry("quay.io", "http://127.0.0.1:9"),
            &["ca.pem", "does not permit quay.io", "--ca-cert"][..],
        ),
        (
            TestRegistry::builder().args(["--ca-cert", &cert]),
            &["ca-key is not given"],
        ),
        (
            given().args(["--tls-cert", &cert, "--tls-key", &key]),
            &["tls-cert", "give either"],
        ),
    ] {
        let (status, said) = builder.fails_to_start().await;
        assert!(!status.success());
        for fragment in fragments {
            assert!(said.contains(fragment), "{said}");
        }
    }
}

#[tokio::test]
async fn a_request_byte_by_byte() {
    let registry = TestRegistry::start().await;
    let mut raw = Raw::connect(registry.address()).await;
    for byte in b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n" {
        raw.send(&[*byte]).await;
    }
    assert_eq!(raw.answer().await.status, 200);
}

fn pem(registry: &TestRegistry) -> Vec<u8> {
    std::fs::read(registry.ca()).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
