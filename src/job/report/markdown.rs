//! The report as GitHub's Markdown: short enough for a step's summary, which ends at 1 MiB.

use std::{fmt::Write as _, time::Duration};

use super::{Pulled, Report};
use crate::activity::words::{count, shortened, size, time};

/// Rows of a table, at most.
const ROWS: usize = 50;
/// Of a message.
const MESSAGE: usize = 200;

pub(super) fn render(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a String does not fail.
    let _ = write(report, &mut page);
    page
}

fn write(report: &Report, page: &mut String) -> std::fmt::Result {
    writeln!(page, "## standin\n")?;
    for line in &report.summary {
        writeln!(page, "- {}", escaped(line))?;
    }
    let mut slowest: Vec<&Pulled> = report.slowest(usize::MAX);
    slowest.truncate(ROWS);
    if !slowest.is_empty() {
        writeln!(page, "\n### Pulled, the slowest first\n")?;
        writeln!(
            page,
            "| Image | From | Pulls | Sent | Longest | Waiting for upstreams |"
        )?;
        writeln!(page, "|---|---|--:|--:|--:|--:|")?;
        for image in &slowest {
            writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} |",
                escaped(&image.image),
                origins(image),
                image.pulls,
                size(image.bytes),
                for_people(image.slowest_seconds),
                for_people(image.waited_seconds),
            )?;
        }
        let pulled = report.pulled.iter().filter(|image| image.pulls > 0).count();
        more(page, pulled - slowest.len(), report.left_out.pulls)?;
    }
    let missed: Vec<&Pulled> = report
        .pulled
        .iter()
        .filter(|image| image.from.nowhere + image.from.failed > 0)
        .collect();
    if !missed.is_empty() {
        writeln!(page, "\n### Asked for in vain\n")?;
        writeln!(page, "| Image | Times | The last answer |")?;
        writeln!(page, "|---|--:|---|")?;
        for image in missed.iter().take(ROWS) {
            writeln!(
                page,
                "| {} | {} | {} |",
                escaped(&image.image),
                image.from.nowhere + image.from.failed,
                escaped(&shortened(
                    image.error.as_deref().unwrap_or_default(),
                    MESSAGE
                )),
            )?;
        }
        more(page, missed.len().saturating_sub(ROWS), 0)?;
    }
    if !report.pushed.is_empty() {
        writeln!(page, "\n### Pushed\n")?;
        writeln!(page, "| Image | Pushes | Size | Uploaded | Took |")?;
        writeln!(page, "|---|--:|--:|--:|--:|")?;
        for image in report.pushed.iter().take(ROWS) {
            writeln!(
                page,
                "| {} | {} | {} | {} | {} |",
                escaped(&image.image),
                image.pushes,
                size(image.bytes),
                size(image.uploaded_bytes),
                for_people(image.ended - image.began),
            )?;
        }
        let further = report.pushed.len().saturating_sub(ROWS);
        more(page, further, report.left_out.pushes)?;
    }
    if !report.upstreams.is_empty() {
        writeln!(page, "\n### Upstreams\n")?;
        writeln!(
            page,
            "| Registry | Requests | Fetched | 429 | Errors | The last one |"
        )?;
        writeln!(page, "|---|--:|--:|--:|--:|---|")?;
        for upstream in report.upstreams.iter().take(ROWS) {
            let of = |kind: &str| {
                let found = upstream.requests.iter().find(|(known, _)| known == kind);
                found.map_or(0, |(_, count)| *count)
            };
            let errors = upstream
                .errors
                .iter()
                .filter(|error| error.kind != "rate_limited");
            let last = upstream
                .errors
                .iter()
                .max_by(|a, b| a.last.total_cmp(&b.last));
            writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} |",
                escaped(&upstream.registry),
                upstream
                    .requests
                    .iter()
                    .map(|(_, count)| count)
                    .sum::<u64>(),
                size(upstream.received_bytes),
                of("rate_limited"),
                errors.map(|error| error.count).sum::<u64>(),
                last.map_or(String::new(), |error| {
                    escaped(&shortened(&error.last_message, MESSAGE))
                }),
            )?;
        }
        more(page, report.upstreams.len().saturating_sub(ROWS), 0)?;
    }
    let running = if report.running {
        ", still running"
    } else {
        ""
    };
    writeln!(
        page,
        "\n<sub>standin {}, {} to {}{running}</sub>",
        escaped(&report.standin),
        escaped(&report.started),
        escaped(&report.until),
    )
}

fn origins(image: &Pulled) -> String {
    let each = image.from.each();
    let told = each
        .iter()
        .filter(|(origin, count)| *count > 0 && super::html::is_pull(*origin));
    let told: Vec<String> = told
        .map(|(origin, count)| match image.pulls {
            1 => origin.as_str().to_owned(),
            _ => format!("{} {count}", origin.as_str()),
        })
        .collect();
    told.join(", ")
}

/// What a table does not show.
fn more(page: &mut String, rows: usize, left_out: u64) -> std::fmt::Result {
    if rows > 0 {
        writeln!(page, "\nand {rows} more")?;
    }
    if left_out > 0 {
        writeln!(
            page,
            "\nand {} of further images",
            count(left_out, "time", "times")
        )?;
    }
    Ok(())
}

fn for_people(seconds: f64) -> String {
    time(Duration::from_secs_f64(seconds.max(0.0)))
}

/// Text that means nothing but itself: no HTML, no table's edge, no emphasis, no link and nobody's name.
fn escaped(text: &str) -> String {
    let text = shortened(text, usize::MAX);
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // What can't begin anything in the middle of a line.
            ' ' | ',' | ';' | '(' | ')' | '-' | '/' | '.' | '%' | '\'' | '"' | '=' | '+' | '?' => {
                escaped.push(c);
            }
            c if c.is_ascii_punctuation() => {
                let _ = write!(escaped, "&#{};", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    // GitHub makes links of what looks like an address.
    escaped.replace("www.", "www&#46;")
}
