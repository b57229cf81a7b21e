//! Several endpoints, and dead ones: who is asked, and who is left alone.

use futures_util::future::{join, join_all};
use tokio::time::Instant;

use super::*;

#[tokio::test]
async fn mirrors_are_asked_first_and_the_registry_has_the_last_word() {
    let failure = |status: &str| vec![reply(status, "", "")];
    for (what, mirror, itself, expected, asked) in [
        (
            "the mirror has it",
            vec![good()],
            failure("404"),
            &["good"][..],
            0,
        ),
        (
            "the mirror lacks it",
            failure("404"),
            vec![good()],
            &["good"],
            1,
        ),
        (
            "the mirror fails",
            failure("500"),
            vec![good()],
            &["good"],
            1,
        ),
        (
            "the mirror refuses",
            failure("401"),
            vec![good()],
            &["good"],
            1,
        ),
        (
            "the mirror shows a page",
            vec![reply("200", "content-type: text/html", "")],
            vec![good()],
            &["good"],
            1,
        ),
        (
            "nobody has it",
            failure("404"),
            failure("404"),
            &["absent"],
            1,
        ),
        (
            "the mirror fails, the registry lacks it",
            failure("500"),
            failure("404"),
            &["absent"],
            1,
        ),
        (
            "the registry fails and the mirror lacks it",
            failure("404"),
            failure("503"),
            &["quay.io: it answered 503", "has no such thing"],
            4,
        ),
        (
            "both fail",
            failure("500"),
            failure("503"),
            &["it answered 503", "it answered 500"],
            4,
        ),
        (
            "the registry refuses",
            failure("500"),
            failure("401"),
            &["it answered 401"],
            1,
        ),
    ] {
        let (mirror, itself) = (Server::start(mirror).await, Server::start(itself).await);
        let options = Options {
            mirrors: vec![format!("{}/hub", mirror.url()).parse().unwrap()],
            ..at(&itself)
        };
        let told = pull(&upstreams(options, QUICK), Patience::Full).await;
        for fragment in expected {
            assert!(told.contains(fragment), "{what}: {told}");
        }
        assert_eq!(itself.requests().len(), asked, "{what}: {told}");
        assert_eq!(mirror.asked()[0], "get /v2/hub/acme/app/manifests/v1");
    }
}

#[tokio::test]
async fn a_mirror_that_says_nothing_leaves_time_for_the_registry() {
    let (mirror, itself) = (
        Server::start([Reply::Stall(Vec::new())]).await,
        Server::start([good()]).await,
    );
    let options = Options {
        mirrors: vec![mirror.url().parse().unwrap()],
        ..at(&itself)
    };
    let pace = Pace {
        budget: Duration::from_secs(4),
        ..QUICK
    };
    let upstreams = upstreams(options, pace);
    assert_eq!(pull(&upstreams, Patience::Full).await, "good");
    // From then on it is left alone.
    let asked = mirror.requests().len();
    assert_eq!(pull(&upstreams, Patience::Full).await, "good");
    assert_eq!(mirror.requests().len(), asked);
}

#[tokio::test]
async fn listings_are_asked_of_the_registry_first() {
    let tags = |tag: &str| reply("200", "", &format!("{{\"tags\":[\"{tag}\"]}}"));
    let (mirror, itself) = (
        Server::start([tags("some")]).await,
        Server::start([tags("all"), reply("400", "", "")]).await,
    );
    let options = Options {
        mirrors: vec![mirror.url().parse().unwrap()],
        ..at(&itself)
    };
    let upstreams = upstreams(options, QUICK);
    for expected in ["all", "some"] {
        let tags = upstreams.list_tags(&quay(), &name()).await.unwrap();
        assert_eq!(tags.unwrap()[0].as_str(), expected);
    }
}

#[tokio::test]
async fn names_are_rewritten_towards_the_registry() {
    let server = Server::start([good()]).await;
    let options = Options {
        rewrite: vec!["acme=ci/acme".parse().unwrap()],
        ..at(&server)
    };
    pull(&upstreams(options, QUICK), Patience::Full).await;
    assert_eq!(server.asked(), ["get /v2/ci/acme/app/manifests/v1"]);
}

#[tokio::test]
async fn a_dead_upstream_costs_its_time_out_once() {
    let server = Server::start([Reply::Stall(Vec::new())]).await;
    let pace = Pace {
        budget: Duration::from_secs(4),
        retries: 0,
        ..QUICK
    };
    let upstreams = upstreams(at(&server), pace);
    let late = async {
        tokio::time::sleep(pace.budget * 3 / 4).await;
        pull(&upstreams, Patience::Full).await
    };
    let (first, late) = join(pull(&upstreams, Patience::Full), late).await;
    assert_eq!(first, "quay.io: no answer within 4 seconds");
    // Who came later waits no longer than the first did.
    assert!(late.contains("not asked again for"), "{late}");
    let asked = server.requests().len();
    let told = join_all((0..16).map(|_| pull(&upstreams, Patience::Full))).await;
    for told in told {
        assert!(told.contains("not asked again for"), "{told}");
        assert!(told.contains("no answer within 4 seconds"), "{told}");
    }
    assert_eq!(server.requests().len(), asked);
}

#[tokio::test]
async fn withheld_is_who_is_not_asked_and_nobody_else() {
    let stall = Reply::Stall(Vec::new());
    let pace = Pace {
        budget: Duration::from_secs(2),
        retries: 0,
        rest: Rest {
            first: Duration::ZERO,
            longest: Duration::ZERO,
        },
        ..QUICK
    };
    let server = Server::start([stall.clone(), reply("403", "", ""), stall, good()]).await;
    let settings = settings(pace);
    let metrics = Arc::clone(settings.activity.metrics());
    let upstreams = Upstreams::new([(quay(), at(&server))].into(), settings);
    let is_withheld = || {
        let page = metrics.page().unwrap();
        page.contains("standin_upstream_withheld{registry=\"quay.io\"} 1")
    };

    let told = pull(&upstreams, Patience::Full).await;
    assert!(told.contains("no answer"), "{told}");
    assert!(is_withheld());
    // A refusal is an answer.
    let told = pull(&upstreams, Patience::Full).await;
    assert!(told.contains("403"), "{told}");
    assert!(!is_withheld());
    // Slow, while others are answered.
    let asked = server.requests().len();
    let meanwhile = async {
        while server.requests().len() == asked {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        pull(&upstreams, Patience::Full).await
    };
    let (told, good) = join(pull(&upstreams, Patience::Full), meanwhile).await;
    assert!(told.contains("no answer"), "{told}");
    assert_eq!(good, "good");
    assert!(!is_withheld());
}

/// What comes of the blob's headers.
async fn blob(upstreams: &Upstreams) -> Result<bool, String> {
    let effort = Patience::Full.into();
    let found = upstreams
        .get_blob(&quay(), &name(), &digest(), 0, effort)
        .await;
    found
        .map(|found| found.is_some())
        .map_err(|error| error.to_string())
}

/// A registry that refuses connections until its socket listens, and a short first rest.
fn away() -> (TcpSocket, Upstreams) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let rest = Rest {
        first: Duration::from_millis(300),
        longest: Duration::from_secs(600),
    };
    let options = Options::at(url.parse().unwrap());
    (socket, upstreams(options, Pace { rest, ..QUICK }))
}

#[tokio::test]
async fn blobs_outlast_a_restart_that_others_have_met() {
    let (socket, upstreams) = away();
    let told = pull(&upstreams, Patience::Full).await;
    assert!(told.contains("refused"), "{told}");
    let server = Server::on(socket.listen(16).unwrap(), [good()]);
    let blobs = join_all((0..8).map(|_| blob(&upstreams))).await;
    assert_eq!(blobs, vec![Ok(true); 8]);
    assert_eq!(server.requests().len(), 8);
}

#[tokio::test]
async fn blobs_of_what_stays_away_are_waited_for_once() {
    let (_refuses, upstreams) = away();
    pull(&upstreams, Patience::Full).await;
    let began = Instant::now();
    for told in join_all((0..8).map(|_| blob(&upstreams))).await {
        let told = told.unwrap_err();
        assert!(told.contains("refused"), "{told}");
    }
    assert!(began.elapsed() < QUICK.budget, "{:?}", began.elapsed());
}
