//! The report as one HTML page: it needs no script and no other file, and is well-formed XML as well. Each number that
//! `/metrics` has stands in a `data` element, whole.

use std::{
    fmt::{self, Display, Write as _},
    time::Duration,
};

use super::{ByOrigin, Pulled, Report, Upstream, waterfall};
use crate::{
    activity::words::{count, size, time},
    metrics::Origin,
};

/// How a browser is to load the page again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// It is a file.
    Never,
    /// When its reader wants to.
    ByHand,
    /// After so many seconds, again and again.
    Every(u16),
}

/// Rows of a table, at most. The JSON form has all.
const ROWS: usize = 300;
const SLOWEST: usize = 5;

pub(super) fn render(report: &Report, refresh: Refresh) -> String {
    let mut page = String::new();
    // Writing to a String does not fail.
    let _ = write(report, refresh, &mut page);
    page
}

fn write(report: &Report, refresh: Refresh, page: &mut String) -> fmt::Result {
    let title = report.summary.first().map_or("", String::as_str);
    let again = match refresh {
        Refresh::Every(seconds) => {
            format!("<meta http-equiv=\"refresh\" content=\"{seconds}\"/>\n")
        }
        Refresh::Never | Refresh::ByHand => String::new(),
    };
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n{again}\
         <title>standin: {}</title>\n<link rel=\"icon\" href=\"data:,\"/>\n<style>\n{}</style>\n</head>\n<body>\n",
        Escaped(title),
        include_str!("style.css"),
    )?;
    header(report, refresh, page)?;
    writeln!(page, "<main>")?;
    waterfall::write(report, page)?;
    slowest(report, page)?;
    pulled(report, page)?;
    missed(report, page)?;
    pushed(report, page)?;
    upstreams(report, page)?;
    numbers(report, page)?;
    writeln!(page, "</main>\n</body>\n</html>")
}

fn header(report: &Report, refresh: Refresh, page: &mut String) -> fmt::Result {
    let lasted = for_people(report.seconds);
    let state = match report.running {
        true => format!("running for {lasted}"),
        false => format!("ran for {lasted}"),
    };
    writeln!(
        page,
        "<header>\n<p class=\"state\"><b class=\"{}\">standin {}</b> {state}, since <time datetime=\"{started}\">{}</time></p>",
        if report.running { "live" } else { "over" },
        Escaped(&report.standin),
        Escaped(&report.started.replace('T', " ").replace('Z', " UTC")),
        started = Escaped(&report.started),
    )?;
    match refresh {
        Refresh::Never => {}
        Refresh::ByHand => writeln!(
            page,
            "<nav><a href=\"/status\">Load again</a> <a href=\"/status?refresh=5\">every 5 s</a> \
             <a href=\"/status?format=json\">JSON</a></nav>"
        )?,
        Refresh::Every(seconds) => writeln!(
            page,
            "<nav>Loaded again every {seconds} s. <a href=\"/status\">Stop</a> \
             <a href=\"/status?format=json\">JSON</a></nav>"
        )?,
    }
    let mut summary = report.summary.iter();
    writeln!(
        page,
        "<h1>{}</h1>",
        Escaped(summary.next().map_or("", String::as_str))
    )?;
    for line in summary {
        writeln!(page, "<p class=\"lead\">{}</p>", Escaped(line))?;
    }
    writeln!(page, "</header>")
}

fn slowest(report: &Report, page: &mut String) -> fmt::Result {
    let slowest = report.slowest(SLOWEST);
    // Of a few everything can be seen at a glance.
    if report.pulled.len() <= SLOWEST || slowest.is_empty() {
        return Ok(());
    }
    writeln!(
        page,
        "<section>\n<h2>Slowest pulls</h2>\n<ol class=\"slowest\">"
    )?;
    for image in slowest {
        writeln!(
            page,
            "<li>{} <span class=\"quiet\">{}, {} of its time waiting for upstreams</span></li>",
            name(&image.image),
            for_people(image.slowest_seconds),
            for_people(image.waited_seconds),
        )?;
    }
    writeln!(page, "</ol>\n</section>")
}

fn pulled(report: &Report, page: &mut String) -> fmt::Result {
    let images: Vec<&Pulled> = report
        .pulled
        .iter()
        .filter(|image| image.pulls > 0)
        .collect();
    if images.is_empty() {
        return Ok(());
    }
    let columns = [
        "Image", "From", "Pulls", "Sent", "Fetched", "Longest", "Waited",
    ];
    table(page, "pulled", "Pulled", &columns)?;
    for image in images.iter().take(ROWS) {
        writeln!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            name(&image.image),
            origins(&image.from),
            image.pulls,
            size(image.bytes),
            size(image.fetched_bytes),
            for_people(image.slowest_seconds),
            for_people(image.waited_seconds),
        )?;
    }
    end_table(page)?;
    more(page, images.len().saturating_sub(ROWS), "images")?;
    let LeftOut { pulls, hidden } = LeftOut::of(report);
    if pulls > 0 {
        let times = count(pulls, "request was", "requests were");
        writeln!(
            page,
            "<p class=\"quiet\">{times} for further images, whose names are not kept.</p>"
        )?;
    }
    if hidden > 0 {
        let images = count(hidden, "image is", "images are");
        writeln!(
            page,
            "<p class=\"quiet\">{images} not listed: log in as somebody who may pull them.</p>"
        )?;
    }
    writeln!(page, "</section>")
}

/// What is told below the table of pulls.
struct LeftOut {
    pulls: u64,
    hidden: u64,
}

impl LeftOut {
    fn of(report: &Report) -> Self {
        Self {
            pulls: report.left_out.pulls,
            hidden: report.left_out.hidden,
        }
    }
}

fn missed(report: &Report, page: &mut String) -> fmt::Result {
    let in_vain = |image: &&Pulled| image.from.nowhere + image.from.failed > 0;
    let images: Vec<&Pulled> = report.pulled.iter().filter(in_vain).collect();
    if images.is_empty() {
        return Ok(());
    }
    table(
        page,
        "missed",
        "Asked for in vain",
        &["Image", "Times", "The last answer"],
    )?;
    for image in images.iter().take(ROWS) {
        writeln!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"text\">{}</td></tr>",
            name(&image.image),
            image.from.nowhere + image.from.failed,
            Escaped(image.error.as_deref().unwrap_or_default()),
        )?;
    }
    end_table(page)?;
    more(page, images.len().saturating_sub(ROWS), "images")?;
    writeln!(page, "</section>")
}

fn pushed(report: &Report, page: &mut String) -> fmt::Result {
    if report.pushed.is_empty() {
        return Ok(());
    }
    let columns = ["Image", "Pushes", "Size", "Uploaded", "Took"];
    table(page, "pushed", "Pushed", &columns)?;
    for image in report.pushed.iter().take(ROWS) {
        writeln!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            name(&image.image),
            image.pushes,
            size(image.bytes),
            size(image.uploaded_bytes),
            for_people(image.ended - image.began),
        )?;
    }
    end_table(page)?;
    more(page, report.pushed.len().saturating_sub(ROWS), "images")?;
    if report.left_out.pushes > 0 {
        let times = count(report.left_out.pushes, "push was", "pushes were");
        writeln!(
            page,
            "<p class=\"quiet\">{times} of further images, whose names are not kept.</p>"
        )?;
    }
    writeln!(page, "</section>")
}

fn upstreams(report: &Report, page: &mut String) -> fmt::Result {
    if report.upstreams.is_empty() {
        return Ok(());
    }
    let columns = [
        "Registry",
        "Requests",
        "Fetched",
        "Resumed",
        "429",
        "Errors",
        "Pulls left",
    ];
    table(page, "upstreams", "Upstreams", &columns)?;
    for upstream in &report.upstreams {
        let of = |kind: &str| {
            let mut requests = upstream.requests.iter();
            requests
                .find(|(known, _)| known == kind)
                .map_or(0, |(_, count)| *count)
        };
        let errors = upstream
            .errors
            .iter()
            .filter(|error| error.kind != "rate_limited");
        let left = match (upstream.pulls_remaining, upstream.pull_limit) {
            (Some(left), Some(limit)) => format!("{left} of {limit}"),
            (Some(left), None) => left.to_string(),
            (None, _) => "\u{2013}".to_owned(),
        };
        let key = Escaped(&upstream.registry);
        writeln!(
            page,
            "<tr><th scope=\"row\">{key}{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{left}</td></tr>",
            if upstream.withheld {
                " <span class=\"quiet\">left alone for now</span>"
            } else {
                ""
            },
            Number(
                "requests",
                &upstream.registry,
                upstream.requests.iter().map(|(_, count)| count).sum()
            ),
            Bytes("received", &upstream.registry, upstream.received_bytes),
            Number("resumes", &upstream.registry, upstream.resumes),
            Number("rate_limited", &upstream.registry, of("rate_limited")),
            errors.map(|error| error.count).sum::<u64>(),
        )?;
    }
    end_table(page)?;
    writeln!(page, "</section>")?;
    errors(report, page)
}

fn errors(report: &Report, page: &mut String) -> fmt::Result {
    let any = |upstream: &&Upstream| !upstream.errors.is_empty();
    if report.upstreams.iter().find(any).is_none() {
        return Ok(());
    }
    let columns = ["Registry", "Kind", "Times", "First", "Last"];
    table(page, "errors", "What upstreams failed at", &columns)?;
    for upstream in &report.upstreams {
        for error in &upstream.errors {
            let last = match (error.count, error.last_message == error.first_message) {
                (1, _) => String::new(),
                (_, true) => format!("the same, at {}", for_people(error.last)),
                (_, false) => told(error.last, &error.last_message),
            };
            writeln!(
                page,
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"text\">{}</td><td class=\"text\">{last}</td></tr>",
                Escaped(&upstream.registry),
                Escaped(&error.kind.replace('_', " ")),
                error.count,
                told(error.first, &error.first_message),
            )?;
        }
    }
    end_table(page)?;
    writeln!(
        page,
        "<p class=\"quiet\">Times are since the start.</p>\n</section>"
    )
}

/// The sums, as `/metrics` has them.
fn numbers(report: &Report, page: &mut String) -> fmt::Result {
    let totals = &report.totals;
    writeln!(page, "<section>\n<h2>In numbers</h2>\n<dl id=\"totals\">")?;
    let waited = format!(
        "<data id=\"waited_seconds\" value=\"{}\">{}</data>",
        totals.waited_seconds,
        for_people(totals.waited_seconds)
    );
    for (term, value) in [
        (
            "Sent to clients",
            Bytes("sent_bytes", "", totals.sent_bytes).to_string(),
        ),
        (
            "Fetched from upstreams",
            Bytes("fetched_bytes", "", totals.fetched_bytes).to_string(),
        ),
        (
            "Not fetched again",
            Bytes("saved_bytes", "", totals.saved_bytes).to_string(),
        ),
        (
            "Received from clients",
            Bytes("received_bytes", "", totals.received_bytes).to_string(),
        ),
        ("Waiting for upstreams", waited),
        (
            "Requests to upstreams",
            Number("upstream_requests", "", totals.upstream_requests).to_string(),
        ),
        (
            "Answered with 429",
            Number("rate_limited", "", totals.rate_limited).to_string(),
        ),
        (
            "Cached now",
            Bytes("cached_bytes", "", totals.cached_bytes).to_string(),
        ),
        (
            "Cached at most",
            Bytes("cache_limit_bytes", "", totals.cache_limit_bytes).to_string(),
        ),
        (
            "Evicted",
            Bytes("evicted_bytes", "", totals.evicted_bytes).to_string(),
        ),
    ] {
        writeln!(page, "<div><dt>{term}</dt><dd>{value}</dd></div>")?;
    }
    writeln!(page, "</dl>")?;
    let origins = Origin::ALL.map(label);
    let columns: Vec<&str> = std::iter::once("GETs of").chain(origins).collect();
    table_without_heading(
        page,
        "answers",
        "Requests for content, by where the answer came from",
        &columns,
    )?;
    for (content, word, counts) in [
        ("Manifests", "manifest", &report.answers.manifests),
        ("Blobs", "blob", &report.answers.blobs),
    ] {
        write!(page, "<tr><th scope=\"row\">{content}</th>")?;
        for (origin, count) in counts.each() {
            write!(page, "<td>{}</td>", Number(word, origin.as_str(), count))?;
        }
        writeln!(page, "</tr>")?;
    }
    end_table(page)?;
    writeln!(page, "</section>")
}

/// Whether what has this origin was a pull at all.
pub(super) fn is_pull(origin: Origin) -> bool {
    !matches!(origin, Origin::Nowhere | Origin::Failed)
}

/// What a person calls it.
pub(super) fn label(origin: Origin) -> &'static str {
    match origin {
        Origin::Local => "pushed here",
        Origin::Shadow => "pushed here, upstream not asked",
        Origin::Cache => "cache",
        Origin::Stale => "cache, registry failing",
        Origin::Upstream => "upstream",
        Origin::Nowhere => "not found",
        Origin::Failed => "failed",
    }
}

/// The origins of an image's pulls, each with its colour.
fn origins(from: &ByOrigin) -> String {
    let several = from.pulls() > 1;
    let each = from.each();
    let told = each
        .iter()
        .filter(|(origin, count)| *count > 0 && is_pull(*origin));
    let told: Vec<String> = told
        .map(|(origin, count)| {
            let times = if several {
                format!(" \u{d7}{count}")
            } else {
                String::new()
            };
            format!(
                "<span class=\"origin {}\">{}{times}</span>",
                origin.as_str(),
                label(*origin)
            )
        })
        .collect();
    told.join(" ")
}

/// An image's name, whose digest is shown as far as a person reads it.
pub(super) fn name(image: &str) -> String {
    const SHOWN: usize = 19;
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    match digest {
        None => format!("<code>{}</code>", Escaped(name)),
        Some(digest) => {
            let short: String = digest.chars().take(SHOWN).collect();
            format!(
                "<code title=\"{}\">{}@{}\u{2026}</code>",
                Escaped(image),
                Escaped(name),
                Escaped(&short)
            )
        }
    }
}

fn told(at: f64, message: &str) -> String {
    format!(
        "<span class=\"quiet\">{}</span> {}",
        for_people(at),
        Escaped(message)
    )
}

fn table(page: &mut String, id: &str, caption: &str, columns: &[&str]) -> fmt::Result {
    writeln!(page, "<section>\n<h2 id=\"{id}-heading\">{caption}</h2>")?;
    begin_table(
        page,
        id,
        &format!("aria-labelledby=\"{id}-heading\""),
        "",
        columns,
    )
}

fn table_without_heading(
    page: &mut String,
    id: &str,
    caption: &str,
    columns: &[&str],
) -> fmt::Result {
    begin_table(
        page,
        id,
        "",
        &format!("<caption>{caption}</caption>\n"),
        columns,
    )
}

fn begin_table(
    page: &mut String,
    id: &str,
    label: &str,
    caption: &str,
    columns: &[&str],
) -> fmt::Result {
    write!(
        page,
        "<div class=\"scroll\"><table id=\"{id}\" {label}>\n{caption}<thead><tr>"
    )?;
    for column in columns {
        write!(page, "<th scope=\"col\">{column}</th>")?;
    }
    writeln!(page, "</tr></thead>\n<tbody>")
}

fn end_table(page: &mut String) -> fmt::Result {
    writeln!(page, "</tbody>\n</table></div>")
}

fn more(page: &mut String, rows: usize, what: &str) -> fmt::Result {
    match rows {
        0 => Ok(()),
        rows => writeln!(
            page,
            "<p class=\"quiet\">and {rows} more {what}, all of them in the JSON form</p>"
        ),
    }
}

pub(super) fn for_people(seconds: f64) -> String {
    time(Duration::from_secs_f64(seconds.max(0.0)))
}

/// A number and what it is called: a key, and whose it is if there are several.
struct Number<'a>(&'a str, &'a str, u64);

impl Display for Number<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(key, of, number) = self;
        write!(
            f,
            "<data {} value=\"{number}\">{number}</data>",
            Identity(key, of)
        )
    }
}

/// The same, of bytes.
struct Bytes<'a>(&'a str, &'a str, u64);

impl Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(key, of, bytes) = self;
        write!(
            f,
            "<data {} value=\"{bytes}\">{}</data>",
            Identity(key, of),
            size(*bytes)
        )
    }
}

struct Identity<'a>(&'a str, &'a str);

impl Display for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(key, of) = self;
        match of.is_empty() {
            true => write!(f, "id=\"{key}\""),
            false => write!(f, "data-key=\"{key}\" data-of=\"{}\"", Escaped(of)),
        }
    }
}

/// Text that is text wherever it stands, between tags or in an attribute, in HTML, SVG and XML.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // XML has no way to write these.
                c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Nothing may be loaded, and nothing run.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";
