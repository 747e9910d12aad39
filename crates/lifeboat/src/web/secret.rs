//! Texts without what is secret in them, for screens and for the audit log.

/// What stands for what is hidden.
const HIDDEN: &str = "***";

/// A text without the password of a URL in it, and without a secret key of age.
pub(crate) fn hidden(text: &str) -> String {
    if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
        return HIDDEN.to_owned();
    }
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((who, host)) => match who.split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    let behind = match behind.split_once("password=") {
        Some((before, secret)) => {
            let rest = secret.find('&').map_or("", |at| &secret[at..]);
            format!("{before}password={HIDDEN}{rest}")
        }
        None => behind.to_owned(),
    };
    format!("{scheme}://{authority}{behind}")
}

/// A line of words, each without what is secret in it.
pub(crate) fn hidden_line(line: &str) -> String {
    line.split(' ').map(hidden).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_is_hidden_wherever_it_stands() {
        for (text, shown) in [
            ("postgresql://u:s3cret@h/d", "postgresql://u:***@h/d"),
            ("postgresql://u:p@ss@h/d?sslmode=require", "postgresql://u:***@h/d?sslmode=require"),
            ("postgresql://u@h/d?password=s3cret&x=1", "postgresql://u@h/d?password=***&x=1"),
            ("age-secret-key-1qqqq", "***"),
            ("file:///var/backups", "file:///var/backups"),
            ("daily 02:00", "daily 02:00"),
            ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
        ] {
            assert_eq!(hidden(text), shown);
        }
        let line = "cannot reach https://u:s3cret@h/x: refused, key AGE-SECRET-KEY-1QQ";
        assert_eq!(hidden_line(line), "cannot reach https://u:***@h/x: refused, key ***");
    }
}
