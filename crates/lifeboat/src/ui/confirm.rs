//! Asks before something is overwritten or deleted.

use std::io::{self, BufRead};

use lifeboat_core::{Error, Kind, Result};

use super::printer::Printer;
use crate::world::Surroundings;

/// Asks whether the plan that was printed before is wanted. The answer is `yes` or the name of
/// what is at stake. Without a terminal to ask on, [`Kind::NeedsConfirmation`].
pub(crate) fn confirm(
    surroundings: &Surroundings,
    printer: &Printer,
    question: &str,
    name: &str,
) -> Result<()> {
    if !surroundings.stdin_is_terminal {
        return Err(Error::new(
            Kind::NeedsConfirmation,
            format!("{question} needs a confirmation, and there is no terminal to ask on"),
        )
        .hint("read the plan above, then run the same command with --yes"));
    }
    printer.prompt(&format!("{question}? Answer `yes` or `{name}`: "));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| {
        Error::io(Kind::NeedsConfirmation, "cannot read the answer", error).hint("give --yes")
    })?;
    match answer.trim_end_matches(['\r', '\n']).trim() {
        "yes" => Ok(()),
        answer if answer == name => Ok(()),
        _ => Err(Error::new(Kind::NeedsConfirmation, "not confirmed, nothing was changed")
            .hint("answer `yes` to go on")),
    }
}
