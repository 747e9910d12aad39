//! What a repository holds, as values: sources, their backups, and which one an expression means.
//!
//! Pure: it is made of what was read, and asks nobody.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::manifest::{Condition, Manifest, Purpose};
use crate::marks::{self, Drilled, Marker, Outcome, Pin, Tombstone};
use crate::moment;
use crate::policy::Hold;

/// `source.json`: which source a folder of the repository belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Version of this description.
    pub format: u32,
    /// The source's stable id.
    pub id: Uuid,
    /// Its name, which may be shared by several; the folder's name is not.
    pub name: String,
    /// Its kind: "sqlite", "files".
    pub kind: String,
    /// The host it is on.
    pub host: String,
    /// Where it is on that host.
    pub location: String,
}

/// A manifest that could not be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// The object.
    pub object: String,
    /// Why, in one line.
    pub reason: String,
}

/// A source and its backups.
#[derive(Clone, Debug)]
pub struct SourceEntry {
    /// The folder in the repository.
    pub folder: String,
    /// Whose folder it is.
    pub record: SourceRecord,
    /// Its backups, oldest first, without those that have a tombstone.
    pub backups: Vec<Manifest>,
    /// Backups that have a tombstone and whose bytes are still there, oldest first.
    pub removed: Vec<Manifest>,
    /// All tombstones, also of garbage and of what is deleted in part.
    pub tombstones: Vec<Tombstone>,
    /// Who said that a backup stays, or that it need not stay any longer.
    pub pins: Vec<Pin>,
    /// Which migrations were begun behind a backup.
    pub markers: Vec<Marker>,
    /// How those ended.
    pub outcomes: Vec<Outcome>,
    /// How the last drills of backups went.
    pub drilled: Vec<Drilled>,
    /// What is named like a manifest, a tombstone or a pin, and is none.
    pub unreadable: Vec<Unreadable>,
}

/// Everything that a repository holds.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Sorted by folder.
    pub sources: Vec<SourceEntry>,
    /// How the objects of the manifests were listed that were read, where that tells whether they
    /// are still the same.
    pub(crate) listed: HashMap<String, Listed>,
}

/// The size of an object, and when it was modified last.
pub(crate) type Listed = (u64, Timestamp);

/// `superchat@latest`: a source and a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupExpression {
    /// The source's name, or its folder's.
    pub source: String,
    /// The newest backup at or before this moment.
    pub at: Timestamp,
    /// The text behind the `@`.
    pub text: String,
}

impl BackupExpression {
    /// Reads `superchat`, `superchat@latest`, `superchat@20250108-140000`, `superchat@-2h`.
    pub fn parse(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Self> {
        let (source, at) = match text.rsplit_once('@') {
            Some((source, at)) if !source.is_empty() => (source, at),
            _ => (text, "latest"),
        };
        let moment = moment::parse(at, now, zone)?;
        Ok(BackupExpression { source: source.into(), at: moment, text: at.into() })
    }
}

impl SourceEntry {
    /// A source's folder, before anything is known of its backups.
    pub fn new(folder: String, record: SourceRecord) -> Self {
        SourceEntry {
            folder,
            record,
            backups: Vec::new(),
            removed: Vec::new(),
            tombstones: Vec::new(),
            pins: Vec::new(),
            markers: Vec::new(),
            outcomes: Vec::new(),
            drilled: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// Moves the backups that have a tombstone out of sight, and sorts.
    pub fn settle(&mut self) {
        let own = self.record.id;
        self.tombstones.retain(|tombstone| tombstone.source == own);
        self.pins.retain(|pin| pin.source == own);
        self.markers.retain(|marker| marker.source == own);
        self.outcomes.retain(|outcome| outcome.source == own);
        self.drilled.retain(|drilled| drilled.source == own);
        let gone: HashSet<(&str, Uuid)> = self
            .tombstones
            .iter()
            .filter_map(|tombstone| Some((tombstone.backup.as_str(), tombstone.id?)))
            .collect();
        let gone = |backup: &mut Manifest| gone.contains(&(backup.name.as_str(), backup.id));
        self.removed = self.backups.extract_if(.., gone).collect();
        for backups in [&mut self.backups, &mut self.removed] {
            backups.sort_by(|a, b| (a.taken_at, &a.name).cmp(&(b.taken_at, &b.name)));
        }
    }

    /// Why a backup must stay, and until when. What was said last of it counts, not its manifest.
    pub fn hold(&self, backup: &Manifest) -> Option<Hold> {
        match self.pins.iter().find(|pin| pin.means(backup)) {
            Some(pin) => pin.hold(),
            None => Hold::of_manifest(backup),
        }
    }

    /// Whether a drill of a backup passed, and no later one showed that it is wrong.
    pub fn is_proven(&self, backup: &Manifest) -> bool {
        self.drilled.iter().any(|drilled| drilled.means(backup) && drilled.passed_at.is_some())
    }

    /// How the last drill of any of its backups went.
    pub fn last_drill(&self) -> Option<&Drilled> {
        self.drilled.iter().max_by_key(|drilled| drilled.drilled_at)
    }

    /// When a drill of any of its backups passed last.
    pub fn last_proven_at(&self) -> Option<Timestamp> {
        self.drilled.iter().filter_map(|drilled| drilled.passed_at).max()
    }

    /// What was begun behind a backup and how it ended, for people: "before migration v8 -> v9,
    /// succeeded". `None` for a backup of the daily round.
    pub fn story(&self, backup: &Manifest) -> Option<String> {
        let marker = self.markers.iter().find(|marker| marker.means(backup));
        let outcome = self.outcomes.iter().find(|outcome| outcome.means(backup));
        marks::told(backup, marker, outcome)
    }

    /// The newest backup that was not taken of a damaged database.
    pub fn newest_good(&self) -> Option<&Manifest> {
        self.backups.iter().rev().find(|backup| backup.condition != Condition::Damaged)
    }

    /// The backup that an expression means. Without a moment the newest, but not what a restore was
    /// about to replace: to restore again must not bring the damage back.
    pub fn meant_by(&self, expression: &BackupExpression) -> Option<&Manifest> {
        let is_asked_for = |backup: &&Manifest| {
            backup.purpose != Some(Purpose::BeforeRestore) && backup.taken_at <= expression.at
        };
        let newest = match expression.text.as_str() {
            "latest" | "now" => self.backups.iter().rev().find(is_asked_for),
            _ => None,
        };
        newest.or_else(|| self.at_or_before(expression.at))
    }

    /// The newest backup at or before a moment. A name to the second means that second.
    pub fn at_or_before(&self, at: Timestamp) -> Option<&Manifest> {
        // Names have whole seconds: `@20250108-140000` means the backup taken at 14:00:00.7 too.
        let second = at.as_second();
        let exact = at.subsec_nanosecond() == 0;
        self.backups.iter().rev().find(|backup| {
            backup.taken_at <= at || (exact && backup.taken_at.as_second() == second)
        })
    }
}

impl Catalog {
    /// The source with this name or folder. A name that several sources share is an error that
    /// lists them.
    pub fn source(&self, name: &str) -> Result<&SourceEntry> {
        if let Some(entry) = self.sources.iter().find(|entry| entry.folder == name) {
            // A folder that is also the name of others is still only one folder; but a person who
            // says the shared name may mean any of them.
            let sharing: Vec<_> =
                self.sources.iter().filter(|other| other.record.name == name).collect();
            if sharing.len() <= 1 {
                return Ok(entry);
            }
            let list: Vec<String> = sharing
                .iter()
                .map(|other| format!("`{}` ({})", other.folder, other.record.location))
                .collect();
            return Err(Error::new(
                Kind::Usage,
                format!("`{name}` names {} sources: {}", list.len(), list.join(", ")),
            )
            .hint("name the database by its path, or the source by its id"));
        }
        let by_id = self.sources.iter().find(|entry| entry.record.id.to_string() == name);
        by_id.ok_or_else(|| {
            let known: Vec<_> = self.sources.iter().map(|entry| entry.folder.as_str()).collect();
            let known = match known.is_empty() {
                true => "the repository holds no backups yet".to_owned(),
                false => format!("it holds: {}", known.join(", ")),
            };
            Error::new(Kind::NotCovered, format!("the repository holds no source `{name}`"))
                .hint(known)
        })
    }

    /// The source that was at this place on this host.
    pub fn source_at(&self, host: &str, location: &str) -> Option<&SourceEntry> {
        let here =
            |entry: &&SourceEntry| entry.record.location == location && entry.record.host == host;
        self.sources
            .iter()
            .find(here)
            .or_else(|| self.sources.iter().find(|entry| entry.record.location == location))
    }

    /// The backup that an expression means.
    pub fn backup(&self, expression: &BackupExpression) -> Result<(&SourceEntry, &Manifest)> {
        let entry = self.source(&expression.source)?;
        let found = entry.meant_by(expression);
        let found = found.ok_or_else(|| match entry.backups.first() {
            Some(oldest) => Error::new(
                Kind::NotCovered,
                format!(
                    "`{}` has no backup at or before {}: the oldest is of {}",
                    entry.folder, expression.text, oldest.taken_at
                ),
            )
            .hint(format!("lifeboat list {}", entry.folder)),
            None => Error::new(Kind::NotCovered, format!("`{}` has no backup", entry.folder))
                .hint(format!("lifeboat backup {}", entry.folder)),
        })?;
        Ok((entry, found))
    }
}
