//! `BASE_BACKUP`: the command in the words of each version, and what comes back.
//!
//! Up to version 14 each tablespace is a stream of its own, and the manifest too. From version 15
//! on all of it is one stream, whose messages say by their first byte what they are.

use lifeboat_core::{Error, Kind, Result};

use super::connection::{ReplicationConnection, quoted_text, text};
use super::lsn::Lsn;
use crate::failure::code_of;

/// The first version with options in parentheses and one stream for everything.
const ONE_STREAM_MAJOR: u32 = 15;
/// The first version that can back up what changed alone.
pub(super) const INCREMENTAL_MAJOR: u32 = 17;

/// How the checkpoint before a backup is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once, as fast as the disks are.
    #[default]
    Fast,
    /// Spread over time, as the server makes its own: the backup begins minutes later.
    Spread,
}

/// What a base backup is asked for.
#[derive(Clone, Debug, Default)]
pub struct BaseBackupOptions {
    /// Its label, which `backup_label` shows.
    pub label: String,
    /// How the checkpoint before it is made.
    pub checkpoint: Checkpoint,
    /// Whether the write-ahead log that it needs is in it.
    pub include_wal: bool,
    /// The most that the server sends, in KiB a second.
    pub max_rate_kib: Option<u32>,
    /// Whether only what changed since the uploaded manifest is sent.
    pub incremental: bool,
}

/// A tablespace of a backup, or the main data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its oid; `None` for the main data directory.
    pub oid: Option<u32>,
    /// Where it is on the server; `None` for the main data directory.
    pub location: Option<String>,
    /// About how many bytes it has.
    pub bytes: u64,
}

/// What is known when a backup begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupStart {
    /// Where recovery of it begins.
    pub position: Lsn,
    /// The timeline of that position.
    pub timeline: u32,
    /// What will be sent, in this order; the main data directory last.
    pub tablespaces: Vec<Tablespace>,
}

/// How a backup ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupEnd {
    /// Up to where recovery must go before the backup is consistent.
    pub position: Lsn,
    /// The timeline of that position.
    pub timeline: u32,
    /// The server found pages with wrong checksums.
    pub checksums_failed: bool,
    /// What the server remarked meanwhile, such as the first bad blocks of each file.
    pub notices: Vec<String>,
}

/// A piece of a backup.
#[derive(Debug)]
pub enum Piece<'a> {
    /// The next tablespace begins, in the order of [`BackupStart::tablespaces`].
    Archive(usize),
    /// The server's manifest begins. It comes last.
    Manifest,
    /// Bytes of what began last.
    Bytes(&'a [u8]),
    /// All was sent.
    End(BackupEnd),
}

/// A base backup that is being sent.
pub struct BaseBackup {
    connection: ReplicationConnection,
    start: BackupStart,
    archives_begun: usize,
    /// Whether a stream is open.
    copying: bool,
    end: Option<(Lsn, u32)>,
}

impl ReplicationConnection {
    /// Begins a base backup. Returns when the server's checkpoint is made.
    pub fn base_backup(mut self, options: &BaseBackupOptions) -> Result<BaseBackup> {
        let command = command(options, self.server_major());
        self.take_notices();
        self.send_query(&command)?;
        let (position, timeline) = self.position()?;
        let tablespaces = self.tablespaces()?;
        let start = BackupStart { position, timeline, tablespaces };
        Ok(BaseBackup { connection: self, start, archives_begun: 0, copying: false, end: None })
    }

    /// A result with a position and a timeline.
    fn position(&mut self) -> Result<(Lsn, u32)> {
        let rows = self.result()?;
        let found = rows
            .first()
            .and_then(|row| Some((text(row, 0)?.parse().ok()?, text(row, 1)?.parse().ok()?)));
        found.ok_or_else(|| self.nonsense("BASE_BACKUP"))
    }

    fn tablespaces(&mut self) -> Result<Vec<Tablespace>> {
        let rows = self.result()?;
        let tablespace = |row: &Vec<Option<String>>| {
            let kib: u64 = text(row, 2).and_then(|text| text.parse().ok()).unwrap_or(0);
            Tablespace {
                oid: text(row, 0).and_then(|text| text.parse().ok()),
                location: text(row, 1).map(str::to_owned),
                bytes: kib * 1024,
            }
        };
        let tablespaces: Vec<Tablespace> = rows.iter().map(tablespace).collect();
        let main_is_last = tablespaces.last().is_some_and(|last| last.oid.is_none());
        let mains = tablespaces.iter().filter(|tablespace| tablespace.oid.is_none()).count();
        match main_is_last && mains == 1 {
            true => Ok(tablespaces),
            false => Err(self.nonsense("BASE_BACKUP")),
        }
    }

    /// The rows of one result of several.
    fn result(&mut self) -> Result<Vec<Vec<Option<String>>>> {
        let mut rows = Vec::new();
        loop {
            match self.message()? {
                b'T' => {}
                b'D' => rows.push(self.row()),
                b'C' => return Ok(rows),
                other => return Err(self.unexpected(other)),
            }
        }
    }
}

impl BaseBackup {
    /// What was known when it began.
    pub fn start(&self) -> &BackupStart {
        &self.start
    }

    /// The connection, once the backup has ended.
    pub fn into_connection(self) -> ReplicationConnection {
        self.connection
    }

    /// The next piece. After [`Piece::End`] there is none.
    pub fn piece(&mut self) -> Result<Piece<'_>> {
        let one_stream = self.connection.server_major() >= ONE_STREAM_MAJOR;
        loop {
            let tag = match self.connection.message() {
                Ok(tag) => tag,
                // All is here: the server has only told that pages are damaged.
                Err(error) if self.end.is_some() && code_of(&error) == Some("XX001") => {
                    self.connection.until_ready()?;
                    return self.ended(true);
                }
                Err(error) => return Err(error),
            };
            match tag {
                b'H' if !self.copying => {
                    self.copying = true;
                    if !one_stream {
                        return self.begun_in_turn();
                    }
                }
                b'd' if self.copying && !one_stream => {
                    return Ok(Piece::Bytes(self.connection.body()));
                }
                b'd' if self.copying => match self.connection.body().first() {
                    Some(b'n') => return self.begun(),
                    Some(b'm') => return Ok(Piece::Manifest),
                    Some(b'd') => return Ok(Piece::Bytes(&self.connection.body()[1..])),
                    // How far it is, which we know from the bytes.
                    Some(b'p') => {}
                    _ => return Err(self.connection.nonsense("BASE_BACKUP")),
                },
                b'c' if self.copying => self.copying = false,
                b'T' | b'C' if !self.copying => {}
                b'D' if !self.copying => {
                    let row = self.connection.row();
                    let position = text(&row, 0).and_then(|text| text.parse().ok());
                    let timeline = text(&row, 1).and_then(|text| text.parse().ok());
                    self.end = position.zip(timeline);
                }
                b'Z' if !self.copying => return self.ended(false),
                other => return Err(self.connection.unexpected(other)),
            }
        }
    }

    /// Of streams one after another: the tablespaces, then the manifest.
    fn begun_in_turn(&mut self) -> Result<Piece<'_>> {
        let index = self.archives_begun;
        if index >= self.start.tablespaces.len() {
            return Ok(Piece::Manifest);
        }
        self.archives_begun += 1;
        Ok(Piece::Archive(index))
    }

    /// An archive by its name: `16384.tar`, or `base.tar`.
    fn begun(&mut self) -> Result<Piece<'_>> {
        let name = self.connection.body()[1..].split(|byte| *byte == 0).next();
        let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
        let index = self.archives_begun;
        let expected = self.start.tablespaces.get(index).map(|tablespace| match tablespace.oid {
            Some(oid) => format!("{oid}.tar"),
            None => "base.tar".to_owned(),
        });
        if expected.as_ref() != Some(&name) {
            return Err(self.connection.nonsense("BASE_BACKUP"));
        }
        self.archives_begun += 1;
        Ok(Piece::Archive(index))
    }

    fn ended(&mut self, checksums_failed: bool) -> Result<Piece<'_>> {
        let whole = self.archives_begun == self.start.tablespaces.len();
        match self.end.filter(|_| whole) {
            Some((position, timeline)) => Ok(Piece::End(BackupEnd {
                position,
                timeline,
                checksums_failed,
                notices: self.connection.take_notices(),
            })),
            None => {
                let what = self.connection.what();
                Err(Error::new(Kind::Failed, format!("{what}: the backup ended before its end")))
            }
        }
    }
}

/// The command in the words of that version. The server checks pages, and goes on when one is
/// wrong: it tells at the end.
fn command(options: &BaseBackupOptions, major: u32) -> String {
    let label = quoted_text(&options.label);
    let rate = options.max_rate_kib;
    if major < ONE_STREAM_MAJOR {
        let mut words = format!("BASE_BACKUP LABEL {label} PROGRESS");
        if options.checkpoint == Checkpoint::Fast {
            words.push_str(" FAST");
        }
        // Without the word the server waits until its archiver has everything.
        words.push_str(if options.include_wal { " WAL NOWAIT" } else { "" });
        if let Some(rate) = rate {
            words.push_str(&format!(" MAX_RATE {rate}"));
        }
        words.push_str(" TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'");
        return words;
    }
    let checkpoint = match options.checkpoint {
        Checkpoint::Fast => "fast",
        Checkpoint::Spread => "spread",
    };
    let mut words = vec![
        format!("LABEL {label}"),
        "PROGRESS".to_owned(),
        format!("CHECKPOINT '{checkpoint}'"),
        "TABLESPACE_MAP".to_owned(),
        "MANIFEST 'yes'".to_owned(),
        "MANIFEST_CHECKSUMS 'CRC32C'".to_owned(),
    ];
    if options.include_wal {
        words.extend(["WAL".to_owned(), "WAIT 0".to_owned()]);
    }
    words.extend(rate.map(|rate| format!("MAX_RATE {rate}")));
    if options.incremental {
        words.push("INCREMENTAL".to_owned());
    }
    format!("BASE_BACKUP ({})", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_in_the_words_of_the_version() {
        let options = BaseBackupOptions {
            label: "it's".into(),
            include_wal: true,
            max_rate_kib: Some(32),
            ..BaseBackupOptions::default()
        };
        assert_eq!(
            command(&options, 14),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST WAL NOWAIT MAX_RATE 32 TABLESPACE_MAP \
             MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
        );
        assert_eq!(
            command(&options, 15),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', TABLESPACE_MAP, \
             MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', WAL, WAIT 0, MAX_RATE 32)"
        );
        let spread = BaseBackupOptions {
            incremental: true,
            checkpoint: Checkpoint::Spread,
            ..BaseBackupOptions::default()
        };
        assert_eq!(
            command(&spread, 17),
            "BASE_BACKUP (LABEL '', PROGRESS, CHECKPOINT 'spread', TABLESPACE_MAP, \
             MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', INCREMENTAL)"
        );
    }
}
