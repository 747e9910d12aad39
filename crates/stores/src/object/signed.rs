//! Requests to S3 that the library behind does not make: which uploads were begun and never ended,
//! and ending them.

use lifeboat_core::store::{ObjectInfo, ObjectName};
use lifeboat_core::{Error, Kind, Result};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody};
use reqwest::Method;
use reqwest::header::HeaderMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Shared;
use super::explain::{Asked, explain};
use super::refusal::Refusal;

/// What signs requests and sends them.
pub(super) struct Signed {
    pub(super) credentials: AwsCredentialProvider,
    pub(super) http: HttpClient,
    /// The URL of the bucket.
    pub(super) bucket_url: String,
    pub(super) region: String,
}

/// An object of several parts that nobody put together.
struct Upload {
    key: String,
    id: String,
    info: ObjectInfo,
}

/// A page of the server's list, and where the next one begins.
struct Page {
    text: String,
    next: Option<(String, String)>,
}

impl Signed {
    /// Makes, signs and sends a request; the answer's text. A body carries its checksum, as some
    /// requests must.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &str,
        body: Option<String>,
    ) -> object_store::Result<String> {
        self.answer(method, path, query, body).await.map(|(_, text)| text)
    }

    /// The same; the answer's headers and its text.
    pub(super) async fn answer(
        &self,
        method: Method,
        path: &str,
        query: &str,
        body: Option<String>,
    ) -> object_store::Result<(HeaderMap, String)> {
        let failed = |why: String| object_store::Error::Generic { store: "S3", source: why.into() };
        let credential = self.credentials.get_credential().await?;
        let sum = body.as_ref().map(|body| base64(&Sha256::digest(body.as_bytes())));
        let body = body.map_or_else(HttpRequestBody::empty, |body| Bytes::from(body).into());
        let mut request = HttpRequest::new(body);
        if let Some(sum) = sum {
            let sum = sum.parse().map_err(|_| failed("no checksum".to_owned()))?;
            request.headers_mut().insert("x-amz-checksum-sha256", sum);
        }
        let uri = format!("{}{path}?{query}", self.bucket_url);
        *request.uri_mut() = uri.parse().map_err(|_| failed(format!("`{uri}` is no address")))?;
        *request.method_mut() = method;
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut request, None)?;
        let generic = |error| object_store::Error::Generic { store: "S3", source: Box::new(error) };
        let response = self.http.execute(request).await.map_err(generic)?;
        let (head, body) = response.into_parts();
        let body = body.bytes().await.map_err(generic)?;
        match head.status.is_success() {
            true => Ok((head.headers, String::from_utf8_lossy(&body).into_owned())),
            false => {
                let refusal = Refusal::read(head.status.as_u16(), &head.headers, &body);
                Err(object_store::Error::Generic { store: "S3", source: Box::new(refusal) })
            }
        }
    }

    async fn page(
        &self,
        prefix: &str,
        from: Option<&(String, String)>,
    ) -> object_store::Result<Page> {
        let mut query = format!("prefix={}&uploads=", encoded(prefix));
        if let Some((key, id)) = from {
            // In the order of names, as they are signed.
            query = format!(
                "key-marker={}&prefix={}&upload-id-marker={}&uploads=",
                encoded(key),
                encoded(prefix),
                encoded(id)
            );
        }
        let text = self.ask(Method::GET, "", &query, None).await?;
        let is_cut = text_of(&text, "IsTruncated").is_some_and(|word| word == "true");
        let marker = |name| text_of(&text, name).filter(|marker| !marker.is_empty());
        let next = match is_cut {
            true => marker("NextKeyMarker").zip(marker("NextUploadIdMarker")),
            false => None,
        };
        Ok(Page { text, next })
    }
}

/// The uploads right under a folder that nobody ended. A server that cannot list them has none.
pub(super) fn unfinished(
    shared: &Shared,
    signed: &Signed,
    folder: &str,
) -> Result<Vec<ObjectInfo>> {
    let uploads = uploads(shared, signed, folder)?;
    let mut found: Vec<ObjectInfo> = uploads.into_iter().map(|upload| upload.info).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Ends one of them; its parts are deleted. No error if it was ended meanwhile.
pub(super) fn discard(shared: &Shared, signed: &Signed, name: &ObjectName) -> Result<bool> {
    let folder = name.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
    for upload in uploads(shared, signed, folder)? {
        if upload.info.name == *name {
            let path: Vec<String> = upload.key.split('/').map(encoded).collect();
            let path = format!("/{}", path.join("/"));
            let query = format!("uploadId={}", encoded(&upload.id));
            let ended = shared.block_on(signed.ask(Method::DELETE, &path, &query, None));
            if let Err(error) = ended
                && is_there(shared, signed, folder, &upload.id)?
            {
                return Err(explain(shared, Asked::Delete, name.as_str(), error));
            }
        }
    }
    Ok(true)
}

/// Where the answer was lost, the same request finds nothing the second time: what counts is
/// whether the upload is still there.
fn is_there(shared: &Shared, signed: &Signed, folder: &str, id: &str) -> Result<bool> {
    Ok(uploads(shared, signed, folder)?.iter().any(|upload| upload.id == id))
}

fn uploads(shared: &Shared, signed: &Signed, folder: &str) -> Result<Vec<Upload>> {
    let parts = [shared.prefix.as_str(), folder];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let prefix = parts.iter().map(|part| format!("{part}/")).collect::<String>();
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let page = match shared.block_on(signed.page(&prefix, from.as_ref())) {
            Ok(page) => page,
            Err(error) if cannot_list(&error) => return Ok(found),
            Err(error) => return Err(explain(shared, Asked::List, folder, error)),
        };
        for text in page.text.split("<Upload>").skip(1) {
            found.extend(upload(text, &prefix, folder)?);
        }
        match page.next {
            Some(next) if from.as_ref() != Some(&next) => from = Some(next),
            _ => return Ok(found),
        }
    }
}

/// Some servers do not know the request, and some credentials do not have the right: a prune does
/// the rest of its work all the same.
fn cannot_list(error: &object_store::Error) -> bool {
    super::explain::refusal_of(error)
        .is_some_and(|refusal| matches!(refusal.status, 400 | 403 | 404 | 405 | 501))
}

/// What the list says of an upload; `None` for one that is not right under the folder.
fn upload(text: &str, prefix: &str, folder: &str) -> Result<Option<Upload>> {
    let (Some(key), Some(id), Some(begun)) =
        (text_of(text, "Key"), text_of(text, "UploadId"), text_of(text, "Initiated"))
    else {
        return Err(Error::new(Kind::StoreUnavailable, "the list of uploads cannot be read"));
    };
    let Some(file) = key.strip_prefix(prefix).filter(|file| !file.contains('/')) else {
        return Ok(None);
    };
    // The name that a local store gives to what is being written.
    let digits = &blake3::hash(id.as_bytes()).to_hex()[..16];
    let name = format!("{folder}/.{file}.{digits}.part");
    let modified = begun.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let info = ObjectInfo { name: ObjectName::new(name)?, bytes: 0, modified };
    Ok(Some(Upload { key, id, info }))
}

/// The text of the first element of that name, as it was meant.
pub(super) fn text_of(xml: &str, name: &str) -> Option<String> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let text = &xml[start..start + xml[start..].find("</")?];
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    Some(text.replace("&apos;", "'").replace("&#39;", "'").replace("&amp;", "&"))
}

/// Bytes as text of four letters for three of them.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let number = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// A text for a URL, as it is signed.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_others() {
        let of = |text: &str| base64(text.as_bytes());
        assert_eq!((of("").as_str(), of("f").as_str(), of("fo").as_str()), ("", "Zg==", "Zm8="));
        assert_eq!((of("foo").as_str(), of("foob~?").as_str()), ("Zm9v", "Zm9vYn4/"));
    }

    #[test]
    fn uploads_right_under_a_folder_are_unfinished_objects() {
        let of = |key: &str| {
            let text = format!(
                "<Key>{key}</Key><UploadId>abc</UploadId>\
                 <Initiated>2026-11-25T22:40:36.000Z</Initiated></Upload>"
            );
            upload(&text, "chat/app/", "app").unwrap()
        };
        let found = of("chat/app/a &amp; b.db.zst").unwrap();
        let name = found.info.name.file_name();
        assert!(name.starts_with(".a & b.db.zst.") && name.ends_with(".part"), "{name}");
        assert_eq!(found.info.modified, "2026-11-25T22:40:36Z".parse().unwrap());
        assert!(of("chat/app/deeper/a").is_none() && of("other/a").is_none());
        assert_eq!(encoded("a b/é+"), "a%20b%2F%C3%A9%2B");
    }
}
