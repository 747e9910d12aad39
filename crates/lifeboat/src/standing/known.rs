//! What the last `watch` of this host found, so that it is known since when something is wrong. One
//! small file, which may be lost at any time.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::alert::{Alert, Code};
use crate::private;
use crate::session::Session;

/// Between two times that servers are asked.
const ASK_EVERY: SignedDuration = SignedDuration::from_hours(1);
/// What was found longer ago than this says nothing of now.
const FRESH: SignedDuration = SignedDuration::from_hours(2);
/// What was over longer ago is forgotten, and so is what exceeds this number.
const OVER: SignedDuration = SignedDuration::from_hours(30 * 24);
const OVER_MAX: usize = 100;

/// What was found, and when.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Known {
    measured_at: Option<Timestamp>,
    /// When servers were asked for what ends.
    #[serde(default)]
    servers_at: Option<Timestamp>,
    alerts: Vec<Alert>,
    /// What was wrong and is no more, each with when that was seen; the newest last.
    #[serde(default)]
    pub(crate) resolved: Vec<(Timestamp, Alert)>,
}

fn path(session: &Session) -> Option<PathBuf> {
    Some(session.folders.locks.as_deref().and_then(Path::parent)?.join("alerts.json"))
}

/// What the last watch found.
pub(crate) fn known(session: &Session) -> Known {
    let bytes = path(session).and_then(|path| fs::read(path).ok()).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

impl Known {
    /// Since when each is so; since now where it was not known before.
    pub(crate) fn date(&self, alerts: &mut [Alert]) {
        for alert in alerts {
            let before = self.alerts.iter().find(|known| known.key() == alert.key());
            alert.since = before.and_then(|known| known.since).or(alert.since);
        }
    }

    /// What was found of certificates and credentials, which takes connections, if that was now.
    pub(crate) fn of_servers(&self, now: Timestamp) -> Vec<Alert> {
        let is_fresh =
            self.measured_at.is_some_and(|at| at <= now && now.duration_since(at) < FRESH);
        let is_asked = |alert: &&Alert| matches!(alert.code, Code::Certificate | Code::Credential);
        self.alerts.iter().filter(is_asked).filter(|_| is_fresh).cloned().collect()
    }

    /// What is known once that was found: what is wrong no more is over since now.
    fn followed_by(self, now: Timestamp, alerts: &[Alert]) -> Known {
        let is_over = |known: &Alert| alerts.iter().all(|alert| alert.key() != known.key());
        let over = self.alerts.into_iter().filter(is_over).map(|alert| (now, alert));
        let is_young = |(at, _): &(Timestamp, Alert)| now.duration_since(*at) < OVER;
        let mut resolved: Vec<_> = self.resolved.into_iter().filter(is_young).chain(over).collect();
        let too_many = resolved.len().saturating_sub(OVER_MAX);
        resolved.drain(..too_many);
        let servers_at = self.servers_at;
        Known { measured_at: Some(now), servers_at, alerts: alerts.to_vec(), resolved }
    }

    /// Whether it is time to ask servers again: certificates last for months.
    pub(crate) fn is_time_to_ask(&self, now: Timestamp) -> bool {
        let is_fresh = |at: Timestamp| at <= now && now.duration_since(at) < ASK_EVERY;
        !self.servers_at.is_some_and(is_fresh)
    }

    /// Keeps what was found now, for the next time; whether servers were asked is told, too.
    pub(crate) fn keep(session: &Session, now: Timestamp, alerts: &mut [Alert], has_asked: bool) {
        let mut before = known(session);
        before.date(alerts);
        if has_asked {
            before.servers_at = Some(now);
        }
        for alert in alerts.iter_mut() {
            alert.since.get_or_insert(now);
        }
        let Some(path) = path(session) else { return };
        let found = before.followed_by(now, alerts);
        let text = serde_json::to_vec_pretty(&found).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| private::replace(&path, &text)) {
            let message = format!("what was found is not kept: {}: {error}", path.display());
            session.printer.detail(&message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::Severity;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + hour * 3_600).unwrap()
    }

    #[test]
    fn what_is_wrong_no_more_is_over_for_a_while() {
        let alert = |source: &str| {
            Alert::new((Code::Stale, Severity::Stale), (source, "file:///b"), "old", "")
        };
        let known = Known::default().followed_by(at(0), &[alert("a"), alert("b")]);
        assert!(known.resolved.is_empty());
        let known = known.followed_by(at(1), &[alert("b")]);
        let over: Vec<_> = known.resolved.iter().map(|(at, one)| (*at, &*one.source)).collect();
        assert_eq!(over, [(at(1), "a")]);
        // Once it is wrong again and over again, both times are told.
        let known = known.followed_by(at(2), &[alert("a")]).followed_by(at(3), &[]);
        let over: Vec<_> = known.resolved.iter().map(|(at, one)| (*at, &*one.source)).collect();
        assert_eq!(over, [(at(1), "a"), (at(2), "b"), (at(3), "a")]);
        assert!(known.followed_by(at(800), &[]).resolved.is_empty());
    }
}
