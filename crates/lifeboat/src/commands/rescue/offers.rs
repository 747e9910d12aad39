//! What can be had, with how much loss, and what to take first. Pure: of facts that were gathered
//! before.
//!
//! The order is that of the guides: a backup, the `-wal`, what was kept before a restore or a
//! migration, a salvage, and last of all a fresh database. What is certain to lose nothing goes
//! before all of them.

use std::path::PathBuf;

use jiff::Timestamp;

use super::steps::Step;

/// What stands at the place of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Live {
    /// Nothing.
    Missing,
    /// A database in which a check found nothing, with so many rows.
    Sound(Option<u64>),
    /// One that was left within a transaction: whoever opens it next rolls that back.
    Unfinished,
    /// It is damaged.
    Damaged(String),
    /// It cannot be looked at.
    Unreadable(String),
}

/// From where something can be had. Their order is that of the guides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// It stays as it is.
    Leave,
    /// A backup of a repository, or of a script.
    Backup,
    /// A backup, and the `-wal` that lies there upon it.
    Wal,
    /// What a restore kept aside.
    Kept,
    /// The copy before a migration.
    Migration,
    /// The rows that can still be read.
    Salvage,
    /// A new database.
    Fresh,
}

impl Way {
    /// Its name in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Way::Leave => "leave",
            Way::Backup => "backup",
            Way::Wal => "wal",
            Way::Kept => "kept",
            Way::Migration => "migration",
            Way::Salvage => "salvage",
            Way::Fresh => "fresh",
        }
    }
}

/// Something that could take the database's place.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) way: Way,
    /// What a person calls it.
    pub(super) title: String,
    /// The moment that it shows.
    pub(super) as_of: Timestamp,
    /// Its rows, where they are known.
    pub(super) rows: Option<u64>,
    /// Why it cannot be taken, if so.
    pub(super) unsound: Option<String>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
    /// How it is taken.
    pub(super) steps: Vec<Step>,
}

/// What a salvage would give.
#[derive(Clone, Debug)]
pub(super) struct Salvage {
    /// Rows that can be read.
    pub(super) rows: u64,
    /// Of which are not certain.
    pub(super) doubtful: u64,
    /// Rows that are known to be lost.
    pub(super) lost: u64,
    /// Pages that are lost, with unknown rows.
    pub(super) lost_pages: u64,
    /// Whether everything comes back, for certain.
    pub(super) is_whole: bool,
    /// How it is made and put in place.
    pub(super) steps: Vec<Step>,
}

/// Everything that was found out.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) now: Timestamp,
    /// The source's name.
    pub(super) name: String,
    /// Where it is: a path, or what a server calls it.
    pub(super) place: String,
    pub(super) live: Live,
    /// When the database, or its `-wal`, was written last.
    pub(super) written: Option<Timestamp>,
    pub(super) copies: Vec<Copy>,
    /// `None` where there is nothing to salvage; else what it would give, or why nothing.
    pub(super) salvage: Option<Result<Salvage, String>>,
    /// The place that a fresh database would take, where one can be made.
    pub(super) fresh: Option<PathBuf>,
    /// What could not be looked at, and what else a person should know.
    pub(super) notes: Vec<String>,
}

/// How much is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing, as far as can be known.
    Nothing,
    /// What was written within so many milliseconds.
    Since(u64),
    /// Nothing where two files fit, which is proved when it is taken.
    IfTheyFit,
    /// Rows.
    Rows(String),
    /// Everything.
    Everything,
}

/// One line of the list.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) way: Way,
    pub(super) title: String,
    pub(super) as_of: Option<Timestamp>,
    pub(super) rows: Option<u64>,
    pub(super) loss: Loss,
    pub(super) notes: Vec<String>,
    pub(super) steps: Vec<Step>,
}

/// The list, and what to take of it.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    /// What is the matter, in a line.
    pub(super) diagnosis: String,
    pub(super) offers: Vec<Offer>,
    /// The index of what to take; the first of the list where anything can be had.
    pub(super) recommended: Option<usize>,
    /// What cannot be taken: its title, and why.
    pub(super) unsound: Vec<(String, String)>,
}

/// Judges.
pub(super) fn judge(facts: &Facts) -> Verdict {
    let mut offers: Vec<Offer> = leave(facts).into_iter().collect();
    let sound = facts.copies.iter().filter(|copy| copy.unsound.is_none());
    offers.extend(sound.map(|copy| of_copy(facts, copy)));
    if let Some(Ok(salvage)) = &facts.salvage {
        offers.push(of_salvage(salvage));
    }
    // The newest of a kind first; what loses nothing before everything else.
    offers.sort_by_key(|offer| {
        // What fits is refused if it does not, and then the next one can be taken.
        let first = offer.loss == Loss::Nothing
            || offer.loss == Loss::IfTheyFit && facts.live == Live::Missing;
        (!first, offer.way, std::cmp::Reverse(offer.as_of))
    });
    let salvaged = offers.iter().position(|offer| offer.way == Way::Salvage);
    if let (Some(first), Some(number)) = (offers.first_mut(), salvaged)
        && matches!(first.loss, Loss::Since(_))
    {
        first.notes.push(format!(
            "rows that are younger may be in what is there now, see {}: it is kept aside",
            number + 1
        ));
    }
    if let Some(place) = &facts.fresh {
        offers.push(Offer {
            way: Way::Fresh,
            title: "a fresh database: what is there goes aside, the application makes a new one"
                .to_owned(),
            as_of: None,
            rows: Some(0),
            loss: Loss::Everything,
            notes: Vec::new(),
            steps: vec![Step::SetAside(place.clone())],
        });
    }
    let mut unsound: Vec<(String, String)> = facts
        .copies
        .iter()
        .filter_map(|copy| Some((copy.title.clone(), copy.unsound.clone()?)))
        .collect();
    if let Some(Err(why)) = &facts.salvage {
        unsound.push(("a salvage of what is there".to_owned(), why.clone()));
    }
    let recommended = (!offers.is_empty()).then_some(0);
    Verdict { diagnosis: diagnosis(facts), offers, recommended, unsound }
}

fn diagnosis(facts: &Facts) -> String {
    match &facts.live {
        Live::Missing => "nothing is there".to_owned(),
        Live::Sound(_) => "sound: a check of what is there found nothing wrong".to_owned(),
        Live::Unfinished => "left within a transaction, which whoever opens it next rolls back: \
                             what was committed is there"
            .to_owned(),
        Live::Damaged(why) => format!("damaged: {why}"),
        Live::Unreadable(why) => format!("cannot be looked at: {why}"),
    }
}

/// It stays, where nothing is wrong with it.
fn leave(facts: &Facts) -> Option<Offer> {
    let (title, rows) = match &facts.live {
        Live::Sound(rows) => ("what is there: it stays as it is", *rows),
        // A salvage has read all of it, the journal laid over it.
        Live::Unfinished => match &facts.salvage {
            Some(Ok(salvage)) if salvage.is_whole => {
                ("what is there: start the application, which rolls back", Some(salvage.rows))
            }
            _ => return None,
        },
        Live::Missing | Live::Damaged(_) | Live::Unreadable(_) => return None,
    };
    Some(Offer {
        way: Way::Leave,
        title: title.to_owned(),
        as_of: None,
        rows,
        loss: Loss::Nothing,
        notes: Vec::new(),
        steps: Vec::new(),
    })
}

fn of_copy(facts: &Facts, copy: &Copy) -> Offer {
    let until = facts.written.unwrap_or(facts.now).min(facts.now);
    let missing = until.as_millisecond().saturating_sub(copy.as_of.as_millisecond());
    let loss = match u64::try_from(missing) {
        _ if copy.way == Way::Wal => Loss::IfTheyFit,
        // What was written before the copy began is in it. Of what is gone nobody knows when it
        // was written last.
        Ok(missing) if missing > 0 || facts.written.is_none() => Loss::Since(missing),
        _ => Loss::Nothing,
    };
    Offer {
        way: copy.way,
        title: copy.title.clone(),
        as_of: Some(copy.as_of),
        rows: copy.rows,
        loss,
        notes: copy.notes.clone(),
        steps: copy.steps.clone(),
    }
}

fn of_salvage(salvage: &Salvage) -> Offer {
    let plural = |count: u64, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let mut parts = Vec::new();
    if salvage.lost > 0 {
        parts.push(format!("{} known to be lost", plural(salvage.lost, "row")));
    }
    if salvage.lost_pages > 0 {
        parts.push(format!("{} of rows lost", plural(salvage.lost_pages, "page")));
    }
    if salvage.doubtful > 0 {
        parts.push(format!("{} not certain", plural(salvage.doubtful, "row")));
    }
    let loss = match (salvage.is_whole, parts.is_empty()) {
        (true, _) => Loss::Nothing,
        (false, true) => Loss::Rows("what is lost beside rows is said by the salvage".to_owned()),
        (false, false) => Loss::Rows(parts.join(", ")),
    };
    Offer {
        way: Way::Salvage,
        title: "a salvage: every row that can still be read".to_owned(),
        as_of: None,
        rows: Some(salvage.rows),
        loss,
        notes: Vec::new(),
        steps: salvage.steps.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn copy(way: Way, title: &str, seconds: i64) -> Copy {
        let (title, as_of) = (title.to_owned(), at(seconds));
        let (rows, unsound, notes, steps) = (Some(7), None, Vec::new(), Vec::new());
        Copy { way, title, as_of, rows, unsound, notes, steps }
    }

    fn salvage(is_whole: bool) -> Salvage {
        let lost = if is_whole { 0 } else { 3 };
        Salvage { rows: 9, doubtful: 0, lost, lost_pages: 0, is_whole, steps: Vec::new() }
    }

    fn facts(live: Live) -> Facts {
        Facts {
            now: at(0),
            name: "chat".into(),
            place: "/var/lib/chat.db".into(),
            live,
            written: Some(at(-60)),
            copies: vec![
                copy(Way::Migration, "migration", -2 * HOUR),
                copy(Way::Backup, "older", -9 * HOUR),
                copy(Way::Backup, "newer", -HOUR),
                copy(Way::Wal, "wal", -600),
            ],
            salvage: Some(Ok(salvage(false))),
            fresh: Some("/var/lib/chat.db".into()),
            notes: Vec::new(),
        }
    }

    fn ways(verdict: &Verdict) -> Vec<Way> {
        verdict.offers.iter().map(|offer| offer.way).collect()
    }

    #[test]
    fn the_order_is_that_of_the_guides() {
        let verdict = judge(&facts(Live::Damaged("a page".into())));
        assert_eq!(
            ways(&verdict),
            [Way::Backup, Way::Backup, Way::Wal, Way::Migration, Way::Salvage, Way::Fresh]
        );
        assert_eq!(verdict.offers[0].title, "newer");
        assert_eq!(verdict.offers[0].loss, Loss::Since(59 * 60_000));
        assert!(verdict.offers[0].notes[0].contains("see 5"), "{:?}", verdict.offers[0]);
        assert_eq!(verdict.offers[4].loss, Loss::Rows("3 rows known to be lost".into()));
        assert_eq!(verdict.offers[5].loss, Loss::Everything);
    }

    #[test]
    fn what_loses_nothing_goes_before_the_guides_order() {
        let mut damaged = facts(Live::Damaged("an index".into()));
        damaged.salvage = Some(Ok(salvage(true)));
        assert_eq!(ways(&judge(&damaged))[0], Way::Salvage);
        // A backup that is younger than the last write.
        damaged.copies.push(copy(Way::Backup, "newest", -30));
        let verdict = judge(&damaged);
        assert_eq!((ways(&verdict)[0], &verdict.offers[0].loss), (Way::Backup, &Loss::Nothing));
        let sound = judge(&facts(Live::Sound(Some(9))));
        assert_eq!((ways(&sound)[0], sound.offers[0].rows), (Way::Leave, Some(9)));
    }

    #[test]
    fn a_wal_without_its_database_is_tried_first() {
        let verdict = judge(&facts(Live::Missing));
        assert_eq!((ways(&verdict)[0], &verdict.offers[0].loss), (Way::Wal, &Loss::IfTheyFit));
    }

    #[test]
    fn an_unfinished_transaction_is_left_only_where_all_of_it_can_be_read() {
        let mut unfinished = facts(Live::Unfinished);
        assert_eq!(ways(&judge(&unfinished))[0], Way::Backup);
        unfinished.salvage = Some(Ok(salvage(true)));
        assert_eq!(ways(&judge(&unfinished))[0], Way::Leave);
    }

    #[test]
    fn what_is_unsound_is_said_and_not_offered() {
        let mut missing = facts(Live::Missing);
        missing.written = None;
        missing.copies.iter_mut().for_each(|copy| copy.unsound = Some("cut short".into()));
        missing.salvage = Some(Err("no page can be read".into()));
        let verdict = judge(&missing);
        assert_eq!(ways(&verdict), [Way::Fresh]);
        assert_eq!(verdict.unsound.len(), 5);
        // Of a database that is gone nobody knows when it was written last.
        missing.copies.push(copy(Way::Backup, "now", 0));
        assert_eq!(judge(&missing).offers[0].loss, Loss::Since(0));
    }
}
