//! The configuration in force, with where each value comes from. It is read only: whoever changes
//! it does so in its file. Secrets are references there, and what looks like one is hidden here.

use lifeboat_core::Result;
use maud::{Markup, html};
use toml::Value;

use crate::config::origin::{self, Section, Setting};
use crate::config::trust;
use crate::ui::units;
use crate::web::context::Ctx;
use crate::web::layout;
use crate::web::secret::hidden;
use crate::web::table::{Row, Table};

/// From so many sections on, they are searched.
const LONG: usize = 12;

pub(super) fn draw(ctx: &Ctx) -> Result<Markup> {
    let loaded = &ctx.look.loaded;
    let files: Vec<_> = loaded.places.files.iter().map(|file| file.path.clone()).collect();
    let doubts = match trust::has_commands(&loaded.config) {
        true => trust::doubts(&files, rustix::process::geteuid().as_raw()),
        false => Vec::new(),
    };
    let mut sections = origin::sections(loaded);
    let is_long = sections.len() > LONG;
    if let Some(wanted) = ctx.given("q") {
        sections.retain(|section| section.name.contains(wanted));
    }
    Ok(html! {
        @if files.is_empty() {
            p { "No file: all that there is are defaults, and what variables of the environment say." }
        } @else {
            p { "Read from "
                @for (index, file) in files.iter().enumerate() {
                    @if index > 0 { ", " }
                    code.path { (units::one_line(&file.display().to_string())) }
                }
                ". To change it, edit that, and " code.command { "lifeboat agent reload" }
                " has the agent check it and take it."
            }
        }
        @for doubt in &doubts { p.doubtful { (units::one_line(doubt)) } }
        @if is_long { (layout::search(ctx, "Sections whose name has")) }
        @if is_long && sections.is_empty() { p { "There is none." } }
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
            (Table { caption: &format!("The values of {name}"), heads: &["Key", "Value", "From"] }
                .of(section.settings.iter().map(row)))
        }
    }
}

fn row(setting: &Setting) -> Row {
    Row::new([
        html! { code { (units::one_line(&setting.key)) } },
        html! { code { (value(&setting.value)) } },
        html! { span.path { (units::one_line(&setting.origin)) } },
    ])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_hidden_however_deep_it_is() {
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
