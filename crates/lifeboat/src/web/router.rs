//! The ways: one for each screen, and those that programs take.
//!
//! Each answer has the headers that keep a browser from doing what no page of ours asks for: no
//! script or style but from files of ours, nothing from elsewhere, nothing inside another page.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use lifeboat_core::env::Clock;
use lifeboat_core::{Error, Kind, Result};
use maud::{Markup, html};

use super::api;
use super::context::Ctx;
use super::layout;
use super::look::{Asker, Look, Looks};
use super::screens::{SCREENS, Screen};

/// What all answers have.
const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
         connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];
/// The sign in the browser's tab.
const ICON: &str = include_str!("icon.svg");

/// What all ways share.
pub(super) struct Web {
    /// What was read.
    pub(super) looks: Arc<Looks>,
    /// What time it is.
    pub(super) clock: Arc<dyn Clock>,
}

/// All ways.
pub(super) fn router(web: Arc<Web>) -> Router {
    let mut router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(api::metrics))
        .route("/api/status", get(api::status))
        .route("/style.css", get(|| async { of_type("text/css", layout::STYLE) }))
        .route("/icon.svg", get(|| async { of_type("image/svg+xml", ICON) }));
    for screen in SCREENS {
        router = router.route(screen.path, get(move |web, parts| show(web, parts, screen)));
    }
    router.fallback(nothing_here).layer(middleware::from_fn(guard)).with_state(web)
}

/// What a request for a screen has.
type Parts = (Path<BTreeMap<String, String>>, Query<BTreeMap<String, String>>, Uri);

async fn show(
    State(web): State<Arc<Web>>,
    (Path(parts), Query(query), uri): Parts,
    screen: &'static Screen,
) -> Response {
    // What the path says comes before what stands behind it.
    let given = query.into_iter().chain(parts).collect();
    let path = uri.path().to_owned();
    let drawn = tokio::task::spawn_blocking(move || web.draw(screen, path, given)).await;
    drawn.unwrap_or_else(|_| problem(&Error::new(Kind::Failed, "this page could not be drawn")))
}

impl Web {
    /// What was read, if anything was.
    pub(super) fn look(&self, now: Timestamp, asker: Asker) -> Result<Arc<Look>> {
        self.looks.newest(now, asker).ok_or_else(|| {
            Error::new(Kind::StoreUnavailable, "nothing could be read yet")
                .hint("a repository answers slowly: try again")
        })
    }

    fn draw(&self, screen: &Screen, path: String, given: BTreeMap<String, String>) -> Response {
        let now = self.clock.now();
        let look = match self.look(now, Asker::Person) {
            Ok(look) => look,
            Err(error) => return problem(&error),
        };
        // What was read meanwhile is not from the future.
        let now = self.clock.now();
        let ctx = Ctx { look, now, path, given };
        match (screen.draw)(&ctx) {
            Ok(body) => html(StatusCode::OK, &layout::page(&ctx, screen.title, &body)),
            Err(error) => {
                let page = layout::page(&ctx, screen.title, &layout::error(&error));
                html(status_of(&error), &page)
            }
        }
    }
}

async fn nothing_here() -> Response {
    let body = html! { p { "There is no such page. " a href="/" { "To the overview" } } };
    html(StatusCode::NOT_FOUND, &layout::bare("Not found", &body))
}

/// An error as a page of its own.
fn problem(error: &Error) -> Response {
    html(status_of(error), &layout::bare("This did not work", &layout::error(error)))
}

pub(super) fn status_of(error: &Error) -> StatusCode {
    match error.kind() {
        Kind::Usage => StatusCode::BAD_REQUEST,
        Kind::NotCovered => StatusCode::NOT_FOUND,
        Kind::Refused => StatusCode::FORBIDDEN,
        Kind::StoreUnavailable | Kind::StoreAbsent => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A page. What it shows is of this moment, and of nobody else's business.
fn html(status: StatusCode, page: &Markup) -> Response {
    let kind = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (status, kind, page.0.clone()).into_response()
}

fn of_type(kind: &'static str, content: &'static str) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], content).into_response()
}

/// Lets only those requests through that mean us, and gives each answer its headers.
async fn guard(request: Request, next: Next) -> Response {
    let mut response = match host_of(request.headers(), request.uri()) {
        Some(host) if is_ours(&host) => next.run(request).await,
        _ => problem_of_host(),
    };
    for (name, value) in HEADERS {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A name that somebody else gave to our address: the page of a stranger would read ours.
fn problem_of_host() -> Response {
    let error = Error::new(Kind::Refused, "this name is not one of this page");
    let hint = "use the address that `lifeboat run` listens on";
    let body = layout::error(&error.hint(hint));
    html(StatusCode::MISDIRECTED_REQUEST, &layout::bare("Wrong name", &body))
}

/// The host that was asked for, without its port.
fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let mut named = headers.get_all(HOST).iter();
    let host = match (named.next(), named.next()) {
        (Some(host), None) => host.to_str().ok()?,
        (None, None) => uri.authority()?.as_str(),
        _ => return None,
    };
    let without_port = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    };
    Some(without_port.to_ascii_lowercase())
}

/// An address cannot be given to another; of names only this host's own cannot.
fn is_ours(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static(text));
        host_of(&headers, &Uri::from_static("/"))
    }

    #[test]
    fn addresses_and_our_own_name_are_ours_and_others_names_are_not() {
        for ours in ["127.0.0.1:6464", "localhost:6464", "LOCALHOST", "[::1]:6464", "10.0.0.1"] {
            assert!(is_ours(&host(ours).unwrap()), "{ours}");
        }
        for other in ["evil.example:6464", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert!(!is_ours(&host(other).unwrap()), "{other}");
        }
    }

    #[test]
    fn two_hosts_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(HOST, HeaderValue::from_static("localhost"));
        headers.append(HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(host_of(&headers, &Uri::from_static("/")), None);
    }
}
