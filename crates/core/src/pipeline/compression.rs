//! The compressions that artifacts can have, and how people write them.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind};

/// How an artifact is compressed. Both compressed forms are independent frames that the standard
/// tools read as one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// Seekable zstd, level 1 to 19.
    Zstd {
        /// Compression level.
        level: i32,
    },
    /// Members of gzip, level 1 to 12 (beyond 9 as libdeflate counts).
    Gzip {
        /// Compression level.
        level: i32,
    },
}

impl Compression {
    /// The default: zstd at level 3.
    pub const DEFAULT: Compression = Compression::Zstd { level: 3 };

    /// The word that manifests use: "zstd", "gzip", "none".
    pub fn word(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Zstd { .. } => "zstd",
            Compression::Gzip { .. } => "gzip",
        }
    }

    /// The ending of a file's name, with its dot; empty for none.
    pub fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Zstd { .. } => ".zst",
            Compression::Gzip { .. } => ".gz",
        }
    }

    /// What the first bytes of a stream say it is. Unknown bytes are plain.
    pub fn detect(first_bytes: &[u8]) -> Compression {
        match first_bytes {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::DEFAULT,
            [low, 0x2a, 0x4d, 0x18, ..] if low & 0xf0 == 0x50 => Compression::DEFAULT,
            [0x1f, 0x8b, 0x08, ..] => Compression::Gzip { level: 6 },
            _ => Compression::None,
        }
    }

    /// What a stream is, once decompressed, that holds nothing we know; in a person's words.
    pub fn looks_like(first_bytes: &[u8]) -> &'static str {
        match Compression::detect(first_bytes) {
            Compression::Gzip { .. } => "gzip data: it was compressed twice",
            Compression::Zstd { .. } => "zstd data: it was compressed twice",
            Compression::None if first_bytes.is_empty() => "nothing: it is empty",
            Compression::None if first_bytes.get(257..262) == Some(b"ustar") => "a tar archive",
            Compression::None if first_bytes.iter().all(|byte| (9..127).contains(byte)) => "text",
            Compression::None => "encrypted or foreign data",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::None => f.write_str("none"),
            Compression::Zstd { level } => write!(f, "zstd:{level}"),
            Compression::Gzip { level } => write!(f, "gzip:{level}"),
        }
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::new(Kind::Usage, format!("`{text}` is not a compression"))
                .hint("use zstd, zstd:1 to zstd:19, gzip, gzip:1 to gzip:12, or none")
        };
        let (word, level) = match text.split_once(':') {
            Some((word, level)) => (word, Some(level.parse::<i32>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        match (word, level) {
            ("none", None) => Ok(Compression::None),
            ("zstd", level) if (1..=19).contains(&level.unwrap_or(3)) => {
                Ok(Compression::Zstd { level: level.unwrap_or(3) })
            }
            ("gzip", level) if (1..=12).contains(&level.unwrap_or(6)) => {
                Ok(Compression::Gzip { level: level.unwrap_or(6) })
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_levels() {
        assert_eq!("zstd".parse::<Compression>().unwrap(), Compression::Zstd { level: 3 });
        assert_eq!("gzip:9".parse::<Compression>().unwrap(), Compression::Gzip { level: 9 });
        assert_eq!("none".parse::<Compression>().unwrap(), Compression::None);
        for wrong in ["zstd:0", "zstd:20", "gzip:13", "none:1", "lz4", "", "zstd:", "zstd:x"] {
            assert_eq!(wrong.parse::<Compression>().unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
