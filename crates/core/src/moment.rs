//! Moments as people write them, and as names of backups hold them.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, civil};

use crate::error::{Error, Kind, Result};

/// `20250108` and `140000` of a moment, in UTC.
pub fn date_and_time(moment: Timestamp) -> (String, String) {
    let utc = moment.to_zoned(TimeZone::UTC);
    (utc.strftime("%Y%m%d").to_string(), utc.strftime("%H%M%S").to_string())
}

/// `20250108-140000`: a moment as it stands in names of files, in UTC.
pub fn compact(moment: Timestamp) -> String {
    let (date, time) = date_and_time(moment);
    format!("{date}-{time}")
}

/// Reads a moment: RFC 3339, a local time of `zone` (with `T` or a space, with or without
/// seconds), `20250108-140000` (UTC, as in names), what SQLite and PostgreSQL print, `latest` or
/// `now`, or relative to now (`-15m`, `-2h30m`, `-7d`).
pub fn parse(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp> {
    let text = text.trim();
    if matches!(text, "now" | "latest") {
        return Ok(now);
    }
    if let Some(back) = text.strip_prefix('-') {
        return relative(back, now, zone).ok_or_else(|| not_a_moment(text));
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    // PostgreSQL prints `2025-01-08 14:03:22+00`: an offset of hours only.
    if let Some(moment) = short_offset(text) {
        return Ok(moment);
    }
    let formats = [
        "%Y%m%d-%H%M%S",
        "%Y%m%d_%H%M%S",
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
    ];
    for (index, format) in formats.into_iter().enumerate() {
        if let Ok(local) = civil::DateTime::strptime(format, text) {
            let zone = if index < 2 { TimeZone::UTC } else { zone.clone() };
            return in_zone(local, &zone).ok_or_else(|| not_a_moment(text));
        }
    }
    match text.parse::<civil::Date>() {
        Ok(date) => in_zone(date.at(0, 0, 0, 0), zone).ok_or_else(|| not_a_moment(text)),
        Err(_) => Err(not_a_moment(text)),
    }
}

fn in_zone(local: civil::DateTime, zone: &TimeZone) -> Option<Timestamp> {
    Some(local.to_zoned(zone.clone()).ok()?.timestamp())
}

fn relative(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let span: Span = text.parse().ok()?;
    Some(now.to_zoned(zone.clone()).checked_sub(span).ok()?.timestamp())
}

fn short_offset(text: &str) -> Option<Timestamp> {
    let digits = text.len().checked_sub(3).filter(|_| text.is_ascii())?;
    let (moment, offset) = text.split_at(digits);
    if !moment.contains(':') || !offset.starts_with(['+', '-']) {
        return None;
    }
    format!("{}{offset}:00", moment.replacen(' ', "T", 1)).parse().ok()
}

fn not_a_moment(text: &str) -> Error {
    Error::new(Kind::Usage, format!("`{text}` is not a time"))
        .hint("write 2025-01-08T14:03:22, 2025-01-08T14:03:22Z, 20250108-140322, -2h or latest")
}

/// An age for people: `12 s`, `5 min`, `3 h`, `2 days`.
pub fn age(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match seconds.unsigned_abs() {
        _ if seconds < 0 => "in the future".into(),
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_writing_a_moment() {
        let now: Timestamp = "2025-01-08T15:00:00Z".parse().unwrap();
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let cases = [
            ("latest", "2025-01-08T15:00:00Z"),
            ("-15m", "2025-01-08T14:45:00Z"),
            ("-2h30m", "2025-01-08T12:30:00Z"),
            ("-7d", "2025-01-01T15:00:00Z"),
            ("2025-01-08T14:03:22Z", "2025-01-08T14:03:22Z"),
            ("2025-01-08T14:03:22+02:00", "2025-01-08T12:03:22Z"),
            ("2025-01-08 14:03:22.5+00", "2025-01-08T14:03:22.5Z"),
            ("20250108-140322", "2025-01-08T14:03:22Z"),
            ("20250108_140322", "2025-01-08T14:03:22Z"),
            ("2025-01-08T14:03:22", "2025-01-08T13:03:22Z"),
            ("2025-07-08 14:03", "2025-07-08T12:03:00Z"),
            ("2025-01-08", "2025-01-07T23:00:00Z"),
        ];
        for (text, must) in cases {
            let moment = parse(text, now, &zone).unwrap();
            assert_eq!(moment, must.parse::<Timestamp>().unwrap(), "{text}");
        }
        for wrong in ["", "yesterday", "-", "-2x", "2025-13-01", "20250108-250000", "14:00"] {
            assert_eq!(parse(wrong, now, &zone).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
        assert_eq!(compact(now), "20250108-150000");
    }
}
