//! Registries with mirrors, as a client meets them: who is asked in which order, and what of it is seen.

use crate::support::{
    Exchange as _, FakeUpstream, Reply, TestRegistry, image::Image, upstream::ClosedPort,
};

/// Whose mirror has its content below `hub/`.
async fn mirrored() -> (FakeUpstream, FakeUpstream, TestRegistry) {
    let (mirror, itself) = (FakeUpstream::start().await, FakeUpstream::start().await);
    let flag = format!("docker.io={}/hub", mirror.url());
    let registry = TestRegistry::builder()
        .registry("docker.io", &itself.url())
        .args(["--mirror", &flag])
        .start()
        .await;
    (mirror, itself, registry)
}

#[tokio::test]
async fn what_the_mirror_has_is_not_asked_of_the_registry() {
    let (mirror, itself, registry) = mirrored().await;
    let image = Image::small(1);
    mirror.add_image("hub/acme/app", "v1", &image);
    let client = registry.client();
    client.pull_image("acme/app", "v1", &image).await;
    assert_eq!(itself.requests(), [""; 0]);
    // It is docker.io's image, and no second download by another spelling.
    let asked = mirror.requests();
    client.pull_image("docker.io/acme/app", "v1", &image).await;
    assert_eq!(mirror.requests(), asked);
}

#[tokio::test]
async fn what_the_mirror_lacks_or_fails_at_comes_from_the_registry() {
    for outage in [None, Some(Reply::Status(500)), Some(Reply::LoginPage)] {
        let (mirror, itself, registry) = mirrored().await;
        let image = Image::small(2);
        itself.add_image("acme/app", "v1", &image);
        if let Some(reply) = outage {
            mirror.fail(reply);
        }
        registry.client().pull_image("acme/app", "v1", &image).await;
        let below = |request: &String| request.contains(" /v2/hub/acme/app/");
        assert!(mirror.requests().iter().all(below));
        assert!(!mirror.requests().is_empty());
    }
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_the_message_names_them_all() {
    let (first, second) = (ClosedPort::reserve(), FakeUpstream::start().await);
    let itself = FakeUpstream::start().await;
    for upstream in [&second, &itself] {
        upstream.fail(Reply::Status(503));
    }
    let flags = [first.url(), second.url()].map(|url| format!("--mirror=docker.io={url}"));
    let registry = TestRegistry::builder()
        .registry("docker.io", &itself.url())
        .args(flags)
        .start()
        .await;
    let client = registry.client();
    let failed = client.get("/v2/acme/app/manifests/v1").answer().await;
    let message = failed.refused(404, "MANIFEST_UNKNOWN").message();
    let place = |text: &str| {
        message
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {message}"))
    };
    let (own, one, two) = (
        place("docker.io: it answered 503"),
        place(&first.url()),
        place(&second.url()),
    );
    assert!(own < one && one < two, "{message}");
    assert!(message.contains("was refused"), "{message}");

    second.recover();
    let image = Image::small(3);
    second.add_image("acme/app", "v1", &image);
    client.pull_image("acme/app", "v1", &image).await;
}

#[tokio::test]
async fn a_dead_registry_is_left_alone_for_a_while() {
    let closed = ClosedPort::reserve();
    let registry = TestRegistry::builder()
        .registry("docker.io", &closed.url())
        .start()
        .await;
    let client = registry.client();
    let told = async |tag: &str| {
        let path = format!("/v2/acme/app/manifests/{tag}");
        let failed = client.get(&path).answer().await;
        failed.refused(404, "MANIFEST_UNKNOWN").message()
    };
    let first = told("v1").await;
    assert!(first.contains("was refused"), "{first}");
    assert!(!first.contains("not asked again"), "{first}");
    let second = told("v2").await;
    assert!(second.contains("not asked again for"), "{second}");
    assert!(second.contains("was refused"), "{second}");
}

#[tokio::test]
async fn what_a_registry_redirects_to_is_checked() {
    let itself = FakeUpstream::start().await;
    let there = Reply::Redirect("http://169.254.169.254/latest/meta-data".to_owned());
    itself.fail(there);
    let registry = TestRegistry::builder()
        .registry("docker.io", &itself.url())
        .start()
        .await;
    let failed = registry.client().get("/v2/acme/app/manifests/v1");
    let failed = failed.answer().await.refused(404, "MANIFEST_UNKNOWN");
    assert!(failed.message().contains("169.254.169.254"), "{failed:?}");
}
