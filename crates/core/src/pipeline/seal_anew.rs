//! From one seal to another: stored bytes are opened and sealed again, what lies below stays as it
//! is.

use std::sync::Arc;

use super::read_back::Progress;
use super::sending::Sending;
use super::{Compression, Encoded, Expectation, Wrapping, decode};
use crate::error::Result;
use crate::seal::{Opener, Recipients};
use crate::store::{ObjectReader, Put};

/// Reads an object that is sealed for `opener`, or not at all, and stores it sealed to the
/// recipients. It is committed only if what was read is what was expected.
pub(crate) fn seal_anew(
    (reader, opener): (ObjectReader, Option<Opener>),
    expectation: &Expectation<'_>,
    (put, recipients): (Box<dyn Put>, &Arc<Recipients>),
    progress: &Progress<'_>,
) -> Result<Encoded> {
    let mut sending = Sending::begin(put, Some(recipients), true)?;
    let wrapping = Wrapping { compression: Compression::None, opener };
    decode(reader, wrapping, 1, expectation, &mut |bytes| {
        sending.write(bytes)?;
        progress(bytes.len() as u64)
    })?;
    sending.finish()?.commit()
}
