//! A webhook of Discord.

use lifeboat_core::Result;
use serde_json::json;

use super::Delivery;
use super::http::{self, Request};

/// Longer texts are refused.
const CHARACTERS_MAX: usize = 2_000;

pub(super) fn deliver(delivery: &Delivery<'_>) -> Result<()> {
    let text: String = delivery.message.whole().chars().take(CHARACTERS_MAX).collect();
    // Nobody is mentioned, whatever the name of a source is.
    let body = json!({ "content": text, "allowed_mentions": { "parse": [] } });
    http::send(delivery, Request::json(body.to_string()))
}
