//! `lifeboat reference`: the reference of all commands in Markdown, from which the manual is made.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Command;
use lifeboat_core::Result;

use crate::cli;
use crate::session::Session;

/// Print the reference of all commands in Markdown
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(session: &Session, _args: Args) -> Result<ExitCode> {
    session.printer.data(&commands())?;
    Ok(ExitCode::SUCCESS)
}

fn commands() -> String {
    let definition = cli::definition();
    let mut text = String::from("# Commands\n");
    let _ = write!(text, "\n{}\n", about(&definition));
    let _ = write!(text, "\n## Options of every command\n\n");
    options(&mut text, &definition, |argument| argument.is_global_set());
    let mut codes = cli::EXIT_CODES.lines();
    let _ = write!(text, "\n## {}\n\n```\n", codes.next().unwrap_or("").trim_end_matches(':'));
    for line in codes {
        let _ = writeln!(text, "{}", line.trim_start());
    }
    text.push_str("```\n");
    for command in definition.get_subcommands() {
        section(&mut text, command, "lifeboat", 2);
    }
    text
}

fn section(text: &mut String, command: &Command, before: &str, level: usize) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let name = format!("{before} {}", command.get_name());
    let _ = write!(text, "\n{} `{name}`\n\n{}\n", "#".repeat(level), about(command));
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let _ = write!(text, "\n```\n{usage}\n```\n\n");
    options(text, command, |argument| {
        !argument.is_global_set() && argument.get_id() != "help" && argument.get_id() != "version"
    });
    for inner in command.get_subcommands() {
        section(text, inner, &name, level + 1);
    }
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or_else(|| command.get_about());
    about.map_or(String::new(), |about| about.to_string())
}

fn options(text: &mut String, command: &Command, wanted: impl Fn(&clap::Arg) -> bool) {
    for argument in command.get_arguments() {
        if !wanted(argument) || argument.is_hide_set() {
            continue;
        }
        let help = argument.get_long_help().or_else(|| argument.get_help());
        let help = help.map_or(String::new(), |help| help.to_string().replace('\n', " "));
        let values: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter(|_| argument.get_action().takes_values())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        let values = match values.is_empty() {
            true => String::new(),
            false => format!(" ({})", values.join(", ")),
        };
        let _ = writeln!(text, "- `{}`: {help}{values}", written(argument));
    }
}

/// An argument as one writes it.
fn written(argument: &clap::Arg) -> String {
    let mut text = String::new();
    let value = argument.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    if argument.is_positional() {
        return value;
    }
    if let Some(short) = argument.get_short() {
        let _ = write!(text, "-{short}, ");
    }
    let _ = write!(text, "--{}", argument.get_long().unwrap_or_default());
    let is_optional = argument.get_num_args().is_some_and(|count| count.min_values() == 0);
    let _ = match argument.get_action().takes_values() {
        true if is_optional => write!(text, "[={value}]"),
        true => write!(text, " {value}"),
        false => Ok(()),
    };
    text
}
