//! What the last `watch` of this host found, so that it is known since when something is wrong. One
//! small file, which may be lost at any time.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::alert::{Alert, Code};
use crate::private;
use crate::session::Session;

/// What was found longer ago than this says nothing of now.
const FRESH: SignedDuration = SignedDuration::from_hours(2);

/// What was found, and when.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Known {
    measured_at: Option<Timestamp>,
    alerts: Vec<Alert>,
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

    /// Keeps what was found now, for the next time.
    pub(crate) fn keep(session: &Session, now: Timestamp, alerts: &mut [Alert]) {
        known(session).date(alerts);
        for alert in alerts.iter_mut() {
            alert.since.get_or_insert(now);
        }
        let Some(path) = path(session) else { return };
        let found = Known { measured_at: Some(now), alerts: alerts.to_vec() };
        let text = serde_json::to_vec_pretty(&found).map_err(std::io::Error::from);
        if let Err(error) = text.and_then(|text| private::replace(&path, &text)) {
            let message = format!("what was found is not kept: {}: {error}", path.display());
            session.printer.detail(&message);
        }
    }
}
