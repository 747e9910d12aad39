//! Reading rows: `COPY ... TO stdout` in a session of its own, row by row as they come.

use lifeboat_core::Result;

use super::connection::ReplicationConnection;

/// Rows on their way from the server. What is left is read when it is finished.
pub struct CopyOut<'a> {
    connection: &'a mut ReplicationConnection,
    ended: bool,
}

impl<'a> CopyOut<'a> {
    pub(super) fn begin(connection: &'a mut ReplicationConnection, query: &str) -> Result<Self> {
        connection.send_query(query)?;
        match connection.message()? {
            b'H' => Ok(CopyOut { connection, ended: false }),
            other => Err(connection.unexpected(other)),
        }
    }

    /// The next message of rows, as the form that was asked for has them; `None` after the last.
    pub fn next_piece(&mut self) -> Result<Option<&[u8]>> {
        while !self.ended {
            match self.connection.message()? {
                b'd' => return Ok(Some(self.connection.body())),
                b'c' | b'C' => {}
                b'Z' => self.ended = true,
                other => return Err(self.connection.unexpected(other)),
            }
        }
        Ok(None)
    }
}
