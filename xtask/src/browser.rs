//! The browser that tests of the web page run in, the rules of accessibility that they hold it to,
//! and the checker of alert rules. What cannot be installed is named, and its tests say that they
//! were skipped.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::object_storage::folder;
use crate::packages;
use crate::process::{is_there, run};

/// Debian's browser and its driver: programs of one version, as each refuses another.
const BROWSER: &[(&str, &str)] = &[("chromium", "chromium"), ("chromedriver", "chromium-driver")];
/// The rules of accessibility.
const RULES: &str = "axe-core@4.14.1";
const RULES_FILE: &str = "axe-core/node_modules/axe-core/axe.min.js";
/// The package with the checker of alert rules. It is not installed: that would start its server.
const CHECKER: &str = "prometheus";
const CHECKER_FILE: &str = "prometheus/usr/bin/promtool";

/// Installs what is missing, and says what could not be.
pub(crate) fn install() -> Result<()> {
    let mut skipped = Vec::new();
    let mut attempt = |what: &'static str, done: Result<()>| match done {
        Ok(()) => println!("{what} is there"),
        Err(error) => {
            println!("{what}: {error:#}");
            skipped.push(what);
        }
    };
    attempt("Chromium", browser());
    attempt(RULES, rules());
    attempt("promtool", checker());
    if !skipped.is_empty() {
        println!("SKIPPED: the tests of the web page or of alert rules on {}", skipped.join(", "));
    }
    Ok(())
}

fn browser() -> Result<()> {
    let missing: Vec<&str> = BROWSER
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        packages::install(&missing)?;
    }
    match BROWSER.iter().find(|(program, _)| !is_there(program)) {
        Some((program, package)) => bail!("{package} was installed and brought no {program}"),
        None => Ok(()),
    }
}

fn rules() -> Result<()> {
    if folder().join(RULES_FILE).exists() {
        return Ok(());
    }
    let place = made("axe-core")?;
    let mut command = packages::npm()?;
    command.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]);
    run(command.arg("--prefix").arg(&place).arg(RULES).current_dir(&place))?;
    brought(RULES_FILE)
}

fn checker() -> Result<()> {
    if is_there("promtool") || folder().join(CHECKER_FILE).exists() {
        return Ok(());
    }
    packages::unpack(CHECKER, &made("prometheus")?)?;
    brought(CHECKER_FILE)
}

/// What was installed without an error may still lack what the tests look for.
fn brought(file: &str) -> Result<()> {
    match folder().join(file).exists() {
        true => Ok(()),
        false => bail!("it was installed without {file}"),
    }
}

fn made(name: &str) -> Result<PathBuf> {
    let place = folder().join(name);
    std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    Ok(place)
}
