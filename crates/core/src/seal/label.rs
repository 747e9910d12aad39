//! What a sealed object says of itself without a key: a label in its head.
//!
//! The head of an age file is a list of stanzas, one for each recipient, and whoever opens it skips
//! those that it does not know. A label is such a stanza: `age -d` opens the file as any other, and
//! whoever has a key knows that the label is the one that was sealed with it, as the head is
//! authenticated with the file's key.

use std::cell::RefCell;
use std::collections::HashSet;

use age::{DecryptError, EncryptError};
use age_core::format::{FileKey, Stanza};

/// The tag of our stanzas.
const TAG: &str = "lifeboat";

/// Bytes that are put into the head as they are. The argument says what they are.
pub(super) struct Label<'a> {
    pub(super) kind: &'a str,
    pub(super) bytes: &'a [u8],
}

impl age::Recipient for Label<'_> {
    fn wrap_file_key(&self, _: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let (tag, args) = (TAG.to_owned(), vec![self.kind.to_owned()]);
        Ok((vec![Stanza { tag, args, body: self.bytes.to_vec() }], HashSet::new()))
    }
}

/// Looks at all stanzas of a head, and opens none.
pub(super) struct Looking<'a> {
    kind: &'a str,
    found: RefCell<Option<Vec<u8>>>,
}

impl<'a> Looking<'a> {
    pub(super) fn for_kind(kind: &'a str) -> Self {
        Looking { kind, found: RefCell::default() }
    }

    pub(super) fn found(self) -> Option<Vec<u8>> {
        self.found.into_inner()
    }
}

impl age::Identity for Looking<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        if stanza.tag == TAG && stanza.args == [self.kind] {
            self.found.replace(Some(stanza.body.clone()));
        }
        None
    }
}
