//! Addresses where a path is meant. `s3://bucket/x` is a fine path, in a folder `s3:`: nobody means
//! that, and whoever gets it looks for what he stored in the wrong place.

use std::path::Path;

use clap::{ArgMatches, ValueHint};
use lifeboat_core::{Error, Kind, Result};

use crate::postgres;
use crate::web::secret::hidden;

/// An argument that is no path only.
struct Either {
    command: &'static str,
    argument: &'static str,
    /// Which addresses it takes.
    takes: fn(&str) -> bool,
}

/// All of them.
const EITHER: &[Either] = &[
    Either { command: "adopt", argument: "folders", takes: |_| true },
    Either { command: "restore", argument: "to", takes: postgres::is_address },
    Either { command: "salvage", argument: "database", takes: postgres::is_address },
];

/// The scheme of an address; `None` where the text is a path, or a name.
pub(crate) fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "+.-".contains(letter);
    let begins = scheme.chars().next().is_some_and(|first| first.is_ascii_alphabetic());
    (begins && scheme.chars().all(is_letter)).then_some(scheme)
}

/// That an address is no path, and what to write instead.
pub(crate) fn no_path(what: &str, text: &str) -> Error {
    let message = format!("`{}` is an address, and {what} is a path of this host", hidden(text));
    let error = Error::new(Kind::Usage, message);
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    // What other programs write for a file: `file:///x`, `sqlite:////x`.
    match scheme(text) {
        Some(scheme) if scheme == "file" || scheme.starts_with("sqlite") => {
            let path = if scheme == "file" { rest } else { rest.strip_prefix('/').unwrap_or(rest) };
            error.hint(format!("write the path itself: {path}"))
        }
        _ => error.hint(format!("write a path, or ./{} if that is one", hidden(text))),
    }
}

/// Refuses addresses among the arguments of the program that are paths.
pub(crate) fn refuse(definition: &clap::Command, matches: &ArgMatches) -> Result<()> {
    for argument in definition.get_arguments() {
        // What is read as a path has this hint of itself.
        if argument.get_value_hint() != ValueHint::AnyPath {
            continue;
        }
        let id = argument.get_id().as_str();
        let Ok(Some(values)) = matches.try_get_raw(id) else { continue };
        for text in values.filter_map(|value| value.to_str()) {
            let takes = EITHER.iter().any(|one| {
                (one.command, one.argument) == (definition.get_name(), id) && (one.takes)(text)
            });
            if scheme(text).is_some() && !takes && !Path::new(text).exists() {
                let what = argument.get_long().map_or_else(
                    || argument.get_value_names().unwrap_or_default().join(" "),
                    |long| format!("--{long}"),
                );
                return Err(no_path(&what, text));
            }
        }
    }
    let Some((name, below)) = matches.subcommand() else { return Ok(()) };
    definition.find_subcommand(name).map_or(Ok(()), |command| refuse(command, below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for text in ["s3://b/x", "file:///x", "postgresql+psycopg2://h/d", "sqlite:///x"] {
            assert!(scheme(text).is_some(), "{text}");
        }
        for text in ["/a/b", "./s3://b/x", "a b://x", "://x", "C:/x", "9p://x", "a/b://x"] {
            assert!(scheme(text).is_none(), "{text}");
        }
    }

    #[test]
    fn what_is_said_has_the_path_and_no_password() {
        let hint = |text| no_path("--to", text).hint_text().unwrap().to_owned();
        assert_eq!(hint("file:///var/x.db"), "write the path itself: /var/x.db");
        assert_eq!(hint("sqlite:////var/x.db"), "write the path itself: /var/x.db");
        assert_eq!(hint("sqlite+aiosqlite:///x.db"), "write the path itself: x.db");
        let error = no_path("--to", "postgresql://ann:hush@h/d");
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        assert!(error.message().ends_with("and --to is a path of this host"), "{error}");
    }
}
