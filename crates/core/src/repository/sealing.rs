//! To whom a repository's objects are sealed, and what opens them.

use std::sync::Arc;

use super::Repository;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Artifact, Seal};
use crate::pipeline::{Compression, Wrapping};
use crate::seal::{self, Identity, Keys, Recipients};

/// A key that is in memory already.
struct KeyAtHand(Arc<Identity>);

impl Keys for KeyAtHand {
    fn identity(&self) -> Result<Arc<Identity>> {
        Ok(Arc::clone(&self.0))
    }
}

impl Repository {
    /// The same, and what is stored from now on is sealed to those recipients.
    #[must_use]
    pub fn sealed_to(self, recipients: Option<Arc<Recipients>>) -> Self {
        Repository { recipients, ..self }
    }

    /// The same, with what opens its sealed objects.
    #[must_use]
    pub fn with_keys(self, keys: Option<Arc<dyn Keys>>) -> Self {
        Repository { keys, ..self }
    }

    /// The same for one run that seals and reads back. What it stores can be opened by this run
    /// too: with a key that nobody ever sees, and that is gone when the run ends. So a host
    /// without an identity can restore to a scratch place what it has just stored.
    pub(crate) fn with_passing_key(&self) -> Self {
        let Some(recipients) = &self.recipients else { return self.clone() };
        let (recipients, identity) = recipients.with_passing_key();
        Repository {
            recipients: Some(Arc::new(recipients)),
            keys: Some(Arc::new(KeyAtHand(Arc::new(identity)))),
            ..self.clone()
        }
    }

    /// To whom it is sealed what is stored here, if it is.
    pub fn recipients(&self) -> Option<&Arc<Recipients>> {
        self.recipients.as_ref()
    }

    /// What a manifest says of the seal of what is stored now.
    pub fn seal(&self) -> Option<Seal> {
        let recipients = self.recipients.as_ref()?;
        Some(Seal { format: seal::WORD.into(), to: recipients.names().to_vec() })
    }

    /// The end of the name of an object that is stored now, behind that of its compression.
    pub fn seal_suffix(&self) -> &'static str {
        match self.recipients {
            Some(_) => seal::SUFFIX,
            None => "",
        }
    }

    /// What opens what is sealed here, if anything was named.
    pub fn keys(&self) -> Option<&Arc<dyn Keys>> {
        self.keys.as_ref()
    }

    /// What lies around the plain bytes of an artifact, with what it takes to open it.
    /// [`Kind::WrongKey`] where a key is missing.
    pub fn wrapping(&self, artifact: &Artifact) -> Result<Wrapping> {
        let compression: Compression = artifact.compression.parse().map_err(|error: Error| {
            error.context(format!("{} has an unknown compression", artifact.name))
        })?;
        let opener = match &artifact.sealed {
            None => None,
            Some(seal) if seal.format != seal::WORD => {
                let message = format!("{} has an unknown seal: {}", artifact.name, seal.format);
                return Err(Error::new(Kind::Failed, message).hint("use a newer lifeboat"));
            }
            Some(seal) => Some(seal::opener_of(self.keys.as_deref(), &artifact.name, &seal.to)?),
        };
        Ok(Wrapping { compression, opener })
    }
}
