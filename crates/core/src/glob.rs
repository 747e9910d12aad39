//! Paths by pattern: `*` and `?` within one name, never across a `/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// A path that matched.
#[derive(Debug, PartialEq, Eq)]
pub struct Match {
    /// The path.
    pub path: PathBuf,
    /// What the names with wildcards had in their place, in order, joined by `-`.
    pub variable: String,
}

/// The files that match an absolute pattern, sorted by path. A folder that cannot be listed is an
/// error: databases in it would be left out unsaid.
pub fn find(pattern: &str) -> Result<Vec<Match>> {
    let mut found = vec![(PathBuf::from("/"), Vec::new())];
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    for (index, part) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        let mut next = Vec::new();
        for (folder, variable) in found {
            if part.contains(['*', '?']) {
                children(&folder, part, is_last, &variable, &mut next)?;
            } else {
                next.push((folder.join(part), variable));
            }
        }
        found = next;
    }
    let mut matches: Vec<Match> = found
        .into_iter()
        .filter(|(path, _)| path.is_file())
        .map(|(path, variable)| Match { path, variable: variable.join("-") })
        .collect();
    matches.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(matches)
}

type Partial = (PathBuf, Vec<String>);

fn children(
    folder: &Path,
    part: &str,
    is_last: bool,
    variable: &[String],
    next: &mut Vec<Partial>,
) -> Result<()> {
    let failed = |error| {
        let message = format!("cannot list {} for a glob", folder.display());
        Error::io(Kind::SourceUnavailable, message, error)
            .hint("make the folder readable, or narrow the glob")
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            let message = format!("a name in {} is not UTF-8", folder.display());
            return Err(Error::new(Kind::Usage, message)
                .hint(format!("rename {}, or narrow the glob", entry.path().display())));
        };
        let hidden = name.starts_with('.') && !part.starts_with('.');
        if hidden || (is_last && is_side_file(&name)) || !matches(part, &name) {
            continue;
        }
        let mut variable = variable.to_vec();
        variable.push(filling(part, &name).to_owned());
        next.push((entry.path(), variable));
    }
    Ok(())
}

/// `app.db-wal` and the like belong to `app.db`.
fn is_side_file(name: &str) -> bool {
    ["-wal", "-shm", "-journal"].iter().any(|suffix| name.ends_with(suffix))
}

/// Whether a path is one that the pattern means, whether it is there or not.
pub fn fits(pattern: &str, path: &str) -> bool {
    let parts = |text: &'_ str| -> Vec<String> { text.split('/').map(str::to_owned).collect() };
    let (pattern, path) = (parts(pattern), parts(path));
    pattern.len() == path.len()
        && pattern.iter().zip(&path).all(|(pattern, name)| matches(pattern, name))
}

/// Whether a name matches a pattern.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // The last `*` seen and how much of the name it had taken: the only way back that is needed.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// What stands where the wildcards are: the name without the pattern's fixed beginning and end.
fn filling<'a>(pattern: &str, name: &'a str) -> &'a str {
    let first = pattern.find(['*', '?']).unwrap_or(0);
    let last = pattern.rfind(['*', '?']).map_or(0, |at| at + 1);
    let end = name.len() - (pattern.len() - last);
    name.get(first..end).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, name, expected) in [
            ("*.db", "app.db", true),
            ("*.db", "app.db-wal", false),
            ("a*b*c", "aXbXbc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "", true),
            ("é*", "éa", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert_eq!(filling("*.db", "app.db"), "app");
        assert_eq!(filling("x-*-?.db", "x-one-2.db"), "one-2");
    }

    #[test]
    fn finds_files_in_folders_and_not_their_side_files() {
        let folder = tempfile::tempdir().unwrap();
        for tenant in ["one", "two", ".hidden"] {
            fs::create_dir(folder.path().join(tenant)).unwrap();
            for name in ["app.db", "app.db-wal", "other.txt"] {
                fs::write(folder.path().join(tenant).join(name), "x").unwrap();
            }
        }
        let pattern = format!("{}/*/app*", folder.path().display());
        let found = find(&pattern).unwrap();
        let variables: Vec<&str> = found.iter().map(|found| found.variable.as_str()).collect();
        assert_eq!(variables, ["one-.db", "two-.db"]);
        let exact = find(&format!("{}/*/app.db", folder.path().display())).unwrap();
        assert_eq!(exact[0].variable, "one");
        assert_eq!(exact.len(), 2);
    }
}
