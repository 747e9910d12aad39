//! An incoming webhook of Slack, Mattermost, and others that understand the same.

use lifeboat_core::Result;
use serde_json::json;

use super::Delivery;
use super::http::{self, Request};

pub(super) fn deliver(delivery: &Delivery<'_>) -> Result<()> {
    // Three characters have a meaning in its texts; a name must not mention a whole channel.
    let text = delivery.message.whole();
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    http::send(delivery, Request::json(json!({ "text": text }).to_string()))
}
