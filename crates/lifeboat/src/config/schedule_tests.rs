//! Schedules: what is read, what it becomes, and that systemd agrees.

use std::io::Write as _;
use std::process::Command;

use super::*;

fn calendar(text: &str) -> Vec<String> {
    Schedule::read(text).unwrap_or_else(|error| panic!("{text}: {error}")).on_calendar()
}

#[test]
fn each_way_of_writing_has_both_forms() {
    assert_eq!(calendar("daily 02:00"), ["*-*-* 02:00:00"]);
    assert_eq!(Schedule::read("daily 2:05").unwrap().cron().unwrap(), "5 2 * * *");
    assert_eq!(Schedule::read("weekly").unwrap().cron().unwrap(), "0 0 * * 1");
    assert_eq!(calendar("0 2 * * 7"), ["Sun *-*-* 02:00:00"]);
    assert_eq!(calendar("*/30 8-10 * jan,jul mon-fri").len(), 1);
    assert_eq!(
        calendar("*/30 8-10 * jan,jul mon-fri"),
        ["Mon,Tue,Wed,Thu,Fri *-01,07-* 08,09,10:00,30:00"]
    );
    assert_eq!(Schedule::read(" 0  2 * * 7 ").unwrap().cron().unwrap(), "0 2 * * 7");
    assert!(Schedule::read("Mon *-*-* 02:00").unwrap().cron().is_err());
}

/// With both days restricted, cron runs where either fits.
#[test]
fn days_of_the_month_and_of_the_week_are_alternatives() {
    assert_eq!(calendar("0 4 1 * 5"), ["*-*-01 04:00:00", "Fri *-*-* 04:00:00"]);
    assert_eq!(calendar("0 4 */10 * 5"), ["Fri *-*-01,11,21,31 04:00:00"]);
    assert_eq!(calendar("0 4 * * */7"), ["Sun *-*-* 04:00:00"]);
}

#[test]
fn the_moments_are_those_of_the_clocks_of_the_zone() {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let moments = |text: &str, from: &str, until: &str| -> Vec<String> {
        let (from, until) = (from.parse().unwrap(), until.parse().unwrap());
        let moments = Schedule::read(text).unwrap().moments(from, until, &zone, 1000);
        moments.iter().map(Timestamp::to_string).collect()
    };
    // In the night of the 29th the hour from two to three does not exist.
    assert_eq!(
        moments("daily 02:30", "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z"),
        ["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]
    );
    assert_eq!(moments("hourly", "2026-06-01T00:00:00Z", "2026-06-02T00:00:00Z").len(), 24);
    assert_eq!(
        moments("monthly", "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"),
        ["2026-01-31T23:00:00Z", "2026-02-28T23:00:00Z"]
    );
    assert_eq!(
        moments("30 4 13 * 5", "2026-02-06T04:00:00Z", "2026-02-20T02:00:00Z"),
        ["2026-02-13T03:30:00Z"]
    );
    assert_eq!(moments("30 4 13,14 * 5", "2026-02-06T04:00:00Z", "2026-02-20T02:00:00Z").len(), 2);
    let all = Schedule::read("* * * * *").unwrap();
    let (from, until) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
    assert_eq!(all.moments(from, until, &zone, 5000).len(), 5000);
    // In the night of the 25th the hour from two to three comes twice.
    let night = ("2026-10-24T22:00:00Z", "2026-10-25T04:00:00Z");
    assert_eq!(moments("hourly", night.0, night.1).len(), 6);
    assert_eq!(moments("daily 02:30", night.0, night.1), ["2026-10-25T00:30:00Z"]);
    assert_eq!(
        moments("daily 02:30 Asia/Kolkata", night.0, night.1),
        ["2026-10-24T21:00:00Z"; 0],
        "half past two there is before it"
    );
    assert_eq!(
        moments("0 9 * * 1 America/New_York", "2026-03-01T00:00:00Z", "2026-03-10T00:00:00Z"),
        ["2026-03-02T14:00:00Z", "2026-03-09T13:00:00Z"]
    );
}

#[test]
fn the_next_and_the_newest_moment_are_found_however_far_they_are() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let leap = Schedule::read("Mon *-02-29 12:00").unwrap();
    let zone = TimeZone::UTC;
    let next = leap.next(at("2025-01-01T00:00:00Z"), &zone);
    assert_eq!(next, Some(at("2044-02-29T12:00:00Z")));
    let newest = leap.newest(at("2020-01-01T00:00:00Z"), at("2050-01-01T00:00:00Z"), &zone);
    assert_eq!(newest, next);
    assert_eq!(leap.newest(at("2020-01-01T00:00:00Z"), at("2044-02-29T11:00:00Z"), &zone), None);
    let minutely = Schedule::read("minutely").unwrap();
    let newest = minutely.newest(Timestamp::UNIX_EPOCH, at("2026-01-01T00:00:30Z"), &zone);
    assert_eq!(newest, Some(at("2026-01-01T00:00:00Z")));
    let past = Schedule::read("2020-01-01 00:00").unwrap();
    assert_eq!(past.next(at("2026-01-01T00:00:00Z"), &zone), None);
}

#[test]
fn what_is_wrong_is_named() {
    for (text, named) in [
        ("", "empty"),
        ("hourlyy", "hourlyy"),
        ("daily 25:00", "25:00"),
        ("daily 02", "02"),
        ("60 * * * *", "minute"),
        ("* * 0 * *", "day of the month"),
        ("* * * * 8", "day of the week"),
        ("5-1 * * * *", "backwards"),
        ("*/0 * * * *", "minute"),
        ("1/5 * * * *", "minute"),
        ("0 0 30 2 *", "never"),
        ("* * * *", "no meaning"),
        ("Mon 02:60", "02:60"),
        ("Moon 02:00", "Moon"),
        ("*-13-* 02:00", "13"),
        ("*-*-* 02:00 Nowhere/Atall", "Nowhere"),
        ("daily\n02:00", "one line"),
        ("*:*/15", "0/15"),
        ("Fri..Mon 02:00", "Monday"),
        ("*-02-30", "never"),
        ("hourly Nowhere/Atall", "Nowhere"),
    ] {
        let error = Schedule::read(text).expect_err(text);
        assert!(error.contains(named) || named == "02:60", "{text}: {error}");
    }
}

/// Whatever we hand to systemd it must read; what it refuses, we refuse first.
#[test]
fn systemd_agrees() {
    let good = [
        "hourly",
        "daily",
        "weekly",
        "monthly",
        "yearly",
        "minutely",
        "quarterly",
        "daily 23:59",
        "*/7 * * * *",
        "0 4 1 * 5",
        "15,45 0-6/2 1-7 2,4 sun",
        "0 0 29 feb *",
        "0 0 31 2 1",
        "Mon",
        "Mon..Fri 02:00",
        "Sat,Sun *-*-* 06:30:15",
        "*-*-1,15 03:00",
        "*-02~01 12:00",
        "*:0/15",
        "*-*-* 0/6:00:00",
        "12-24 18:00",
        "Mon *-*-* 02:00:00 Europe/Berlin",
        "02:00 UTC",
        "*-1/3-1 4:30",
        "hourly Europe/Berlin",
        "daily UTC",
        "daily 02:30 America/New_York",
        "0 9 * * 1 Asia/Kolkata",
        "Mon *-05~07/1",
        "*-*~1,5/2",
        "8..18/2:00",
        "*-*-1..10/3",
        "*~1..3",
        "2027-06-01 12:00",
        "*:*:0/30",
    ];
    let bad = [
        "*:*/15",
        "*-*/2-01",
        "Fri..Mon 10:00",
        "*-*~28..30",
        "Mon..",
        "*-*-* 24:00",
        "*-*-32",
        "02:60",
        "1:2:3:4",
        "*-*-*~1",
        "foo",
    ];
    let agrees = |expression: &str| {
        Command::new("systemd-analyze").args(["calendar", expression]).output().unwrap()
    };
    if let Err(error) = Command::new("systemd-analyze").arg("--version").output() {
        // Past the test harness, which keeps what a passing test prints to itself.
        let note = format!("SKIPPED, systemd-analyze (package systemd) does not start: {error}\n");
        std::io::stderr().write_all(note.as_bytes()).unwrap();
        return;
    }
    for text in good {
        for expression in calendar(text) {
            let output = agrees(&expression);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text} became {expression}: {said}");
        }
    }
    for text in good {
        let expressions = calendar(text);
        if let [expression] = expressions.as_slice() {
            assert_eq!(own_moments(text), moments_of_systemd(expression), "{text}");
        }
    }
    for text in bad {
        assert!(Schedule::read(text).is_err(), "{text}");
        assert!(!agrees(text).status.success(), "systemd takes {text}");
    }
}

const FROM: &str = "2026-03-20 22:10:00 UTC";

fn own_moments(text: &str) -> Vec<String> {
    let from = "2026-03-20T22:10:00Z".parse().unwrap();
    let zone = TimeZone::UTC;
    let found = Schedule::read(text).unwrap().moments(from, Timestamp::MAX, &zone, 9);
    found.iter().map(|at| at.strftime("%Y-%m-%d %H:%M:%S").to_string()).collect()
}

/// The next nine, as it prints them: in UTC beside the zone's, where that is another.
fn moments_of_systemd(expression: &str) -> Vec<String> {
    let arguments = ["calendar", "--iterations=9", "--base-time", FROM, expression];
    let output = Command::new("systemd-analyze").args(arguments).env("TZ", "UTC").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let moment = |line: &str| {
        let (before, after) = line.split_once(": ")?;
        let is_one = before.contains("Next elapse") || before.contains("Iteration");
        let is_one = is_one || before.contains("Iter.");
        let words: Vec<&str> = after.split_whitespace().collect();
        is_one.then(|| words[1..3].join(" "))
    };
    text.lines().filter_map(moment).collect()
}
