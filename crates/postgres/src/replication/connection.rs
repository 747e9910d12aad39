//! A connection in replication mode: questions, answers in rows, errors of the server.

use std::collections::BTreeMap;

use bytes::BytesMut;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use postgres_protocol::message::frontend;

use super::lsn::Lsn;
use super::parameters::Parameters;
use super::startup::{self, Purpose};
use super::wire::Wire;
use crate::client::Client;
use crate::failure;

/// So many of the server's notices are kept.
const NOTICES_MAX: usize = 1_000;
/// An answer with more rows than this is none of a replication command.
const ROWS_MAX: usize = 100_000;

/// A connection to a server in replication mode. Closed when dropped.
pub struct ReplicationConnection {
    wire: Wire,
    /// What the server says of itself: `server_version` among others.
    settings: BTreeMap<String, String>,
    notices: Vec<String>,
    /// After an error the server says when it waits for commands again.
    ready_is_owed: bool,
}

/// Which cluster it is, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The number that `initdb` gave the cluster; copies of it have the same.
    pub system_identifier: u64,
    /// Its timeline.
    pub timeline: u32,
    /// The end of what is flushed to its write-ahead log.
    pub position: Lsn,
}

/// What a replication slot holds on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// From where on the write-ahead log is kept for it, if it holds on to any.
    pub restart: Option<Lsn>,
    /// The timeline of that position.
    pub timeline: Option<u32>,
}

/// Rows of text.
pub(super) type Rows = Vec<Vec<Option<String>>>;

impl ReplicationConnection {
    /// Connects as the client library would, in replication mode. `what` says what is tried, for
    /// errors: "cannot back up postgresql://db/".
    pub fn open(env: &Env, client: &Client, what: &str) -> Result<Self> {
        let parameters = Parameters::of(client.address(), client.options())?;
        startup::open(env, &parameters, client.options(), Purpose::Replication, what)
    }

    pub(super) fn new(wire: Wire) -> Self {
        ReplicationConnection {
            wire,
            settings: BTreeMap::new(),
            notices: Vec::new(),
            ready_is_owed: false,
        }
    }

    /// The server's version as it says it: "15.18 (Debian 15.18-0+deb12u1)".
    pub fn server_version(&self) -> &str {
        self.settings.get("server_version").map_or("", String::as_str)
    }

    /// The server's major version: 15.
    pub fn server_major(&self) -> u32 {
        let version = self.server_version();
        let digits = version.split(|letter: char| !letter.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// Which cluster this is.
    pub fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.query("IDENTIFY_SYSTEM")?;
        let identity = rows.first().and_then(|row| {
            Some(SystemIdentity {
                system_identifier: text(row, 0)?.parse().ok()?,
                timeline: text(row, 1)?.parse().ok()?,
                position: text(row, 2)?.parse().ok()?,
            })
        });
        identity.ok_or_else(|| self.nonsense("IDENTIFY_SYSTEM"))
    }

    /// The value of a setting of the server.
    pub fn show(&mut self, setting: &str) -> Result<String> {
        let rows = self.query(&format!("SHOW {setting}"))?;
        let value = rows.first().and_then(|row| text(row, 0)).map(str::to_owned);
        value.ok_or_else(|| self.nonsense(setting))
    }

    /// Makes a physical slot. One that is temporary is gone with this connection; one that
    /// reserves holds on to the write-ahead log from now on, else from its first use.
    pub fn create_slot(&mut self, name: &str, temporary: bool, reserve: bool) -> Result<()> {
        let word = |wanted: bool, word: &'static str| if wanted { word } else { "" };
        // The form that versions before 15 know; newer ones take it too.
        let command = format!(
            "CREATE_REPLICATION_SLOT {}{} PHYSICAL{}",
            quoted_name(name),
            word(temporary, " TEMPORARY"),
            word(reserve, " RESERVE_WAL"),
        );
        self.query(&command).map(drop)
    }

    /// Removes a slot; with `wait`, once nobody uses it any more.
    pub fn drop_slot(&mut self, name: &str, wait: bool) -> Result<()> {
        let wait = if wait { " WAIT" } else { "" };
        self.query(&format!("DROP_REPLICATION_SLOT {}{wait}", quoted_name(name))).map(drop)
    }

    /// What a physical slot holds on to; `None` where there is no such slot. From version 15 on.
    pub fn read_slot(&mut self, name: &str) -> Result<Option<SlotState>> {
        let rows = self.query(&format!("READ_REPLICATION_SLOT {}", quoted_name(name)))?;
        let row = rows.first().filter(|row| text(row, 0).is_some());
        Ok(row.map(|row| SlotState {
            restart: text(row, 1).and_then(|text| text.parse().ok()),
            timeline: text(row, 2).and_then(|text| text.parse().ok()),
        }))
    }

    /// The history file of a timeline: its name and its bytes.
    pub fn timeline_history(&mut self, timeline: u32) -> Result<(String, Vec<u8>)> {
        // The content is sent as it lies there, and is text: steps and reasons.
        let rows = self.query(&format!("TIMELINE_HISTORY {timeline}"))?;
        let mut columns = rows.into_iter().next().unwrap_or_default().into_iter().flatten();
        match (columns.next(), columns.next()) {
            (Some(name), Some(content)) => Ok((name, content.into_bytes())),
            _ => Err(self.nonsense("TIMELINE_HISTORY")),
        }
    }

    /// What the server remarked since this was last asked.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Sends a command, and reads all rows of its answer.
    pub(super) fn query(&mut self, command: &str) -> Result<Rows> {
        self.send_query(command)?;
        let mut rows = Rows::new();
        loop {
            match self.message()? {
                b'T' | b'C' | b'I' => {}
                b'D' if rows.len() < ROWS_MAX => rows.push(self.row()),
                b'Z' => return Ok(rows),
                other => return Err(self.unexpected(other)),
            }
        }
    }

    /// Sends a command without waiting for its answer.
    pub(super) fn send_query(&mut self, command: &str) -> Result<()> {
        if self.ready_is_owed {
            self.until_ready()?;
        }
        frontend::query(command, &mut self.wire.outbox)
            .map_err(|error| Error::io(Kind::Failed, "a command cannot be sent", error))?;
        self.wire.flush()
    }

    /// The kind of the next message that is not a remark. An error of the server is one.
    pub(super) fn message(&mut self) -> Result<u8> {
        match self.next(None)? {
            Some(tag) => Ok(tag),
            None => Err(Error::new(Kind::Failed, "a wait without a limit ended")),
        }
    }

    /// The same, within that time.
    pub(super) fn message_within(&mut self, within_ms: u64) -> Result<u8> {
        self.next(Some(within_ms))?.ok_or_else(|| {
            let message = format!("{}: timeout expired: the server says nothing", self.what());
            Error::new(Kind::SourceUnavailable, message)
                .hint("is this a PostgreSQL server, and has it too much to do?")
        })
    }

    /// The kind of the next message that is not a remark, if one comes within that time.
    pub(super) fn next(&mut self, within_ms: Option<u64>) -> Result<Option<u8>> {
        loop {
            let Some(tag) = self.wire.receive(within_ms)? else { return Ok(None) };
            match tag {
                b'S' => {
                    let mut parts = self.wire.body().split(|byte| *byte == 0).map(lossy);
                    if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                        self.settings.insert(name, value);
                    }
                }
                b'N' => {
                    let notice = ServerMessage::of(self.wire.body());
                    if self.notices.len() < NOTICES_MAX {
                        self.notices.push(notice.message);
                    }
                }
                b'A' => {}
                b'E' => {
                    let error = ServerMessage::of(self.wire.body());
                    self.ready_is_owed = true;
                    return Err(failure::of_server(self.wire.what(), &error));
                }
                tag => return Ok(Some(tag)),
            }
        }
    }

    /// Reads until the server waits for a command.
    pub(super) fn until_ready(&mut self) -> Result<()> {
        loop {
            match self.message()? {
                b'Z' => {
                    self.ready_is_owed = false;
                    return Ok(());
                }
                b'K' | b'C' | b'T' | b'D' => {}
                other => return Err(self.unexpected(other)),
            }
        }
    }

    pub(super) fn body(&self) -> &[u8] {
        self.wire.body()
    }

    pub(super) fn what(&self) -> &str {
        self.wire.what()
    }

    pub(super) fn outbox(&mut self) -> &mut BytesMut {
        &mut self.wire.outbox
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.wire.flush()
    }

    /// The row that the newest message is.
    pub(super) fn row(&self) -> Vec<Option<String>> {
        let mut rest = self.wire.body();
        let count = take_u16(&mut rest).unwrap_or(0);
        let mut row = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            let bytes = length.and_then(|length| after.get(..length));
            row.push(bytes.map(lossy));
            rest = after.get(bytes.map_or(0, <[u8]>::len)..).unwrap_or_default();
        }
        row
    }

    pub(super) fn unexpected(&self, tag: u8) -> Error {
        let shown = char::from(tag).escape_default();
        let message = format!("{}: an unexpected message came: `{shown}`", self.what());
        Error::new(Kind::Failed, message).hint("is a pooler in between? connect to the server")
    }

    pub(super) fn nonsense(&self, command: &str) -> Error {
        let message = format!("{}: the answer to {command} makes no sense", self.what());
        Error::new(Kind::Failed, message).hint("is a pooler in between? connect to the server")
    }
}

/// An error or a remark of the server, in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerMessage {
    /// `ERROR`, `FATAL`, in English.
    pub(crate) severity: String,
    /// The five letters of the SQLSTATE.
    pub(crate) code: String,
    /// What happened, in the server's language.
    pub(crate) message: String,
    /// More of it.
    pub(crate) detail: String,
}

impl ServerMessage {
    fn of(body: &[u8]) -> Self {
        let mut found = ServerMessage::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, value)) = field.split_first() else { break };
            let place = match kind {
                b'V' => &mut found.severity,
                b'C' => &mut found.code,
                b'M' => &mut found.message,
                b'D' => &mut found.detail,
                _ => continue,
            };
            *place = lossy(value);
        }
        found
    }
}

pub(super) fn text(row: &[Option<String>], column: usize) -> Option<&str> {
    row.get(column)?.as_deref()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn take_u16(bytes: &mut &[u8]) -> Option<u16> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u16::from_be_bytes(*number))
}

/// A name as the replication grammar takes it, whatever letters are in it.
pub(super) fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as the replication grammar takes it.
pub(super) fn quoted_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
