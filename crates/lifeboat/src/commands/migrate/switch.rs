//! The application's variables and our configuration, changed to the new database on request:
//! planned and shown before, written when everything is there and compared, the old text kept.

use std::fs;
use std::path::{Path, PathBuf};

use lifeboat_core::env::Env;
use lifeboat_core::names::source_name;
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::Address;
use serde_json::{Value, json};

use super::SwitchArgs;
use crate::config::postgres::PostgresConfig;
use crate::config::values::TextOr;
use crate::config::{self, SourceConfig, dotenv};
use crate::private;
use crate::session::Session;
use crate::sources;

const KIND_NAME: &str = "ADMIN_DB_TYPE";
const URL_NAME: &str = "ADMIN_DATABASE_URL";

/// All that is to be changed.
#[derive(Default)]
pub(super) struct Switch {
    edits: Vec<Edit>,
    config: Option<PathBuf>,
}

/// A file and its new text.
struct Edit {
    path: PathBuf,
    old: String,
    new: String,
    /// The lines that are new, for people.
    lines: Vec<String>,
}

impl Switch {
    /// What is to be changed for a database at that address. Nothing is written.
    pub(super) fn plan(
        session: &Session,
        args: &SwitchArgs,
        sqlite: &Path,
        (address, url): (&Address, &str),
    ) -> Result<Self> {
        let mut switch = Switch::default();
        if let Some(path) = &args.switch_env {
            switch.edits.push(of_variables(path, address, url)?);
        }
        if args.switch_config {
            let edit = of_config(session, sqlite, (address, url))?;
            switch.config = Some(edit.path.clone());
            switch.edits.push(edit);
        }
        Ok(switch)
    }

    /// What is to be changed, in lines.
    pub(super) fn lines(&self) -> Vec<String> {
        let of_edit = |edit: &Edit| {
            let lines = edit.lines.iter().map(|line| format!("  {line}"));
            let head = format!("then, in {}:", edit.path.display());
            std::iter::once(head).chain(lines).collect::<Vec<_>>()
        };
        self.edits.iter().flat_map(of_edit).collect()
    }

    /// The same as one text.
    pub(super) fn text(&self) -> String {
        self.lines().iter().map(|line| format!("{line}\n")).collect()
    }

    /// The same as JSON.
    pub(super) fn to_json(&self) -> Value {
        let of_edit =
            |edit: &Edit| json!({ "file": edit.path.to_string_lossy(), "lines": edit.lines });
        self.edits.iter().map(of_edit).collect()
    }

    /// Writes it. The names of what was kept of the old texts.
    pub(super) fn apply(&self, session: &Session, env: &Env) -> Result<Vec<PathBuf>> {
        let time = env.clock.now().strftime("%Y%m%d_%H%M%S").to_string();
        let mut kept = Vec::new();
        for edit in self.edits.iter().filter(|edit| edit.old != edit.new) {
            if read(&edit.path)? != edit.old {
                let message = format!("{} was changed meanwhile", edit.path.display());
                return Err(Error::new(Kind::Refused, message).hint(by_hand(edit)));
            }
            let mut name = edit.path.clone().into_os_string();
            name.push(format!(".before_migrate.{time}"));
            let copy = PathBuf::from(name);
            private::write_new(&copy, &edit.old)?;
            write(edit, &edit.new)?;
            if self.config.as_ref() == Some(&edit.path)
                && let Err(error) =
                    config::load(&session.surroundings, session.globals.config.as_deref())
            {
                write(edit, &edit.old)?;
                return Err(error.hint(by_hand(edit)));
            }
            kept.push(copy);
        }
        Ok(kept)
    }
}

fn by_hand(edit: &Edit) -> String {
    format!("the migration is done; change it by hand: {}", edit.lines.join("; "))
}

fn read(path: &Path) -> Result<String> {
    let failed = |error| Error::io(Kind::Failed, format!("cannot read {}", path.display()), error);
    fs::read_to_string(path).map_err(failed)
}

/// Over what was there, with its owner and its rights: the application is to read it.
fn write(edit: &Edit, text: &str) -> Result<()> {
    private::replace_alike(&edit.path, text.as_bytes()).map_err(|error| {
        Error::io(Kind::Failed, format!("cannot write {}", edit.path.display()), error)
            .hint(by_hand(edit))
    })
}

fn of_variables(path: &Path, address: &Address, new_url: &str) -> Result<Edit> {
    let old = read(path)?;
    let wrong = |why: String| {
        Error::new(Kind::Usage, format!("{} cannot be changed: {why}", path.display()))
            .hint(format!("set {KIND_NAME} and {URL_NAME} by hand"))
    };
    let before = dotenv::read(&old, &[KIND_NAME, URL_NAME]).map_err(wrong)?;
    let url = before.iter().find(|(name, _)| name == URL_NAME).map(|(_, url)| url);
    // Its password is nobody's to see or to lose.
    let is_meant =
        |url: &String| Address::parse(url).is_ok_and(|there| there.label() == address.label());
    let mut wanted = vec![(KIND_NAME, "postgres".to_owned())];
    if !url.is_some_and(is_meant) {
        wanted.push((URL_NAME, new_url.to_owned()));
    }
    let mut new = old.clone();
    let mut lines = Vec::new();
    for (name, value) in &wanted {
        let line = format!("{name}={}", quoted(value));
        new = assigned(&new, name, &line);
        lines.push(line);
    }
    let after = dotenv::read(&new, &[KIND_NAME, URL_NAME]).map_err(wrong)?;
    let holds = |(name, value): &(&str, String)| {
        after.iter().any(|(there, is)| there == name && is == value)
    };
    match wanted.iter().all(holds) {
        true => Ok(Edit { path: path.to_owned(), old, new, lines }),
        false => Err(wrong("its assignments are not plain lines".into())),
    }
}

/// The text with that line in the place of those that assign the name, else at its end.
fn assigned(text: &str, name: &str, line: &str) -> String {
    let assigns = |there: &str| {
        let there = there.trim_start();
        let there = there.strip_prefix("export ").unwrap_or(there).trim_start();
        there.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
    };
    let mut found = false;
    let mut new = String::new();
    for there in text.lines() {
        if !assigns(there) {
            new.push_str(there);
        } else {
            let export = there.trim_start().starts_with("export ");
            new.push_str(if export { "export " } else { "" });
            new.push_str(line);
            found = true;
        }
        new.push('\n');
    }
    if !found {
        new.push_str(line);
        new.push('\n');
    }
    new
}

fn quoted(value: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._~:/@%".contains(letter);
    match value.chars().all(is_plain) {
        true => value.to_owned(),
        false => format!("'{}'", value.replace('\'', "%27")),
    }
}

/// A source for the new database, with the policy of the old one.
fn of_config(session: &Session, sqlite: &Path, (address, url): (&Address, &str)) -> Result<Edit> {
    let loaded = session.loaded()?;
    let config = &loaded.config;
    let argument = sqlite.to_string_lossy();
    let target = sources::configured_at(config, &argument)?;
    let old_name = target.as_ref().map(|target| target.name.as_str());
    let section = old_name.and_then(|name| Some((name, config.source.get(name)?)));
    let place = section.and_then(|(name, _)| loaded.places.line_of(&["source", name]));
    let (Some((_, section)), Some((path, _))) = (section, place) else {
        let message = format!("{argument} is no source of a configuration");
        return Err(Error::new(Kind::Usage, message)
            .hint("write one with `lifeboat init`, or go without --switch-config"));
    };
    let base = source_name(address.database().unwrap_or("postgres"));
    let taken = |name: &String| config.source.contains_key(name);
    let mut names = (1..).map(|number| match number {
        1 => base.clone(),
        _ => format!("{base}-{number}"),
    });
    let name = names.find(|name| !taken(name)).unwrap_or(base.clone());
    let postgres = PostgresConfig { url: Some(url.to_owned()), ..PostgresConfig::default() };
    let new = SourceConfig {
        sqlite: None,
        postgres: Some(TextOr(postgres)),
        name: None,
        check: None,
        log: None,
        when: None,
        guard: None,
        drill: None,
        id: None,
        ..section.clone()
    };
    let mut table = toml::Table::new();
    let mut of_kind = toml::Table::new();
    let failed =
        |error| Error::new(Kind::Failed, "the new source cannot be written down").caused_by(error);
    of_kind.insert(name, toml::Value::try_from(&new).map_err(failed)?);
    table.insert("source".into(), of_kind.into());
    let block = toml::to_string(&table).map_err(failed)?;
    let old = read(path)?;
    let gap = if old.is_empty() || old.ends_with('\n') { "\n" } else { "\n\n" };
    let text = format!("{old}{gap}{block}");
    let lines = block.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    Ok(Edit { path: path.to_owned(), old, new: text, lines })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, url: &str) -> Result<Edit> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        fs::write(&path, text).unwrap();
        of_variables(&path, &Address::parse(url).unwrap(), url)
    }

    #[test]
    fn variables_are_set_where_they_stand() {
        let url = "postgresql://chatbot@localhost:5432/chatbot_admin";
        let edit = edited("A=1\nexport ADMIN_DB_TYPE=sqlite # here\nB='x y'\n", url).unwrap();
        assert_eq!(
            edit.new,
            format!("A=1\nexport ADMIN_DB_TYPE=postgres\nB='x y'\nADMIN_DATABASE_URL={url}\n")
        );
        // A password that is there stays, and is not shown.
        let with = "ADMIN_DATABASE_URL=postgresql://chatbot:secret@localhost:5432/chatbot_admin\n";
        let edit = edited(with, url).unwrap();
        assert_eq!(edit.new, format!("{with}ADMIN_DB_TYPE=postgres\n"));
        assert_eq!(edit.lines, ["ADMIN_DB_TYPE=postgres"]);
        let socket = "postgresql:///admin?host=/run/postgresql&user=ann";
        let edit = edited("", socket).unwrap();
        assert!(edit.new.contains("ADMIN_DATABASE_URL='postgresql://"), "{}", edit.new);
        assert!(edited("if true; then\nADMIN_DB_TYPE=x\nfi\n", url).is_err());
    }
}
