//! The operating system's trust store: our authority goes in as a file, and the system's own program takes it up.

use std::path::{Path, PathBuf};

use super::{Ask, Error, Place, Plan, daemon::Follow};

pub(super) fn plan(ask: &Ask<'_>) -> Result<Plan, Error> {
    ask.place.needs_root("the system's trust store")?;
    let ca =
        ask.standin.ca.as_deref().ok_or_else(|| {
            Error::Unfit("there is no authority to trust: give --ca FILE".to_owned())
        })?;
    let store = store(ask.place).ok_or_else(|| {
        let known: Vec<&str> = STORES.iter().map(|store| store.sign).collect();
        Error::Unfit(format!(
            "no trust store is known here: install ca-certificates (looked for {})",
            known.join(", ")
        ))
    })?;
    let mut plan = Plan::default();
    // One to a file: Debian's program takes no more. There are two while the authority is being renewed.
    let certificates = ca.split_inclusive(END).filter(|part| part.contains(BEGIN));
    for (number, certificate) in certificates.enumerate() {
        let name = match number {
            0 => "standin.crt".to_owned(),
            other => format!("standin-{}.crt", other + 1),
        };
        let path = Path::new(store.directory).join(name);
        plan.file(path, format!("{}\n", certificate.trim()));
    }
    plan.follow.push(Follow::Run(store.take_up));
    plan.note(format!(
        "what runs already keeps what it trusted; taken up by: {}",
        store.take_up.join(" ")
    ));
    Ok(plan)
}

pub(super) fn before_undo(place: &Place, written: &[PathBuf]) -> Vec<Follow> {
    let of = |store: &&Store| written.iter().any(|path| path.starts_with(store.directory));
    let store = STORES.iter().find(of).or_else(|| store(place));
    store
        .map(|store| Follow::Run(store.drop))
        .into_iter()
        .collect()
}

fn store(place: &Place) -> Option<&'static Store> {
    STORES
        .iter()
        .find(|store| place.outside(Path::new(store.sign)).exists())
}

struct Store {
    /// What tells that it is this one.
    sign: &'static str,
    directory: &'static str,
    take_up: &'static [&'static str],
    drop: &'static [&'static str],
}

/// Red Hat and its kin; SUSE; Debian, Ubuntu and Alpine.
const STORES: [Store; 3] = [
    Store {
        sign: "/etc/pki/ca-trust/source/anchors",
        directory: "/etc/pki/ca-trust/source/anchors",
        take_up: &["update-ca-trust"],
        drop: &["update-ca-trust"],
    },
    Store {
        sign: "/etc/pki/trust/anchors",
        directory: "/etc/pki/trust/anchors",
        take_up: &["update-ca-certificates"],
        drop: &["update-ca-certificates", "--fresh"],
    },
    Store {
        sign: "/etc/ca-certificates.conf",
        directory: "/usr/local/share/ca-certificates",
        take_up: &["update-ca-certificates"],
        drop: &["update-ca-certificates", "--fresh"],
    },
];

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
