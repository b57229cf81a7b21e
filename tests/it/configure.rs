//! `standin configure` on file system roots of its own: written twice is written once, undone is as it was, and what
//! fails changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::PathBuf,
    process::{Command, Output},
};

use crate::support::TestRegistry;

const CA: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// A root as a machine has it, with a standin named by URL.
struct Root {
    directory: tempfile::TempDir,
    url: String,
    ca: PathBuf,
}

impl Root {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("job-ca.pem");
        fs::write(&ca, CA).unwrap();
        let root = Self {
            url: "https://127.0.0.1:5000".to_owned(),
            ca,
            directory,
        };
        for (path, text) in [
            (
                "etc/docker/daemon.json",
                "{\n    \"debug\": true, \"registry-mirrors\": [\"https://m.example\"]\n}",
            ),
            ("etc/docker/certs.d/quay.io/ca.crt", "theirs"),
            (
                "etc/containerd/config.toml",
                "version = 2 # two\n# kept\n[plugins]\n",
            ),
            (
                "etc/containers/registries.conf",
                "# kept\nunqualified-search-registries = [\"quay.io\"]\n",
            ),
            (
                "etc/buildkit/buildkitd.toml",
                "# kept\n[registry.\"quay.io\"]\n  mirrors = [\"m.example\"] # m\n",
            ),
            ("etc/ca-certificates.conf", ""),
            ("etc/ssl/certs/ca-certificates.crt", "SYSTEM\n"),
        ] {
            root.put(path, text);
        }
        fs::set_permissions(
            root.path("etc/docker/daemon.json"),
            fs::Permissions::from_mode(0o640),
        )
        .unwrap();
        root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// `standin configure` with this root and standin.
    fn configure(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_standin"));
        command.arg("configure").args(args).env_clear();
        command.arg("--root").arg(self.path(""));
        command.args(["--url", &self.url, "--ca"]).arg(&self.ca);
        command.output().unwrap()
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let output = self.configure(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says to what it refuses, with exit status 1 and the tree as it was.
    #[track_caller]
    fn refused(&self, args: &[&str]) -> String {
        let before = self.tree();
        let output = self.configure(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert_eq!(self.tree(), before, "{args:?} changed something: {said}");
        said
    }

    /// All that is in the root: paths, modes, and bytes or where a link leads.
    fn tree(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut tree = BTreeMap::new();
        let mut directories = vec![self.path("")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let bytes = if metadata.is_dir() {
                    directories.push(path.clone());
                    Vec::new()
                } else if metadata.is_symlink() {
                    fs::read_link(&path)
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes()
                } else {
                    fs::read(&path).unwrap()
                };
                tree.insert(path, (metadata.mode(), bytes));
            }
        }
        tree
    }
}

/// Every client, in every way that has files of its own.
const WAYS: &[&[&str]] = &[
    &["docker", "--docker-version", "20.10"],
    &["docker", "--docker-version", "29"],
    &["docker", "--docker-version", "20.10", "--mode", "proxy"],
    &["docker", "--docker-version", "24", "--mode", "proxy"],
    &["docker", "--docker-version", "29", "--mode", "proxy"],
    &["containerd", "--containerd-version", "1.6"],
    &["containerd", "--containerd-version", "2.1"],
    &[
        "containerd",
        "--containerd-version",
        "2.1",
        "--mode",
        "proxy",
    ],
    &["podman"],
    &["podman", "--mode", "proxy"],
    &["buildkit"],
    &["buildkit", "--mode", "proxy"],
    &["system"],
    &["env"],
];

#[test]
fn written_twice_is_written_once_and_undone_is_as_it_was() {
    for way in WAYS {
        let root = Root::new();
        let before = root.tree();
        root.done(way);
        if way[0] != "env" {
            assert_eq!(
                root.tree(),
                before,
                "{way:?}: nothing is written unless --write says so"
            );
        }
        let write = [*way, &["--write"]].concat();
        root.done(&write);
        let written = root.tree();
        assert_ne!(written, before, "{way:?}");
        root.done(&write);
        assert_eq!(root.tree(), written, "{way:?}: a second time");
        root.done(&[way[0], "--undo"]);
        assert_eq!(root.tree(), before, "{way:?}: undone");
        root.done(&[way[0], "--undo"]);
        assert_eq!(root.tree(), before, "{way:?}: undone again");
    }
}

#[test]
fn a_new_address_replaces_the_old_one_whatever_the_way() {
    for way in WAYS {
        let mut root = Root::new();
        let before = root.tree();
        let write = [*way, &["--write"]].concat();
        root.url = "https://127.0.0.1:4999".to_owned();
        root.done(&write);
        root.url = "https://127.0.0.1:5000".to_owned();
        root.done(&write);
        let again = Root::new();
        again.done(&write);
        // The journal tells backups apart by numbers; what clients read is the same.
        let etc = |root: &Root| -> Vec<(PathBuf, (u32, Vec<u8>))> {
            let tree = root.tree().into_iter();
            let tree =
                tree.map(|(path, is)| (path.strip_prefix(root.path("")).unwrap().to_owned(), is));
            tree.filter(|(path, _)| path.starts_with("etc") || path.starts_with("usr"))
                .collect()
        };
        assert_eq!(etc(&root), etc(&again), "{way:?}");
        root.done(&[way[0], "--undo"]);
        assert_eq!(root.tree(), before, "{way:?}");
    }
}

#[test]
fn what_is_not_ours_keeps_its_keys_comments_mode_and_place() {
    let root = Root::new();
    root.done(&["docker", "--docker-version", "20.10", "--write"]);
    root.done(&["containerd", "--containerd-version", "1.6", "--write"]);
    root.done(&["buildkit", "--write"]);
    let daemon: serde_json::Value =
        serde_json::from_str(&root.read("etc/docker/daemon.json")).unwrap();
    assert_eq!(daemon["debug"], true);
    assert_eq!(
        daemon["registry-mirrors"],
        serde_json::json!(["https://127.0.0.1:5000", "https://m.example"])
    );
    let mode = fs::metadata(root.path("etc/docker/daemon.json"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
    let config = root.read("etc/containerd/config.toml");
    assert!(
        config.starts_with("version = 2 # two\n# kept\n[plugins]\n"),
        "{config}"
    );
    let buildkit = root.read("etc/buildkit/buildkitd.toml");
    assert!(
        buildkit.starts_with("# kept\n[registry.\"quay.io\"]\n"),
        "{buildkit}"
    );
    assert!(
        buildkit.contains("mirrors = [\"127.0.0.1:5000\", \"m.example\"] # m"),
        "{buildkit}"
    );
}

#[test]
fn clients_share_the_certificate_until_the_last_is_undone() {
    for order in [
        ["docker", "containerd", "env"],
        ["env", "containerd", "docker"],
    ] {
        let root = Root::new();
        let before = root.tree();
        root.done(&["docker", "--docker-version", "29", "--write"]);
        root.done(&["containerd", "--containerd-version", "2.0", "--write"]);
        root.done(&["env"]);
        for client in order {
            assert_eq!(
                root.read("etc/standin/ca.pem"),
                CA,
                "before {client} is undone"
            );
            root.done(&[client, "--undo"]);
        }
        assert_eq!(root.tree(), before);
    }
}

#[test]
fn what_somebody_added_meanwhile_stays_and_what_they_changed_is_not_overwritten() {
    let root = Root::new();
    root.done(&["docker", "--docker-version", "20.10", "--write"]);
    let written = root.read("etc/docker/daemon.json");
    let theirs = written.replacen("\"debug\": true", "\"debug\": false,\n    \"mtu\": 1400", 1);
    root.put("etc/docker/daemon.json", &theirs);
    root.done(&["docker", "--undo"]);
    let daemon: serde_json::Value =
        serde_json::from_str(&root.read("etc/docker/daemon.json")).unwrap();
    let expected =
        serde_json::json!({"debug": false, "mtu": 1400, "registry-mirrors": ["https://m.example"]});
    assert_eq!(daemon, expected);

    root.done(&["docker", "--docker-version", "20.10", "--write"]);
    let theirs = root
        .read("etc/docker/daemon.json")
        .replace("127.0.0.1:5000", "10.9.8.7:1");
    root.put("etc/docker/daemon.json", &theirs);
    for args in [
        &["docker", "--undo"][..],
        &["docker", "--docker-version", "20.10", "--write"],
    ] {
        let said = root.refused(args);
        for fragment in ["daemon.json", "registry-mirrors", "by hand", ".before"] {
            assert!(said.contains(fragment), "{said}");
        }
    }
    // Once it is taken out by hand, the rest can be undone.
    root.put(
        "etc/docker/daemon.json",
        "{\"registry-mirrors\": [\"https://m.example\"]}",
    );
    root.done(&["docker", "--undo"]);
    assert!(!root.path("var").exists());
}

#[test]
fn a_directory_that_was_ours_is_theirs_once_they_use_it() {
    let root = Root::new();
    let write = ["docker", "--docker-version", "29", "--write"];
    root.done(&[&write[..], &["--registry", "ghcr.io"]].concat());
    root.put("etc/docker/certs.d/ghcr.io/ca.crt", "theirs");
    root.done(&write);
    // It would hide _default.
    let hosts = root.read("etc/docker/certs.d/ghcr.io/hosts.toml");
    assert!(
        hosts.contains("127.0.0.1:5000") && hosts.contains("ghcr.io/ca.crt"),
        "{hosts}"
    );
    root.done(&["docker", "--undo"]);
    assert_eq!(root.read("etc/docker/certs.d/ghcr.io/ca.crt"), "theirs");
    assert!(!root.path("etc/docker/certs.d/ghcr.io/hosts.toml").exists());
    assert!(!root.path("etc/standin").exists());
}

#[test]
fn a_registrys_own_hosts_toml_comes_to_trust_the_proxy_and_goes_back() {
    let theirs = "# why\r\nserver = 'https://quay.io' # s\r\nca = \"/theirs.crt\"\r\n[host.\"https://m.example\"]\r\n";
    for (client, version, directory) in [
        ("docker", ["--docker-version", "29"], "etc/docker/certs.d"),
        (
            "containerd",
            ["--containerd-version", "2.1"],
            "etc/containerd/certs.d",
        ),
    ] {
        let root = Root::new();
        let file = format!("{directory}/quay.io/hosts.toml");
        root.put(&file, theirs);
        let before = root.tree();
        let write = [&[client, "--mode", "proxy", "--write"][..], &version].concat();
        root.done(&write);
        let both = "ca = [\"/theirs.crt\", \"/etc/standin/ca.pem\"]";
        let written = root.read(&file);
        assert!(written.contains(both), "{written}");
        assert!(
            written.contains("[host.\"https://m.example\"]"),
            "{written}"
        );
        assert_eq!(root.read("etc/standin/ca.pem"), CA);
        // Another authority, then one undo.
        let renewed = CA.replace("AAAA", "BBBB");
        fs::write(&root.ca, &renewed).unwrap();
        root.done(&write);
        assert_eq!(root.read("etc/standin/ca.pem"), renewed);
        assert_eq!(root.read(&file), written);
        fs::write(&root.ca, CA).unwrap();
        root.done(&[client, "--undo"]);
        assert_eq!(root.tree(), before, "{client}");
    }
}

#[test]
fn files_that_cannot_be_added_to_are_refused_and_nothing_is_changed() {
    let docker = &["docker", "--docker-version", "20.10", "--write"][..];
    let modern = &["docker", "--docker-version", "29", "--write"][..];
    let podman = &["podman", "--write"][..];
    type Break = fn(&Root);
    let rows: [(&[&str], Break, &[&str]); 8] = [
        (
            docker,
            |root| root.put("etc/docker/daemon.json", "{\"debug\": "),
            &["daemon.json", "no valid JSON"],
        ),
        (
            docker,
            |root| {
                fs::remove_file(root.path("etc/docker/daemon.json")).unwrap();
                fs::create_dir(root.path("etc/docker/daemon.json")).unwrap();
            },
            &["daemon.json", "move it away"],
        ),
        (
            docker,
            |root| {
                root.put("etc/elsewhere.json", "{}");
                fs::remove_file(root.path("etc/docker/daemon.json")).unwrap();
                symlink("../elsewhere.json", root.path("etc/docker/daemon.json")).unwrap();
            },
            &["daemon.json", "symbolic link"],
        ),
        (
            docker,
            |root| {
                let file = root.path("etc/docker/daemon.json");
                fs::set_permissions(file, fs::Permissions::from_mode(0o444)).unwrap();
            },
            &["daemon.json", "read-only"],
        ),
        (
            modern,
            |root| root.put("etc/docker/certs.d/_default/hosts.toml", "[host"),
            &["_default/hosts.toml", "no valid TOML"],
        ),
        (
            modern,
            |root| root.put("etc/docker/certs.d/_default", "a file"),
            &["certs.d/_default", "move it away"],
        ),
        (
            podman,
            |root| root.put("etc/containers/registries.conf", "= 1"),
            &["registries.conf", "no valid TOML"],
        ),
        (
            podman,
            |root| symlink("/", root.path("etc/containers/certs.d")).unwrap(),
            &["certs.d", "symbolic link", "out of"],
        ),
    ];
    for (args, broken, fragments) in rows {
        let root = Root::new();
        broken(&root);
        let said = root.refused(args);
        for fragment in fragments {
            assert!(said.contains(fragment), "{args:?}: {said}");
        }
    }
}

#[test]
fn a_shell_evaluates_what_env_prints() {
    let root = Root::new();
    let ours = root.path("etc/standin");
    let script = root.done(&["env"]);
    let shell = |script: &str| {
        let print = format!(
            "{script}\nprintf '%s|' \"$HTTPS_PROXY\" \"$NO_PROXY\" \"$SSL_CERT_FILE\" \"$CURL_CA_BUNDLE\""
        );
        let output = Command::new("sh").args(["-euc", &print]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let bundle = "/etc/standin/bundle.pem";
    let expected = format!("http://127.0.0.1:5000|localhost,127.0.0.1,::1|{bundle}|{bundle}|");
    assert_eq!(shell(&script), expected);
    assert_eq!(
        fs::read_to_string(ours.join("bundle.pem")).unwrap(),
        format!("SYSTEM\n{CA}")
    );
    let github = root.done(&["env", "--format", "github"]);
    assert!(
        github
            .lines()
            .any(|line| line == "HTTPS_PROXY=http://127.0.0.1:5000"),
        "{github}"
    );
    let unset = root.done(&["env", "--undo"]);
    assert!(
        unset.lines().any(|line| line == "unset SSL_CERT_FILE"),
        "{unset}"
    );
    assert!(!ours.exists());
}

/// Without --root nothing here may be written, so only what prints and checks.
#[tokio::test]
async fn what_standin_says_of_itself_is_enough() {
    let builder = TestRegistry::builder().registry("quay.io", "http://127.0.0.1:9");
    let registry = builder.start().await;
    let state = registry.home().join("state");
    let root = Root::new();
    let configure = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_standin"))
            .arg("configure")
            .args(args)
            .arg("--state")
            .arg(&state)
            .arg("--root")
            .arg(root.path(""))
            .env_clear()
            .env("HOME", root.path(""))
            .output()
            .unwrap()
    };
    let missing = configure(&["podman", "--check"]);
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8(missing.stdout).unwrap();
    assert!(
        said.contains("no  ") && said.contains("050-standin.conf is missing"),
        "{said}"
    );
    assert!(
        said.contains(&format!("ok  https://{} answers", registry.address())),
        "{said}"
    );

    assert_eq!(configure(&["podman", "--write"]).status.code(), Some(0));
    let drop_in = root.read("etc/containers/registries.conf.d/050-standin.conf");
    let location = format!("location = \"{}/quay.io\"", registry.address());
    assert!(drop_in.contains(&location), "{drop_in}");
    let there = configure(&["podman", "--check"]);
    assert_eq!(
        there.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&there.stdout)
    );

    // Another authority than the one it answers under.
    let drop_ca = root.path("other.pem");
    fs::write(
        &drop_ca,
        fs::read_to_string(registry.ca()).unwrap().replace('A', "B"),
    )
    .unwrap();
    let wrong = configure(&["podman", "--check", "--ca", drop_ca.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(1));

    registry.stop().await;
    let gone = configure(&["podman", "--check"]);
    assert_eq!(gone.status.code(), Some(1));
    let said = String::from_utf8(gone.stderr).unwrap();
    assert!(
        said.contains("standin serve") && said.contains("ready.json"),
        "{said}"
    );
}

#[test]
fn usage_that_cannot_be_meant() {
    let home = tempfile::tempdir().unwrap();
    for (args, code, fragment) in [
        (&["configure"][..], 2, "<CLIENT>"),
        (&["configure", "dokcer"], 2, "docker, containerd, podman"),
        (&["configure", "docker", "--write", "--undo"], 2, "--undo"),
        (
            &["configure", "docker", "--docker-version", "new"],
            2,
            "29.1",
        ),
        (
            &["configure", "docker", "--url", "127.0.0.1:5000"],
            2,
            "https://",
        ),
        (
            &["configure", "docker", "--url", "https://127.0.0.1:5000"],
            1,
            "--ca",
        ),
        (
            &[
                "configure",
                "docker",
                "--ca",
                "/nonexistent",
                "--url",
                "https://h",
            ],
            1,
            "/nonexistent",
        ),
        (&["configure", "docker", "--format", "shell"], 1, "env"),
        (
            &["configure", "docker", "--root", "/nonexistent"],
            1,
            "/nonexistent",
        ),
        (&["configure", "docker"], 1, "standin serve"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_standin"))
            .args(args)
            .env_clear()
            .env("HOME", home.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(fragment), "{args:?}: {said}");
    }
}
