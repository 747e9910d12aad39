//! SQL of SQLite in tokens, each with its place in the text.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A word without quotes: a keyword or a name.
    Word(String),
    /// A name in quotes that can be nothing else: `[x]`, `` `x` ``.
    Name(String),
    /// In double quotes: a name, or a text where no such name is there.
    Doubtful(String),
    /// A text.
    Text(String),
    /// A blob: x'00ff', its digits.
    Blob(String),
    /// A number as it is written.
    Number(String),
    /// Anything else: `(`, `<=`, `||`.
    Sign(&'static str),
}

/// A token and where it stands.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its bytes in the text.
    pub place: Range<usize>,
}

/// The signs, longer ones first.
const SIGNS: &[&str] = &[
    "->>", "->", "||", "<=", ">=", "<>", "!=", "==", "<<", ">>", "(", ")", ",", ".", ";", "+", "-",
    "*", "/", "%", "<", ">", "=", "&", "|", "~", "?", ":", "@", "$", "#",
];

impl Token {
    /// Whether it is that keyword.
    pub fn is(&self, keyword: &str) -> bool {
        matches!(&self.kind, Kind::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// Whether it is that sign.
    pub fn is_sign(&self, sign: &str) -> bool {
        matches!(self.kind, Kind::Sign(found) if found == sign)
    }

    /// The name that it may be.
    pub fn name(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(name) | Kind::Name(name) | Kind::Doubtful(name) | Kind::Text(name) => {
                Some(name)
            }
            _ => None,
        }
    }
}

/// All tokens; `None` where the text is no SQL.
pub fn tokens(sql: &str) -> Option<Vec<Token>> {
    let bytes = sql.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let begin = at;
        let kind = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0c => {
                at += 1;
                continue;
            }
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                at = sql[at..].find('\n').map_or(bytes.len(), |end| at + end);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = sql[at + 2..].find("*/").map_or(bytes.len(), |end| at + 2 + end + 2);
                continue;
            }
            b'\'' => Kind::Text(quoted(sql, &mut at, '\'')?),
            b'"' => Kind::Doubtful(quoted(sql, &mut at, '"')?),
            b'`' => Kind::Name(quoted(sql, &mut at, '`')?),
            b'[' => {
                let end = at + sql[at..].find(']')?;
                at = end + 1;
                Kind::Name(sql[begin + 1..end].to_owned())
            }
            b'x' | b'X' if bytes.get(at + 1) == Some(&b'\'') => {
                at += 1;
                Kind::Blob(quoted(sql, &mut at, '\'')?)
            }
            b'0'..=b'9' => Kind::Number(number(bytes, &mut at)),
            b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => {
                Kind::Number(number(bytes, &mut at))
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => {
                let is_inside = |byte: &u8| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
                };
                while bytes.get(at).is_some_and(is_inside) {
                    at += 1;
                }
                Kind::Word(sql[begin..at].to_owned())
            }
            _ => {
                let sign = SIGNS.iter().find(|sign| sql[at..].starts_with(**sign))?;
                at += sign.len();
                Kind::Sign(sign)
            }
        };
        tokens.push(Token { kind, place: begin..at });
    }
    Some(tokens)
}

fn quoted(sql: &str, at: &mut usize, quote: char) -> Option<String> {
    let mut text = String::new();
    let mut letters = sql[*at + 1..].char_indices().peekable();
    while let Some((place, letter)) = letters.next() {
        if letter != quote {
            text.push(letter);
        } else if letters.peek().is_some_and(|(_, next)| *next == quote) {
            letters.next();
            text.push(quote);
        } else {
            *at += 1 + place + 1;
            return Some(text);
        }
    }
    None
}

fn number(bytes: &[u8], at: &mut usize) -> String {
    let begin = *at;
    let is_hex = bytes[begin] == b'0' && matches!(bytes.get(begin + 1), Some(b'x' | b'X'));
    while let Some(byte) = bytes.get(*at) {
        let after_exponent = *at > begin && matches!(bytes[*at - 1], b'e' | b'E') && !is_hex;
        let goes_on = byte.is_ascii_alphanumeric()
            || matches!(byte, b'.' | b'_')
            || (matches!(byte, b'+' | b'-') && after_exponent);
        if !goes_on {
            break;
        }
        *at += 1;
    }
    String::from_utf8_lossy(&bytes[begin..*at]).into_owned()
}

/// The text of a run of tokens.
pub fn text_of<'a>(sql: &'a str, tokens: &[Token]) -> &'a str {
    match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => &sql[first.place.start..last.place.end],
        _ => "",
    }
}

/// The place of the parenthesis that closes the one at `open`.
pub fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (place, token) in tokens.iter().enumerate().skip(open) {
        if token.is_sign("(") {
            depth += 1;
        } else if token.is_sign(")") {
            depth = depth.checked_sub(1)?;
            if depth == 0 {
                return Some(place);
            }
        }
    }
    None
}

/// The parts between commas that stand in no parentheses.
pub fn parts(tokens: &[Token]) -> Vec<&[Token]> {
    let (mut parts, mut begin, mut depth) = (Vec::new(), 0, 0_i32);
    for (place, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Sign("(") => depth += 1,
            Kind::Sign(")") => depth -= 1,
            Kind::Sign(",") if depth == 0 => {
                parts.push(&tokens[begin..place]);
                begin = place + 1;
            }
            _ => {}
        }
    }
    parts.push(&tokens[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(sql: &str) -> Vec<Kind> {
        tokens(sql).unwrap().into_iter().map(|token| token.kind).collect()
    }

    #[test]
    fn every_kind_is_known() {
        assert_eq!(
            kinds("a [b c] `d``e` \"f\" 'g''h' x'0a' 1.5e-3 0x1F<>|| -- end\n/* in */ é"),
            vec![
                Kind::Word("a".into()),
                Kind::Name("b c".into()),
                Kind::Name("d`e".into()),
                Kind::Doubtful("f".into()),
                Kind::Text("g'h".into()),
                Kind::Blob("0a".into()),
                Kind::Number("1.5e-3".into()),
                Kind::Number("0x1F".into()),
                Kind::Sign("<>"),
                Kind::Sign("||"),
                Kind::Word("é".into()),
            ]
        );
        assert!(tokens("'open").is_none() && tokens("[open").is_none());
    }

    #[test]
    fn parts_are_between_commas() {
        let all = tokens("a, f(b, c), d").unwrap();
        assert_eq!(parts(&all).len(), 3);
        assert_eq!(closing(&all, 3), Some(7));
    }
}
