//! Tables whose statement is lost: their columns are as many as their rows have values.

use lifeboat_core::Result;
use lifeboat_core::env::Env;

use crate::fill::quoted;
use crate::leaf::{Item, Leaf, judge};
use crate::marks::Marks;
use crate::page::Kind;
use crate::payload::Payloads;
use crate::text::Encoding;
use crate::view::View;
use crate::walk::walk;

/// The most columns that are made up.
const COLUMNS_MAX: usize = 1_900;

/// A statement for a table of that name, whose rows are in that tree. `None` where it has none.
pub(crate) fn statement(
    env: &Env,
    view: &View,
    encoding: Encoding,
    name: &str,
    root: u32,
) -> Result<Option<String>> {
    let mut marks = Marks::new(view.page_count());
    let mut payloads = Payloads::new(view);
    let mut columns = 0;
    let mut claim = |page| !view.is_special(page) && marks.claim_tree(page);
    walk(env, view, root, true, &mut claim, &mut |stop| {
        let Some(page) = stop.page.filter(|page| page.kind == Kind::TableLeaf) else {
            return Ok(());
        };
        let leaf = Leaf::looked_at(stop, page, encoding);
        judge(&leaf, &mut payloads, &mut |_| false, &mut |item| {
            if let Item::Row(row) = item {
                columns = columns.max(row.values.len());
            }
            Ok(())
        })?;
        Ok(())
    })?;
    Ok((columns > 0 && columns <= COLUMNS_MAX).then(|| {
        let names: Vec<String> = (0..columns).map(|column| format!("c{column}")).collect();
        format!("CREATE TABLE {}({})", quoted(name), names.join(", "))
    }))
}
