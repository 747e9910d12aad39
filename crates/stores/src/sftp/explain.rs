//! What the words of `ssh` and the answers of a server mean for a person, and whether another
//! attempt can help.

use std::io;

use lifeboat_core::{Error, Kind};

use super::address::SftpAddress;
use super::connection::Failure;
use super::wire::{self, Status};

/// `ssh` could not be started.
pub(super) fn no_ssh(error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "apt-get install openssh-client",
        _ => "see whether `ssh -V` works",
    };
    Error::io(Kind::StoreUnavailable, "cannot start ssh", error).hint(hint)
}

/// What mends a connection that another attempt would not.
struct Remedy {
    /// Any of these words of `ssh` means it.
    words: &'static [&'static str],
    what: &'static str,
    hint: fn(&SftpAddress) -> String,
}

const REMEDIES: &[Remedy] = &[
    Remedy {
        words: &["REMOTE HOST IDENTIFICATION HAS CHANGED", "Offending "],
        what: "it has another host key than it had",
        hint: |address| {
            format!(
                "someone may stand between: ask who runs that host whether its key changed. Only \
                 if so: ssh-keygen -R {}, then {}",
                quoted(&address.known_host()),
                address.command("ssh")
            )
        },
    },
    Remedy {
        words: &["Host key verification failed", "No matching host key"],
        what: "its host key is not known here",
        hint: |address| {
            format!(
                "compare the fingerprint that it shows with the host's, as the user that runs \
                 lifeboat: {} (or keep the key: {} >> ~/.ssh/known_hosts)",
                address.command("ssh"),
                address.command("ssh-keyscan")
            )
        },
    },
    Remedy {
        words: &["Permission denied", "Too many authentication failures"],
        what: "it does not let us in",
        hint: |address| {
            format!(
                "no password is ever asked for: {}, as the user that runs lifeboat; then try {}",
                address.command("ssh-copy-id"),
                address.command("sftp")
            )
        },
    },
    Remedy {
        words: &["subsystem request failed"],
        what: "it has no SFTP",
        hint: |_| "on that host: Subsystem sftp internal-sftp in /etc/ssh/sshd_config".to_owned(),
    },
    Remedy {
        words: &["Name or service not known", "No address associated"],
        what: "no host of that name is known",
        hint: |address| format!("is the name right? {}", address.command("ssh")),
    },
    Remedy {
        words: &[
            "Bad configuration option",
            "bad configuration options",
            "Can't open user config file",
            "Bad owner or permissions",
        ],
        what: "the configuration of ssh is wrong",
        hint: |address| format!("mend it until this works: {}", address.command("ssh")),
    },
];

fn quoted(word: &str) -> String {
    match word.contains('[') {
        true => format!("'{word}'"),
        false => word.to_owned(),
    }
}

/// `ssh` ended before the server greeted us.
pub(super) fn no_connection(address: &SftpAddress, words: &str, error: Error) -> Failure {
    let said = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let url = address.url();
    let known =
        REMEDIES.iter().find(|remedy| remedy.words.iter().any(|fragment| words.contains(fragment)));
    if let Some(remedy) = known {
        let error = Error::new(Kind::StoreUnavailable, format!("{url}: {}", remedy.what));
        return Failure::Ended(error.caused_by(said.to_owned()).hint((remedy.hint)(address)));
    }
    let hint = format!("is the host up and reached from here? {}", address.command("ssh"));
    let unreached = Error::new(Kind::StoreUnavailable, format!("{url} cannot be reached"));
    Failure::Lost(match said {
        "" => unreached.caused_by(error).hint(hint),
        said => unreached.caused_by(said.to_owned()).hint(hint),
    })
}

/// A server's no, for people.
pub(super) fn status(url: &str, what: &str, status: &Status) -> Error {
    let message = format!("{what} in {url}");
    let said = match status.message.as_str() {
        "" => format!("the server says no (code {})", status.code),
        said => format!("the server says: {said}"),
    };
    let error = Error::new(Kind::StoreUnavailable, message).caused_by(said);
    match status.code {
        wire::PERMISSION_DENIED => error.hint(
            "give that user the right to write to the folder there, or choose another user, or \
             another repository with --repo",
        ),
        wire::NO_SUCH_FILE => {
            error.hint("does the folder exist there, and may that user enter it?")
        }
        // The protocol has one word for a full quota and much else.
        wire::FAILURE => error.hint("see the disk, the quota and the file system of that host"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(words: &str) -> (bool, String, String) {
        let address = SftpAddress::parse("sftp://ann@host:2222/x").unwrap();
        let error = Error::new(Kind::StoreUnavailable, "closed");
        match no_connection(&address, words, error) {
            Failure::Ended(error) => {
                (false, error.message().to_owned(), error.hint_text().unwrap_or("").to_owned())
            }
            Failure::Lost(error) => {
                (true, error.message().to_owned(), error.hint_text().unwrap_or("").to_owned())
            }
            Failure::Status(_) => panic!("no server was reached"),
        }
    }

    #[test]
    fn what_stays_is_told_from_what_may_pass() {
        let (passes, what, hint) = meant("Host key verification failed.");
        assert!(!passes && what.contains("host key is not known"), "{what}");
        assert!(hint.contains("ssh-keyscan -p 2222 host"), "{hint}");
        let changed = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n\
                       Host key verification failed.";
        let (passes, _, hint) = meant(changed);
        assert!(!passes && hint.contains("ssh-keygen -R '[host]:2222'"), "{hint}");
        let (passes, _, hint) = meant("ann@host: Permission denied (publickey).");
        assert!(!passes && hint.contains("ssh-copy-id -p 2222 ann@host"), "{hint}");
        for passing in [
            "ssh: connect to host host port 22: Connection refused",
            "ssh: Could not resolve hostname host: Temporary failure in name resolution",
            "kex_exchange_identification: Connection closed by remote host",
            "",
        ] {
            assert!(meant(passing).0, "{passing}");
        }
    }
}
