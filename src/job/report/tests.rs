//! The forms of a report that holds what nobody sane would send.

use super::*;

const HOSTILE: &str = "</td><script>alert(\"1\")</script> | `code` [x](http://evil.test) **b** @someone\n# h \u{202e}\u{0}&amp;";

fn hostile(images: usize) -> Report {
    let pulled = Pulled {
        image: HOSTILE.to_owned(),
        digest: Some(HOSTILE.to_owned()),
        pulls: 1,
        from: ByOrigin {
            upstream: 1,
            failed: 1,
            ..ByOrigin::default()
        },
        bytes: u64::MAX,
        fetched_bytes: 1,
        waited_seconds: 1e9,
        slowest_seconds: 1e9,
        times: vec![Span {
            began: 0.0,
            ended: 1e9,
            from: HOSTILE.to_owned(),
            bytes: u64::MAX,
            waited_seconds: 0.0,
            under_way: true,
        }],
        error: Some(HOSTILE.repeat(100)),
    };
    let pushed = Pushed {
        image: HOSTILE.to_owned(),
        digest: HOSTILE.to_owned(),
        pushes: 1,
        bytes: 1,
        uploaded_bytes: 1,
        began: 2.0,
        ended: 1.0,
    };
    let trouble = Trouble {
        kind: HOSTILE.to_owned(),
        count: 2,
        first: 0.0,
        first_message: HOSTILE.to_owned(),
        last: 0.0,
        last_message: HOSTILE.repeat(2),
    };
    let upstream = Upstream {
        registry: HOSTILE.to_owned(),
        requests: vec![(HOSTILE.to_owned(), 1)],
        received_bytes: 1,
        resumes: 1,
        withheld: true,
        pull_limit: Some(1),
        pulls_remaining: Some(0),
        errors: vec![trouble; 20],
    };
    Report {
        version: VERSION,
        standin: HOSTILE.to_owned(),
        started: HOSTILE.to_owned(),
        until: HOSTILE.to_owned(),
        seconds: 1e9,
        running: true,
        summary: vec![HOSTILE.to_owned(); 5],
        totals: Totals::default(),
        answers: Answers::default(),
        pulled: vec![pulled; images],
        pushed: vec![pushed; images],
        upstreams: vec![upstream; 100],
        left_out: LeftOut {
            pulls: 1,
            pushes: 1,
            hidden: 1,
        },
    }
}

#[test]
fn html_and_markdown_hold_no_markup_but_ours() {
    let report = hostile(3);
    let html = report.html(Refresh::ByHand);
    assert!(
        !html.contains("<script") && !html.contains("</td><s"),
        "{html}"
    );
    assert!(
        html.contains("&lt;script&gt;alert(&quot;1&quot;)"),
        "{html}"
    );
    assert!(!html.contains('\u{0}'), "what XML can't hold");
    let markdown = report.markdown();
    for forbidden in ["<script", "`", "](", "**", "@", "://", "\u{202e}", "\n# h"] {
        assert!(
            !markdown.contains(forbidden),
            "{forbidden} is in {markdown}"
        );
    }
    // Of each table's rows no cell has another edge than ours.
    let row = markdown.lines().find(|line| line.starts_with("| &#60;"));
    let cells = row.map(|row| row.matches(" | ").count());
    assert_eq!(cells, Some(5), "{markdown}");
}

#[test]
fn a_step_summary_takes_the_largest() {
    let markdown = hostile(1000).markdown();
    assert!(markdown.len() < 512 << 10, "{} bytes", markdown.len());
    assert!(
        markdown.contains("\nand 950 more\n"),
        "what is left out is told"
    );
}

#[test]
fn json_is_read_back_as_it_was() {
    let report = hostile(2);
    let json = report.json().unwrap_or_default();
    let read: Report = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read, report);
}

#[test]
fn a_terminal_gets_a_few_lines() {
    let mut report = hostile(1);
    report.pulled[0].image = "quay.io/acme/app:v1".to_owned();
    report.pulled[0].slowest_seconds = 2.5;
    let lines = report.lines();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[5], "slowest pull: quay.io/acme/app:v1, 2.5 s");
}
