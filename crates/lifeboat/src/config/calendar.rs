//! Calendar expressions as systemd has them, without the time zone behind them:
//! `[weekdays] [date] [time]`.
//!
//! They are read into sets of numbers, so that what systemd would refuse is refused here first, and
//! `lifeboat run` knows their moments.

use std::collections::BTreeSet;

use jiff::civil::Date;

use super::moments::Pattern;

/// The days of the week, as systemd writes them.
pub(super) const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const WEEKDAYS_LONG: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const YEARS: (u16, u16) = (1970, 2199);

/// What it stands for; `None` is every value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calendar {
    weekdays: Option<BTreeSet<u16>>,
    years: Option<BTreeSet<u16>>,
    months: Option<BTreeSet<u16>>,
    days: Option<BTreeSet<u16>>,
    /// The days are counted from the end of the month.
    from_end: bool,
    hours: Option<BTreeSet<u16>>,
    minutes: Option<BTreeSet<u16>>,
    seconds: Option<BTreeSet<u16>>,
}

impl Calendar {
    /// Reads its words, or says what is wrong with them.
    pub(super) fn read(parts: &[&str]) -> Result<Self, String> {
        let mut calendar = Calendar::default();
        let mut rest = parts;
        if let Some((first, after)) = rest.split_first()
            && first.chars().all(|c| c.is_ascii_alphabetic() || c == ',' || c == '.')
            && first.starts_with(|c: char| c.is_ascii_alphabetic())
        {
            calendar.weekdays = Some(weekdays(first)?);
            rest = after;
        }
        if let Some((date, after)) = rest.split_first()
            && (date.contains('~') || date.contains('-'))
            && !date.contains(':')
        {
            calendar.read_date(date)?;
            rest = after;
        }
        match rest {
            [] if !parts.is_empty() => calendar.read_time("0:0:0")?,
            [time] if time.contains(':') => calendar.read_time(time)?,
            [] => return Err("nothing is said".to_owned()),
            [time, other, ..] if time.contains(':') => {
                return Err(format!("`{other}` has no meaning here"));
            }
            [other, ..] => return Err(format!("`{other}` has no meaning here")),
        }
        match calendar.never() {
            true => Err("these months never have such a day".to_owned()),
            false => Ok(calendar),
        }
    }

    fn read_date(&mut self, date: &str) -> Result<(), String> {
        let (months, days) = match date.rsplit_once('~') {
            Some((months, days)) => {
                self.from_end = true;
                (months, days)
            }
            None => date.rsplit_once('-').ok_or("a date is year-month-day")?,
        };
        self.days = match self.from_end {
            true => from_end(days)?,
            false => field("day", days, (1, 31))?,
        };
        let months = match months.rsplit_once('-') {
            Some((year, month)) => {
                self.years = field("year", year, YEARS)?;
                month
            }
            None => months,
        };
        self.months = field("month", months, (1, 12))?;
        Ok(())
    }

    fn read_time(&mut self, time: &str) -> Result<(), String> {
        let parts: Vec<&str> = time.split(':').collect();
        let (hour, minute, second) = match parts.as_slice() {
            [hour, minute] => (*hour, *minute, "0"),
            [hour, minute, second] => (*hour, *minute, *second),
            _ => return Err(format!("`{time}` is not a time")),
        };
        self.hours = field("hour", hour, (0, 23))?;
        self.minutes = field("minute", minute, (0, 59))?;
        self.seconds = field("second", second, (0, 59))?;
        Ok(())
    }

    fn never(&self) -> bool {
        let (Some(days), Some(months)) = (&self.days, &self.months) else { return false };
        let longest = |month: &u16| match month {
            2 => 29,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        days.first().copied() > months.iter().map(longest).max()
    }

    fn is_on(&self, date: Date) -> bool {
        let has = |set: &Option<BTreeSet<u16>>, value: i16| {
            set.as_ref()
                .is_none_or(|set| u16::try_from(value).is_ok_and(|value| set.contains(&value)))
        };
        let day = match self.from_end {
            true => date.days_in_month() - date.day() + 1,
            false => date.day(),
        };
        has(&self.weekdays, date.weekday().to_sunday_zero_offset().into())
            && has(&self.years, date.year())
            && has(&self.months, date.month().into())
            && has(&self.days, day.into())
    }

    /// Lends its days and times.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Pattern<'_>) -> T) -> T {
        work(&Pattern {
            is_on: &|date| self.is_on(date),
            hours: self.hours.as_ref(),
            minutes: self.minutes.as_ref(),
            seconds: self.seconds.as_ref(),
        })
    }
}

fn weekdays(text: &str) -> Result<BTreeSet<u16>, String> {
    // Monday is the first: a range from Friday to Monday is none.
    let day = |word: &str| {
        let is_it = |name: &&str| word.eq_ignore_ascii_case(name);
        let short = WEEKDAYS.iter().position(is_it);
        let found = short.or_else(|| WEEKDAYS_LONG.iter().position(is_it));
        found.map(|day| (day + 6) % 7).ok_or_else(|| format!("`{word}` is no day of the week"))
    };
    let mut days = BTreeSet::new();
    for item in text.split(',') {
        let (first, last) = item.split_once("..").unwrap_or((item, item));
        let (first, last) = (day(first)?, day(last)?);
        if first > last {
            return Err(format!("`{item}` goes backwards: the week begins on Monday"));
        }
        days.extend((first..=last).filter_map(|day| u16::try_from((day + 1) % 7).ok()));
    }
    Ok(days)
}

fn number(what: &str, text: &str, (least, most): (u16, u16)) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|value| digits && (least..=most).contains(value));
    value.ok_or_else(|| format!("`{text}` is no {what}"))
}

/// The values of one field; `None` where it is `*`.
fn field(what: &str, text: &str, bounds: (u16, u16)) -> Result<Option<BTreeSet<u16>>, String> {
    if text == "*" {
        return Ok(None);
    }
    let mut values = BTreeSet::new();
    for item in text.split(',') {
        let (range, step) = item.split_once('/').map_or((item, None), |(a, b)| (a, Some(b)));
        let step = step.map(|step| number(what, step, (1, bounds.1))).transpose()?;
        if range == "*" {
            return Err(format!("`{item}` is no {what}: a step needs a beginning, such as 0/15"));
        }
        let (first, last) = match (range.split_once(".."), step) {
            (Some((first, last)), _) => (number(what, first, bounds)?, number(what, last, bounds)?),
            (None, Some(_)) => (number(what, range, bounds)?, bounds.1),
            (None, None) => (number(what, range, bounds)?, number(what, range, bounds)?),
        };
        if first > last {
            return Err(format!("`{range}` in the {what} goes backwards"));
        }
        values.extend((first..=last).step_by(usize::from(step.unwrap_or(1))));
    }
    Ok(Some(values))
}

/// Days from the end of the month; a step leads towards the end.
fn from_end(text: &str) -> Result<Option<BTreeSet<u16>>, String> {
    let bounds = (1, 28);
    let mut values = BTreeSet::new();
    for item in text.split(',') {
        match (item.split_once('/'), item.split_once("..")) {
            (Some(_), Some(_)) => {
                return Err(format!("`{item}`: a range has no step behind `~`"));
            }
            (Some((first, step)), None) => {
                let (first, step) = (number("day", first, bounds)?, number("day", step, bounds)?);
                let taken = (1..=first).rev().step_by(usize::from(step));
                values.extend(taken);
            }
            (None, Some(_)) => values.extend(field("day", item, bounds)?.unwrap_or_default()),
            (None, None) => drop(values.insert(number("day", item, bounds)?)),
        }
    }
    Ok(Some(values))
}
