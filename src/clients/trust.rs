//! Trust and proxy for programs that have no setting of their own for it: a bundle of the system's authorities and ours,
//! and the variables of a service.

use std::path::Path;

use super::{Ask, Error, Plan, Standin, files};

/// The path of a file with the system's authorities and ours, which becomes one of the plan's files: `SSL_CERT_FILE` and
/// its like replace what a program trusts, and the rest of the world is still to be reached.
pub(super) fn bundle(ask: &Ask<'_>, plan: &mut Plan) -> Result<String, Error> {
    let ours = ask.standin.needed_ca()?;
    let mut bundle = Vec::new();
    for name in SYSTEM_BUNDLES {
        // By its target: the system's own links here are as it means them to be.
        let path = ask.place.outside(Path::new(name));
        let Ok(real) = path.canonicalize() else {
            continue;
        };
        if let Some(found) = files::read(ask.place.root(), &real)? {
            bundle = found.bytes;
            break;
        }
    }
    if bundle.is_empty() {
        plan.note("there are no authorities of the system's: nothing but standin's is trusted");
    } else if !bundle.ends_with(b"\n") {
        bundle.push(b'\n');
    }
    // The system's may hold it already, by `configure system`.
    if !String::from_utf8_lossy(&bundle).contains(ours.trim()) {
        bundle.extend_from_slice(ours.as_bytes());
    }
    let path = ask.place.ours().join("bundle.pem");
    let named = path.to_string_lossy().into_owned();
    plan.file(path, bundle);
    Ok(named)
}

/// Plans variables for a service: in a drop-in of systemd's where that is what starts it, else the user is told.
pub(super) fn service(ask: &Ask<'_>, plan: &mut Plan, service: &str, variables: &[(&str, &str)]) {
    if !ask.place.has_systemd() {
        let set: Vec<String> = variables
            .iter()
            .map(|(name, value)| format!("{name}={}", super::env::shell_quoted(value)))
            .collect();
        plan.note(format!("start {service} anew with {}", set.join(" ")));
        return;
    }
    let mut text = "[Service]\n".to_owned();
    for (name, value) in variables {
        // Within double quotes systemd has C's escapes, and % begins a specifier.
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('%', "%%");
        text.push_str(&format!("Environment=\"{name}={value}\"\n"));
    }
    plan.file(drop_in(service).into(), text);
    plan.note(format!(
        "then: systemctl daemon-reload && systemctl restart {service}"
    ));
}

/// What a proxy is not asked for: us, and what runs beside the client.
pub(super) fn no_proxy(standin: &Standin, existing: &str) -> String {
    let mut names: Vec<&str> = existing
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let own = standin.url.host().trim_matches(['[', ']']);
    for name in ["localhost", "127.0.0.1", "::1", own] {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(",")
}

pub(super) fn drop_in(service: &str) -> String {
    format!("/etc/systemd/system/{service}.service.d/standin.conf")
}

/// Debian and Alpine; Red Hat; SUSE; Alpine without the bundle's package.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
