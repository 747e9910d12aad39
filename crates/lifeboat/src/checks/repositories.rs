//! Repositories: reachable, writable, with room, and no newer than the clock.

use jiff::{SignedDuration, Timestamp};
use lifeboat_core::catalog::Catalog;
use lifeboat_core::store::Space;
use lifeboat_core::{Error, Kind, Result};

use super::{Finding, Subject};
use crate::repositories::{self, Place};
use crate::ui::units;

const CHECK: &str = "repository";
/// Two hosts that write into one repository may differ by so much.
const AHEAD_MAX: SignedDuration = SignedDuration::from_secs(60);
/// From here on a server may refuse every request.
const REFUSED_FROM: SignedDuration = SignedDuration::from_mins(10);

pub(super) fn places(subject: &Subject<'_>) -> Vec<Finding> {
    match repositories::places(subject.session) {
        Ok(places) => places.iter().flat_map(|place| one(subject, place)).collect(),
        Err(error) => vec![Finding::bad(CHECK, "", &error)],
    }
}

fn one(subject: &Subject<'_>, place: &Place) -> Vec<Finding> {
    let label = place.label();
    let mut findings = Vec::new();
    let opened =
        place.open(subject.env).and_then(|repository| Ok((repository.catalog()?, repository)));
    let (catalog, ahead) = match opened {
        Ok((catalog, repository)) => {
            let written = repository.store().check_writable();
            let count: usize = catalog.sources.iter().map(|source| source.backups.len()).sum();
            let message = format!("{}, writable, {count} backups", repository.url());
            findings.push(Finding::of(CHECK, label, written.map(|()| message)));
            (Some(catalog), repository.store().clock_ahead())
        }
        // The first backup makes it, if it may.
        Err(error) if error.kind() == Kind::NoRepository => {
            let written = place.store(subject.env).and_then(|store| store.check_writable());
            let message = format!("{}: none yet, the first backup makes it", place.url);
            findings.push(Finding::of(CHECK, label, written.map(|()| message)));
            (None, None)
        }
        Err(error) => {
            findings.push(Finding::bad(CHECK, label, &error));
            return findings;
        }
    };
    findings.extend(ahead.and_then(|ahead| clock_of_store(label, ahead)));
    findings.extend(lock(subject, place));
    findings.extend(space(subject, place, catalog.as_ref()));
    findings.extend(catalog.iter().flat_map(|catalog| unreadable(label, catalog)));
    findings.extend(catalog.and_then(|catalog| clock(subject.env.clock.now(), label, &catalog)));
    findings
}

/// Whether what is locked stays, tried on an object of its own. Not where only what backups need is
/// asked for.
fn lock(subject: &Subject<'_>, place: &Place) -> Option<Finding> {
    const CHECK: &str = "object lock";
    if subject.online_alone {
        return None;
    }
    let label = place.label();
    let probed = place.store(subject.env).and_then(|store| store.probe_lock());
    let probe = match probed {
        Ok(probe) => probe?,
        Err(error) => return Some(Finding::bad(CHECK, label, &error)),
    };
    let word = |did: bool, done: &str| match did {
        true => format!("could be {done}"),
        false => format!("could not be {done}"),
    };
    let rights = match probe.may_mark_deleted {
        true => "these credentials may hide objects, which are found all the same",
        false => "these credentials may delete nothing",
    };
    let message = format!(
        "a version that is locked {}, and its lock {}; {rights}",
        word(probe.was_deleted, "deleted"),
        word(probe.was_shortened, "shortened"),
    );
    Some(match probe.was_deleted || probe.was_shortened {
        true => Finding::bad(
            CHECK,
            label,
            &Error::new(Kind::Refused, message).hint(
                "object_lock = \"compliance\" lets nobody; for \"governance\", take the right \
             s3:BypassGovernanceRetention from these credentials",
            ),
        ),
        false => Finding::good(CHECK, label, message),
    })
}

/// Room for another backup of everything.
fn space(subject: &Subject<'_>, place: &Place, catalog: Option<&Catalog>) -> Option<Finding> {
    const CHECK: &str = "free space";
    let label = place.label();
    let space = place.store(subject.env).and_then(|store| store.space());
    let space = match space {
        Ok(space) => space?,
        Err(error) => return Some(Finding::bad(CHECK, label, &error).at_most_a_warning()),
    };
    let newest = catalog.map_or(0, next_bytes);
    // Tests run on disks that may be full.
    let of_test = subject.session.surroundings.disk_used_percent();
    let percent = of_test.unwrap_or_else(|| space.used_percent().into());
    let message = format!("{} are free ({percent} % used)", units::bytes(space.free_bytes));
    let hint = "lifeboat prune --dry-run; or a larger disk";
    Some(if space.free_bytes < newest {
        let needed = units::bytes(newest);
        let message = format!("{message}; the newest backups take {needed}: the next do not fit");
        Finding::bad(CHECK, label, &Error::new(Kind::NoSpace, message).hint(hint))
    } else if percent >= Space::FULL_PERCENT.into() {
        Finding::warning(CHECK, label, message, hint)
    } else {
        Finding::good(CHECK, label, message)
    })
}

/// What the next backups of all sources will take: as much as the newest ones did.
fn next_bytes(catalog: &Catalog) -> u64 {
    let newest = catalog.sources.iter().filter_map(|source| source.backups.last());
    newest.flat_map(|backup| &backup.artifacts).map(|artifact| artifact.stored_bytes).sum()
}

fn unreadable(label: &str, catalog: &Catalog) -> Vec<Finding> {
    let all = catalog.sources.iter().flat_map(|source| &source.unreadable);
    let finding = |one: &lifeboat_core::catalog::Unreadable| {
        let message = format!("{} cannot be read: {}", one.object, one.reason);
        Finding::warning(CHECK, label, message, "lifeboat verify")
    };
    all.map(finding).collect()
}

/// Object storage refuses what is signed by a clock that is off, from a quarter of an hour on: said
/// before that.
fn clock_of_store(label: &str, ahead: SignedDuration) -> Option<Finding> {
    if ahead.abs() <= AHEAD_MAX {
        return None;
    }
    let direction = if ahead.is_negative() { "ahead of" } else { "behind" };
    let off = units::duration(u64::try_from(ahead.abs().as_millis()).unwrap_or(u64::MAX));
    let message = format!("the clock of this host is {off} {direction} that of the server");
    let hint = "set it: timedatectl set-ntp true";
    Some(match ahead.abs() >= REFUSED_FROM {
        true => Finding::bad("clock", label, &Error::new(Kind::Failed, message).hint(hint)),
        false => Finding::warning("clock", label, message, hint),
    })
}

/// A backup from the future: the clock is wrong now, or was when it was made.
fn clock(now: Timestamp, label: &str, catalog: &Catalog) -> Option<Finding> {
    const CHECK: &str = "clock";
    let moments = catalog.sources.iter().flat_map(|source| source.backups.iter());
    let newest = moments.max_by_key(|backup| backup.taken_at)?;
    let ahead = newest.taken_at.duration_since(now);
    Some(match ahead > AHEAD_MAX {
        false => {
            Finding::good(CHECK, label, format!("later than the newest backup, {}", newest.name))
        }
        true => {
            let error: Result<String> = Err(Error::new(
                Kind::Failed,
                format!("it shows {now}, but {} is dated {}", newest.name, newest.taken_at),
            )
            .hint(
                "set the clock (timedatectl set-ntp true); if it is right now, that backup was \
                   made under a wrong one: make a new backup",
            ));
            Finding::of(CHECK, label, error)
        }
    })
}
