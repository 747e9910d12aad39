//! Which database the chatbot itself opens, by its variables.
//!
//! Its guide and its backup script speak of `ADMIN_DB_PATH`; the application reads `DATABASE_URL`,
//! else `DATABASE_PATH`, else it opens `data/chatbot.db` in its folder. Where the two differ, the
//! script backs up a file that nobody uses any more.

use std::path::{Path, PathBuf};

/// The variables that the application reads.
pub(crate) const NAMES: &[&str] = &["DATABASE_URL", "DATABASE_PATH"];

/// What it opens without them, in its folder.
pub(crate) const DEFAULT: &str = "data/chatbot.db";

/// What the application opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opens {
    /// A SQLite database.
    Sqlite {
        /// Where it is; absolute.
        path: PathBuf,
        /// The variable that says so, or what stands for it.
        by: &'static str,
    },
    /// Another engine.
    Other {
        /// The variable that says so.
        by: &'static str,
        /// The engine, as the address names it. Never the address: it may hold a password.
        engine: String,
    },
}

/// What the application in `folder` opens, by variables that are set and not empty.
pub(crate) fn opens(variable: impl Fn(&str) -> Option<String>, folder: &Path) -> Opens {
    let sqlite = |path: &str, by| Opens::Sqlite { path: folder.join(path), by };
    if let Some(address) = variable("DATABASE_URL").filter(|text| !text.is_empty()) {
        return match address.split_once(':') {
            Some(("sqlite", path)) => sqlite(of_address(path), "DATABASE_URL"),
            Some((engine, _)) if engine.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') => {
                Opens::Other { by: "DATABASE_URL", engine: engine.to_owned() }
            }
            _ => Opens::Other { by: "DATABASE_URL", engine: "an engine we do not know".into() },
        };
    }
    match variable("DATABASE_PATH").filter(|text| !text.is_empty()) {
        Some(path) => sqlite(&path, "DATABASE_PATH"),
        None => sqlite(DEFAULT, "its default"),
    }
}

/// The path of an address: `sqlite:/x`, `sqlite:x` and `sqlite:///x` are all in use.
fn of_address(path: &str) -> &str {
    match path.strip_prefix("//") {
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_wins_over_the_path_and_the_default_is_last() {
        let of = |set: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            opens(variable, Path::new("/srv/bot"))
        };
        let sqlite = |path: &str, by| Opens::Sqlite { path: path.into(), by };
        assert_eq!(of(&[]), sqlite("/srv/bot/data/chatbot.db", "its default"));
        assert_eq!(of(&[("DATABASE_PATH", "a.db")]), sqlite("/srv/bot/a.db", "DATABASE_PATH"));
        let both = [("DATABASE_PATH", "a.db"), ("DATABASE_URL", "sqlite:/b.db")];
        assert_eq!(of(&both), sqlite("/b.db", "DATABASE_URL"));
        assert_eq!(of(&[("DATABASE_URL", "sqlite:///b.db")]), sqlite("/b.db", "DATABASE_URL"));
        let secret = of(&[("DATABASE_URL", "postgresql://u:secret@h/d")]);
        assert!(!format!("{secret:?}").contains("secret"), "{secret:?}");
        let odd = of(&[("DATABASE_URL", "u:secret@h/d")]);
        assert!(!format!("{odd:?}").contains("secret"), "{odd:?}");
    }
}
