//! Whether what the configuration schedules is run by anybody: timers or lines of cron that
//! `lifeboat install` writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Finding, Subject, has_program};
use crate::commands::install::{AGENT, Job, MARK, cron_words, jobs_of, timer_of};

const CHECK: &str = "schedule";

pub(super) fn installed(subject: &Subject<'_>) -> Vec<Finding> {
    let has_schedule = subject
        .session
        .loaded()
        .is_ok_and(|loaded| loaded.config.source.values().any(|source| source.schedule.is_some()));
    if !has_schedule {
        let has_source = !subject.targets.is_empty();
        let hint = "add schedule = \"hourly\" to a source, then `lifeboat install systemd`";
        let message = "no source has one: nothing backs up by itself";
        return has_source
            .then(|| Finding::warning(CHECK, "", message, hint))
            .into_iter()
            .collect();
    }
    let (jobs, left_out) = match jobs_of(subject.session) {
        Ok(found) => found,
        Err(error) => return vec![Finding::bad(CHECK, "", &error)],
    };
    let lines = lines(subject);
    let found = jobs.iter().map(|job| one(subject, job, &lines));
    let without = left_out.iter().map(|name| {
        let hint = "add schedule = \"hourly\" to it, then `lifeboat install systemd`";
        Finding::warning(CHECK, name, "it has none: nothing backs it up by itself", hint)
    });
    found.chain(without).collect()
}

fn one(subject: &Subject<'_>, job: &Job, lines: &[(String, String)]) -> Finding {
    if let Some(finding) = agent(subject, job) {
        return finding;
    }
    match timer(subject, job) {
        Ok(Some(finding)) => return finding,
        Ok(None) => {}
        Err(error) => return Finding::bad(CHECK, &job.name, &error),
    }
    let words = cron_words(job);
    match lines.iter().find(|(_, text)| text.lines().any(|line| runs(line, &words))) {
        Some(_) if !has_program("cron") && !has_program("crond") => {
            let message = "cron has a line for it, but there is no cron on this host";
            Finding::warning(CHECK, &job.name, message, "apt-get install cron")
        }
        Some((place, _)) => Finding::good(CHECK, &job.name, format!("a line in {place} runs it")),
        None => {
            let message = "no timer and no line of cron runs it";
            Finding::warning(CHECK, &job.name, message, "lifeboat install systemd (or: cron)")
        }
    }
}

/// Whether a line of a crontab that is not a comment runs those words.
fn runs(line: &str, words: &str) -> bool {
    !line.trim_start().starts_with('#') && line.contains(&format!(" {words}"))
}

/// What is found of the service that runs all of them.
fn agent(subject: &Subject<'_>, job: &Job) -> Option<Finding> {
    for (folder, user) in folders(subject) {
        let Some(path) = folder.map(|folder| folder.join(AGENT)).filter(|path| path.is_file())
        else {
            continue;
        };
        if subject.root == Path::new("/") && !is_active(AGENT, user) {
            let flag = if user { " --user" } else { "" };
            let message = format!("{} is there, but not active", path.display());
            let hint = format!("systemctl{flag} enable --now {AGENT}");
            return Some(Finding::warning(CHECK, &job.name, message, hint));
        }
        let message = format!("{} runs it", path.display());
        return Some(Finding::good(CHECK, &job.name, message));
    }
    None
}

/// Where units may be: of the system, and of the user.
fn folders(subject: &Subject<'_>) -> [(Option<PathBuf>, bool); 2] {
    let of_user = subject.session.surroundings.config_folder();
    let of_user = of_user.as_deref().and_then(Path::parent).map(|above| above.join("systemd/user"));
    [(Some(subject.root.join("etc/systemd/system")), false), (of_user, true)]
}

/// What is found of its timer: of the system, else of the user.
fn timer(subject: &Subject<'_>, job: &Job) -> lifeboat_core::Result<Option<Finding>> {
    let (name, text) = timer_of(job)?;
    let wanted = format!("{MARK}\n{text}");
    for (folder, user) in folders(subject) {
        let Some(path) = folder.map(|folder| folder.join(&name)) else { continue };
        let Ok(found) = fs::read_to_string(&path) else { continue };
        let again =
            if user { "lifeboat install systemd --user" } else { "lifeboat install systemd" };
        if found != wanted {
            let message =
                format!("{} runs it at other times than the configuration says", path.display());
            return Ok(Some(Finding::warning(CHECK, &job.name, message, again)));
        }
        if subject.root == Path::new("/") && !is_active(&name, user) {
            let flag = if user { " --user" } else { "" };
            let message = format!("{} is there, but not active", path.display());
            let hint = format!("systemctl{flag} enable --now '{name}'");
            return Ok(Some(Finding::warning(CHECK, &job.name, message, hint)));
        }
        let message = format!("{} runs it", path.display());
        return Ok(Some(Finding::good(CHECK, &job.name, message)));
    }
    Ok(None)
}

/// Whether systemd waits for the timer. Without systemd it does not.
fn is_active(name: &str, user: bool) -> bool {
    let mut command = Command::new("systemctl");
    if user {
        command.arg("--user");
    }
    let silent = command.args(["is-active", "--quiet", "--", name]);
    let silent = silent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

/// The crontabs that may hold our lines: a name for each, and its text.
fn lines(subject: &Subject<'_>) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for file in ["etc/cron.d/lifeboat", "etc/crontab"] {
        let path = subject.root.join(file);
        if let Ok(text) = fs::read_to_string(&path) {
            lines.push((path.display().to_string(), text));
        }
    }
    if subject.root == Path::new("/") {
        let own = Command::new("crontab").arg("-l").stdin(Stdio::null()).output();
        if let Some(output) = own.ok().filter(|output| output.status.success()) {
            lines.push((
                "your crontab".to_owned(),
                String::from_utf8_lossy(&output.stdout).into_owned(),
            ));
        }
    }
    lines
}
