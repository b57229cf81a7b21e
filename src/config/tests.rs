//! Precedence, defaults and refusals, from text to [`Config`].

#![allow(clippy::unwrap_used)]

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::transfer::Source;

/// The three places, weakest last.
#[derive(Default)]
pub(super) struct Given<'a> {
    pub(super) flags: Vec<(Key, &'a [&'a str])>,
    pub(super) variables: Vec<(&'a str, &'a str)>,
    pub(super) file: &'a str,
}

impl Given<'_> {
    /// `HOME` is always set here, and the file is `ci.yaml` in `dir`.
    pub(super) fn sources(&self, dir: &TempDir) -> Result<Sources, ConfigError> {
        let path = dir.path().join("ci.yaml");
        fs::write(&path, self.file).unwrap();
        let mut flags = Flags::new(Some(path.to_str().unwrap().to_owned()));
        for (key, texts) in &self.flags {
            flags = flags.with(*key, texts.iter().map(|text| (*text).to_owned()));
        }
        let variables = [("HOME", "/home/ci")]
            .into_iter()
            .chain(self.variables.clone());
        Sources::read(flags, environment(variables))
    }

    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        Config::from_sources(&self.sources(&dir)?)
    }

    /// The message, and the file's path as `FILE`.
    pub(super) fn refusal(&self) -> String {
        let dir = tempfile::tempdir().unwrap();
        let error = match self.sources(&dir) {
            Err(error) => error,
            Ok(sources) => Config::from_sources(&sources).unwrap_err(),
        };
        let path = dir.path().join("ci.yaml");
        error.to_string().replace(path.to_str().unwrap(), "FILE")
    }
}

fn environment<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Environment {
    variables
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn bare(variables: &[(&str, &str)]) -> Config {
    let sources = Sources::read(Flags::default(), environment(variables.to_vec())).unwrap();
    Config::from_sources(&sources).unwrap()
}

#[test]
fn defaults() {
    let config = bare(&[("HOME", "/home/ci")]);
    assert_eq!(config.listen, ["127.0.0.1:5000".parse().unwrap()]);
    assert_eq!(config.data, Path::new("/home/ci/.local/share/standin"));
    assert_eq!(
        config.state,
        Path::new("/home/ci/.local/share/standin.state")
    );
    assert_eq!(config.default_registry, RegistryHost::docker_hub());
    assert_eq!(config.grace, Duration::from_secs(30));
    assert_eq!(config.tag_ttl.otherwise, Duration::from_secs(300));
    assert_eq!(config.negative_ttl, Duration::from_secs(10));
    assert_eq!(config.durability, Durability::Job);
    assert!(!config.offline);
    assert_eq!(config.certificate, None);
}

#[test]
fn limits_from_all_places_and_by_default() {
    let limits = bare(&[("HOME", "/home/ci")]).limits;
    assert_eq!(limits.registry.manifest, 4 << 20);
    assert_eq!(limits.registry.name, 255);
    assert_eq!(limits.registry.uploads, 1000);
    assert_eq!(limits.registry.upload_lifetime, Duration::from_secs(3600));
    assert_eq!(limits.http.silence, Duration::from_secs(60));
    assert_eq!(limits.http.page, 1000);
    assert_eq!(limits.head, Duration::from_secs(10));

    let given = Given {
        flags: vec![
            (Key::MaxManifestSize, &["8MiB"]),
            (Key::MaxNameLength, &["99"]),
        ],
        variables: vec![
            ("STANDIN_MAX_UPLOADS", "7"),
            ("STANDIN_UPLOAD_LIFETIME", "2m"),
        ],
        file: "head-timeout: 3s\nbody-timeout: 4s\npage-size: 50\nmax-uploads: 8\n",
    };
    let config = given.config().unwrap();
    let limits = config.limits;
    assert_eq!(limits.registry.manifest, 8 << 20);
    assert_eq!(limits.registry.name, 99);
    assert_eq!(limits.registry.uploads, 7);
    assert_eq!(limits.registry.upload_lifetime, Duration::from_secs(120));
    assert_eq!(limits.head, Duration::from_secs(3));
    assert_eq!(limits.http.silence, Duration::from_secs(4));
    assert_eq!(limits.http.page, 50);
    assert!(config.warnings().is_empty());
}

#[test]
fn limits_that_are_refused() {
    for (key, text, fragments) in [
        (Key::MaxManifestSize, "4MB", ["--max-manifest-size", "4MiB"]),
        (Key::MaxNameLength, "256", ["--max-name-length", "1 to 255"]),
        (Key::MaxUploads, "0", ["--max-uploads", "from 1 to"]),
        (Key::UploadLifetime, "0", ["--upload-lifetime", "no time"]),
        (Key::HeadTimeout, "10", ["--head-timeout", "10s"]),
        (Key::BodyTimeout, "0s", ["--body-timeout", "no time"]),
        (Key::PageSize, "10001", ["--page-size", "1 to 10000"]),
    ] {
        let texts = [text];
        let given = Given {
            flags: vec![(key, &texts)],
            ..Given::default()
        };
        let refusal = given.refusal();
        for fragment in fragments {
            assert!(refusal.contains(fragment), "no {fragment} in: {refusal}");
        }
    }
}

#[test]
fn a_manifest_limit_below_the_specs_is_warned_of() {
    let warnings = |size| {
        let config = bare(&[("STANDIN_MAX_MANIFEST_SIZE", size)]);
        config.warnings().concat()
    };
    assert!(warnings("4095KiB").contains("--max-manifest-size 4MiB"));
    assert_eq!(warnings("4096KiB"), "");
}

#[test]
fn data_is_kept_where_the_user_can_write() {
    let user = rustix::process::getuid().as_raw();
    let anonymous = format!("/var/tmp/standin-{user}");
    for (variables, expected) in [
        (&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")][..], "/x/standin"),
        (
            &[("XDG_DATA_HOME", "x"), ("HOME", "/h")],
            "/h/.local/share/standin",
        ),
        (
            &[("XDG_DATA_HOME", ""), ("HOME", "/h")],
            "/h/.local/share/standin",
        ),
        (&[("HOME", "")], &anonymous),
        (&[], &anonymous),
    ] {
        let config = bare(variables);
        assert_eq!(config.data, Path::new(expected), "{variables:?}");
        assert_eq!(config.state, PathBuf::from(format!("{expected}.state")));
    }
}

#[test]
fn the_stronger_place_wins() {
    let file = "tag-ttl: 1s\nlocal-only: [file/*, file/b]\noffline: true\n";
    let variables = vec![
        ("STANDIN_TAG_TTL", "2s"),
        ("STANDIN_LOCAL_ONLY", "variable/*, variable/b\nvariable/c"),
        ("STANDIN_OFFLINE", "no"),
    ];
    let flags = vec![
        (Key::TagTtl, &["3s"][..]),
        (Key::LocalOnly, &["flag/*"]),
        (Key::Offline, &["true"]),
    ];
    let read = |given: Given<'_>| {
        let config = given.config().unwrap();
        let patterns: Vec<String> = config.local_only.iter().map(Pattern::to_string).collect();
        (
            config.tag_ttl.otherwise.as_secs(),
            patterns.join(" "),
            config.offline,
        )
    };
    let weakest = Given {
        file,
        ..Given::default()
    };
    assert_eq!(read(weakest), (1, "file/* file/b".to_owned(), true));
    let middle = Given {
        file,
        variables: variables.clone(),
        ..Given::default()
    };
    let patterns = "variable/* variable/b variable/c".to_owned();
    assert_eq!(read(middle), (2, patterns, false));
    let strongest = Given {
        file,
        variables,
        flags,
    };
    assert_eq!(read(strongest), (3, "flag/*".to_owned(), true));
}

#[test]
fn an_empty_variable_is_not_given() {
    let dir = tempfile::tempdir().unwrap();
    let given = Given {
        file: "san: [a.example.com]\ndata: /d\n",
        variables: vec![("STANDIN_SAN", " , "), ("STANDIN_DATA", "")],
        ..Given::default()
    };
    let config = Config::from_sources(&given.sources(&dir).unwrap()).unwrap();
    assert_eq!(config.san, [San::Name("a.example.com".to_owned())]);
    assert_eq!(config.data, Path::new("/d"));
}

#[test]
fn paths_in_the_file_are_relative_to_it_and_others_to_the_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    let given = Given {
        file: "data: cache\nseed: oci:layouts/a=b:1.0=x/app:2\ntls-cert: c.pem\ntls-key: /k.pem\n",
        flags: vec![(Key::ReadyFile, &["ready.json"])],
        ..Given::default()
    };
    let config = Config::from_sources(&given.sources(&dir).unwrap()).unwrap();
    assert_eq!(config.data, dir.path().join("cache"));
    assert_eq!(config.state, dir.path().join("cache.state"));
    let certificate = (dir.path().join("c.pem"), PathBuf::from("/k.pem"));
    assert_eq!(config.certificate, Some(certificate));
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.ready_file, Some(here.join("ready.json")));
    let seed = Seed {
        name: Some("x/app:2".parse().unwrap()),
        ..Seed::new(Source::Layout {
            dir: dir.path().join("layouts/a=b"),
            tag: Some("1.0".parse().unwrap()),
        })
    };
    assert_eq!(config.seeds, [seed]);
}

#[test]
fn the_file_can_be_named_by_a_variable_and_can_be_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ci.yaml");
    for (text, grace) in [
        ("", 30),
        ("# nothing yet\n", 30),
        ("---\ngrace: 7s\n", 7),
        ("grace: 0\n", 0),
    ] {
        fs::write(&path, text).unwrap();
        let config = bare(&[("STANDIN_CONFIG", path.to_str().unwrap())]);
        assert_eq!(config.grace.as_secs(), grace, "{text:?}");
    }
}

#[test]
fn an_address_given_twice_is_served_once() {
    let config = Given {
        flags: vec![(
            Key::Listen,
            &["127.0.0.1:1", "127.0.0.1:0", "127.0.0.1:1", "127.0.0.1:0"],
        )],
        ..Given::default()
    }
    .config()
    .unwrap();
    let ports: Vec<u16> = config.listen.iter().map(SocketAddr::port).collect();
    assert_eq!(ports, [1, 0, 0]);
}

#[test]
fn patterns_know_the_configured_registries() {
    let matches = |registry: &[&str]| {
        let config = Given {
            flags: vec![
                (Key::Registry, registry),
                (Key::LocalOnly, &["mirror_5000/*"]),
            ],
            ..Given::default()
        }
        .config()
        .unwrap();
        config.local_only[0].matches(&"mirror_5000/app".parse().unwrap())
    };
    assert!(matches(&["mirror:5000"]));
    assert!(!matches(&["other:5000"]));
}

#[test]
fn every_place_names_itself() {
    let flag = Given {
        flags: vec![(Key::TagTtl, &["90"])],
        ..Given::default()
    };
    assert!(
        flag.refusal()
            .starts_with("flag --tag-ttl: \"90\" has no unit")
    );
    let variable = Given {
        variables: vec![("STANDIN_TAG_TTL", "90")],
        ..Given::default()
    };
    let start = "variable STANDIN_TAG_TTL: \"90\" has no unit";
    assert!(variable.refusal().starts_with(start));
    let file = Given {
        file: "\ntag-ttl: 90\n",
        ..Given::default()
    };
    let start = "tag-ttl in FILE, line 2: \"90\" has no unit";
    assert!(file.refusal().starts_with(start), "{}", file.refusal());
}

#[test]
fn values_that_are_refused() {
    for (key, texts, fragments) in [
        (
            Key::Listen,
            &["5000"][..],
            &["\"5000\"", "127.0.0.1:5000"][..],
        ),
        (Key::Data, &[""], &["empty"]),
        (Key::Data, &["~/standin"], &["\"~/standin\"", "in full"]),
        (Key::Data, &["/"], &["--state"]),
        (Key::DefaultRegistry, &["a/b"], &["\"a/b\"", "HOST"]),
        (Key::Offline, &["maybe"], &["\"maybe\"", "true", "false"]),
        (Key::NoDefaultRegistries, &[""], &["\"\"", "true", "false"]),
        (Key::LocalOnly, &["quay.io"], &["quay.io/**"]),
        (Key::NoShadow, &["A/b"], &["\"A/b\"", "'**'"]),
        (Key::CacheNone, &["quay.io"], &["quay.io/**"]),
        (Key::CacheMaxSize, &["20"], &["\"20\"", "20GiB", "80%"]),
        (Key::Grace, &["soon"], &["\"soon\"", "30s"]),
        (Key::ReadyTimeout, &["soon"], &["\"soon\"", "30s"]),
        (Key::ExitWithParent, &["sh"], &["\"sh\"", "true", "$$"]),
        (Key::ExitWithParent, &["-1"], &["\"-1\"", "process id"]),
        (Key::TlsCert, &["/c.pem"], &["tls-key is not given"]),
        (Key::TlsKey, &["/k.pem"], &["tls-cert is not given"]),
        (Key::CaCert, &["/c.pem"], &["ca-key is not given"]),
        (Key::CaKey, &["/k.pem"], &["ca-cert is not given"]),
        (Key::H2, &["maybe"], &["\"maybe\"", "true", "false"]),
        (Key::San, &["*.a.io"], &["\"*.a.io\"", "DNS name"]),
        (
            Key::ExternalUrl,
            &["a.io:5000"],
            &["\"a.io:5000\"", "https://"],
        ),
        (Key::Durability, &["none"], &["\"none\"", "job", "full"]),
        (Key::Seed, &["dir:x"], &["dir:x", "oci:DIR"]),
        (Key::Seed, &["./layout"], &["\"./layout\"", "oci:DIR"]),
        (Key::Seed, &["oci::1"], &["\"oci::1\"", "oci:DIR"]),
        (Key::Seed, &["oci:a:.b"], &["\".b\"", "no tag"]),
        (Key::Seed, &["oci:a=B"], &["\"B\"", "lower-case"]),
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
    }
}

#[test]
fn a_file_that_cannot_be_read_says_who_named_it() {
    let flags = Flags::new(Some("/nonexistent/ci.yaml".to_owned()));
    let error = Sources::read(flags, Environment::new()).unwrap_err();
    let start = "flag --config: the configuration file /nonexistent/ci.yaml";
    assert!(error.to_string().starts_with(start), "{error}");
    let variables = environment([("STANDIN_CONFIG", "/nonexistent/ci.yaml")]);
    let error = Sources::read(Flags::default(), variables).unwrap_err();
    assert!(error.to_string().starts_with("variable STANDIN_CONFIG: "));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("No such file"), "{cause}");
}

#[test]
fn keys_are_never_kept_inside_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    std::os::unix::fs::symlink(&data, dir.path().join("link")).unwrap();
    let state = |state: &str| {
        let state = dir.path().join(state);
        let flags = Flags::default()
            .with(Key::Data, [data.to_str().unwrap().to_owned()])
            .with(Key::State, [state.to_str().unwrap().to_owned()]);
        let sources = Sources::read(flags, Environment::new()).unwrap();
        Directories::from_sources(&sources).map_err(|error| error.to_string())
    };
    for inside in ["data", "data/keys", "link/keys", "new/../data/keys"] {
        let refusal = state(inside).unwrap_err();
        assert!(refusal.starts_with("flag --state: "), "{refusal}");
        assert!(refusal.contains("beside"), "{refusal}");
    }
    for beside in ["state", "data.state", "data/../keys", "database"] {
        assert!(state(beside).is_ok(), "{beside}");
    }
}

#[test]
fn variables_that_mean_nothing_are_told_but_do_no_harm() {
    let variables = environment([
        ("STANDIN_TAGTTL", "1m"),
        ("STANDIN_SERVICE_HOST", "10.0.0.1"),
        ("STANDIN_URL", "http://127.0.0.1:5000"),
        ("STANDIN_HOST", "127.0.0.1:5000"),
        ("STANDIN_CA", "/ca.pem"),
        ("STANDIN_CONFIG", ""),
        ("STANDIN_DATA", "/d"),
        ("STANDING", "ovation"),
    ]);
    let sources = Sources::read(Flags::default(), variables).unwrap();
    let warnings = sources.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("STANDIN_SERVICE_HOST"));
    assert!(!warnings[0].contains("did you mean"), "{}", warnings[0]);
    assert!(warnings[1].contains("did you mean STANDIN_TAG_TTL?"));
    Config::from_sources(&sources).unwrap();
}

#[test]
fn a_variable_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStringExt as _;
    let value = std::ffi::OsString::from_vec(vec![b'/', 0xff]);
    let variables = Environment::from([("STANDIN_DATA".into(), value)]);
    let error = Sources::read(Flags::default(), variables).unwrap_err();
    assert!(error.to_string().contains("STANDIN_DATA"), "{error}");
}

#[test]
fn log_ins_come_from_the_usual_files_from_others_or_from_none() {
    let files = |flags: &'static [&'static str]| {
        let flags = match flags {
            [] => Vec::new(),
            files => vec![(Key::Authfile, files)],
        };
        Given {
            flags,
            ..Given::default()
        }
    };
    assert_eq!(files(&[]).config().unwrap().authfiles, None);
    let given = files(&["/a", "/b/none"]).config().unwrap().authfiles;
    assert_eq!(given, Some(vec!["/a".into(), "/b/none".into()]));
    let warnings = files(&["/absent/auth.json"]).config().unwrap().warnings();
    assert!(
        warnings[0].contains("/absent/auth.json is not there"),
        "{warnings:?}"
    );
    assert_eq!(
        files(&["none"]).config().unwrap().authfiles,
        Some(Vec::new())
    );
    let refusal = files(&["/a", "none"]).refusal();
    assert!(
        refusal.starts_with("flag --authfile: none reads no file at all"),
        "{refusal}"
    );
    let in_file = Given {
        file: "authfile: logins.json\n",
        ..Given::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let config = Config::from_sources(&in_file.sources(&dir).unwrap()).unwrap();
    assert_eq!(config.authfiles, Some(vec![dir.path().join("logins.json")]));
}
