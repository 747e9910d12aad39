//! A place in a `-wal` as it is stored: with a state of a database it says which one that is, so
//! that later the frames behind the place are what has changed since, and nothing else has.

use serde_json::{Map, Value};

use crate::ffi::Mark;

/// The fact of a manifest that holds it.
pub(crate) const FACT: &str = "wal_place";
/// Bytes of a place that is stored.
const BYTES: usize = 20;

/// The frame with which a state ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPlace {
    /// Both salts of the `-wal`, as they stand in its header.
    pub salts: [u8; 8],
    /// The last frame that belongs to the state; 0 where it was the one that the log begins with.
    pub frame: u32,
    /// The cumulative checksum after that frame; of no meaning for frame 0.
    pub checksum: (u32, u32),
}

impl WalPlace {
    /// The place of a read mark.
    pub(crate) fn of(mark: &Mark) -> Self {
        let Mark { frame_max, checksum, salts, .. } = *mark;
        WalPlace { salts, frame: frame_max, checksum }
    }

    /// As it is stored.
    pub(crate) fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&self.salts);
        bytes[8..12].copy_from_slice(&self.frame.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.checksum.0.to_le_bytes());
        bytes[16..].copy_from_slice(&self.checksum.1.to_le_bytes());
        bytes
    }

    /// Reads it; `None` where zeros stand for a state of which it is not known.
    pub(crate) fn parse(bytes: [u8; BYTES]) -> Option<Self> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut salts = [0; 8];
        salts.copy_from_slice(&bytes[..8]);
        let place = WalPlace { salts, frame: word(8), checksum: (word(12), word(16)) };
        (bytes != [0; BYTES]).then_some(place)
    }

    /// As a fact of a manifest: hexadecimal digits.
    pub(crate) fn to_text(self) -> String {
        self.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// That of a backup, by the facts of its manifest.
    pub fn of_facts(facts: &Map<String, Value>) -> Option<Self> {
        WalPlace::of_text(facts.get(FACT)?.as_str()?)
    }

    fn of_text(text: &str) -> Option<Self> {
        let mut bytes = [0; BYTES];
        if text.len() != 2 * BYTES || !text.is_ascii() {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        WalPlace::parse(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_again() {
        let place = WalPlace { salts: *b"saltsalt", frame: 77, checksum: (5, u32::MAX) };
        assert_eq!(WalPlace::parse(place.to_bytes()), Some(place));
        assert_eq!(WalPlace::of_text(&place.to_text()), Some(place));
        assert_eq!(WalPlace::parse([0; BYTES]), None);
        for text in ["", "00", &"0".repeat(40), &"x".repeat(40), &"ä".repeat(20)] {
            assert_eq!(WalPlace::of_text(text), None, "{text}");
        }
    }
}
