//! What the command finds in its environment: where the registry is, and, where that was asked for, the way to it for
//! programs that have no setting of their own, and docker's log-in.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use crate::{
    clients::{self, Client, Home, Mode, Place, Request, Standin, Variables},
    job::Instance,
};

/// A user and a password.
pub(super) type LogIn = (String, String);

/// Where the registry is.
pub(super) fn base(instance: &Instance, ready_file: &Path) -> Vec<(String, OsString)> {
    vec![
        ("STANDIN_URL".to_owned(), instance.http.clone().into()),
        (
            "STANDIN_HOST".to_owned(),
            instance.address.to_string().into(),
        ),
        ("STANDIN_CA".to_owned(), instance.ca.clone().into()),
        ("STANDIN_READY_FILE".to_owned(), ready_file.into()),
    ]
}

/// The proxy, and a bundle of the system's authorities and ours, which is written into `directory`.
pub(super) fn proxy(
    standin: &Standin,
    directory: &Path,
) -> anyhow::Result<Vec<(String, OsString)>> {
    let place = Place::of_user(Home {
        config: directory.to_owned(),
        state: directory.to_owned(),
        runtime: None,
    });
    let request = Request {
        client: Client::Env,
        mode: Mode::Proxy,
        registries: Vec::new(),
        docker_version: None,
        containerd_version: None,
    };
    let plan = clients::plan(&place, &request, standin)?;
    for (path, bytes) in plan.files() {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .and_then(|()| fs::write(path, bytes))
                .with_context(|| format!("can't write {}", path.display()))?;
        }
    }
    for note in plan.notes() {
        log::warn!("{note}");
    }
    let existing = env::var("NO_PROXY")
        .or_else(|_| env::var("no_proxy"))
        .unwrap_or_default();
    let variables = Variables::new(&request, standin, &place, &existing)?;
    let set = variables.set();
    Ok(set
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect())
}

/// A configuration directory for docker's command in `directory`: the user's own, with the log-in added. What else the user's
/// holds, such as plugins, contexts and builders, is there by links.
pub(super) fn docker(
    address: &str,
    log_in: Option<&LogIn>,
    directory: &Path,
) -> anyhow::Result<Vec<(String, OsString)>> {
    let ours = directory.join("docker");
    let failed = || format!("can't write {}", ours.display());
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&ours)
        .with_context(failed)?;
    let mut config = Map::new();
    if let Some(theirs) = users_own() {
        let file = theirs.join(CONFIG);
        match fs::read(&file) {
            Ok(text) => {
                config = serde_json::from_slice(&text).with_context(|| {
                    format!(
                        "{} is no configuration of docker's: mend it, or leave --docker-config out",
                        file.display()
                    )
                })?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("can't read {}", file.display()));
            }
        }
        for entry in fs::read_dir(&theirs).into_iter().flatten().flatten() {
            if entry.file_name() != CONFIG {
                let theirs = std::path::absolute(entry.path()).with_context(failed)?;
                symlink(theirs, ours.join(entry.file_name())).with_context(failed)?;
            }
        }
    }
    if let Some((user, password)) = log_in {
        let auth = BASE64_STANDARD.encode(format!("{user}:{password}"));
        insert(&mut config, "auths", address, json!({ "auth": auth }));
        if config.contains_key("credsStore") {
            // Without a helper of its own docker would ask the store, which knows nothing of it.
            insert(&mut config, "credHelpers", address, json!(""));
        }
    }
    let text = serde_json::to_vec_pretty(&config).with_context(failed)?;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(ours.join(CONFIG))
        .and_then(|mut file| file.write_all(&text))
        .with_context(failed)?;
    Ok(vec![("DOCKER_CONFIG".to_owned(), ours.into())])
}

/// `$DOCKER_CONFIG`, else `~/.docker`.
fn users_own() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")))
}

/// Adds to the mapping under a key, which is made if need be; one that is no mapping counts for nothing, as for docker.
fn insert(config: &mut Map<String, Value>, key: &str, name: &str, value: Value) {
    let mapping = config.entry(key).or_insert_with(|| json!({}));
    if !mapping.is_object() {
        *mapping = json!({});
    }
    if let Some(mapping) = mapping.as_object_mut() {
        mapping.insert(name.to_owned(), value);
    }
}

const CONFIG: &str = "config.json";
