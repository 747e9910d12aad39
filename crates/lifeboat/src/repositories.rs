//! From a URL, or a name in the configuration, to a repository's store.
//!
//! Adding a kind of store is one line in [`STORES`].

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

/// A kind of store.
struct StoreKind {
    /// What stands before `://`.
    scheme: &'static str,
    /// Whether the rest of a URL is one that the store can have.
    check: fn(&str) -> Result<()>,
}

/// All kinds.
const STORES: &[StoreKind] =
    &[StoreKind { scheme: "file", check: |url| local_path(url).map(drop) }];

/// Whether a URL names a place that a store of ours can have. Looks at no place.
pub(crate) fn check_url(url: &str) -> Result<()> {
    (kind_of(url)?.check)(url)
}

fn kind_of(url: &str) -> Result<&'static StoreKind> {
    let schemes: Vec<String> = STORES.iter().map(|kind| format!("{}://", kind.scheme)).collect();
    let known = schemes.join(", ");
    let Some((scheme, _)) = url.split_once("://") else {
        return Err(Error::new(Kind::Usage, format!("`{url}` is not the URL of a repository"))
            .hint(format!("write a URL such as file:///var/backups; known are {known}")));
    };
    STORES.iter().find(|kind| kind.scheme == scheme).ok_or_else(|| {
        Error::new(Kind::Usage, format!("no store is known for `{scheme}://` in `{url}`"))
            .hint(format!("known are {known}"))
    })
}

/// The path that a `file://` URL names, its `%20` and the like decoded.
fn local_path(url: &str) -> Result<PathBuf> {
    let wrong = |why: &str| {
        Error::new(Kind::Usage, format!("the URL `{url}` {why}"))
            .hint("write file:// and an absolute path, as in file:///var/backups")
    };
    let rest = url.strip_prefix("file://").ok_or_else(|| wrong("does not begin with file://"))?;
    if !rest.starts_with('/') {
        return Err(wrong("does not have an absolute path"));
    }
    let mut bytes = Vec::with_capacity(rest.len());
    let mut remaining = rest.as_bytes();
    while let Some((&byte, tail)) = remaining.split_first() {
        remaining = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match decoded {
            Some(0) | None => {
                return Err(wrong("has a `%` that two hexadecimal digits must follow"));
            }
            Some(value) => bytes.push(value),
        }
        remaining = &tail[2..];
    }
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// The `file://` URL of an absolute path.
pub(crate) fn local_url(path: &Path) -> String {
    let mut url = String::from("file://");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' | b' ' | 0..=0x1f | 0x7f.. => url.push_str(&format!("%{byte:02X}")),
            _ => url.push(char::from(byte)),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_urls_go_both_ways() {
        for path in ["/var/backups", "/mnt/a b/é", "/x/100%", "/a\nb"] {
            assert_eq!(local_path(&local_url(Path::new(path))).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn wrong_urls_are_named() {
        for url in ["/var/backups", "file://relative", "file:///a%2", "file:///%00", "ftp://x/y"] {
            let error = check_url(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{url}");
            assert!(error.message().contains(url), "{error}");
        }
    }
}
