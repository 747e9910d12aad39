//! Whether something keeps the clock of this host right: names, retention and moments rely on it.

use super::{Finding, Subject};

const CHECK: &str = "clock";

/// Asks the kernel, which is told by whatever sets the clock by the network.
pub(super) fn kept_right(subject: &Subject<'_>) -> Vec<Finding> {
    // Of a mounted system the clock of this one says nothing.
    if subject.root != std::path::Path::new("/") {
        return Vec::new();
    }
    let state = std::fs::metadata("/run/systemd/timesync/synchronized").is_ok();
    let daemons = ["chronyd", "ntpd", "ntpsec", "openntpd", "systemd-timesyn", "phc2sys"];
    let running = std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        daemons.contains(&name.trim_end())
    });
    vec![match state || running {
        true => Finding::good(CHECK, "", "kept right by the network"),
        false => Finding::warning(
            CHECK,
            "",
            "nothing was seen that sets it by the network; a container relies on its host",
            "timedatectl set-ntp true; or apt-get install chrony",
        ),
    }]
}
