//! What a person, or a script, sees: results on standard output, all else on standard error.

pub(crate) mod confirm;
pub(crate) mod passphrase;
pub(crate) mod printer;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod table;
pub(crate) mod units;

pub(crate) use printer::Printer;
