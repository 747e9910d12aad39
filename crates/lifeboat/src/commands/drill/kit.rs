//! `drill --from-kit`: everything comes back by what stands on the page of the recovery kit alone.
//!
//! The page names the repositories, as commands to copy, and may hold the key. The drill is this
//! program once more, with an empty configuration: what it does not find on the page it does not
//! have. The ways to a store that no page holds (keys of SSH, credentials of buckets in the
//! environment) are those of this run, as they would be of the person with the page.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use serde_json::Value;

use super::Args;
use super::scratch::Scratch;
use crate::session::Session;

const KEY_BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const KEY_END: &str = "-----END AGE ENCRYPTED FILE-----";
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// What the page says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kit {
    /// The repositories.
    repositories: Vec<Way>,
    /// The key, protected by a passphrase.
    key: Option<String>,
}

/// The way to a repository.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    /// What the environment must say.
    variables: Vec<(String, String)>,
    /// Its URL.
    url: String,
    /// Whether a key is needed.
    is_sealed: bool,
}

/// Drills every repository of the page.
pub(super) fn run(session: &Session, env: &Env, args: &Args, page: &Path) -> Result<ExitCode> {
    let kit = read(page)?;
    let scratch = Scratch::new(env, &session.folders.scratch)?;
    let nothing = scratch.path().join("nothing.toml");
    private(&nothing, "# Nothing but the recovery kit.\n")?;
    let key = match &kit.key {
        Some(key) => {
            let path = scratch.path().join("recovery.key");
            private(&path, key)?;
            Some(path)
        }
        None => None,
    };
    let mut results: Vec<Value> = Vec::new();
    let mut worst = 0;
    for Way { variables, url, is_sealed } in &kit.repositories {
        let mut command = child(session, args, url, &nothing)?;
        if *is_sealed {
            let mut identities = session.globals.identity.clone();
            identities.extend(key.clone());
            if identities.is_empty() {
                let message = format!("{url} is sealed, and the key is not on the page");
                return Err(Error::new(Kind::WrongKey, message)
                    .hint("name the file that is kept with the page: --identity FILE"));
            }
            for path in &identities {
                command.arg("--identity").arg(path);
            }
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let failed = |error| Error::io(Kind::Failed, "cannot run the drill of the kit", error);
        session.progress.clear();
        let output = command.spawn().and_then(std::process::Child::wait_with_output);
        let output = output.map_err(failed)?;
        env.proceed()?;
        if let Ok(Value::Array(made)) = serde_json::from_slice(&output.stdout) {
            results.extend(made);
        }
        let code = output.status.code().unwrap_or(1);
        worst = if worst == 0 { code } else { worst };
    }
    if session.printer.json() {
        session.printer.json_data(&results)?;
    }
    Ok(ExitCode::from(u8::try_from(worst).unwrap_or(1)))
}

/// This program, which knows nothing but one repository.
fn child(session: &Session, args: &Args, url: &str, nothing: &Path) -> Result<Command> {
    let program = std::env::current_exe()
        .map_err(|error| Error::io(Kind::Failed, "cannot find this program's file", error))?;
    let mut command = Command::new(program);
    command.arg("--config").arg(nothing).args(["--repo", url]);
    command.args(["drill", "--from-repository", "--of-kit"]);
    if let Some(at) = &args.at {
        command.arg(format!("--at={at}"));
    }
    let globals = &session.globals;
    for (flag, is_set) in [
        ("--random", args.random),
        ("--keep", args.keep),
        ("--no-proof", args.no_proof),
        ("--dry-run", args.dry_run),
        ("--json", globals.json),
        ("--quiet", globals.quiet),
        ("--verbose", globals.verbose),
    ] {
        command.args(is_set.then_some(flag));
    }
    command.env_remove("LIFEBOAT_CONFIG");
    command.stdout(if globals.json { Stdio::piped() } else { Stdio::inherit() });
    Ok(command)
}

fn private(path: &PathBuf, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let written = options.write(true).create_new(true).mode(0o600).open(path);
    written
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Error::io(Kind::Failed, format!("cannot write {}", path.display()), error))
}

fn read(page: &Path) -> Result<Kit> {
    let failed = |error| Error::io(Kind::Usage, format!("cannot read {}", page.display()), error);
    let is_page = fs::metadata(page).map_err(failed)?.len() <= PAGE_BYTES_MAX;
    let kit = match is_page {
        true => parse(&fs::read_to_string(page).map_err(failed)?),
        false => Kit::default(),
    };
    match kit.repositories.is_empty() {
        true => Err(Error::new(Kind::Usage, format!("{} is no recovery kit", page.display()))
            .hint("name the text of the page that `lifeboat kit --to FOLDER` wrote")),
        false => Ok(kit),
    }
}

/// The commands of section 4, and the key.
fn parse(text: &str) -> Kit {
    let mut kit = Kit::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("    $ ")) {
        let mut words = words(line).into_iter().peekable();
        let mut variables = Vec::new();
        while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
            variables.push((name.to_owned(), value.to_owned()));
            words.next();
        }
        let words: Vec<String> = words.collect();
        if let [program, verb, url, rest @ ..] = words.as_slice()
            && program == "lifeboat"
            && verb == "adopt"
        {
            let is_sealed = rest.iter().any(|word| word == "--identity");
            kit.repositories.push(Way { variables, url: url.clone(), is_sealed });
        }
    }
    if let (Some(from), Some(to)) = (text.find(KEY_BEGIN), text.find(KEY_END)) {
        kit.key = text.get(from..to + KEY_END.len()).map(|key| format!("{key}\n"));
    }
    kit
}

/// The words of a line, as a shell reads what `shell_word` wrote.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_word) = (Vec::new(), String::new(), false);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => {
                is_word = true;
                word.extend(letters.by_ref().take_while(|letter| *letter != '\''));
            }
            '\\' => {
                is_word = true;
                word.extend(letters.next());
            }
            ' ' if is_word => {
                words.push(std::mem::take(&mut word));
                is_word = false;
            }
            ' ' => {}
            letter => {
                is_word = true;
                word.push(letter);
            }
        }
    }
    if is_word {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::units::shell_word;

    #[test]
    fn what_a_kit_writes_is_read() {
        let odd = "file:///mnt/it's a disk";
        let text = format!(
            "4. Back\n    $ AWS_REGION={} lifeboat adopt {} --identity recovery.key\n    $ lifeboat \
             restore --all\n    $ lifeboat adopt sftp://b@host/x\n{KEY_BEGIN}\nabc\n{KEY_END}\n",
            shell_word("eu west"),
            shell_word(odd)
        );
        let kit = parse(&text);
        let region = ("AWS_REGION".to_owned(), "eu west".to_owned());
        let way =
            |variables, url: &str, is_sealed| Way { variables, url: url.to_owned(), is_sealed };
        assert_eq!(kit.repositories[0], way(vec![region], odd, true));
        assert_eq!(kit.repositories[1], way(vec![], "sftp://b@host/x", false));
        assert_eq!(kit.repositories.len(), 2);
        assert_eq!(kit.key.unwrap(), format!("{KEY_BEGIN}\nabc\n{KEY_END}\n"));
        assert_eq!(parse("nothing\n$ lifeboat adopt x"), Kit::default());
    }
}
