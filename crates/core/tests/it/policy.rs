//! Retention: a second implementation agrees with the rule on random histories; the floors hold
//! whatever is asked for; years of daily prunes lose nothing that a policy promises.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use lifeboat_core::manifest::Condition::{self, Damaged, Good, Unchecked};
use lifeboat_core::manifest::Purpose::{self, Migration};
use lifeboat_core::policy::{Candidate, Decision, Floors, Hold, Keep, decide};
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn hours(count: i64) -> SignedDuration {
    SignedDuration::from_hours(count)
}

fn berlin() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

fn candidate(taken_at: Timestamp, condition: Condition) -> Candidate {
    Candidate {
        name: taken_at.to_string(),
        taken_at,
        condition,
        purpose: None,
        proven: false,
        pin: None,
        depends_on: Vec::new(),
    }
}

fn good(text: &str) -> Candidate {
    candidate(at(text), Good)
}

/// Without a floor, but for the newest good one.
const NO_FLOOR: Floors = Floors { min_good: 0 };

/// Names of those that stay, oldest first.
fn kept(decisions: &[Decision], candidates: &[Candidate]) -> Vec<String> {
    let kept = candidates.iter().zip(decisions).filter(|(_, decision)| decision.keeps());
    let mut names: Vec<String> = kept.map(|(candidate, _)| candidate.name.clone()).collect();
    names.sort();
    names
}

/// The rule once more, the slow way: each reason is asked of each backup by its definition.
fn reference(
    now: Timestamp,
    zone: &TimeZone,
    keep: &Keep,
    floors: &Floors,
    all: &[Candidate],
) -> Vec<BTreeSet<String>> {
    let mut words: Vec<BTreeSet<String>> =
        all.iter().map(|one| own_words(now, zone, keep, floors, all, one)).collect();
    loop {
        let before = words.clone();
        for (place, one) in all.iter().enumerate() {
            let needing = all
                .iter()
                .zip(&before)
                .filter(|(other, words)| !words.is_empty() && other.depends_on.contains(&one.name));
            words[place].extend(needing.map(|(other, _)| format!("needed by {}", other.name)));
        }
        if words == before {
            return words;
        }
    }
}

fn own_words(
    now: Timestamp,
    zone: &TimeZone,
    keep: &Keep,
    floors: &Floors,
    all: &[Candidate],
    one: &Candidate,
) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let age = |other: &Candidate| (other.taken_at, other.name.clone());
    let counts = |other: &&Candidate| other.condition == Good && other.taken_at <= now;
    let newer_good = all.iter().filter(counts).filter(|other| age(other) > age(one)).count() as u32;
    let newest_good = all.iter().filter(counts).map(|other| other.taken_at).max();
    let mut say = |says: bool, text: String| {
        if says {
            words.insert(text);
        }
    };
    let nothing = [
        keep.last,
        keep.hourly,
        keep.daily,
        keep.weekly,
        keep.monthly,
        keep.quarterly,
        keep.yearly,
    ] == [0; 7]
        && keep.within.is_none();
    say(keep.forever, "kept forever".into());
    say(nothing && !keep.forever, "no retention is configured".into());
    if let Some(pin) = &one.pin {
        match pin.until {
            None => say(true, format!("pinned: {}", pin.reason)),
            Some(until) => say(until > now, format!("pinned until {until}: {}", pin.reason)),
        }
    }
    if one.taken_at > now {
        say(true, "dated in the future".into());
        return words;
    }
    let newer_proven =
        all.iter().any(|other| other.proven && other.taken_at <= now && age(other) > age(one));
    say(one.proven && !newer_proven, "newest proven".into());
    if one.condition != Good {
        let name = if one.condition == Damaged { "damaged" } else { "unchecked" };
        let newest = newest_good.is_none_or(|newest| one.taken_at > newest);
        say(newest, format!("{name}, and newer than the newest good"));
        let young = now.as_second() - one.taken_at.as_second() < 14 * 86_400;
        say(young, format!("{name}, younger than 14 days"));
        return words;
    }
    say(newer_good == 0, "newest good".into());
    say(newer_good < floors.min_good, format!("one of the {} newest good", floors.min_good));
    if one.purpose == Some(Migration) {
        let newer = all
            .iter()
            .filter(counts)
            .filter(|other| other.purpose == Some(Migration) && age(other) > age(one))
            .count();
        say(newer < 2, "migration backup, one of the two newest".into());
        let seconds = newest_good.unwrap().as_second() - one.taken_at.as_second();
        say(seconds < 90 * 86_400, "migration backup, younger than 90 days".into());
    }
    if keep.forever || nothing {
        return words;
    }
    let last = if keep.last == 1 {
        "the last one".into()
    } else {
        format!("one of the last {}", keep.last)
    };
    say(newer_good < keep.last, last);
    if let Some(within) = keep.within {
        let hours = within.as_hours();
        let length = match (hours % 24, hours) {
            (0, 24) => "1 day".to_owned(),
            (0, hours) => format!("{} days", hours / 24),
            (_, 1) => "1 hour".to_owned(),
            (_, hours) => format!("{hours} hours"),
        };
        let edge = newest_good.unwrap().as_second() - within.as_secs();
        say(one.taken_at.as_second() >= edge, format!("within {length}"));
    }
    for (tier, count) in [
        ("hourly", keep.hourly),
        ("daily", keep.daily),
        ("weekly", keep.weekly),
        ("monthly", keep.monthly),
        ("quarterly", keep.quarterly),
        ("yearly", keep.yearly),
    ] {
        let bucket = label(tier, one.taken_at, zone);
        let newer: Vec<String> = all
            .iter()
            .filter(counts)
            .filter(|other| age(other) > age(one))
            .map(|other| label(tier, other.taken_at, zone))
            .collect();
        let buckets: BTreeSet<&String> = newer.iter().collect();
        let wins = !newer.contains(&bucket) && (buckets.len() as u32) < count;
        say(wins, format!("{tier} {bucket}"));
        let oldest = !all.iter().filter(counts).any(|other| age(other) < age(one));
        let total = buckets.iter().copied().chain([&bucket]).collect::<BTreeSet<_>>().len() as u32;
        say(oldest && total < count, format!("oldest good, {tier} is not filled"));
    }
    words
}

fn label(tier: &str, moment: Timestamp, zone: &TimeZone) -> String {
    let local = moment.to_zoned(zone.clone());
    match tier {
        "hourly" => moment.strftime("%Y-%m-%d %H:00 UTC").to_string(),
        "daily" => local.strftime("%Y-%m-%d").to_string(),
        "weekly" => local.strftime("%G-W%V").to_string(),
        "monthly" => local.strftime("%Y-%m").to_string(),
        "quarterly" => format!("{}-Q{}", local.year(), (local.month() - 1) / 3 + 1),
        _ => local.strftime("%Y").to_string(),
    }
}

/// Steps between backups: mostly minutes or hours, sometimes days, rarely months.
fn step_minutes() -> impl Strategy<Value = i64> {
    prop_oneof![4 => 0..30_i64, 6 => 30..180_i64, 2 => 600..5_000_i64, 1 => 5_000..90_000_i64]
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![6 => Just(Good), 1 => Just(Unchecked), 1 => Just(Damaged)]
}

fn purpose() -> impl Strategy<Value = Option<Purpose>> {
    prop_oneof![5 => Just(None), 2 => Just(Some(Migration)), 1 => Just(Some(Purpose::Other))]
}

/// A history that ends near one of the moments at which calendars are difficult. Moments are
/// relative to it, in minutes; `now` may lie before the newest backups.
fn history() -> impl Strategy<Value = (Timestamp, Vec<Candidate>)> {
    let end = prop_oneof![
        Just("2024-10-27T03:00:00Z"),
        Just("2025-03-30T03:00:00Z"),
        Just("2025-01-01T02:00:00Z"),
        Just("2006-10-29T04:00:00Z"),
        Just("2024-02-29T12:00:00Z"),
    ];
    let pin = prop_oneof![
        8 => Just(None),
        1 => Just(Some(None)),
        2 => (-20_000..20_000_i64).prop_map(|minutes| Some(Some(minutes))),
    ];
    let base = prop::option::weighted(0.1, 1..6_usize);
    let backup = (step_minutes(), condition(), purpose(), 0..10_u8, pin, base);
    let now_minutes = prop_oneof![3 => 0..3_000_i64, 1 => -6_000..0_i64, 1 => 0..60_000_i64];
    (end, now_minutes, prop::collection::vec(backup, 0..60)).prop_map(|(end, now, backups)| {
        let end = at(end);
        let moment = |minutes: i64| end + SignedDuration::from_mins(minutes);
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut minutes = 240;
        for (index, (step, condition, purpose, proven, pin, base)) in
            backups.into_iter().enumerate()
        {
            minutes -= step;
            // Newest first, and each may need one that is older: names are counted from the end.
            let depends_on = base.map(|base| format!("b{}", index + base)).into_iter().collect();
            candidates.push(Candidate {
                name: format!("b{index}"),
                taken_at: moment(minutes),
                condition,
                purpose,
                proven: proven == 0,
                pin: pin.map(|until| Hold { reason: "why".into(), until: until.map(moment) }),
                depends_on,
            });
        }
        (moment(now), candidates)
    })
}

fn policy() -> impl Strategy<Value = Keep> {
    let count = || prop_oneof![2 => Just(0), 3 => 1..6_u32, 1 => 6..40_u32];
    let tiers = (count(), count(), count(), count(), count(), count());
    let within = prop::option::weighted(0.3, 1..800_i64);
    (prop::bool::weighted(0.03), count(), tiers, within).prop_map(
        |(forever, last, tiers, within)| {
            let (hourly, daily, weekly, monthly, quarterly, yearly) = tiers;
            let within = within.map(hours);
            Keep { forever, last, hourly, daily, weekly, monthly, quarterly, yearly, within }
        },
    )
}

fn zone() -> impl Strategy<Value = TimeZone> {
    // St. John's set its clocks back at one minute past midnight in 2006: a day came twice.
    let names: &[&str] =
        &["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"];
    prop::sample::select(names).prop_map(|name| TimeZone::get(name).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_second_implementation_agrees(
        (now, candidates) in history(),
        keep in policy(),
        zone in zone(),
        min_good in 0..5_u32,
        turn in 0..60_usize,
    ) {
        let floors = Floors { min_good };
        let mut candidates = candidates;
        // The order in which they are given means nothing.
        let turn = turn.min(candidates.len());
        candidates.rotate_left(turn);
        let decisions = decide(now, &zone, &keep, &floors, &candidates);
        let expected = reference(now, &zone, &keep, &floors, &candidates);
        for ((candidate, decision), expected) in candidates.iter().zip(&decisions).zip(expected) {
            let words = match decision {
                Decision::Keep(_) => decision.words().into_iter().collect(),
                Decision::Remove(_) => BTreeSet::new(),
            };
            prop_assert_eq!(&words, &expected, "{} of {:?}", candidate.name, candidates);
        }
    }

    #[test]
    fn floors_hold_and_a_second_decision_removes_nothing(
        (now, candidates) in history(),
        keep in policy(),
        zone in zone(),
    ) {
        let floors = Floors::default();
        let decisions = decide(now, &zone, &keep, &floors, &candidates);
        let stays: Vec<Candidate> = candidates
            .iter()
            .zip(&decisions)
            .filter(|(_, decision)| decision.keeps())
            .map(|(candidate, _)| candidate.clone())
            .collect();
        assert_floors(now, &candidates, &stays);
        let again = decide(now, &zone, &keep, &floors, &stays);
        prop_assert!(again.iter().all(Decision::keeps));
    }
}

/// Asserts what no policy may cross, in words that are not those of the rule.
fn assert_floors(now: Timestamp, before: &[Candidate], after: &[Candidate]) {
    let stays = |name: &str| after.iter().any(|candidate| candidate.name == name);
    let mut good: Vec<&Candidate> =
        before.iter().filter(|one| one.condition == Good && one.taken_at <= now).collect();
    good.sort_by_key(|one| (one.taken_at, &one.name));
    good.iter().rev().take(3).for_each(|one| assert!(stays(&one.name), "good {}", one.name));
    let migrations = good.iter().rev().filter(|one| one.purpose == Some(Migration));
    migrations.take(2).for_each(|one| assert!(stays(&one.name), "migration {}", one.name));
    let proven = before.iter().filter(|one| one.proven && one.taken_at <= now);
    if let Some(newest) = proven.max_by_key(|one| (one.taken_at, &one.name)) {
        assert!(stays(&newest.name), "proven {}", newest.name);
    }
    for one in before {
        if one.taken_at > now {
            assert!(stays(&one.name), "of the future: {}", one.name);
        }
        if one.pin.as_ref().is_some_and(|pin| pin.until.is_none_or(|until| until > now)) {
            assert!(stays(&one.name), "pinned: {}", one.name);
        }
        for needed in one.depends_on.iter().filter(|_| stays(&one.name)) {
            if before.iter().any(|other| other.name == *needed) {
                assert!(stays(needed), "{needed} is needed by {}", one.name);
            }
        }
    }
}

#[test]
fn an_empty_policy_keeps_everything() {
    let old = ["2001-01-01T00:00:00Z", "2001-01-01T00:00:01Z", "2001-01-01T00:00:02Z"];
    let mut candidates: Vec<Candidate> = old.into_iter().map(good).collect();
    candidates.push(candidate(at("2000-01-01T00:00:00Z"), Damaged));
    let now = at("2025-01-01T00:00:00Z");
    for keep in [Keep::default(), Keep { forever: true, last: 1, ..Keep::default() }] {
        let decisions = decide(now, &TimeZone::UTC, &keep, &NO_FLOOR, &candidates);
        assert!(decisions.iter().all(Decision::keeps));
    }
}

#[test]
fn failed_backups_push_no_good_one_out() {
    // A month of backups that were not checked, after three good ones.
    let mut candidates = vec![
        good("2025-01-01T00:00:00Z"),
        good("2025-01-02T00:00:00Z"),
        good("2025-01-03T00:00:00Z"),
    ];
    for day in 0..30 {
        let moment = at("2025-01-04T00:00:00Z") + hours(day * 24);
        candidates.push(candidate(moment, if day % 2 == 0 { Damaged } else { Unchecked }));
    }
    let keep = Keep { daily: 3, ..Keep::default() };
    let now = at("2025-02-10T00:00:00Z");
    let decisions = decide(now, &TimeZone::UTC, &keep, &NO_FLOOR, &candidates);
    // All stay: no good one is newer than they are.
    assert!(decisions.iter().all(Decision::keeps));
    candidates.push(good("2025-02-09T00:00:00Z"));
    let decisions = decide(now, &TimeZone::UTC, &keep, &NO_FLOOR, &candidates);
    assert_eq!(decisions[0].words(), ["no rule keeps it"]);
    assert_eq!(decisions[1].words(), ["daily 2025-01-02"]);
    assert_eq!(decisions[3].words(), ["damaged, older than 14 days, a newer one is good"]);
    assert_eq!(decisions[32].words(), ["unchecked, younger than 14 days"]);
}

#[test]
fn backups_that_stopped_are_not_rotated_away() {
    let candidates: Vec<Candidate> =
        (0..10).map(|day| candidate(at("2020-01-01T00:00:00Z") + hours(24 * day), Good)).collect();
    let keep = Keep { daily: 7, within: Some(hours(24 * 2)), ..Keep::default() };
    let soon = decide(at("2020-01-10T01:00:00Z"), &TimeZone::UTC, &keep, &NO_FLOOR, &candidates);
    let late = decide(at("2025-01-01T00:00:00Z"), &TimeZone::UTC, &keep, &NO_FLOOR, &candidates);
    assert_eq!(soon, late);
    assert_eq!(kept(&late, &candidates).len(), 7);
}

#[test]
fn a_clock_that_ran_ahead_moves_nothing_out() {
    let now = at("2025-01-10T12:00:00Z");
    let mut candidates: Vec<Candidate> =
        (0..8).map(|day| candidate(now - hours(24 * day), Good)).collect();
    let keep = Keep { daily: 4, within: Some(hours(48)), ..Keep::default() };
    let without = decide(now, &TimeZone::UTC, &keep, &NO_FLOOR, &candidates);
    candidates.extend((1..20).map(|day| candidate(now + hours(24 * 400 * day), Good)));
    let with = decide(now, &TimeZone::UTC, &keep, &NO_FLOOR, &candidates);
    assert_eq!(with[..8], without[..]);
    assert!(with[8..].iter().all(|decision| decision.words() == ["dated in the future"]));
}

#[test]
fn the_hour_that_comes_twice_is_two_hours_and_the_day_is_one() {
    // 02:30 in Berlin, in summer time and an hour later in winter time.
    let twice = [good("2024-10-27T00:30:00Z"), good("2024-10-27T01:30:00Z")];
    let now = at("2024-10-27T12:00:00Z");
    let keep = Keep { hourly: 2, ..Keep::default() };
    let decisions = decide(now, &berlin(), &keep, &NO_FLOOR, &twice);
    assert_eq!(decisions[0].words(), ["hourly 2024-10-27 00:00 UTC"]);
    assert_eq!(decisions[1].words(), ["newest good", "hourly 2024-10-27 01:00 UTC"]);
    let keep = Keep { daily: 1, ..Keep::default() };
    let decisions = decide(now, &berlin(), &keep, &NO_FLOOR, &twice);
    assert_eq!(kept(&decisions, &twice), ["2024-10-27T01:30:00Z"]);
    // 23 hours of a day in spring are one day of the zone, whatever the day of the instant is.
    let day = [good("2025-03-29T23:00:00Z"), good("2025-03-30T21:59:59Z")];
    let decisions = decide(at("2025-04-01T00:00:00Z"), &berlin(), &keep, &NO_FLOOR, &day);
    assert_eq!(decisions[0].words(), ["no rule keeps it"]);
    assert_eq!(decisions[1].words(), ["newest good", "daily 2025-03-30"]);
}

#[test]
fn weeks_are_those_of_iso() {
    let candidates = [good("2024-12-29T12:00:00Z"), good("2024-12-30T12:00:00Z")];
    let keep = Keep { weekly: 2, yearly: 1, ..Keep::default() };
    let now = at("2025-01-05T00:00:00Z");
    let decisions = decide(now, &TimeZone::UTC, &keep, &NO_FLOOR, &candidates);
    assert_eq!(decisions[0].words(), ["weekly 2024-W52"]);
    assert_eq!(decisions[1].words(), ["newest good", "weekly 2025-W01", "yearly 2024"]);
}

#[test]
fn a_pin_holds_until_its_end_and_keeps_what_it_needs() {
    let mut candidates: Vec<Candidate> =
        (0..10).map(|day| candidate(at("2025-01-01T00:00:00Z") + hours(24 * day), Good)).collect();
    let until = at("2025-02-01T00:00:00Z");
    candidates[2].pin = Some(Hold { reason: "before the upgrade".into(), until: Some(until) });
    candidates[2].depends_on = vec![candidates[1].name.clone(), "long gone".into()];
    candidates[1].depends_on = vec![candidates[0].name.clone()];
    let keep = Keep { last: 1, ..Keep::default() };
    let before = at("2025-01-31T23:59:59Z");
    let decisions = decide(before, &TimeZone::UTC, &keep, &NO_FLOOR, &candidates);
    assert_eq!(kept(&decisions, &candidates).len(), 4);
    assert_eq!(decisions[2].words(), ["pinned until 2025-02-01T00:00:00Z: before the upgrade"]);
    assert_eq!(decisions[0].words(), ["needed by 2025-01-02T00:00:00Z"]);
    let decisions = decide(until, &TimeZone::UTC, &keep, &NO_FLOOR, &candidates);
    assert_eq!(kept(&decisions, &candidates), ["2025-01-10T00:00:00Z"]);
}

#[test]
fn migration_backups_stay_for_ninety_days_and_two_of_them_always() {
    let migration = |day: i64| Candidate {
        purpose: Some(Migration),
        ..candidate(at("2025-01-01T00:00:00Z") + hours(24 * day), Good)
    };
    let mut candidates: Vec<Candidate> = [0, 10, 20, 30].map(migration).into();
    candidates[3].condition = Unchecked;
    let keep = Keep { last: 1, ..Keep::default() };
    let decide_at = |day: i64, candidates: &[Candidate]| {
        let now = at("2025-01-01T00:00:00Z") + hours(24 * day);
        decide(now, &TimeZone::UTC, &keep, &NO_FLOOR, candidates)
    };
    candidates.push(candidate(at("2025-01-01T00:00:00Z") + hours(24 * 90), Good));
    let decisions = decide_at(90, &candidates);
    assert_eq!(decisions[0].words(), ["no rule keeps it"]);
    assert_eq!(
        decisions[1].words(),
        ["migration backup, one of the two newest", "migration backup, younger than 90 days"]
    );
    assert_eq!(decisions[3].words(), ["unchecked, older than 14 days, a newer one is good"]);
    // Where backups stopped, nothing grows older.
    assert_eq!(decide_at(4_000, &candidates), decisions);
    candidates.push(candidate(at("2025-01-01T00:00:00Z") + hours(24 * 900), Good));
    let decisions = decide_at(900, &candidates);
    assert_eq!(decisions[1].words(), ["migration backup, one of the two newest"]);
    assert_eq!(kept(&decisions, &candidates).len(), 3);
}

#[test]
fn a_hundred_thousand_backups_are_decided_at_once() {
    // Anything that compares each with each would not end within the patience of a test.
    let start = at("2013-01-01T00:00:00Z");
    let mut candidates: Vec<Candidate> =
        (0..100_000).map(|hour| candidate(start + hours(hour), Good)).collect();
    let base = candidates[10].name.clone();
    for candidate in candidates.iter_mut().skip(11).step_by(2) {
        candidate.depends_on = vec![base.clone()];
    }
    let keep = Keep {
        last: 50_000,
        hourly: 60_000,
        daily: 4_000,
        weekly: 600,
        monthly: 150,
        quarterly: 50,
        yearly: 20,
        within: Some(hours(70_000)),
        ..Keep::default()
    };
    let now = start + hours(100_000);
    let decisions = decide(now, &berlin(), &keep, &Floors::default(), &candidates);
    let count = decisions.iter().filter(|decision| decision.keeps()).count();
    // 70,001 within, one of each of some 1,084 days before, a few of weeks and months before them.
    assert!((71_085..71_130).contains(&count), "{count} are kept");
}

/// Hourly backups with failures and gaps, pruned daily: whatever the policy would keep of the
/// whole history, had nothing ever been removed, is still there.
#[test]
fn three_years_of_hourly_backups_with_daily_prunes() {
    let zone = berlin();
    let keep = Keep {
        hourly: 48,
        daily: 30,
        weekly: 8,
        monthly: 12,
        quarterly: 6,
        yearly: 5,
        within: Some(hours(72)),
        ..Keep::default()
    };
    let floors = Floors::default();
    let start = at("2023-01-01T00:30:00Z");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let (mut ever, mut there): (Vec<Candidate>, Vec<Candidate>) = (Vec::new(), Vec::new());
    let mut gap_until = 0;
    for hour in 0..3 * 365 * 24_i64 {
        let now = start + hours(hour);
        if hour >= gap_until && random(400) == 0 {
            gap_until = hour + 6 + random(24 * 20) as i64;
        }
        if hour >= gap_until && random(20) != 0 {
            let condition = [Good, Good, Good, Good, Good, Good, Good, Unchecked, Damaged];
            let mut made = candidate(now, condition[random(9) as usize]);
            made.proven = made.condition == Good && random(300) == 0;
            if random(500) == 0 {
                let until = Some(now + hours(24 * random(200) as i64));
                made.pin = Some(Hold { reason: "asked for".into(), until });
            }
            ever.push(made.clone());
            there.push(made);
        }
        if hour % 24 == 23 {
            let decisions = decide(now, &zone, &keep, &floors, &there);
            let before = there.clone();
            let mut decided = decisions.iter();
            there.retain(|_| decided.next().unwrap().keeps());
            assert_floors(now, &before, &there);
            assert!(there.len() < 500, "{} backups pile up", there.len());
        }
        if hour % (24 * 61) == 24 * 61 - 1 {
            let wanted = decide(now, &zone, &keep, &floors, &ever);
            let mut there: Vec<&str> = there.iter().map(|one| one.name.as_str()).collect();
            there.sort_unstable();
            for name in kept(&wanted, &ever) {
                assert!(there.binary_search(&name.as_str()).is_ok(), "{name} is gone at {now}");
            }
        }
    }
    assert!(ever.len() > 10_000, "{} backups were made", ever.len());
}
