//! The configuration in force, with where each value comes from. It is read only: whoever changes
//! it does so in its file. Secrets are references there, and what looks like one is hidden here.

use lifeboat_core::Result;
use maud::{Markup, html};
use toml::Value;

use crate::config::origin::{self, Section};
use crate::config::trust;
use crate::ui::units;
use crate::web::context::Ctx;

/// What stands for what is hidden.
const HIDDEN: &str = "***";

pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    let loaded = &ctx.look.loaded;
    let files: Vec<_> = loaded.places.files.iter().map(|file| file.path.clone()).collect();
    let doubts = match trust::has_commands(&loaded.config) {
        true => trust::doubts(&files, rustix::process::geteuid().as_raw()),
        false => Vec::new(),
    };
    let sections = origin::sections(loaded);
    Ok(html! {
        @if files.is_empty() {
            p { "No file: all that there is are defaults, and what variables of the environment say." }
        } @else {
            p { "Read from "
                @for (index, file) in files.iter().enumerate() {
                    @if index > 0 { ", " }
                    code.path { (units::one_line(&file.display().to_string())) }
                }
                ". To change it, edit that; the agent reads it anew on SIGHUP."
            }
        }
        @for doubt in &doubts { p.doubtful { (units::one_line(doubt)) } }
        @for section in &sections { (drawn(section)) }
        p.note { "The same: " code { "lifeboat config show" } }
    })
}

fn drawn(section: &Section) -> Markup {
    let name = match section.name.is_empty() {
        true => "(top)".to_owned(),
        false => format!("[{}]", units::one_line(&section.name)),
    };
    html! {
        section {
            h2 { code { (name) } }
            table.sources {
                caption.unseen { "The values of " (name) }
                thead { tr {
                    th scope="col" { "Key" }
                    th scope="col" { "Value" }
                    th scope="col" { "From" }
                } }
                tbody {
                    @for setting in &section.settings {
                        tr {
                            th scope="row" { code { (units::one_line(&setting.key)) } }
                            td data-label="Value" { code { (value(&setting.value)) } }
                            td data-label="From" { span.path { (units::one_line(&setting.origin)) } }
                        }
                    }
                }
            }
        }
    }
}

/// A value as TOML has it, without what may be a secret.
fn value(value: &Value) -> String {
    origin::inline(&without_secrets(value))
}

fn without_secrets(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(hidden(text)),
        Value::Array(values) => Value::Array(values.iter().map(without_secrets).collect()),
        Value::Table(table) => {
            let pairs = table.iter().map(|(key, value)| (key.clone(), without_secrets(value)));
            Value::Table(pairs.collect())
        }
        other => other.clone(),
    }
}

/// A text without the password of a URL in it, and without a secret key of age.
fn hidden(text: &str) -> String {
    if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
        return HIDDEN.to_owned();
    }
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((who, host)) => match who.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    let behind = match behind.split_once("password=") {
        Some((before, secret)) => {
            let rest = secret.find('&').map_or("", |at| &secret[at..]);
            format!("{before}password={HIDDEN}{rest}")
        }
        None => behind.to_owned(),
    };
    format!("{scheme}://{authority}{behind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_hidden_wherever_it_stands() {
        for (text, shown) in [
            ("postgresql://u:s3cret@h/d", "postgresql://u:***@h/d"),
            ("postgresql://u:p@ss@h/d?sslmode=require", "postgresql://u:***@h/d?sslmode=require"),
            ("postgresql://u@h/d?password=s3cret&x=1", "postgresql://u@h/d?password=***&x=1"),
            ("age-secret-key-1qqqq", "***"),
            ("file:///var/backups", "file:///var/backups"),
            ("daily 02:00", "daily 02:00"),
            ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
        ] {
            assert_eq!(hidden(text), shown);
        }
        let table: Value = toml::from_str("a = [{ b = \"x://u:s3cret@h\" }]").unwrap();
        assert!(!value(&table).contains("s3cret"), "{}", value(&table));
    }

    #[test]
    fn a_value_is_never_markup() {
        let setting = origin::Setting {
            key: "sqlite".into(),
            value: Value::String("<script>alert(1)</script>".into()),
            origin: "<b>:1".into(),
        };
        let name = "source.<img src=x>".to_owned();
        let drawn = drawn(&Section { name, settings: vec![setting] }).into_string();
        assert!(!drawn.contains("<script") && !drawn.contains("<b>") && !drawn.contains("<img"));
        assert!(drawn.contains("&lt;script&gt;"), "{drawn}");
    }
}
