//! The credential that is made up where others reach the registry and no users are configured.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt};

use serde_json::Value;

use crate::support::{
    Client, Exchange, TestRegistry,
    credentials::{ask_token, basic, bearer, other_address, push},
    image::Image,
};

#[tokio::test]
async fn whoever_listens_elsewhere_without_users_gets_a_password() {
    let builder = TestRegistry::builder();
    let file = builder.home().join("ready.json");
    let builder = builder.args([
        "--listen",
        "0.0.0.0:0",
        "--ready-file",
        file.to_str().unwrap(),
    ]);
    let registry = builder.env("RUST_LOG", "off").start().await;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ready: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let password = ready["password"].as_str().unwrap();
    assert_eq!(ready["user"], "standin");
    let line = registry.log().line_with(&["standin", password]).await;
    assert_eq!(registry.log().count(&[password]), 1, "{line}");

    // On loopback it is good for nothing, since nothing needs it.
    push(&registry.client(), "", "acme/app", &Image::small(1)).await;

    let Some(address) = other_address() else {
        eprintln!("this machine has no address but loopback: what others may do is not tried here");
        return;
    };
    let wildcard: SocketAddr = ready["listeners"][1].as_str().unwrap().parse().unwrap();
    let base = format!("http://{}", SocketAddr::new(address, wildcard.port()));
    let client = Client::new(&base, &std::fs::read(registry.ca()).unwrap(), &[]);
    client.get_manifest("acme/app", "v1").await.expect(200);
    client
        .get("/v2/")
        .answer()
        .await
        .refused(401, "UNAUTHORIZED");
    let refused = client.post("/v2/acme/app/blobs/uploads/").answer().await;
    let refused = refused.refused(401, "UNAUTHORIZED");
    let realm = format!("realm=\"{base}/auth/token\"");
    assert!(
        refused.header("www-authenticate").contains(&realm),
        "{refused:?}"
    );
    let standin = basic("standin", password);
    ask_token(&client, &basic("standin", "wrong"), "")
        .await
        .refused(401, "UNAUTHORIZED");
    let token = bearer(&client, &standin, "repository:acme/app:pull,push").await;
    for who in [standin, token] {
        push(&client, &who, "acme/app", &Image::small(2)).await;
    }

    // A new start has a new password.
    let registry = registry.restart().await;
    let again: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_ne!(again["password"], password);
    drop(registry);
}

#[tokio::test]
async fn a_ready_file_without_a_password_is_for_everyone_and_users_need_none() {
    for args in [
        &[][..],
        &["--listen", "0.0.0.0:0", "--user", "ci:secret:write"],
    ] {
        let builder = TestRegistry::builder();
        let file = builder.home().join("ready.json");
        let builder = builder.args(["--ready-file", file.to_str().unwrap()]);
        let registry = builder.args(args.iter().copied()).start().await;
        let ready: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(ready.get("password"), None, "{ready}");
        assert_eq!(ready.get("user"), None, "{ready}");
        drop(registry);
    }
}
