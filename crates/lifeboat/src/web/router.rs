//! The ways: one for each screen, one for each thing that can be done, and those of programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{Form, Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router, middleware};
use jiff::Timestamp;
use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use maud::{Markup, html};

use super::access::{self, People, Role};
use super::audit::{self, Deed};
use super::context::Ctx;
use super::guard::{Asking, guard, is_own_form};
use super::look::{Asker, Look, Looks};
use super::patience::FORM_BYTES_MAX;
use super::rate::Rate;
use super::screens::{ACTS, Act, Done, SCREENS, Screen};
use super::sessions::{Entered, Sessions, Who, digest_of};
use super::{api, layout, links, live, login};
use crate::config::listen::Listen;
use crate::control;

/// The sign in the browser's tab.
const ICON: &str = include_str!("icon.svg");

/// What all ways share.
pub(super) struct Web {
    /// What was read.
    pub(super) looks: Arc<Looks>,
    /// Time and chance.
    pub(super) env: Env,
    /// Where the page is.
    pub(super) listen: Listen,
    /// What the page keeps.
    pub(super) folder: PathBuf,
    /// Where the agent is asked.
    pub(super) agent: Option<PathBuf>,
    /// This program, and the options that everything it begins gets.
    pub(super) base: Arc<Vec<String>>,
    /// Who has entered.
    pub(super) sessions: Sessions,
    /// Who tried to.
    pub(super) rate: Mutex<Rate>,
    /// Tokens that were found right: digests of them, with what they were compared with.
    pub(super) tokens: Mutex<BTreeMap<String, String>>,
    /// How many runs of the agent had ended when something was read last.
    pub(super) seen: Mutex<Option<(u32, u64)>>,
}

/// All ways.
pub(super) fn router(web: Arc<Web>) -> Router {
    let mut router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/style.css", get(|| async { of_type("text/css", layout::STYLE) }))
        .route("/live.js", get(|| async { of_type("text/javascript", layout::SCRIPT) }))
        .route("/icon.svg", get(|| async { of_type("image/svg+xml", ICON) }))
        .route("/login", get(login::form).post(login::enter))
        .route("/logout", post(login::leave))
        .route("/metrics", get(api::metrics))
        .route("/api/status", get(api::status))
        .route("/live/events", get(live::events));
    for screen in SCREENS {
        router = router
            .route(screen.path, get(move |web, asking, parts| show(web, asking, parts, screen)));
    }
    for act in ACTS {
        router = router.route(
            act.path,
            post(move |web, asking, parts, form| go(web, asking, parts, form, act)),
        );
    }
    router
        .fallback(nothing_here)
        .layer(axum::extract::DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&web), guard))
        .layer(middleware::from_fn(carried_out))
        .with_state(web)
}

/// Who asks for a deed and goes away has asked for it all the same: what answers is then not
/// dropped with the connection, as it is for who only looks.
async fn carried_out(request: Request, next: Next) -> Response {
    match *request.method() == Method::POST {
        true => {
            let done = tokio::spawn(next.run(request)).await;
            done.unwrap_or_else(|_| problem(&Error::new(Kind::Failed, "this did not work")))
        }
        false => next.run(request).await,
    }
}

/// What a request for a screen has.
type Parts = (Path<BTreeMap<String, String>>, Query<BTreeMap<String, String>>, Uri);

async fn show(
    State(web): State<Arc<Web>>,
    Extension(asking): Extension<Asking>,
    (Path(parts), Query(query), uri): Parts,
    screen: &'static Screen,
) -> Response {
    // What the path says comes before what stands behind it.
    let given = query.into_iter().chain(parts).collect();
    on_a_thread(move || {
        let ctx = match web.context(asking, uri.path(), given, screen.asker) {
            Ok(ctx) => ctx,
            Err(error) => return problem(&error),
        };
        let drawing = (screen.draw)(&ctx);
        let name = drawing.is_ok().then(|| (screen.name)(&ctx)).flatten();
        drawn(&ctx, name.as_deref().unwrap_or(screen.title), drawing)
    })
    .await
}

async fn go(
    State(web): State<Arc<Web>>,
    Extension(asking): Extension<Asking>,
    (Path(parts), _, uri): Parts,
    Form(form): Form<BTreeMap<String, String>>,
    act: &'static Act,
) -> Response {
    if !is_own_form(&asking, form.get("key").map(String::as_str)) {
        return problem(&foreign_form());
    }
    let given = form.into_iter().chain(parts).collect();
    on_a_thread(move || {
        let who = asking.who.clone().filter(|who| who.role >= Role::Operator);
        let from = asking.from.clone();
        let ctx = match web.context(asking, uri.path(), given, Asker::Person) {
            Ok(ctx) => ctx,
            Err(error) => return problem(&error),
        };
        let detail = (act.detail)(&ctx);
        if who.is_none() {
            web.note(ctx.who.as_ref(), &from, act.action, &detail, "refused: only looks");
            let error = Error::new(Kind::Refused, "you may look, and nothing else");
            return drawn(&ctx, act.title, Err(error.hint("enter as somebody who may do more")));
        }
        if !web.note(ctx.who.as_ref(), &from, act.action, &detail, "asked for") {
            return problem(&login::not_noted());
        }
        match (act.go)(&ctx) {
            Ok(Done::Go(to)) => (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response(),
            Ok(Done::Show(body)) => drawn(&ctx, act.title, Ok(body)),
            Err(error) => {
                web.note(ctx.who.as_ref(), &from, act.action, &detail, &error.to_string());
                drawn(&ctx, act.title, Err(error))
            }
        }
    })
    .await
}

/// Where it may take its time.
pub(super) async fn on_a_thread(make: impl FnOnce() -> Response + Send + 'static) -> Response {
    let made = tokio::task::spawn_blocking(make).await;
    made.unwrap_or_else(|_| problem(&Error::new(Kind::Failed, "this page could not be drawn")))
}

fn drawn(ctx: &Ctx, title: &str, body: Result<Markup>) -> Response {
    match body {
        Ok(body) => html(StatusCode::OK, &layout::page(ctx, title, &body)),
        Err(error) => html(status_of(&error), &layout::page(ctx, title, &layout::error(&error))),
    }
}

pub(super) fn foreign_form() -> Error {
    Error::new(Kind::Refused, "this form is not of your session")
        .hint("load the page anew, and try again")
}

impl Web {
    /// What was read, if anything was.
    pub(super) fn look(&self, now: Timestamp, asker: Asker) -> Result<Arc<Look>> {
        self.looks.newest(now, asker).ok_or_else(|| {
            Error::new(Kind::StoreUnavailable, "nothing could be read yet")
                .hint("a repository answers slowly: try again")
        })
    }

    /// What the agent does, where one runs. When a run has ended, what was read is old.
    pub(super) fn agent(&self) -> Option<control::AgentState> {
        // One that does not answer is as one that is not there: the page says so.
        let state = self.agent.as_deref().and_then(|path| control::state(path).ok()).flatten();
        let now = state.as_ref().map(|state| (state.pid, state.ended));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen != now {
            *seen = now;
            self.looks.forget();
        }
        state
    }

    fn context(
        &self,
        asking: Asking,
        path: &str,
        given: BTreeMap<String, String>,
        asker: Asker,
    ) -> Result<Ctx> {
        let agent = self.agent();
        let look = self.look(self.env.clock.now(), asker)?;
        Ok(Ctx {
            look,
            agent,
            // What was read meanwhile is not from the future.
            now: self.env.clock.now(),
            path: path.to_owned(),
            given,
            who: asking.who,
            form_key: asking.form_key.unwrap_or_default(),
            control: self.agent.clone(),
            base: Arc::clone(&self.base),
            looks: Arc::clone(&self.looks),
        })
    }

    /// The tries to enter.
    pub(super) fn rate(&self) -> MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn people(&self) -> People {
        // One that cannot be read lets nobody in.
        access::read(&self.folder).unwrap_or_default()
    }

    /// Whose cookie that is.
    pub(super) fn by_cookie(&self, id: &str) -> Option<Entered> {
        self.sessions.of(id, &self.people(), self.env.clock.now())
    }

    /// Who has that password, and what they are remembered by.
    pub(super) fn by_password(&self, name: &str, password: &str) -> Option<(Who, Option<String>)> {
        let people = self.people();
        let person = people.entering(name, password, false)?;
        let who = Who { name: name.to_owned(), role: person.role };
        Some((who, Some(person.hash.clone())))
    }

    /// Who has that link.
    pub(super) fn by_link(&self, secret: &str) -> Option<Who> {
        links::take(&self.folder, secret, self.env.clock.now())
    }

    /// Whose token that is: `NAME.SECRET`. One that was right once is known by its digest, as
    /// programs come again and again.
    pub(super) fn by_token(&self, token: &str, from: &str) -> Option<Who> {
        let (name, secret) = token.rsplit_once('.')?;
        let people = self.people();
        let known = |person: &access::Person| {
            let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.get(&digest_of(token)) == Some(&person.hash)
        };
        let person = match people.0.get(name).filter(|person| person.is_token && known(person)) {
            Some(person) => person,
            None => {
                let now_ms = self.env.clock.monotonic_ms();
                if self.rate().wait_ms(from, now_ms) > 0 {
                    return None;
                }
                let Some(person) = people.entering(name, secret, true) else {
                    self.rate().failed(from, now_ms);
                    self.note(None, from, "token", name, "refused");
                    return None;
                };
                let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                tokens.insert(digest_of(token), person.hash.clone());
                person
            }
        };
        Some(Who { name: name.to_owned(), role: person.role })
    }

    /// Writes down who did what. Whether that is written.
    pub(super) fn note(
        &self,
        who: Option<&Who>,
        from: &str,
        action: &str,
        detail: &str,
        outcome: &str,
    ) -> bool {
        let deed = Deed { who, from, action, detail, outcome };
        audit::note(&self.folder, self.env.clock.now(), &deed).is_ok()
    }
}

async fn nothing_here() -> Response {
    let body = html! { p { "There is no such page. " a href="/" { "To the overview" } } };
    html(StatusCode::NOT_FOUND, &layout::bare("Not found", &body))
}

/// An error as a page of its own.
pub(super) fn problem(error: &Error) -> Response {
    html(status_of(error), &layout::bare("This did not work", &layout::error(error)))
}

/// The number of an error.
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
pub(super) fn html(status: StatusCode, page: &Markup) -> Response {
    let kind = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-store")];
    (status, kind, page.0.clone()).into_response()
}

fn of_type(kind: &'static str, content: &'static str) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], content).into_response()
}
