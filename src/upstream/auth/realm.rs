//! Which token servers are gone to: a registry names its own, and is not trusted.

use std::net::IpAddr;

use reqwest::Url;

use crate::types::UpstreamUrl;

/// Whether the registry at `base` may send us to `realm` for a token; if not, why.
///
/// - Its own host: by https, or by http as well if the registry itself is reached so.
/// - Another host: by https and by a name, whose address whoever connects must check.
/// - Anything that `trusted` has the origin of.
pub(super) fn realm_allowed(
    realm: &Url,
    base: &UpstreamUrl,
    trusted: &[UpstreamUrl],
) -> Result<(), String> {
    let configure = "if that is right, name it in the registry's auth-realm";
    let https = match realm.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err("it is neither https nor http".to_owned()),
    };
    let Some(host) = realm.host_str() else {
        return Err("it has no host".to_owned());
    };
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err("it has a user in it".to_owned());
    }
    let origin = |url: &UpstreamUrl| Url::parse(url.as_str()).map(|url| url.origin());
    if trusted.iter().any(|url| origin(url) == Ok(realm.origin())) {
        return Ok(());
    }
    let base = Url::parse(base.as_str()).map_err(|error| format!("the registry's URL: {error}"))?;
    let own = base.host_str() == Some(host);
    if own && (https || base.scheme() == "http") {
        return Ok(());
    }
    if !https {
        return Err(format!(
            "over http what is sent there can be read on the way; {configure}"
        ));
    }
    let bare = host.trim_matches(['[', ']']);
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    if bare.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost") {
        return Err(format!(
            "it is an address or a name of this machine, and not the registry's own; {configure}"
        ));
    }
    Ok(())
}
