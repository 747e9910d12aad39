//! The ways that programs take: the status as JSON, and as metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use lifeboat_core::{Error, Kind, Result};
use serde_json::{Value, json};

use super::look::{Asker, Look};
use super::router::{Web, status_of};
use crate::ui::report;

/// The same as `lifeboat status --format json` has.
pub(super) async fn status(State(web): State<Arc<Web>>) -> Response {
    answer(web, Asker::Program, |look| {
        let mut status = look.told().as_json();
        status["failures"] = json!(look.failures);
        Json(status).into_response()
    })
    .await
}

/// The same text as `lifeboat status --format prometheus` prints.
pub(super) async fn metrics(State(web): State<Arc<Web>>) -> Response {
    answer(web, Asker::Scraper, |look| {
        let text = look.metrics().to_owned();
        ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
    })
    .await
}

/// What is made of the newest look, on a thread where that may take its time.
async fn answer(web: Arc<Web>, asker: Asker, make: fn(&Look) -> Response) -> Response {
    let made = move || -> Result<Response> {
        web.agent();
        let look = web.look(web.env.clock.now(), asker)?;
        Ok(make(&look))
    };
    let made = tokio::task::spawn_blocking(made).await;
    let lost = |_| Err(Error::new(Kind::Failed, "this could not be answered"));
    made.unwrap_or_else(lost).unwrap_or_else(|error| failed(&error))
}

fn failed(error: &Error) -> Response {
    let error_as_json: Value = report::as_json(error);
    (status_of(error), Json(error_as_json)).into_response()
}
