//! Making the database of a state: the pages of the snapshot, and those of each later file.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::restore::Replay;
use lifeboat_core::{Error, Kind, Result};

use super::ltx::Head;
use super::replica::{LtxFile, Replica, ReplicaState};

/// The way to a state of a replica.
pub struct ReplicaReplay<'a> {
    replica: &'a Replica,
    state: ReplicaState,
    places: Vec<usize>,
    head: Head,
}

impl<'a> ReplicaReplay<'a> {
    /// The way to a state that the replica gave.
    pub fn to(replica: &'a Replica, state: ReplicaState) -> Result<Self> {
        let places = replica.way(state.transaction).unwrap_or_default().to_vec();
        let files = places.iter().map(|&place| replica.file(place));
        let heads = files.filter_map(|file| file.head.as_ref().ok()).copied();
        let Some(head) = heads.clone().last() else {
            return Err(Error::new(Kind::NotCovered, "no file leads to that state"));
        };
        if heads.clone().any(|other| other.page_size != head.page_size) {
            let message = format!("the files of {} have pages of several sizes", replica.url());
            return Err(Error::new(Kind::NotCovered, message)
                .hint("restore a state from before the change: lifeboat list shows them"));
        }
        Ok(ReplicaReplay { replica, state, places, head })
    }

    fn stored_bytes(&self) -> u64 {
        self.places.iter().map(|&place| self.replica.file(place).bytes).sum()
    }

    /// Lays the files over an empty one. A file that is damaged comes with the error.
    fn lay_all(
        &self,
        env: &Env,
        places: &[usize],
        file: &File,
        place: &Path,
    ) -> Result<(), (Option<usize>, Error)> {
        let mut page_count = 0;
        file.set_len(0).map_err(|error| (None, unwritten(place, error)))?;
        for &of in places {
            let ltx = self.replica.file(of);
            let laid = lay(env, self.replica, ltx, page_count, &mut |number, page| {
                let offset = u64::from(number - 1) * page.len() as u64;
                file.write_all_at(page, offset).map_err(|error| unwritten(place, error))
            });
            let is_damaged = |error: &Error| error.kind() == Kind::CheckFailed;
            page_count = laid.map_err(|error| (is_damaged(&error).then_some(of), error))?;
            let bytes = u64::from(page_count) * u64::from(self.head.page_size);
            file.set_len(bytes).map_err(|error| (None, unwritten(place, error)))?;
            env.tell(Event::Advanced { bytes: ltx.bytes });
        }
        Ok(())
    }
}

impl Replay for ReplicaReplay<'_> {
    fn name(&self) -> String {
        format!("{}+{:016x}", self.replica.url(), self.state.transaction)
    }

    fn until(&self) -> Timestamp {
        self.state.at
    }

    fn steps(&self) -> Vec<String> {
        let count = self.places.len();
        let files = if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
        let bytes = self.stored_bytes();
        vec![format!("read {files} of Litestream's ({bytes} bytes) and compare their checksums")]
    }

    fn plain_bytes(&self) -> u64 {
        u64::from(self.head.page_count) * u64::from(self.head.page_size)
    }

    fn apply(&self, env: &Env, file: &mut File, place: &Path) -> Result<()> {
        let (phase, bytes_total) = ("restoring", Some(self.stored_bytes()));
        env.tell(Event::PhaseBegan { subject: "the replica", phase, bytes_total });
        let (mut places, mut damaged) = (self.places.clone(), BTreeSet::new());
        while let Err((which, error)) = self.lay_all(env, &places, file, place) {
            damaged.extend(which);
            let other = self.replica.way_without(self.state.transaction, &damaged);
            match other.filter(|_| which.is_some()) {
                // Litestream keeps the same changes in several levels: another way may be whole.
                Some((reached, way)) if reached == self.state.transaction => {
                    env.warn(&self.replica.url(), &format!("{error}: other files are taken"));
                    places = way;
                }
                Some((reached, _)) => {
                    return Err(error.hint(format!(
                        "what can be restored instead: lifeboat restore {}+{reached:016x} --to PATH",
                        self.replica.url()
                    )));
                }
                None => return Err(error),
            }
        }
        env.tell(Event::PhaseEnded { phase });
        Ok(())
    }
}

/// Gives each page of a file that follows a state with so many pages. The number of pages
/// afterwards: each that is new must be in it.
pub(super) fn lay(
    env: &Env,
    replica: &Replica,
    file: &LtxFile,
    page_count: u32,
    give: &mut dyn FnMut(u32, &[u8]) -> Result<()>,
) -> Result<u32> {
    let named = |error: Error| match error.kind() {
        Kind::CheckFailed => {
            error.context(format!("{} of {} is damaged", file.object, replica.url()))
        }
        _ => error,
    };
    let mut reader = replica.open(file).map_err(named)?;
    let head = *reader.head();
    let mut new = 0;
    while let Some((number, page)) = reader.next().map_err(named)? {
        if number % 256 == 0 {
            env.proceed()?;
        }
        new += u32::from(number > page_count);
        give(number, page)?;
    }
    let lock_page = head.lock_page();
    let lock_is_new = (page_count + 1..=head.page_count).contains(&lock_page);
    let wanted = head.page_count.saturating_sub(page_count) - u32::from(lock_is_new);
    match new == wanted {
        true => Ok(head.page_count),
        false => {
            let message = "the database grew by pages that it does not hold";
            Err(named(Error::new(Kind::CheckFailed, message)))
        }
    }
}

pub(super) fn unwritten(place: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull => Kind::NoSpace,
        _ => Kind::Failed,
    };
    Error::io(kind, format!("cannot write {}", place.display()), error)
}
