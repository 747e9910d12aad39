//! Addresses of our own pages, with names in them as addresses must have them.

/// An address with its parameters: those that are empty are left out.
pub(crate) fn to(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut address = path.to_owned();
    let given = parameters.iter().filter(|(_, value)| !value.is_empty());
    for (index, (name, value)) in given.enumerate() {
        address.push(if index == 0 { '?' } else { '&' });
        address.push_str(&format!("{name}={}", part(value)));
    }
    address
}

/// The screen of a source.
pub(crate) fn of_source(name: &str) -> String {
    format!("/sources/{}", part(name))
}

/// A name as a part of an address.
pub(crate) fn part(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_their_part() {
        assert_eq!(of_source("a/b?c=<é>"), "/sources/a%2Fb%3Fc%3D%3C%C3%A9%3E");
        let address = to("/proofs", &[("month", ""), ("source", "a&b"), ("page", "2")]);
        assert_eq!(address, "/proofs?source=a%26b&page=2");
    }
}
