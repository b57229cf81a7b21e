//! Which registry a command works on that carries images: one by its URL, the standin that runs, or none.

use std::path::Path;

use anyhow::Context as _;

use crate::{
    config::{Directories, Sources},
    job::{Instance, READY_FILE},
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

/// The standin that works on the data directory now, if one does.
pub(super) fn running(sources: &Sources) -> anyhow::Result<Option<Remote>> {
    let Directories { data, state } = Directories::from_sources(sources)?;
    let Some(instance) = Instance::read(&state.join(READY_FILE))? else {
        return Ok(None);
    };
    if instance.data != data || instance.process()?.is_none() {
        return Ok(None);
    }
    let login = instance.user.zip(instance.password);
    let access = Access {
        login: login.map(|(user, password)| Login::Password { user, password }),
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
