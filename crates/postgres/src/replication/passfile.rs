//! The files in which the client library finds passwords and services.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::address::Secret;

/// The password of the first line that matches: `host:port:database:user:password`. A file that
/// others can read is passed over, as the client library does.
pub(super) fn password(
    file: &Path,
    host: &str,
    port: &str,
    databases: &[&str],
    user: &str,
) -> Option<Secret> {
    let found = fs::metadata(file).ok()?;
    if !found.is_file() || found.mode() & 0o077 != 0 {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    let matches = |field: &str, value: &str| field == "*" || field == value;
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let [of_host, of_port, of_database, of_user, password] = fields.as_slice() else {
            return None;
        };
        let is_it = matches(of_host, host)
            && matches(of_port, port)
            && databases.iter().any(|database| matches(of_database, database))
            && matches(of_user, user);
        (is_it && !password.is_empty()).then(|| Secret::new(password.as_str()))
    })
}

/// The fields of a line: separated by colons, `\` before one that is meant.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = line.trim_end_matches('\r').chars();
    while let Some(letter) = letters.next() {
        let is_last = fields.len() == 5;
        match (letter, fields.last_mut()) {
            ('\\', Some(field)) => field.extend(letters.next()),
            (':', _) if !is_last => fields.push(String::new()),
            (letter, Some(field)) => field.push(letter),
            (_, None) => {}
        }
    }
    fields
}

/// The parameters of a service, if the file has it.
pub(super) fn service(file: &Path, name: &str) -> Option<Vec<(String, String)>> {
    let text = fs::read_to_string(file).ok()?;
    let lines = text.lines().map(str::trim);
    let mut lines = lines.skip_while(|line| *line != format!("[{name}]"));
    lines.next()?;
    let pairs = lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='));
    Some(pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_line_that_matches_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = "#h:1:db:u:no\nh:1:other:u:no\nh:1:replication:u:a\\:b\\\\c\n*:*:*:*:last:x\n";
        fs::write(file.path(), lines).unwrap();
        let find = |host: &str| {
            let found = password(file.path(), host, "1", &["replication", "db"], "u");
            found.map(|secret| secret.expose().to_owned())
        };
        assert_eq!(find("h").as_deref(), Some("a:b\\c"));
        assert_eq!(find("i").as_deref(), Some("last:x"));
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(find("h"), None);
    }
}
