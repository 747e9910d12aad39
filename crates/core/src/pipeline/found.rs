//! A file that was found somewhere: its first bytes say how it is wrapped, whatever its name says.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use super::Compression;
use crate::error::{Error, Kind, Result};
use crate::seal::{self, Keys};
use crate::store::ObjectReader;

/// How many bytes show what a file is.
const FIRST_BYTES: u64 = 40;

/// A file that is open for reading.
pub struct Found {
    /// Its bytes below a seal.
    pub reader: ObjectReader,
    /// Their compression.
    pub compression: Compression,
    /// Whether there are none.
    pub is_empty: bool,
}

/// Opens a file, and its seal if it has one. [`Kind::WrongKey`] where that takes another key.
pub fn open_found(path: &Path, keys: Option<&dyn Keys>) -> Result<Found> {
    let name = path.display().to_string();
    let failed = |error| Error::io(Kind::SourceUnavailable, format!("cannot read {name}"), error);
    let file = File::open(path).map_err(failed)?;
    let (first, reader) = peek(Box::new(file)).map_err(failed)?;
    if !seal::is_sealed(&first) {
        let compression = Compression::detect(&first);
        return Ok(Found { reader, compression, is_empty: first.is_empty() });
    }
    let opened = seal::opener_of(keys, &name, &[])?.open(&name, reader);
    let opened = opened.map_err(|error| damaged(&name, error))?;
    let (first, reader) = peek(opened).map_err(|error| match error.downcast::<Error>() {
        Ok(error) => damaged(&name, error),
        Err(error) => failed(error),
    })?;
    Ok(Found { reader, compression: Compression::detect(&first), is_empty: first.is_empty() })
}

fn damaged(name: &str, error: Error) -> Error {
    match error.kind() {
        Kind::CheckFailed => error.context(format!("{name} is damaged")),
        _ => error,
    }
}

/// The first bytes, and a reader that gives them again.
fn peek(mut reader: ObjectReader) -> std::io::Result<(Vec<u8>, ObjectReader)> {
    let mut first = Vec::new();
    Read::by_ref(&mut reader).take(FIRST_BYTES).read_to_end(&mut first)?;
    let again = Box::new(Cursor::new(first.clone()).chain(reader));
    Ok((first, again))
}
