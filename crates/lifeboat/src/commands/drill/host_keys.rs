//! Host keys among the restored files: each loads, and has the fingerprint that users know.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lifeboat_core::drill::{DrillCheck, Outcome};
use lifeboat_core::{Error, Kind, Result};

const NAME: &str = "host_key";

/// Checks every key of SSH below `root`. `expected` are the fingerprints of the configuration;
/// without them the keys of this host are compared, where they are.
pub(super) fn check(root: &Path, files: &[PathBuf], expected: &[String]) -> Vec<DrillCheck> {
    let keys: Vec<&PathBuf> = files.iter().filter(|path| is_key(path)).collect();
    let mut checks: Vec<DrillCheck> =
        keys.iter().map(|path| check_one(root, path, expected)).collect();
    if keys.is_empty() && !expected.is_empty() {
        let detail = "a fingerprint is configured, and no key was restored";
        checks.push(DrillCheck::new(NAME, Outcome::Failed, detail));
    }
    checks
}

/// A private key, as far as its first line tells. Those of TLS are not of SSH.
fn is_key(path: &Path) -> bool {
    let mut first = [0; 40];
    let read = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).and_then(|_| {
        let mut file = fs::File::open(path).ok()?;
        file.read(&mut first).ok()
    });
    let first = String::from_utf8_lossy(&first[..read.unwrap_or(0)]).into_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    first.starts_with("-----BEGIN OPENSSH PRIVATE KEY")
        || (name.contains("ssh")
            && first.starts_with("-----BEGIN ")
            && first.contains("PRIVATE KEY"))
}

fn check_one(root: &Path, path: &Path, expected: &[String]) -> DrillCheck {
    let place = Path::new("/").join(path.strip_prefix(root).unwrap_or(path));
    let shown = place.display();
    let of = |outcome, detail: String| DrillCheck::new(NAME, outcome, format!("{shown}: {detail}"));
    let found = match fingerprint(path) {
        Ok(found) => found,
        Err(error) if error.kind() == Kind::SourceUnavailable => {
            return of(Outcome::Skipped, error.to_string());
        }
        Err(error) => return of(Outcome::Failed, error.to_string()),
    };
    if !expected.is_empty() {
        return match expected.contains(&found) {
            true => of(Outcome::Passed, format!("it loads, {found} as configured")),
            false => {
                let expected = expected.join(" or ");
                of(Outcome::Failed, format!("it is {found}, and must be {expected}"))
            }
        };
    }
    match place.is_file().then(|| fingerprint(&place)) {
        Some(Ok(live)) if live == found => {
            of(Outcome::Passed, format!("it loads, {found} as on this host"))
        }
        Some(Ok(live)) => of(Outcome::Failed, format!("it is {found}, on this host it is {live}")),
        Some(Err(_)) | None => of(
            Outcome::Noted,
            format!("it loads, {found}; nothing says whether that is right: configure `host_key`"),
        ),
    }
}

/// The fingerprint of a private key, which is loaded for it.
pub(crate) fn fingerprint(path: &Path) -> Result<String> {
    let mut load = Command::new("ssh-keygen");
    load.args(["-y", "-P", "", "-f"]).arg(path);
    let public = match run(load, b"") {
        // Only whoever knows the passphrase can load it; its public half can be read.
        Err(error) if error.to_string().contains("passphrase") => {
            let mut list = Command::new("ssh-keygen");
            list.arg("-lf").arg(path);
            return run(list, b"").and_then(|text| second_word(&text));
        }
        public => public?,
    };
    let mut list = Command::new("ssh-keygen");
    list.args(["-l", "-f", "-"]);
    run(list, public.as_bytes()).and_then(|text| second_word(&text))
}

fn second_word(text: &str) -> Result<String> {
    let word = text.split_whitespace().nth(1).filter(|word| word.starts_with("SHA256:"));
    word.map(str::to_owned)
        .ok_or_else(|| Error::new(Kind::CheckFailed, "ssh-keygen names no fingerprint"))
}

fn run(mut command: Command, input: &[u8]) -> Result<String> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            Kind::SourceUnavailable,
            "ssh-keygen is not on this host (apt-get install openssh-client)",
        ),
        _ => Error::io(Kind::CheckFailed, "cannot run ssh-keygen", error),
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("LC_ALL", "C").env_remove("SSH_ASKPASS").env_remove("DISPLAY");
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it has failed, and says why.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(failed)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let lines: Vec<&str> = text.lines().map(|line| line.trim_matches(['@', ' '])).collect();
            let line = lines.iter().rev().find(|line| !line.is_empty()).unwrap_or(&"no reason");
            Err(Error::new(Kind::CheckFailed, format!("it does not load: {line}")))
        }
    }
}
