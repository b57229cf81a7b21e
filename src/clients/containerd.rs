//! containerd: `certs.d`, read at each pull, and the line of `config.toml` that names it.
//!
//! From 2.0 on one `_default/hosts.toml` does for all registries. Before, a push does not say which registry it is for
//! (`ns`), so each has a directory and its name in the path. `ctr` reads no `config.toml`: it is told with `--hosts-dir`.

use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use super::{
    Ask, Error, Mode, Place, Plan,
    daemon::{self, Follow},
    hosts::{self, Style},
    merge, trust,
};

pub(super) fn plan(ask: &Ask<'_>) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let version = ask
        .request
        .containerd_version
        .or_else(|| daemon::containerd(ask.place));
    let major = version.map_or(SECOND - 1, |version| version.major);
    let config = config_toml(ask.place);
    let existing = ask.journal.without_us(&config)?;
    let refuse = |problem: String| Error::file(ask.place.outside(&config), problem);
    let (certs_d, text) = with_config_path(
        existing.as_deref(),
        &ask.place.etc("containerd/certs.d"),
        major,
    )
    .map_err(refuse)?;
    match ask.request.mode {
        Mode::Mirror => {
            let style = match major {
                SECOND.. => Style::Everything,
                _ => Style::EachByPath,
            };
            hosts::mirror(ask, &mut plan, &certs_d, style)?;
        }
        Mode::Proxy => {
            hosts::trust(ask, &mut plan, &certs_d)?;
            let (proxy, no_proxy) = (ask.standin.proxy(), trust::no_proxy(ask.standin, ""));
            trust::service(
                ask,
                &mut plan,
                "containerd",
                &[("HTTPS_PROXY", &proxy), ("NO_PROXY", &no_proxy)],
            );
            if major < SECOND {
                plan.note("ctr before 2.0 goes out itself: give it the same variables");
            }
        }
    }
    if let Some(text) = text {
        plan.file(config, text);
        plan.follow.push(Follow::Say(RESTART.to_owned()));
    }
    plan.note(format!(
        "ctr reads these files with: ctr images pull --hosts-dir {} NAME",
        certs_d.display()
    ));
    Ok(plan)
}

pub(super) fn before_undo(place: &Place, written: &[PathBuf]) -> Vec<Follow> {
    let config = config_toml(place);
    let restart = written
        .iter()
        .any(|path| *path == config || path.ends_with("standin.conf"));
    restart
        .then(|| Follow::Say(RESTART.to_owned()))
        .into_iter()
        .collect()
}

fn config_toml(place: &Place) -> PathBuf {
    place.etc("containerd/config.toml")
}

/// The directory that the file names, and the file's new text if it named none.
fn with_config_path(
    existing: Option<&[u8]>,
    wanted: &Path,
    major: u32,
) -> Result<(PathBuf, Option<String>), String> {
    let mut document = merge::toml(existing.unwrap_or_default())?;
    let version = match document.get("version") {
        Some(version) => version.as_integer().ok_or("its version is no number")?,
        // A file without one is of the first form.
        None if !document.is_empty() => 1,
        None => {
            let version = if major >= SECOND { 3 } else { 2 };
            document.insert("version", value(version));
            version
        }
    };
    let plugin = match version {
        1 => "cri",
        2 => "io.containerd.grpc.v1.cri",
        3 => "io.containerd.cri.v1.images",
        other => {
            return Err(format!(
                "its version is {other}; 1, 2 and 3 are known here: write config_path yourself"
            ));
        }
    };
    let registry = registry_table(&mut document, plugin)?;
    if let Some(set) = registry.get("config_path") {
        let set = set.as_str().ok_or("its config_path is no string")?;
        // Several are looked through in order.
        if let Some(first) = set.split(':').find(|path| !path.is_empty()) {
            return Ok((first.into(), None));
        }
    }
    for old in ["mirrors", "configs"] {
        if registry.get(old).is_some_and(|item| !is_empty(item)) {
            return Err(format!(
                "its registry.{old} and config_path exclude each other: move what is there to {}",
                wanted.display()
            ));
        }
    }
    registry.insert("config_path", value(&*wanted.to_string_lossy()));
    Ok((wanted.to_owned(), Some(document.to_string())))
}

/// `[plugins."<plugin>".registry]`, made where it is missing.
fn registry_table<'a>(
    document: &'a mut DocumentMut,
    plugin: &str,
) -> Result<&'a mut dyn TableLike, String> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for key in ["plugins", plugin, "registry"] {
        let implicit = || {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        };
        table = table
            .entry(key)
            .or_insert_with(implicit)
            .as_table_like_mut()
            .ok_or_else(|| format!("its {key} is no table"))?;
    }
    Ok(table)
}

fn is_empty(item: &Item) -> bool {
    item.as_table_like().is_some_and(TableLike::is_empty)
}

/// The first version whose pushes say which registry they are for, and whose ctr leaves all to containerd.
const SECOND: u32 = 2;
const RESTART: &str =
    "containerd reads config.toml and its variables at its start: systemctl restart containerd";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(existing: &str, major: u32) -> Result<(PathBuf, Option<String>), String> {
        let existing = (!existing.is_empty()).then_some(existing.as_bytes());
        with_config_path(existing, Path::new("/etc/containerd/certs.d"), major)
    }

    #[test]
    fn config_path_is_added_where_it_is_missing() {
        for (existing, major, expected) in [
            (
                "",
                1,
                "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
            ),
            (
                "",
                2,
                "version = 3\n\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
            ),
            (
                "version = 2 # two\n# kept\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    x = 1\n",
                1,
                "version = 2 # two\n# kept\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    x = 1\n\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
            ),
            (
                "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = ''\n",
                2,
                "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
            ),
            (
                "root = \"/x\"\n",
                1,
                "root = \"/x\"\n\n[plugins.cri.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
            ),
        ] {
            let (directory, text) = with(existing, major).unwrap();
            assert_eq!(text.as_deref(), Some(expected), "{existing}");
            assert_eq!(directory, Path::new("/etc/containerd/certs.d"));
        }
    }

    #[test]
    fn a_config_path_that_is_set_stays() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/a:/b\"\n";
        assert_eq!(with(text, 1).unwrap(), ("/a".into(), None));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (text, fragment) in [
            ("version = 9\n", "9"),
            ("version = 2\nplugins = 1\n", "plugins"),
            ("version = \n", "no valid TOML"),
            (
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = []\n",
                "registry.mirrors",
            ),
        ] {
            let problem = with(text, 1).unwrap_err();
            assert!(problem.contains(fragment), "{problem}");
        }
    }
}
