//! Which registry a command works on that carries images: one by its URL, the standin that runs, or none.

use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::{
    job::Instance,
    transfer::{Access, Remote},
    types::UpstreamUrl,
    upstream::{Login, Trust},
};

/// The registry at `url`, trusted by the authorities in `ca` as well, and logged in at as `user`, NAME:PASSWORD.
pub(super) fn remote(
    url: &UpstreamUrl,
    ca: Option<&Path>,
    user: Option<&str>,
) -> anyhow::Result<Remote> {
    let trust = match ca {
        None => Trust::default(),
        Some(file) => {
            let pem =
                std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            Trust::default()
                .with_authorities(&pem)
                .map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))?
        }
    };
    let access = Access {
        trust,
        login: user.map(login).transpose()?,
        authfiles: None,
    };
    Ok(Remote::new(url, access)?)
}

/// The standin that runs, if one does, logged in at as `user`, NAME:PASSWORD, or else with the credential that it has told.
///
/// # Errors
/// A user is given, and there is nothing to log in at. `flag` would name a registry.
pub(super) fn running(
    instance: Option<Instance>,
    user: Option<&str>,
    flag: &str,
) -> anyhow::Result<Option<Remote>> {
    let Some(instance) = instance else {
        ensure!(
            user.is_none(),
            "--user logs in at a registry, and no standin runs here: name one by {flag} URL, or leave --user out"
        );
        return Ok(None);
    };
    let told = instance.user.zip(instance.password);
    let told = told.map(|(user, password)| Login::Password { user, password });
    let access = Access {
        login: user.map(login).transpose()?.or(told),
        ..Access::default()
    };
    let url: UpstreamUrl = instance.http.parse()?;
    Ok(Some(Remote::new(&url, access)?))
}

fn login(text: &str) -> anyhow::Result<Login> {
    let (user, password) = text
        .split_once(':')
        .context("--user is written NAME:PASSWORD")?;
    Ok(Login::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    })
}
