//! Whether restores are rehearsed as often as the configuration promises.

use super::{Finding, Subject};
use crate::config::values::Period;
use crate::repositories;
use crate::selection;
use crate::ui::units;

const CHECK: &str = "drill";

/// Each source with a promise, in each repository that holds it.
pub(super) fn overdue(subject: &Subject<'_>) -> Vec<Finding> {
    let promised = || subject.targets.iter().filter(|target| target.drill.every.is_some());
    if promised().next().is_none() {
        return Vec::new();
    }
    // A repository that cannot be read is told by the check of repositories.
    let opened = repositories::look_over(subject.session, subject.env);
    let opened = opened.map(|(opened, _)| opened).unwrap_or_default();
    let now = subject.env.clock.now();
    let mut findings = Vec::new();
    for target in promised() {
        let every = target.drill.every.map_or(0, |every| every.0.milliseconds);
        for one in &opened {
            let kept = match (&target.repositories, &one.place.name) {
                (Some(names), Some(name)) => names.contains(name),
                _ => true,
            };
            let Ok(entry) = selection::own_entry(subject.env, one, target) else { continue };
            let Some(entry) = entry.filter(|_| kept) else { continue };
            let age_ms = entry
                .last_proven_at()
                .and_then(|at| u64::try_from(now.duration_since(at).as_millis()).ok());
            let promise = Period { milliseconds: every };
            let place = one.place.label();
            let hint = format!("lifeboat drill {}", units::shell_word(&target.name));
            findings.push(match age_ms {
                Some(age_ms) if age_ms <= every => {
                    let age = units::coarse(age_ms);
                    let message = format!("its restore from {place} was proved {age} ago");
                    Finding::good(CHECK, &target.name, message)
                }
                Some(age_ms) => {
                    let age = units::coarse(age_ms);
                    let message = format!(
                        "its restore from {place} was proved {age} ago, promised is every {promise}"
                    );
                    Finding::warning(CHECK, &target.name, message, hint)
                }
                None => {
                    let message = format!(
                        "its restore from {place} was never proved, promised is every {promise}"
                    );
                    Finding::warning(CHECK, &target.name, message, hint)
                }
            });
        }
    }
    findings
}
