//! Makes errors of a configuration file point at the place: file, line, column, the line itself,
//! and the key that was probably meant.

use std::ops::Range;
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind};

/// A configuration file as it was read.
#[derive(Clone, Debug)]
pub(crate) struct SourceText {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) text: String,
}

impl SourceText {
    /// Line and column of a byte, both from 1; the column counts characters.
    pub(crate) fn position(&self, byte: usize) -> (usize, usize) {
        let byte = byte.min(self.text.len());
        let before = self.text.get(..byte).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[line_start..].chars().count() + 1)
    }

    /// The whole diagnosis of one mistake: a headline and the line with the place marked.
    pub(crate) fn point(&self, span: Range<usize>, message: &str) -> String {
        let (line, column) = self.position(span.start);
        let content = self.text.lines().nth(line - 1).unwrap_or("").replace('\t', " ");
        let content = without_secrets(&content);
        let room = content.chars().count().saturating_sub(column - 1);
        let marked = self.text.get(span).map_or(1, |text| text.chars().count());
        let carets = "^".repeat(marked.min(room).max(1));
        let gutter = " ".repeat(line.to_string().len());
        let place = format!("{}:{line}:{column}", shown(&self.path));
        let indent = " ".repeat(column - 1);
        format!(
            "{place}: {message}\n {gutter} |\n {line} | {content}\n {gutter} | {indent}{carets}"
        )
    }
}

/// A line of the configuration for a message. A secret key has no business there, and must not
/// come into a log as well.
fn without_secrets(line: &str) -> String {
    const SECRET: &str = "age-secret-key-";
    let mut shown: Vec<char> = line.chars().collect();
    let lower = line.to_ascii_lowercase();
    for (place, _) in lower.match_indices(SECRET) {
        let before = line[..place].chars().count() + SECRET.len();
        shown.iter_mut().skip(before).take_while(|c| c.is_ascii_alphanumeric()).for_each(|c| {
            *c = '.';
        });
    }
    shown.into_iter().collect()
}

/// A path for a message: control characters in it are escaped, so that it stays on its line.
pub(crate) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.chars().any(char::is_control) {
        true => text.escape_debug().to_string(),
        false => text.into_owned(),
    }
}

/// The error of one or more mistakes, each pointed at.
pub(crate) fn mistakes(mut found: Vec<String>) -> Error {
    let hint = "`lifeboat config schema` lists every key, `lifeboat config check` tries the file";
    if found.len() == 1 {
        return Error::new(Kind::Usage, found.remove(0)).hint(hint);
    }
    let message = format!("the configuration has {} mistakes\n{}", found.len(), found.join("\n"));
    Error::new(Kind::Usage, message).hint(hint)
}

/// Says in our words what the TOML reader complained about, with a suggestion for a key or a
/// word that it does not know.
pub(crate) fn reworded(message: &str) -> String {
    let message = message.trim();
    if let Some((what, rest)) = unknown(message) {
        let known: Vec<&str> = backquoted(rest).collect();
        let (word, known) = match known.split_first() {
            Some((word, known)) => (*word, known),
            None => return message.to_owned(),
        };
        return unknown_word(what, word, known);
    }
    match message.strip_prefix("missing field ") {
        Some(field) => format!("the key {field} is missing"),
        None => message.to_owned(),
    }
}

/// The message for a word that is not among the known ones.
pub(crate) fn unknown_word(what: &str, word: &str, known: &[&str]) -> String {
    match closest(word, known) {
        Some(meant) => format!("unknown {what} `{word}`, did you mean `{meant}`?"),
        None if known.is_empty() => format!("unknown {what} `{word}`, none is configured"),
        None => format!("unknown {what} `{word}`, expected one of {}", known.join(", ")),
    }
}

fn unknown(message: &str) -> Option<(&'static str, &str)> {
    let key = message.strip_prefix("unknown field ").map(|rest| ("key", rest));
    key.or_else(|| message.strip_prefix("unknown variant ").map(|rest| ("value", rest)))
}

fn backquoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The known word that `word` was probably meant to be.
pub(crate) fn closest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let bound = (word.chars().count() / 3).clamp(1, 3);
    known
        .iter()
        .map(|candidate| (edit_distance(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be inserted, deleted, replaced or swapped with their neighbour to turn
/// one word into the other.
fn edit_distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.to_lowercase().chars().collect();
    let other: Vec<char> = other.to_lowercase().chars().collect();
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=one.len() {
        for j in 1..=other.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_was_meant_and_nothing_far_fetched() {
        let known = ["compression", "check", "keep", "url"];
        assert_eq!(closest("compresion", &known), Some("compression"));
        assert_eq!(closest("chekc", &known), Some("check"));
        assert_eq!(closest("lru", &known), None);
        assert_eq!(closest("banana", &known), None);
    }

    #[test]
    fn points_at_characters_not_bytes() {
        let file = SourceText { path: "c.toml".into(), text: "a = 1\n\"é\" = bad\n".to_owned() };
        let start = file.text.find("bad").unwrap();
        assert_eq!(
            file.point(start..start + 3, "no"),
            "c.toml:2:7: no\n   |\n 2 | \"é\" = bad\n   |       ^^^"
        );
    }

    #[test]
    fn a_span_past_the_end_points_at_the_end() {
        let file = SourceText { path: "c.toml".into(), text: "a = ".to_owned() };
        assert_eq!(file.point(4..4, "no"), "c.toml:1:5: no\n   |\n 1 | a = \n   |     ^");
    }
}
