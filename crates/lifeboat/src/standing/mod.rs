//! How everything stands: what was promised, what was measured, and what is wrong.
//!
//! `facts` is what a repository shows of a source; `judge` says what is wrong with that and is
//! pure, as are `objective` (a promise against its measurement), `unusual` (sizes and rows) and
//! `forecast` (when a disk will be full). `space` keeps how full disks were, `known` what was wrong
//! at the last look; `servers` asks for certificates and credentials that end, by `handshake`;
//! `rested` is what one observer leaves for the other. `status`, the two observers of `watch`, and
//! whoever shows or sends it, all say the same.

mod alert;
mod facts;
mod forecast;
mod handshake;
mod judge;
mod known;
mod objective;
mod rested;
pub(crate) mod servers;
mod space;
mod unusual;

pub(crate) use self::alert::{Alert, Code, Severity, sort};
pub(crate) use self::facts::{Facts, LogEnd, Promise, interval_ms};
pub(crate) use self::forecast::Forecast;
pub(crate) use self::judge::{judge, of_disk};
pub(crate) use self::known::{Known, known};
pub(crate) use self::objective::{Objective, Outcome};
pub(crate) use self::rested::{Asked, noted};
pub(crate) use self::space::SpaceHistory;
