//! Dates and times as SQLite's users keep them: ISO texts, seconds, milliseconds, Julian days.
//!
//! Only what names one instant is taken: a text without an offset is UTC, as SQLite's own functions
//! write it. What is not a real date (2024-02-30, 0000-00-00, 24:00) is none.

/// Microseconds of a day.
pub(crate) const DAY_US: i64 = 86_400_000_000;
/// The Julian day of 1970-01-01T00:00Z.
const JULIAN_OF_EPOCH: f64 = 2_440_587.5;

/// How a text says at which offset it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// It does not.
    Unsaid,
    /// `Z` or an offset of zero.
    Utc,
    /// Another offset, which the instant does not keep.
    Other,
}

/// A text as an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// Microseconds since 1970-01-01T00:00Z.
    pub(crate) micros: i64,
    pub(crate) zone: Zone,
    pub(crate) date_only: bool,
}

/// Reads `YYYY-MM-DD`, with `HH:MM[:SS[.ffffff]]` behind a `T` or a space, and `Z` or `±HH:MM`.
pub(crate) fn parse(text: &[u8]) -> Option<Parsed> {
    let days = days_of(text.get(..10)?)?;
    let date_us = i64::from(days) * DAY_US;
    let rest = &text[10..];
    if rest.is_empty() {
        return Some(Parsed { micros: date_us, zone: Zone::Unsaid, date_only: true });
    }
    if !matches!(rest[0], b' ' | b'T') || rest.get(3) != Some(&b':') {
        return None;
    }
    let (hour, minute) = (two(rest.get(1..3)?)?, two(rest.get(4..6)?)?);
    let mut at = 6;
    let (mut second, mut fraction_us) = (0, 0);
    if rest.get(at) == Some(&b':') {
        second = two(rest.get(at + 1..at + 3)?)?;
        at += 3;
        if rest.get(at) == Some(&b'.') {
            let digits = rest[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            // The server keeps six digits.
            if digits == 0 || digits > 6 {
                return None;
            }
            for place in 0..6 {
                let digit = if place < digits { rest[at + 1 + place] - b'0' } else { 0 };
                fraction_us = fraction_us * 10 + i64::from(digit);
            }
            at += 1 + digits;
        }
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (offset_minutes, zone) = offset(&rest[at..])?;
    let seconds = i64::from(hour) * 3_600 + i64::from(minute) * 60 + i64::from(second);
    let micros = date_us + (seconds - i64::from(offset_minutes) * 60) * 1_000_000 + fraction_us;
    Some(Parsed { micros, zone, date_only: false })
}

fn offset(text: &[u8]) -> Option<(i32, Zone)> {
    match text {
        [] => Some((0, Zone::Unsaid)),
        b"Z" | b"z" => Some((0, Zone::Utc)),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(&[*h1, *h2])?, two(&[*m1, *m2])?);
            if hours > 15 || minutes > 59 {
                return None;
            }
            let offset = i32::from(hours) * 60 + i32::from(minutes);
            let zone = if offset == 0 { Zone::Utc } else { Zone::Other };
            Some((if *sign == b'-' { -offset } else { offset }, zone))
        }
        _ => None,
    }
}

/// The day of `YYYY-MM-DD`, in days since 1970-01-01.
pub(crate) fn days_of(text: &[u8]) -> Option<i32> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = i32::from(two(&[*y1, *y2])?) * 100 + i32::from(two(&[*y3, *y4])?);
    let (month, day) = (i32::from(two(&[*m1, *m2])?), i32::from(two(&[*d1, *d2])?));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year == 0 || day == 0 || day > length {
        return None;
    }
    // Years that begin in March, so that the odd day is their last.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let month_of_year = (month + 9) % 12;
    let day_of_year = (153 * month_of_year + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn two(text: &[u8]) -> Option<u8> {
    match text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some((a - b'0') * 10 + (b - b'0')),
        _ => None,
    }
}

/// A Julian day as an instant, where going back gives the same number.
pub(crate) fn of_julian(day: f64) -> Option<i64> {
    // SQLite's own functions know the years 0 to 9999, to the millisecond.
    if !(1_721_425.5..5_373_484.5).contains(&day) {
        return None;
    }
    let millis = ((day - JULIAN_OF_EPOCH) * 86_400_000.0).round();
    let back = (millis + JULIAN_OF_EPOCH * 86_400_000.0) / 86_400_000.0;
    (back == day).then_some(millis as i64 * 1_000)
}

/// `2025-01-08T14:03:22Z` of an instant, for people.
pub(crate) fn shown(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| "?".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> Option<i64> {
        parse(text.as_bytes()).map(|parsed| parsed.micros)
    }

    #[test]
    fn real_dates_are_read_as_another_library_reads_them() {
        for text in [
            "2025-01-08T14:03:22Z",
            "1969-12-31T23:59:59.999999Z",
            "0001-01-01T00:00:00Z",
            "2024-02-29T12:00:00+02:00",
            "2000-02-29T00:00:00-11:30",
            "9999-12-30T00:00:00Z",
        ] {
            let expected: jiff::Timestamp = text.parse().unwrap();
            assert_eq!(micros(text), Some(expected.as_microsecond()), "{text}");
        }
        assert_eq!(micros("1970-01-02"), Some(DAY_US));
        assert_eq!(micros("1970-01-01 00:01"), Some(60_000_000));
        assert_eq!(parse(b"1970-01-01 00:01:00.5").unwrap().zone, Zone::Unsaid);
        assert_eq!(parse(b"1970-01-01T00:01:00+00:00").unwrap().zone, Zone::Utc);
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "2024-02-30",
            "0000-00-00",
            "2023-02-29",
            "2024-13-01",
            "2024-1-1",
            "2024-01-01 24:00",
            "2024-01-01T",
            "2024-01-01 12",
            "2024-01-01 12:00:60",
            "2024-01-01 12:00:00.1234567",
            "2024-01-01 12:00:00 UTC",
            "now",
            "12:00",
            "2024-01-01x",
            "2024-01-01 12:00:00.",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }

    #[test]
    fn julian_days_go_there_and_back() {
        assert_eq!(of_julian(2_440_587.5), Some(0));
        assert_eq!(of_julian(2_440_588.5), Some(DAY_US));
        assert_eq!(of_julian(f64::NAN), None);
        assert_eq!(of_julian(12.0), None);
        assert_eq!(of_julian(2_440_587.500_000_1), None);
    }
}
