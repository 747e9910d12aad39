//! The rules of the house that no compiler knows.
//!
//! Every Rust file begins with what it is for, and none grows beyond what a person reads in one
//! sitting; nothing is left for later without a word; no second library for TLS creeps in; no
//! arrow between our modules goes the wrong way; the generated pages are those that the program
//! writes. It looks only at what would be committed: the build folder is left out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{docs, order, root};

const LINES_MAX: usize = 700;
const COLUMNS_MAX: usize = 100;
/// Each with why it must not be in `Cargo.lock`.
const UNWANTED: &[(&str, &str)] = &[
    ("aws-lc-rs", "it needs a C toolchain of its own; TLS is rustls with ring"),
    ("openssl-sys", "it ties the program to the library of the host"),
    ("native-tls", "it ties the program to the library of the host"),
];

pub(crate) fn run() -> Result<()> {
    run_but_generated()?;
    check_generated(&docs::built()?)
}

/// All rules but the one that needs the program built.
pub(crate) fn run_but_generated() -> Result<()> {
    let root = root();
    let mut wrong = order::wrong_arrows(&root)?;
    let files = rust_files(&root)?;
    for path in &files {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(&root)?.display().to_string();
        wrong.extend(wrong_lines(&name, &text));
    }
    wrong.extend(wrong_dependencies(&std::fs::read_to_string(root.join("Cargo.lock"))?));
    report("the rules of the house are broken", &wrong)?;
    println!("{} Rust files are tidy", files.len());
    Ok(())
}

/// Whether the generated pages are those that the program writes.
pub(crate) fn check_generated(program: &Path) -> Result<()> {
    let stale = docs::stale(program)?;
    report("generated pages are stale (mend it with `cargo xtask docs`)", &stale)?;
    println!("the generated pages are those that the program writes");
    Ok(())
}

fn report(what: &str, wrong: &[String]) -> Result<()> {
    for line in wrong {
        println!("{line}");
    }
    match wrong.len() {
        0 => Ok(()),
        count => bail!("{what}: {count}"),
    }
}

/// All Rust files under a folder, but for those of a build.
pub(crate) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if kind.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if kind.is_file() && name.ends_with(".rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn wrong_lines(name: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let first = text.lines().find(|line| !line.trim().is_empty());
    if !first.is_some_and(|line| line.starts_with("//!")) {
        wrong.push(format!("{name}: does not begin with a line `//! what it is for`"));
    }
    let count = text.lines().count();
    if count > LINES_MAX {
        wrong.push(format!("{name}: {count} lines, and {LINES_MAX} are the most"));
    }
    // Spelt so that this file does not name them.
    let forbidden = [concat!("todo", "!("), concat!("FIX", "ME"), concat!("unimplemented", "!(")];
    for (number, line) in (1..).zip(text.lines()) {
        for word in forbidden.iter().filter(|word| line.contains(**word)) {
            wrong.push(format!("{name}:{number}: `{word}` is left"));
        }
        // Code is rustfmt's affair; text within quotes and rows of tables cannot be broken.
        let comment = line.trim_start().starts_with("//") && !line.contains("! |");
        if comment && line.chars().count() > COLUMNS_MAX {
            wrong.push(format!("{name}:{number}: a comment beyond column {COLUMNS_MAX}"));
        }
    }
    wrong
}

fn wrong_dependencies(lock: &str) -> Vec<String> {
    let is_there = |name: &str| lock.lines().any(|line| line == format!("name = \"{name}\""));
    let unwanted = UNWANTED.iter().filter(|(name, _)| is_there(name));
    unwanted.map(|(name, why)| format!("Cargo.lock: {name} came in; {why}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_files_are_tidy() {
        run_but_generated().unwrap();
    }

    #[test]
    fn each_rule_is_kept() {
        let sound = "//! Duty.\n\nfn f() {}\n";
        assert_eq!(wrong_lines("a.rs", sound), Vec::<String>::new());
        assert_eq!(wrong_lines("a.rs", "fn f() {}\n").len(), 1);
        assert_eq!(wrong_lines("a.rs", "").len(), 1);
        assert_eq!(wrong_lines("a.rs", &format!("{sound}{}", "\n".repeat(700))).len(), 1);
        assert_eq!(wrong_lines("a.rs", &format!("{sound}// {}", "x".repeat(98))).len(), 1);
        assert_eq!(wrong_lines("a.rs", &format!("{sound}// {}", concat!("FIX", "ME"))).len(), 1);
        assert_eq!(wrong_lines("a.rs", &format!("{sound}{}", concat!("todo", "!()"))).len(), 1);
    }

    #[test]
    fn an_unwanted_library_is_found() {
        let lock = "[[package]]\nname = \"openssl-sys\"\nversion = \"0.9\"\n";
        assert_eq!(wrong_dependencies(lock).len(), 1);
        assert_eq!(wrong_dependencies("name = \"openssl-probe\"\n").len(), 0);
    }
}
