//! How a standin that runs is, and what it has done: its own report, asked for over HTTP.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;

use super::{
    Instance,
    instance::{Answer, ask},
    report::{self, Report},
};

/// How a standin is. Serialised, it is what `standin status --json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Whether it answers.
    pub up: bool,
    /// Why not, or why there is no report.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<Where>,
    /// As `/status` has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<Report>,
}

#[derive(Clone, Debug, Serialize)]
struct Where {
    pid: i32,
    http: String,
    https: String,
    ca: String,
    data: String,
}

impl Status {
    /// Asks the instance, as `user` (NAME:PASSWORD) or as the user that it made up.
    pub fn of(instance: &Instance, user: Option<&str>) -> Self {
        let generated = instance.user.as_ref().zip(instance.password.as_ref());
        let generated = generated.map(|(user, password)| format!("{user}:{password}"));
        let user = user.map(str::to_owned).or(generated);
        let authorization = user.map(|user| format!("Basic {}", BASE64_STANDARD.encode(user)));
        let (report, problem) = match report(instance, authorization.as_deref()) {
            Ok(Ok(report)) => (Some(report), None),
            Ok(Err(refused)) => (None, Some(refused)),
            Err(problem) => return Self::down(problem),
        };
        Self {
            up: true,
            problem,
            instance: Some(Where {
                pid: instance.pid(),
                http: instance.http.clone(),
                https: instance.https.to_string(),
                ca: instance.ca.display().to_string(),
                data: instance.data.display().to_string(),
            }),
            report,
        }
    }

    /// There is none.
    pub fn down(problem: String) -> Self {
        Self {
            up: false,
            problem: Some(problem),
            instance: None,
            report: None,
        }
    }
}

/// What the instance tells of itself, or why it tells nothing to us; an error if it is not up at all.
fn report(
    instance: &Instance,
    authorization: Option<&str>,
) -> Result<Result<Report, String>, String> {
    let url = &instance.http;
    match ask(url, "/status?format=json", authorization)? {
        Answer::Ok(text) => match serde_json::from_str::<Report>(&text) {
            Ok(report) if report.version == report::VERSION => Ok(Ok(report)),
            _ => Err(format!(
                "{url} answers /status with what is no report of this version's: is that the same standin?"
            )),
        },
        Answer::Refused(401) => {
            instance.ask("/healthz")?;
            let who = match authorization {
                None => "what it has done is told to users: give --user NAME:PASSWORD",
                Some(_) => {
                    "what it has done is told to users, and it knows none of that name and password"
                }
            };
            Ok(Err(who.to_owned()))
        }
        refused @ Answer::Refused(_) => Err(refused.problem(url, "/status")),
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = self.problem.as_deref().unwrap_or("no answer");
        let Some(instance) = &self.instance else {
            return write!(f, "standin is not up: {problem}");
        };
        let pid = instance.pid;
        match &self.report {
            Some(Report {
                standin, started, ..
            }) => writeln!(f, "standin {standin} is up since {started} (pid {pid})")?,
            None => writeln!(f, "standin is up (pid {pid})")?,
        }
        for (name, value) in [
            ("http", &instance.http),
            ("https", &instance.https),
            ("ca", &instance.ca),
            ("data", &instance.data),
        ] {
            writeln!(f, "{name:<6} {value}")?;
        }
        match &self.report {
            Some(report) => write!(f, "{}", report.lines().join("\n")),
            None => write!(f, "{problem}"),
        }
    }
}
