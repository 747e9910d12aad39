//! Finds and reads the configuration.
//!
//! The first of these that exists is taken: `--config`, `$LIFEBOAT_CONFIG`,
//! `$XDG_CONFIG_HOME/lifeboat/config.toml`, `/etc/lifeboat/config.toml`. Beside the last two,
//! `conf.d/*.toml` are read as well, in the order of their names. All mistakes of all files are
//! reported at once; each section is read on its own, so that one mistake does not hide another.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::diagnose::{self, SourceText};
use super::model::Config;
use super::validate;
use crate::world::Surroundings;

/// A configuration larger than this is not one.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// The keys that a file has at its top.
const TOP_KEYS: &[&str] = &[
    "host",
    "contact",
    "identity",
    "repository",
    "source",
    "hooks",
    "retry",
    "drill",
    "notify",
    "agent",
];

/// A configuration with the places of all that it says.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// What it says.
    pub(crate) config: Config,
    /// Where it says it.
    pub(crate) places: Places,
}

/// Where every key stands.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// The files that were read.
    pub(crate) files: Vec<SourceText>,
    keys: BTreeMap<Vec<String>, (usize, Range<usize>)>,
}

impl Places {
    /// File and line of a key, such as `["source", "superchat", "check"]`, where a file sets it.
    pub(crate) fn line_of(&self, key: &[&str]) -> Option<(&Path, usize)> {
        let (file, span) = self.find(key)?;
        Some((&file.path, file.position(span.start).0))
    }

    /// A mistake at a key, or at the nearest section around it that a file has.
    pub(crate) fn point(&self, key: &[&str], message: &str) -> String {
        let around = (1..=key.len()).rev().find_map(|length| self.find(&key[..length]));
        match around {
            Some((file, span)) => file.point(span, message),
            None => message.to_owned(),
        }
    }

    fn find(&self, key: &[&str]) -> Option<(&SourceText, Range<usize>)> {
        let key: Vec<String> = key.iter().map(|&part| part.to_owned()).collect();
        let (file, span) = self.keys.get(&key)?;
        Some((self.files.get(*file)?, span.clone()))
    }

    fn note(&mut self, prefix: &[String], table: &DeTable<'_>, file: usize) {
        for (key, value) in table {
            let mut path = prefix.to_vec();
            path.push(key.get_ref().to_string());
            if let Some(inner) = value.get_ref().as_table() {
                self.note(&path, inner, file);
            }
            self.keys.entry(path).or_insert((file, key.span()));
        }
    }
}

/// The configuration, or `None` where there is none. One that was named and does not exist is an
/// error, as is any mistake in it.
pub(crate) fn load(surroundings: &Surroundings, named: Option<&Path>) -> Result<Option<Loaded>> {
    let paths = find(surroundings, named)?;
    if paths.is_empty() {
        return Ok(None);
    }
    let mut loaded = Loaded::default();
    let mut mistakes = Vec::new();
    for path in paths {
        let file = SourceText { text: read(&path)?, path };
        let mut found = Mistakes::new();
        parse_file(file, &mut loaded, &mut found);
        // As a person reads the file, not as tables are sorted.
        found.sort();
        mistakes.extend(found.into_iter().map(|(_, mistake)| mistake));
    }
    if mistakes.is_empty() {
        mistakes = validate::mistakes(&loaded);
    }
    match mistakes.is_empty() {
        true => Ok(Some(loaded)),
        false => Err(diagnose::mistakes(mistakes)),
    }
}

fn find(surroundings: &Surroundings, named: Option<&Path>) -> Result<Vec<PathBuf>> {
    let by_variable = surroundings.path("LIFEBOAT_CONFIG");
    if let Some(path) = named.or(by_variable.as_deref()) {
        return Ok(vec![path.to_owned()]);
    }
    let folders = [surroundings.config_folder(), Some(PathBuf::from("/etc/lifeboat"))];
    for folder in folders.into_iter().flatten() {
        let mut paths = Vec::new();
        let main = folder.join("config.toml");
        match fs::symlink_metadata(&main) {
            Ok(_) => paths.push(main),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(unreadable(&main, error)),
        }
        paths.extend(fragments(&folder.join("conf.d"))?);
        if !paths.is_empty() {
            return Ok(paths);
        }
    }
    Ok(Vec::new())
}

fn fragments(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let message = format!("cannot read the configuration {}", diagnose::shown(path));
    let missing = is_absent(&error);
    let error = Error::new(Kind::Usage, message).caused_by(error);
    match missing {
        true => error.hint("`lifeboat config init` writes one"),
        false => error,
    }
}

fn read(path: &Path) -> Result<String> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(path, error))?;
    let shown = diagnose::shown(path);
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        let message = format!("{shown} is larger than {CONFIG_BYTES_MAX} bytes");
        return Err(Error::new(Kind::Usage, message).hint("name the configuration with --config"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Error::new(Kind::Usage, format!("{shown}:{line}: this line is not UTF-8"))
            .hint("a configuration is a TOML file in UTF-8")
    })
}

/// The mistakes of one file, each with the byte where it is.
type Mistakes = Vec<(usize, String)>;

/// Reads one file into what was loaded before it.
fn parse_file(file: SourceText, loaded: &mut Loaded, mistakes: &mut Mistakes) {
    let text = file.text.clone();
    let (table, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        mistakes.extend(errors.iter().map(|error| point(&file, error)));
        return;
    }
    let mut places = Places { files: vec![file.clone()], ..Places::default() };
    places.note(&[], table.get_ref(), 0);
    for (key, value) in table.into_inner() {
        let name = key.get_ref().to_string();
        let config = &mut loaded.config;
        match name.as_str() {
            "repository" | "source" | "notify" => {
                let Some(sections) = value.get_ref().as_table() else {
                    let message = format!("`{name}` is a table: write [{name}.NAME]");
                    mistakes.push((key.span().start, file.point(key.span(), &message)));
                    continue;
                };
                let mut reader = SectionReader { kind: &name, file: &file, loaded, mistakes };
                for (section, value) in sections.clone() {
                    reader.read(section, value);
                }
            }
            "host" => keep(&file, value, &mut config.host, mistakes),
            "contact" => keep(&file, value, &mut config.contact, mistakes),
            "identity" => keep(&file, value, &mut config.identity, mistakes),
            "hooks" => keep(&file, value, &mut config.hooks, mistakes),
            "retry" => keep(&file, value, &mut config.retry, mistakes),
            "drill" => keep(&file, value, &mut config.drill, mistakes),
            "agent" => keep(&file, value, &mut config.agent, mistakes),
            _ => {
                let message = diagnose::unknown_word("key", &name, TOP_KEYS);
                mistakes.push((key.span().start, file.point(key.span(), &message)));
            }
        }
    }
    let index = loaded.places.files.len();
    for (key, (_, span)) in places.keys {
        loaded.places.keys.entry(key).or_insert((index, span));
    }
    loaded.places.files.push(file);
}

/// Reads the sections of one kind.
struct SectionReader<'a> {
    kind: &'a str,
    file: &'a SourceText,
    loaded: &'a mut Loaded,
    mistakes: &'a mut Mistakes,
}

impl SectionReader<'_> {
    fn read(&mut self, section: Spanned<toml::de::DeString<'_>>, value: Spanned<DeValue<'_>>) {
        let (kind, file, span) = (self.kind, self.file, section.span());
        let name = section.into_inner().into_owned();
        if value.get_ref().as_table().is_none() {
            let message = format!("`{name}` stands in [{kind}] itself: write [{kind}.NAME]");
            return self.mistakes.push((span.start, file.point(span, &message)));
        }
        if let Some((path, line)) = self.loaded.places.line_of(&[kind, &name]) {
            let first = diagnose::shown(path);
            let message = format!("[{kind}.{name}] is already in {first}:{line}");
            return self.mistakes.push((span.start, file.point(span, &message)));
        }
        let config = &mut self.loaded.config;
        match kind {
            "source" => deserialize(file, value, self.mistakes)
                .map(|source| config.source.insert(name, source))
                .map_or((), drop),
            "notify" => deserialize(file, value, self.mistakes)
                .map(|notify| config.notify.insert(name, notify))
                .map_or((), drop),
            _ => deserialize(file, value, self.mistakes)
                .map(|repository| config.repository.insert(name, repository))
                .map_or((), drop),
        }
    }
}

fn keep<T: DeserializeOwned>(
    file: &SourceText,
    value: Spanned<DeValue<'_>>,
    place: &mut Option<T>,
    mistakes: &mut Mistakes,
) {
    if let Some(value) = deserialize(file, value, mistakes) {
        *place = Some(value);
    }
}

fn deserialize<T: DeserializeOwned>(
    file: &SourceText,
    value: Spanned<DeValue<'_>>,
    mistakes: &mut Mistakes,
) -> Option<T> {
    let span = value.span();
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(value) => Some(value),
        Err(mut error) => {
            // What is missing has no place of its own: the section's first line stands for it.
            if error.span().is_none_or(|inner| inner == span) {
                error.set_input(None);
                let message = diagnose::reworded(error.message());
                let line = span.start..first_line_end(file, &span);
                mistakes.push((span.start, file.point(line, &message)));
            } else {
                mistakes.push(point(file, &error));
            }
            None
        }
    }
}

fn first_line_end(file: &SourceText, span: &Range<usize>) -> usize {
    let text = file.text.get(span.clone()).unwrap_or("");
    span.start + text.find('\n').unwrap_or(text.len())
}

fn point(file: &SourceText, error: &toml::de::Error) -> (usize, String) {
    let span = error.span().unwrap_or(0..0);
    (span.start, file.point(span, &diagnose::reworded(error.message())))
}
