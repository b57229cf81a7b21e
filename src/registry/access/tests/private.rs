//! What standin reads with a log-in of its own, and who may read it from standin.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn registries() -> Vec<RegistryHost> {
    ["docker.io", "quay.io"]
        .map(|host| host.parse().unwrap())
        .into()
}

/// Keeps quay.io's.
fn keeping(access: Access) -> Access {
    access.keeping(registries(), |host| host.host() == "quay.io")
}

fn here(credentials: Credentials<'_>) -> Visitor<'_> {
    Visitor {
        credentials,
        on_loopback: true,
    }
}

async fn token_of(access: &Access, visitor: Visitor<'_>, scope: &str) -> String {
    let issued = access.issue(visitor, scopes(&[scope]), false).await;
    issued.unwrap().token
}

#[tokio::test]
async fn what_is_private_takes_a_log_in_elsewhere() {
    let nobody = from_elsewhere(Credentials::None);
    let pusher = user("pusher", vec![Grant::everywhere([Action::Push])]);
    let (generated, made) = Access::of_generated().unwrap();
    let of_users = keeping(access(vec![writer(), pusher]));
    let generated = keeping(generated);
    let standin = as_user("standin", &made.password);
    let writer = as_user("writer", "writer's password");
    let wrong = as_user("writer", "wrong");
    let pusher = as_user("pusher", "pusher's password");
    for (access, who, visitor, public, private) in [
        (&of_users, "nobody", nobody, "may", "401"),
        (&of_users, "writer", writer, "may", "may"),
        (&of_users, "wrong", wrong, "may", "401"),
        (&of_users, "pusher", pusher, "may", "403"),
        (
            &of_users,
            "nobody, here",
            here(Credentials::None),
            "may",
            "may",
        ),
        (&generated, "nobody", nobody, "may", "401"),
        (&generated, "standin", standin, "may", "may"),
        (
            &generated,
            "nobody, here",
            here(Credentials::None),
            "may",
            "may",
        ),
    ] {
        for (name, expected) in [
            ("docker.io/acme/app", public),
            ("ghcr.io/acme/app", public),
            ("quay.io/acme/app", private),
        ] {
            let found = asks(access, visitor, Action::Pull, name).await;
            assert_eq!(verdict(&found), expected, "{who} {name}");
        }
    }
    let refused = asks(&of_users, nobody, Action::Pull, "quay.io/acme/app").await;
    let message = refused.unwrap_err().to_string();
    for part in [
        "quay.io/acme/app",
        "docker login",
        "public: true for quay.io",
    ] {
        assert!(message.contains(part), "{message}");
    }
    // To push takes a log-in anyway, and needs no other words.
    let refused = asks(&of_users, nobody, Action::Push, "quay.io/acme/app").await;
    assert!(matches!(refused, Err(Refusal::LogIn(_))), "{refused:?}");
}

#[tokio::test]
async fn a_token_for_reading_says_who_has_logged_in() {
    let access = keeping(access(vec![writer()]));
    let scope = "repository:quay.io/acme/app:pull";
    let quay = "quay.io/acme/app";
    let nobody = from_elsewhere(Credentials::None);
    for (visitor, expected) in [
        (as_user("writer", "writer's password"), "may"),
        (as_user("writer", "wrong"), "401"),
        (nobody, "401"),
    ] {
        let token = token_of(&access, visitor, scope).await;
        let visitor = from_elsewhere(Credentials::Token(&token));
        let found = asks(&access, visitor, Action::Pull, quay).await;
        assert_eq!(verdict(&found), expected);
        let found = asks(&access, visitor, Action::Pull, "acme/app").await;
        assert_eq!(verdict(&found), "may");
    }
}

#[tokio::test]
async fn what_a_request_does_besides_is_judged_as_well() {
    let readers_of_team = Grant::on(
        vec![crate::types::Pattern::parse("team/**", |_| false).unwrap()],
        [Action::Push],
    );
    let access = keeping(access(vec![writer(), user("team", vec![readers_of_team])]));
    let may_read = |identity: &Identity| {
        let names = ["docker.io/acme/app", "quay.io/acme/app"];
        names.map(|text| identity.may(Action::Pull, &name(text)))
    };
    let team = as_user("team", "team's password");
    let pushing = asks(&access, team, Action::Push, "team/app").await.unwrap();
    assert_eq!(may_read(&pushing), [true, false]);
    // The catalog.
    for (visitor, expected) in [
        (from_elsewhere(Credentials::None), [true, false]),
        (as_user("writer", "wrong"), [true, false]),
        (as_user("writer", "writer's password"), [true, true]),
        (here(Credentials::None), [true, true]),
    ] {
        let reader = access.reader(visitor).await.unwrap();
        assert_eq!(may_read(&reader), expected);
    }
}

#[tokio::test]
async fn a_log_in_that_comes_later_counts_at_once() {
    static LOGGED_IN: AtomicBool = AtomicBool::new(false);
    let access = access(vec![writer()]);
    let access = access.keeping(registries(), |_| LOGGED_IN.load(Ordering::SeqCst));
    let nobody = from_elsewhere(Credentials::None);
    let ask = || asks(&access, nobody, Action::Pull, "quay.io/acme/app");
    assert_eq!(verdict(&ask().await), "may");
    LOGGED_IN.store(true, Ordering::SeqCst);
    assert_eq!(verdict(&ask().await), "401");
}
