//! Reads assignments out of a `.env` file as a POSIX shell reads them.
//!
//! Nothing is run and nothing is expanded. Where a shell would do either on the way to a variable
//! that is asked for, that is an error that names it: a value that a shell would see differently
//! is never returned. What is said of other variables is skipped, as far as a shell would still
//! be in the same place afterwards.

/// What a shell does something with that is no assignment, when a statement begins with it: what
/// follows may be skipped, repeated or come from another file.
const FLOW: &[&str] = &[
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "{",
    "}", "!", "function", ".", "source", "eval", "exit", "return", "exec",
];

/// The values of those names that the text assigns, the last one of each; or what is wrong, with
/// the line.
pub(crate) fn read(text: &str, names: &[&str]) -> Result<Vec<(String, String)>, String> {
    let mut reader = Reader { rest: text.chars().collect(), at: 0, line: 1 };
    let mut values: Vec<(String, String)> = Vec::new();
    while let Some(statement) = reader.statement()? {
        for (name, value) in assigned(&statement, names)? {
            values.retain(|(before, _)| *before != name);
            values.push((name, value));
        }
    }
    Ok(values)
}

/// A word after its quotes are taken away.
#[derive(Debug, Default)]
struct Word {
    text: String,
    /// How many of its first characters stood there without quotes.
    plain: usize,
    /// What a shell would expand or act on in it.
    active: Option<&'static str>,
}

#[derive(Debug)]
struct Statement {
    words: Vec<Word>,
    line: usize,
}

/// The assignments of a statement to those names.
fn assigned(statement: &Statement, names: &[&str]) -> Result<Vec<(String, String)>, String> {
    let Statement { words, line } = statement;
    let first = words.first().map_or("", |word| word.text.as_str());
    if FLOW.contains(&first) {
        return Err(format!("line {line}: `{first}` is more than an assignment"));
    }
    let is_export = first == "export";
    let words = if is_export { &words[1..] } else { words };
    let asked = |word: &Word| {
        let name = word.text.split(['=', '+']).next().unwrap_or("");
        names.iter().find(|asked| **asked == name).copied()
    };
    let Some(name) = words.iter().find_map(asked) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for word in words {
        if let Some(active) = word.active {
            return Err(format!("line {line}: {name} is given with {active}: write it in ' '"));
        }
        match word.text.split_once('=') {
            Some((left, value)) if is_name(left) && word.plain > left.len() => {
                if names.contains(&left) {
                    found.push((left.to_owned(), value.to_owned()));
                }
            }
            // `export NAME` alone gives nothing another value.
            None if is_export && is_name(&word.text) => {}
            _ => {
                return Err(format!(
                    "line {line}: {name} does not stand in an assignment alone: a value with \
                     spaces needs quotes, and `=` has no spaces around it"
                ));
            }
        }
    }
    Ok(found)
}

fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

struct Reader {
    rest: Vec<char>,
    at: usize,
    line: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        self.line += usize::from(next == '\n');
        Some(next)
    }

    /// The next statement that has words; `None` at the end.
    fn statement(&mut self) -> Result<Option<Statement>, String> {
        let mut words: Vec<Word> = Vec::new();
        let mut line = self.line;
        loop {
            match self.peek() {
                None => break,
                Some('\n' | ';') if words.is_empty() => {
                    self.next();
                    line = self.line;
                }
                Some('\n' | ';') => {
                    self.next();
                    break;
                }
                Some(' ' | '\t') => drop(self.next()),
                Some('#') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next();
                    }
                }
                Some('\\') if self.rest.get(self.at + 1) == Some(&'\n') => {
                    self.next();
                    self.next();
                }
                Some(_) => words.push(self.word()?),
            }
        }
        let is_end = words.is_empty();
        Ok((!is_end).then_some(Statement { words, line }))
    }

    fn word(&mut self) -> Result<Word, String> {
        let mut word = Word::default();
        let mut quoted = false;
        while let Some(c) = self.peek() {
            if matches!(c, ' ' | '\t' | '\n' | ';') {
                break;
            }
            self.next();
            match c {
                '\'' => self.single(&mut word)?,
                '"' => self.double(&mut word)?,
                '\\' => match self.next() {
                    Some('\n') => continue,
                    Some(c) => word.text.push(c),
                    None => word.text.push('\\'),
                },
                '$' | '`' => self.expansion(c, &mut word)?,
                '<' if self.peek() == Some('<') => {
                    return Err(format!("line {}: `<<` is more than an assignment", self.line));
                }
                '&' | '|' | '<' | '>' | '(' | ')' => {
                    word.active = Some("one of & | < > ( ) outside of quotes");
                    word.text.push(c);
                }
                '\r' => {
                    word.active = Some("a carriage return at its end (the file is not from Unix)");
                }
                c => {
                    let begins = word.text.ends_with(['=', ':']);
                    if c == '~' && begins {
                        word.active = Some("a `~`, which a shell would replace");
                    }
                    if matches!(c, '*' | '?' | '[') {
                        // Some shells look for files of that name when it is exported.
                        word.active = Some("one of * ? [ outside of quotes");
                    }
                    word.text.push(c);
                    if !quoted {
                        word.plain += c.len_utf8();
                    }
                    continue;
                }
            }
            quoted = true;
        }
        Ok(word)
    }

    fn single(&mut self, word: &mut Word) -> Result<(), String> {
        let line = self.line;
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(c) => word.text.push(c),
                None => return Err(format!("line {line}: the quote ' is not closed")),
            }
        }
    }

    fn double(&mut self, word: &mut Word) -> Result<(), String> {
        let line = self.line;
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some(c @ ('$' | '`')) => self.expansion(c, word)?,
                Some('\\') => match self.next() {
                    Some('\n') => {}
                    Some(c @ ('$' | '`' | '"' | '\\')) => word.text.push(c),
                    Some(c) => word.text.extend(['\\', c]),
                    None => return Err(format!("line {line}: the quote \" is not closed")),
                },
                Some(c) => word.text.push(c),
                None => return Err(format!("line {line}: the quote \" is not closed")),
            }
        }
    }

    /// A `$` or a backquote that a shell sees. What runs a command, and what may hold quotes and
    /// blanks of its own, ends the reading; a plain variable only spoils its word.
    fn expansion(&mut self, c: char, word: &mut Word) -> Result<(), String> {
        let line = self.line;
        let name = word.text.split('=').next().unwrap_or("");
        let refused = |what: &str| {
            let message = format!("line {line}: {name} is given with {what}, which is not done");
            Err(format!("{message} here: write its value, in ' '"))
        };
        match (c, self.peek()) {
            ('`', _) => refused("the command substitution ` `"),
            (_, Some('(')) => refused("the command substitution $( )"),
            (_, Some('{')) => refused("the expansion ${ }"),
            (_, Some('\'' | '"')) => {
                // Shells differ in what `$'` and `$"` are.
                word.active = Some("a `$` before a quote");
                Ok(())
            }
            (_, Some(next)) if next.is_ascii_alphanumeric() || "_@*#?$!-".contains(next) => {
                word.active = Some("a `$`, which a shell would expand");
                Ok(())
            }
            _ => {
                word.text.push('$');
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn value(text: &str) -> Result<Option<String>, String> {
        Ok(read(text, &["A"])?.pop().map(|(_, value)| value))
    }

    fn of_shell(folder: &std::path::Path, text: &str) -> Option<String> {
        let file = folder.join("env");
        fs::write(&file, text).unwrap();
        let script = format!(". '{}' && printf %s \"${{A-unset}}\"", file.display());
        let output = Command::new("sh").args(["-c", &script]).env_clear().output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Whatever is read, `sh` reads the same.
    #[test]
    fn a_shell_agrees() {
        let pieces = [
            "a", "b c", "'", "'", "\"", "\"", "\\", " ", "#", " # x", "\n", "A=", "export ",
            "B=1 ", "$", "$B", "%", "/x/", "=", ";", "~", "é", "\t", "''", "\\\n", "\\$", "'\\'",
            "&", "!", "-", ":",
        ];
        let folder = tempfile::tempdir().unwrap();
        let mut seed: u64 = 20_251_104;
        let mut random = |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % below
        };
        let (mut read, mut refused) = (0, 0);
        for _ in 0..600 {
            let mut text = ["A=", "export A=", "A='", "A=\""][random(4)].to_owned();
            for _ in 0..random(7) {
                text.push_str(pieces[random(pieces.len())]);
            }
            text.push_str(["\n", "'\n", "\"\n"][random(3)]);
            match value(&text) {
                Ok(Some(ours)) => {
                    // A statement that we skip may be a command that there is not.
                    let Some(theirs) = of_shell(folder.path(), &text) else { continue };
                    assert_eq!(ours, theirs, "{text:?}");
                    read += 1;
                }
                Ok(None) => panic!("{text:?} assigns A"),
                Err(_) => refused += 1,
            }
        }
        assert!(read > 150 && refused > 50, "{read} read, {refused} refused");
    }

    #[test]
    fn what_people_write_is_read() {
        for (text, expected) in [
            ("A=./data/admin.db\n", "./data/admin.db"),
            ("export A=\"/srv/chat bot/admin.db\" # there\n", "/srv/chat bot/admin.db"),
            ("# A=no\nA='it'\\''s'\n", "it's"),
            ("A=1\nA=2", "2"),
            ("A=x#y\n", "x#y"),
            ("B=$HOME\nNAME=My Chatbot\nURL=http://x/?a=1&b=2\nA=3\n", "3"),
            ("A=\"cost: $ 5\"\n", "cost: $ 5"),
            ("B='two\nlines A=no'\nexport B A\nA=\n", ""),
        ] {
            assert_eq!(value(text).unwrap().as_deref(), Some(expected), "{text:?}");
        }
        assert_eq!(value("B=1\n").unwrap(), None);
    }

    #[test]
    fn what_a_shell_would_see_differently_is_refused_with_its_line() {
        for (text, named) in [
            ("\nA=$(id)\n", "line 2: A is given with the command substitution $( )"),
            ("B=`id`\n", "B is given with the command substitution"),
            ("A=\"x`id`\"\n", "the command substitution"),
            ("A=$HOME/x\n", "a `$`"),
            ("A=${HOME}\n", "the expansion ${ }"),
            ("A=/srv/chat bot/admin.db\n", "needs quotes"),
            ("A = x\n", "`=` has no spaces around it"),
            ("A=~/x\n", "a `~`"),
            ("A=x\r\n", "carriage return"),
            ("A='x\n", "is not closed"),
            ("A=x & B=2\n", "& |"),
            ("if true; then\nA=1\nfi\n", "`if` is more"),
            ("echo A=1\n", "in an assignment alone"),
            ("'A'=1\n", "in an assignment alone"),
            ("A+=1\n", "in an assignment alone"),
            ("cat <<E\nA=1\nE\n", "<<"),
        ] {
            let error = value(text).expect_err(text);
            assert!(error.contains(named), "{text:?}: {error}");
        }
    }
}
