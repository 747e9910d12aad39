//! Names of backups and sources: what may stand in them, and how patterns make them.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::error::{Error, Kind, Result};
use crate::moment::date_and_time;

/// The longest name of a source or a backup, in bytes: file systems allow 255, and endings follow.
pub const NAME_BYTES_MAX: usize = 160;

/// How the backups of a source are named: `{source}-{date}-{time}` unless configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(String);

impl Default for NamePattern {
    fn default() -> Self {
        NamePattern("{source}-{date}-{time}".into())
    }
}

impl NamePattern {
    /// The name of a backup of `source` that was taken at `moment`.
    pub fn name(&self, source: &str, moment: Timestamp) -> String {
        let (date, time) = date_and_time(moment);
        self.0.replace("{date}", &date).replace("{time}", &time).replace("{source}", source)
    }
}

impl FromStr for NamePattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::new(Kind::Usage, format!("the name pattern `{text}` {why}"))
                .hint("an example: {source}-{date}-{time}")
        };
        if !text.contains("{date}") || !text.contains("{time}") {
            return Err(wrong("must contain {date} and {time}, or names would repeat"));
        }
        let rest = text.replace("{date}", "").replace("{time}", "").replace("{source}", "");
        if rest.contains(['{', '}']) {
            return Err(wrong("knows only {source}, {date} and {time} in braces"));
        }
        if rest.contains(['/', '\0']) || text.starts_with('.') || rest.chars().any(char::is_control)
        {
            return Err(wrong("must be a plain file name that does not begin with a dot"));
        }
        Ok(NamePattern(text.to_owned()))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes a source's name of any text, such as a database's file name: what a file name or the
/// command line could take for something else becomes `_`.
pub fn source_name(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|char| match char {
            '/' | '@' | '\\' | ':' => '_',
            char if char.is_control() => '_',
            char => char,
        })
        .collect();
    while name.len() > NAME_BYTES_MAX {
        name.pop();
    }
    match name.trim_start_matches(['.', '-']).trim() {
        "" => "database".into(),
        sound => sound.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_both_guides_can_be_had() {
        let moment = "2025-11-04T12:00:00Z".parse().unwrap();
        let name =
            |pattern: &str| pattern.parse::<NamePattern>().unwrap().name("superchat", moment);
        assert_eq!(name("{source}-{date}-{time}"), "superchat-20251104-120000");
        assert_eq!(name("admin_sqlite_{date}_{time}"), "admin_sqlite_20251104_120000");
        for wrong in ["{source}", "a/{date}{time}", "{date}{time}{x}", ".{date}{time}", "{date}"] {
            assert!(wrong.parse::<NamePattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn any_text_makes_a_sound_name() {
        assert_eq!(source_name("my chat"), "my chat");
        assert_eq!(source_name("a\nb/c@d"), "a_b_c_d");
        assert_eq!(source_name("..."), "database");
        assert_eq!(source_name("-rf"), "rf");
        assert!(source_name(&"ж".repeat(500)).len() <= NAME_BYTES_MAX);
    }
}
