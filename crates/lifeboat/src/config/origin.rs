//! The configuration in force, with where each value comes from.

use lifeboat_core::names::NamePattern;
use lifeboat_core::pipeline::Compression;
use serde::Serialize;
use toml::{Table, Value};

use super::diagnose::shown;
use super::load::Loaded;
use super::model::SourceConfig;

/// One value in force.
#[derive(Debug, Serialize)]
pub(crate) struct Setting {
    /// The key, as in `source.superchat.check`.
    pub(crate) key: String,
    /// Its value, as TOML would write it.
    pub(crate) value: Value,
    /// "default", or file and line.
    pub(crate) origin: String,
}

/// A section with its values.
#[derive(Debug, Serialize)]
pub(crate) struct Section {
    /// What stands in the brackets: `source.superchat`; empty for the top.
    pub(crate) name: String,
    /// Its values, those that a file sets and the defaults.
    pub(crate) settings: Vec<Setting>,
}

/// All sections, as they are in force.
pub(crate) fn sections(loaded: &Loaded) -> Vec<Section> {
    let config = &loaded.config;
    let mut sections = Vec::new();
    if let Some(host) = &config.host {
        let host = table(&serde_json::json!({ "host": host }));
        sections.push(section(loaded, &[], host, &Table::new()));
    }
    if let Some(contact) = &config.contact {
        let contact = table(&serde_json::json!({ "contact": contact }));
        sections.push(section(loaded, &[], contact, &Table::new()));
    }
    if let Some(identity) = &config.identity {
        sections.push(section(loaded, &["identity"], table(identity), &Table::new()));
    }
    for (name, repository) in &config.repository {
        let path = ["repository", name.as_str()];
        sections.push(section(loaded, &path, table(repository), &repository_defaults()));
    }
    for (name, source) in &config.source {
        let path = ["source", name.as_str()];
        sections.push(section(loaded, &path, table(source), &source_defaults(source)));
    }
    if let Some(hooks) = &config.hooks {
        sections.push(section(loaded, &["hooks"], table(hooks), &Table::new()));
    }
    if let Some(retry) = &config.retry {
        sections.push(section(loaded, &["retry"], table(retry), &Table::new()));
    }
    if let Some(drill) = &config.drill {
        sections.push(section(loaded, &["drill"], table(drill), &Table::new()));
    }
    for (name, notify) in &config.notify {
        sections.push(section(loaded, &["notify", name], table(notify), &Table::new()));
    }
    if let Some(agent) = &config.agent {
        sections.push(section(loaded, &["agent"], table(agent), &Table::new()));
    }
    sections
}

fn repository_defaults() -> Table {
    let mut defaults = Table::new();
    defaults.insert("compression".into(), Value::String(Compression::DEFAULT.to_string()));
    defaults
}

fn source_defaults(source: &SourceConfig) -> Table {
    let mut defaults = Table::new();
    let mut add = |key: &str, value: &str| defaults.insert(key.into(), Value::String(value.into()));
    add("name", &NamePattern::default().to_string());
    add("keep", "forever");
    match source.sqlite.is_some() || source.postgres.is_some() {
        true => add("check", "quick"),
        false => add("when", "always"),
    };
    defaults
}

/// A section of the model as a TOML table; everything in the model can be written as one.
fn table(section: &impl Serialize) -> Table {
    Table::try_from(section).unwrap_or_default()
}

fn section(loaded: &Loaded, path: &[&str], set: Table, defaults: &Table) -> Section {
    let mut settings = Vec::new();
    for (key, value) in set {
        let mut full = path.to_vec();
        full.push(&key);
        let origin = match loaded.places.line_of(&full) {
            Some((file, line)) => format!("{}:{line}", shown(file)),
            None => "default".to_owned(),
        };
        settings.push(Setting { key: key.clone(), value, origin });
    }
    for (key, value) in defaults {
        if !settings.iter().any(|setting| setting.key == *key) {
            let origin = "default".to_owned();
            settings.push(Setting { key: key.clone(), value: value.clone(), origin });
        }
    }
    Section { name: path.join("."), settings }
}

/// The sections as TOML, each value with its origin behind it.
pub(crate) fn to_text(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        if !text.is_empty() {
            text.push('\n');
        }
        if !section.name.is_empty() {
            text.push_str(&format!("[{}]\n", bracketed(&section.name)));
        }
        let lines: Vec<String> = section
            .settings
            .iter()
            .map(|setting| format!("{} = {}", setting.key, inline(&setting.value)))
            .collect();
        let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).min(60);
        for (line, setting) in lines.iter().zip(&section.settings) {
            text.push_str(&format!("{line:width$}  # {}\n", setting.origin));
        }
    }
    text
}

/// A section's name with quotes where TOML needs them.
fn bracketed(name: &str) -> String {
    let (kind, rest) = match name.split_once('.') {
        Some(parts) => parts,
        None => return name.to_owned(),
    };
    let bare = rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match bare {
        true => format!("{kind}.{rest}"),
        false => format!("{kind}.{}", Value::String(rest.to_owned())),
    }
}

/// A value on one line, as TOML has it.
pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::Table(table) => {
            let inner: Vec<String> =
                table.iter().map(|(key, value)| format!("{key} = {}", inline(value))).collect();
            format!("{{ {} }}", inner.join(", "))
        }
        Value::Array(values) => {
            let inner: Vec<String> = values.iter().map(inline).collect();
            format!("[{}]", inner.join(", "))
        }
        other => other.to_string(),
    }
}
