//! What tokens are given for, what they are good for, and how they end.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn a_token_is_judged_by_its_scope_and_by_the_rules() {
    let access = access(vec![
        writer(),
        user("reader", vec![Grant::everywhere([Action::Pull])]),
    ]);
    for (who, scope, spelled, action, expected) in [
        (
            "writer",
            "repository:acme/app:pull,push",
            "acme/app",
            Action::Push,
            "may",
        ),
        (
            "writer",
            "repository:acme/app:*",
            "acme/app",
            Action::Delete,
            "may",
        ),
        (
            "writer",
            "repository:acme/app:pull",
            "acme/app",
            Action::Push,
            "401",
        ),
        (
            "writer",
            "repository:acme/app:push",
            "acme/app",
            Action::Pull,
            "401",
        ),
        (
            "writer",
            "repository:acme/other:push",
            "acme/app",
            Action::Push,
            "401",
        ),
        (
            "writer",
            "registry:catalog:*",
            "acme/app",
            Action::Pull,
            "401",
        ),
        (
            "writer",
            "repository(plugin):acme/app:pull",
            "acme/app",
            Action::Pull,
            "may",
        ),
        // The source's component may be left out, and no other.
        (
            "writer",
            "repository:quay.io/a/b:pull",
            "quay.io/a/b",
            Action::Pull,
            "may",
        ),
        (
            "writer",
            "repository:a/b:pull",
            "quay.io/a/b",
            Action::Pull,
            "may",
        ),
        (
            "writer",
            "repository:b:pull",
            "quay.io/a/b",
            Action::Pull,
            "401",
        ),
        (
            "writer",
            "repository:app:pull",
            "acme/app",
            Action::Pull,
            "401",
        ),
        // Whatever was asked for, the rules decide.
        (
            "reader",
            "repository:acme/app:pull,push",
            "acme/app",
            Action::Pull,
            "may",
        ),
        (
            "reader",
            "repository:acme/app:pull,push",
            "acme/app",
            Action::Push,
            "403",
        ),
    ] {
        let password = format!("{who}'s password");
        let issued = access
            .issue(as_user(who, &password), scopes(&[scope]), false)
            .await
            .unwrap();
        let visitor = from_elsewhere(Credentials::Token(&issued.token));
        let result = asks(&access, visitor, action, spelled).await;
        assert_eq!(
            verdict(&result),
            expected,
            "{who} {scope}: {action} {spelled}"
        );
    }
}

#[tokio::test]
async fn what_tokens_are_given_for() {
    let open = access(vec![writer()]);
    let closed = access(vec![
        writer(),
        user("reader", vec![Grant::everywhere([Action::Pull])]),
    ]);
    let right = Credentials::Password {
        user: "writer",
        password: "writer's password",
    };
    let wrong = Credentials::Password {
        user: "writer",
        password: "wrong",
    };
    let pull = &["repository:a:pull"][..];
    let push = &["repository:a:pull,push"][..];
    let both = &["repository:a:pull", "repository:b:push"][..];
    for (policy, access, asked, expected) in [
        // With the right password, a wrong one, none, and a refresh token that is none.
        ("open", &open, &[][..], ["user", "401", "401", "401"]),
        (
            "open",
            &open,
            pull,
            ["nobody", "nobody", "nobody", "nobody"],
        ),
        ("open", &open, push, ["user", "401", "401", "401"]),
        ("open", &open, both, ["user", "401", "401", "401"]),
        (
            "open",
            &open,
            &["registry:catalog:*"],
            ["user", "401", "401", "401"],
        ),
        ("closed", &closed, &[], ["user", "401", "401", "401"]),
        ("closed", &closed, pull, ["user", "401", "401", "401"]),
        ("closed", &closed, push, ["user", "401", "401", "401"]),
    ] {
        let foreign = Credentials::RefreshToken("of another registry");
        for (credentials, expected) in [right, wrong, Credentials::None, foreign]
            .into_iter()
            .zip(expected)
        {
            let issued = access
                .issue(from_elsewhere(credentials), scopes(asked), false)
                .await;
            let found = match issued {
                Err(Error::Refused(_)) => "401",
                Err(other) => panic!("{other}"),
                Ok(issued) => match access.claims(&issued.token, Purpose::Access).unwrap().user {
                    Some(_) => "user",
                    None => "nobody",
                },
            };
            assert_eq!(found, expected, "{policy}: {asked:?}");
        }
    }
}

#[tokio::test]
async fn a_refresh_token_buys_tokens_and_nothing_else() {
    let access = access(vec![writer()]);
    let push = || scopes(&["repository:acme/app:push"]);
    let visitor = as_user("writer", "writer's password");
    assert_eq!(
        access
            .issue(visitor, push(), false)
            .await
            .unwrap()
            .refresh_token,
        None
    );
    let stays = access.issue(visitor, Vec::new(), true).await.unwrap();
    let refresh = stays.refresh_token.unwrap();

    let visitor = from_elsewhere(Credentials::RefreshToken(&refresh));
    let issued = access.issue(visitor, push(), false).await.unwrap();
    assert_eq!(issued.refresh_token.as_deref(), Some(&*refresh));
    let visitor = from_elsewhere(Credentials::Token(&issued.token));
    let result = asks(&access, visitor, Action::Push, "acme/app").await;
    assert_eq!(result.unwrap().user().unwrap().as_str(), "writer");

    let misused = from_elsewhere(Credentials::Token(&refresh));
    let refusal = asks(&access, misused, Action::Push, "acme/app").await;
    assert_eq!(refusal.unwrap_err(), Refusal::Token(BadToken::Purpose));
    let misused = from_elsewhere(Credentials::RefreshToken(&issued.token));
    let refusal = access.issue(misused, push(), false).await.unwrap_err();
    assert!(matches!(
        refusal,
        Error::Refused(Refusal::Token(BadToken::Purpose))
    ));
}

#[tokio::test]
async fn a_token_ends_with_its_user_its_secret_and_its_key() {
    let key = Key::random().unwrap();
    let of = |users, key: &Key| Access::of_users(users, key.clone()).unwrap();
    let before = of(vec![writer()], &key);
    let visitor = as_user("writer", "writer's password");
    let issued = before.issue(visitor, Vec::new(), true).await.unwrap();
    let refresh = issued.refresh_token.unwrap();
    let changed = User {
        secret: Secret::plain("another").unwrap(),
        ..writer()
    };
    let gone = user("other", vec![Grant::everywhere(Action::ALL)]);
    for (what, access, expected) in [
        ("nothing", of(vec![writer()], &key), None),
        ("the secret", of(vec![changed], &key), Some(BadToken::Stale)),
        ("the user", of(vec![gone], &key), Some(BadToken::Stale)),
        ("the key", access(vec![writer()]), Some(BadToken::Foreign)),
    ] {
        let expected = expected.map(Refusal::Token);
        let result = access.log_in(from_elsewhere(Credentials::Token(&issued.token)));
        assert_eq!(result.await.err(), expected, "{what} is another");
        let visitor = from_elsewhere(Credentials::RefreshToken(&refresh));
        let result = access.issue(visitor, Vec::new(), false).await;
        assert_eq!(result.is_ok(), expected.is_none(), "{what} is another");
    }
}

#[test]
fn tokens_expire_and_can_not_be_forged() {
    let tokens = Tokens::new(Key::random().unwrap());
    let now = SystemTime::now();
    let issued = tokens.access(Some(&writer()), Vec::new(), now).unwrap();
    let read = |token: &str, after| tokens.read(token, Purpose::Access, now + after).err();
    let life = issued.expires_in;
    assert_eq!(life, Duration::from_secs(3600));
    assert_eq!(read(&issued.token, Duration::ZERO), None);
    assert_eq!(read(&issued.token, life - Duration::from_secs(1)), None);
    assert_eq!(
        read(&issued.token, life + Duration::from_secs(1)),
        Some(BadToken::Expired)
    );

    let parts: Vec<&str> = issued.token.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        panic!("{parts:?}");
    };
    // {"alg":"none"}, with and without a signature.
    let unsigned = "eyJhbGciOiJub25lIn0";
    for forged in [
        format!("{unsigned}.{claims}."),
        format!("{unsigned}.{claims}.{signature}"),
        format!("{header}.{claims}."),
        format!("{header}.{claims}A.{signature}"),
        format!("{header}.{signature}.{claims}"),
    ] {
        assert_eq!(
            read(&forged, Duration::ZERO),
            Some(BadToken::Foreign),
            "{forged}"
        );
    }
}

#[test]
fn scopes_and_what_is_none() {
    for (text, pull) in [
        ("repository:a/b:pull", true),
        ("repository:localhost:5000/a:pull", true),
        ("repository:a:pull,push", false),
        ("repository:a:*", false),
        ("registry:catalog:pull", false),
    ] {
        assert_eq!(text.parse::<Scope>().unwrap().is_pull(), pull, "{text}");
    }
    for bad in [
        "",
        "repository",
        "repository:a",
        "repository::pull",
        ":a:pull",
        "a b",
    ] {
        let message = bad.parse::<Scope>().unwrap_err().to_string();
        assert!(message.contains("repository:NAME:pull,push"), "{message}");
    }
}
