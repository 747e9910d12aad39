//! A webhook: JSON with all that is known, or what the configuration says.

use lifeboat_core::Result;
use serde_json::json;

use super::http::{self, Request};
use super::{Delivery, Message};

pub(super) fn deliver(delivery: &Delivery<'_>) -> Result<()> {
    let message = delivery.message;
    let body = match &delivery.config.body {
        Some(template) => filled(template, message),
        None => json!({
            "kind": message.kind, "title": message.title, "text": message.text,
            "command": message.command, "source": message.source, "host": message.host,
            "time": message.at, "urgent": message.is_urgent,
        })
        .to_string(),
    };
    http::send(delivery, Request::json(body))
}

/// A template with its words replaced, once: what stands in their place is not looked at again.
fn filled(template: &str, message: &Message) -> String {
    let time = message.at.to_string();
    let words: [(&str, &str); 7] = [
        ("{title}", &message.title),
        ("{text}", &message.text),
        ("{kind}", &message.kind),
        ("{source}", &message.source),
        ("{command}", &message.command),
        ("{host}", &message.host),
        ("{time}", &time),
    ];
    let mut filled = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        let word = words.iter().find(|(word, _)| from.starts_with(word));
        let (length, text) = match word {
            Some((word, value)) => (word.len(), escaped(value)),
            None => (1, "{".to_owned()),
        };
        filled.push_str(&text);
        rest = &from[length..];
    }
    filled.push_str(rest);
    filled
}

/// As it stands between quotation marks in JSON.
fn escaped(text: &str) -> String {
    let quoted = json!(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_stays_json_whatever_is_told() {
        let message = Message {
            title: "a \"b\" {text}".into(),
            text: "line\nline\\{kind}".into(),
            kind: "problem".into(),
            ..Message::default()
        };
        let text = filled("{\"a\": \"{title}\", \"b\": \"{kind}: {text}\", \"c\": {}}", &message);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["a"], "a \"b\" {text}");
        assert_eq!(value["b"], "problem: line\nline\\{kind}");
        assert_eq!(filled("no word { {x}", &message), "no word { {x}");
    }
}
