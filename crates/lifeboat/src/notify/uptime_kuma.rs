//! The push URL of a monitor of Uptime Kuma.

use lifeboat_core::Result;
use reqwest::Method;

use super::Delivery;
use super::http::{self, Request};

const CHARACTERS_MAX: usize = 250;

pub(super) fn deliver(delivery: &Delivery<'_>) -> Result<()> {
    let message = delivery.message;
    let status = if message.is_problem() { "down" } else { "up" };
    let said: String = message.whole().replace('\n', " ").chars().take(CHARACTERS_MAX).collect();
    let mut request = Request::text(String::new());
    request.method = Method::GET;
    request.query = vec![("status", status.to_owned()), ("msg", said)];
    request.query.extend(delivery.took_ms.map(|took_ms| ("ping", took_ms.to_string())));
    http::send(delivery, request)
}
