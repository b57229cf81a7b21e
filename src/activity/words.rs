//! Numbers and texts for people: sizes, durations, and no more of a message than fits.

use std::time::Duration;

/// `3.2 MiB`, in the unit that leaves one to four digits before the point.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// `0.04 s`, `12.3 s`, `4 min 5 s`, `2 h 3 min`.
pub fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        ..0.095 => format!("{seconds:.2} s"),
        ..59.95 => format!("{seconds:.1} s"),
        _ => {
            let whole = seconds.round() as u64;
            match whole / 60 {
                minutes @ ..60 => format!("{minutes} min {} s", whole % 60),
                minutes => format!("{} h {} min", minutes / 60, minutes % 60),
            }
        }
    }
}

/// `1 image`, `2 images`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// At most `most` characters of `text` on one line, with `…` where it goes on; what is no text to be shown is replaced.
pub fn shortened(text: &str, most: usize) -> String {
    let shown = |c: char| match c {
        c if c.is_control() => ' ',
        // These turn the direction of what is behind them.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    };
    let mut short: String = text.chars().take(most).map(shown).collect();
    if text.chars().nth(most).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (3_355_443, "3.2 MiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (ms, text) in [
            (0, "0.00 s"),
            (41, "0.04 s"),
            (99, "0.1 s"),
            (12_340, "12.3 s"),
            (59_960, "1 min 0 s"),
            (245_000, "4 min 5 s"),
            (3_599_700, "1 h 0 min"),
            (7_380_000, "2 h 3 min"),
        ] {
            assert_eq!(time(Duration::from_millis(ms)), text);
        }
        assert_eq!(count(1, "image", "images"), "1 image");
        assert_eq!(count(0, "image", "images"), "0 images");
    }

    #[test]
    fn texts_are_short_and_in_one_line() {
        assert_eq!(shortened("plain", 5), "plain");
        assert_eq!(
            shortened("a\nb\u{1b}[31mc\u{202e}d", 99),
            "a b [31mc\u{fffd}d"
        );
        assert_eq!(shortened("ααβ", 2), "αα…");
    }
}
