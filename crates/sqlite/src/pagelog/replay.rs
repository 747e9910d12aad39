//! Laying a log over a restored backup, up to a position, and proving what comes out.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::event::Event;
use lifeboat_core::parallel::in_parallel;
use lifeboat_core::pipeline::{BlockHash, hash_each};
use lifeboat_core::repository::Repository;
use lifeboat_core::restore::Replay;
use lifeboat_core::{Error, Kind, Result};

use super::chain::{Chain, Grain, Moment, Step, Target};
use super::lay;
use super::layout::Footer;
use super::state::PageState;
use crate::wal_place::WalPlace;

/// What is read at once to take the digest of a restored database.
const READ_BYTES: usize = 1 << 20;

/// The way from a backup to a later state.
pub struct LogReplay {
    repository: Repository,
    base: String,
    steps: Vec<Step>,
    moment: Moment,
    last: Footer,
}

impl LogReplay {
    /// The way to the state that is wanted; `None` where that is the backup itself. What is
    /// missing, foreign or in another order is [`Kind::NotCovered`], with what can be restored
    /// instead.
    pub fn to(chain: &Chain<'_>, target: Target) -> Result<Option<Self>> {
        let moment = chain.moment(target)?;
        let steps = chain.way(moment.position)?;
        let last = steps.last().map(|(_, footer)| footer.clone());
        let (repository, base) = (chain.repository.clone(), chain.base.name.clone());
        Ok(last.map(|last| LogReplay { repository, base, steps, moment, last }))
    }

    /// The state that it leads to.
    pub fn moment(&self) -> &Moment {
        &self.moment
    }

    /// How finely states of that time are told apart.
    pub fn grain(&self) -> Grain {
        self.steps.last().map_or(Grain::All, |(file, _)| Grain::of_level(file.span.level))
    }

    /// With which frame of a `-wal` that state ended, where that is known.
    pub fn wal_place(&self) -> Option<WalPlace> {
        self.last.wal_place
    }

    /// The error of a file that is damaged, with what can be restored instead.
    fn instead(&self, error: Error) -> Error {
        let is_named = |(file, _): &&Step| error.message().contains(file.object.as_str());
        let named = self.steps.iter().find(is_named);
        match named.map(|(file, _)| file.span.from).filter(|from| *from > 0) {
            Some(from) if error.kind() == Kind::CheckFailed && error.hint_text().is_none() => error
                .hint(format!(
                    "nothing was changed; what can be restored instead is the state before it: \
                     lifeboat restore {}+{from}",
                    self.base
                )),
            _ => error,
        }
    }

    fn stored_bytes(&self) -> u64 {
        self.steps.iter().map(|(file, _)| file.bytes).sum()
    }
}

impl Replay for LogReplay {
    fn name(&self) -> String {
        format!("{}+{}", self.base, self.moment.position)
    }

    fn until(&self) -> Timestamp {
        self.moment.until
    }

    fn steps(&self) -> Vec<String> {
        let count = self.steps.len();
        let files = if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
        let mut steps = vec![format!(
            "lay its log over it: {files} of {} bytes, up to position {}; then compare the digest \
             of all pages",
            self.stored_bytes(),
            self.moment.position
        )];
        let grain = self.grain();
        if grain != Grain::All {
            steps.push(format!("of that time the last state of each {} is kept", grain.word()));
        }
        steps.push(format!(
            "it holds everything that was committed until {}, and nothing from after {}",
            self.moment.held.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
            self.moment.until.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        ));
        steps
    }

    fn plain_bytes(&self) -> u64 {
        u64::from(self.last.page_count.1) * u64::from(self.last.page_size)
    }

    fn apply(&self, env: &Env, file: &mut File, place: &Path) -> Result<()> {
        let (phase, bytes_total) = ("laying the log over it", Some(self.stored_bytes()));
        env.tell(Event::PhaseBegan { subject: &self.base, phase, bytes_total });
        let laid = lay::all(env, &self.repository, &self.steps, (file, place), lay::BATCH);
        laid.map_err(|error| self.instead(error))?;
        env.tell(Event::PhaseEnded { phase });
        let (phase, bytes_total) = ("comparing the digest", Some(self.plain_bytes()));
        env.tell(Event::PhaseBegan { subject: &self.base, phase, bytes_total });
        let digest = digest_of_file(env, file, &self.last);
        env.proceed()?;
        let digest = digest.map_err(|error| unread(place, error))?;
        env.tell(Event::PhaseEnded { phase });
        match digest == self.last.state_after {
            true => Ok(()),
            false => Err(Error::new(
                Kind::NotCovered,
                format!(
                    "the log does not fit {}: what comes out is not the state at position {}",
                    self.base, self.moment.position
                ),
            )
            .hint(
                "nothing was changed; lifeboat verify says more, lifeboat list what else is there",
            )),
        }
    }
}

/// The digest of a database file's state.
fn digest_of_file(env: &Env, file: &File, footer: &Footer) -> std::io::Result<[u8; 32]> {
    let page_bytes = footer.page_size as usize;
    let bytes = u64::from(footer.page_count.1) * page_bytes as u64;
    let parts: Vec<u64> = (0..bytes).step_by(READ_BYTES).collect();
    let hashed = in_parallel(&parts, env.threads, |&offset| {
        let length = (bytes - offset).min(READ_BYTES as u64) as usize;
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, offset)?;
        env.proceed().map_err(std::io::Error::other)?;
        env.tell(Event::Advanced { bytes: length as u64 });
        Ok(hash_each(&buffer, page_bytes))
    });
    let hashes: std::io::Result<Vec<Vec<BlockHash>>> = hashed.into_iter().collect();
    Ok(PageState::new(footer.page_size, hashes?.concat()).digest())
}

pub(super) fn unread(place: &Path, error: std::io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot read what was staged for {}", place.display()), error)
}

pub(super) fn unwritten(place: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::StorageFull => Kind::NoSpace,
        _ => Kind::Failed,
    };
    Error::io(kind, format!("cannot write {}", place.display()), error)
}
