//! Views. A query is translated word by word where each of its words means the same on both sides;
//! PostgreSQL then judges it. Its rows are not counted: they follow from those of its tables.
//! Others are listed.

use lifeboat_postgres::{identifier, literal};

use crate::expression::{Type, kind_of};
use crate::names::{NameStyle, Names, Room};
use crate::plan::TablePlan;
use crate::schema::{Collation, LeftOut, Schema, Statement};
use crate::statements::{Statements, Step};
use crate::token::{self, Kind, Token};

/// Words of queries that mean the same.
const WORDS: &[&str] = &[
    "SELECT", "DISTINCT", "AS", "FROM", "WHERE", "AND", "OR", "NOT", "IN", "IS", "NULL", "BETWEEN",
    "JOIN", "LEFT", "INNER", "CROSS", "OUTER", "ON", "USING", "GROUP", "BY", "HAVING", "UNION",
    "ALL", "EXISTS", "CASE", "WHEN", "THEN", "ELSE", "END",
];
/// Words that do not, or whose order of rows is no part of a view.
const OTHERS: &[&str] = &[
    "ORDER",
    "LIMIT",
    "OFFSET",
    "WITH",
    "WINDOW",
    "OVER",
    "FILTER",
    "INTERSECT",
    "EXCEPT",
    "COLLATE",
    "LIKE",
    "GLOB",
    "MATCH",
    "REGEXP",
    "NATURAL",
    "FULL",
    "RIGHT",
    "CAST",
    "ISNULL",
    "NOTNULL",
    "INDEXED",
    "VALUES",
    "ESCAPE",
    "RECURSIVE",
];
/// Functions that answer the same.
const FUNCTIONS: &[(&str, &str)] = &[
    ("count", "count"),
    ("sum", "sum"),
    ("min", "min"),
    ("max", "max"),
    ("coalesce", "coalesce"),
    ("ifnull", "coalesce"),
    ("abs", "abs"),
];
const SIGNS: &[&str] =
    &["(", ")", ",", ".", "=", "==", "<>", "!=", "<", "<=", ">", ">=", "+", "-", "*", "||"];

/// Writes the views that are certain; lists the others.
pub(crate) fn write(
    schema: &Schema,
    names: &Names,
    plans: &[TablePlan],
    (room, style): (&mut Room, NameStyle),
    statements: &mut Statements,
) {
    let mut known: Vec<(String, String)> = Vec::new();
    for view in &schema.views {
        let what = format!("view {}", view.name);
        match translated(schema, names, plans, &known, view) {
            Ok(query) => {
                let name = room.take(&view.name, style);
                let sql = format!("CREATE VIEW {} AS {query}", identifier(&name));
                known.push((view.name.clone(), name));
                let original = view.sql.clone();
                statements.views.push(Step { what, sql, original, is_required: false });
            }
            Err(why) => statements.untranslated.push(LeftOut {
                what,
                why: format!("not certain to mean the same: {why}"),
                sql: view.sql.clone(),
            }),
        }
    }
}

fn translated(
    schema: &Schema,
    names: &Names,
    plans: &[TablePlan],
    known: &[(String, String)],
    view: &Statement,
) -> Result<String, String> {
    let tokens = token::tokens(&view.sql).ok_or("it is no SQL that we can read")?;
    let begin = tokens.iter().position(|token| token.is("AS")).ok_or("it has no query")?;
    if tokens[..begin].iter().any(|token| token.is_sign("(")) {
        return Err("its columns are named apart".into());
    }
    let body = &tokens[begin + 1..];
    let aliases = aliases(body);
    let dictionary = Dictionary { schema, names, plans, known, aliases };
    let mut query = String::new();
    for (place, token) in body.iter().enumerate() {
        let before = place.checked_sub(1).map(|place| &body[place]);
        let word = dictionary.word(before, token, body.get(place + 1))?;
        query.push_str(&word);
        query.push(' ');
    }
    Ok(query.trim_end().to_owned())
}

/// Names that the query gives itself.
fn aliases(body: &[Token]) -> Vec<String> {
    let after_as = body.windows(2).filter(|pair| pair[0].is("AS"));
    let after_name = body.windows(2).filter(|pair| {
        let is_end = |token: &Token| {
            !token.is_sign(")") && token.name().is_some() && !is_word(token) && token.place.end > 0
        };
        (is_end(&pair[0]) || pair[0].is_sign(")")) && is_end(&pair[1])
    });
    let all = after_as.chain(after_name);
    all.filter_map(|pair| pair[1].name()).map(str::to_owned).collect()
}

fn is_word(token: &Token) -> bool {
    WORDS.iter().any(|word| token.is(word))
}

struct Dictionary<'a> {
    schema: &'a Schema,
    names: &'a Names,
    plans: &'a [TablePlan],
    known: &'a [(String, String)],
    aliases: Vec<String>,
}

impl Dictionary<'_> {
    fn word(
        &self,
        before: Option<&Token>,
        token: &Token,
        next: Option<&Token>,
    ) -> Result<String, String> {
        match &token.kind {
            Kind::Word(word) if OTHERS.iter().any(|other| word.eq_ignore_ascii_case(other)) => {
                Err(word.to_ascii_uppercase())
            }
            Kind::Word(word) if is_word(token) => Ok(word.to_ascii_uppercase()),
            Kind::Word(word) if next.is_some_and(|next| next.is_sign("(")) => {
                let found = FUNCTIONS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
                found.map(|(_, ours)| (*ours).to_owned()).ok_or_else(|| format!("{word}()"))
            }
            Kind::Word(name) | Kind::Name(name) => self.name(name, before, next),
            Kind::Doubtful(name) => match self.name(name, before, next) {
                Err(why) if why == unknown(name) => Ok(literal(name)),
                other => other,
            },
            Kind::Text(text) => Ok(literal(text)),
            Kind::Number(number) if number.parse::<f64>().is_ok() && !number.contains('_') => {
                Ok(number.clone())
            }
            Kind::Sign("==") => Ok("=".into()),
            Kind::Sign(sign) if SIGNS.contains(sign) => Ok((*sign).to_owned()),
            _ => Err("a sign that we do not know".into()),
        }
    }

    fn name(
        &self,
        name: &str,
        before: Option<&Token>,
        next: Option<&Token>,
    ) -> Result<String, String> {
        let is = |other: &str| other.eq_ignore_ascii_case(name);
        let is_of_table = next.is_some_and(|next| next.is_sign("."))
            || before.is_some_and(|before| before.is("FROM") || before.is("JOIN"));
        if is_of_table && let Some(table) = self.schema.table(name) {
            return Ok(identifier(self.names.table(&table.name)));
        }
        if let Some((_, view)) = self.known.iter().find(|(view, _)| is(view)) {
            return Ok(identifier(view));
        }
        let columns = self.schema.tables.iter().zip(self.plans).flat_map(|(table, plan)| {
            let columns = table.columns.iter().zip(&plan.columns);
            columns.map(move |(column, plan)| (table, column, plan))
        });
        let found: Vec<_> = columns.filter(|(_, column, _)| is(&column.name)).collect();
        let given: Vec<&str> = found
            .iter()
            .map(|(table, column, _)| self.names.column(&table.name, &column.name))
            .collect();
        if let Some(first) = given.first() {
            if given.iter().any(|other| other != first) {
                return Err(format!("{name} is several columns"));
            }
            if found.iter().any(|(_, column, _)| column.collation != Collation::Binary) {
                return Err(format!("{name} is not compared byte by byte"));
            }
            let is_compared = [before, next].into_iter().flatten().any(compares);
            let kinds = found.iter().map(|(_, _, plan)| kind_of(plan.choice.target));
            let is_moment = |kind: Type| matches!(kind, Type::Instant | Type::Date);
            if is_compared && kinds.into_iter().any(is_moment) {
                return Err(format!("{name} is compared, and has become a moment"));
            }
            return Ok(identifier(first));
        }
        match self.aliases.iter().find(|alias| is(alias)) {
            Some(alias) => Ok(identifier(alias)),
            None => Err(unknown(name)),
        }
    }
}

fn unknown(name: &str) -> String {
    format!("`{name}`")
}

fn compares(token: &Token) -> bool {
    let signs = ["=", "==", "<>", "!=", "<", "<=", ">", ">=", "+", "-", "||"];
    signs.iter().any(|sign| token.is_sign(sign)) || token.is("BETWEEN") || token.is("IN")
}
