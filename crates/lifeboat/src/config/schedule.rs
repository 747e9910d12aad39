//! When a source is backed up: a word, a time of day, five fields as cron has them, or a calendar
//! expression as systemd has them.
//!
//! Pure. A schedule is read once, with a clear error, and written as either of the two. Cron's
//! fields become lists of numbers for systemd, so that nothing is lost on the way; a calendar
//! expression has no equal in cron and is refused there. Times are local times of the host.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// When to back up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// "hourly", "daily", "weekly" or "monthly", at the beginning of each.
    Every(Every),
    /// "daily 02:00": hour and minute.
    DailyAt(u8, u8),
    /// Five fields of cron, as they were written and as what they stand for.
    Cron(String, Box<CronFields>),
    /// A calendar expression of systemd.
    Calendar(String),
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
    minutes: Option<BTreeSet<u8>>,
    hours: Option<BTreeSet<u8>>,
    days: Option<BTreeSet<u8>>,
    months: Option<BTreeSet<u8>>,
    weekdays: Option<BTreeSet<u8>>,
    /// Cron's rule: with both days restricted, either suffices.
    either_day: bool,
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const MONTH_DAYS_MAX: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// What systemd knows by a word and we have no word for.
const CALENDAR_WORDS: &[&str] = &["minutely", "quarterly", "semiannually", "yearly", "annually"];

impl Schedule {
    /// Reads it, or says what is wrong with it.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        if text.chars().any(char::is_control) {
            return Err("a schedule is one line".to_owned());
        }
        match parts.as_slice() {
            [] => Err("the schedule is empty: write \"hourly\" or \"daily 02:00\"".to_owned()),
            ["hourly"] => Ok(Schedule::Every(Every::Hour)),
            ["daily"] => Ok(Schedule::Every(Every::Day)),
            ["weekly"] => Ok(Schedule::Every(Every::Week)),
            ["monthly"] => Ok(Schedule::Every(Every::Month)),
            ["daily", time] => {
                let wrong = || format!("`{time}` is not a time of day such as 02:00");
                let (hour, minute) = time.split_once(':').ok_or_else(wrong)?;
                let hour = number(hour, 0, 23).map_err(|_| wrong())?;
                Ok(Schedule::DailyAt(hour, number(minute, 0, 59).map_err(|_| wrong())?))
            }
            [minute, hour, day, month, weekday] => {
                let fields = CronFields::read([minute, hour, day, month, weekday])?;
                Ok(Schedule::Cron(parts.join(" "), Box::new(fields)))
            }
            [word] if CALENDAR_WORDS.contains(word) => Ok(Schedule::Calendar((*word).to_owned())),
            parts => {
                check_calendar(parts).map_err(|why| {
                    format!(
                        "`{text}` is no schedule: {why}; write hourly, daily, weekly, monthly, \
                         \"daily 02:00\", five fields as cron has them, or what systemd takes \
                         after OnCalendar="
                    )
                })?;
                Ok(Schedule::Calendar(parts.join(" ")))
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
            Schedule::Calendar(text) => vec![text.clone()],
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
            Schedule::Calendar(text) => Err(format!("cron has no equal of `{text}`")),
        }
    }

    /// The moments after `from` up to `until`, as that zone's clocks show them, but no more than
    /// `count_max`; `None` for an expression that only systemd can read.
    pub(crate) fn moments(
        &self,
        from: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
        count_max: usize,
    ) -> Option<Vec<Timestamp>> {
        let cron = self.cron().ok()?;
        let parts: Vec<&str> = cron.split_ascii_whitespace().collect();
        let fields = CronFields::read(parts.try_into().ok()?).ok()?;
        Some(fields.moments(from, until, zone, count_max))
    }

    /// How far systemd may move the moment, in seconds, so that hosts do not all begin at once:
    /// far where only a period was asked for, little where a time was.
    pub(crate) fn random_delay_s(&self) -> u32 {
        match self {
            Schedule::Every(Every::Hour) => 300,
            Schedule::Every(_) => 900,
            _ => 30,
        }
    }
}

impl CronFields {
    fn read([minute, hour, day, month, weekday]: [&str; 5]) -> Result<Self, String> {
        let months: Vec<(&str, u8)> = MONTHS.into_iter().zip(1..).collect();
        let weekdays: Vec<(&str, u8)> = WEEKDAYS.into_iter().zip(0..).collect();
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
        let has = |set: &Option<BTreeSet<u8>>, value: i8| {
            set.as_ref()
                .is_none_or(|set| u8::try_from(value).is_ok_and(|value| set.contains(&value)))
        };
        let day = has(&self.days, date.day());
        let weekday = has(&self.weekdays, date.weekday().to_sunday_zero_offset());
        let fits = if self.either_day { day || weekday } else { day && weekday };
        fits && has(&self.months, date.month())
    }

    fn moments(
        &self,
        from: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
        count_max: usize,
    ) -> Vec<Timestamp> {
        let all = |set: &Option<BTreeSet<u8>>, end: i8| -> Vec<i8> {
            let some = set.iter().flatten().filter_map(|value| i8::try_from(*value).ok());
            if set.is_some() { some.collect() } else { (0..end).collect() }
        };
        let (hours, minutes) = (all(&self.hours, 24), all(&self.minutes, 60));
        let mut moments: Vec<Timestamp> = Vec::new();
        let mut date = Some(from.to_zoned(zone.clone()).date());
        let last = until.to_zoned(zone.clone()).date();
        while let Some(day) = date.filter(|day| *day <= last && moments.len() < count_max) {
            for hour in hours.iter().filter(|_| self.is_on(day)) {
                let times = minutes.iter().map(|minute| day.at(*hour, *minute, 0, 0));
                // A time that a clock skips comes when it has skipped it.
                let found = times.filter_map(|time| time.to_zoned(zone.clone()).ok());
                let found = found.map(|moment| moment.timestamp());
                moments.extend(found.filter(|moment| *moment > from && *moment <= until));
            }
            date = day.tomorrow().ok();
        }
        moments.sort_unstable();
        moments.dedup();
        moments.truncate(count_max);
        moments
    }

    fn on_calendar(&self) -> Vec<String> {
        let list = |set: &Option<BTreeSet<u8>>| match set {
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
    least: u8,
    most: u8,
    names: &[(&str, u8)],
) -> Result<Option<BTreeSet<u8>>, String> {
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

fn number(text: &str, least: u8, most: u8) -> Result<u8, ()> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value: u8 = text.parse().map_err(|_| ())?;
    if digits && (least..=most).contains(&value) { Ok(value) } else { Err(()) }
}

/// Whether systemd will read it: `[weekdays] [date] [time] [time zone]`.
fn check_calendar(parts: &[&str]) -> Result<(), String> {
    let mut rest = parts;
    let mut seen = 0;
    if let Some((first, after)) = rest.split_first()
        && first.split(',').flat_map(|range| range.split("..")).all(is_weekday)
    {
        (rest, seen) = (after, seen + 1);
    }
    if let Some((date, after)) = rest.split_first()
        && (date.contains('~') || date.contains('-'))
        && !date.contains(':')
    {
        check_date(date)?;
        (rest, seen) = (after, seen + 1);
    }
    if let Some((time, after)) = rest.split_first()
        && time.contains(':')
    {
        check_time(time)?;
        (rest, seen) = (after, seen + 1);
    }
    match rest {
        [zone] if seen > 0 && (*zone == "UTC" || TimeZone::get(zone).is_ok()) => Ok(()),
        [] if seen > 0 => Ok(()),
        [other, ..] => Err(format!("`{other}` has no meaning here")),
        [] => Err("nothing is said".to_owned()),
    }
}

fn is_weekday(word: &str) -> bool {
    let long =
        ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"].iter();
    long.chain(&WEEKDAYS).any(|name| word.eq_ignore_ascii_case(name))
}

fn check_date(date: &str) -> Result<(), String> {
    let (months, days, from_end) = match date.rsplit_once('~') {
        Some((months, days)) => (months, days, true),
        None => {
            let (months, days) = date.rsplit_once('-').ok_or("a date is year-month-day")?;
            (months, days, false)
        }
    };
    calendar_field("day", days, 1, if from_end { 28 } else { 31 })?;
    match months.rsplit_once('-') {
        Some((year, month)) => {
            calendar_field("year", year, 1970, 2199)?;
            calendar_field("month", month, 1, 12)
        }
        None => calendar_field("month", months, 1, 12),
    }
}

fn check_time(time: &str) -> Result<(), String> {
    let parts: Vec<&str> = time.split(':').collect();
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (hour, minute, "0"),
        [hour, minute, second] => (hour, minute, *second),
        _ => return Err(format!("`{time}` is not a time")),
    };
    calendar_field("hour", hour, 0, 23)?;
    calendar_field("minute", minute, 0, 59)?;
    calendar_field("second", second, 0, 59)
}

fn calendar_field(what: &str, text: &str, least: u16, most: u16) -> Result<(), String> {
    let wrong = || format!("`{text}` is no {what}");
    let value = |word: &str| -> Result<u16, String> {
        let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let value = word.parse().ok().filter(|value| digits && (least..=most).contains(value));
        value.ok_or_else(wrong)
    };
    for item in text.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        if let Some(step) = step {
            let number: u16 = step.parse().map_err(|_| wrong())?;
            if number == 0 || number > most || !step.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(wrong());
            }
        }
        match range.split_once("..") {
            _ if range == "*" => {}
            Some((first, last)) if value(first)? > value(last)? => return Err(wrong()),
            Some(_) => {}
            None => drop(value(range)?),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
