//! The shape of all tables of the page: a head, rows that begin with what they are of, and on a
//! phone a card for each row, in which every value says what it is.

use maud::{Markup, html};

/// A table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table<'a> {
    /// What it has, for who does not see it.
    pub(crate) caption: &'a str,
    /// The heads of its columns; on a phone they stand before each value.
    pub(crate) heads: &'a [&'a str],
}

/// A row: what it is of, and a value for each other column.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    class: &'static str,
    cells: Vec<Markup>,
}

impl Row {
    /// One that is like the others.
    pub(crate) fn new(cells: impl Into<Vec<Markup>>) -> Self {
        Row { class: "", cells: cells.into() }
    }

    /// One that stands out, as the style sheet has it.
    pub(crate) fn marked(class: &'static str, cells: impl Into<Vec<Markup>>) -> Self {
        Row { class, cells: cells.into() }
    }
}

impl Table<'_> {
    /// With these rows; nothing where there is none.
    pub(crate) fn of(&self, rows: impl IntoIterator<Item = Row>) -> Markup {
        let mut rows = rows.into_iter().peekable();
        if rows.peek().is_none() {
            return Markup::default();
        }
        html! {
            table.rows {
                caption.unseen { (self.caption) }
                thead { tr { @for head in self.heads { th scope="col" { (head) } } } }
                tbody { @for row in rows { (self.row(&row)) } }
            }
        }
    }

    fn row(&self, row: &Row) -> Markup {
        let class = (!row.class.is_empty()).then_some(row.class);
        let (first, others) = row.cells.split_first().unzip();
        let heads = self.heads.iter().skip(1);
        html! {
            tr class=[class] {
                @if let Some(first) = first { th scope="row" { (first) } }
                @for (head, cell) in heads.zip(others.into_iter().flatten()) {
                    td data-label=(head) { div { (cell) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_says_what_it_is_and_nothing_is_no_table() {
        let table = Table { caption: "Sizes", heads: &["Name", "Size"] };
        let cells = |name: &str| [html! { (name) }, html! { "9 B" }];
        let drawn =
            table.of([Row::marked("bad", cells("<b>")), Row::new(cells("x"))]).into_string();
        for part in [
            "<caption class=\"unseen\">Sizes</caption>",
            "<tr class=\"bad\"><th scope=\"row\">&lt;b&gt;</th><td data-label=\"Size\">",
            "<tr><th scope=\"row\">x</th>",
        ] {
            assert!(drawn.contains(part), "{part}: {drawn}");
        }
        assert_eq!(table.of([]).into_string(), "");
    }
}
