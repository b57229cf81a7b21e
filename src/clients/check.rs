//! Whether a client would reach us now: its files, what its daemon has read, and an answer over the certificate that the
//! files name.

use super::{
    Ask, Client, Error, Mode, Place, Plan, Request, Standin, daemon, docker, journal::Journal,
};
use crate::tls::probe;

/// Each finding, and whether it is as it has to be.
pub(super) fn findings(
    journal: &Journal,
    place: &Place,
    request: &Request,
    standin: &Standin,
    plan: &Plan,
) -> Result<Vec<(bool, String)>, Error> {
    let mut findings = Vec::new();
    for (path, wanted) in plan.files() {
        let shown = place.outside(path);
        let shown = shown.display();
        findings.push(match journal.current(path)? {
            Some(found) if found.bytes == wanted => (true, format!("{shown} is as it has to be")),
            Some(_) => (false, format!("{shown} does not lead to {}", standin.url)),
            None => (false, format!("{shown} is missing")),
        });
    }
    let ask = Ask {
        journal,
        place,
        request,
        standin,
    };
    if request.client == Client::Docker && request.mode == Mode::Mirror {
        findings.extend(docker_has_read(&ask, plan));
    }
    findings.push(answers(standin));
    Ok(findings)
}

/// Where the daemon has to read a file again: whether it has.
fn docker_has_read(ask: &Ask<'_>, plan: &Plan) -> Option<(bool, String)> {
    let file = docker::daemon_json(ask.place);
    if !ask.place.is_live() || !plan.files().any(|(path, _)| path == file) {
        return None;
    }
    let wanted = ask.standin.address();
    Some(match daemon::docker_mirrors(ask.place) {
        None => (false, "no docker daemon answers".to_owned()),
        Some(mirrors)
            if mirrors
                .iter()
                .any(|mirror| mirror.trim_end_matches('/') == wanted) =>
        {
            (
                true,
                format!("the docker daemon has read that {wanted} is its mirror"),
            )
        }
        Some(_) => (
            false,
            "the docker daemon has not read its file yet: kill -HUP \"$(pidof dockerd)\""
                .to_owned(),
        ),
    })
}

/// Asked as a client would.
fn answers(standin: &Standin) -> (bool, String) {
    let url = &standin.url;
    let authorities = standin.ca.as_deref().filter(|_| url.is_https());
    if url.is_https() && authorities.is_none() {
        return (
            true,
            format!("{url} was not asked: the system's trust decides there"),
        );
    }
    match probe::status(url.host(), url.port(), "/healthz", authorities) {
        Ok(200) => (true, format!("{url} answers")),
        Ok(status) => (
            false,
            format!("{url} answers /healthz with {status}: is that standin?"),
        ),
        Err(problem) => (false, problem),
    }
}
