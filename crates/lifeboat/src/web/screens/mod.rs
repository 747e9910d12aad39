//! The screens: a file and a line for each.

mod overview;

use lifeboat_core::Result;
use maud::Markup;

use super::context::Ctx;

/// A screen.
pub(crate) struct Screen {
    /// Where it is; `{source}` stands for a part that is given to it.
    pub(crate) path: &'static str,
    /// What it is called.
    pub(crate) title: &'static str,
    /// Whether each page has a link to it.
    pub(crate) is_in_menu: bool,
    /// Draws what stands between the head and the foot of the page.
    pub(crate) draw: fn(&Ctx) -> Result<Markup>,
}

/// All of them, in the order of the menu.
pub(crate) const SCREENS: &[Screen] =
    &[Screen { path: "/", title: "Overview", is_in_menu: true, draw: overview::draw }];
