//! Rules, passwords and keys, without a wire.

#![allow(clippy::unwrap_used)]

mod private;
mod tokens;

use std::time::{Duration, Instant};

use super::*;

/// What `htpasswd -B -C 5` makes of "letmein".
const HASHED: &str = "$2y$05$FeSA9szbv3ANMpNe.BuZpO9pPxuc.V1cbTl8uPOAQAaxQwuOCs3OG";

fn name(text: &str) -> CanonicalName {
    text.parse().unwrap()
}

fn on(pattern: &str, actions: &[Action]) -> Grant {
    let pattern = crate::types::Pattern::parse(pattern, |_| false).unwrap();
    Grant::on(vec![pattern], actions.iter().copied())
}

fn user(name: &str, grants: Vec<Grant>) -> User {
    User {
        name: name.parse().unwrap(),
        secret: Secret::plain(&format!("{name}'s password")).unwrap(),
        grants,
    }
}

fn writer() -> User {
    user("writer", vec![Grant::everywhere(Action::ALL)])
}

fn access(users: Vec<User>) -> Access {
    Access::of_users(users, Key::random().unwrap()).unwrap()
}

fn from_elsewhere(credentials: Credentials<'_>) -> Visitor<'_> {
    Visitor {
        credentials,
        on_loopback: false,
    }
}

fn as_user<'a>(user: &'a str, password: &'a str) -> Visitor<'a> {
    from_elsewhere(Credentials::Password { user, password })
}

fn scopes(texts: &[&str]) -> Vec<Scope> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn asks(
    access: &Access,
    visitor: Visitor<'_>,
    action: Action,
    spelled: &str,
) -> Result<Identity, Refusal> {
    let name = name(&match spelled.split_once('.') {
        Some(_) => spelled.to_owned(),
        None => format!("docker.io/{spelled}"),
    });
    let wanted = Wanted {
        action,
        name: &name,
        spelled,
    };
    access.permit(visitor, wanted).await
}

/// `Ok`: may; `401`: a log-in would help; `403`: it would not.
fn verdict(result: &Result<Identity, Refusal>) -> &'static str {
    match result {
        Ok(_) => "may",
        Err(Refusal::Denied { .. }) => "403",
        Err(_) => "401",
    }
}

#[tokio::test]
async fn what_nobody_needs_to_log_in_for() {
    let reader = || user("reader", vec![Grant::everywhere([Action::Pull])]);
    let team = |actions: &[Action]| user("team", vec![on("team/**", actions)]);
    for (policy, access, on_loopback, [log_in, pull, push, delete]) in [
        (
            "no users, loopback",
            Access::of_anyone().unwrap(),
            true,
            ["may", "may", "may", "may"],
        ),
        (
            "generated, loopback",
            Access::of_generated().unwrap().0,
            true,
            ["may", "may", "may", "may"],
        ),
        (
            "generated, elsewhere",
            Access::of_generated().unwrap().0,
            false,
            ["401", "may", "401", "401"],
        ),
        (
            "writer, loopback",
            access(vec![writer()]),
            true,
            ["401", "may", "401", "401"],
        ),
        (
            "writer, elsewhere",
            access(vec![writer()]),
            false,
            ["401", "may", "401", "401"],
        ),
        (
            "reader",
            access(vec![writer(), reader()]),
            true,
            ["401", "401", "401", "401"],
        ),
        (
            "team pulls some",
            access(vec![team(&Action::ALL)]),
            true,
            ["401", "401", "401", "401"],
        ),
        (
            "team pushes some",
            access(vec![team(&[Action::Push])]),
            true,
            ["401", "may", "401", "401"],
        ),
        (
            "a pattern for all",
            access(vec![user("all", vec![on("**", &Action::ALL)])]),
            true,
            ["401", "may", "401", "401"],
        ),
    ] {
        let visitor = Visitor {
            credentials: Credentials::None,
            on_loopback,
        };
        assert_eq!(
            verdict(&access.log_in(visitor).await),
            log_in,
            "{policy}: log in"
        );
        assert_eq!(
            verdict(&access.reader(visitor).await),
            pull,
            "{policy}: catalog"
        );
        for (action, expected) in Action::ALL.into_iter().zip([pull, push, delete]) {
            let result = asks(&access, visitor, action, "acme/app").await;
            assert_eq!(verdict(&result), expected, "{policy}: {action}");
        }
    }
}

#[tokio::test]
async fn what_users_may() {
    let access = access(vec![
        writer(),
        user("reader", vec![Grant::everywhere([Action::Pull])]),
        user(
            "team",
            vec![
                on("team-a/**", &[Action::Pull, Action::Push]),
                on("quay.io/shared/*", &[Action::Pull]),
            ],
        ),
    ]);
    for (who, spelled, [pull, push, delete]) in [
        ("writer", "acme/app", ["may", "may", "may"]),
        ("reader", "acme/app", ["may", "403", "403"]),
        ("team", "team-a/app", ["may", "may", "403"]),
        ("team", "quay.io/team-a/x/y", ["may", "may", "403"]),
        ("team", "team-b/app", ["403", "403", "403"]),
        ("team", "team-ab/app", ["403", "403", "403"]),
        ("team", "quay.io/shared/app", ["may", "403", "403"]),
        ("team", "shared/app", ["403", "403", "403"]),
        ("nobody", "acme/app", ["401", "401", "401"]),
        ("Writer", "acme/app", ["401", "401", "401"]),
    ] {
        let password = format!("{who}'s password");
        for (action, expected) in Action::ALL.into_iter().zip([pull, push, delete]) {
            let result = asks(&access, as_user(who, &password), action, spelled).await;
            assert_eq!(verdict(&result), expected, "{who} {action} {spelled}");
        }
    }
    let team = access
        .log_in(as_user("team", "team's password"))
        .await
        .unwrap();
    assert!(team.may(Action::Pull, &name("docker.io/team-a/app")));
    assert!(!team.may(Action::Pull, &name("docker.io/team-b/app")));
    let refusal = asks(
        &access,
        as_user("reader", "reader's password"),
        Action::Push,
        "acme/app",
    );
    let message = refusal.await.unwrap_err().to_string();
    for fragment in ["reader", "push", "docker.io/acme/app"] {
        assert!(message.contains(fragment), "{message}");
    }
}

#[tokio::test]
async fn to_log_in_takes_nothing_away() {
    let access = access(vec![user("pusher", vec![on("a/*", &[Action::Push])])]);
    let pusher = access
        .log_in(as_user("pusher", "pusher's password"))
        .await
        .unwrap();
    assert!(pusher.may(Action::Pull, &name("docker.io/b/app")));
    assert!(!pusher.may(Action::Push, &name("docker.io/b/app")));
}

#[tokio::test]
async fn credentials_that_are_wrong() {
    let access = access(vec![writer()]);
    for (credentials, expected) in [
        (
            Credentials::None,
            Refusal::LogIn("this registry".to_owned()),
        ),
        (
            Credentials::Password {
                user: "writer",
                password: "writer's passwor",
            },
            Refusal::WrongPassword {
                user: "\"writer\"".to_owned(),
            },
        ),
        (
            Credentials::Password {
                user: "a\nb",
                password: "",
            },
            Refusal::WrongPassword {
                user: "\"a\\nb\"".to_owned(),
            },
        ),
        (Credentials::Malformed, Refusal::Malformed),
        (
            Credentials::Token("x.y.z"),
            Refusal::Token(BadToken::Foreign),
        ),
        (Credentials::Token(""), Refusal::Token(BadToken::Foreign)),
    ] {
        let refusal = access
            .log_in(from_elsewhere(credentials))
            .await
            .unwrap_err();
        assert_eq!(refusal, expected);
        // Where anyone may read, whatever comes is ignored.
        let read = asks(
            &access,
            from_elsewhere(credentials),
            Action::Pull,
            "acme/app",
        )
        .await;
        assert_eq!(verdict(&read), "may", "{expected:?}");
    }
}

#[tokio::test]
async fn bcrypt_is_paid_once_by_who_is_right_and_always_by_who_is_not() {
    let hashed = |name: &str, cost: &str| User {
        name: name.parse().unwrap(),
        secret: Secret::bcrypt(&HASHED.replace("$05$", cost)).unwrap(),
        grants: Vec::new(),
    };
    // The hash of the dear one is of no known password, which takes just as long to find out.
    let passwords = Passwords::new(vec![
        hashed("cheap", "$05$"),
        hashed("dear", "$09$"),
        writer(),
    ]);
    let passwords = passwords.unwrap();
    // The least of three, since other work on the machine only adds.
    let took = async |name: &str, password: &str, right: bool| {
        let mut least = Duration::MAX;
        for _ in 0..3 {
            let started = Instant::now();
            let found = passwords.check(name, password).await;
            least = least.min(started.elapsed());
            assert_eq!(found.is_some(), right, "{name} {password}");
        }
        least
    };
    let dear = took("dear", "wrong", false).await;
    for (name, password) in [
        ("cheap", "wrong"),
        ("nobody", "letmein"),
        ("writer", "wrong"),
        ("", ""),
    ] {
        let elapsed = took(name, password, false).await;
        assert!(elapsed > dear / 4, "{name:?}: {elapsed:?} against {dear:?}");
    }
    let remembered = took("cheap", "letmein", true).await;
    assert!(remembered < dear / 4, "{remembered:?} against {dear:?}");
    took("cheap", "letmein2", false).await;
    took("cheap", "letmein", true).await;
}

#[test]
fn a_key_is_kept_and_is_nobody_elses() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let made = Key::kept_in(&state).unwrap();
    let mode = std::fs::metadata(state.join("token.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        std::fs::read_dir(&state).unwrap().count(),
        1,
        "nothing else is left there"
    );
    assert!(made.bytes() == Key::kept_in(&state).unwrap().bytes());
    assert!(made.bytes() != Key::random().unwrap().bytes());

    let file = dir.path().join("own.key");
    let refusal = |contents: Option<&[u8]>| {
        if let Some(contents) = contents {
            std::fs::write(&file, contents).unwrap();
        }
        Key::in_file(&file).err().map(|error| error.to_string())
    };
    for (contents, fragment) in [
        (None, "openssl rand"),
        (Some(&[7; 31][..]), "31 bytes"),
        (Some(&[7; 4097]), "no token key"),
    ] {
        let message = refusal(contents).unwrap();
        assert!(message.contains(fragment), "{message}");
        assert!(message.contains("own.key"), "{message}");
    }
    assert_eq!(refusal(Some(&[7; 32])), None);
}
