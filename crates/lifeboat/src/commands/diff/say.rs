//! What a comparison found, for people and as JSON.

use std::fmt::Write as _;

use lifeboat_core::Result;
use lifeboat_core::diff::{
    Comparison, Difference, Place, RowDifference, TableDifference, TableOutcome, Value,
};
use serde_json::{Map, json};

use crate::session::Session;
use crate::ui::printer::Style;
use crate::ui::units;

/// So much of a value is shown to people.
const VALUE_BYTES: usize = 60;

/// Prints it.
pub(super) fn result(
    session: &Session,
    labels: (&str, &str),
    comparison: &Comparison,
) -> Result<()> {
    match session.printer.json() {
        true => session.printer.json_data(&as_json(labels, comparison)),
        false => session.printer.data(&text(session, labels, comparison)),
    }
}

fn text(session: &Session, (a, b): (&str, &str), comparison: &Comparison) -> String {
    let mut text = format!("A {a}\nB {b}\n");
    for it in &comparison.schema {
        let place = match it.place {
            Place::OnlyA => "only in A",
            Place::OnlyB => "only in B",
            Place::Changed => "its statement differs",
        };
        let _ = writeln!(text, "  schema: {} {}: {place}", it.kind, units::one_line(&it.name));
    }
    let (same, others): (Vec<&TableDifference>, Vec<_>) =
        comparison.tables.iter().partition(|table| table.is_same());
    for table in others {
        let name = session.printer.paint_out(Style::Strong, &units::one_line(&table.name));
        let _ = writeln!(text, "  {name}: {}", outcome(&table.outcome));
        for note in &table.notes {
            let _ = writeln!(text, "    {note}");
        }
        if let TableOutcome::Compared { key, columns, difference } = &table.outcome {
            rows(key.len(), columns, difference, &mut text);
        }
    }
    if !same.is_empty() {
        let rows: u64 = same.iter().map(|table| same_rows(table)).sum();
        let (tables, rows) = (units::count(same.len() as u64), units::count(rows));
        let _ = writeln!(text, "  {tables} tables are the same, with {rows} rows");
    }
    text
}

fn same_rows(table: &TableDifference) -> u64 {
    match &table.outcome {
        TableOutcome::Compared { difference, .. } => difference.same,
        _ => 0,
    }
}

fn outcome(outcome: &TableOutcome) -> String {
    match outcome {
        TableOutcome::OnlyA { rows } => format!("only in A, with {} rows", units::count(*rows)),
        TableOutcome::OnlyB { rows } => format!("only in B, with {} rows", units::count(*rows)),
        TableOutcome::NotCompared(why) => format!("not compared: {}", units::one_line(why)),
        TableOutcome::Compared { columns, difference, .. } => {
            let parts = [
                (difference.only_a, "only in A".to_owned()),
                (difference.only_b, "only in B".to_owned()),
                (difference.changed, changed(columns, difference)),
                (difference.same, "the same".to_owned()),
            ];
            let parts: Vec<String> = parts
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, words)| format!("{} {words}", units::count(count)))
                .collect();
            parts.join(", ")
        }
    }
}

fn changed(columns: &[String], difference: &Difference) -> String {
    let pairs = columns.iter().zip(&difference.columns).filter(|(_, count)| **count > 0);
    let named: Vec<String> = pairs.map(|(name, _)| units::one_line(name)).collect();
    format!("changed in {}", named.join(", "))
}

fn rows(key: usize, columns: &[String], difference: &Difference, text: &mut String) {
    for row in &difference.rows {
        let line = match (&row.a, &row.b) {
            (Some(a), Some(b)) => format!("~ {}", changes(key, columns, a, b)),
            (Some(a), None) => format!("- {}", shown(columns, a)),
            (None, Some(b)) => format!("+ {}", shown(columns, b)),
            (None, None) => continue,
        };
        let _ = writeln!(text, "    {}", units::one_line(&line));
    }
    let all = difference.only_a + difference.only_b + difference.changed;
    if !difference.rows.is_empty() && (difference.rows.len() as u64) < all {
        let more = units::count(all - difference.rows.len() as u64);
        let _ = writeln!(text, "    and {more} more: --rows COUNT");
    }
}

fn shown(columns: &[String], values: &[Value]) -> String {
    let pairs = columns.iter().zip(values);
    let pairs: Vec<String> =
        pairs.map(|(name, value)| format!("{name}={}", value.to_sql(VALUE_BYTES))).collect();
    pairs.join(" ")
}

/// The key, and the values that are not the same.
fn changes(key: usize, columns: &[String], a: &[Value], b: &[Value]) -> String {
    let mut parts = Vec::new();
    for (index, ((name, a), b)) in columns.iter().zip(a).zip(b).enumerate() {
        let (old, new) = (a.to_sql(VALUE_BYTES), b.to_sql(VALUE_BYTES));
        if a != b {
            parts.push(format!("{name}={old} -> {new}"));
        } else if index < key {
            parts.push(format!("{name}={old}"));
        }
    }
    parts.join(" ")
}

fn as_json((a, b): (&str, &str), comparison: &Comparison) -> serde_json::Value {
    let schema: Vec<_> = comparison
        .schema
        .iter()
        .map(|it| json!({ "kind": it.kind, "name": it.name, "where": it.place.word() }))
        .collect();
    let outcome = match (comparison.differs(), comparison.not_compared()) {
        (true, _) => "differs",
        (false, 0) => "same",
        (false, _) => "incomplete",
    };
    json!({
        "outcome": outcome,
        "a": a,
        "b": b,
        "schema": schema,
        "tables": comparison.tables.iter().map(table_json).collect::<Vec<_>>(),
    })
}

fn table_json(table: &TableDifference) -> serde_json::Value {
    let mut value = match &table.outcome {
        TableOutcome::OnlyA { rows } => json!({ "where": "only_a", "rows": rows }),
        TableOutcome::OnlyB { rows } => json!({ "where": "only_b", "rows": rows }),
        TableOutcome::NotCompared(why) => json!({ "where": "both", "not_compared": why }),
        TableOutcome::Compared { key, columns, difference } => {
            let changed: Map<String, _> = columns
                .iter()
                .zip(&difference.columns)
                .filter(|(_, count)| **count > 0)
                .map(|(name, count)| (name.clone(), json!(count)))
                .collect();
            json!({
                "where": "both",
                "key": key,
                "only_a": difference.only_a,
                "only_b": difference.only_b,
                "changed": difference.changed,
                "same": difference.same,
                "changed_columns": changed,
                "rows": difference.rows.iter()
                    .map(|row| row_json(columns, row))
                    .collect::<Vec<_>>(),
            })
        }
    };
    value["table"] = table.name.clone().into();
    value["notes"] = json!(table.notes);
    value
}

fn row_json(columns: &[String], row: &RowDifference) -> serde_json::Value {
    let side = |values: &Option<Vec<Value>>| {
        let values = values.as_ref()?;
        let pairs = columns.iter().zip(values);
        let pairs: Map<String, _> =
            pairs.map(|(name, value)| (name.clone(), value_json(value))).collect();
        Some(pairs)
    };
    json!({ "a": side(&row.a), "b": side(&row.b) })
}

/// A value as JSON; what JSON has no word for, in an object that says what it is.
pub(crate) fn value_json(value: &Value) -> serde_json::Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(number) => json!(number),
        Value::Real(number) if number.is_finite() => json!(number),
        Value::Real(number) => json!({ "real": number.to_string() }),
        Value::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => json!(text),
            Err(_) => json!({ "text": hex(text) }),
        },
        Value::Blob(bytes) => json!({ "blob": hex(bytes) }),
    }
}
