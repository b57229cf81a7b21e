//! podman, buildah and skopeo: a drop-in below `registries.conf.d` with a mirror per registry, and `certs.d`.
//!
//! A drop-in's entry for a registry replaces another file's whole, so what others say of that registry is carried along,
//! behind our mirror. These clients never push to a mirror.

use std::path::{Path, PathBuf};

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use super::{Ask, Error, Mode, Plan, hosts, merge, trust};
use crate::types::RegistryHost;

pub(super) fn plan(ask: &Ask<'_>) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let etc = ask.place.etc("containers");
    let certs_d = etc.join("certs.d");
    if ask.request.mode == Mode::Proxy {
        hosts::trust_each(ask, &mut plan, &certs_d)?;
        plan.note(format!(
            "podman, buildah and skopeo take the proxy from their environment: HTTPS_PROXY={} NO_PROXY={}, or eval \
             \"$(standin configure env)\"",
            ask.standin.proxy(),
            trust::no_proxy(ask.standin, "")
        ));
        return Ok(plan);
    }
    ask.not_by_ipv6("registries.conf")?;
    if let Some(ca) = ask
        .standin
        .ca
        .as_ref()
        .filter(|_| ask.standin.url.is_https())
    {
        plan.file(
            hosts::mirror_crt(&certs_d, &ask.standin.authority()),
            ca.as_bytes(),
        );
    }
    let directory = etc.join("registries.conf.d");
    let drop_in = directory.join(DROP_IN);
    let mut names = ask.journal.names_without_us(&directory)?;
    names.retain(|name| name.ends_with(".conf") && name != DROP_IN);
    let main = [etc.join("registries.conf")];
    let (before, after): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| name.as_str() < DROP_IN);
    let read = |paths: Vec<PathBuf>| -> Result<Vec<Table>, Error> {
        let mut entries = Vec::new();
        for path in paths {
            entries.extend(entries_of(ask, &path)?);
        }
        Ok(entries)
    };
    let inherited = read(
        main.into_iter()
            .chain(before.iter().map(|name| directory.join(name)))
            .collect(),
    )?;
    let overriding = read(after.iter().map(|name| directory.join(name)).collect())?;

    let mut entries = ArrayOfTables::new();
    for registry in ask.registries() {
        // The last one wins.
        let theirs = inherited.iter().rev().find(|entry| is_for(entry, registry));
        entries.push(with_mirror(ask, registry, theirs));
        if overriding.iter().any(|entry| is_for(entry, registry)) {
            plan.note(format!(
                "a file behind {} has an entry for {registry}, which replaces ours: remove it",
                drop_in.display()
            ));
        }
    }
    let mut document = DocumentMut::new();
    document.insert("registry", Item::ArrayOfTables(entries));
    plan.file(
        drop_in,
        format!("# Written by `standin configure`; `--undo` removes it.\n{document}"),
    );
    plan.note(
        "each podman, buildah and skopeo command reads this; a podman service does on SIGHUP",
    );
    plan.note(
        "they push to the registry itself, not to a mirror: name standin, or use --mode proxy",
    );
    Ok(plan)
}

fn with_mirror(ask: &Ask<'_>, registry: &RegistryHost, theirs: Option<&Table>) -> Table {
    let mut ours = Table::new();
    let location = format!("{}/{}", ask.standin.authority(), registry.component());
    ours.insert("location", value(location));
    if !ask.standin.url.is_https() {
        ours.insert("insecure", value(true));
    }
    let mut entry = match theirs {
        Some(theirs) => Table::from_iter(theirs.iter().map(|(key, item)| (key, item.clone()))),
        None => Table::from_iter([("location", value(registry.to_string()))]),
    };
    let mut mirrors = ArrayOfTables::new();
    mirrors.push(ours);
    if let Some(Item::ArrayOfTables(theirs)) = entry.remove("mirror") {
        for mirror in &theirs {
            mirrors.push(Table::from_iter(
                mirror.iter().map(|(key, item)| (key, item.clone())),
            ));
        }
    }
    entry.insert("mirror", Item::ArrayOfTables(mirrors));
    entry
}

/// The `[[registry]]` entries of a file.
fn entries_of(ask: &Ask<'_>, path: &Path) -> Result<Vec<Table>, Error> {
    let refuse = |problem: String| Error::file(ask.place.outside(path), problem);
    let document = merge::toml(ask.text(path)?.as_bytes()).map_err(refuse)?;
    if document.contains_key("registries") {
        return Err(refuse(
            "it is of the first form ([registries.search]), which excludes mirrors: write it as unqualified-search-registries and [[registry]]".to_owned(),
        ));
    }
    Ok(match document.get("registry") {
        Some(Item::ArrayOfTables(entries)) => entries.iter().cloned().collect(),
        None => Vec::new(),
        Some(_) => return Err(refuse("its registry is no [[registry]] table".to_owned())),
    })
}

/// Whether an entry is about a whole registry, and which.
fn is_for(entry: &Table, registry: &RegistryHost) -> bool {
    let text = |key| entry.get(key).and_then(Item::as_str);
    let prefix = text("prefix")
        .filter(|prefix| !prefix.is_empty())
        .or(text("location"));
    prefix.and_then(|prefix| prefix.parse().ok()).as_ref() == Some(registry)
}

/// Behind the distribution's files, ahead of what a person numbers higher.
const DROP_IN: &str = "050-standin.conf";
