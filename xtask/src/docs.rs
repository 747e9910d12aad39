//! The pages of `docs/manual` that the program writes about itself.
//!
//! The help texts of the command line and the comments on the fields of the configuration are
//! the manual; these pages only print them, so they are never edited by hand.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{output, run};
use crate::root;

/// A page, and what it must say.
struct Page {
    path: PathBuf,
    text: String,
}

pub(crate) fn write() -> Result<()> {
    for page in pages(&built()?)? {
        if let Some(folder) = page.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&page.path, &page.text)
            .with_context(|| format!("cannot write {}", page.path.display()))?;
        println!("wrote {}", page.path.display());
    }
    Ok(())
}

/// One line for each page that is not what the program writes.
pub(crate) fn stale(program: &Path) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    for page in pages(program)? {
        match std::fs::read_to_string(&page.path) {
            Ok(found) if found == page.text => {}
            Ok(_) => stale.push(format!("{}: is not what the program says", page.path.display())),
            Err(error) => stale.push(format!("{}: {error}", page.path.display())),
        }
    }
    Ok(stale)
}

/// Builds the program alone.
pub(crate) fn built() -> Result<PathBuf> {
    let root = root();
    run(Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--package", "lifeboat"])
        .current_dir(&root))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    Ok(root.join(target).join("debug/lifeboat"))
}

fn pages(program: &Path) -> Result<Vec<Page>> {
    let root = root();
    // A fixed width, so that the page does not depend on the terminal.
    let says = |arguments: &[&str]| {
        output(Command::new(program).args(arguments).env("COLUMNS", "100").current_dir(&root))
    };
    let manual = root.join("docs/manual");
    let schema: Value = serde_json::from_str(&says(&["config", "schema"])?)?;
    Ok(vec![
        Page { path: manual.join("commands.md"), text: says(&["reference"])? },
        Page { path: manual.join("configuration.md"), text: configuration(&schema)? },
    ])
}

/// The configuration's reference, from its JSON schema.
fn configuration(schema: &Value) -> Result<String> {
    let mut page = String::from(
        "# The configuration\n\n<!-- written by `cargo xtask docs`: do not edit -->\n\n\
         One TOML file. It is looked for in this order: `--config FILE`, `$LIFEBOAT_CONFIG`,\n\
         `$XDG_CONFIG_HOME/lifeboat/config.toml` (or `~/.config/lifeboat/config.toml`),\n\
         `/etc/lifeboat/config.toml` with the files of `conf.d/` beside it. Unknown keys are\n\
         errors. `lifeboat config init` writes an example, `lifeboat config check` tests it.\n\n",
    );
    let definitions = schema.get("$defs").or_else(|| schema.get("definitions"));
    table("The file", schema, &mut page);
    for (name, definition) in definitions.and_then(Value::as_object).into_iter().flatten() {
        describe(name, definition, &mut page);
    }
    if !page.contains("\n| `") {
        bail!("`lifeboat config schema` names no keys");
    }
    Ok(page.trim_end().to_owned() + "\n")
}

/// A definition: a table of its keys, or the values that it may have.
fn describe(name: &str, definition: &Value, page: &mut String) {
    if definition.get("properties").is_some() {
        return table(&format!("`{name}`"), definition, page);
    }
    page.push_str(&format!("## `{name}`\n\n"));
    push_text(definition, page);
    let choices = ["oneOf", "anyOf"].iter().find_map(|key| definition.get(*key)?.as_array());
    for choice in choices.into_iter().flatten() {
        let says = one_line(choice.get("description"));
        page.push_str(&format!("- {}{says}\n", kind(choice)));
        if choice.get("properties").is_some() {
            rows(choice, "  ", page);
        }
    }
    if choices.is_none() {
        page.push_str(&format!("{}\n", kind(definition)));
    }
    page.push('\n');
}

fn table(title: &str, object: &Value, page: &mut String) {
    page.push_str(&format!("## {title}\n\n"));
    push_text(object, page);
    page.push_str("| key | value | meaning |\n|---|---|---|\n");
    for (key, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        let meaning = one_line(property.get("description"));
        page.push_str(&format!(
            "| `{key}` | {} |{meaning} |\n",
            kind(property).replace('|', "\\|")
        ));
    }
    page.push('\n');
}

fn rows(object: &Value, indent: &str, page: &mut String) {
    for (key, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten()
    {
        let meaning = one_line(property.get("description"));
        page.push_str(&format!("{indent}- `{key}`: {}{meaning}\n", kind(property)));
    }
}

fn push_text(object: &Value, page: &mut String) {
    if let Some(text) = object.get("description").and_then(Value::as_str) {
        page.push_str(&format!("{}\n\n", text.trim()));
    }
}

/// A description on one line, with a space before it.
fn one_line(description: Option<&Value>) -> String {
    let text = description.and_then(Value::as_str).unwrap_or_default();
    let words: Vec<_> = text.split_whitespace().collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(" {}", words.join(" ").replace('|', "\\|")),
    }
}

/// What a value may be, in words.
fn kind(property: &Value) -> String {
    if let Some(reference) = property.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        return format!("`{name}`");
    }
    for several in ["anyOf", "oneOf", "allOf"] {
        if let Some(choices) = property.get(several).and_then(Value::as_array) {
            return either(choices.iter().map(kind));
        }
    }
    if let Some(value) = property.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = property.get("enum").and_then(Value::as_array) {
        return either(values.iter().map(|value| format!("`{value}`")));
    }
    let named =
        |name: &str| match (name, property.get("items"), property.get("additionalProperties")) {
            ("array", Some(items), _) => format!("list of {}", kind(items)),
            ("object", _, Some(inner @ Value::Object(_))) => {
                format!("table of {} by name", kind(inner))
            }
            ("object", _, _) => "table".to_owned(),
            ("boolean", _, _) => "true or false".to_owned(),
            (other, _, _) => other.to_owned(),
        };
    match property.get("type") {
        Some(Value::String(name)) => named(name),
        Some(Value::Array(names)) => either(names.iter().filter_map(Value::as_str).map(named)),
        _ => "any".to_owned(),
    }
}

/// "a or b", without "null", which TOML does not have.
fn either(kinds: impl Iterator<Item = String>) -> String {
    let mut kinds: Vec<_> = kinds.filter(|kind| kind.trim_matches('`') != "null").collect();
    kinds.dedup();
    kinds.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_becomes_a_page() {
        let schema = json!({
            "description": "All of it.",
            "properties": {
                "host": { "type": ["string", "null"], "description": "A name\nfor it." },
                "source": { "type": "object", "additionalProperties": { "$ref": "#/$defs/Source" } },
            },
            "$defs": {
                "Source": { "properties": { "files": { "type": "array", "items": { "anyOf":
                    [{ "type": "string" }, { "$ref": "#/$defs/File" }] } } } },
                "File": { "description": "A file.", "type": "string" },
            },
        });
        let page = configuration(&schema).unwrap();
        assert!(page.contains("| `host` | string | A name for it. |"), "{page}");
        assert!(page.contains("| `source` | table of `Source` by name | |"), "{page}");
        assert!(page.contains("| `files` | list of string or `File` | |"), "{page}");
        assert!(page.contains("## `File`\n\nA file.\n\nstring\n"), "{page}");
    }

    #[test]
    fn a_schema_without_keys_is_an_error() {
        assert!(configuration(&json!({ "properties": {} })).is_err());
        assert!(configuration(&json!({ "$defs": { "A": { "type": "string" } } })).is_err());
    }
}
