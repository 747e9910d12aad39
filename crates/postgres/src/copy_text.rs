//! Rows as `COPY` writes them in its text format.

use std::borrow::Cow;

/// The values of a row without its end; `None` for NULL.
pub(crate) fn fields(row: &[u8]) -> impl Iterator<Item = Option<Cow<'_, [u8]>>> {
    row.split(|byte| *byte == b'\t').map(|field| match field {
        b"\\N" => None,
        field => Some(unescaped(field)),
    })
}

fn unescaped(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(field);
    }
    let mut plain = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            plain.push(*byte);
            continue;
        }
        // The server writes no others.
        plain.push(match bytes.next() {
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(other) => *other,
            None => b'\\',
        });
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_copy_escapes_is_read_back() {
        let row = b"plain\t\\N\t\t\\\\N\ta\\tb\\nc\\\\d";
        let found: Vec<Option<Vec<u8>>> =
            fields(row).map(|field| field.map(Cow::into_owned)).collect();
        let some = |text: &[u8]| Some(text.to_vec());
        assert_eq!(found, [some(b"plain"), None, some(b""), some(b"\\N"), some(b"a\tb\nc\\d")]);
    }
}
