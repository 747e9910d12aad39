//! Functions of SQLite whose answers PostgreSQL gives too.

use lifeboat_postgres::literal;

use crate::expression::{Piece, Reason, Type};
use crate::schema::Collation;
use crate::target::{Target, Value};

/// Now, in UTC.
const NOW: &str = "(CURRENT_TIMESTAMP AT TIME ZONE 'UTC')";

/// A moment of now: an instant that a default of a text column writes out.
pub(crate) fn now(word: &str) -> Result<Piece, Reason> {
    let (sql, kind) = match word {
        "CURRENT_TIMESTAMP" => ("CURRENT_TIMESTAMP".to_owned(), Type::Instant),
        "CURRENT_DATE" => (format!("{NOW}::date"), Type::Date),
        _ => (format!("to_char({NOW}, 'HH24:MI:SS')"), Type::Text),
    };
    Ok(Piece { is_immutable: false, ..Piece::new(sql, kind) })
}

/// Results of which each may be the answer: all of one kind.
pub(crate) fn alike(sql: String, pieces: &[Piece]) -> Result<Piece, Reason> {
    let mut kinds = pieces.iter().map(|piece| piece.kind).filter(|kind| *kind != Type::Null);
    let Some(first) = kinds.next() else { return Err("no value".into()) };
    let kind = match kinds.all(|kind| kind == first) {
        true => first,
        false if pieces.iter().all(|piece| piece.is_number() || piece.kind == Type::Null) => {
            Type::Real
        }
        false => return Err("values of several kinds".into()),
    };
    let is_immutable = pieces.iter().all(|piece| piece.is_immutable);
    Ok(Piece { is_immutable, ..Piece::new(sql, kind) })
}

/// A call.
pub(crate) fn call(name: &str, arguments: Vec<Piece>) -> Result<Piece, Reason> {
    let lower = name.to_ascii_lowercase();
    let sqls: Vec<&str> = arguments.iter().map(|piece| piece.sql.as_str()).collect();
    let is_immutable = arguments.iter().all(|piece| piece.is_immutable);
    let kinds: Vec<Type> = arguments.iter().map(|piece| piece.kind).collect();
    let constant = |place: usize| arguments.get(place).and_then(|piece| piece.constant.as_deref());
    let made = |sql: String, kind| Ok(Piece { is_immutable, ..Piece::new(sql, kind) });
    let unknown = || Err(format!("{name}({})", sqls.join(", ")));
    match (lower.as_str(), kinds.as_slice()) {
        ("length", [Type::Text]) => made(format!("length({})::bigint", sqls[0]), Type::Integer),
        ("length", [Type::Bytes]) => {
            made(format!("octet_length({})::bigint", sqls[0]), Type::Integer)
        }
        ("lower" | "upper", [Type::Text]) => {
            // hex(randomblob(16)) has been made of digits already.
            made(format!("{lower}({} COLLATE \"C\")", sqls[0]), Type::Text)
        }
        ("abs", [Type::Integer | Type::Real]) => made(format!("abs({})", sqls[0]), kinds[0]),
        ("ifnull", [_, _]) | ("coalesce", [_, _, ..]) => {
            alike(format!("coalesce({})", sqls.join(", ")), &arguments)
        }
        ("nullif", [a, b]) if a == b => made(format!("nullif({}, {})", sqls[0], sqls[1]), *a),
        ("trim" | "ltrim" | "rtrim", [Type::Text] | [Type::Text, Type::Text]) => {
            let function = if lower == "trim" { "btrim" } else { lower.as_str() };
            made(format!("{function}({})", sqls.join(", ")), Type::Text)
        }
        ("replace", [Type::Text, Type::Text, Type::Text]) => {
            made(format!("replace({})", sqls.join(", ")), Type::Text)
        }
        ("instr", [Type::Text, Type::Text]) => {
            made(format!("strpos({}, {})::bigint", sqls[0], sqls[1]), Type::Integer)
        }
        ("substr" | "substring", [Type::Text, Type::Integer, ..]) => {
            let positive = |place: usize, least: i64| {
                constant(place)
                    .and_then(|number| number.parse::<i64>().ok())
                    .is_some_and(|number| (least..=i64::from(i32::MAX)).contains(&number))
            };
            match positive(1, 1) && (kinds.len() == 2 || (kinds.len() == 3 && positive(2, 0))) {
                true => made(format!("substr({})", sqls.join(", ")), Type::Text),
                false => unknown(),
            }
        }
        ("typeof", [_]) => made(type_of(&arguments[0])?, Type::Text),
        ("hex", [Type::Bytes]) => made(format!("upper(encode({}, 'hex'))", sqls[0]), Type::Text),
        ("randomblob", [Type::Integer]) if constant(0) == Some("16") => Ok(Piece {
            is_immutable: false,
            ..Piece::new("uuid_send(gen_random_uuid())", Type::Bytes)
        }),
        ("datetime" | "date" | "time" | "unixepoch", []) => moment(&lower),
        ("datetime" | "date" | "time" | "unixepoch", [Type::Text])
            if constant(0) == Some("now") =>
        {
            moment(&lower)
        }
        ("strftime", [Type::Text] | [Type::Text, Type::Text])
            if constant(1).is_none_or(|word| word == "now") =>
        {
            formatted(constant(0).unwrap_or_default())
        }
        _ => unknown(),
    }
}

fn moment(name: &str) -> Result<Piece, Reason> {
    match name {
        "datetime" => now("CURRENT_TIMESTAMP"),
        "date" => now("CURRENT_DATE"),
        "time" => now("CURRENT_TIME"),
        _ => seconds(),
    }
}

fn seconds() -> Result<Piece, Reason> {
    let sql = "floor(extract(epoch FROM CURRENT_TIMESTAMP))::bigint";
    Ok(Piece { is_immutable: false, ..Piece::new(sql, Type::Integer) })
}

/// `strftime` of now.
fn formatted(format: &str) -> Result<Piece, Reason> {
    if format == "%s" {
        return seconds();
    }
    let mut pattern = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        let part = match letter {
            '%' => match letters.next() {
                Some('Y') => "YYYY",
                Some('m') => "MM",
                Some('d') => "DD",
                Some('H') => "HH24",
                Some('M') => "MI",
                Some('S') => "SS",
                Some('f') => "SS.MS",
                Some('j') => "DDD",
                _ => return Err(format!("strftime('{format}')")),
            },
            '"' | '\\' => return Err(format!("strftime('{format}')")),
            // A letter in quotes is itself.
            letter => {
                pattern.push('"');
                pattern.push(letter);
                "\""
            }
        };
        pattern.push_str(part);
    }
    let sql = format!("to_char({NOW}, {})", literal(&pattern));
    Ok(Piece { is_immutable: false, ..Piece::new(sql, Type::Text) })
}

/// The kind is that of the column now; only NULL remains to be asked.
fn type_of(piece: &Piece) -> Result<String, Reason> {
    let kind = match piece.kind {
        Type::Integer | Type::Boolean => "integer",
        Type::Text => "text",
        Type::Bytes => "blob",
        // A real in a numeric column may be an integer to SQLite.
        _ => return Err(format!("typeof({})", piece.sql)),
    };
    Ok(format!("(CASE WHEN {} IS NULL THEN 'null' ELSE '{kind}' END)", piece.sql))
}

/// A default for a column of that type.
pub(crate) fn default_for(piece: &Piece, target: Target) -> Result<String, Reason> {
    use crate::expression::kind_of;
    let constant = piece.constant.as_deref();
    let wanted = kind_of(target);
    match (piece.kind, wanted) {
        (Type::Null, _) => Ok("NULL".into()),
        (Type::Integer | Type::Boolean, Type::Boolean) => match constant {
            Some("0") => Ok("false".into()),
            Some("1") => Ok("true".into()),
            _ => Err(format!("{} as a boolean", piece.sql)),
        },
        (Type::Text, Type::Boolean) => match constant {
            Some("0" | "false" | "f") => Ok("false".into()),
            Some("1" | "true" | "t") => Ok("true".into()),
            _ => Err(format!("{} as a boolean", piece.sql)),
        },
        (Type::Boolean, Type::Integer) => Ok(constant.unwrap_or(&piece.sql).to_owned()),
        (Type::Instant, Type::Text) => Ok(format!("to_char({NOW}, 'YYYY-MM-DD HH24:MI:SS')")),
        (Type::Date, Type::Text) => Ok(format!("to_char({NOW}, 'YYYY-MM-DD')")),
        (Type::Instant, Type::Instant) => match target {
            Target::Timestamp(_) => Ok(NOW.into()),
            _ => Ok("CURRENT_TIMESTAMP".into()),
        },
        (Type::Integer | Type::Real, Type::Text) if constant.is_some() => {
            Ok(literal(constant.unwrap_or_default()))
        }
        (Type::Text, Type::Bytes) => Ok(format!("convert_to({}, 'UTF8')", piece.sql)),
        (Type::Integer, Type::Instant) | (Type::Text, Type::Instant | Type::Date) => {
            constant_moment(piece, target)
        }
        (Type::Text, Type::Integer | Type::Real) => {
            // The affinity of the column makes a number of it.
            match constant.filter(|text| text.parse::<f64>().is_ok_and(f64::is_finite)) {
                Some(number) if wanted == Type::Real || number.parse::<i64>().is_ok() => {
                    Ok(number.to_owned())
                }
                _ => Err(format!("{} as a number", piece.sql)),
            }
        }
        (Type::Integer | Type::Real, Type::Real) | (Type::Integer, Type::Integer) => {
            Ok(piece.sql.clone())
        }
        (kind, wanted) if kind == wanted => Ok(piece.sql.clone()),
        (Type::Text, Type::Other) if target == Target::Json => Ok(piece.sql.clone()),
        _ => Err(format!("{} for a column of type {}", piece.sql, target.sql())),
    }
}

fn constant_moment(piece: &Piece, target: Target) -> Result<String, Reason> {
    use rusqlite::types::ValueRef;
    let constant = piece.constant.as_deref().unwrap_or_default();
    let value = match piece.kind {
        Type::Integer => constant.parse().map_or(ValueRef::Null, ValueRef::Integer),
        _ => ValueRef::Text(constant.as_bytes()),
    };
    match target.convert(value, false) {
        Ok(Value::Instant(micros)) if crate::time::shown(micros) != "?" => {
            let shown = crate::time::shown(micros);
            match target {
                Target::Timestamp(_) => Ok(format!("'{}'", shown.trim_end_matches('Z'))),
                _ => Ok(format!("'{shown}'")),
            }
        }
        Ok(Value::Day(_)) => Ok(format!("'{constant}'")),
        _ => Err(format!("{} for a column of type {}", piece.sql, target.sql())),
    }
}

/// A key of an index with its collation: how PostgreSQL comes to the same order, or as near.
pub(crate) fn key_with(collation: Collation, sql: &str, kind: Type) -> Result<String, Reason> {
    match (kind, collation) {
        (Type::Text, Collation::NoCase) => Ok(format!("lower({sql} COLLATE \"C\")")),
        (Type::Text, Collation::Rtrim) => Ok(format!("rtrim({sql})")),
        (Type::Text, Collation::Other) => Err("a collation of the application".into()),
        _ => Ok(sql.to_owned()),
    }
}
