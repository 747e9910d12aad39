//! The example configuration, the reference and the schema, all made from the doc comments of
//! the model.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::model::Config;

/// The schema of the configuration, for editors and for the documents.
pub(crate) fn schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    schema["title"] = "The configuration of lifeboat".into();
    schema
}

/// What `config init` writes: every key with its comment, the few that one needs without `#`.
pub(crate) fn example() -> String {
    let mut text = String::from(
        "# The configuration of lifeboat. Lines with # are comments; remove it to use a key.\n\
         # `lifeboat config check` tries this file, `lifeboat config show` says what is in force.\n",
    );
    let schema = schema();
    section(&mut text, &schema, &schema, None, &[]);
    let repository = definition(&schema, "RepositoryConfig");
    section(&mut text, &schema, repository, Some("repository.local"), &["url"]);
    let source = definition(&schema, "SourceConfig");
    section(&mut text, &schema, source, Some("# source.superchat"), &[]);
    let files = "\n# A source of files with a rhythm of its own: a host key that is kept for ever.\n\
                 # [source.superchat-key]\n\
                 # files = [\"/var/lib/superchat/ssh_host_key\"]\n\
                 # when = \"on-change\"\n\
                 # keep = \"forever\"\n";
    text.push_str(files);
    text
}

fn section(text: &mut String, root: &Value, schema: &Value, header: Option<&str>, used: &[&str]) {
    if let Some(header) = header {
        let (mark, name) = match header.strip_prefix("# ") {
            Some(name) => ("# ", name),
            None => ("", header),
        };
        let _ = write!(text, "\n{}{mark}[{name}]\n", comment(schema));
    }
    for (key, property) in properties(schema) {
        let Some(example) = example_of(root, property) else { continue };
        let mark = if used.contains(&key.as_str()) { "" } else { "# " };
        let _ = write!(text, "\n{}{mark}{key} = {}\n", comment(property), inline(&example));
    }
}

/// The example that a field's attribute gives; keys that only hold other sections have none.
fn example_of(_root: &Value, property: &Value) -> Option<Value> {
    property.get("examples")?.as_array()?.first().cloned()
}

fn comment(schema: &Value) -> String {
    let lines = description(schema);
    lines.lines().map(|line| format!("# {line}\n")).collect()
}

fn description(schema: &Value) -> &str {
    schema.get("description").and_then(Value::as_str).unwrap_or("")
}

fn definition<'a>(schema: &'a Value, name: &str) -> &'a Value {
    &schema["$defs"][name]
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// A JSON value as TOML writes it inline.
fn inline(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            let inner: Vec<String> = values.iter().map(inline).collect();
            format!("[{}]", inner.join(", "))
        }
        Value::String(text) => toml::Value::String(text.clone()).to_string(),
        other => other.to_string(),
    }
}

/// The sections of the reference: heading, and the definition that it describes.
const REFERENCE: &[(&str, &str)] = &[
    ("`[repository.NAME]`", "RepositoryConfig"),
    ("`[source.NAME]`", "SourceConfig"),
    ("`sqlite = { ... }`", "SqliteConfig"),
    ("`files = [{ ... }]`", "FileConfig"),
    ("`service = { ... }`", "ServiceConfig"),
    ("`keep = { ... }`", "KeepConfig"),
    ("`[agent]`", "AgentConfig"),
];

/// The reference of the configuration in Markdown.
pub(crate) fn reference() -> String {
    let schema = schema();
    let mut text = String::from(
        "# Configuration\n\nOne TOML file. The first that exists is read: `--config FILE`, \
         `$LIFEBOAT_CONFIG`, `$XDG_CONFIG_HOME/lifeboat/config.toml` (or \
         `~/.config/lifeboat/config.toml`), `/etc/lifeboat/config.toml`. Beside the last two, \
         the files `conf.d/*.toml` are read as well. An unknown key is an error.\n\n\
         ## At the top\n",
    );
    keys(&mut text, &schema);
    for (heading, name) in REFERENCE {
        let definition = definition(&schema, name);
        let _ = write!(text, "\n## {heading}\n\n{}\n", one_line(description(definition)));
        keys(&mut text, definition);
    }
    text
}

fn keys(text: &mut String, schema: &Value) {
    text.push_str("\n| key | meaning | example |\n|---|---|---|\n");
    for (key, property) in properties(schema) {
        let example = property.get("examples").and_then(|all| all.as_array()?.first());
        let example = example.map_or(String::new(), |value| format!("`{}`", inline(value)));
        let meaning = one_line(description(property)).replace('|', "\\|");
        let _ = writeln!(text, "| `{key}` | {meaning} | {example} |");
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
