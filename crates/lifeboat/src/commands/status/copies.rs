//! What a repository lacks that another one has.

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::Result;
use lifeboat_core::copy;
use lifeboat_core::env::Env;
use lifeboat_core::manifest::{Condition, Manifest};

use crate::repositories::Opened;
use crate::rotation::Rule;
use crate::selection;
use crate::sources::Target;
use crate::ui::units;

/// A run that goes on may have stored in one repository what it stores in the other next.
const GRACE: SignedDuration = SignedDuration::from_hours(6);

/// What a repository lacks of a source.
#[derive(Clone, Debug, Default)]
pub(super) struct Lacking {
    /// How many backups another one has that this one would keep.
    pub(super) count: usize,
    /// The newest good backup elsewhere, where this one has none that is as new: its name, its
    /// moment, and where it is.
    newest: Option<(String, Timestamp, String)>,
}

/// How many backups of a source another repository has that this one lacks, and would keep.
pub(super) fn lacking(
    env: &Env,
    opened: &[Opened],
    here: &Opened,
    target: &Target,
) -> Result<Lacking> {
    let mut found = Lacking::default();
    if opened.len() < 2 {
        return Ok(found);
    }
    let own = selection::own_entry(env, here, target)?;
    let newest_good = |backups: &[Manifest]| -> Option<(String, Timestamp)> {
        let good = backups.iter().rev().find(|backup| backup.condition == Condition::Good)?;
        Some((good.name.clone(), good.taken_at))
    };
    let own_newest = own.and_then(|own| newest_good(&own.backups)).map(|(_, at)| at);
    let rule = Rule::of(&here.place, target, None);
    for other in opened.iter().filter(|other| other.place.url != here.place.url) {
        let Some(theirs) = selection::own_entry(env, other, target)? else { continue };
        let keep = rule.as_ref().map(Rule::keep);
        found.count = found.count.max(copy::lacking(env, theirs, (&here.repository, own), keep)?);
        if let Some((name, at)) = newest_good(&theirs.backups)
            && Some(at) > own_newest
            && found.newest.as_ref().is_none_or(|(_, known, _)| at > *known)
        {
            found.newest = Some((name, at, other.place.label().to_owned()));
        }
    }
    Ok(found)
}

impl Lacking {
    /// What is wrong: the newest backup is not here, and was not for longer than a run takes.
    pub(super) fn complaint(&self, now: Timestamp) -> Option<String> {
        let (name, at, place) = self.newest.as_ref()?;
        let age = now.duration_since(*at);
        (age > GRACE).then(|| {
            let age = units::coarse(u64::try_from(age.as_millis()).unwrap_or(0));
            format!("the newest backup, {name} in {place}, is {age} old and was not copied here")
        })
    }
}
