//! Registries from all places, and the refusals, which never repeat a secret.

#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::{
    config::{Config, tests::Given},
    tls::{self, Tls},
};

/// A configuration with these `registry:` items and, beside it, these files.
fn with_items(items: &str, beside: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in beside {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let file = format!("no-default-registries: true\nregistry:\n{items}");
    let given = Given {
        file: &file,
        variables: vec![("HUB_PASSWORD", "hunter2")],
        ..Given::default()
    };
    let config = given
        .sources(&dir)
        .and_then(|sources| Config::from_sources(&sources));
    config.map_err(|error| {
        let dir = format!("{}/", dir.path().to_str().unwrap());
        error.to_string().replace(&dir, "")
    })
}

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

/// A certificate and its key, PEM.
fn minted() -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    Tls::open(tls::Options {
        state: dir.path().to_owned(),
        registries: Vec::new(),
        own_names: vec!["localhost".to_owned()],
        own_addresses: Vec::new(),
        certificate: None,
        authority: None,
        http2: false,
    })
    .unwrap();
    let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
    (read("ca.pem"), read("ca.key"))
}

#[test]
fn the_well_known_ones_are_where_they_are() {
    let config = Given::default().config().unwrap();
    assert_eq!(config.registries.len(), WELL_KNOWN.len());
    for (name, url) in [
        ("docker.io", "https://registry-1.docker.io"),
        ("quay.io", "https://quay.io"),
    ] {
        let expected = Options::at(url.parse().unwrap());
        assert_eq!(config.registries[&host(name)], expected);
    }
}

#[test]
fn they_add_up_and_the_stronger_place_wins_host_by_host() {
    let config = Given {
        file: "no-default-registries: true\n\
               registry: [a.io=http://file, b.io=http://file, {name: c.io, public: true}]\n",
        variables: vec![(
            "STANDIN_REGISTRY",
            "b.io=http://variable c.io=http://variable",
        )],
        flags: vec![(Key::Registry, &["C.io:443", "d.io:5000"])],
    }
    .config()
    .unwrap();
    let registries: Vec<(String, &str, bool)> = config
        .registries
        .iter()
        .map(|(host, options)| (host.to_string(), options.url.as_str(), options.public))
        .collect();
    let expected = [
        ("a.io", "http://file"),
        ("b.io", "http://variable"),
        ("c.io", "https://c.io"),
        ("d.io:5000", "https://d.io:5000"),
    ];
    assert_eq!(
        registries,
        expected.map(|(host, url)| (host.to_owned(), url, false))
    );
}

#[test]
fn another_spelling_of_docker_hub_overrides_docker_hub() {
    let config = Given {
        flags: vec![(
            Key::Registry,
            &["registry-1.docker.io=http://127.0.0.1:5001"],
        )],
        ..Given::default()
    }
    .config()
    .unwrap();
    assert_eq!(config.registries.len(), WELL_KNOWN.len());
    let hub = &config.registries[&RegistryHost::docker_hub()];
    assert_eq!(hub.url.as_str(), "http://127.0.0.1:5001");
}

#[test]
fn a_mapping_says_what_a_flag_has_no_room_for() {
    let items = "- name: docker.io\n  url: http://127.0.0.1:5001\n  mirrors: [https://mirror.gcr.io, https://public.ecr.aws/docker]\n  \
                 rewrite: library=hub\n  insecure: true\n  username: ci\n  password-env: HUB_PASSWORD\n  \
                 auth-realm: http://127.0.0.1:5002\n  requests-per-second: 4\n  connections: 8\n  tag-ttl: 1h\n  public: true\n\
                 - quay.io\n";
    let config = with_items(items, &[]).unwrap();
    let hub = Options {
        url: "http://127.0.0.1:5001".parse().unwrap(),
        mirrors: vec![
            "https://mirror.gcr.io".parse().unwrap(),
            "https://public.ecr.aws/docker".parse().unwrap(),
        ],
        rewrite: vec!["library=hub".parse().unwrap()],
        trust: Trust::default().insecure(true),
        login: Some(Login::Password {
            user: "ci".to_owned(),
            password: "hunter2".to_owned(),
        }),
        realms: vec!["http://127.0.0.1:5002".parse().unwrap()],
        interval: Some(Duration::from_millis(250)),
        connections: Some(8),
        tag_ttl: Some(Duration::from_secs(3600)),
        public: true,
    };
    assert_eq!(config.registries[&host("docker.io")], hub);
    let quay = Options::of_host(&host("quay.io"));
    assert_eq!(config.registries[&host("quay.io")], quay);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn certificates_are_read_from_files_beside_the_configuration() {
    let (certificate, key) = minted();
    let beside = [("ca.pem", certificate.as_str()), ("key.pem", &key)];
    let items = "- {name: a.io, ca: ca.pem, client-cert: ca.pem, client-key: key.pem}\n";
    let config = with_items(items, &beside).unwrap();
    let trust = Trust::default()
        .with_authorities(certificate.as_bytes())
        .and_then(|trust| trust.with_identity(certificate.as_bytes(), key.as_bytes()));
    assert_eq!(config.registries[&host("a.io")].trust, trust.unwrap());
}

#[test]
fn mirrors_of_flags_come_first_and_stay_in_order() {
    let config = Given {
        file: "registry: [{name: docker.io, mirrors: [https://c, https://b]}]\n",
        flags: vec![(
            Key::Mirror,
            &[
                "docker.io=https://a",
                "docker.io=https://b",
                "quay.io=https://q/x",
            ],
        )],
        ..Given::default()
    }
    .config()
    .unwrap();
    let mirrors = |name| config.registries[&host(name)].mirrors.clone();
    let parsed = |texts: &[&str]| -> Vec<Mirror> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    assert_eq!(
        mirrors("docker.io"),
        parsed(&["https://a", "https://c", "https://b"])
    );
    assert_eq!(mirrors("quay.io"), parsed(&["https://q/x"]));
}

#[test]
fn mappings_that_are_refused() {
    for (item, fragments) in [
        (
            "a.io: http://b",
            &["line 3", "\"a.io\"", "a registry has"][..],
        ),
        ("{url: http://b}", &["no name", "HOST"]),
        ("{name: a.io=http://b}", &["given as url"]),
        ("{name: a/b}", &["HOST alone"]),
        ("{name: a.io, mirror: https://b}", &["mean \"mirrors\"?"]),
        ("{name: a.io, url: b}", &["a.io, url", "https://"]),
        ("{name: a.io, url: [b, c]}", &["url takes one value"]),
        ("{name: a.io, mirrors: [b]}", &["a.io, mirrors", "https://"]),
        ("{name: a.io, rewrite: A=b}", &["a.io, rewrite", "FROM=TO"]),
        ("{name: a.io, insecure: maybe}", &["a.io, insecure", "true"]),
        (
            "{name: a.io, ca: none.pem}",
            &["a.io", "none.pem cannot be read"],
        ),
        (
            "{name: a.io, ca: empty}",
            &["a.io: ca can't be used", "no certificate"],
        ),
        (
            "{name: a.io, client-cert: empty}",
            &["go together", "only client-cert"],
        ),
        (
            "{name: a.io, client-key: empty}",
            &["go together", "only client-key"],
        ),
        (
            "{name: a.io, client-cert: empty, client-key: empty}",
            &["client-cert and client-key can't be used"],
        ),
        (
            "{name: a.io, username: u}",
            &["no password", "password-env"],
        ),
        ("{name: a.io, password: hunter2}", &["no username"]),
        (
            "{name: a.io, username: u, password: hunter2, password-env: X}",
            &["give one of password"],
        ),
        (
            "{name: a.io, username: u, password-env: X}",
            &["\"X\" is not set"],
        ),
        ("{name: a.io, requests-per-second: 0}", &["0.1 to 10000"]),
        ("{name: a.io, requests-per-second: inf}", &["0.1 to 10000"]),
        ("{name: a.io, requests-per-second: 0.5}", &["in quotes"]),
        (
            "{name: a.io, connections: 0}",
            &["a.io, connections", "1 to 10000"],
        ),
        ("{name: a.io, tag-ttl: 90}", &["a.io, tag-ttl", "90s"]),
        (
            "{name: a.io, public: 1}\n- {name: a.io}",
            &["a.io", "give it once"],
        ),
    ] {
        let refusal = with_items(&format!("- {item}\n"), &[("empty", "")]).unwrap_err();
        for fragment in fragments.iter().chain(&["registry in ci.yaml, line "]) {
            assert!(
                refusal.contains(fragment),
                "{item}: no {fragment} in: {refusal}"
            );
        }
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
}

#[test]
fn flags_that_are_refused() {
    for (key, texts, fragments) in [
        (
            Key::Registry,
            &["quay.io/acme"][..],
            &["\"quay.io/acme\"", "HOST"][..],
        ),
        (Key::Registry, &["quay io"], &["\"quay io\"", "HOST:PORT"]),
        (Key::Registry, &["a.io=b"], &["a.io", "\"b\"", "https://"]),
        (Key::Registry, &["https://quay.io"], &["quay.io=http://"]),
        (
            Key::Registry,
            &["a.io=http://x", "A.io=http://y"],
            &["a.io", "http://x", "http://y"],
        ),
        (Key::Registry, &["quay.io=https://me:hunter2@quay.io"], &[]),
        (Key::Registry, &["https://me:hunter2@quay.io"], &[]),
        (Key::Registry, &["me:hunter2@quay.io"], &[]),
        (Key::Mirror, &["https://a"], &["HOST=URL"]),
        (Key::Mirror, &["docker.io"], &["HOST=URL"]),
        (Key::Mirror, &["docker.io=a"], &["docker.io", "https://"]),
        (Key::Mirror, &["a.io=https://b"], &["--registry a.io"]),
        (Key::Mirror, &["https://me:hunter2@a=b"], &["HOST=URL"]),
        (
            Key::Mirror,
            &["docker.io=https://me:hunter2@a"],
            &["credentials"],
        ),
    ] {
        let refusal = Given {
            flags: vec![(key, texts)],
            ..Given::default()
        }
        .refusal();
        let place = format!("flag --{}: ", key.name());
        for fragment in fragments.iter().chain([&place.as_str()]) {
            assert!(refusal.contains(fragment), "no {fragment} in: {refusal}");
        }
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
}
