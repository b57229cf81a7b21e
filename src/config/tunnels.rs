//! What `--tunnel` and its like come to.

use super::{
    limits::{number, time},
    refuse,
    source::{ConfigError, Key, Sources},
};
use crate::{
    proxy::{TunnelOptions, TunnelPattern},
    types::UpstreamProxy,
};

pub(super) fn tunnels(sources: &Sources) -> Result<TunnelOptions, ConfigError> {
    let default = TunnelOptions::default();
    let listed = sources.list(Key::Tunnel, |given| match given.text.as_str() {
        "none" => Ok(None),
        other => other.parse::<TunnelPattern>().map(Some),
    })?;
    if let Some(listed) = &listed
        && listed.len() > 1
        && listed.contains(&None)
    {
        let problem = "none goes with nothing else: leave it out, or the others".to_owned();
        return Err(refuse(sources, Key::Tunnel, problem));
    }
    Ok(TunnelOptions {
        listed: listed.map(|listed| listed.into_iter().flatten().collect()),
        most: sources
            .one(Key::MaxTunnels, |given| {
                number(&given.text, 1..=MOST_TUNNELS)
            })?
            .unwrap_or(default.most),
        idle: sources
            .one(Key::TunnelIdle, |given| time(&given.text))?
            .unwrap_or(default.idle),
        upstream: sources
            .one(Key::UpstreamProxy, |given| match given.text.as_str() {
                "env" => from_environment(sources),
                url => url
                    .parse()
                    .map(Some)
                    .map_err(|error| format!("{error}, or env")),
            })?
            .flatten(),
    })
}

/// The proxy that a job's other programs use, and whom they reach without it. Only where it is asked for: it may well be
/// ourselves.
fn from_environment(sources: &Sources) -> Result<Option<UpstreamProxy>, String> {
    let value = |names: &[&'static str]| {
        names.iter().find_map(|name| {
            let value = sources.ambient(name)?.to_string_lossy().into_owned();
            Some((*name, value))
        })
    };
    let Some((name, url)) = value(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]) else {
        return Ok(None);
    };
    let proxy: UpstreamProxy = url
        .parse()
        .map_err(|error| format!("the variable {name}: {error}"))?;
    let except = value(&["NO_PROXY", "no_proxy"]).map_or(String::new(), |(_, list)| list);
    Ok(Some(proxy.except(&except)))
}

/// A tunnel is two open files, and few systems let a process have more.
const MOST_TUNNELS: usize = 500_000;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Environment, Flags};

    fn read(
        flags: &[(Key, &[&str])],
        variables: &[(&str, &str)],
    ) -> Result<TunnelOptions, ConfigError> {
        let given = flags.iter().fold(Flags::default(), |given, (key, texts)| {
            given.with(*key, texts.iter().map(|text| (*text).to_owned()))
        });
        let variables: Environment = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        tunnels(&Sources::read(given, variables).unwrap())
    }

    #[test]
    fn nothing_given_leaves_it_to_the_listener() {
        let options = read(&[], &[("HTTPS_PROXY", "http://127.0.0.1:5000")]).unwrap();
        assert_eq!(options, TunnelOptions::default());
        assert_eq!(
            (options.most, options.idle),
            (512, Duration::from_secs(600))
        );
    }

    #[test]
    fn lists_of_tunnels() {
        let listed = |texts| read(&[(Key::Tunnel, texts)], &[]).map(|options| options.listed);
        assert_eq!(listed(&["none"]).unwrap(), Some(Vec::new()));
        assert_eq!(
            listed(&["public"]).unwrap(),
            Some(vec![TunnelPattern::Public])
        );
        assert_eq!(listed(&["public", "db.ci:5432"]).unwrap().unwrap().len(), 2);
        let variable = read(&[], &[("STANDIN_TUNNEL", "public,10.0.0.0/8 a.example")]).unwrap();
        assert_eq!(variable.listed.unwrap().len(), 3);
        for (bad, fragment) in [
            (&["none", "public"][..], "nothing else"),
            (&["a b"], "none, public"),
        ] {
            let refused = listed(bad).unwrap_err().to_string();
            assert!(
                refused.starts_with("flag --tunnel: ") && refused.contains(fragment),
                "{refused}"
            );
        }
    }

    #[test]
    fn the_upstream_proxy_is_given_or_the_environments() {
        let proxy = |text, variables: &[_]| {
            read(&[(Key::UpstreamProxy, &[text])], variables).map(|options| options.upstream)
        };
        let given = proxy("http://u:p@proxy:3128", &[]).unwrap().unwrap();
        assert_eq!(given.to_string(), "http://proxy:3128");
        assert_eq!(proxy("env", &[]).unwrap(), None);
        let variables = [
            ("https_proxy", "http://proxy:3128"),
            ("NO_PROXY", "quay.io"),
        ];
        let from = proxy("env", &variables).unwrap().unwrap();
        assert!(from.excepts("quay.io", 443) && !from.excepts("ghcr.io", 443));
        for (text, variables) in [
            ("proxy:3128", &[][..]),
            ("env", &[("HTTPS_PROXY", "socks5://u:secret@proxy")]),
        ] {
            let refused = proxy(text, variables).unwrap_err().to_string();
            assert!(refused.starts_with("flag --upstream-proxy: "), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
