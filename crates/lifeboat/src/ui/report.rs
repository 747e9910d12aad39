//! The only place where an error becomes text.

use std::error::Error as _;

use lifeboat_core::{Error, Kind};
use serde_json::{Value, json};

use super::printer::{Printer, Style};

/// Prints an error: what failed, why, and what mends it; as one JSON object with `--json`.
pub(crate) fn report(printer: &Printer, error: &Error) {
    if printer.json() {
        return printer.json_line(&as_json(error));
    }
    let mark = printer.paint_err(Style::Bad, "error:");
    let mut text = format!("{mark} {}", error.message());
    for cause in causes(error) {
        text.push_str(&format!("\n  caused by: {}", cause.replace('\n', "\n    ")));
    }
    if let Some(hint) = error.hint_text() {
        let mark = printer.paint_err(Style::Strong, "hint:");
        text.push_str(&format!("\n  {mark} {}", hint.replace('\n', "\n    ")));
    }
    printer.line(&text);
}

/// An error as it is reported with `--json`.
pub(crate) fn as_json(error: &Error) -> Value {
    let mut object = json!({
        "type": "error",
        "exit_code": error.kind().exit_code(),
        "kind": kind_name(error.kind()),
        "message": error.message(),
        "causes": causes(error),
    });
    if let Some(hint) = error.hint_text() {
        object["hint"] = hint.into();
    }
    object
}

/// The causes, from the nearest to the first. A cause that repeats what is above it is left out.
pub(crate) fn causes(error: &Error) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut above = error.message().to_owned();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !above.ends_with(&text) {
            found.push(text.clone());
        }
        above = text;
        cause = inner.source();
    }
    found
}

/// The name of a kind in JSON: its words joined by `-`.
pub(crate) fn kind_name(kind: Kind) -> String {
    let mut name = String::new();
    for letter in format!("{kind:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_everything() {
        let disk = std::io::Error::from_raw_os_error(28);
        let error = Error::io(Kind::Failed, "cannot write x", disk).hint("free some space");
        let value = as_json(&error.context("the backup of chat failed"));
        assert_eq!(value["kind"], "no-space");
        assert_eq!(value["exit_code"], 14);
        assert_eq!(value["causes"][0], "cannot write x");
        assert_eq!(value["hint"], "free some space");
    }
}
