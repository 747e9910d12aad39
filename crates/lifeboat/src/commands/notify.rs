//! `lifeboat notify`: whether those who are to be told can be told.

use std::process::ExitCode;

use lifeboat_core::{Error, Kind, Result};
use serde_json::json;

use crate::config::diagnose;
use crate::notify;
use crate::session::Session;
use crate::ui::report;

/// Try the notifiers of the configuration
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Test(TestArgs),
}

/// Send a test to each notifier, or to those that are named
///
/// The exit code is 13 where one could not be told.
#[derive(Debug, clap::Args)]
struct TestArgs {
    /// Names of notifiers; all without any
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<ExitCode> {
    match args.action {
        Action::Test(args) => test(session, &args),
    }
}

fn test(session: &Session, args: &TestArgs) -> Result<ExitCode> {
    let notifiers = &session.loaded()?.config.notify;
    if notifiers.is_empty() {
        return Err(Error::new(Kind::Usage, "there is no notifier in the configuration")
            .hint("write one down: [notify.ops] with webhook, email, ntfy, slack or discord"));
    }
    let known: Vec<&str> = notifiers.keys().map(String::as_str).collect();
    if let Some(wrong) = args.names.iter().find(|name| !notifiers.contains_key(*name)) {
        return Err(Error::new(Kind::Usage, diagnose::unknown_word("notifier", wrong, &known)));
    }
    let env = session.env()?;
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    let is_meant = |name: &String| args.names.is_empty() || args.names.contains(name);
    for (name, config) in notifiers.iter().filter(|(name, _)| is_meant(name)) {
        match notify::test(session, &env, name, config) {
            Ok(()) => {
                session.printer.note(&format!("{name}: told"));
                results.push(json!({ "notifier": name, "outcome": "told" }));
            }
            Err(error) => {
                results.push(json!({
                    "notifier": name, "outcome": "failed", "error": report::as_json(&error),
                }));
                errors.push(error);
            }
        }
    }
    if session.printer.json() {
        session.printer.json_data(&results)?;
    }
    if errors.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let first = errors.remove(0);
    errors.iter().for_each(|error| report::report(&session.printer, error));
    Err(first)
}
