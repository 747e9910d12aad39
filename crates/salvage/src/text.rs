//! The three encodings that a database can have.

use std::borrow::Cow;

/// How texts are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
}

impl Encoding {
    /// By the number in the header; `None` where it says nothing.
    pub(crate) fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(Encoding::Utf8),
            2 => Some(Encoding::Utf16Le),
            3 => Some(Encoding::Utf16Be),
            _ => None,
        }
    }

    /// As `PRAGMA encoding` names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Encoding::Utf8 => "UTF-8",
            Encoding::Utf16Le => "UTF-16le",
            Encoding::Utf16Be => "UTF-16be",
        }
    }

    /// Whether the bytes are a text of it, without a character of zeros: those stand where a disk
    /// lost something, and hardly anywhere else.
    pub(crate) fn is_valid(self, bytes: &[u8]) -> bool {
        match self {
            Encoding::Utf8 => !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok(),
            _ => self.units(bytes).is_some_and(|units| {
                !units.contains(&0)
                    && char::decode_utf16(units.iter().copied()).all(|unit| unit.is_ok())
            }),
        }
    }

    /// The text as UTF-8. Bytes of UTF-8 stay as they are, sound or not.
    pub(crate) fn to_utf8(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Encoding::Utf8 => Cow::Borrowed(bytes),
            _ => {
                let even = &bytes[..bytes.len() & !1];
                let units = self.units(even).unwrap_or_default();
                Cow::Owned(String::from_utf16_lossy(&units).into_bytes())
            }
        }
    }

    fn units(self, bytes: &[u8]) -> Option<Vec<u16>> {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let from = match self {
            Encoding::Utf16Be => u16::from_be_bytes,
            _ => u16::from_le_bytes,
        };
        rest.is_empty().then(|| pairs.iter().map(|&pair| from(pair)).collect())
    }
}
