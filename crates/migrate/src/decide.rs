//! Which type of PostgreSQL a column becomes: decided by its values, with what was declared as a
//! wish. A column whose values cannot all be what was declared gets a type that holds them all, or
//! has misfits, which nothing loads unasked.

use crate::profile::{ColumnProfile, declared_numbers};
use crate::target::{Form, Target};

/// What becomes of values that do not fit the type of their column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Misfits {
    /// Nothing is loaded.
    #[default]
    Refuse,
    /// The column gets a type that takes them all.
    Widen,
    /// Their rows go to a table of their own.
    Quarantine,
}

/// The type of a column, and why.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) target: Target,
    /// Whether numbers may become texts, and texts bytes.
    pub(crate) loose: bool,
    pub(crate) why: String,
    /// Whether there may be values that do not fit.
    pub(crate) may_misfit: bool,
    /// What a person may want to know or change.
    pub(crate) note: Option<String>,
}

/// What was declared, as a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Boolean,
    Moment,
    Date,
    Numeric,
    Integer,
    Real,
    Text,
    Nothing,
}

fn wish(declared: &str) -> Wish {
    let upper = declared.to_ascii_uppercase();
    let has = |part: &str| upper.contains(part);
    match () {
        () if has("BOOL") => Wish::Boolean,
        () if has("DATETIME") || has("TIMESTAMP") => Wish::Moment,
        () if upper.trim() == "DATE" => Wish::Date,
        () if has("DEC") || has("NUMERIC") => Wish::Numeric,
        () if has("INT") => Wish::Integer,
        () if has("CHAR") || has("CLOB") || has("TEXT") || has("JSON") || has("UUID") => Wish::Text,
        () if has("REAL") || has("FLOA") || has("DOUB") => Wish::Real,
        () => Wish::Nothing,
    }
}

/// Decides.
pub(crate) fn decide(declared: &str, profile: &ColumnProfile, misfits: Misfits) -> Choice {
    let choice = match wish(declared) {
        Wish::Boolean => boolean(profile),
        Wish::Moment => moment(profile),
        Wish::Date => date(profile),
        Wish::Numeric => numeric(declared, profile),
        Wish::Integer => integer(profile),
        Wish::Real => real(profile),
        Wish::Text => text(declared, profile),
        Wish::Nothing => None,
    };
    let choice = choice.unwrap_or_else(|| match wish(declared) {
        Wish::Integer | Wish::Real | Wish::Numeric => misfit_of_numbers(declared, profile),
        Wish::Text => misfit(Target::Text, "texts were declared"),
        _ => by_values(profile),
    });
    match (choice.may_misfit, misfits) {
        (true, Misfits::Widen) => widest(profile),
        _ => choice,
    }
}

fn chosen(target: Target, why: impl Into<String>) -> Choice {
    Choice { target, loose: false, why: why.into(), may_misfit: false, note: None }
}

fn misfit(target: Target, why: &str) -> Choice {
    Choice { may_misfit: true, ..chosen(target, format!("{why}, and not all values are")) }
}

fn misfit_of_numbers(declared: &str, profile: &ColumnProfile) -> Choice {
    let target = match (wish(declared), profile.reals) {
        (Wish::Integer, 0) => Target::BigInt,
        (Wish::Numeric, _) => Target::Numeric(None),
        _ if profile.inexact > 0 => Target::Numeric(None),
        _ => Target::Double,
    };
    misfit(target, "numbers were declared")
}

fn only_integers(profile: &ColumnProfile) -> bool {
    profile.integers == profile.values()
}

fn only_numbers(profile: &ColumnProfile) -> bool {
    profile.integers + profile.reals == profile.values()
}

fn only_texts(profile: &ColumnProfile) -> bool {
    profile.texts == profile.values()
}

fn integer(profile: &ColumnProfile) -> Option<Choice> {
    if only_integers(profile) {
        let mut choice = chosen(Target::BigInt, "integers of SQLite have 64 bits");
        choice.note = look_of_integers(profile);
        return Some(choice);
    }
    only_numbers(profile).then(|| numbers(profile, "fractions are among the integers"))
}

/// What integers may mean.
fn look_of_integers(profile: &ColumnProfile) -> Option<String> {
    if profile.integers == 0 {
        return None;
    }
    let all = |count: u64| count == profile.integers;
    if all(profile.zero_or_one) {
        return Some("only 0 and 1: type = \"boolean\" is possible".into());
    }
    let range = |by: i64| {
        let shown = |number: i64| time_of(number, by);
        format!("{} to {}", shown(profile.integer_min), shown(profile.integer_max))
    };
    match (all(profile.seconds), all(profile.milliseconds)) {
        (true, _) => Some(format!(
            "they look like seconds since 1970, {}: type = \"timestamptz\" is possible",
            range(1_000_000)
        )),
        (_, true) => Some(format!(
            "they look like milliseconds since 1970, {}: type = \"timestamptz\" is possible",
            range(1_000)
        )),
        _ => None,
    }
}

fn time_of(number: i64, by: i64) -> String {
    number.checked_mul(by).map_or_else(|| "?".to_owned(), crate::time::shown)
}

fn numbers(profile: &ColumnProfile, why: &str) -> Choice {
    match profile.inexact {
        0 => chosen(Target::Double, why),
        _ => chosen(Target::Numeric(None), format!("{why}, and integers that no double holds")),
    }
}

fn real(profile: &ColumnProfile) -> Option<Choice> {
    only_numbers(profile).then(|| numbers(profile, "8 bytes, as SQLite keeps them"))
}

fn numeric(declared: &str, profile: &ColumnProfile) -> Option<Choice> {
    if !only_numbers(profile) {
        return None;
    }
    Some(match declared_numbers(declared) {
        Some(limits) if profile.too_many_digits == 0 => {
            chosen(Target::Numeric(Some(limits)), "all values have the digits that were declared")
        }
        Some(_) => chosen(
            Target::Numeric(None),
            format!("{} values have more digits than declared", profile.too_many_digits),
        ),
        None => chosen(Target::Numeric(None), "decimals, each the shortest that is the number"),
    })
}

fn boolean(profile: &ColumnProfile) -> Option<Choice> {
    if profile.zero_or_one + profile.truths == profile.values() {
        return Some(chosen(Target::Boolean, "only truths: 0, 1, true, false"));
    }
    let wrong = profile.integers - profile.zero_or_one;
    only_integers(profile)
        .then(|| chosen(Target::BigInt, format!("{wrong} values are neither 0 nor 1")))
}

fn moment(profile: &ColumnProfile) -> Option<Choice> {
    let form = form_of(profile)?;
    let why = match form {
        Form::Text if profile.moments > 0 => "all are dates and times; without an offset, so UTC",
        Form::Text => "all are dates and times",
        Form::Seconds => "all are seconds since 1970",
        Form::Milliseconds => "all are milliseconds since 1970",
        Form::Julian => "all are Julian days",
    };
    Some(chosen(Target::Timestamptz(form), why))
}

/// In which form all values name moments, if they do.
pub(crate) fn form_of(profile: &ColumnProfile) -> Option<Form> {
    let values = profile.values();
    let all = |count: u64| count == values;
    match () {
        () if all(profile.moments) || all(profile.moments_utc) => Some(Form::Text),
        () if all(profile.seconds) => Some(Form::Seconds),
        () if all(profile.milliseconds) => Some(Form::Milliseconds),
        () if all(profile.julian) => Some(Form::Julian),
        () => None,
    }
}

fn date(profile: &ColumnProfile) -> Option<Choice> {
    let all = profile.dates == profile.values();
    all.then(|| chosen(Target::Date, "all are dates YYYY-MM-DD"))
}

fn text(declared: &str, profile: &ColumnProfile) -> Option<Choice> {
    if !only_texts(profile) || !profile.texts_are_clean() {
        return None;
    }
    let upper = declared.to_ascii_uppercase();
    let length = upper.split_once('(').and_then(|(_, rest)| rest.trim().strip_suffix(')'));
    let length = length.and_then(|length| length.trim().parse::<u32>().ok());
    let mut choice = match length.filter(|length| (1..=10_485_760).contains(length)) {
        Some(length) if profile.letters_max <= length as usize => {
            chosen(Target::Varchar(length), "no text is longer than declared")
        }
        Some(_) => chosen(
            Target::Text,
            format!("texts of up to {} letters, more than declared", profile.letters_max),
        ),
        None => chosen(Target::Text, "all are texts of UTF-8 without NUL bytes"),
    };
    if profile.texts > 0 && form_of(profile) == Some(Form::Text) {
        choice.note =
            Some("all are dates and times: type = \"timestamptz\" is possible".to_owned());
    }
    Some(choice)
}

/// Without a wish, or with one that the values do not follow.
fn by_values(profile: &ColumnProfile) -> Choice {
    let texts = profile.texts_are_clean();
    match () {
        () if profile.values() == 0 => chosen(Target::Text, "no values"),
        () if only_integers(profile) => integer(profile).map_or_else(
            || widest(profile),
            |choice| Choice { why: "all are integers".into(), ..choice },
        ),
        () if only_numbers(profile) => numbers(profile, "all are numbers"),
        () if only_texts(profile) && texts => {
            let why = match profile.dates + profile.moments + profile.moments_utc {
                0 => "all are texts",
                _ => "all are texts, and not all are dates or times of one kind",
            };
            chosen(Target::Text, why)
        }
        () if profile.blobs == profile.values() => chosen(Target::Bytea, "all are blobs"),
        () => widest(profile),
    }
}

/// The type that takes all values.
fn widest(profile: &ColumnProfile) -> Choice {
    let kinds = [
        (profile.integers, "integers"),
        (profile.reals, "reals"),
        (profile.texts, "texts"),
        (profile.blobs, "blobs"),
        (profile.nul, "texts with NUL bytes"),
        (profile.not_utf8, "texts that are not UTF-8"),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let target = match profile.blobs == 0 && profile.texts_are_clean() {
        true => Target::Text,
        false => Target::Bytea,
    };
    let note = match target {
        Target::Text => "numbers become their texts: what kind a value was is lost",
        _ => "texts become their bytes: what kind a value was is lost",
    };
    Choice {
        loose: true,
        note: (kinds.len() > 1).then(|| note.to_owned()),
        ..chosen(target, format!("takes them all: {}", kinds.join(", ")))
    }
}

/// A type that a mapping asks for. Misfits are found when the rows are looked at.
pub(crate) fn asked_for(target: Target, profile: &ColumnProfile, misfits: Misfits) -> Choice {
    let target = match target {
        Target::Timestamptz(_) => Target::Timestamptz(form_by_most(profile)),
        Target::Timestamp(_) => Target::Timestamp(form_by_most(profile)),
        other => other,
    };
    let loose = misfits == Misfits::Widen || matches!(target, Target::Text | Target::Bytea);
    Choice { loose, may_misfit: true, ..chosen(target, "asked for by the mapping") }
}

/// The form that most values have.
fn form_by_most(profile: &ColumnProfile) -> Form {
    let forms = [
        (profile.texts, Form::Text),
        (profile.seconds, Form::Seconds),
        (profile.milliseconds, Form::Milliseconds),
        (profile.reals, Form::Julian),
    ];
    let most = forms.iter().max_by_key(|(count, _)| *count);
    match most {
        Some((count, form)) if *count > 0 => *form,
        _ => Form::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(change: impl FnOnce(&mut ColumnProfile)) -> ColumnProfile {
        let mut profile = ColumnProfile::default();
        change(&mut profile);
        profile
    }

    fn target(declared: &str, profile: &ColumnProfile) -> Target {
        let choice = decide(declared, profile, Misfits::Refuse);
        assert!(!choice.may_misfit, "{choice:?}");
        choice.target
    }

    #[test]
    fn the_values_decide() {
        let integers = of(|p| (p.integers, p.zero_or_one) = (3, 3));
        assert_eq!(target("BOOLEAN", &integers), Target::Boolean);
        assert_eq!(target("INT", &integers), Target::BigInt);
        assert_eq!(target("", &integers), Target::BigInt);
        let two = of(|p| (p.integers, p.zero_or_one) = (3, 2));
        assert_eq!(target("BOOLEAN", &two), Target::BigInt);
        let seconds = of(|p| (p.integers, p.seconds) = (3, 3));
        assert_eq!(target("DATETIME", &seconds), Target::Timestamptz(Form::Seconds));
        assert_eq!(target("INTEGER", &seconds), Target::BigInt);
        let mixed = of(|p| (p.texts, p.moments, p.dates) = (3, 2, 1));
        assert_eq!(target("DATETIME", &mixed), Target::Text);
        let moments = of(|p| (p.texts, p.moments) = (3, 3));
        assert_eq!(target("TIMESTAMP", &moments), Target::Timestamptz(Form::Text));
        assert_eq!(target("TEXT", &moments), Target::Text);
        let both = of(|p| (p.integers, p.reals, p.inexact) = (1, 1, 1));
        assert_eq!(target("INTEGER", &both), Target::Numeric(None));
        let long = of(|p| (p.texts, p.letters_max) = (1, 9));
        assert_eq!(target("VARCHAR(8)", &long), Target::Text);
        assert_eq!(target("VARCHAR(9)", &long), Target::Varchar(9));
        let any = of(|p| (p.integers, p.texts) = (1, 1));
        assert_eq!(target("ANY", &any), Target::Text);
        assert_eq!(target("REAL", &of(|p| p.reals = 1)), Target::Double);
    }

    #[test]
    fn misfits_are_loaded_as_asked_only() {
        let dirty = of(|p| (p.texts, p.nul) = (2, 1));
        assert!(decide("TEXT", &dirty, Misfits::Refuse).may_misfit);
        assert_eq!(decide("TEXT", &dirty, Misfits::Widen).target, Target::Bytea);
        let words = of(|p| (p.integers, p.texts) = (2, 1));
        assert!(decide("INTEGER", &words, Misfits::Quarantine).may_misfit);
        assert_eq!(decide("INTEGER", &words, Misfits::Widen).target, Target::Text);
    }
}
