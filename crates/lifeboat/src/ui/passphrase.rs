//! Asks for a passphrase: on the terminal without showing it, else the next line of standard input.

use std::io::{self, BufRead};

use lifeboat_core::seal::Passphrase;
use lifeboat_core::{Error, Kind, Result};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::printer::Printer;

/// The terminal as it was, when dropped.
struct Silent(Termios);

impl Silent {
    fn begin() -> rustix::io::Result<Self> {
        let stdin = io::stdin();
        let was = tcgetattr(&stdin)?;
        let mut silent = was.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
        Ok(Silent(was))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // The shell puts it right as well.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Asks for one that exists. `what`: "passphrase of /root/key".
pub(crate) fn ask(printer: &Printer, has_terminal: bool, what: &str) -> Result<Passphrase> {
    let text = line(printer, has_terminal, what)?;
    match text.is_empty() {
        true => Err(Error::new(Kind::WrongKey, format!("no {what} was given")).hint(
            "type it on a terminal, give it as a line on standard input, or let the configuration \
             say where it is: identity = { file = \"...\", passphrase = { file = \"...\" } }",
        )),
        false => Ok(Passphrase::new(text)),
    }
}

/// Asks for a new one: on a terminal twice.
pub(crate) fn ask_new(printer: &Printer, has_terminal: bool, what: &str) -> Result<Passphrase> {
    let first = ask(printer, has_terminal, what)?;
    if has_terminal {
        let again = line(printer, has_terminal, &format!("{what}, once more"))?;
        if again != first.expose() {
            return Err(Error::new(Kind::Usage, "the two passphrases differ, nothing was made"));
        }
    }
    Ok(first)
}

fn line(printer: &Printer, has_terminal: bool, what: &str) -> Result<String> {
    let failed = |error| Error::io(Kind::WrongKey, format!("cannot read the {what}"), error);
    let mut text = String::new();
    if !has_terminal {
        io::stdin().lock().read_line(&mut text).map_err(failed)?;
    } else {
        printer.prompt(&format!("{what}: "));
        let silent = Silent::begin().map_err(|error| failed(error.into()))?;
        let read = io::stdin().lock().read_line(&mut text);
        drop(silent);
        printer.line("");
        read.map_err(failed)?;
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
