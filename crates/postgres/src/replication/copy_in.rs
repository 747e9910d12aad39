//! Loading rows: `COPY ... FROM stdin` in a session of its own, in messages of many rows.
//!
//! `pg_restore` sends each row as a message of its own, which costs the server and us more than the
//! row itself.

use bytes::{BufMut, BytesMut};
use lifeboat_core::Result;
use lifeboat_core::env::Env;

use super::connection::{ReplicationConnection, text};
use super::copy_out::CopyOut;
use super::parameters::Parameters;
use super::startup::{self, Purpose};
use crate::client::Client;

/// A message of rows is sent when it has so many bytes.
const MESSAGE_BYTES: usize = 64 << 10;
/// Before its rows: the kind, and the length.
const HEAD_BYTES: usize = 5;

/// A session that loads rows. Its open transaction is rolled back when it is dropped.
pub struct LoadingConnection(ReplicationConnection);

impl LoadingConnection {
    /// Connects to the database of the client's address, with settings of the session: `-c
    /// name=value`.
    pub fn open(env: &Env, client: &Client, settings: &str, what: &str) -> Result<Self> {
        let parameters = Parameters::of(client.address(), client.options())?;
        let purpose = Purpose::Statements { settings };
        startup::open(env, &parameters, client.options(), purpose, what).map(LoadingConnection)
    }

    /// Runs a statement whose answer nobody needs.
    pub fn execute(&mut self, statement: &str) -> Result<()> {
        self.0.query(statement).map(drop)
    }

    /// The only number of the only row of a query.
    pub fn number(&mut self, query: &str) -> Result<u64> {
        let rows = self.0.query(query)?;
        let number = rows.first().and_then(|row| text(row, 0)?.parse().ok());
        number.ok_or_else(|| self.0.nonsense(query))
    }

    /// The rows of a query, as text.
    pub fn rows(&mut self, query: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.0.query(query)
    }

    /// The server's major version: 15.
    pub fn server_major(&self) -> u32 {
        self.0.server_major()
    }

    /// Begins to read rows with that `COPY ... TO stdout`.
    pub fn copy_out(&mut self, statement: &str) -> Result<CopyOut<'_>> {
        CopyOut::begin(&mut self.0, statement)
    }

    /// Begins to load rows with that `COPY ... FROM stdin`.
    pub fn copy_in(&mut self, statement: &str) -> Result<CopyIn<'_>> {
        self.0.send_query(statement)?;
        match self.0.message()? {
            b'G' => {
                let mut rows = CopyIn { connection: &mut self.0 };
                rows.begin_message();
                Ok(rows)
            }
            other => Err(self.0.unexpected(other)),
        }
    }
}

/// Rows on their way to the server.
pub struct CopyIn<'a> {
    connection: &'a mut ReplicationConnection,
}

impl CopyIn<'_> {
    /// Takes rows, or a part of one, as the form of COPY that was asked for has them.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let outbox = self.connection.outbox();
        outbox.put_slice(bytes);
        match outbox.len() >= MESSAGE_BYTES {
            true => self.send(),
            false => Ok(()),
        }
    }

    /// Ends the rows. How many the server took.
    pub fn finish(mut self) -> Result<u64> {
        self.send()?;
        let outbox = self.connection.outbox();
        outbox.clear();
        postgres_protocol::message::frontend::copy_done(outbox);
        self.connection.flush()?;
        let rows = match self.connection.message()? {
            b'C' => rows_of(self.connection.body()),
            other => return Err(self.connection.unexpected(other)),
        };
        self.connection.until_ready()?;
        rows.ok_or_else(|| self.connection.nonsense("COPY"))
    }

    fn begin_message(&mut self) {
        let outbox = self.connection.outbox();
        outbox.put_bytes(b'd', 1);
        outbox.put_bytes(0, HEAD_BYTES - 1);
    }

    fn send(&mut self) -> Result<()> {
        let outbox: &mut BytesMut = self.connection.outbox();
        // The length counts itself, but not the kind.
        let length = (outbox.len() - 1) as u32;
        outbox[1..HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        self.connection.flush()?;
        self.begin_message();
        Ok(())
    }
}

/// The number in what a command says of itself when it is done: `COPY 5`.
fn rows_of(tag: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(tag.strip_suffix(&[0])?).ok()?;
    text.strip_prefix("COPY ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_that_were_taken_are_read() {
        assert_eq!(rows_of(b"COPY 5000000\0"), Some(5_000_000));
        for wrong in [&b"COPY\0"[..], b"COPY x\0", b"INSERT 0 1\0", b"COPY 1", b"\xff\0", b""] {
            assert_eq!(rows_of(wrong), None, "{wrong:?}");
        }
    }
}
