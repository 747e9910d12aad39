//! `lifeboat web`: the page that answers whether everything can be restored, and who may enter it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use crate::config::listen::Listen;
use crate::config::validate::plain_name;
use crate::session::Session;
use crate::ui::passphrase;
use crate::ui::units;
use crate::web::access::{self, Person, Role};
use crate::web::audit::{self, Deed};
use crate::web::{self, Who, links};

/// The web page: how it is entered, and who may
///
/// `lifeboat run` shows the page at the `listen` of `agent`: how each source stands, what runs,
/// and a restore, step by step. Nobody sees anything without entering: `lifeboat web open` prints
/// a link for the user that the agent runs as, and root; others need a password, and programs a
/// token. Only `/metrics` is open on an address of this host alone, as Prometheus asks for it.
///
/// Who entered, and what was done there, is in `web/audit.log` of the state folder; `lifeboat web
/// audit` shows it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print a link that enters the page once, within five minutes
    Open {
        /// As somebody who may look only
        #[arg(long)]
        read_only: bool,
    },
    /// Let somebody enter by a password, or give them another one. It is asked for on the
    /// terminal, or is the next line of standard input
    Password {
        /// Their name
        name: String,
        /// They may look, and nothing else
        #[arg(long)]
        read_only: bool,
    },
    /// Let a program enter by a token, which is printed this once: `Authorization: Bearer TOKEN`
    Token {
        /// Its name
        name: String,
        /// It may look, and nothing else
        #[arg(long)]
        read_only: bool,
    },
    /// Who may enter
    People,
    /// Who did what on the page, the oldest first
    Audit,
    /// Let somebody enter no more; whoever has entered under that name is out at once
    Forget {
        /// Their name
        name: String,
    },
    /// Show the page without the agent, until a signal comes
    Serve {
        /// The address, instead of that of the configuration [default: 127.0.0.1:6464]
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
    },
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    let env = session.env()?;
    let folder = access::folder(session)?;
    match args.action {
        Action::Serve { listen } => return web::serve(session, place(session, listen)?),
        Action::Open { read_only } => open(session, &env, &folder, role(read_only))?,
        Action::Password { name, read_only } => {
            check_name(&name)?;
            let has_terminal = session.surroundings.stdin_is_terminal;
            let what = format!("password of {name}");
            let secret = passphrase::ask_new(&session.printer, has_terminal, &what)?;
            if secret.expose().chars().count() < access::PASSWORD_CHARACTERS_MIN {
                let least = access::PASSWORD_CHARACTERS_MIN;
                let message = format!("a password has {least} characters or more");
                return Err(Error::new(Kind::Usage, message).hint("a few words in a row are good"));
            }
            let hash = access::hash(&env, secret.expose())?;
            let person = Person { role: role(read_only), is_token: false, hash };
            let_enter(&env, &folder, &name, person)?;
            session.printer.note(&format!("{name} may enter"));
        }
        Action::Token { name, read_only } => {
            check_name(&name)?;
            let secret = access::secret(&env);
            let hash = access::hash(&env, &secret)?;
            let person = Person { role: role(read_only), is_token: true, hash };
            let_enter(&env, &folder, &name, person)?;
            session.printer.data(&format!("{name}.{secret}\n"))?;
        }
        Action::People => people(session, &folder)?,
        Action::Audit => audited(session, &folder)?,
        Action::Forget { name } => {
            let mut people = access::read(&folder)?;
            if people.0.remove(&name).is_none() {
                let message = format!("nobody enters as `{}`", units::one_line(&name));
                return Err(Error::new(Kind::Usage, message).hint("lifeboat web people"));
            }
            note(&env, &folder, "forget", &name)?;
            access::write(&folder, &people)?;
            session.printer.note(&format!("{name} may enter no more"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn role(read_only: bool) -> Role {
    if read_only { Role::Reader } else { Role::Operator }
}

fn check_name(name: &str) -> Result<()> {
    plain_name("person", name)
        .map_err(|why| Error::new(Kind::Usage, why).hint("choose another name"))
}

/// Where the page is to be: what was said here, else what the configuration says.
fn place(session: &Session, said: Option<SocketAddr>) -> Result<Listen> {
    let agent = session.loaded()?.config.agent.clone().unwrap_or_default();
    if let Some(address) = said {
        if address.ip().is_loopback() {
            return Ok(Listen::at(address));
        }
        let message = format!("{address} is an address that others reach");
        return Err(Error::new(Kind::Refused, message).hint(
            "listen on 127.0.0.1; or set `listen` and `tls` of `agent` in the configuration",
        ));
    }
    match agent.page() {
        Some(Ok(listen)) => Ok(listen),
        Some(Err((key, why))) => Err(Error::new(Kind::Usage, format!("`{key}` of `agent`: {why}"))),
        None => Ok(Listen::at(SocketAddr::from(([127, 0, 0, 1], 6464)))),
    }
}

/// Who may enter from now on. Written down before it is so.
fn let_enter(env: &Env, folder: &Path, name: &str, person: Person) -> Result<()> {
    let mut people = access::read(folder)?;
    note(env, folder, if person.is_token { "token" } else { "password" }, name)?;
    people.0.insert(name.to_owned(), person);
    access::write(folder, &people)
}

fn note(env: &Env, folder: &Path, action: &str, detail: &str) -> Result<()> {
    let who = own(Role::Operator);
    let deed = Deed { who: Some(&who), from: "this host", action, detail, outcome: "done" };
    audit::note(folder, env.clock.now(), &deed)
        .map_err(|error| Error::io(Kind::Failed, "cannot write the audit log", error))
}

/// The user of this host.
fn own(role: Role) -> Who {
    let number = rustix::process::getuid().as_raw();
    let name = if number == 0 { "root".to_owned() } else { format!("user {number}") };
    Who { name: format!("{name} of this host"), role }
}

fn open(session: &Session, env: &Env, folder: &Path, role: Role) -> Result<()> {
    let address = web::address(folder).ok_or_else(|| {
        Error::new(Kind::Failed, "the page was never shown here")
            .hint("set `listen` of `agent`, and start `lifeboat run`; or try `lifeboat web serve`")
    })?;
    note(env, folder, "link", if role == Role::Reader { "read only" } else { "" })?;
    let secret = links::make(env, folder, own(role))?;
    // Every address of this host is one by which a browser of it gets there.
    let address = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:");
    let link = format!("{address}login?link={secret}");
    match session.printer.json() {
        true => session.printer.json_data(&json!({ "link": link })),
        false => session.printer.data(&format!("{link}\n")),
    }
}

fn audited(session: &Session, folder: &Path) -> Result<()> {
    let lines = audit::read(folder)
        .map_err(|error| Error::io(Kind::Failed, "cannot read the audit log", error))?;
    if session.printer.json() {
        return session.printer.json_data(&lines);
    }
    for line in &lines {
        session.printer.data(&format!("{}\n", audit::in_words(line)))?;
    }
    Ok(())
}

fn people(session: &Session, folder: &Path) -> Result<()> {
    let people = access::read(folder)?;
    let of = |person: &Person| (if person.is_token { "token" } else { "password" }, person.role);
    if session.printer.json() {
        let list: Vec<_> = people
            .0
            .iter()
            .map(|(name, person)| json!({ "name": name, "by": of(person).0, "role": of(person).1 }))
            .collect();
        return session.printer.json_data(&list);
    }
    for (name, person) in &people.0 {
        let (by, role) = of(person);
        let may = if role == Role::Reader { "looks" } else { "looks, runs and restores" };
        session.printer.data(&format!("{name}: by a {by}, {may}\n"))?;
    }
    Ok(())
}
