//! What images are called in what is written, so that whoever reads it has the names that clients use.

use crate::types::{RegistryHost, RepositoryName};

/// `docker.io/library/app` of `app`, where `default` is the registry of names that name none.
pub(super) fn full(name: &RepositoryName, default: &RegistryHost) -> String {
    let host = name.split_first().and_then(|(first, rest)| {
        let host = RegistryHost::from_component(first)?;
        (host.looks_like_host() || host.port().is_some()).then_some((host, rest))
    });
    let (host, rest) = match host {
        Some((host, rest)) => (host, rest),
        None => (default.clone(), name.clone()),
    };
    let official = host.is_docker_hub() && rest.split_first().is_none();
    match official {
        true => format!("{host}/library/{rest}"),
        false => format!("{host}/{rest}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_out() {
        for (name, spelled) in [
            ("app", "docker.io/library/app"),
            ("acme/app", "docker.io/acme/app"),
            ("library/app", "docker.io/library/app"),
            ("docker.io/app", "docker.io/library/app"),
            ("quay.io/app", "quay.io/app"),
            ("localhost_5001/a/b", "localhost:5001/a/b"),
            ("registry_5000/a", "registry:5000/a"),
        ] {
            let written = full(&name.parse().unwrap(), &RegistryHost::docker_hub());
            assert_eq!(written, spelled);
        }
        let quay: RegistryHost = "quay.io".parse().unwrap();
        assert_eq!(full(&"app".parse().unwrap(), &quay), "quay.io/app");
    }
}
