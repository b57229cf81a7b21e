//! `certs.d` and its `hosts.toml`, which docker (with containerd's image store) and containerd read alike.

use std::path::{Path, PathBuf};

use toml_edit::{Array, TableLike, Value, value};

use super::{Ask, Error, Plan, merge};
use crate::types::RegistryHost;

/// How a directory's `hosts.toml` names us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// One directory for all registries, whose requests say which is meant.
    Everything,
    /// One per registry, named in the path as well: containerd 1.x does not say on a push which is meant.
    EachByPath,
}

/// Plans the `hosts.toml` files that make us the first host to be asked.
pub(super) fn mirror(
    ask: &Ask<'_>,
    plan: &mut Plan,
    certs_d: &Path,
    style: Style,
) -> Result<(), Error> {
    let ca = ask.ca(plan);
    let directories: Vec<(String, Option<&RegistryHost>)> = match style {
        Style::Everything => directories(ask, certs_d)?
            .into_iter()
            .map(|name| (name, None))
            .collect(),
        Style::EachByPath => {
            ask.not_by_ipv6("containerd before 2.0")?;
            let there = ask.journal.names_without_us(certs_d)?;
            let registries = ask.registries().iter();
            registries
                .map(|registry| (directory_of(registry, &there), Some(registry)))
                .collect()
        }
    };
    for (name, path) in directories {
        let directory = certs_d.join(&name);
        let host = Host {
            url: match path {
                Some(registry) => format!("{}/v2/{}", ask.standin.address(), registry.component()),
                None => ask.standin.address(),
            },
            override_path: path.is_some(),
            ca: ca.as_deref(),
        };
        let file = directory.join(HOSTS_TOML);
        let existing = ask.text(&file)?;
        let text = if existing.trim().is_empty() {
            alone(&own_certificates(ask, &directory)?, &host)
        } else {
            in_front(&existing, &host)
                .map_err(|problem| Error::file(ask.place.outside(&file), problem))?
        };
        plan.file(file, text);
    }
    Ok(())
}

/// Plans what makes every registry's certificate, signed by us, be trusted: a directory's `*.crt` are read together, but
/// only where it has no `hosts.toml`, which has to say it then.
pub(super) fn trust(ask: &Ask<'_>, plan: &mut Plan, certs_d: &Path) -> Result<(), Error> {
    let ca = ask.standin.needed_ca()?;
    for name in directories(ask, certs_d)? {
        let directory = certs_d.join(&name);
        let file = directory.join(HOSTS_TOML);
        let Some(existing) = ask.journal.without_us(&file)? else {
            plan.file(directory.join(OUR_CRT), ca);
            continue;
        };
        let named = ask.trusted(plan)?;
        let text = trusting(&existing, &named, |host| ask.stands_in_for(host))
            .map_err(|problem| Error::file(ask.place.outside(&file), problem))?;
        plan.file(file, text);
    }
    Ok(())
}

/// A `hosts.toml` in which the registry itself, and each host that is one of `ours`, may have a certificate signed by `ca`.
fn trusting(existing: &[u8], ca: &str, ours: impl Fn(&str) -> bool) -> Result<String, String> {
    let mut document = merge::toml(existing)?;
    // What stands outside the tables is said of the registry itself.
    trust_one(document.as_table_mut(), ca)?;
    if let Some(hosts) = document.get_mut("host") {
        let hosts = hosts.as_table_like_mut().ok_or("its host is no table")?;
        for (url, host) in hosts.iter_mut() {
            if !ours(url.get()) {
                continue;
            }
            let host = host
                .as_table_like_mut()
                .ok_or_else(|| format!("its host.{:?} is no table", url.get()))?;
            trust_one(host, ca)?;
        }
    }
    Ok(document.to_string())
}

/// Adds `ca` to what a table's own says: one file's name, or a list of them.
fn trust_one(table: &mut dyn TableLike, ca: &str) -> Result<(), String> {
    let Some(said) = table.get_mut("ca") else {
        table.insert("ca", value(ca));
        return Ok(());
    };
    let said = said.as_value_mut().ok_or("its ca is a table")?;
    match said {
        Value::String(one) if one.value() == ca => {}
        Value::String(one) => {
            let decor = one.decor().clone();
            let mut both = Array::from_iter([one.value().as_str(), ca]);
            *both.decor_mut() = decor;
            *said = Value::Array(both);
        }
        Value::Array(several) => {
            if !several.iter().any(|one| one.as_str() == Some(ca)) {
                several.push(ca);
            }
        }
        _ => return Err("its ca is neither a file's name nor a list of them".to_owned()),
    }
    Ok(())
}

/// Plans what makes the listed registries' certificates, signed by us, be trusted by clients that know no `_default`.
pub(super) fn trust_each(ask: &Ask<'_>, plan: &mut Plan, certs_d: &Path) -> Result<(), Error> {
    let ca = ask.standin.needed_ca()?;
    for registry in ask.registries() {
        plan.file(certs_d.join(registry.to_string()).join(OUR_CRT), ca);
    }
    Ok(())
}

/// The file that a client's `certs.d` needs for the mirror's own address.
pub(super) fn mirror_crt(certs_d: &Path, authority: &str) -> PathBuf {
    certs_d.join(authority).join("ca.crt")
}

/// The directories to write to: those of the registries asked for, or `_default` and all that would hide it.
fn directories(ask: &Ask<'_>, certs_d: &Path) -> Result<Vec<String>, Error> {
    let mut there = ask.journal.names_without_us(certs_d)?;
    there.retain(|name| ask.place.outside(&certs_d.join(name)).is_dir());
    if !ask.request.registries.is_empty() {
        let registries = ask.request.registries.iter();
        return Ok(registries
            .map(|registry| directory_of(registry, &there))
            .collect());
    }
    let ours = ask.standin.authority();
    let mut names = vec![DEFAULT.to_owned()];
    names.extend(there.into_iter().filter(|name| {
        *name != DEFAULT && *name != ours && spelled_with_underscores(&ours) != *name
    }));
    Ok(names)
}

/// `host:port`, unless the directory is there in its other spelling.
fn directory_of(registry: &RegistryHost, there: &[String]) -> String {
    let name = registry.to_string();
    let other = spelled_with_underscores(&name);
    if there.contains(&other) { other } else { name }
}

/// `host_port_`, where a colon cannot stand in a file name.
fn spelled_with_underscores(authority: &str) -> String {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => format!("{host}_{port}_"),
        _ => authority.to_owned(),
    }
}

struct Host<'a> {
    url: String,
    override_path: bool,
    ca: Option<&'a str>,
}

impl Host<'_> {
    fn table(&self) -> String {
        let mut text = format!(
            "[host.{}]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n",
            merge::quoted(&self.url)
        );
        if let Some(ca) = self.ca {
            text.push_str(&format!("  ca = {}\n", merge::quoted(ca)));
        }
        if self.override_path {
            text.push_str("  override_path = true\n");
        }
        text
    }
}

/// What a directory's certificates mean as long as it has no `hosts.toml`, said in one.
fn own_certificates(ask: &Ask<'_>, directory: &Path) -> Result<String, Error> {
    let names = ask.journal.names_without_us(directory)?;
    let path = |name: &String| merge::quoted(&directory.join(name).to_string_lossy());
    let authorities: Vec<String> = names
        .iter()
        .filter(|name| name.ends_with(".crt"))
        .map(path)
        .collect();
    let mut clients = Vec::new();
    for certificate in names.iter().filter(|name| name.ends_with(".cert")) {
        let key = certificate.replace(".cert", ".key");
        if names.contains(&key) {
            clients.push(format!("[{}, {}]", path(certificate), path(&key)));
        }
    }
    let mut text = String::new();
    if !authorities.is_empty() {
        text.push_str(&format!("ca = [{}]\n", authorities.join(", ")));
    }
    if !clients.is_empty() {
        text.push_str(&format!("client = [{}]\n", clients.join(", ")));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    Ok(text)
}

fn alone(head: &str, host: &Host<'_>) -> String {
    format!(
        "# Written by `standin configure`; `--undo` removes it.\n{head}{}",
        host.table()
    )
}

/// Our host before all others: they are asked in the file's order.
fn in_front(existing: &str, host: &Host<'_>) -> Result<String, String> {
    let before = merge::toml(existing.as_bytes())?;
    let hosts = |document: &toml_edit::DocumentMut| {
        let hosts = document
            .get("host")
            .and_then(toml_edit::Item::as_table_like);
        hosts.map_or(0, TableLike::len)
    };
    let named = before.get("host").and_then(toml_edit::Item::as_table_like);
    if named.is_some_and(|hosts| hosts.contains_key(&host.url)) {
        return Err(format!(
            "it names {} already, which is how standin is told to a client: remove that part",
            host.url
        ));
    }
    // By the text, since a table's place in the file is its meaning here.
    let mut at = existing.len();
    let mut offset = 0;
    let mut comment = None;
    for line in existing.split_inclusive('\n') {
        let start = line.trim_start();
        if start.starts_with("[host") {
            at = comment.unwrap_or(offset);
            break;
        }
        comment = match start.starts_with('#') {
            true => comment.or(Some(offset)),
            false => None,
        };
        offset += line.len();
    }
    let (head, tail) = existing.split_at(at);
    let gap = if head.is_empty() || head.ends_with("\n\n") {
        ""
    } else if head.ends_with('\n') {
        "\n"
    } else {
        "\n\n"
    };
    let space = if tail.is_empty() { "" } else { "\n" };
    let text = format!("{head}{gap}{}{space}{tail}", host.table());
    match merge::toml(text.as_bytes()) {
        Ok(after) if hosts(&after) == hosts(&before) + 1 => Ok(text),
        _ => Err("its hosts are written in a way that we cannot add to: write them as [host.\"…\"] tables".to_owned()),
    }
}

/// The directory that holds for all registries without one of their own.
const DEFAULT: &str = "_default";
const HOSTS_TOML: &str = "hosts.toml";
/// Never the name of somebody else's certificate.
const OUR_CRT: &str = "standin.crt";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OURS: Host<'_> = Host {
        url: String::new(),
        override_path: false,
        ca: Some("/etc/standin/ca.pem"),
    };

    fn host() -> Host<'static> {
        Host {
            url: "https://127.0.0.1:5000".to_owned(),
            ..OURS
        }
    }

    const TABLE: &str = "[host.\"https://127.0.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n  \
                         ca = \"/etc/standin/ca.pem\"\n";

    #[test]
    fn ours_is_the_first_host_and_the_rest_stays() {
        for (existing, expected) in [
            (
                "server = \"https://x\"\n",
                format!("server = \"https://x\"\n\n{TABLE}"),
            ),
            (
                "server = \"https://x\"\n\n# theirs\n[host.\"https://m\"]\n  ca = \"m\" # m\n",
                format!(
                    "server = \"https://x\"\n\n{TABLE}\n# theirs\n[host.\"https://m\"]\n  ca = \"m\" # m\n"
                ),
            ),
            (
                "[host.\"https://m\"]\nskip_verify = true",
                format!("{TABLE}\n[host.\"https://m\"]\nskip_verify = true"),
            ),
            ("ca = \"a\"", format!("ca = \"a\"\n\n{TABLE}")),
        ] {
            assert_eq!(in_front(existing, &host()).unwrap(), expected);
        }
    }

    #[test]
    fn what_cannot_be_added_to_is_refused() {
        for (existing, fragment) in [
            ("[host", "no valid TOML"),
            ("host = { \"https://m\" = {} }\n", "cannot add to"),
            ("[host.\"https://127.0.0.1:5000\"]\n", "already"),
        ] {
            let problem = in_front(existing, &host()).unwrap_err();
            assert!(problem.contains(fragment), "{problem}");
        }
    }

    #[test]
    fn our_authority_is_trusted_beside_theirs() {
        let theirs = "# why\nserver = \"https://quay.io\" # s\nca = \"/t.crt\" # theirs\n\n# m\n\
                      [host.\"https://m.example\"]\n  ca = \"m\"\n[host.\"https://quay.io\"]\n  ca = [\"/a\"] # a\n";
        let both = theirs
            .replace("\"/t.crt\"", "[\"/t.crt\", \"/ours.pem\"]")
            .replace("[\"/a\"]", "[\"/a\", \"/ours.pem\"]");
        for (existing, expected) in [
            ("", "ca = \"/ours.pem\"\n"),
            (
                "server = \"https://x\" # x",
                "server = \"https://x\" # x\nca = \"/ours.pem\"\n",
            ),
            ("ca = \"/ours.pem\"\n", "ca = \"/ours.pem\"\n"),
            (theirs, &both),
            (
                "[host.\"https://m.example\"]\n# kept\n",
                "ca = \"/ours.pem\"\n[host.\"https://m.example\"]\n# kept\n",
            ),
        ] {
            let ours = |url: &str| url.ends_with("quay.io");
            let text = trusting(existing.as_bytes(), "/ours.pem", ours).unwrap();
            assert_eq!(text, expected);
            assert_eq!(trusting(text.as_bytes(), "/ours.pem", ours).unwrap(), text);
        }
        for (existing, fragment) in [
            ("ca = 1\n", "neither"),
            ("[ca]\n", "is a table"),
            ("host = 1\n", "no table"),
            ("ca = ", "no valid TOML"),
        ] {
            let problem = trusting(existing.as_bytes(), "/ours.pem", |_| true).unwrap_err();
            assert!(problem.contains(fragment), "{problem}");
        }
    }

    #[test]
    fn ports_in_directory_names() {
        for (authority, name) in [
            ("quay.io", "quay.io"),
            ("reg:5000", "reg_5000_"),
            ("[::1]:5000", "[::1]_5000_"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(spelled_with_underscores(authority), name);
        }
    }
}
