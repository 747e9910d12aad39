//! What a server answered instead of doing what was asked: read out of its response, and judged.
//!
//! S3 and Azure say it in XML, Google also in JSON; an answer to HEAD has no body at all. The text
//! is searched, not parsed: a proxy in between may have written it.

use std::fmt;

use jiff::Timestamp;
use reqwest::header::HeaderMap;

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The status of HTTP.
    pub(super) status: u16,
    /// The server's own word for it, such as `AccessDenied`; empty if it gave none.
    pub(super) code: String,
    /// What it says to people.
    pub(super) message: String,
    /// The region in which the bucket is, where the server tells.
    pub(super) region: Option<String>,
    /// The server's clock.
    pub(super) server_time: Option<Timestamp>,
}

/// What is to be made of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The caller knows what it means: found or not, there already.
    Answer,
    /// It may pass by itself.
    Passing,
    /// It stays until somebody mends it.
    Permanent,
}

/// Codes with any status that may pass by themselves.
const PASSING: &[&str] = &[
    "InternalError",
    "SlowDown",
    "ServiceUnavailable",
    "RequestTimeout",
    "OperationAborted",
    "ConditionalRequestConflict",
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "Md5Mismatch",
    "ServerBusy",
    "OperationTimedOut",
];
/// Codes of "not found" that are not about the object.
const NOT_THE_OBJECT: &[&str] =
    &["NoSuchBucket", "NoSuchUpload", "ContainerNotFound", "ResourceNotFound", "InvalidPart"];

impl Refusal {
    /// Reads it out of a response.
    pub(super) fn read(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(&body[..body.len().min(64 << 10)]);
        let header =
            |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let of_body = |name: &str| element(&body, name);
        let code = of_body("Code").or_else(|| header("x-ms-error-code")).unwrap_or_default();
        let message = of_body("Message").or_else(|| of_json(&body, "message")).unwrap_or_default();
        let region = header("x-amz-bucket-region").or_else(|| of_body("Region"));
        let server_time = header("date").and_then(|text| time(&text));
        Refusal { status, code, message, region, server_time }
    }

    /// Whether it is known who asks, and that is what they may not.
    pub(super) fn is_about_rights(&self) -> bool {
        matches!(
            self.code.as_str(),
            "" | "AccessDenied" | "AuthorizationPermissionMismatch" | "InvalidObjectState"
        )
    }

    /// What is to be made of it.
    pub(super) fn verdict(&self) -> Verdict {
        if PASSING.contains(&self.code.as_str()) {
            return Verdict::Passing;
        }
        match self.status {
            404 if NOT_THE_OBJECT.contains(&self.code.as_str()) => Verdict::Permanent,
            304 | 404 | 409 | 412 => Verdict::Answer,
            501 | 505 | 507 => Verdict::Permanent,
            408 | 425 | 429 | 500..=599 => Verdict::Passing,
            _ => Verdict::Permanent,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answers {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        match self.message.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", self.message.trim_end_matches('.')),
        }
    }
}

impl std::error::Error for Refusal {}

/// The text of an XML element, if there is one of that name.
pub(super) fn element(body: &str, name: &str) -> Option<String> {
    let start = body.find(&format!("<{name}>"))? + name.len() + 2;
    let end = start + body[start..].find("</")?;
    let text = body[start..end].trim();
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    let text = one_line(&text.replace("&apos;", "'").replace("&amp;", "&"));
    (!text.is_empty()).then_some(text)
}

/// The text of a member of JSON, if there is one of that name.
fn of_json(body: &str, name: &str) -> Option<String> {
    let rest = &body[body.find(&format!("\"{name}\""))? + name.len() + 2..];
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let text = one_line(&rest[..rest.find('"')?]);
    (!text.is_empty()).then_some(text)
}

/// A text of a stranger, made fit for a message.
fn one_line(text: &str) -> String {
    let text: String =
        text.chars().take(400).map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The time in a `Date` header.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> Refusal {
        Refusal::read(status, &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn the_servers_words_are_found() {
        let body = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>\
                    <Message>User &lt;x&gt;\nis not allowed.</Message></Error>";
        let refusal = read(403, body);
        assert_eq!(
            refusal.to_string(),
            "the server answers 403 AccessDenied: User <x> is not allowed"
        );
        assert_eq!(refusal.verdict(), Verdict::Permanent);
        let json = read(403, "{\"error\": {\"code\": 403, \"message\": \"no access\"}}");
        assert_eq!(json.message, "no access");
        assert_eq!(read(502, "").to_string(), "the server answers 502");
        assert_eq!(read(403, "<Code>cut off").code, "");
    }

    #[test]
    fn passing_and_permanent_are_told_apart() {
        for (status, code, verdict) in [
            (503, "SlowDown", Verdict::Passing),
            (500, "", Verdict::Passing),
            (429, "", Verdict::Passing),
            (400, "RequestTimeout", Verdict::Passing),
            (200, "InternalError", Verdict::Passing),
            (409, "ConditionalRequestConflict", Verdict::Passing),
            (501, "NotImplemented", Verdict::Permanent),
            (404, "NoSuchBucket", Verdict::Permanent),
            (404, "NoSuchKey", Verdict::Answer),
            (404, "", Verdict::Answer),
            (412, "PreconditionFailed", Verdict::Answer),
            (409, "BlobAlreadyExists", Verdict::Answer),
            (301, "PermanentRedirect", Verdict::Permanent),
            (416, "InvalidRange", Verdict::Permanent),
            (403, "RequestTimeTooSkewed", Verdict::Permanent),
        ] {
            let refusal = read(status, &format!("<Code>{code}</Code>"));
            assert_eq!(refusal.verdict(), verdict, "{status} {code}");
        }
    }

    #[test]
    fn region_and_time_are_told() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-bucket-region", "eu-central-1".parse().unwrap());
        headers.insert("date", "Wed, 25 Nov 2026 22:40:36 GMT".parse().unwrap());
        let refusal = Refusal::read(301, &headers, b"");
        assert_eq!(refusal.region.as_deref(), Some("eu-central-1"));
        assert_eq!(refusal.server_time, "2026-11-25T22:40:36Z".parse().ok());
        let body = "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region>";
        assert_eq!(read(400, body).region.as_deref(), Some("eu-west-3"));
    }
}
