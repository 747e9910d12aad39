//! Who is let in, and to what: before any way of the page is taken.
//!
//! In this order: the host that was asked for is ours (a stranger's name for our address is how a
//! page elsewhere would read this one); whoever asks has entered, by a cookie or a token; and a
//! request that changes something comes from a page of ours.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, HOST, LOCATION, ORIGIN, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lifeboat_core::{Error, Kind};

use super::listener::BY_SOCKET;
use super::router::{Web, html};
use super::sessions::{Who, digest_of};
use super::{layout, patience};

/// What all answers have.
const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
         connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    // Nothing goes to anybody else. Without any, browsers do not say where a form comes from.
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];
/// What needs nobody to have entered.
const OPEN: &[&str] = &["/healthz", "/login", "/style.css", "/live.js", "/icon.svg"];
/// What is for programs: they get a number, and no page.
const FOR_PROGRAMS: &[&str] = &["/metrics", "/api/status", "/live/events"];

/// From where a connection comes.
#[derive(Clone, Debug)]
pub(super) struct From(pub(super) IpAddr);

/// Who asks, in each request that was let in.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    /// Who; nobody where nobody need have entered.
    pub(super) who: Option<Who>,
    /// What their forms carry; none for programs.
    pub(super) form_key: Option<String>,
    /// From which address.
    pub(super) from: String,
    /// Whether all goes by TLS.
    pub(super) is_secure: bool,
}

/// Lets a request through or does not, and gives each answer its headers.
pub(super) async fn guard(
    State(web): State<Arc<Web>>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut response = match admit(&web, &request) {
        Ok(asking) => {
            request.extensions_mut().insert(asking);
            run(request, next).await
        }
        Err(response) => *response,
    };
    for (name, value) in HEADERS {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if web.listen.tls.is_some() {
        let year = HeaderValue::from_static("max-age=31536000");
        response.headers_mut().insert("strict-transport-security", year);
    }
    response
}

/// Goes on, where a request that sends something has sent it.
async fn run(request: Request, next: Next) -> Response {
    if !is_change(&request) {
        return next.run(request).await;
    }
    match patience::whole(request, patience::SEND).await {
        Ok(request) => next.run(request).await,
        // What comes behind it would be taken for another request.
        Err(status) => (status, [(CONNECTION, "close")]).into_response(),
    }
}

/// Whether it would change something.
fn is_change(request: &Request) -> bool {
    !matches!(*request.method(), Method::GET | Method::HEAD)
}

fn admit(web: &Web, request: &Request) -> Result<Asking, Box<Response>> {
    let headers = request.headers();
    let host = host_of(headers, request.uri());
    let Some((host, name)) = host.filter(|(_, name)| is_ours(name, &web.listen.names)) else {
        let why = Error::new(Kind::Refused, "this name is not one of this page");
        let hint = "use the address of `listen`, or write the name into `names` of `agent`";
        return refused(StatusCode::MISDIRECTED_REQUEST, &why.hint(hint));
    };
    let _ = name;
    let (from, is_secure) = origin_of(web, request);
    let path = request.uri().path();
    let mut asking = Asking { who: None, form_key: None, from, is_secure };
    if let Some(token) = bearer(headers) {
        // What a browser does not send by itself needs no proof that a page of ours sent it.
        match web.by_token(&token, &asking.from) {
            Some(who) => asking.who = Some(who),
            None => return Err(Box::new(nobody(path, "this token does not hold"))),
        }
        return Ok(asking);
    }
    if is_change(request) && !is_from_us(headers, &host, is_secure) {
        let why = Error::new(Kind::Refused, "this was not sent by a page of ours");
        return refused(StatusCode::FORBIDDEN, &why.hint("load the page anew, and try again"));
    }
    if let Some(entered) = cookie(headers, is_secure).and_then(|id| web.by_cookie(&id)) {
        asking.form_key = Some(entered.form_key);
        asking.who = Some(entered.who);
        return Ok(asking);
    }
    let is_open =
        OPEN.contains(&path) || (path == "/metrics" && web.listen.is_of_this_host_alone());
    match is_open {
        true => Ok(asking),
        false => Err(Box::new(nobody(path, "this page needs you to enter"))),
    }
}

fn refused(status: StatusCode, error: &Error) -> Result<Asking, Box<Response>> {
    Err(Box::new(html(status, &layout::bare("Refused", &layout::error(error)))))
}

/// To the page where one enters; programs get a number.
fn nobody(path: &str, why: &str) -> Response {
    if FOR_PROGRAMS.contains(&path) {
        let ask = [(WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, ask, format!("{why}\n")).into_response();
    }
    let mut to = String::from("/login");
    if path != "/"
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte))
    {
        to.push_str("?next=");
        to.push_str(path);
    }
    (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response()
}

/// From which address it comes, and whether by TLS: a proxy that is named says that of others.
fn origin_of(web: &Web, request: &Request) -> (String, bool) {
    let from = request.extensions().get::<From>().map(|from| from.0);
    let is_tls = web.listen.tls.is_some();
    let Some(from) = from else { return ("unknown".to_owned(), is_tls) };
    if !web.listen.proxies.contains(&from) {
        return (from.to_string(), is_tls);
    }
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    // The last one is the one that the proxy itself saw.
    let said = text("x-forwarded-for").and_then(|list| list.rsplit(',').next());
    let said = said.and_then(|address| address.trim().parse::<IpAddr>().ok());
    let is_secure = is_tls || text("x-forwarded-proto") == Some("https");
    let from = match said.unwrap_or(from) {
        BY_SOCKET => "the socket".to_owned(),
        from => from.to_string(),
    };
    (from, is_secure)
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    Some(value.strip_prefix("Bearer ")?.trim().to_owned())
}

/// The name of the cookie: where all goes by TLS, one that no other page can set.
pub(super) fn cookie_name(is_secure: bool) -> &'static str {
    if is_secure { "__Host-lifeboat" } else { "lifeboat" }
}

/// The id of the session, if the browser has exactly one.
pub(super) fn cookie(headers: &HeaderMap, is_secure: bool) -> Option<String> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    let mut own = pairs.filter(|(name, _)| name.trim() == cookie_name(is_secure));
    match (own.next(), own.next()) {
        (Some((_, id)), None) => Some(id.trim().to_owned()),
        _ => None,
    }
}

/// Whether a browser says that a page of ours sent this.
fn is_from_us(headers: &HeaderMap, host: &str, is_secure: bool) -> bool {
    let scheme = if is_secure { "https" } else { "http" };
    let own = format!("{scheme}://{host}");
    headers
        .get(ORIGIN)
        .and_then(|origin| origin.to_str().ok())
        .is_some_and(|origin| origin.eq_ignore_ascii_case(&own))
}

/// The host that was asked for, as it stands there and without its port.
fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<(String, String)> {
    let mut named = headers.get_all(HOST).iter();
    let host = match (named.next(), named.next()) {
        (Some(host), None) => host.to_str().ok()?,
        (None, None) => uri.authority()?.as_str(),
        _ => return None,
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    Some((host.to_ascii_lowercase(), name.to_ascii_lowercase()))
}

/// An address cannot be given to another; a name is ours where the configuration has it.
fn is_ours(host: &str, names: &[String]) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_named = names.iter().any(|name| name == host);
    is_named || host == "localhost" || bare.parse::<IpAddr>().is_ok()
}

/// Whether a form carries what those of this session carry.
pub(super) fn is_own_form(asking: &Asking, carried: Option<&str>) -> bool {
    match &asking.form_key {
        // A program, which showed its token.
        None => asking.who.is_some(),
        // Digests, so that the time it takes tells nothing.
        Some(key) => carried.is_some_and(|carried| digest_of(carried) == digest_of(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static(text));
        host_of(&headers, &Uri::from_static("/")).map(|(_, name)| name)
    }

    #[test]
    fn addresses_and_our_own_names_are_ours_and_others_are_not() {
        let names = ["backup.example.org".to_owned()];
        let ours = ["127.0.0.1:6464", "localhost:6464", "LOCALHOST", "[::1]:6464", "10.0.0.1"];
        for name in ours.iter().chain(&["Backup.example.org:443"]) {
            assert!(is_ours(&host(name).unwrap(), &names), "{name}");
        }
        let others = ["evil.example:6464", "localhost.evil.example", "127.0.0.1.evil.example"];
        for name in others {
            assert!(!is_ours(&host(name).unwrap(), &names), "{name}");
        }
    }

    #[test]
    fn two_hosts_are_none_and_neither_are_two_cookies() {
        let mut headers = HeaderMap::new();
        headers.append(HOST, HeaderValue::from_static("localhost"));
        headers.append(HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(host_of(&headers, &Uri::from_static("/")), None);
        headers.append(COOKIE, HeaderValue::from_static("a=b; lifeboat=one"));
        assert_eq!(cookie(&headers, false).as_deref(), Some("one"));
        assert_eq!(cookie(&headers, true), None);
        headers.append(COOKIE, HeaderValue::from_static("lifeboat=two"));
        assert_eq!(cookie(&headers, false), None);
    }

    #[test]
    fn only_a_page_of_ours_changes_something() {
        let from_us = |origin: Option<&'static str>, is_secure| {
            let mut headers = HeaderMap::new();
            origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_static(origin)));
            is_from_us(&headers, "127.0.0.1:6464", is_secure)
        };
        assert!(from_us(Some("http://127.0.0.1:6464"), false));
        assert!(from_us(Some("https://127.0.0.1:6464"), true));
        for origin in [
            None,
            Some("null"),
            Some("https://127.0.0.1:6464"),
            Some("http://127.0.0.1:8080"),
            Some("http://evil.example"),
        ] {
            assert!(!from_us(origin, false), "{origin:?}");
        }
    }
}
