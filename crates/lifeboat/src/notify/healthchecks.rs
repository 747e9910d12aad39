//! A check of healthchecks.io, or of a server of its kind: start, success and failure of each run,
//! told apart by an id, so that runs may overlap.

use lifeboat_core::Result;

use super::Delivery;
use super::http::{self, Request};

/// What its server keeps of a text.
const BYTES_MAX: usize = 10_000;

pub(super) fn deliver(delivery: &Delivery<'_>) -> Result<()> {
    let message = delivery.message;
    let mut text = message.whole();
    let end = (0..=BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    let mut request = Request::text(text);
    request.path = match message.kind.as_str() {
        "start" => "/start",
        "fail" => "/fail",
        // A test, or a run that a person ended, must not look like one that succeeded.
        "test" | "log" => "/log",
        _ => "",
    };
    request.query = delivery.run_id.map(|id| ("rid", id.to_owned())).into_iter().collect();
    http::send(delivery, request)
}
