//! The example configuration and the schema, both made from the doc comments of the model.

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
         # `lifeboat config check` tries this file, `lifeboat config show` says what holds.\n",
    );
    let schema = schema();
    section(&mut text, &schema, None, &[]);
    let repository = definition(&schema, "RepositoryConfig");
    section(&mut text, repository, Some("repository.local"), &["url"]);
    let source = definition(&schema, "SourceConfig");
    section(&mut text, source, Some("# source.superchat"), &[]);
    let files = "\n# A source of files with a rhythm of its own: a host key, kept for ever.\n\
                 # [source.superchat-key]\n\
                 # files = [\"/var/lib/superchat/ssh_host_key\"]\n\
                 # when = \"on-change\"\n\
                 # keep = \"forever\"\n";
    text.push_str(files);
    text
}

fn section(text: &mut String, schema: &Value, header: Option<&str>, used: &[&str]) {
    if let Some(header) = header {
        let (mark, name) = match header.strip_prefix("# ") {
            Some(name) => ("# ", name),
            None => ("", header),
        };
        let _ = write!(text, "\n{}{mark}[{name}]\n", comment(schema));
    }
    for (key, property) in properties(schema) {
        let Some(example) = example_of(property) else { continue };
        let mark = if used.contains(&key.as_str()) { "" } else { "# " };
        let _ = write!(text, "\n{}{mark}{key} = {}\n", comment(property), inline(&example));
    }
}

/// The example that a field's attribute gives; keys that only hold other sections have none.
fn example_of(property: &Value) -> Option<Value> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key of the example, its mark removed, is one that the model takes.
    #[test]
    fn the_example_is_a_configuration_with_and_without_its_marks() {
        let example = example();
        let as_it_is: Config = toml::from_str(&example).unwrap();
        assert_eq!(as_it_is.repository.len(), 1);
        let is_key = |line: &str| line.starts_with("# [") || line.contains(" = ");
        let is_prose = |rest: &str| rest.contains("{ path") || rest.starts_with("{ glob");
        let unmarked: Vec<&str> = example
            .lines()
            .map(|line| match line.strip_prefix("# ").filter(|rest| !is_prose(rest)) {
                Some(rest) if is_key(line) => rest,
                _ => line,
            })
            .collect();
        let all: Config = toml::from_str(&unmarked.join("\n")).unwrap();
        assert_eq!(all.source.len(), 2, "{unmarked:#?}");
        assert!(all.source["superchat"].service.is_some());
    }
}
