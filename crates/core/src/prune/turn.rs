//! Whose turn it is to prune a source: the lock of this host, and the lease among all of them.

use std::path::Path;

use crate::backup::lock::SourceLock;
use crate::catalog::SourceRecord;
use crate::env::Env;
use crate::error::{Kind, Result};
use crate::lease::{self, Lease, Subject};
use crate::repository::Repository;

/// Waits until no other run of this host or another one backs up or prunes that folder, but no
/// longer than that. Takes nothing: who asks next may be too late again.
///
/// [`Kind::Locked`] where that did not come.
pub fn await_turn(
    env: &Env,
    repository: &Repository,
    folder: &str,
    lock_folder: Option<&Path>,
    wait_ms: u64,
) -> Result<()> {
    const LOOK_AGAIN_MS: u64 = 1_000;
    let record = repository.source_record(folder)?;
    let begun_ms = env.clock.monotonic_ms();
    loop {
        let left_ms = wait_ms.saturating_sub(env.elapsed_ms(begun_ms));
        match SourceLock::take(env, lock_folder, &record, repository.header().id) {
            Err(error) if error.kind() == Kind::Locked && left_ms > 0 => {
                env.pause_ms(left_ms.min(LOOK_AGAIN_MS))?;
            }
            Err(error) => return Err(error),
            Ok(lock) => {
                let subject = Subject { folder, source: record.id };
                let dead = lock.left().to_vec();
                drop(lock);
                return lease::wait(env, repository.store(), subject, &dead, left_ms);
            }
        }
    }
}

/// The lease, in which a run of this host that was killed is told from one that lives elsewhere.
pub(super) fn take<'a>(
    env: &'a Env,
    repository: &'a Repository,
    folder: &str,
    record: &SourceRecord,
    lock: &SourceLock,
) -> Result<Lease<'a>> {
    let (holder, dead) = (env.new_uuid(), lock.left());
    let subject = Subject { folder, source: record.id };
    lock.note(&[dead, &[holder]].concat());
    let lease = Lease::take(env, repository.store(), subject, holder, dead)?;
    lock.note(&[holder]);
    Ok(lease)
}
