//! The lines of a crontab.

use lifeboat_core::{Error, Kind, Result};

use super::jobs::{Job, Program};
use crate::ui::units;

/// The name of our file in /etc/cron.d; cron reads no name with a dot in it.
pub(crate) const FILE: &str = "lifeboat";

/// What cron reads of one line, at most.
const LINE_BYTES_MAX: usize = 990;

/// A line for each job; with the user that the system's crontabs name.
pub(crate) fn text(program: &Program, jobs: &[Job], with_user: bool) -> Result<String> {
    let mut text = String::from(
        "# Cron mails what a run prints; with --quiet that is what went wrong.\n\
         SHELL=/bin/sh\n\
         PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
    );
    for job in jobs {
        let fields = job.schedule.cron().map_err(|why| {
            Error::new(Kind::Usage, format!("the schedule of `{}`: {why}", job.name))
                .hint("write five fields such as \"0 2 * * *\", or use `install systemd`")
        })?;
        let user = if with_user { "root " } else { "" };
        let line = format!("{fields} {user}{}", command(program, job));
        if line.len() > LINE_BYTES_MAX {
            let message = format!("the line of `{}` is too long for cron", job.name);
            return Err(Error::new(Kind::Usage, message).hint("use `install systemd`"));
        }
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

/// The command for a shell. Cron itself reads `%` as the end of a line.
fn command(program: &Program, job: &Job) -> String {
    let mut words = Vec::new();
    for (name, value) in &program.environment {
        words.push(format!("{name}={}", units::shell_word(value)).replace('%', "\\%"));
    }
    let command = program.command(job);
    let own = command.len() - job.arguments.len();
    words.extend(command[..own].iter().map(|word| units::shell_word(word).replace('%', "\\%")));
    words.push(self::words(job));
    words.join(" ")
}

/// The end of a job's line, by which it is known whatever the program's place is.
pub(crate) fn words(job: &Job) -> String {
    let mut words: Vec<String> = job.arguments.iter().map(|word| units::shell_word(word)).collect();
    words.push("--quiet".to_owned());
    words.join(" ").replace('%', "\\%")
}
