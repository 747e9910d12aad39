//! `cargo xtask test`: everything that must hold before a change goes in, in the order in which
//! it fails soonest. The first failure ends it.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::{is_there, run};
use crate::{browser, corpora, object_storage, packages, postgres, root, suite, tidy};

/// The programs that tests restore with and check units with, and the Debian packages that
/// bring them.
const TOOLS: &[(&str, &str)] = &[
    ("sqlite3", "sqlite3"),
    ("zstd", "zstd"),
    ("gzip", "gzip"),
    ("gunzip", "gzip"),
    ("tar", "tar"),
    ("systemd-analyze", "systemd"),
    ("age", "age"),
    ("ssh-keygen", "openssh-client"),
    ("/usr/sbin/sshd", "openssh-server"),
    ("openssl", "openssl"),
    ("python3", "python3"),
    ("pgrep", "procps"),
    ("xz", "xz-utils"),
];

pub(crate) fn all() -> Result<()> {
    let began = Instant::now();
    install()?;
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("tidy", tidy::run_but_generated)?;
    step("lints", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
    })?;
    let mut built = None;
    step("what is tested", || {
        built = Some(suite::build()?);
        Ok(())
    })?;
    let built = built.context("it was built")?;
    step("generated pages", || tidy::check_generated(&built.lifeboat))?;
    step("tests", || suite::run_all(built))?;
    step("documents of the code", || {
        let mut command = Command::new(env!("CARGO"));
        command.args(["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
        run_there(command.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    println!("\nall of it holds ({:.0} s)", began.elapsed().as_secs_f64());
    Ok(())
}

/// Installs what the tests need and is missing here: what each of them can do without is named
/// where it cannot be had, and everything else ends it.
pub(crate) fn install() -> Result<()> {
    step("tools of the tests", install_tools)?;
    step("servers of the tests", postgres::install)?;
    step("servers of object storage", object_storage::install)?;
    step("damaged databases of the tests", corpora::install)?;
    step("browser of the tests", browser::install)?;
    step("components of the compiler", install_components)
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n== {name}");
    let began = Instant::now();
    work().with_context(|| format!("{name}: not as it must be"))?;
    println!("== {name}: good ({:.1} s)", began.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    run_there(Command::new(env!("CARGO")).args(arguments))
}

fn run_there(command: &mut Command) -> Result<()> {
    run(command.current_dir(root()))
}

fn install_tools() -> Result<()> {
    let missing: Vec<_> = TOOLS.iter().filter(|(program, _)| !is_there(program)).collect();
    if missing.is_empty() {
        let names: Vec<&str> = TOOLS.iter().map(|(program, _)| *program).collect();
        println!("{} are there", names.join(", "));
        return Ok(());
    }
    let mut wanted: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    wanted.dedup();
    packages::install(&wanted)?;
    match TOOLS.iter().find(|(program, _)| !is_there(program)) {
        Some((program, package)) => bail!("{package} was installed and brought no {program}"),
        None => Ok(()),
    }
}

/// A compiler that was installed with the minimal profile has neither rustfmt nor clippy.
fn install_components() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let found = Command::new(env!("CARGO"))
            .args([subcommand, "--version"])
            .output()
            .is_ok_and(|output| output.status.success());
        if !found {
            println!("installing {component}");
            run(Command::new("rustup").args(["component", "add", component]))
                .with_context(|| format!("{component} is missing and could not be installed"))?;
        }
    }
    println!("rustfmt and clippy are there");
    Ok(())
}
