//! What a repository lacks that another one has.

use lifeboat_core::Result;
use lifeboat_core::copy;
use lifeboat_core::env::Env;

use crate::repositories::Opened;
use crate::rotation::Rule;
use crate::selection;
use crate::sources::Target;

/// How many backups of a source another repository has that this one lacks, and would keep.
pub(super) fn lacking(
    env: &Env,
    opened: &[Opened],
    here: &Opened,
    target: &Target,
) -> Result<usize> {
    if opened.len() < 2 {
        return Ok(0);
    }
    let own = selection::own_entry(env, here, target)?;
    let rule = Rule::of(&here.place, target, None);
    let mut most = 0;
    for other in opened.iter().filter(|other| other.place.url != here.place.url) {
        let Some(theirs) = selection::own_entry(env, other, target)? else { continue };
        let keep = rule.as_ref().map(Rule::keep);
        most = most.max(copy::lacking(env, theirs, (&here.repository, own), keep)?);
    }
    Ok(most)
}
