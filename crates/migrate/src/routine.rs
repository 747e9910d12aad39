//! Triggers. One kind is certain: after a row was updated, its own columns get constants or the
//! time of now, such as `updated_at`. All others are listed with their text.

use lifeboat_postgres::{identifier, literal};

use crate::expression::{self, Scope};
use crate::function;
use crate::names::{Names, fitting};
use crate::plan::TablePlan;
use crate::schema::{LeftOut, Schema, Statement};
use crate::statements::{Statements, Step};
use crate::token::{self, Token};

/// Writes the triggers that are certain; lists the others.
pub(crate) fn write(
    schema: &Schema,
    names: &Names,
    plans: &[TablePlan],
    statements: &mut Statements,
) {
    for trigger in &schema.triggers {
        let what = format!("trigger {} on {}", trigger.name, trigger.table);
        match translated(schema, names, plans, trigger) {
            Some(sql) => statements.triggers.push(Step {
                what,
                sql,
                original: trigger.sql.clone(),
                is_required: false,
            }),
            None => statements.untranslated.push(LeftOut {
                what,
                why: "only triggers that set columns of the updated row are translated".into(),
                sql: trigger.sql.clone(),
            }),
        }
    }
}

fn translated(
    schema: &Schema,
    names: &Names,
    plans: &[TablePlan],
    trigger: &Statement,
) -> Option<String> {
    let place = schema.tables.iter().position(|table| table.name == trigger.table)?;
    let table = &schema.tables[place];
    let tokens = token::tokens(&trigger.sql)?;
    let begin = tokens.iter().position(|token| token.is("BEGIN"))?;
    let head = &tokens[..begin];
    let has = |word: &str| head.iter().any(|token| token.is(word));
    let is_after_update = head.windows(2).any(|pair| pair[0].is("AFTER") && pair[1].is("UPDATE"));
    // UPDATE OF columns fires for less than every update.
    if !is_after_update || has("WHEN") || has("OF") {
        return None;
    }
    let mut body = Words { tokens: &tokens[begin + 1..], sql: &trigger.sql };
    body.word("UPDATE")?;
    body.named(&table.name)?;
    body.word("SET")?;
    let mut sets = String::new();
    loop {
        let column = table.column(body.tokens.first()?.name()?)?;
        body.tokens = &body.tokens[1..];
        body.sign("=")?;
        let end = body
            .tokens
            .iter()
            .position(|token| token.is_sign(",") || token.is("WHERE") || token.is_sign(";"))?;
        let text = token::text_of(body.sql, &body.tokens[..end]);
        let piece = expression::translate(text, Scope { table: None, names }).ok()?;
        let target = plans[place].columns[column].choice.target;
        let value = function::default_for(&piece, target).ok()?;
        let name = identifier(names.column(&table.name, &table.columns[column].name));
        sets.push_str(&format!(" NEW.{name} := {value};"));
        body.tokens = &body.tokens[end..];
        if body.word("WHERE").is_some() {
            break;
        }
        body.sign(",")?;
    }
    let key = body.tokens.first()?.name()?;
    let is_rowid = key.eq_ignore_ascii_case("rowid") && table.column("rowid").is_none();
    let only_key = [table.column(key)?];
    if !is_rowid && table.primary_key != only_key {
        return None;
    }
    body.tokens = &body.tokens[1..];
    body.sign("=")?;
    body.word("NEW").or_else(|| body.word("OLD"))?;
    body.sign(".")?;
    body.named(key)?;
    body.sign(";")?;
    body.word("END")?;
    let rest = body.tokens.iter().filter(|token| !token.is_sign(";")).count();
    if rest > 0 {
        return None;
    }
    let name = identifier(&fitting(&trigger.name));
    let code = format!("BEGIN{sets} RETURN NEW; END");
    Some(format!(
        "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS {};\n\
         CREATE TRIGGER {name} BEFORE UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION {name}()",
        literal(&code),
        identifier(names.table(&table.name))
    ))
}

struct Words<'a> {
    tokens: &'a [Token],
    sql: &'a str,
}

impl Words<'_> {
    fn step(&mut self, is_it: bool) -> Option<()> {
        self.tokens = if is_it { &self.tokens[1..] } else { self.tokens };
        is_it.then_some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let is_it = self.tokens.first()?.is(word);
        self.step(is_it)
    }

    fn sign(&mut self, sign: &str) -> Option<()> {
        let is_it = self.tokens.first()?.is_sign(sign);
        self.step(is_it)
    }

    fn named(&mut self, name: &str) -> Option<()> {
        let is_it = self.tokens.first()?.name()?.eq_ignore_ascii_case(name);
        self.step(is_it)
    }
}
