//! A shell's variables: the proxy, and whom to trust, for every program that reads them.
//!
//! `SSL_CERT_FILE` and its like *replace* what a program trusts. So they name a bundle of the system's authorities and
//! ours; it is the one file that is written. `NODE_EXTRA_CA_CERTS` alone adds.

use super::{Ask, Error, Mode, Plan, trust};

/// How variables are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For `eval` in a POSIX shell.
    Shell,
    /// For the file that `GITHUB_ENV` names.
    Github,
}

/// The variables' values, those to unset without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variables(Vec<(&'static str, Option<String>)>);

impl Variables {
    /// What a shell is to have. `no_proxy` is what it has for `NO_PROXY` so far.
    ///
    /// # Errors
    /// There is no authority to trust.
    pub fn new(
        request: &super::Request,
        standin: &super::Standin,
        place: &super::Place,
        no_proxy: &str,
    ) -> Result<Self, Error> {
        standin.needed_ca()?;
        let ours = |name: &str| Some(place.ours().join(name).to_string_lossy().into_owned());
        let mut variables = Vec::new();
        if request.mode == Mode::Proxy {
            let proxy = Some(standin.proxy());
            let without = Some(trust::no_proxy(standin, no_proxy));
            variables.extend([
                ("HTTPS_PROXY", proxy.clone()),
                ("https_proxy", proxy),
                ("NO_PROXY", without.clone()),
                ("no_proxy", without),
            ]);
        }
        variables.extend(BUNDLES.map(|name| (name, ours("bundle.pem"))));
        variables.push((EXTRA, ours("ca.pem")));
        Ok(Self(variables))
    }

    /// Those that have a value.
    pub fn set(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
    }

    /// What takes all of them back.
    pub fn unset() -> Self {
        let names = PROXIES.into_iter().chain(BUNDLES).chain([EXTRA]);
        Self(names.map(|name| (name, None)).collect())
    }

    /// One line each, or more for GitHub where a value has several.
    pub fn lines(&self, format: Format) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            text.push_str(&match (format, value) {
                (Format::Shell, Some(value)) => format!("export {name}={}\n", shell_quoted(value)),
                (Format::Shell, None) => format!("unset {name}\n"),
                (Format::Github, None) => format!("{name}=\n"),
                (Format::Github, Some(value)) if !value.contains(['\n', '\r']) => {
                    format!("{name}={value}\n")
                }
                (Format::Github, Some(value)) => {
                    let mut end = "EOF".to_owned();
                    while value.contains(&end) {
                        end.push('_');
                    }
                    format!("{name}<<{end}\n{value}\n{end}\n")
                }
            });
        }
        text
    }
}

pub(super) fn plan(ask: &Ask<'_>) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let ca = ask.standin.needed_ca()?;
    plan.file(ask.place.ours().join("ca.pem"), ca);
    trust::bundle(ask, &mut plan)?;
    Ok(plan)
}

/// A word that a POSIX shell takes as it is.
pub(super) fn shell_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,@%+=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"];
/// OpenSSL, Go and rustls; curl; Python's requests and pip; git; cargo; AWS's tools.
const BUNDLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
];
const EXTRA: &str = "NODE_EXTRA_CA_CERTS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_safe_for_a_shell() {
        for (text, quoted) in [
            ("/etc/standin/bundle.pem", "/etc/standin/bundle.pem"),
            ("", "''"),
            ("a b", "'a b'"),
            ("$(reboot)", "'$(reboot)'"),
            ("it's", "'it'\\''s'"),
            ("a\nb", "'a\nb'"),
            ("~", "'~'"),
        ] {
            assert_eq!(shell_quoted(text), quoted);
        }
    }

    #[test]
    fn a_value_of_several_lines_ends_where_it_should() {
        let variables = Variables(vec![
            ("A", Some("x\nEOF".to_owned())),
            ("B", Some("y z".to_owned())),
        ]);
        assert_eq!(
            variables.lines(Format::Github),
            "A<<EOF_\nx\nEOF\nEOF_\nB=y z\n"
        );
        assert_eq!(
            variables.lines(Format::Shell),
            "export A='x\nEOF'\nexport B='y z'\n"
        );
    }
}
