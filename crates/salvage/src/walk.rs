//! The way through a tree from its root, in the order of its keys, past everything that is broken.

use lifeboat_core::Result;
use lifeboat_core::env::Env;

use crate::page::{Kind, Page};
use crate::view::{Got, View};

/// A page of a tree, or its absence.
pub(crate) struct Stop<'a> {
    pub(crate) number: u32,
    /// `None` where the page is lost: not there, claimed before, or none of this kind of tree.
    pub(crate) page: Option<Page<'a>>,
    /// How much of it was read.
    pub(crate) got: Got,
    /// Rowids on it are above this one, and not above the other, by the pages above it.
    pub(crate) above: Option<i64>,
    pub(crate) up_to: Option<i64>,
}

struct Step {
    number: u32,
    above: Option<i64>,
    up_to: Option<i64>,
}

/// Walks. `claim` says of each page whether it may be entered: not twice.
pub(crate) fn walk(
    env: &Env,
    view: &View,
    root: u32,
    is_table: bool,
    claim: &mut dyn FnMut(u32) -> bool,
    visit: &mut dyn FnMut(&Stop<'_>) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; view.page_size()];
    let mut open = vec![Step { number: root, above: None, up_to: None }];
    if !claim(root) {
        return visit(&lost(&open[0]));
    }
    let mut count = 0_u32;
    while let Some(step) = open.pop() {
        count = count.wrapping_add(1);
        if count.is_multiple_of(256) {
            env.proceed()?;
        }
        // 0 stands for a child that was refused.
        let got = if step.number == 0 { Got::Nothing } else { view.read(step.number, &mut buffer) };
        let page = match got {
            Got::Nothing => None,
            _ => Page::parse(step.number, &buffer, view.usable()),
        };
        let Some(page) = page.filter(|page| page.kind.is_table() == is_table) else {
            visit(&lost(&step))?;
            continue;
        };
        let (above, up_to) = (step.above, step.up_to);
        let stop = Stop { number: step.number, page: Some(page), got, above, up_to };
        let begin = open.len();
        if !page.kind.is_leaf() {
            children(&page, &step, claim, &mut open);
        }
        open[begin..].reverse();
        visit(&stop)?;
    }
    Ok(())
}

fn lost<'a>(step: &Step) -> Stop<'a> {
    Stop {
        number: step.number,
        page: None,
        got: Got::Nothing,
        above: step.above,
        up_to: step.up_to,
    }
}

fn children(
    page: &Page<'_>,
    step: &Step,
    claim: &mut dyn FnMut(u32) -> bool,
    open: &mut Vec<Step>,
) {
    let mut above = step.above;
    let mut push = |child: Option<u32>, above, up_to| {
        let number = child.filter(|&child| claim(child)).unwrap_or(0);
        open.push(Step { number, above, up_to });
    };
    for index in 0..page.cells {
        let cell = page.cell(index);
        let key = cell.as_ref().map(|cell| cell.rowid).filter(|_| page.kind == Kind::TableInterior);
        // A key that leads back says nothing.
        let is_after =
            |floor: Option<i64>| key.filter(|&key| floor.is_none_or(|floor| key >= floor));
        let key = is_after(above);
        push(cell.map(|cell| cell.child), above, key.or(step.up_to));
        above = key.or(above);
    }
    push(page.right_child(), above, step.up_to);
}
