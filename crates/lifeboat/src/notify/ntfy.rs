//! A topic of ntfy.

use lifeboat_core::Result;

use super::Delivery;
use super::http::{self, Request};

/// A longer text would become an attachment.
const BYTES_MAX: usize = 4_000;

pub(super) fn deliver(delivery: &Delivery<'_>) -> Result<()> {
    let message = delivery.message;
    let mut text = message.whole();
    let end = (0..=BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
    let (priority, tag) = match (message.is_problem(), message.is_urgent) {
        (true, true) => ("urgent", "rotating_light"),
        (true, false) => ("high", "warning"),
        _ => ("default", "white_check_mark"),
    };
    let mut request = Request::text(text);
    // Its headers take letters of ASCII alone; the title is the first line of the text.
    request.headers = vec![("priority", priority.to_owned()), ("tags", tag.to_owned())];
    http::send(delivery, request)
}
