//! The web page: what `lifeboat status` says, for people, in a browser.
//!
//! It is a process of its own that the agent keeps running, so that nothing that comes by the
//! network touches the process that holds the schedules. What it shows it reads itself; what runs,
//! and what is to be begun, it asks the agent by its socket. Pages are drawn here, whole, and need
//! no script.
//!
//! A screen is a file in `screens` and a line in its list. `layout` is what all of them share,
//! `context` what each of them gets, `look` what was read of repositories and when that is read
//! anew, `verdict` what is said of a source, `standing` its values, `table` how rows are drawn,
//! `secret` what nobody is shown. `charts` draws what is seen better than read, `held` finds what
//! repositories hold of a source, `address` writes addresses of our own. `guard` lets in who may:
//! by `access` (names and secrets), `links`, `sessions` and `rate`; `audit` writes down who did
//! what. `router` has the ways, `login` and `live` two of them, `api` those that programs take,
//! `listener` takes connections, `serve` answers them, `patience` says how long they may take.

pub(crate) mod access;
mod address;
mod api;
pub(crate) mod audit;
mod charts;
mod context;
mod guard;
mod held;
mod layout;
pub(crate) mod links;
mod listener;
mod live;
mod login;
mod look;
#[cfg(test)]
mod made;
mod patience;
mod rate;
mod router;
mod screens;
mod serve;
pub(crate) mod secret;
mod sessions;
mod standing;
mod table;
mod verdict;

pub(crate) use self::secret::hidden_line;
pub(crate) use self::serve::{address, serve};
pub(crate) use self::sessions::Who;
