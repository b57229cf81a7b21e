//! Where a client that is refused is sent: a realm that it can reach, and a scope in its own words.

use crate::support::{
    Exchange, Raw, TestRegistry,
    credentials::{Authorized, basic, bearer},
    image::Image,
};

const USERS: &[&str] = &["--user", "ci:secret:write", "--user", "viewer:secret:read"];

/// The value of one parameter of a challenge.
fn parameter<'a>(challenge: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = challenge.split_once(&format!("{key}=\""))?;
    rest.split('"').next()
}

#[tokio::test]
async fn the_realm_is_where_the_client_came_to() {
    let args = USERS
        .iter()
        .chain(&["--external-url", "https://registry.example.com"]);
    let registry = TestRegistry::builder().args(args.copied()).start().await;
    let address = registry.address();
    for (host, realm) in [
        ("", format!("http://{address}/auth/token")),
        (
            "localhost:1234",
            "http://localhost:1234/auth/token".to_owned(),
        ),
        ("Mirror.ci", "http://Mirror.ci/auth/token".to_owned()),
        ("[::1]:5000", "http://[::1]:5000/auth/token".to_owned()),
        // Before it stands something that ends TLS, or speaks HTTP on another port.
        (
            "registry.example.com",
            "https://registry.example.com/auth/token".to_owned(),
        ),
        (
            "Registry.Example.com:443",
            "https://registry.example.com/auth/token".to_owned(),
        ),
        (
            "registry.example.com:5000",
            "http://registry.example.com:5000/auth/token".to_owned(),
        ),
        // What would break out of the quotes is not repeated.
        ("a\"b", format!("http://{address}/auth/token")),
    ] {
        let line = match host {
            "" => "GET /v2/".to_owned(),
            host => format!("GET /v2/\nHost: {host}"),
        };
        let answer = Raw::exchange(address, &line, b"").await;
        if host.contains('"') && answer.status == 400 {
            continue;
        }
        assert_eq!(answer.status, 401, "{host}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert_eq!(
            parameter(challenge, "realm"),
            Some(&*realm),
            "{host}: {challenge}"
        );
        assert_eq!(
            parameter(challenge, "service"),
            Some("standin"),
            "{challenge}"
        );
        assert_eq!(parameter(challenge, "scope"), None, "{challenge}");
    }
}

#[tokio::test]
async fn the_realm_over_tls_and_for_a_client_that_believes_it_talks_to_another_registry() {
    let builder = TestRegistry::builder().registry("quay.io", "http://127.0.0.1:9");
    let registry = builder.args(USERS.iter().copied()).start().await;
    let port = registry.address().port();
    for (client, host, path, scope) in [
        (
            registry.tls_client(),
            registry.address().to_string(),
            "/v2/",
            None,
        ),
        (
            registry.client_as("quay.io"),
            format!("quay.io:{port}"),
            "/v2/acme/app/tags/list",
            Some("repository:acme/app:pull"),
        ),
    ] {
        let answer = client.get(path).answer().await.refused(401, "UNAUTHORIZED");
        let challenge = answer.header("www-authenticate");
        let realm = format!("https://{host}/auth/token");
        assert_eq!(parameter(challenge, "realm"), Some(&*realm), "{challenge}");
        assert_eq!(parameter(challenge, "scope"), scope, "{challenge}");
        // And so it is: the token is had there, and is good.
        let token = bearer(&client, &basic("ci", "secret"), "repository:acme/app:pull").await;
        let answer = client.get("/v2/").authorized(&token).answer().await;
        answer.expect(200);
    }
}

#[tokio::test]
async fn the_scope_is_in_the_clients_words() {
    let registry = TestRegistry::builder()
        .args(USERS.iter().copied())
        .start()
        .await;
    let client = registry.client();
    for (method, path, scope) in [
        ("GET", "acme/app/manifests/v1", "repository:acme/app:pull"),
        ("HEAD", "acme/app/manifests/v1", "repository:acme/app:pull"),
        ("GET", "alpine/tags/list", "repository:alpine:pull"),
        (
            "GET",
            "library/alpine/tags/list",
            "repository:library/alpine:pull",
        ),
        (
            "GET",
            "acme/app/tags/list?ns=quay.io",
            "repository:acme/app:pull",
        ),
        (
            "GET",
            "quay.io/acme/app/tags/list",
            "repository:quay.io/acme/app:pull",
        ),
        (
            "GET",
            "quay.io/acme/app/tags/list?ns=quay.io",
            "repository:quay.io/acme/app:pull",
        ),
        (
            "POST",
            "acme/app/blobs/uploads/",
            "repository:acme/app:pull,push",
        ),
        (
            "PUT",
            "acme/app/manifests/v1",
            "repository:acme/app:pull,push",
        ),
        (
            "GET",
            "acme/app/blobs/uploads/x",
            "repository:acme/app:pull,push",
        ),
        (
            "DELETE",
            "acme/app/blobs/uploads/x",
            "repository:acme/app:pull,push",
        ),
    ] {
        let request = client.request(method.parse().unwrap(), &format!("/v2/{path}"));
        let answer = request.answer().await.expect(401);
        let challenge = answer.header("www-authenticate");
        assert_eq!(
            parameter(challenge, "scope"),
            Some(scope),
            "{method} {path}: {challenge}"
        );
        assert_eq!(parameter(challenge, "error"), None, "{challenge}");
    }
}

#[tokio::test]
async fn a_token_that_does_not_do_is_told_why() {
    let registry = TestRegistry::builder()
        .args(USERS.iter().copied())
        .start()
        .await;
    let client = registry.client();
    let ci = basic("ci", "secret");
    let reads = bearer(&client, &ci, "repository:acme/app:pull").await;
    for (who, error) in [
        ("Bearer x".to_owned(), Some("invalid_token")),
        (format!("{reads}x"), Some("invalid_token")),
        (reads, Some("insufficient_scope")),
        (basic("ci", "wrong"), None),
        ("Digest x".to_owned(), None),
        ("x".to_owned(), None),
    ] {
        let request = client.post("/v2/acme/app/blobs/uploads/").authorized(&who);
        let answer = request.answer().await.refused(401, "UNAUTHORIZED");
        let challenge = answer.header("www-authenticate");
        assert_eq!(parameter(challenge, "error"), error, "{who}: {challenge}");
        let scope = Some("repository:acme/app:pull,push");
        assert_eq!(parameter(challenge, "scope"), scope, "{who}: {challenge}");
    }
}

#[tokio::test]
async fn a_mirror_whose_url_ends_in_the_registrys_name_takes_scopes_without_it() {
    let registry = TestRegistry::builder()
        .args(USERS.iter().copied())
        .start()
        .await;
    let client = registry.client();
    let image = Image::small(1);
    client
        .put_manifest("quay.io/acme/app", "v1", &image.manifest)
        .await
        .refused(401, "UNAUTHORIZED");
    let viewer = basic("viewer", "secret");
    let scope = "repository:acme/app:pull";
    let token = bearer(&client, &viewer, scope).await;
    for (name, status) in [
        ("quay.io/acme/app", 404),
        ("acme/app", 404),
        ("quay.io/other/app", 401),
        ("app", 401),
        ("other/acme/app", 401),
    ] {
        let request = client.get(&format!("/v2/{name}/manifests/v1"));
        request.authorized(&token).answer().await.expect(status);
    }
}

#[tokio::test]
async fn what_needs_no_log_in_and_what_a_method_is_told_before_one() {
    let registry = TestRegistry::builder()
        .args(USERS.iter().copied())
        .start()
        .await;
    let client = registry.client();
    for path in ["/healthz", "/ca.pem"] {
        client.get(path).answer().await.expect(200);
    }
    let answer = client
        .put("/v2/acme/app/tags/list")
        .answer()
        .await
        .expect(405);
    assert_eq!(answer.header("allow"), "GET, HEAD");
    let answer = client.delete("/auth/token").answer().await.expect(405);
    assert_eq!(answer.header("allow"), "GET, HEAD, POST");
}
