//! What changes while a page is open, as server-sent events: each has the name of a place of the
//! page, and what stands there now.
//!
//! A thread for each page that is open waits for the agent to say that something changed, and ends
//! with the page. While no page is open nobody waits.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use jiff::tz::TimeZone;
use maud::Markup;
use tokio::sync::mpsc::{Sender, channel};

use super::router::Web;
use super::screens::runs;
use crate::control::{self, AgentState};

/// So many pages are told at once. One that was closed is seen to be gone when it is told
/// something.
const PAGES_MAX: usize = 64;
/// So many places of a page.
const PLACES_MAX: usize = 8;
/// When a browser comes again whose connection ended.
const AGAIN: Duration = Duration::from_secs(5);

/// How many pages are open.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// One of them, until this is dropped.
struct Page;

impl Page {
    fn open() -> Option<Self> {
        let is_free = |open: usize| (open < PAGES_MAX).then_some(open + 1);
        OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_free).ok().map(|_| Page)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What changes at the places that are named.
pub(super) async fn events(State(web): State<Arc<Web>>, RawQuery(query): RawQuery) -> Response {
    let pairs = query.as_deref().unwrap_or_default().split('&');
    let names = pairs.filter_map(|pair| pair.strip_prefix("name=")).map(decoded);
    let names: Vec<String> = names.take(PLACES_MAX).collect();
    let Some(page) = Page::open() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response();
    };
    let (sender, receiver) = channel(4);
    let watching = std::thread::Builder::new().name("page".to_owned()).spawn(move || {
        let _page = page;
        watch(&web, &names, &sender);
    });
    if watching.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no thread is left\n").into_response();
    }
    let events = stream::unfold(receiver, |mut receiver| async move {
        let event = receiver.recv().await?;
        Some((Ok::<_, Infallible>(event), receiver))
    });
    Sse::new(events).into_response()
}

/// A word of a query.
fn decoded(word: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), word.as_bytes());
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn watch(web: &Web, names: &[String], sender: &Sender<Event>) {
    let Some(path) = &web.agent else { return };
    let mut told: Vec<Option<String>> = vec![None; names.len()];
    let mut ended = None;
    let first = Event::default().retry(AGAIN).comment("it begins");
    if sender.blocking_send(first).is_err() {
        return;
    }
    let watched = control::watch(path, |state| {
        let zone = TimeZone::system();
        for (name, told) in names.iter().zip(&mut told) {
            let Some(piece) = piece(web, name, &state, &zone) else { continue };
            if told.as_ref() == Some(&piece.0) {
                continue;
            }
            let event = Event::default().event(name).data(&piece.0);
            *told = Some(piece.0);
            if sender.blocking_send(event).is_err() {
                return false;
            }
        }
        let now = (state.pid, state.ended);
        if ended.replace(now).is_some_and(|before| before != now) {
            let event = Event::default().event("ended").data(state.ended.to_string());
            return sender.blocking_send(event).is_ok();
        }
        // By this it is seen that the page is gone.
        sender.blocking_send(Event::default().comment("")).is_ok()
    });
    // Where no agent runs, or it ended: the browser comes again.
    let _ = watched;
}

/// What stands at a place.
fn piece(web: &Web, name: &str, state: &AgentState, zone: &TimeZone) -> Option<Markup> {
    let now = web.env.clock.now();
    match name.split_once(':') {
        None if name == "runs" => Some(runs::going(state)),
        Some(("run", id)) => runs::one(state, id, web.agent.as_deref(), (now, zone)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_of_a_query_are_read() {
        assert_eq!(super::decoded("run%3Abackup-a%20b"), "run:backup-a b");
        assert_eq!(super::decoded("100%"), "100%");
        assert_eq!(super::decoded("%zz%4"), "%zz%4");
    }
}
