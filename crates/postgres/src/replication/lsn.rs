//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use lifeboat_core::{Error, Kind, Result};

/// A position in the write-ahead log: the number of a byte, shown as `0/3000028`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let half = |text: &str| {
            let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hex.then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        let halves = text.split_once('/').map(|(high, low)| (half(high), half(low)));
        match halves {
            Some((Some(high), Some(low))) => Ok(Lsn(u64::from(high) << 32 | u64::from(low))),
            _ => Err(Error::new(Kind::Usage, format!("`{text}` is not a position in the WAL"))
                .hint("write it as PostgreSQL does: 0/3000028")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        for (text, value) in
            [("0/0", 0), ("0/3000028", 0x300_0028), ("16/B374D848", 0x16_B374_D848)]
        {
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(value));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for wrong in ["", "/", "1", "1/", "/1", "+1/2", "1/123456789", "x/1", "1/2/3"] {
            assert_eq!(wrong.parse::<Lsn>().unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
