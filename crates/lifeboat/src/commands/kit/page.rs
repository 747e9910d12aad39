//! One page, as text and as HTML that prints well and asks nobody for anything.

use std::fmt::Write as _;

/// A part of the page.
pub(super) enum Block {
    /// A heading.
    Heading(String),
    /// What a person reads.
    Text(String),
    /// A term and what it is.
    Pair(String, String),
    /// Commands for a shell, a line each.
    Commands(Vec<String>),
    /// Something to be copied as it is.
    Verbatim(String),
}

/// The page.
#[derive(Default)]
pub(super) struct Page {
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
}

impl Page {
    pub(super) fn heading(&mut self, text: &str) {
        self.blocks.push(Block::Heading(text.to_owned()));
    }

    pub(super) fn text(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Text(text.into()));
    }

    pub(super) fn pair(&mut self, term: &str, what: impl Into<String>) {
        self.blocks.push(Block::Pair(term.to_owned(), what.into()));
    }

    pub(super) fn commands(&mut self, lines: Vec<String>) {
        self.blocks.push(Block::Commands(lines));
    }

    /// As text. Commands, and they alone, begin with `$ ` behind four spaces.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.title, "=".repeat(self.title.chars().count()));
        let mut after_pair = false;
        for block in &self.blocks {
            let is_pair = matches!(block, Block::Pair(..));
            if !(is_pair && after_pair) {
                text.push('\n');
            }
            after_pair = is_pair;
            match block {
                Block::Heading(heading) => {
                    let _ = writeln!(text, "{heading}\n{}", "-".repeat(heading.chars().count()));
                }
                Block::Text(words) => text.push_str(&wrapped(words)),
                Block::Pair(term, what) => {
                    let _ = writeln!(text, "  {term:<14} {what}");
                }
                Block::Commands(lines) => {
                    lines.iter().for_each(|line| text.push_str(&format!("    $ {line}\n")));
                }
                Block::Verbatim(content) => {
                    text.push_str(content.trim_end());
                    text.push('\n');
                }
            }
        }
        text
    }

    /// As HTML: one file, no script, nothing from elsewhere.
    pub(super) fn to_html(&self) -> String {
        let title = escaped(&self.title);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        );
        let mut in_list = false;
        for block in &self.blocks {
            let is_pair = matches!(block, Block::Pair(..));
            if is_pair != in_list {
                html.push_str(if is_pair { "<dl>\n" } else { "</dl>\n" });
                in_list = is_pair;
            }
            match block {
                Block::Heading(heading) => {
                    let _ = writeln!(html, "<h2>{}</h2>", escaped(heading));
                }
                Block::Text(words) => {
                    let _ = writeln!(html, "<p>{}</p>", escaped(words));
                }
                Block::Pair(term, what) => {
                    let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", escaped(term), escaped(what));
                }
                Block::Commands(lines) => {
                    let _ = writeln!(html, "<pre>{}</pre>", escaped(&lines.join("\n")));
                }
                Block::Verbatim(content) => {
                    let _ = writeln!(html, "<pre>{}</pre>", escaped(content.trim_end()));
                }
            }
        }
        if in_list {
            html.push_str("</dl>\n");
        }
        html.push_str("</body>\n</html>\n");
        html
    }
}

const STYLE: &str = "\
body { font: 11pt/1.4 serif; max-width: 46em; margin: 2em auto; padding: 0 1em; color: #000; }
h1 { font-size: 1.5em; border-bottom: 2px solid; }
h2 { font-size: 1.15em; margin: 1.2em 0 .3em; break-after: avoid; }
pre { font: 9pt/1.35 monospace; border: 1px solid #999; padding: .5em; white-space: pre-wrap;
      overflow-wrap: anywhere; break-inside: avoid; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1em 1em; margin: .3em 0; }
dt { font-weight: bold; }
dd { margin: 0; overflow-wrap: anywhere; }
@page { size: A4; margin: 15mm; }
@media print { body { font-size: 9.5pt; margin: 0; max-width: none; } pre { font-size: 7.5pt; } }
";

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Lines of up to 90 letters, where words allow it.
fn wrapped(words: &str) -> String {
    let (mut text, mut width) = (String::new(), 0);
    for word in words.split_whitespace() {
        let letters = word.chars().count();
        if width > 0 && width + 1 + letters > 90 {
            text.push('\n');
            width = 0;
        } else if width > 0 {
            text.push(' ');
            width += 1;
        }
        text.push_str(word);
        width += letters;
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_text() {
        let mut page = Page { title: "<b>&".into(), ..Page::default() };
        page.pair("<i>", "\"x\" <script>");
        page.commands(vec!["echo '<'".into()]);
        let html = page.to_html();
        assert!(!html.contains("<script>") && !html.contains("<i>") && !html.contains("<b>"));
        assert!(html.contains("<dl>\n") && html.matches("</dl>").count() == 1, "{html}");
        assert!(!html.contains("http://") && !html.contains("https://"), "{html}");
    }
}
