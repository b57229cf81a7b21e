//! Each client's files, as a table of what is there and what is written.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs};

use super::*;

const CA: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// A root of its own, and a standin at an address.
struct Case {
    root: tempfile::TempDir,
    standin: Standin,
    request: Request,
}

impl Case {
    fn new(client: Client) -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            standin: Standin {
                url: "https://127.0.0.1:5000".parse().unwrap(),
                listeners: Vec::new(),
                ca: Some(CA.to_owned()),
                registries: ["docker.io", "reg.example:5001"]
                    .map(|host| host.parse().unwrap())
                    .into(),
            },
            request: Request {
                client,
                mode: Mode::Mirror,
                registries: Vec::new(),
                docker_version: None,
                containerd_version: None,
            },
        }
    }

    fn docker(version: &str) -> Self {
        let mut case = Self::new(Client::Docker);
        case.request.docker_version = Some(version.parse().unwrap());
        case
    }

    fn containerd(version: &str) -> Self {
        let mut case = Self::new(Client::Containerd);
        case.request.containerd_version = Some(version.parse().unwrap());
        case
    }

    fn proxy(mut self) -> Self {
        self.request.mode = Mode::Proxy;
        self
    }

    fn url(mut self, url: &str) -> Self {
        self.standin.url = url.parse().unwrap();
        self
    }

    fn with(self, path: &str, text: &str) -> Self {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn place(&self) -> Place {
        Place::under(self.root.path().canonicalize().unwrap())
    }

    fn plan(&self) -> Result<Plan, Error> {
        plan(&self.place(), &self.request, &self.standin)
    }

    /// What would be written, certificates as "CA".
    fn files(&self) -> BTreeMap<String, String> {
        let plan = self.plan().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(CA, "CA");
        plan.files()
            .map(|(path, bytes)| (path.display().to_string(), text(bytes)))
            .collect()
    }

    #[track_caller]
    fn writes(&self, expected: &[(&str, &str)]) {
        let expected = expected
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        assert_eq!(self.files(), expected.collect());
    }

    #[track_caller]
    fn refused(&self, fragments: &[&str]) {
        let error = self.plan().unwrap_err().to_string();
        for fragment in fragments {
            assert!(error.contains(fragment), "{error}");
        }
    }
}

const TABLE: &str = "[host.\"https://127.0.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n  \
                     ca = \"/etc/standin/ca.pem\"\n";
const WRITTEN: &str = "# Written by `standin configure`; `--undo` removes it.\n";

#[test]
fn docker_with_containerds_store_gets_hosts_toml_and_never_registry_mirrors() {
    let ours = format!("{WRITTEN}{TABLE}");
    Case::docker("29.1").writes(&[
        ("/etc/standin/ca.pem", "CA"),
        ("/etc/docker/certs.d/_default/hosts.toml", &ours),
    ]);
    // A directory of a registry's own hides _default, and its certificates count only without a hosts.toml.
    let kept = format!(
        "{WRITTEN}ca = [\"/etc/docker/certs.d/quay.io/ca.crt\"]\n\
         client = [[\"/etc/docker/certs.d/quay.io/me.cert\", \"/etc/docker/certs.d/quay.io/me.key\"]]\n\n{TABLE}"
    );
    Case::docker("28")
        .with(
            "/etc/docker/daemon.json",
            r#"{"features": {"containerd-snapshotter": true}}"#,
        )
        .with("/etc/docker/certs.d/quay.io/ca.crt", "x")
        .with("/etc/docker/certs.d/quay.io/me.cert", "x")
        .with("/etc/docker/certs.d/quay.io/me.key", "x")
        .with("/etc/docker/certs.d/127.0.0.1:5000/ca.crt", "x")
        .writes(&[
            ("/etc/standin/ca.pem", "CA"),
            ("/etc/docker/certs.d/_default/hosts.toml", &ours),
            ("/etc/docker/certs.d/quay.io/hosts.toml", &kept),
        ]);
    let mut one = Case::docker("29")
        .with("/etc/docker/certs.d/reg_5001_/ca.crt", "x")
        .url("http://127.0.0.1:5000");
    one.request.registries = vec!["quay.io".parse().unwrap()];
    let plain = format!(
        "{WRITTEN}[host.\"http://127.0.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n"
    );
    one.writes(&[("/etc/docker/certs.d/quay.io/hosts.toml", &plain)]);
}

#[test]
fn docker_with_its_own_store_gets_registry_mirrors() {
    let before = "{\n\t\"debug\": true,\n\t\"registry-mirrors\": [\n\t\t\"https://m/\"\n\t]\n}\n";
    let after = "{\n\t\"debug\": true,\n\t\"registry-mirrors\": [\n\t\t\"https://127.0.0.1:5000\",\n\t\t\"https://m/\"\n\t]\n}\n";
    Case::docker("20.10.24")
        .with("/etc/docker/daemon.json", before)
        .writes(&[("/etc/docker/daemon.json", after)]);
    let mirror =
        |address: &str| format!("{{\n  \"registry-mirrors\": [\n    \"{address}\"\n  ]\n}}\n");
    Case::docker("28").writes(&[("/etc/docker/daemon.json", &mirror("https://127.0.0.1:5000"))]);
    // Verified only where it is not this machine.
    Case::docker("24").url("https://10.0.0.5:5000").writes(&[
        ("/etc/docker/certs.d/10.0.0.5:5000/ca.crt", "CA"),
        ("/etc/docker/daemon.json", &mirror("https://10.0.0.5:5000")),
    ]);
}

#[test]
fn docker_through_the_proxy() {
    let proxies = "{\n  \"proxies\": {\n    \"https-proxy\": \"http://127.0.0.1:5000\",\n    \
                   \"no-proxy\": \"a.example,localhost,127.0.0.1,::1\"\n  }\n}\n";
    let theirs = r#"{"proxies": {"https-proxy": "http://other", "no-proxy": "a.example"}}"#;
    let case = Case::docker("29")
        .proxy()
        .with("/etc/docker/daemon.json", theirs);
    case.with("/etc/docker/certs.d/quay.io/ca.crt", "x")
        .writes(&[
            ("/etc/docker/certs.d/_default/standin.crt", "CA"),
            ("/etc/docker/certs.d/quay.io/standin.crt", "CA"),
            ("/etc/docker/daemon.json", proxies),
        ]);
    // Neither proxies in the file nor certs.d for Docker Hub.
    let case = Case::docker("20.10")
        .proxy()
        .with("/etc/ssl/certs/ca-certificates.crt", "SYSTEM");
    let files = case.with("/etc/systemd/system/x", "").files();
    assert_eq!(
        files["/etc/docker/certs.d/reg.example:5001/standin.crt"],
        "CA"
    );
    assert_eq!(files["/etc/standin/bundle.pem"], "SYSTEM\nCA");
    assert_eq!(
        files["/etc/systemd/system/docker.service.d/standin.conf"],
        "[Service]\nEnvironment=\"HTTPS_PROXY=http://127.0.0.1:5000\"\nEnvironment=\"NO_PROXY=localhost,127.0.0.1,::1\"\n\
         Environment=\"SSL_CERT_FILE=/etc/standin/bundle.pem\"\n"
    );
    assert!(!files.contains_key("/etc/docker/daemon.json"));
}

#[test]
fn containerd_two_gets_one_directory_and_containerd_one_each_registrys() {
    let config = "version = 3\n\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    let ours = format!("{WRITTEN}{TABLE}");
    Case::containerd("v2.0.0-beta.1").writes(&[
        ("/etc/standin/ca.pem", "CA"),
        ("/etc/containerd/certs.d/_default/hosts.toml", &ours),
        ("/etc/containerd/config.toml", config),
    ]);
    let by_path = |name: &str| {
        let table = TABLE.replace(":5000", &format!(":5000/v2/{name}"));
        format!("{WRITTEN}{table}  override_path = true\n")
    };
    let set =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/c\"\n";
    Case::containerd("1.6.20~ds1")
        .with("/etc/containerd/config.toml", set)
        .writes(&[
            ("/etc/standin/ca.pem", "CA"),
            ("/c/docker.io/hosts.toml", &by_path("docker.io")),
            (
                "/c/reg.example:5001/hosts.toml",
                &by_path("reg.example_5001"),
            ),
        ]);
}

#[test]
fn containerd_through_the_proxy() {
    for (version, says_so) in [("1.6.20", true), ("2.4.2", false)] {
        let case = Case::containerd(version)
            .proxy()
            .with("/etc/containerd/config.toml", "version = 2\n");
        let files = case.files();
        assert_eq!(
            files.get("/etc/containerd/certs.d/_default/standin.crt"),
            Some(&"CA".to_owned())
        );
        let notes = case.plan().unwrap().notes().join("\n");
        let variables = "HTTPS_PROXY=http://127.0.0.1:5000";
        assert!(notes.contains(variables), "{notes}");
        // Its command line is what dials there.
        assert_eq!(
            notes.contains("ctr before 2.0 goes out itself"),
            says_so,
            "{notes}"
        );
    }
}

#[test]
fn podman_gets_a_drop_in_that_carries_along_what_others_say() {
    let theirs = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"hub.example\"\n[[registry.mirror]]\nlocation = \"m.example\"\n";
    let expected = format!(
        "{WRITTEN}[[registry]]\nprefix = \"docker.io\"\nlocation = \"hub.example\"\n\n\
         [[registry.mirror]]\nlocation = \"127.0.0.1:5000/docker.io\"\n\n[[registry.mirror]]\nlocation = \"m.example\"\n\n\
         [[registry]]\nlocation = \"reg.example:5001\"\n\n\
         [[registry.mirror]]\nlocation = \"127.0.0.1:5000/reg.example_5001\"\n"
    );
    Case::new(Client::Podman)
        .with("/etc/containers/registries.conf", theirs)
        .writes(&[
            ("/etc/containers/certs.d/127.0.0.1:5000/ca.crt", "CA"),
            (
                "/etc/containers/registries.conf.d/050-standin.conf",
                &expected,
            ),
        ]);
    let files = Case::new(Client::Podman)
        .url("http://127.0.0.1:5000")
        .files();
    let drop_in = &files["/etc/containers/registries.conf.d/050-standin.conf"];
    assert!(drop_in.contains("insecure = true"), "{drop_in}");
    assert_eq!(files.len(), 1);
}

#[test]
fn buildkit_gets_mirrors_and_is_told_that_ours_speaks_tls() {
    let theirs = "debug = true # theirs\n[registry.\"docker.io\"]\n  mirrors = [\"m.example\"]\n";
    let expected = "debug = true # theirs\n[registry.\"docker.io\"]\n  mirrors = [\"127.0.0.1:5000\", \"m.example\"]\n\n\
                    [registry.\"reg.example:5001\"]\nmirrors = [\"127.0.0.1:5000\"]\n\n\
                    [registry.\"127.0.0.1:5000\"]\nhttp = false\nca = [\"/etc/standin/ca.pem\"]\n";
    let case = Case::new(Client::Buildkit).with("/etc/buildkit/buildkitd.toml", theirs);
    case.writes(&[
        ("/etc/standin/ca.pem", "CA"),
        ("/etc/buildkit/buildkitd.toml", expected),
    ]);
    let notes = case.plan().unwrap().notes().join("\n");
    assert!(notes.contains("--driver-opt network=host"), "{notes}");
}

#[test]
fn kind_gets_an_address_that_its_nodes_reach() {
    let mut case = Case::new(Client::Kind);
    case.refused(&["--listen 127.0.0.1:5000 --listen 172.17.0.1:5000"]);
    case.standin.listeners = vec![
        "127.0.0.1:5000".parse().unwrap(),
        "172.18.0.1:5000".parse().unwrap(),
    ];
    let files = case.files();
    assert_eq!(
        files["/etc/standin/kind/certs.d/_default/hosts.toml"],
        "[host.\"https://172.18.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"ca.pem\"\n"
    );
    let cluster = &files["/etc/standin/kind/cluster.yaml"];
    assert!(
        cluster.contains("hostPath: \"/etc/standin/kind/certs.d\""),
        "{cluster}"
    );
}

#[test]
fn the_systems_store_by_its_layout_one_certificate_to_a_file() {
    for (sign, directory) in [
        (
            "/etc/ca-certificates.conf",
            "/usr/local/share/ca-certificates",
        ),
        (
            "/etc/pki/ca-trust/source/anchors/README",
            "/etc/pki/ca-trust/source/anchors",
        ),
        ("/etc/pki/trust/anchors/README", "/etc/pki/trust/anchors"),
    ] {
        let mut case = Case::new(Client::System).with(sign, "");
        case.standin.ca = Some(CA.repeat(2));
        let (first, second) = (
            format!("{directory}/standin.crt"),
            format!("{directory}/standin-2.crt"),
        );
        case.writes(&[(&first, "CA"), (&second, "CA")]);
    }
    Case::new(Client::System).refused(&["ca-certificates"]);
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    Case::new(Client::Docker).refused(&["--docker-version"]);
    Case::containerd("1.7")
        .url("https://[::1]:5000")
        .refused(&["IPv6", "[::1]:5000"]);
    Case::new(Client::Podman)
        .url("https://[::1]:5000")
        .refused(&["IPv6"]);
    Case::new(Client::Kind).proxy().refused(&["--mode proxy"]);
    let mut no_ca = Case::new(Client::Env).proxy();
    no_ca.standin.ca = None;
    no_ca.refused(&["--ca"]);
    for (case, path, text, fragment) in [
        (
            Case::docker("20.10"),
            "/etc/docker/daemon.json",
            "{",
            "no valid JSON",
        ),
        (
            Case::docker("20.10"),
            "/etc/docker/daemon.json",
            "[1]",
            "no object",
        ),
        (
            Case::docker("20.10"),
            "/etc/docker/daemon.json",
            r#"{"registry-mirrors": 1}"#,
            "no list",
        ),
        (
            Case::docker("23").proxy(),
            "/etc/docker/daemon.json",
            r#"{"proxies": 1}"#,
            "no object",
        ),
        (
            Case::new(Client::Buildkit),
            "/etc/buildkit/buildkitd.toml",
            "[[registry]]\n",
            "no table",
        ),
        (
            Case::new(Client::Buildkit),
            "/etc/buildkit/buildkitd.toml",
            "x = ",
            "no valid TOML",
        ),
        (
            Case::new(Client::Podman),
            "/etc/containers/registries.conf",
            "[registries.search]\n",
            "first form",
        ),
    ] {
        case.with(path, text).refused(&[fragment, path]);
    }
}

#[test]
fn versions_as_programs_print_them() {
    for (text, major, minor) in [
        ("29", 29, 0),
        ("20.10.24+dfsg1,", 20, 10),
        ("v2.0.0-beta.24", 2, 0),
        ("1.6~x", 1, 6),
    ] {
        assert_eq!(text.parse(), Ok(Version { major, minor }));
    }
    for bad in ["", "x", "1.x", "latest"] {
        assert!(bad.parse::<Version>().is_err(), "{bad}");
    }
}

/// The files that a user who is not root gets, below the user's own directories, and nothing else.
#[test]
fn a_users_own_paths() {
    for (mut case, files) in [
        (
            Case::new(Client::Podman),
            &[
                "containers/certs.d/127.0.0.1:5000/ca.crt",
                "containers/registries.conf.d/050-standin.conf",
            ][..],
        ),
        (
            Case::docker("29"),
            &["docker/certs.d/_default/hosts.toml", "standin/ca.pem"],
        ),
        (Case::docker("20.10"), &["docker/daemon.json"]),
        (
            Case::containerd("2.1"),
            &[
                "containerd/certs.d/_default/hosts.toml",
                "containerd/config.toml",
                "standin/ca.pem",
            ],
        ),
        (
            Case::new(Client::Buildkit),
            &["buildkit/buildkitd.toml", "standin/ca.pem"],
        ),
        (
            Case::new(Client::Env).proxy(),
            &["standin/bundle.pem", "standin/ca.pem"],
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let place = Place::of_user(Home {
            config: home.path().join("config"),
            state: home.path().join("state"),
            runtime: None,
        });
        let client = case.request.client;
        case.standin.ca = Some(CA.to_owned());
        let (done, plan) = write(&place, &case.request, &case.standin).unwrap();
        let written: std::collections::BTreeSet<_> =
            done.iter().map(|done| done.path.clone()).collect();
        let expected = files
            .iter()
            .map(|file| home.path().join("config").join(file));
        assert_eq!(written, expected.collect(), "{client:?}");
        // What is named is named by its path there.
        let ours = home.path().join("config/standin/ca.pem");
        let hosts = home
            .path()
            .join("config/docker/certs.d/_default/hosts.toml");
        if let Ok(text) = fs::read_to_string(hosts) {
            assert!(text.contains(&*ours.to_string_lossy()), "{text}");
        }
        // A daemon of a user's own may have a network of its own.
        let daemon = matches!(
            client,
            Client::Docker | Client::Containerd | Client::Buildkit
        );
        let says_so = plan.notes().join("\n").contains("network of its own");
        assert_eq!(says_so, daemon, "{client:?}: {:?}", plan.notes());
        undo(&place, client).unwrap();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "{client:?}");
    }
    let home = tempfile::tempdir().unwrap();
    let place = Place::of_user(Home {
        config: home.path().join("config"),
        state: home.path().join("state"),
        runtime: None,
    });
    let system = plan(
        &place,
        &Case::new(Client::System).request,
        &Case::new(Client::System).standin,
    );
    assert!(system.unwrap_err().to_string().contains("root"));
}
