//! What lies around the plain bytes of an object: a compression, and maybe a seal around that.

use std::io::Read;

use super::Compression;
use crate::error::Result;
use crate::seal::Opener;

/// How an object is wrapped, with what it takes to unwrap it.
#[derive(Clone)]
pub struct Wrapping {
    /// The compression, below the seal.
    pub compression: Compression,
    /// What opens the seal, where there is one.
    pub opener: Option<Opener>,
}

impl Wrapping {
    /// The bytes below the seal.
    pub(super) fn open<'r, R: Read + Send + 'r>(
        &self,
        object: &str,
        stored: R,
    ) -> Result<Box<dyn Read + Send + 'r>> {
        match &self.opener {
            None => Ok(Box::new(stored)),
            Some(opener) => opener.open(object, stored),
        }
    }
}

impl From<Compression> for Wrapping {
    fn from(compression: Compression) -> Self {
        Wrapping { compression, opener: None }
    }
}
