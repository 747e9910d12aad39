//! A repository: what makes a store's objects backups.
//!
//! The layout is that of `docs/format.md`. Nothing here is ever overwritten; a folder belongs to
//! the source whose id its `source.json` holds, and a name that is taken gets a suffix.

mod configuration;
mod known;
mod packs;
mod reading;
mod sealing;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cache::{Cache, CachePlace};
use crate::catalog::SourceRecord;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::manifest::Manifest;
use crate::marks::{self, MarkKind, Marker, Outcome, Pin, Proof};
use crate::policy::Hold;
use crate::seal::{Keys, Recipients};
use crate::store::{ObjectName, Store, get_bytes, put_bytes};

pub use configuration::KeptConfiguration;
pub use known::write_known;

/// The version of the repository's layout that this program writes and reads.
pub const FORMAT: u32 = 1;

const HEADER: &str = "lifeboat.json";
const README: &str = "README.txt";
const SOURCE: &str = "source.json";
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// `lifeboat.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the layout.
    pub format: u32,
    /// The repository's id.
    pub id: Uuid,
    /// When it was created.
    pub created_at: Timestamp,
    /// The time zone of retention's calendar: an IANA name.
    pub time_zone: String,
    /// Whether the store itself refuses a second object of one name. Tried when the repository was
    /// made; one that says nothing was made where it does.
    #[serde(default = "yes")]
    pub conditional_put: bool,
}

fn yes() -> bool {
    true
}

/// An open repository.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
    header: Header,
    cache: Option<Arc<Cache>>,
    /// Whether it is only looked at: then hints are good enough.
    only_looks: bool,
    /// Manifests are read in brief; of these kinds of sources with their facts.
    brief: Option<&'static [&'static str]>,
    recipients: Option<Arc<Recipients>>,
    keys: Option<Arc<dyn Keys>>,
    /// Where what must be known of sealed databases is kept.
    known: Option<PathBuf>,
}

/// What makes two backups ones of the same source.
#[derive(Clone, Debug)]
pub struct SourceIdentity {
    /// The id, where the configuration gives one.
    pub id: Option<Uuid>,
    /// The name it should have.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// The host it is on.
    pub host: String,
    /// Where it is on that host.
    pub location: String,
}

impl Repository {
    /// Opens what is there. [`Kind::NoRepository`] if it is none.
    pub fn open(store: Arc<dyn Store>) -> Result<Self> {
        let name = ObjectName::new(HEADER)?;
        if store.head(&name)?.is_none() {
            return Err(Error::new(
                Kind::NoRepository,
                format!("there is no repository at {}", store.url()),
            )
            .hint("the first `lifeboat backup` creates it; or name another one with --repo"));
        }
        let bytes = get_bytes(&*store, &name, SMALL_BYTES_MAX)?;
        let header: Header = serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(Kind::CheckFailed, format!("{HEADER} of {} is damaged", store.url()))
                .caused_by(error)
                .hint("the backups beside it can be restored by hand: see README.txt there")
        })?;
        if header.format > FORMAT {
            return Err(Error::new(
                Kind::Failed,
                format!("{} was made by a newer lifeboat (format {})", store.url(), header.format),
            )
            .hint("use a newer lifeboat"));
        }
        if !header.conditional_put {
            store.without_conditional_put();
        }
        let (cache, only_looks, brief) = (None, false, None);
        let (recipients, keys, known) = (None, None, None);
        Ok(Repository { store, header, cache, only_looks, brief, recipients, keys, known })
    }

    /// Opens it, or creates it in an empty place.
    pub fn open_or_create(env: &Env, store: Arc<dyn Store>) -> Result<Self> {
        match Repository::open(Arc::clone(&store)) {
            Err(error) if error.kind() == Kind::NoRepository => {}
            opened => return opened,
        }
        put_unless_there(&*store, README, README_TEXT.as_bytes())?;
        // The same once more: who takes it would take another writer's as well. Nothing is lost by
        // that, as the bytes are the same.
        let conditional_put = !put_unless_there(&*store, README, README_TEXT.as_bytes())?;
        if !conditional_put {
            store.without_conditional_put();
        }
        let header = Header {
            format: FORMAT,
            id: env.new_uuid(),
            created_at: env.clock.now(),
            time_zone: "UTC".into(),
            conditional_put,
        };
        put_unless_there(&*store, HEADER, &json(&header))?;
        // Another process may have been faster: what is there now is the truth.
        Repository::open(store)
    }

    /// The same, for what only looks at backups: manifests are taken from a cache as far as it
    /// holds them, where there is one, and from packs. What verifies or deletes reads the
    /// manifests.
    pub fn only_looked_at(mut self, env: &Env, cache: Option<Arc<dyn CachePlace>>) -> Self {
        self.cache = cache.map(|place| Arc::new(Cache::new(env, place, self.header.id)));
        self.only_looks = true;
        self
    }

    /// The same, for what looks at all backups at once and keeps them in memory: manifests without
    /// what only a report of that one backup shows. Rows and times are sums, hashes are not there,
    /// and facts for those kinds of sources alone.
    pub fn in_brief(self, facts_of: &'static [&'static str]) -> Self {
        Repository { brief: Some(facts_of), ..self }
    }

    /// The same, and everything is read from the store, and whole.
    pub fn without_cache(&self) -> Self {
        Repository { cache: None, only_looks: false, brief: None, ..self.clone() }
    }

    /// Its store.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Asks whether it is where it was: a drive that was unmounted is an empty folder, which holds
    /// nothing of what is asked for. [`Kind::StoreAbsent`] if it is gone.
    pub fn is_still_there(&self) -> Result<()> {
        match self.store.head(&ObjectName::new(HEADER)?)? {
            Some(_) => Ok(()),
            None => Err(Error::new(
                Kind::StoreAbsent,
                format!("the repository at {} is not there any more", self.url()),
            )
            .hint("mount its drive again")),
        }
    }

    /// The folder of a source that is there already. `None` if it holds nothing of it.
    pub fn folder_of(&self, identity: &SourceIdentity) -> Result<Option<(String, SourceRecord)>> {
        for suffix in 1..10_000 {
            let folder = match suffix {
                1 => identity.name.clone(),
                suffix => format!("{}-{suffix}", identity.name),
            };
            match self.read_record_of(identity, &self.object(&folder, SOURCE)?) {
                Ok(record) if identity.is(&record) => return Ok(Some((folder, record))),
                Ok(_) => {}
                Err(error) if error.kind() == Kind::NotCovered => {
                    return self.is_still_there().map(|()| None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.store.url()
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whose folder it is. [`Kind::NotCovered`] if it is nobody's.
    pub(crate) fn source_record(&self, folder: &str) -> Result<SourceRecord> {
        self.read_record(&self.object(folder, SOURCE)?)
    }

    /// Why a backup must stay, and until when, as was said last.
    pub fn hold(&self, folder: &str, backup: &Manifest) -> Result<Option<Hold>> {
        let object = ObjectName::new(MarkKind::Pin.object(folder, &backup.name))?;
        let of_manifest = || Hold::of_manifest(backup);
        match self.read_mark::<Pin>(&object) {
            Ok(pin) if pin.means(backup) && pin.source == backup.source.id => Ok(pin.hold()),
            Ok(_) => Ok(of_manifest()),
            Err(error) if error.kind() == Kind::NotCovered => Ok(of_manifest()),
            Err(error) if matches!(error.kind(), Kind::CheckFailed | Kind::Failed) => {
                Ok(Pin::unreadable(backup.source.id, &backup.name).hold())
            }
            Err(error) => Err(error),
        }
    }

    /// What was begun behind a backup and how it ended, for people. See
    /// [`SourceEntry::story`](crate::catalog::SourceEntry::story).
    pub fn story(&self, folder: &str, backup: &Manifest) -> Result<Option<String>> {
        let marker = self.mark_if_any(MarkKind::Marker, folder, backup)?;
        let outcome = self.mark_if_any(MarkKind::Outcome, folder, backup)?;
        let marker = marker.filter(|marker: &Marker| marker.means(backup));
        let outcome = outcome.filter(|outcome: &Outcome| outcome.means(backup));
        Ok(marks::told(backup, marker.as_ref(), outcome.as_ref()))
    }

    /// What a host with the key found of a sealed backup, if one has looked.
    pub fn proof(&self, folder: &str, backup: &Manifest) -> Result<Option<Proof>> {
        let proof = self.mark_if_any(MarkKind::Proof, folder, backup)?;
        Ok(proof.filter(|proof: &Proof| proof.means(backup)))
    }

    /// One that cannot be read counts as none: the backup itself is as good without it.
    fn mark_if_any<T: DeserializeOwned>(
        &self,
        kind: MarkKind,
        folder: &str,
        backup: &Manifest,
    ) -> Result<Option<T>> {
        let object = ObjectName::new(kind.object(folder, &backup.name))?;
        match self.read_mark(&object) {
            Ok(mark) => Ok(Some(mark)),
            Err(error) => match error.kind() {
                Kind::NotCovered | Kind::CheckFailed | Kind::Failed => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Reads a tombstone, a pin or the record of a prune.
    pub(crate) fn read_mark<T: DeserializeOwned>(&self, name: &ObjectName) -> Result<T> {
        marks::parse(&get_bytes(&*self.store, name, SMALL_BYTES_MAX)?, name.as_str())
    }

    fn read_record(&self, name: &ObjectName) -> Result<SourceRecord> {
        let bytes = get_bytes(&*self.store, name, SMALL_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::new(Kind::CheckFailed, format!("{name} of {} is damaged", self.url()))
                .caused_by(error)
        })
    }

    /// The same, for a source that looks for its folder. One that is another's is read twice: what
    /// was misread must not make a second folder, in which nothing of the first one is found.
    fn read_record_of(&self, identity: &SourceIdentity, name: &ObjectName) -> Result<SourceRecord> {
        let record = self.read_record(name)?;
        if identity.is(&record) || self.read_record(name)? == record {
            return Ok(record);
        }
        let message = format!("{name} of {} reads differently each time", self.url());
        Err(Error::new(Kind::CheckFailed, message)
            .hint("the storage or the way to it damages what is read: check both, then try again"))
    }

    /// The folder of a source: the one that is its own already, or a new one under its name, with
    /// a suffix where the name is another's.
    pub fn claim(&self, env: &Env, identity: &SourceIdentity) -> Result<(String, SourceRecord)> {
        self.claim_as(env, identity, identity.id)
    }

    /// The same; a new folder gets that id, where one is given.
    pub(crate) fn claim_as(
        &self,
        env: &Env,
        identity: &SourceIdentity,
        id: Option<Uuid>,
    ) -> Result<(String, SourceRecord)> {
        for suffix in 1..10_000 {
            let folder = match suffix {
                1 => identity.name.clone(),
                suffix => format!("{}-{suffix}", identity.name),
            };
            let object = ObjectName::new(format!("{folder}/{SOURCE}"))?;
            if self.store.head(&object)?.is_none() {
                let record = SourceRecord {
                    format: FORMAT,
                    id: id.unwrap_or_else(|| env.new_uuid()),
                    name: identity.name.clone(),
                    kind: identity.kind.clone(),
                    host: identity.host.clone(),
                    location: identity.location.clone(),
                };
                self.put_record(&object, &json(&record))?;
            }
            // Two processes may claim at once: what was stored first decides.
            let record = self.read_record_of(identity, &object)?;
            if identity.is(&record) {
                return Ok((folder, record));
            }
        }
        Err(Error::new(Kind::Failed, format!("no free folder for `{}`", identity.name)))
    }

    /// Puts the record of a new folder unless one is there. One that was stored with other bytes
    /// than were sent goes again: it would be in the way of its source for ever.
    fn put_record(&self, object: &ObjectName, bytes: &[u8]) -> Result<()> {
        if !put_unless_there(&*self.store, object.as_str(), bytes)? {
            return Ok(());
        }
        let is_stored =
            || get_bytes(&*self.store, object, SMALL_BYTES_MAX).map(|stored| stored == bytes);
        // The second time in case that it was only misread.
        if is_stored()? || is_stored()? {
            return Ok(());
        }
        self.store.delete(object)?;
        let message = format!("{object} of {} was stored otherwise than it was sent", self.url());
        Err(Error::new(Kind::CheckFailed, message).hint(
            "the storage or the way to it damages what is written: check both, then try again",
        ))
    }

    /// What the names of all objects of a backup's log begin with, before a `/`. They go with it.
    pub fn log_prefix(&self, folder: &str, backup: &str) -> String {
        format!("{folder}/log/{backup}")
    }

    /// The object of an artifact or manifest in a source's folder.
    pub fn object(&self, folder: &str, file: &str) -> Result<ObjectName> {
        ObjectName::new(format!("{folder}/{file}"))
    }
}

impl SourceIdentity {
    /// Whether a folder with this record is ours.
    pub fn is(&self, record: &SourceRecord) -> bool {
        match self.id {
            Some(id) => id == record.id,
            None => {
                // A set of files is known by its name: one more path in the configuration does
                // not make it another source. Two databases of one name must never mix.
                let same_thing = match self.kind == crate::files::KIND {
                    true => self.name == record.name,
                    false => self.location == record.location,
                };
                same_thing && self.kind == record.kind && self.host == record.host
            }
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("our own types are always JSON");
    bytes.push(b'\n');
    bytes
}

/// Whether it was put: `false` if an object of that name is there.
fn put_unless_there(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<bool> {
    match put_bytes(store, &ObjectName::new(name)?, bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == Kind::Refused => Ok(false),
        Err(error) => Err(error),
    }
}

const README_TEXT: &str = "\
This folder is a backup repository of lifeboat.

Each folder in it belongs to one source (a database, or a set of files). A backup is a few
files with one name; its description is NAME.json. What has no description is not a backup.

Restore by hand, without lifeboat:

  SQLite database     zstd -d NAME.db.zst -o restored.db      (or: gunzip -k NAME.db.gz)
                      sqlite3 restored.db 'PRAGMA integrity_check'
                      Never put it beside an old restored.db-wal or restored.db-journal.
  PostgreSQL dump     zstd -dc NAME.globals.sql.zst | psql -d postgres     (missing roles)
                      createdb restored
                      zstd -dc NAME.dump.zst | pg_restore --exit-on-error -d restored
                      NAME.sql.zst is a dump as SQL: psql -v ON_ERROR_STOP=1 -d restored
                      Lines that begin with `pg_dump: ` are messages: grep -v '^pg_dump: '
  PostgreSQL cluster  mkdir -m 700 data; zstd -dc NAME.base.tar.zst | tar -xpf - -C data
                      mkdir space-OID; zstd -dc NAME.ts-OID.tar.zst | tar -xpf - -C space-OID
                      and a line `OID /path/space-OID` in data/tablespace_map for each.
                      Then start the server of that version on it. backup_label must stay.
    at any moment     touch data/recovery.signal, and in data/postgresql.auto.conf:
                      restore_command = 'zstd -dqf wal/SYSTEM/00000001/%f.zst -o %p'
                      recovery_target_time = '2026-01-31 14:03:22+00'
                      with the whole path of wal/, which is beside the backup's files. NAME.json
                      with a `parent` holds only what changed since that one: unpack each of the
                      chain with its NAME.backup_manifest.zst as backup_manifest in it, then, from
                      version 17 on, pg_combinebackup -o data OLDEST ... NEWEST.
  files beside it     zstd -d < NAME.files.tar.zst | tar -xpf -   (unpacks below this folder;
                      or: tar -xpzf NAME.files.tar.gz)

What ends in .age is sealed, and opens with the key of whoever NAME.json names below `sealed`:

  age -d -i KEYFILE NAME.db.zst.age > NAME.db.zst     and then as above; KEYFILE is a file of
                      `lifeboat key new` or age-keygen, or a private key of SSH

NAME.json holds the SHA-256 of each file, as stored and decompressed:

  sha256sum NAME.db.zst;  zstd -dc NAME.db.zst | sha256sum

NAME.pages.zst is not needed for a restore: it serves later backups.
Never delete a single file of a backup: use `lifeboat prune`.
";
