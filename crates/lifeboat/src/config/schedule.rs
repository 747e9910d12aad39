//! When a source is backed up: a word, a time of day, five fields as cron has them, or a calendar
//! expression as systemd has them.
//!
//! Pure. A schedule is read once, with a clear error, and written as either of the two. Cron's
//! fields become lists of numbers for systemd, so that nothing is lost on the way; a calendar
//! expression, or a time zone, has no equal in cron and is refused there. Times without a zone are
//! local times of the host.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::calendar::{Calendar, WEEKDAYS};
use super::moments::Pattern;

/// When to back up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// "hourly", "daily", "weekly" or "monthly", at the beginning of each.
    Every(Every),
    /// "daily 02:00": hour and minute.
    DailyAt(u8, u8),
    /// Five fields of cron, as they were written and as what they stand for.
    Cron(String, Box<CronFields>),
    /// A calendar expression of systemd, as it was written and as what it stands for.
    Calendar(String, Box<Calendar>),
    /// Any of these by the clocks of another zone than the host's.
    In(Box<Schedule>, String, TimeZone),
}

/// The words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Every {
    /// At minute 0.
    Hour,
    /// At midnight.
    Day,
    /// On Monday at midnight.
    Week,
    /// On the first at midnight.
    Month,
}

/// What the fields of a cron expression stand for; `None` is every value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CronFields {
    minutes: Option<BTreeSet<u16>>,
    hours: Option<BTreeSet<u16>>,
    days: Option<BTreeSet<u16>>,
    months: Option<BTreeSet<u16>>,
    weekdays: Option<BTreeSet<u16>>,
    /// Cron's rule: with both days restricted, either suffices.
    either_day: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const MONTH_DAYS_MAX: [u16; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// What systemd knows by a word and we have no word for.
const CALENDAR_WORDS: &[(&str, [&str; 2])] = &[
    ("minutely", ["*-*-*", "*:*:00"]),
    ("quarterly", ["*-01,04,07,10-01", "00:00:00"]),
    ("semiannually", ["*-01,07-01", "00:00:00"]),
    ("yearly", ["*-01-01", "00:00:00"]),
    ("annually", ["*-01-01", "00:00:00"]),
];

impl Schedule {
    /// Reads it, or says what is wrong with it.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        if text.chars().any(char::is_control) {
            return Err("a schedule is one line".to_owned());
        }
        if let Some((last, rest)) = parts.split_last().filter(|(_, rest)| !rest.is_empty())
            && let Some(zone) = zone_of(last)
        {
            let inner = Schedule::read_local(&rest.join(" "), rest)?;
            return Ok(Schedule::In(Box::new(inner), (*last).to_owned(), zone));
        }
        Schedule::read_local(text, &parts)
    }

    fn read_local(text: &str, parts: &[&str]) -> Result<Self, String> {
        match parts {
            [] => Err("the schedule is empty: write \"hourly\" or \"daily 02:00\"".to_owned()),
            ["hourly"] => Ok(Schedule::Every(Every::Hour)),
            ["daily"] => Ok(Schedule::Every(Every::Day)),
            ["weekly"] => Ok(Schedule::Every(Every::Week)),
            ["monthly"] => Ok(Schedule::Every(Every::Month)),
            ["daily", time] => {
                let wrong = || format!("`{time}` is not a time of day such as 02:00");
                let (hour, minute) = time.split_once(':').ok_or_else(wrong)?;
                let hour = number(hour, 0, 23).map_err(|()| wrong())?;
                let minute = number(minute, 0, 59).map_err(|()| wrong())?;
                let small = |value: u16| u8::try_from(value).map_err(|_| wrong());
                Ok(Schedule::DailyAt(small(hour)?, small(minute)?))
            }
            [minute, hour, day, month, weekday] => {
                let fields = CronFields::read([minute, hour, day, month, weekday])?;
                Ok(Schedule::Cron(parts.join(" "), Box::new(fields)))
            }
            parts => {
                let word = CALENDAR_WORDS.iter().find(|(word, _)| [*word] == *parts);
                let meant = word.map_or(parts, |(_, meant)| &meant[..]);
                let calendar = Calendar::read(meant).map_err(|why| {
                    format!(
                        "`{text}` is no schedule: {why}; write hourly, daily, weekly, monthly, \
                         \"daily 02:00\", five fields as cron has them, or what systemd takes \
                         after OnCalendar="
                    )
                })?;
                Ok(Schedule::Calendar(parts.join(" "), Box::new(calendar)))
            }
        }
    }

    /// The values of `OnCalendar=`; each is one more moment.
    pub(crate) fn on_calendar(&self) -> Vec<String> {
        match self {
            Schedule::Every(every) => vec![
                match every {
                    Every::Hour => "hourly",
                    Every::Day => "daily",
                    Every::Week => "weekly",
                    Every::Month => "monthly",
                }
                .to_owned(),
            ],
            Schedule::DailyAt(hour, minute) => vec![format!("*-*-* {hour:02}:{minute:02}:00")],
            Schedule::Cron(_, fields) => fields.on_calendar(),
            Schedule::Calendar(text, _) => vec![text.clone()],
            Schedule::In(inner, zone, _) => {
                inner.on_calendar().iter().map(|moment| format!("{moment} {zone}")).collect()
            }
        }
    }

    /// The five fields of cron, or why there are none.
    pub(crate) fn cron(&self) -> Result<String, String> {
        match self {
            Schedule::Every(Every::Hour) => Ok("0 * * * *".to_owned()),
            Schedule::Every(Every::Day) => Ok("0 0 * * *".to_owned()),
            Schedule::Every(Every::Week) => Ok("0 0 * * 1".to_owned()),
            Schedule::Every(Every::Month) => Ok("0 0 1 * *".to_owned()),
            Schedule::DailyAt(hour, minute) => Ok(format!("{minute} {hour} * * *")),
            Schedule::Cron(text, _) => Ok(text.clone()),
            Schedule::Calendar(text, _) => Err(format!("cron has no equal of `{text}`")),
            Schedule::In(_, zone, _) => {
                Err(format!("cron knows no time zone `{zone}` beside the host's"))
            }
        }
    }

    /// The moments after `from` up to `until`, by that zone's clocks if it has none of its own, but
    /// no more than `count_max`.
    pub(crate) fn moments(
        &self,
        from: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
        count_max: usize,
    ) -> Vec<Timestamp> {
        self.with(zone, |pattern, zone| pattern.moments(from, until, zone, count_max))
    }

    /// The first moment after that one.
    pub(crate) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        self.with(zone, |pattern, zone| pattern.next(after, zone))
    }

    /// The last moment after `from` up to `until`.
    pub(crate) fn newest(
        &self,
        from: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
    ) -> Option<Timestamp> {
        self.with(zone, |pattern, zone| pattern.newest(from, until, zone))
    }

    fn with<T>(&self, zone: &TimeZone, work: impl FnOnce(&Pattern<'_>, &TimeZone) -> T) -> T {
        match self {
            Schedule::In(inner, _, own) => inner.with(own, work),
            Schedule::Calendar(_, calendar) => calendar.with(|pattern| work(pattern, zone)),
            Schedule::Cron(_, fields) => fields.with(|pattern| work(pattern, zone)),
            Schedule::Every(_) | Schedule::DailyAt(..) => {
                self.fields().with(|pattern| work(pattern, zone))
            }
        }
    }

    /// What a word stands for.
    fn fields(&self) -> CronFields {
        let one = |value: u16| Some(BTreeSet::from([value]));
        let (minute, hour, day, weekday) = match self {
            Schedule::Every(Every::Hour) => (0, None, None, None),
            Schedule::Every(Every::Week) => (0, one(0), None, one(1)),
            Schedule::Every(Every::Month) => (0, one(0), one(1), None),
            Schedule::DailyAt(hour, minute) => {
                (u16::from(*minute), one((*hour).into()), None, None)
            }
            _ => (0, one(0), None, None),
        };
        CronFields {
            minutes: one(minute),
            hours: hour,
            days: day,
            months: None,
            weekdays: weekday,
            either_day: false,
        }
    }

    /// How far systemd may move the moment, in seconds, so that hosts do not all begin at once:
    /// far where only a period was asked for, little where a time was.
    pub(crate) fn random_delay_s(&self) -> u32 {
        match self {
            Schedule::Every(Every::Hour) => 300,
            Schedule::Every(_) => 900,
            Schedule::In(inner, ..) => inner.random_delay_s(),
            _ => 30,
        }
    }
}

impl CronFields {
    fn read([minute, hour, day, month, weekday]: [&str; 5]) -> Result<Self, String> {
        let months: Vec<(&str, u16)> = MONTHS.into_iter().zip(1..).collect();
        let weekdays: Vec<(&str, u16)> = WEEKDAYS.into_iter().zip(0..).collect();
        let mut fields = CronFields {
            minutes: cron_field("minute", minute, 0, 59, &[])?,
            hours: cron_field("hour", hour, 0, 23, &[])?,
            days: cron_field("day of the month", day, 1, 31, &[])?,
            months: cron_field("month", month, 1, 12, &months)?,
            weekdays: cron_field("day of the week", weekday, 0, 7, &weekdays)?,
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        if let Some(weekdays) = &mut fields.weekdays
            && weekdays.remove(&7)
        {
            weekdays.insert(0);
        }
        match fields.never() {
            true => Err("these months never have such a day".to_owned()),
            false => Ok(fields),
        }
    }

    fn never(&self) -> bool {
        let (Some(days), Some(months)) = (&self.days, &self.months) else { return false };
        let longest = months.iter().map(|month| MONTH_DAYS_MAX[usize::from(*month) - 1]).max();
        !self.either_day && days.first().copied() > longest
    }

    fn is_on(&self, date: Date) -> bool {
        let has = |set: &Option<BTreeSet<u16>>, value: i8| {
            set.as_ref()
                .is_none_or(|set| u16::try_from(value).is_ok_and(|value| set.contains(&value)))
        };
        let day = has(&self.days, date.day());
        let weekday = has(&self.weekdays, date.weekday().to_sunday_zero_offset());
        let fits = if self.either_day { day || weekday } else { day && weekday };
        fits && has(&self.months, date.month())
    }

    fn with<T>(&self, work: impl FnOnce(&Pattern<'_>) -> T) -> T {
        let seconds = BTreeSet::from([0]);
        work(&Pattern {
            is_on: &|date| self.is_on(date),
            hours: self.hours.as_ref(),
            minutes: self.minutes.as_ref(),
            seconds: Some(&seconds),
        })
    }

    fn on_calendar(&self) -> Vec<String> {
        let list = |set: &Option<BTreeSet<u16>>| match set {
            None => "*".to_owned(),
            Some(set) => {
                let numbers: Vec<String> = set.iter().map(|n| format!("{n:02}")).collect();
                numbers.join(",")
            }
        };
        let time = format!("{}:{}:00", list(&self.hours), list(&self.minutes));
        let months = list(&self.months);
        let mut weekdays = String::new();
        for day in self.weekdays.iter().flatten() {
            let mark = if weekdays.is_empty() { "" } else { "," };
            let _ = write!(weekdays, "{mark}{}", WEEKDAYS[usize::from(*day)]);
        }
        let space = if weekdays.is_empty() { "" } else { " " };
        match self.either_day {
            true => vec![
                format!("*-{months}-{} {time}", list(&self.days)),
                format!("{weekdays}{space}*-{months}-* {time}"),
            ],
            false => vec![format!("{weekdays}{space}*-{months}-{} {time}", list(&self.days))],
        }
    }
}

/// The values of one field; `None` where it is `*`.
fn cron_field(
    what: &str,
    text: &str,
    least: u16,
    most: u16,
    names: &[(&str, u16)],
) -> Result<Option<BTreeSet<u16>>, String> {
    if text == "*" {
        return Ok(None);
    }
    let wrong = || format!("`{text}` is no {what} of a cron expression: {least} to {most}");
    let value = |word: &str| match names.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)) {
        Some((_, value)) => Ok(*value),
        None => number(word, least, most).map_err(|_| wrong()),
    };
    let mut values = BTreeSet::new();
    for item in text.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(number(step, 1, most).map_err(|_| wrong())?)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((first, last)) => (value(first)?, value(last)?),
            // A step without a range is read in different ways by different crons.
            None if step.is_some() => return Err(wrong()),
            None => (value(range)?, value(range)?),
        };
        if first > last {
            return Err(format!("`{range}` in the {what} of a cron expression goes backwards"));
        }
        values.extend((first..=last).step_by(usize::from(step.unwrap_or(1))));
    }
    // Sunday is 0 and 7: with a step over all days it must not come twice.
    if names.len() == 7 && text.starts_with("*/") {
        values.remove(&7);
    }
    Ok(Some(values))
}

/// The zone that a word names; a field of cron is none.
fn zone_of(word: &str) -> Option<TimeZone> {
    let is_name = word.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_meant = word == "UTC" || word.contains('/');
    (is_name && is_meant).then(|| TimeZone::get(word).ok()).flatten()
}

fn number(text: &str, least: u16, most: u16) -> Result<u16, ()> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value: u16 = text.parse().map_err(|_| ())?;
    if digits && (least..=most).contains(&value) { Ok(value) } else { Err(()) }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
