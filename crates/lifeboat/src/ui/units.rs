//! Sizes, times and names as people read them. Sizes are decimal: 1 MB is 1,000,000 bytes.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A size: "812 B", "1.2 MB", "37 GB".
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: &[&str] = &["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be shown as "1000": it belongs to the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match value {
        value if value < 9.95 => format!("{value:.1} {}", UNITS[unit]),
        value => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A speed: "412 MB/s". `None` where no time has passed.
pub(crate) fn speed(count: u64, milliseconds: u64) -> Option<String> {
    let per_second = count.checked_mul(1000)?.checked_div(milliseconds)?;
    Some(format!("{}/s", bytes(per_second)))
}

/// A length of time: "340 ms", "12.3 s", "4 min 5 s", "2 h 10 min", "9 d 3 h".
pub(crate) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let pair = |large: u64, large_unit, small: u64, small_unit| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{}.{} s", seconds, milliseconds % 1000 / 100),
        60..3600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// A length of time in whole seconds, or minutes from an hour on: for ages.
pub(crate) fn coarse(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        // Tenths of a second are noise here, and seconds are beside minutes and hours.
        short @ 0..60 => format!("{short} s"),
        long @ 60..3600 => duration(long / 60 * 60_000),
        long => duration(long * 1000),
    }
}

/// How long ago a moment is: "3 min ago", or "in 2 h" where the clock went backwards.
pub(crate) fn age(moment: Timestamp, now: Timestamp) -> String {
    let milliseconds = now.as_millisecond() - moment.as_millisecond();
    let length = milliseconds.unsigned_abs();
    match () {
        () if length < 1000 => "now".to_owned(),
        () if milliseconds < 0 => format!("in {}", coarse(length)),
        () => format!("{} ago", coarse(length)),
    }
}

/// A moment in that zone, with its offset: "2025-01-08 14:03:22 +01:00".
pub(crate) fn moment(moment: Timestamp, zone: &TimeZone) -> String {
    moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// A number with separated thousands: "242,613".
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something, in words: "1 backup", "2,400 backups". The word is that for one, and takes
/// an `s` for more.
pub(crate) fn counted(number: usize, word: &str) -> String {
    let more = if number == 1 { "" } else { "s" };
    format!("{} {word}{more}", count(number as u64))
}

/// A name or path on one line: control characters are escaped.
pub(crate) fn one_line(text: &str) -> String {
    match text.chars().any(char::is_control) {
        true => text.escape_debug().to_string(),
        false => text.to_owned(),
    }
}

/// A word as a shell takes it: quoted where it must be.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:@%+=,".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false if word.chars().any(char::is_control) => format!("$'{}'", word.escape_default()),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_or_more() {
        let shown: Vec<String> =
            [0, 999, 1000, 9_949, 9_951, 999_499, 999_500, 1_234_567_890].map(bytes).into();
        let expected = ["0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB", "1.2 GB"];
        assert_eq!(shown, expected);
        assert_eq!(speed(1_000_000, 0), None);
        assert_eq!(speed(1_000_000, 500).as_deref(), Some("2.0 MB/s"));
    }

    #[test]
    fn durations_show_two_units() {
        let shown = [0, 340, 12_340, 245_000, 7_800_000, 788_400_000].map(duration);
        assert_eq!(shown, ["0 ms", "340 ms", "12.3 s", "4 min 5 s", "2 h 10 min", "9 d 3 h"]);
    }

    #[test]
    fn ages_know_the_future() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(age(at(999_999), now), "1 s ago");
        assert_eq!(age(at(999_835), now), "2 min ago");
        assert_eq!(age(at(1_007_200), now), "in 2 h");
        assert_eq!(age(now, now), "now");
    }

    #[test]
    fn shell_words_survive_a_shell() {
        assert_eq!(shell_word("a.db"), "a.db");
        assert_eq!(shell_word("a b's"), r"'a b'\''s'");
        assert_eq!(shell_word("two\nlines"), r"$'two\nlines'");
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!([0, 999, 1000, 242_613].map(count), ["0", "999", "1,000", "242,613"]);
    }
}
