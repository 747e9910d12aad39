//! Where a bucket is, as a URL says it: `s3://BUCKET/PREFIX`, `gs://`, `az://`.

use lifeboat_core::{Error, Kind, Result};

/// Whose storage it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    /// S3, and what speaks like it.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
}

const SCHEMES: &[(&str, Provider)] =
    &[("s3", Provider::S3), ("gs", Provider::Google), ("az", Provider::Azure)];

/// Whether a URL names a bucket, by its scheme.
pub(crate) fn is_url(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| SCHEMES.iter().any(|known| known.0 == scheme))
}

/// What a URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) provider: Provider,
    pub(crate) bucket: String,
    /// Without a slash at its ends; empty for the whole bucket.
    pub(crate) prefix: String,
}

impl Place {
    /// Reads a URL, and asks nobody.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::new(Kind::Usage, format!("`{url}` does not name a bucket: {why}"))
                .hint("write the bucket and a folder in it, as in s3://my-backups/chat")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let provider = SCHEMES.iter().find(|known| known.0 == scheme);
        let provider = provider.ok_or_else(|| wrong("its scheme is not known"))?.1;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if bucket.contains('@') {
            return Err(wrong("credentials do not belong into a URL"));
        }
        if bucket.len() < 3 || bucket.len() > 222 || !bucket.chars().all(is_good) {
            return Err(wrong("the bucket's name has 3 letters and more, digits, - and ."));
        }
        let is_part = |part: &str| {
            !part.is_empty() && !matches!(part, "." | "..") && !part.chars().any(char::is_control)
        };
        if !prefix.is_empty() && !prefix.split('/').all(is_part) {
            return Err(wrong("a part of the folder is empty, `.` or `..`"));
        }
        if prefix.contains(['?', '#']) {
            return Err(wrong("options stand in the configuration, not in the URL"));
        }
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Ok(Place { provider, bucket, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_buckets_and_folders() {
        let place = |url| Place::parse(url).unwrap();
        let whole = place("s3://my-backups");
        assert_eq!((whole.bucket.as_str(), whole.prefix.as_str()), ("my-backups", ""));
        let folder = place("gs://my.backups/a b/chat/");
        assert_eq!((folder.bucket.as_str(), folder.prefix.as_str()), ("my.backups", "a b/chat"));
        assert_eq!(folder.provider, Provider::Google);
        for wrong in [
            "s3://",
            "s3:///x",
            "s3://a",
            "s3://bucket//x",
            "s3://bucket/../x",
            "s3://key@bucket/x",
            "s3://bucket/x?region=y",
            "http://bucket/x",
            "bucket",
            "s3://buc ket/x",
        ] {
            assert_eq!(Place::parse(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
