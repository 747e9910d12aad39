//! The screens: a file and a line for each.

pub(super) mod alerts;
mod configuration;
mod overview;
mod proofs;
pub(super) mod restore;
mod retention;
pub(super) mod runs;
mod source;
mod storage;

use lifeboat_core::Result;
use maud::Markup;

use super::context::Ctx;
use super::look::Asker;

/// A screen.
pub(crate) struct Screen {
    /// Where it is; `{source}` stands for a part that is given to it.
    pub(crate) path: &'static str,
    /// What it is called.
    pub(crate) title: &'static str,
    /// Whether each page has a link to it.
    pub(crate) is_in_menu: bool,
    /// What it needs of what was read.
    pub(crate) asker: Asker,
    /// What one of them is called, where that is more than the title.
    pub(crate) name: fn(&Ctx) -> Option<String>,
    /// Draws what stands between the head and the foot of the page.
    pub(crate) draw: fn(&Ctx) -> Result<Markup>,
}

/// Something that can be done: what a form sends is checked before, and written down.
pub(crate) struct Act {
    /// Where it is.
    pub(crate) path: &'static str,
    /// What the page is called that answers.
    pub(crate) title: &'static str,
    /// What it is called in the audit log.
    pub(crate) action: &'static str,
    /// To what it is done, for the audit log.
    pub(crate) detail: fn(&Ctx) -> String,
    /// Does it.
    pub(crate) go: fn(&Ctx) -> Result<Done>,
}

/// What follows when it is done.
pub(crate) enum Done {
    /// Another page.
    Go(String),
    /// What stands between the head and the foot of this one.
    Show(Markup),
}

/// One that each page has a link to.
const fn listed(
    path: &'static str,
    title: &'static str,
    draw: fn(&Ctx) -> Result<Markup>,
) -> Screen {
    Screen { path, title, is_in_menu: true, asker: Asker::Person, name: |_| None, draw }
}

/// One of something that others lead to, which has a name of its own.
const fn below(
    path: &'static str,
    title: &'static str,
    name: fn(&Ctx) -> Option<String>,
    draw: fn(&Ctx) -> Result<Markup>,
) -> Screen {
    Screen { path, title, is_in_menu: false, asker: Asker::Person, name, draw }
}

/// One that asks how everything stands, and for no backup: what is known of that is always there.
const fn at_a_glance(screen: Screen) -> Screen {
    Screen { asker: Asker::Glance, ..screen }
}

/// All of them, in the order of the menu.
pub(crate) const SCREENS: &[Screen] = &[
    at_a_glance(listed("/", "Overview", overview::draw)),
    below("/sources/{source}", "Source", source::name, source::draw),
    at_a_glance(listed("/runs", "Runs", runs::draw)),
    at_a_glance(below("/runs/{run}", "Run", runs::name, runs::draw_one)),
    Screen { name: restore::name, ..listed("/restore", "Restore", restore::draw) },
    listed("/proofs", "Proofs", proofs::draw),
    below("/proofs/{proof}", "Proof", |_| None, proofs::draw_one),
    listed("/storage", "Storage", storage::draw),
    listed("/retention", "Retention", retention::draw),
    at_a_glance(listed("/alerts", "Alerts", alerts::draw)),
    at_a_glance(listed("/configuration", "Configuration", configuration::draw)),
];

/// All that can be done.
pub(crate) const ACTS: &[Act] = &[
    Act {
        path: "/runs/begin",
        title: "Run",
        action: "run",
        detail: |ctx| ctx.given("job").unwrap_or_default().to_owned(),
        go: runs::begin,
    },
    Act {
        path: "/runs/stop",
        title: "Run",
        action: "stop",
        detail: |ctx| ctx.given("run").unwrap_or_default().to_owned(),
        go: runs::stop,
    },
    Act {
        path: "/restore/plan",
        title: "Restore: the plan",
        action: "plan a restore",
        detail: restore::detail,
        go: restore::plan,
    },
    Act {
        path: "/restore/begin",
        title: "Restore",
        action: "restore",
        detail: restore::detail,
        go: restore::begin,
    },
];
