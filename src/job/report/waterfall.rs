//! The pulls over the job's time: one line for each image, one bar for each pull.

use std::fmt::{self, Write as _};

use super::{
    Pulled, Report, Span,
    html::{Escaped, for_people, is_pull, label, name},
};
use crate::{activity::words::size, metrics::Origin};

/// Lines, at most.
const LINES: usize = 60;
/// Of the drawing, in units of its own.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 24.0;
/// So that the shortest pull can be seen.
const NARROWEST: f64 = 4.0;

pub(super) fn write(report: &Report, page: &mut String) -> fmt::Result {
    let images: Vec<&Pulled> = report
        .pulled
        .iter()
        .filter(|image| !image.times.is_empty())
        .collect();
    if images.is_empty() {
        return Ok(());
    }
    let spans = || images.iter().flat_map(|image| &image.times);
    let scale = Scale::of(spans());
    writeln!(
        page,
        "<section>\n<h2 id=\"waterfall-heading\">When</h2>\n<p class=\"legend\">"
    )?;
    for origin in Origin::ALL.into_iter().filter(|origin| is_pull(*origin)) {
        if spans().any(|span| span.from == origin.as_str()) {
            writeln!(
                page,
                "<span class=\"origin {}\">{}</span>",
                origin.as_str(),
                label(origin)
            )?;
        }
    }
    writeln!(
        page,
        "</p>\n<table id=\"waterfall\" aria-labelledby=\"waterfall-heading\">\n<thead><tr><th scope=\"col\">Image</th>\
         <th scope=\"col\" class=\"axis\"><span>{}</span><span>{}</span><span>{}</span></th></tr></thead>\n<tbody>",
        scale.at(0.0),
        scale.at(0.5),
        scale.at(1.0),
    )?;
    for image in images.iter().take(LINES) {
        let took = for_people(image.slowest_seconds);
        write!(
            page,
            "<tr><th scope=\"row\">{}</th><td><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\">\
             <title>{}: {} pulls, {took} the longest</title>",
            name(&image.image),
            Escaped(&image.image),
            image.pulls,
        )?;
        for quarter in 0..=4 {
            let x = f64::from(quarter) * WIDTH / 4.0;
            write!(
                page,
                "<line class=\"grid\" x1=\"{x}\" x2=\"{x}\" y1=\"0\" y2=\"{HEIGHT}\"/>"
            )?;
        }
        for span in &image.times {
            let (x, width) = scale.bar(span);
            let state = if span.under_way { " running" } else { "" };
            let told = if span.under_way { "so far" } else { "in all" };
            write!(
                page,
                "<rect class=\"{}{state}\" x=\"{x:.1}\" width=\"{width:.1}\" y=\"6\" height=\"12\"><title>{}, {} in {}, {} {told}\
                 </title></rect>",
                Escaped(&span.from),
                for_people(span.began),
                size(span.bytes),
                for_people(span.ended - span.began),
                Escaped(&span.from),
            )?;
        }
        writeln!(page, "</svg></td></tr>")?;
    }
    writeln!(page, "</tbody>\n</table>")?;
    if images.len() > LINES {
        writeln!(
            page,
            "<p class=\"quiet\">and {} more images</p>",
            images.len() - LINES
        )?;
    }
    writeln!(
        page,
        "<p class=\"quiet\">From a pull's first request to its last byte. Times are since the start.</p>\n</section>"
    )
}

/// Seconds to units of the drawing.
struct Scale {
    from: f64,
    length: f64,
}

impl Scale {
    /// From the first pull to the last one's end: there may be hours before and behind.
    fn of<'a>(spans: impl Iterator<Item = &'a Span>) -> Self {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for span in spans {
            from = from.min(span.began);
            to = to.max(span.ended);
        }
        let length = (to - from).max(0.1);
        Self { from, length }
    }

    fn at(&self, share: f64) -> String {
        for_people(self.from + share * self.length)
    }

    fn bar(&self, span: &Span) -> (f64, f64) {
        let unit = |seconds: f64| (seconds - self.from) / self.length * WIDTH;
        let width = (unit(span.ended) - unit(span.began)).max(NARROWEST);
        (unit(span.began).min(WIDTH - width), width)
    }
}
