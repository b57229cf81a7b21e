//! docker: `hosts.toml` where images are in containerd's store, `daemon.json` where they are in docker's own.
//!
//! - Containerd's store (28 and newer): `certs.d/_default/hosts.toml`, read at each pull and push, all registries, pushes
//!   too. Never `registry-mirrors`: with a mirror on loopback that version no longer verifies Docker Hub itself.
//! - Docker's own store: `registry-mirrors`, for Docker Hub and pulls alone, read on SIGHUP. Removing the key keeps the
//!   mirror; only `[]` clears it, so that is what the daemon reads first when this is undone.
//! - Proxy: `proxies` in `daemon.json` from 23 on, variables of the service before. For Docker Hub the older store reads
//!   no `certs.d`: there `SSL_CERT_FILE` has to say whom to trust.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{
    Ask, Client, Error, Mode, Place, Plan, Version,
    daemon::{self, Follow},
    files,
    hosts::{self, Style},
    journal::Journal,
    merge, trust,
};

pub(super) fn plan(ask: &Ask<'_>) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let file = daemon_json(ask.place);
    let before = ask.journal.without_us(&file)?.unwrap_or_default();
    let mut settings = parsed(ask.place, &file, &before)?;
    let (version, containerd_store) = daemon_kind(ask, &settings)?;
    let certs_d = ask.place.etc("docker/certs.d");
    match ask.request.mode {
        Mode::Mirror if containerd_store => {
            hosts::mirror(ask, &mut plan, &certs_d, Style::Everything)?;
            plan.note("docker reads this at each pull and push; no restart is needed");
            if settings.contains_key(MIRRORS) {
                plan.note(format!(
                    "{} has registry-mirrors, which goes before hosts.toml for Docker Hub: remove it",
                    file.display()
                ));
            }
            return Ok(plan);
        }
        Mode::Mirror => {
            if let Some(ca) = &ask.standin.ca
                && ask.standin.url.is_https()
                && !ask.standin.url.host().starts_with("127.")
            {
                plan.file(
                    hosts::mirror_crt(&certs_d, &ask.standin.authority()),
                    ca.as_bytes(),
                );
            }
            put_first(&mut settings, MIRRORS, &ask.standin.address())
                .map_err(|problem| Error::file(ask.place.outside(&file), problem))?;
            plan.follow.push(Follow::ReloadDocker {
                pid_file: pid_file(ask.place, &settings),
                mirror: Some(ask.standin.address()),
            });
            plan.note(
                "this version of docker has mirrors for Docker Hub's names only, and does not push to them: --mode proxy \
                 reaches the others",
            );
        }
        Mode::Proxy => {
            if containerd_store {
                hosts::trust(ask, &mut plan, &certs_d)?;
            } else {
                hosts::trust_each(ask, &mut plan, &certs_d)?;
            }
            let bundle = match containerd_store {
                true => None,
                false => Some(trust::bundle(ask, &mut plan)?),
            };
            let proxy = ask.standin.proxy();
            if version.major >= PROXIES_SINCE {
                add_proxies(ask, &mut settings, &proxy)
                    .map_err(|problem| Error::file(ask.place.outside(&file), problem))?;
                if let Some(bundle) = &bundle {
                    trust::service(ask, &mut plan, "docker", &[("SSL_CERT_FILE", bundle)]);
                }
                plan.note("docker reads its proxies at its next start: restart it");
            } else {
                let no_proxy = trust::no_proxy(ask.standin, "");
                let mut variables = vec![("HTTPS_PROXY", proxy.as_str()), ("NO_PROXY", &no_proxy)];
                variables.extend(bundle.as_deref().map(|bundle| ("SSL_CERT_FILE", bundle)));
                trust::service(ask, &mut plan, "docker", &variables);
                return Ok(plan);
            }
        }
    }
    let text = merge::json_text(&settings, &before);
    plan.file(file, text);
    Ok(plan)
}

/// Has the daemon forget a mirror that it would keep if the key were just gone.
pub(super) fn before_undo(
    place: &Place,
    journal: &Journal,
    notes: &mut Vec<String>,
) -> Result<Vec<Follow>, Error> {
    let file = daemon_json(place);
    let mut follow = Vec::new();
    if journal
        .written_for(Client::Docker)
        .any(|path| path.ends_with("standin.conf"))
    {
        follow.push(Follow::Say(
            "then: systemctl daemon-reload && systemctl restart docker".to_owned(),
        ));
    }
    if !journal.written_for(Client::Docker).any(|path| path == file) {
        return Ok(follow);
    }
    let before = parsed(
        place,
        &file,
        &journal.without_us(&file)?.unwrap_or_default(),
    )?;
    let Some(current) = journal.current(&file)? else {
        return Ok(follow);
    };
    let mut now = parsed(place, &file, &current.bytes)?;
    if now.get("proxies") != before.get("proxies") {
        follow.push(Follow::Say(
            "docker keeps its proxy until its next start: restart it".to_owned(),
        ));
    }
    if now.get(MIRRORS) == before.get(MIRRORS) {
        return Ok(follow);
    }
    let pid_file = pid_file(place, &now);
    let ours = now
        .get(MIRRORS)
        .and_then(|mirrors| mirrors.get(0))
        .and_then(Value::as_str);
    let ours = ours.unwrap_or_default().trim_end_matches('/').to_owned();
    if !before.contains_key(MIRRORS) {
        if daemon::docker_mirrors(place).is_none() {
            follow.push(Follow::Say(KEPT.to_owned()));
            return Ok(follow);
        }
        now.insert(MIRRORS.to_owned(), json!([]));
        let path = place.outside(&file);
        files::write(
            &path,
            &merge::json_text(&now, &current.bytes),
            Some(current.owner),
        )?;
        let told = daemon::hang_up(place, &pid_file);
        let forgotten = told.is_ok() && daemon::await_mirror(place, &ours, false);
        files::write(&path, &current.bytes, Some(current.owner))?;
        notes.push(match forgotten {
            true => "dockerd has forgotten its mirror".to_owned(),
            false => KEPT.to_owned(),
        });
        return Ok(follow);
    }
    follow.push(Follow::ReloadDocker {
        pid_file,
        mirror: None,
    });
    Ok(follow)
}

pub(super) fn daemon_json(place: &Place) -> PathBuf {
    place.etc("docker/daemon.json")
}

/// The daemon's version, and whether its images are in containerd's store and its registries in `hosts.toml`.
fn daemon_kind(ask: &Ask<'_>, settings: &Map<String, Value>) -> Result<(Version, bool), Error> {
    let asked = match ask.request.docker_version {
        Some(_) => None,
        None => daemon::docker(ask.place),
    };
    let version = ask
        .request
        .docker_version
        .or(asked.as_ref().map(|docker| docker.version));
    let Some(version) = version else {
        return Err(Error::Unfit(
            "which files docker reads depends on its version, and there is no docker here to be asked: give \
             --docker-version, such as 29.1"
                .to_owned(),
        ));
    };
    let set = settings
        .get("features")
        .and_then(|features| features.get("containerd-snapshotter"));
    let store = asked
        .and_then(|docker| docker.containerd_store)
        .or(set.and_then(Value::as_bool))
        .unwrap_or(version.major >= CONTAINERD_STORE_BY_DEFAULT_SINCE);
    Ok((version, store && version.major >= HOSTS_TOML_SINCE))
}

fn parsed(place: &Place, file: &Path, bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    merge::json(bytes).map_err(|problem| Error::file(place.outside(file), problem))
}

/// dockerd's own default, or what its file says.
fn pid_file(place: &Place, settings: &Map<String, Value>) -> PathBuf {
    let set = settings.get("pidfile").and_then(Value::as_str);
    set.map_or_else(|| place.pid_file("docker.pid"), PathBuf::from)
}

fn put_first(settings: &mut Map<String, Value>, key: &str, first: &str) -> Result<(), String> {
    let list = settings.entry(key).or_insert_with(|| json!([]));
    let Value::Array(list) = list else {
        return Err(format!("its {key:?} is no list: make it one"));
    };
    list.retain(|one| one.as_str().map(|one| one.trim_end_matches('/')) != Some(first));
    list.insert(0, first.into());
    Ok(())
}

fn add_proxies(
    ask: &Ask<'_>,
    settings: &mut Map<String, Value>,
    proxy: &str,
) -> Result<(), String> {
    let proxies = settings.entry("proxies").or_insert_with(|| json!({}));
    let Value::Object(proxies) = proxies else {
        return Err("its \"proxies\" is no object: make it one".to_owned());
    };
    let existing = proxies
        .get("no-proxy")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let no_proxy = trust::no_proxy(ask.standin, existing);
    proxies.insert("https-proxy".to_owned(), proxy.into());
    proxies.insert("no-proxy".to_owned(), no_proxy.into());
    Ok(())
}

pub(super) const MIRRORS: &str = "registry-mirrors";
const KEPT: &str = "a dockerd that runs keeps its mirror until its next start: restart it";
/// The first version that takes `proxies` in `daemon.json`.
const PROXIES_SINCE: u32 = 23;
/// The first version whose containerd store and builds read `hosts.toml`.
const HOSTS_TOML_SINCE: u32 = 28;
/// The first version that a fresh installation of has its images in containerd's store.
const CONTAINERD_STORE_BY_DEFAULT_SINCE: u32 = 29;
