//! One repository's part of a run: what is stored in it, read back, committed, or deleted again.

use crate::catalog::SourceRecord;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::manifest::{Artifact, Check, CheckOutcome, Manifest};
use crate::marks::{self, Begun, MarkKind};
use crate::names::NamePattern;
use crate::pipeline::{
    BlockHashes, Compression, Encoded, Output, read_back_bytes, read_back_frames,
};
use crate::repository::Repository;
use crate::seal;
use crate::source::ArtifactPlan;
use crate::store::{ObjectInfo, ObjectName, put_bytes};

use super::commit;
use super::lock::SourceLock;

/// A run has a branch for each repository that takes its backup. One that failed is left behind.
pub(super) struct Branch<'a> {
    pub(super) env: &'a Env,
    pub(super) repository: Repository,
    pub(super) folder: String,
    pub(super) record: SourceRecord,
    pub(super) compression: Compression,
    pub(super) stored: Vec<Stored>,
    /// Why it is left behind.
    pub(super) error: Option<Error>,
    /// Blocks were compared one by one.
    deep: bool,
    /// The manifest is stored, or was sent and could not be taken back.
    manifest_may_exist: bool,
    /// The mark that says that this run began, while it stands.
    begun: Option<ObjectName>,
    _lock: SourceLock,
}

/// An artifact that was stored.
pub(super) struct Stored {
    pub(super) object: ObjectName,
    pub(super) artifact: Artifact,
    pub(super) encoded: Encoded,
    pub(super) block_bytes: Option<u32>,
}

/// Where one artifact goes in one repository.
pub(super) struct Place {
    object: ObjectName,
    file: String,
    compression: Compression,
}

impl<'a> Branch<'a> {
    pub(super) fn new(
        env: &'a Env,
        repository: Repository,
        (folder, record): (String, SourceRecord),
        compression: Compression,
        lock: SourceLock,
    ) -> Self {
        Branch {
            env,
            repository,
            folder,
            record,
            compression,
            stored: Vec::new(),
            error: None,
            deep: false,
            manifest_may_exist: false,
            begun: None,
            _lock: lock,
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.error.is_none()
    }

    /// Whether a backup has that name already, or a part of one that was not finished.
    pub(super) fn has(&self, name: &str) -> Result<bool> {
        let stem = format!("{}/{name}.", self.folder);
        let taken = self.repository.store().list(Some(&self.folder))?;
        self.refuse_to_unseal(&taken)?;
        Ok(taken.iter().any(|object| object.name.as_str().starts_with(&stem)))
    }

    /// A line that was lost in a configuration must not put into the open what was sealed so far.
    fn refuse_to_unseal(&self, there: &[ObjectInfo]) -> Result<()> {
        let sealed = there.iter().any(|object| object.name.as_str().ends_with(seal::SUFFIX));
        match sealed && self.repository.recipients().is_none() {
            false => Ok(()),
            true => Err(Error::new(
                Kind::Refused,
                format!(
                    "backups of {} in {} are sealed, and this one would not be",
                    self.record.name,
                    self.repository.url()
                ),
            )
            .hint(
                "name the recipients again (`encrypt_to` of the repository); to store it open on \
                 purpose, take another repository",
            )),
        }
    }

    /// The name that a backup made now has.
    pub(super) fn name_now(&self, pattern: &NamePattern) -> String {
        pattern.name(&self.record.name, self.env.clock.now())
    }

    /// Says that this name is ours before anything is stored under it: the bytes of an artifact
    /// that is sealed or not compressed would not show it, and nobody could ever delete them.
    pub(super) fn note_begun(&mut self, name: &str) -> Result<()> {
        let sealed = self.repository.recipients().is_some();
        if self.compression != Compression::None && !sealed {
            return Ok(());
        }
        let mark = Begun {
            format: marks::FORMAT,
            source: self.record.id,
            backup: name.to_owned(),
            begun_at: self.env.clock.now(),
            is_copy: false,
        };
        let object = ObjectName::new(MarkKind::Begun.object(&self.folder, name))?;
        match put_bytes(self.repository.store(), &object, &marks::to_bytes(&mark)) {
            // One that was killed in the same second, before it stored anything, said the same.
            Err(error) if error.kind() != Kind::Refused => return Err(error),
            _ => {}
        }
        self.begun = Some(object);
        Ok(())
    }

    /// The mark has served. One that cannot be deleted is left for a prune.
    fn forget_begun(&mut self) {
        let Some(object) = self.begun.take() else { return };
        if let Err(error) = self.repository.store().delete(&object) {
            self.env.warn(&self.folder, &format!("{object} is left behind: {error}"));
        }
    }

    /// Begins an artifact.
    pub(super) fn begin(
        &self,
        name: &str,
        plan: &ArtifactPlan,
        compression: Option<Compression>,
    ) -> Result<(Place, Output)> {
        let compression = compression.unwrap_or(self.compression);
        let suffixes = (compression.suffix(), self.repository.seal_suffix());
        let file = format!("{name}.{}{}{}", plan.extension, suffixes.0, suffixes.1);
        let object = self.repository.object(&self.folder, &file)?;
        let put = self.repository.store().put(&object)?;
        let seal = self.repository.recipients().cloned();
        Ok((Place { object, file, compression }, Output { compression, seal, put }))
    }

    /// It is stored.
    pub(super) fn note(&mut self, place: Place, plan: &ArtifactPlan, encoded: Encoded) {
        let artifact = Artifact {
            role: plan.role.into(),
            name: place.file,
            compression: place.compression.word().into(),
            stored_bytes: encoded.stored_bytes,
            stored_sha256: encoded.stored_sha256.to_string(),
            plain_bytes: encoded.plain_bytes,
            plain_sha256: encoded.plain_sha256.to_string(),
            sealed: self.repository.seal(),
            file: plan.file.clone(),
        };
        let block_bytes = plan.block_bytes;
        self.stored.push(Stored { object: place.object, artifact, encoded, block_bytes });
    }

    /// How many bytes [`Branch::read_back`] will tell of.
    pub(super) fn bytes_to_read_back(&self, deep: bool) -> u64 {
        let of = |stored: &Stored| match deep && stored.block_bytes.is_some() {
            true => stored.encoded.plain_bytes,
            false => stored.encoded.stored_bytes,
        };
        self.stored.iter().map(of).sum()
    }

    /// Reads all back; `deep` also decompresses what has blocks, and compares them one by one.
    pub(super) fn read_back(&mut self, deep: bool) -> Result<()> {
        self.deep = deep && self.stored.iter().any(|stored| stored.block_bytes.is_some());
        self.stored.iter().try_for_each(|stored| self.read_back_one(stored, deep))
    }

    /// Reads the newest artifact back.
    pub(super) fn read_back_last(&self) -> Result<()> {
        self.stored.last().map_or(Ok(()), |stored| self.read_back_one(stored, false))
    }

    fn read_back_one(&self, stored: &Stored, deep: bool) -> Result<()> {
        let (env, store) = (self.env, self.repository.store());
        let progress = |bytes| {
            env.tell(Event::Advanced { bytes });
            env.proceed()
        };
        let (object, encoded, threads) = (&stored.object, &stored.encoded, env.threads);
        match deep && stored.block_bytes.is_some() {
            true => read_back_frames(
                store,
                object,
                encoded,
                self.repository.wrapping(&stored.artifact)?,
                stored.block_bytes,
                threads,
                &progress,
            ),
            false => read_back_bytes(store, object, encoded, threads, &progress),
        }
    }

    /// What the manifest says of the reading back.
    pub(super) fn checks(&self, elapsed_ms: u64) -> Vec<Check> {
        vec![Check {
            name: "read_back".into(),
            on: if self.deep { "stored-pages" } else { "stored-bytes" }.into(),
            outcome: CheckOutcome::Passed,
            notes: Vec::new(),
            elapsed_ms,
        }]
    }

    /// What a check of the held moment looked at. Below a seal nobody can compare it again.
    pub(super) fn held(&self) -> &'static str {
        match self.repository.recipients() {
            Some(_) => "before-seal",
            None => "pinned-snapshot",
        }
    }

    /// Puts the manifest: from here on the backup exists.
    pub(super) fn commit(&mut self, manifest: &Manifest) -> Result<()> {
        self.env.crash.pass("backup.before_manifest")?;
        // The last moment: from here on the backup exists, and an end in time is a success.
        self.env.proceed()?;
        let committed = commit(self.env, &self.repository, &self.folder, manifest);
        committed.map_err(|failed| {
            self.manifest_may_exist = failed.manifest_may_exist;
            failed.error
        })?;
        self.manifest_may_exist = true;
        self.env.crash.pass("backup.after_manifest")?;
        let (subject, name) = (self.folder.as_str(), manifest.name.as_str());
        self.env.tell(Event::BackupCommitted { subject, name });
        self.forget_begun();
        self.keep_hashes(manifest);
        Ok(())
    }

    /// What is sealed cannot be read by who only writes here: what a log needs of it is kept.
    fn keep_hashes(&self, manifest: &Manifest) {
        let Some(of) = self.stored.iter().find(|stored| stored.block_bytes.is_some()) else {
            return;
        };
        if self.repository.recipients().is_none() {
            return;
        }
        let hashes = BlockHashes {
            block_bytes: of.block_bytes.unwrap_or_default(),
            hashes: of.encoded.block_hashes.clone(),
        };
        let ids = (self.record.id, manifest.id);
        if let Err(error) = self.repository.keep_hashes(ids, &hashes) {
            let lost = format!("the hashes of its pages cannot be kept on this host: {error}");
            self.env.warn(&self.folder, &lost);
        }
    }

    /// What a manifest may name is not deleted: half a backup is worse than garbage.
    pub(super) fn clean_up(&mut self) {
        if !self.manifest_may_exist && self.delete() {
            self.forget_begun();
        }
    }

    /// Deletes what a failed run stored. What cannot be deleted is garbage without a manifest:
    /// whether all is gone.
    fn delete(&self) -> bool {
        let mut gone = true;
        for stored in &self.stored {
            if let Err(error) = self.repository.store().delete(&stored.object) {
                let left = format!("{} is left behind, without a manifest: {error}", stored.object);
                self.env.warn(&self.folder, &left);
                gone = false;
            }
        }
        gone
    }
}
