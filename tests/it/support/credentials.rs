//! What clients show to say who they are, and how they get their tokens.

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::RequestBuilder;

use super::{Answer, Client, Exchange, client::finish, image::Image};

/// The value of `Authorization` for a user and a password.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Requests that carry an `Authorization`, or none where it is empty.
pub(crate) trait Authorized {
    fn authorized(self, authorization: &str) -> Self;
}

impl Authorized for RequestBuilder {
    fn authorized(self, authorization: &str) -> Self {
        match authorization {
            "" => self,
            value => self.header("authorization", value),
        }
    }
}

/// Asks for a token as docker does: GET with Basic, `query` without its question mark.
pub(crate) async fn ask_token(client: &Client, authorization: &str, query: &str) -> Answer {
    let path = format!("/auth/token?service=standin&{query}");
    client.get(&path).authorized(authorization).answer().await
}

/// The value of `Authorization` with a token for `scope`.
pub(crate) async fn bearer(client: &Client, authorization: &str, scope: &str) -> String {
    let answer = ask_token(client, authorization, &format!("scope={scope}")).await;
    token_of(&answer.expect(200))
}

/// The value of `Authorization` with the token that was answered.
#[track_caller]
pub(crate) fn token_of(answer: &Answer) -> String {
    format!("Bearer {}", answer.json()["token"].as_str().unwrap())
}

/// Opens an upload session; its `Location`.
pub(crate) async fn start_upload(client: &Client, who: &str, name: &str) -> String {
    let request = client.post(&format!("/v2/{name}/blobs/uploads/"));
    let answer = request.authorized(who).answer().await;
    answer.expect(202).header("location").to_owned()
}

/// Pushes the image as `who`, under the tag `v1`.
pub(crate) async fn push(client: &Client, who: &str, name: &str, image: &Image) {
    for blob in image.blobs() {
        let location = start_upload(client, who, name).await;
        let request = client.put(&finish(&location, &blob.digest)).authorized(who);
        request.body(blob.bytes.clone()).answer().await.expect(201);
    }
    let request = client
        .put(&format!("/v2/{name}/manifests/v1"))
        .authorized(who);
    request
        .body(image.manifest.bytes.clone())
        .answer()
        .await
        .expect(201);
}

/// An IPv4 address of this machine that is not loopback, if there is one.
pub(crate) fn other_address() -> Option<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap();
    let mut addresses = interfaces.iter().map(if_addrs::Interface::ip);
    addresses.find(|address| address.is_ipv4() && !address.is_loopback())
}
