//! Expressions of SQLite in PostgreSQL's words: `CHECK`, `DEFAULT`, generated columns, keys and
//! conditions of indexes. What is not certain to mean the same is not translated.
//!
//! The reader goes down the grammar by precedence and writes what it understood, each step in
//! parentheses. It knows the types that columns got: a flag that became a boolean is compared with
//! `true`, not with 1.

use lifeboat_postgres::{identifier, literal};

use crate::function;
use crate::names::Names;
use crate::schema::{Collation, Table};
use crate::target::Target;
use crate::token::{self, Kind, Token, tokens};

/// What kind of value an expression gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Boolean,
    Integer,
    Real,
    Text,
    Bytes,
    Instant,
    Date,
    Null,
    Other,
}

/// A part that was translated.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) sql: String,
    pub(crate) kind: Type,
    /// What it is where it is a constant: as it was written, a text without its quotes.
    pub(crate) constant: Option<String>,
    pub(crate) collation: Collation,
    /// Whether it gives the same for the same row at any time.
    pub(crate) is_immutable: bool,
}

impl Piece {
    pub(crate) fn new(sql: impl Into<String>, kind: Type) -> Self {
        let collation = Collation::Binary;
        Piece { sql: sql.into(), kind, constant: None, collation, is_immutable: true }
    }

    pub(crate) fn is_number(&self) -> bool {
        matches!(self.kind, Type::Integer | Type::Real)
    }
}

/// Why something was not translated.
pub(crate) type Reason = String;

/// The columns that an expression may name; none for a default.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) table: Option<(&'a Table, &'a [Target])>,
    pub(crate) names: &'a Names,
}

/// The kind of value that a type holds.
pub(crate) fn kind_of(target: Target) -> Type {
    match target {
        Target::BigInt | Target::Integer | Target::SmallInt => Type::Integer,
        Target::Double | Target::Numeric(_) => Type::Real,
        Target::Boolean => Type::Boolean,
        Target::Text | Target::Varchar(_) => Type::Text,
        Target::Bytea => Type::Bytes,
        Target::Timestamptz(_) | Target::Timestamp(_) => Type::Instant,
        Target::Date => Type::Date,
        Target::Json | Target::Uuid => Type::Other,
    }
}

/// Translates an expression.
pub(crate) fn translate(sql: &str, scope: Scope<'_>) -> Result<Piece, Reason> {
    let tokens = tokens(sql).ok_or("it is no SQL that we can read")?;
    let mut reader = Reader { tokens: &tokens, at: 0, scope, depth: 0 };
    let piece = reader.any_of(0)?;
    match reader.peek() {
        None => Ok(piece),
        Some(token) => Err(format!("`{}`", &sql[token.place.clone()])),
    }
}

/// Translates a condition.
pub(crate) fn condition(sql: &str, scope: Scope<'_>) -> Result<Piece, Reason> {
    truth(translate(sql, scope)?)
}

/// As a truth: a number is true where it is not 0.
pub(crate) fn truth(piece: Piece) -> Result<Piece, Reason> {
    match piece.kind {
        Type::Boolean => Ok(piece),
        Type::Integer | Type::Real => {
            Ok(Piece { sql: format!("({} <> 0)", piece.sql), kind: Type::Boolean, ..piece })
        }
        _ => Err(format!("{} is no truth", piece.sql)),
    }
}

pub(crate) struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    scope: Scope<'a>,
    depth: usize,
}

/// Operators from the weakest to the strongest; what stands in one line is read from the left.
const LEVELS: &[&[&str]] = &[
    &["OR"],
    &["AND"],
    &["NOT"],
    &["=", "==", "<>", "!=", "IS", "IN", "LIKE", "GLOB", "BETWEEN", "ISNULL", "NOTNULL"],
    &["<", "<=", ">", ">="],
    &["+", "-"],
    &["*", "/", "%"],
    &["||"],
];
const COMPARE: usize = 3;
const DEPTH_MAX: usize = 60;

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take(&mut self, word: &str) -> bool {
        let is_it = self.peek().is_some_and(|token| token.is(word) || token.is_sign(word));
        self.at += usize::from(is_it);
        is_it
    }

    fn need(&mut self, word: &str) -> Result<(), Reason> {
        match self.take(word) {
            true => Ok(()),
            false => Err(format!("`{word}` was expected")),
        }
    }

    fn operator(&self, level: usize) -> Option<&'static str> {
        let token = self.peek()?;
        LEVELS[level].iter().find(|word| token.is(word) || token.is_sign(word)).copied()
    }

    fn any_of(&mut self, level: usize) -> Result<Piece, Reason> {
        self.depth += 1;
        if self.depth > DEPTH_MAX * LEVELS.len() {
            return Err("it is nested too deeply".into());
        }
        let piece = self.level(level);
        self.depth -= 1;
        piece
    }

    fn level(&mut self, level: usize) -> Result<Piece, Reason> {
        match level {
            2 if self.take("NOT") => {
                let piece = truth(self.any_of(2)?)?;
                return Ok(Piece { sql: format!("(NOT {})", piece.sql), ..piece });
            }
            8 => return self.single(),
            _ => {}
        }
        let mut left = self.any_of(level + 1)?;
        loop {
            if level == COMPARE && self.peek().is_some_and(|token| token.is("NOT")) {
                let next = self.tokens.get(self.at + 1);
                let is_negated = next.is_some_and(|next| {
                    ["LIKE", "GLOB", "IN", "BETWEEN", "NULL"].iter().any(|word| next.is(word))
                });
                if is_negated {
                    self.at += 1;
                    left = self.compared(left, true)?;
                    continue;
                }
            }
            let Some(operator) = self.operator(level) else { return Ok(left) };
            if level == COMPARE {
                left = self.compared(left, false)?;
                continue;
            }
            self.at += 1;
            let right = self.any_of(level + 1)?;
            left = match operator {
                "OR" | "AND" => {
                    let (left, right) = (truth(left)?, truth(right)?);
                    joined(&left, operator, &right, Type::Boolean)
                }
                "<" | "<=" | ">" | ">=" => compare(left, operator, right)?,
                _ => arithmetic(left, operator, right)?,
            };
        }
    }

    /// What stands behind the left side of `=`, `IS`, `IN`, `LIKE` and their like.
    fn compared(&mut self, left: Piece, negated: bool) -> Result<Piece, Reason> {
        let not = if negated { "NOT " } else { "" };
        let token = self.peek().cloned().ok_or("it ends too soon")?;
        self.at += 1;
        let is_null = |left: Piece, not: &str| {
            Ok(Piece { sql: format!("({} IS {not}NULL)", left.sql), kind: Type::Boolean, ..left })
        };
        if token.is("ISNULL") {
            return is_null(left, "");
        }
        if token.is("NOTNULL") || token.is("NULL") {
            return is_null(left, "NOT ");
        }
        if token.is("IS") {
            let not = if self.take("NOT") { "NOT " } else { "" };
            if self.take("NULL") {
                return is_null(left, not);
            }
            if self.peek().is_some_and(|token| token.is("DISTINCT")) {
                return Err("IS DISTINCT FROM".into());
            }
            let right = self.any_of(COMPARE + 1)?;
            let operator = match not {
                "" => "IS NOT DISTINCT FROM",
                _ => "IS DISTINCT FROM",
            };
            return compare(left, operator, right);
        }
        if token.is("BETWEEN") {
            let low = self.any_of(COMPARE + 1)?;
            self.need("AND")?;
            let high = self.any_of(COMPARE + 1)?;
            let (low, high) = (compare(left.clone(), ">=", low)?, compare(left, "<=", high)?);
            let both = joined(&low, "AND", &high, Type::Boolean);
            return Ok(Piece { sql: format!("({not}{})", both.sql), ..both });
        }
        if token.is("IN") {
            return self.in_list(left, not);
        }
        if token.is("LIKE") || token.is("GLOB") {
            let pattern = self.any_of(COMPARE + 1)?;
            if self.peek().is_some_and(|token| token.is("ESCAPE")) {
                return Err("LIKE with ESCAPE".into());
            }
            return like(&left, token.is("GLOB"), &pattern, not);
        }
        let right = self.any_of(COMPARE + 1)?;
        match token.kind {
            Kind::Sign("=" | "==") => compare(left, "=", right),
            _ => compare(left, "<>", right),
        }
    }

    fn in_list(&mut self, left: Piece, not: &str) -> Result<Piece, Reason> {
        self.need("(")?;
        if self.peek().is_some_and(|token| token.is("SELECT") || token.is("WITH")) {
            return Err("a query within an expression".into());
        }
        let mut any: Option<Piece> = None;
        while !self.take(")") {
            let item = self.any_of(0)?;
            let one = compare(left.clone(), "=", item)?;
            any = Some(match any {
                Some(others) => joined(&others, "OR", &one, Type::Boolean),
                None => one,
            });
            if !self.take(",") && !self.peek().is_some_and(|token| token.is_sign(")")) {
                return Err("a list that does not end".into());
            }
        }
        let any = any.ok_or("an empty list")?;
        Ok(Piece { sql: format!("({not}{})", any.sql), ..any })
    }

    /// A constant, a column, a call, or something in parentheses, with a sign or COLLATE.
    fn single(&mut self) -> Result<Piece, Reason> {
        if self.take("-") {
            let piece = self.single()?;
            if !piece.is_number() {
                return Err("a sign before what is no number".into());
            }
            let constant = piece.constant.map(|constant| format!("-{constant}"));
            return Ok(Piece { sql: format!("(-{})", piece.sql), constant, ..piece });
        }
        if self.take("+") {
            return self.single();
        }
        let piece = self.primary()?;
        if !self.take("COLLATE") {
            return Ok(piece);
        }
        let name = self.peek().and_then(Token::name).unwrap_or_default().to_owned();
        self.at += 1;
        Ok(Piece { collation: Collation::of(&name), ..piece })
    }

    fn primary(&mut self) -> Result<Piece, Reason> {
        let token = self.peek().cloned().ok_or("it ends too soon")?;
        self.at += 1;
        let constant = |sql: String, kind, constant: String| {
            Ok(Piece { constant: Some(constant), ..Piece::new(sql, kind) })
        };
        match token.kind {
            Kind::Sign("(") => {
                if self.peek().is_some_and(|token| token.is("SELECT") || token.is("WITH")) {
                    return Err("a query within an expression".into());
                }
                let piece = self.any_of(0)?;
                self.need(")")?;
                Ok(Piece { sql: format!("({})", piece.sql), ..piece })
            }
            Kind::Number(number) => number_piece(&number),
            Kind::Text(text) => text_piece(&text),
            Kind::Blob(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                constant(format!("'\\x{digits}'::bytea"), Type::Bytes, digits)
            }
            Kind::Doubtful(name) => match self.column(&name) {
                Some(column) => Ok(column),
                // SQLite takes a name in quotes that no column has for a text.
                None => text_piece(&name),
            },
            Kind::Name(name) => self.column(&name).ok_or(format!("there is no column {name}")),
            Kind::Word(word) => self.word(&word),
            _ => Err("a sign that we do not know".into()),
        }
    }

    fn word(&mut self, word: &str) -> Result<Piece, Reason> {
        if self.peek().is_some_and(|token| token.is_sign("(")) {
            self.at += 1;
            return self.call(word);
        }
        let upper = word.to_ascii_uppercase();
        match upper.as_str() {
            "NULL" => return Ok(Piece::new("NULL", Type::Null)),
            "TRUE" | "FALSE" if self.column(word).is_none() => {
                let number = if upper == "TRUE" { "1" } else { "0" };
                let constant = Some(number.to_owned());
                return Ok(Piece { constant, ..Piece::new(upper.to_lowercase(), Type::Boolean) });
            }
            "CURRENT_TIMESTAMP" | "CURRENT_DATE" | "CURRENT_TIME" => return function::now(&upper),
            "CASE" => return self.case(),
            "CAST" | "EXISTS" | "RAISE" => return Err(upper),
            _ => {}
        }
        if self.take(".") {
            let is_ours =
                self.scope.table.is_some_and(|(table, _)| table.name.eq_ignore_ascii_case(word));
            let name = self.peek().and_then(Token::name).unwrap_or_default().to_owned();
            self.at += 1;
            let column = self.column(&name).filter(|_| is_ours);
            return column.ok_or(format!("there is no column {word}.{name}"));
        }
        self.column(word).ok_or(format!("`{word}`"))
    }

    fn column(&self, name: &str) -> Option<Piece> {
        let (table, targets) = self.scope.table?;
        let place = table.column(name)?;
        let column = &table.columns[place];
        let sql = identifier(self.scope.names.column(&table.name, &column.name));
        Some(Piece {
            collation: column.collation,
            ..Piece::new(sql, kind_of(*targets.get(place)?))
        })
    }

    fn case(&mut self) -> Result<Piece, Reason> {
        let base = match self.peek().is_some_and(|token| token.is("WHEN")) {
            true => None,
            false => Some(self.any_of(0)?),
        };
        let mut sql = "(CASE".to_owned();
        let mut results: Vec<Piece> = Vec::new();
        while self.take("WHEN") {
            let when = self.any_of(0)?;
            let when = match &base {
                Some(base) => compare(base.clone(), "=", when)?,
                None => truth(when)?,
            };
            self.need("THEN")?;
            let then = self.any_of(0)?;
            sql.push_str(&format!(" WHEN {} THEN {}", when.sql, then.sql));
            results.push(Piece { is_immutable: then.is_immutable && when.is_immutable, ..then });
        }
        if self.take("ELSE") {
            let otherwise = self.any_of(0)?;
            sql.push_str(&format!(" ELSE {}", otherwise.sql));
            results.push(otherwise);
        }
        self.need("END")?;
        sql.push_str(" END)");
        function::alike(sql, &results)
    }

    fn call(&mut self, name: &str) -> Result<Piece, Reason> {
        let mut arguments = Vec::new();
        while !self.take(")") {
            if self.take("*") || self.peek().is_some_and(|token| token.is("DISTINCT")) {
                return Err(format!("{name}() of rows"));
            }
            arguments.push(self.any_of(0)?);
            if !self.take(",") && !self.peek().is_some_and(|token| token.is_sign(")")) {
                return Err("a call that does not end".into());
            }
        }
        function::call(name, arguments)
    }
}

fn number_piece(number: &str) -> Result<Piece, Reason> {
    let plain = number.bytes().all(|byte| byte.is_ascii_digit());
    let is_real = !plain && number.parse::<f64>().is_ok() && !number.contains('_');
    if plain && number.parse::<i64>().is_ok() {
        let constant = Some(number.to_owned());
        return Ok(Piece { constant, ..Piece::new(number, Type::Integer) });
    }
    match is_real {
        true => Ok(Piece {
            constant: Some(number.to_owned()),
            ..Piece::new(format!("{number}::double precision"), Type::Real)
        }),
        false => Err(format!("the number {number}")),
    }
}

fn text_piece(text: &str) -> Result<Piece, Reason> {
    if text.contains('\0') {
        return Err("a text with a NUL byte".into());
    }
    Ok(Piece { constant: Some(text.to_owned()), ..Piece::new(literal(text), Type::Text) })
}

pub(crate) fn joined(left: &Piece, operator: &str, right: &Piece, kind: Type) -> Piece {
    Piece {
        is_immutable: left.is_immutable && right.is_immutable,
        ..Piece::new(format!("({} {operator} {})", left.sql, right.sql), kind)
    }
}

/// Two values beside each other, where both sides mean the same as in SQLite.
fn compare(left: Piece, operator: &str, right: Piece) -> Result<Piece, Reason> {
    let (left, right) = (as_truth_like(left, &right), right);
    let right = as_truth_like(right, &left);
    let is_alike = left.kind == right.kind
        || (left.is_number() && right.is_number())
        || right.kind == Type::Null;
    if !is_alike || matches!(left.kind, Type::Other) {
        return Err(format!("{} {operator} {}: values of two kinds", left.sql, right.sql));
    }
    if left.kind == Type::Text {
        let collation = match left.collation {
            Collation::Binary => right.collation,
            other => other,
        };
        match collation {
            Collation::Binary => {}
            Collation::NoCase => {
                let lower = |piece: &Piece| Piece {
                    sql: format!("lower({} COLLATE \"C\")", piece.sql),
                    ..piece.clone()
                };
                return Ok(joined(&lower(&left), operator, &lower(&right), Type::Boolean));
            }
            _ => return Err("a collation without a counterpart".into()),
        }
    }
    Ok(joined(&left, operator, &right, Type::Boolean))
}

/// 0 and 1 beside a boolean.
fn as_truth_like(piece: Piece, other: &Piece) -> Piece {
    match (other.kind, piece.constant.as_deref()) {
        (Type::Boolean, Some(number @ ("0" | "1"))) => {
            let sql = if number == "1" { "true" } else { "false" };
            Piece { sql: sql.to_owned(), kind: Type::Boolean, ..piece }
        }
        _ => piece,
    }
}

fn arithmetic(left: Piece, operator: &str, right: Piece) -> Result<Piece, Reason> {
    if operator == "||" {
        let text = |piece: Piece| match piece.kind {
            Type::Text => Ok(piece),
            Type::Integer => Ok(Piece { sql: format!("{}::text", piece.sql), ..piece }),
            _ => Err(format!("{} as a text", piece.sql)),
        };
        return Ok(joined(&text(left)?, "||", &text(right)?, Type::Text));
    }
    if !left.is_number() || !right.is_number() {
        return Err(format!("{} {operator} {}: not both are numbers", left.sql, right.sql));
    }
    let kind = match (left.kind, right.kind) {
        (Type::Integer, Type::Integer) => Type::Integer,
        _ => Type::Real,
    };
    match operator {
        // SQLite answers NULL where PostgreSQL fails.
        "/" | "%" if operator == "/" || kind == Type::Integer => {
            let right = Piece { sql: format!("nullif({}, 0)", right.sql), ..right };
            Ok(joined(&left, operator, &right, kind))
        }
        "%" => Err("% of fractions".into()),
        _ => Ok(joined(&left, operator, &right, kind)),
    }
}

/// `LIKE` does not tell the case of ASCII letters; `GLOB` is a pattern of its own.
fn like(left: &Piece, is_glob: bool, pattern: &Piece, not: &str) -> Result<Piece, Reason> {
    let Some(text) = pattern.constant.as_deref().filter(|_| pattern.kind == Type::Text) else {
        return Err("a pattern that is no constant".into());
    };
    if left.kind != Type::Text {
        return Err(format!("a pattern for {}, which is no text", left.sql));
    }
    let sql = match is_glob {
        false => format!("({} COLLATE \"C\" {not}ILIKE {} ESCAPE '')", left.sql, literal(text)),
        true => {
            let operator = if not.is_empty() { "~" } else { "!~" };
            format!("({} COLLATE \"C\" {operator} {})", left.sql, literal(&glob(text)?))
        }
    };
    Ok(Piece { is_immutable: left.is_immutable, ..Piece::new(sql, Type::Boolean) })
}

/// A pattern of `GLOB` as a regular expression.
fn glob(pattern: &str) -> Result<String, Reason> {
    let mut regex = "^".to_owned();
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => {
                regex.push('[');
                if letters.peek() == Some(&'^') {
                    letters.next();
                    regex.push('^');
                }
                let mut is_closed = false;
                for inside in letters.by_ref() {
                    match inside {
                        ']' => {
                            is_closed = true;
                            break;
                        }
                        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | ' ' => regex.push(inside),
                        _ => return Err(format!("the pattern {pattern}")),
                    }
                }
                if !is_closed || regex.ends_with(['[', '^']) {
                    return Err(format!("the pattern {pattern}"));
                }
                regex.push(']');
            }
            letter if letter.is_alphanumeric() || matches!(letter, ' ' | '_' | '-' | '@') => {
                regex.push(letter);
            }
            letter => {
                regex.push('\\');
                regex.push(letter);
            }
        }
    }
    regex.push('$');
    Ok(regex)
}

/// The words of a query that a default or a view may not have.
pub(crate) fn has_word(sql: &str, word: &str) -> bool {
    token::tokens(sql).is_some_and(|tokens| tokens.iter().any(|token| token.is(word)))
}
