//! What a log file says of itself without a key: for one that is sealed a label in its head, for
//! others the footer.
//!
//! A label has no digest of what the file leads to: it is written before that is known. Instead
//! each names the mark of the file before: the digest of that one's stored bytes. So whoever has no
//! key sees all the same whether files are there, whole and in their order; only of the newest one
//! nobody says what it must be.

use lifeboat_core::repository::Repository;
use lifeboat_core::seal::{self, Recipients};
use lifeboat_core::{Error, Kind, Result};
use uuid::Uuid;

use super::layout::{Digest, Footer};
use super::read::LogObject;

/// What is in the head of the seal.
pub(crate) const LABEL: &str = "pagelog.1";
const LABEL_BYTES: usize = 140;
/// A head is no longer: it has a stanza for each recipient.
const HEAD_BYTES_MAX: u64 = 256 << 10;
/// Most heads are shorter.
const HEAD_BYTES: u64 = 4 << 10;

/// What is known of a log file without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// The source.
    pub(crate) source: Uuid,
    /// The backup that is position 0.
    pub(crate) base: Uuid,
    /// The position after which it begins.
    pub(crate) from: u64,
    /// The position at which it ends.
    pub(crate) to: u64,
    /// Page size in bytes.
    pub(crate) page_size: u32,
    /// Nothing in it was committed before this, in milliseconds since 1970.
    pub(crate) since_ms: i64,
    /// Everything is in it that was committed until this.
    pub(crate) held_ms: i64,
    /// Nothing in it was committed after this.
    pub(crate) until_ms: i64,
    /// The mark of the file before; zeros where nobody knew it, and for the first one.
    pub(crate) mark_before: Digest,
    /// Of a file made of several the mark of the last of them; else zeros: it is the digest of the
    /// stored bytes.
    pub(crate) mark: Digest,
}

impl Label {
    /// That of a file with this footer.
    pub(crate) fn of(footer: &Footer, mark_before: Digest, mark: Digest) -> Self {
        Label {
            source: footer.source,
            base: footer.base,
            from: footer.from,
            to: footer.to,
            page_size: footer.page_size,
            since_ms: footer.since_ms,
            held_ms: footer.held_ms,
            until_ms: footer.until_ms,
            mark_before,
            mark,
        }
    }

    /// Whether it is what that footer says, as far as both say it.
    pub(crate) fn fits(&self, footer: &Footer) -> bool {
        *self == Label::of(footer, self.mark_before, self.mark)
    }

    /// Its bytes in the head.
    pub(crate) fn to_bytes(&self) -> [u8; LABEL_BYTES] {
        let mut bytes = [0; LABEL_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, self.source.as_bytes());
        put(16, self.base.as_bytes());
        put(32, &self.from.to_le_bytes());
        put(40, &self.to.to_le_bytes());
        put(48, &self.page_size.to_le_bytes());
        put(52, &self.since_ms.to_le_bytes());
        put(60, &self.held_ms.to_le_bytes());
        put(68, &self.until_ms.to_le_bytes());
        put(76, &self.mark_before);
        put(108, &self.mark);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LABEL_BYTES] = bytes.try_into().ok()?;
        let long = |at| u64::from_le_bytes(array(bytes, at));
        let label = Label {
            source: Uuid::from_bytes(array(bytes, 0)),
            base: Uuid::from_bytes(array(bytes, 16)),
            from: long(32),
            to: long(40),
            page_size: u32::from_le_bytes(array(bytes, 48)),
            since_ms: long(52).cast_signed(),
            held_ms: long(60).cast_signed(),
            until_ms: long(68).cast_signed(),
            mark_before: array(bytes, 76),
            mark: array(bytes, 108),
        };
        (label.from < label.to).then_some(label)
    }
}

fn array<const N: usize>(bytes: &[u8; LABEL_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

impl LogObject {
    /// What it says of itself without a key. [`Kind::NotCovered`] if that is not what its name
    /// says, [`Kind::CheckFailed`] if it is damaged.
    pub(crate) fn label(&self, repository: &Repository) -> Result<Label> {
        if !self.is_sealed() {
            return Ok(Label::of(&self.footer(repository)?, [0; 32], [0; 32]));
        }
        let (mut wanted, size) = (HEAD_BYTES, self.size(repository)?);
        let bytes = loop {
            let bytes = wanted.min(size);
            let head = self.get(repository, 0..bytes)?;
            match seal::label_of(LABEL, std::io::Read::take(head, bytes)) {
                // Its head is longer than what was read of it.
                Err(error)
                    if error.kind() == Kind::CheckFailed
                        && bytes < size
                        && bytes < HEAD_BYTES_MAX =>
                {
                    wanted *= 8;
                }
                found => break found.map_err(|error| self.damaged(error))?,
            }
        };
        let Some(label) = bytes.as_deref().and_then(Label::parse) else {
            let error = Error::new(Kind::CheckFailed, "its seal has no label of a log file");
            return Err(self.damaged(error));
        };
        match (label.from, label.to) == (self.span.from, self.span.to) {
            true => Ok(label),
            false => Err(self.misplaced(label.from, label.to)),
        }
    }

    /// Its mark, by which the file behind it knows it. Of one that was not made of several, all of
    /// it is read.
    pub(crate) fn mark(&self, repository: &Repository, label: &Label) -> Result<Digest> {
        if self.span.level > 0 {
            return Ok(label.mark);
        }
        let mut hasher = blake3::Hasher::new();
        self.hash_stored(repository, self.size(repository)?, &mut hasher)?;
        Ok(*hasher.finalize().as_bytes())
    }
}

/// To whom the log of a backup is sealed: to whom that backup is. `None` where it is not.
pub(crate) fn recipients_of(
    base: &lifeboat_core::manifest::Manifest,
) -> Result<Option<Recipients>> {
    let sealed = base.artifact(super::history::DATABASE).and_then(|one| one.sealed.as_ref());
    sealed.map(|seal| Recipients::parse(&seal.to)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_comes_back_and_others_are_none() {
        let label = Label {
            source: Uuid::from_u128(1),
            base: Uuid::from_u128(2),
            from: 3,
            to: 4,
            page_size: 4096,
            since_ms: -5,
            held_ms: 6,
            until_ms: 7,
            mark_before: [8; 32],
            mark: [9; 32],
        };
        let bytes = label.to_bytes();
        assert_eq!(Label::parse(&bytes), Some(label.clone()));
        assert_eq!(Label::parse(&bytes[1..]), None);
        let wrong = Label { from: 4, ..label };
        assert_eq!(Label::parse(&wrong.to_bytes()), None);
    }
}
