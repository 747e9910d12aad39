//! Whether those who are to be told how runs end were told.

use super::{Finding, Subject};
use crate::notify;

pub(super) fn deliveries(subject: &Subject<'_>) -> Vec<Finding> {
    const CHECK: &str = "notify";
    let standing = match notify::standing(subject.session) {
        Ok(standing) => standing,
        Err(error) => return vec![Finding::bad(CHECK, "", &error).at_most_a_warning()],
    };
    let one = |(name, deliveries, waiting): &(String, notify::Deliveries, usize)| {
        let hint = format!("lifeboat notify test {name}");
        match (&deliveries.last_failure, deliveries.delivered_at) {
            (Some(_), _) => {
                let said = notify::complaint(deliveries, *waiting).unwrap_or_default();
                Finding::warning(CHECK, name, said, hint)
            }
            (None, Some(at)) => Finding::good(CHECK, name, format!("was told last at {at}")),
            (None, None) => Finding::warning(CHECK, name, "was never told anything", hint),
        }
    };
    standing.iter().map(one).collect()
}
