//! What must hold of what is stored: every state that was recorded comes back to the byte, every
//! moment is the newest state in which nothing is younger, and what is damaged is said to be.

use std::fs::{self, File};

use jiff::Timestamp;
use lifeboat_core::restore::Replay;
use lifeboat_core::{Error, Kind};
use lifeboat_sqlite::pagelog::{LogReplay, Moment, Target};

use super::{Broken, History, debug};

impl History {
    /// Restores states: the newest, the first, and some between them.
    pub(super) fn check_promises(&mut self) -> Result<(), Broken> {
        let bases: Vec<String> = self.bases.keys().cloned().collect();
        for base in bases {
            let (end, gap) = self.with_chain(&base, |chain| (chain.end(), chain.gap()))?;
            if let Some(gap) = gap {
                return Err(format!("{base} has a gap: {gap:?}"));
            }
            let newest = self.recorded.range((base.clone(), 0)..=(base.clone(), u64::MAX));
            if let Some(((_, newest), _)) = newest.last()
                && *newest > end
            {
                return Err(format!("{base}+{newest} was recorded, and its log ends at {end}"));
            }
            let mut positions = vec![end, 1.min(end)];
            positions.extend((0..3).map(|_| self.random.below(end + 1)));
            for position in positions.into_iter().filter(|position| *position > 0) {
                let key = (base.clone(), position);
                match self.restore(&base, position) {
                    Ok(bytes) => self.require_right(&key, &bytes)?,
                    Err(error)
                        if error.kind() == Kind::NotCovered
                            && !self.recorded.contains_key(&key) => {}
                    Err(error) => return Err(format!("{base}+{position}: {error:?}")),
                }
            }
            self.check_moments(&base, end)?;
        }
        Ok(())
    }

    /// Asks for moments: what is found holds nothing younger, and no later state does as well.
    fn check_moments(&mut self, base: &str, end: u64) -> Result<(), Broken> {
        let states: Vec<Moment> = self.with_chain(base, |chain| {
            let at = |position| chain.moment(Target::Position(position)).ok();
            (1..=end).filter_map(at).collect()
        })?;
        for _ in 0..states.len().min(4) {
            let near = &states[self.random.below(states.len() as u64) as usize];
            let at_ms = near.until.as_millisecond() + self.random.below(5) as i64 - 2;
            let at = Timestamp::from_millisecond(at_ms).map_err(|error| error.to_string())?;
            let found = self.with_chain(base, |chain| chain.moment(Target::At(at)))?;
            let found = found.map_err(debug)?.position;
            let newest = states.iter().rev().find(|state| state.until <= at);
            let wanted = newest.map_or(0, |state| state.position);
            if found != wanted {
                let times: Vec<_> = states.iter().map(|one| (one.position, one.until)).collect();
                return Err(format!("{base} at {at}: +{found}, not +{wanted} of {times:?}"));
            }
            self.report.moments += 1;
        }
        Ok(())
    }

    fn require_right(&mut self, key: &(String, u64), bytes: &[u8]) -> Result<(), Broken> {
        self.report.restored += 1;
        let right = match self.recorded.get(key) {
            Some(recorded) => *recorded.image == bytes,
            None => self.attempted.iter().any(|image| **image == bytes),
        };
        match right {
            true => Ok(()),
            false => Err(format!("{}+{} is not what the database was", key.0, key.1)),
        }
    }

    fn restore(&self, base: &str, position: u64) -> lifeboat_core::Result<Vec<u8>> {
        let broken = |why: String| Error::new(Kind::Failed, why);
        let io = |error| Error::io(Kind::Failed, "the place of a restore", error);
        let place = self.folder.join("restored.db");
        let image = self.bases.get(base).ok_or_else(|| broken("no base".to_owned()))?;
        fs::write(&place, &**image).map_err(io)?;
        let replay = self
            .with_chain(base, |chain| LogReplay::to(chain, Target::Position(position)))
            .map_err(broken)??;
        if let Some(replay) = replay {
            let mut file = File::options().read(true).write(true).open(&place).map_err(io)?;
            replay.apply(&self.env, &mut file, &place)?;
        }
        fs::read(&place).map_err(io)
    }

    /// Damages the log in some way: what is restored then is right, or said to be impossible.
    pub(super) fn damage(&mut self) -> Result<(), Broken> {
        let names = self.store.names();
        let logs: Vec<_> = names.iter().filter(|name| name.as_str().contains(".pagelog")).collect();
        if logs.is_empty() {
            return Ok(());
        }
        let one = logs[self.random.below(logs.len() as u64) as usize];
        let other = logs[self.random.below(logs.len() as u64) as usize];
        let what = self.random.below(4);
        let at = self.random.next();
        let mut taken = None;
        self.store.damage(other, |bytes| {
            taken = Some(bytes.clone());
            Some(bytes)
        });
        self.store.damage(one, |mut bytes| match what {
            0 => {
                let bit = at % (bytes.len() as u64 * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
                Some(bytes)
            }
            1 => None,
            2 => Some(bytes[..(at % bytes.len() as u64) as usize].to_vec()),
            _ => taken,
        });
        self.report.damaged.0 += 1;
        self.follower = None;
        let keys: Vec<(String, u64)> = self.recorded.keys().cloned().collect();
        for key in keys.iter().rev().step_by(1 + keys.len() / 8) {
            match self.restore(&key.0, key.1) {
                Ok(bytes) => self
                    .require_right(key, &bytes)
                    .map_err(|broken| format!("{one} was damaged ({what}): {broken}"))?,
                Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::NotCovered) => {
                    self.report.damaged.1 += 1;
                }
                // A changed recipient is nobody's key.
                Err(error) if self.seal.is_some() && error.kind() == Kind::WrongKey => {
                    self.report.damaged.1 += 1;
                }
                Err(error) => return Err(format!("{one} was damaged ({what}): {error:?}")),
            }
        }
        Ok(())
    }
}
