//! Where one enters, by a password or by a link of `lifeboat web open`, and leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, Query, State};
use axum::http::header::{LOCATION, RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use lifeboat_core::{Error, Kind};
use maud::{Markup, html};

use super::guard::{Asking, cookie, cookie_name, is_own_form};
use super::layout;
use super::router::{Web, html as page, problem};
use crate::ui::units;

/// The form.
pub(super) async fn form(Query(given): Query<BTreeMap<String, String>>) -> Response {
    page(StatusCode::OK, &layout::bare("Enter", &draw(&given, None)))
}

fn draw(given: &BTreeMap<String, String>, failure: Option<&str>) -> Markup {
    let next = given.get("next").map(String::as_str).unwrap_or_default();
    html! {
        @if let Some(failure) = failure { p.summary.bad role="alert" { (failure) } }
        @if let Some(link) = given.get("link") {
            form.enter method="post" action="/login" {
                input type="hidden" name="link" value=(link);
                p { "This link of " code { "lifeboat web open" } " can be used once." }
                button { "Enter" }
            }
        } @else {
            form.enter method="post" action="/login" {
                input type="hidden" name="next" value=(next);
                label for="name" { "Name" }
                input #name name="name" autocomplete="username" required;
                label for="password" { "Password" }
                input #password name="password" type="password" autocomplete="current-password"
                    required;
                button { "Enter" }
            }
            p { "On the host itself, " code { "lifeboat web open" }
                " prints a link to enter without a password." }
        }
    }
}

/// Enters.
pub(super) async fn enter(
    State(web): State<Arc<Web>>,
    Extension(asking): Extension<Asking>,
    headers: HeaderMap,
    Form(given): Form<BTreeMap<String, String>>,
) -> Response {
    let entered = tokio::task::spawn_blocking(move || web.enter(&asking, &headers, &given)).await;
    entered.unwrap_or_else(|_| problem(&Error::new(Kind::Failed, "this could not be answered")))
}

impl Web {
    fn enter(
        &self,
        asking: &Asking,
        headers: &HeaderMap,
        given: &BTreeMap<String, String>,
    ) -> Response {
        let now_ms = self.env.clock.monotonic_ms();
        // Nobody guesses a link, so whoever guesses passwords keeps nobody of this host out.
        let wait_ms = match given.contains_key("link") {
            true => 0,
            false => self.rate().wait_ms(&asking.from, now_ms),
        };
        if wait_ms > 0 {
            self.note(None, &asking.from, "enter", "", "too many tries");
            let why = format!("too many tries failed: wait {}", units::coarse(wait_ms));
            let body = layout::bare("Enter", &draw(&BTreeMap::new(), Some(&why)));
            let seconds = wait_ms.div_ceil(1000).to_string();
            let answer = page(StatusCode::TOO_MANY_REQUESTS, &body);
            return ([(RETRY_AFTER, seconds)], answer).into_response();
        }
        let text = |name: &str| given.get(name).map(String::as_str).unwrap_or_default();
        let who = match given.get("link") {
            Some(link) => self.by_link(link).map(|who| (who, None)),
            None => self.by_password(text("name"), text("password")),
        };
        let Some((who, by)) = who else {
            if !given.contains_key("link") {
                self.rate().failed(&asking.from, now_ms);
            }
            self.note(None, &asking.from, "enter", text("name"), "refused");
            let why = match given.contains_key("link") {
                true => "this link was used already, or is too old: lifeboat web open",
                false => "this name and this password do not belong together",
            };
            let given = given.get("next").map(|next| ("next".to_owned(), next.clone()));
            let body = draw(&given.into_iter().collect(), Some(why));
            return page(StatusCode::FORBIDDEN, &layout::bare("Enter", &body));
        };
        // What was entered before with this browser is over.
        if let Some(before) = cookie(headers, asking.is_secure) {
            self.sessions.end(&before);
        }
        if !self.note(Some(&who), &asking.from, "enter", "", "done") {
            return problem(&not_noted());
        }
        let id = self.sessions.begin(&self.env, who, by);
        let name = cookie_name(asking.is_secure);
        let secure = if asking.is_secure { "; Secure" } else { "" };
        let cookie = format!("{name}={id}; Path=/; HttpOnly; SameSite=Strict{secure}");
        let to = [(SET_COOKIE, cookie), (LOCATION, own_path(text("next")).to_owned())];
        (StatusCode::SEE_OTHER, to).into_response()
    }
}

/// What is not written down is not done.
pub(super) fn not_noted() -> Error {
    Error::new(Kind::Failed, "the audit log cannot be written, so nothing is done")
        .hint("look at the space and the rights of the state folder's `web/audit.log`")
}

/// A path of this page, and never of another.
fn own_path(text: &str) -> &str {
    let is_own = text.starts_with('/')
        && !text.starts_with("//")
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_own { text } else { "/" }
}

/// Leaves.
pub(super) async fn leave(
    State(web): State<Arc<Web>>,
    Extension(asking): Extension<Asking>,
    headers: HeaderMap,
    Form(given): Form<BTreeMap<String, String>>,
) -> Response {
    if !is_own_form(&asking, given.get("key").map(String::as_str)) {
        return problem(&super::router::foreign_form());
    }
    if let Some(id) = cookie(&headers, asking.is_secure) {
        web.sessions.end(&id);
    }
    web.note(asking.who.as_ref(), &asking.from, "leave", "", "done");
    let name = cookie_name(asking.is_secure);
    let secure = if asking.is_secure { "; Secure" } else { "" };
    let cookie = format!("{name}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0{secure}");
    let to = [(SET_COOKIE, cookie), (LOCATION, "/login".to_owned())];
    (StatusCode::SEE_OTHER, to).into_response()
}

#[cfg(test)]
mod tests {
    use super::own_path;

    #[test]
    fn who_enters_stays_here() {
        assert_eq!(own_path("/runs"), "/runs");
        for other in ["//evil.example", "https://evil.example", "/\\evil.example", "", "/a\nb"] {
            assert_eq!(own_path(other), "/");
        }
    }
}
