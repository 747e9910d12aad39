//! Aligned columns. The width of a character is taken as one column, but for the wide ones of
//! East Asian scripts, which take two.

use super::printer::{Printer, Style};

/// On which side a column's cells are flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table: headings, and rows of as many cells.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<(String, Option<Style>)>>,
}

impl Table {
    /// A table with those columns.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row of plain cells and cells with a style.
    pub(crate) fn row(&mut self, cells: Vec<(String, Option<Style>)>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, two spaces between columns, no space at their ends.
    pub(crate) fn to_text(&self, printer: &Printer) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| {
                let cells = self.rows.iter().map(|row| width(&row[index].0));
                cells.chain([width(self.columns[index].0)]).max().unwrap_or(0)
            })
            .collect();
        let heading: Vec<_> = self
            .columns
            .iter()
            .map(|(name, _)| ((*name).to_owned(), Some(Style::Strong)))
            .collect();
        let mut text = self.line(&heading, &widths, printer);
        for row in &self.rows {
            text.push_str(&self.line(row, &widths, printer));
        }
        text
    }

    fn line(
        &self,
        cells: &[(String, Option<Style>)],
        widths: &[usize],
        printer: &Printer,
    ) -> String {
        let last = cells.iter().rposition(|(text, _)| !text.is_empty()).unwrap_or(0);
        let mut line = String::new();
        for (index, (text, style)) in cells.iter().enumerate().take(last + 1) {
            let padding = " ".repeat(widths[index] - width(text));
            let shown = match style {
                Some(style) => printer.paint_out(*style, text),
                None => text.clone(),
            };
            line.push_str(if index == 0 { "" } else { "  " });
            match self.columns[index].1 {
                Align::Right => line.push_str(&format!("{padding}{shown}")),
                Align::Left if index == last => line.push_str(&shown),
                Align::Left => line.push_str(&format!("{shown}{padding}")),
            }
        }
        line.push('\n');
        line
    }
}

/// How many columns of a terminal a text takes.
fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn columns(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff => 2,
        0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff => 2,
        0x20000..=0x3fffd => 2,
        _ => 1,
    }
}
