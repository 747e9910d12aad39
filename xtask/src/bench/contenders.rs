//! Who is measured, and with which commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Programs, litestream, measure};
use crate::process::run;

/// The guide's script, with its paths as arguments: database, backup.
const SCRIPT: &str = r#"
set -e
sqlite3 "$1" ".backup '$2'"
sqlite3 "$2" "PRAGMA integrity_check;"
gzip "$2"
"#;

/// Where everything happens.
pub(crate) struct Place {
    pub(crate) database: PathBuf,
    arena: PathBuf,
    said: PathBuf,
}

impl Place {
    pub(crate) fn new(folder: &Path, database: PathBuf) -> Result<Self> {
        let arena = folder.join("arena");
        Ok(Place { database, arena, said: folder.join("said.txt") })
    }

    /// Where the output of the last command is.
    pub(crate) fn said(&self) -> PathBuf {
        self.said.clone()
    }

    /// The folders whose growth is watched.
    pub(crate) fn watched(&self) -> Vec<PathBuf> {
        let data = self.database.parent().map(Path::to_path_buf);
        data.into_iter().chain([self.arena.clone()]).collect()
    }

    /// An empty arena, a database in the page cache, and no write of before still under way.
    pub(crate) fn clear(&self) -> Result<()> {
        if self.arena.exists() {
            fs::remove_dir_all(&self.arena)?;
        }
        for folder in ["stored", "temporary", "home", "restored"] {
            fs::create_dir_all(self.arena.join(folder))?;
        }
        for suffix in ["-wal", "-shm"] {
            let mut side = self.database.clone().into_os_string();
            side.push(suffix);
            if Path::new(&side).exists() {
                fs::remove_file(side)?;
            }
        }
        self.settle()
    }

    /// Waits for writes that are under way, so that nobody pays for those of another.
    pub(crate) fn settle(&self) -> Result<()> {
        run(&mut Command::new("sync"))?;
        std::io::copy(&mut fs::File::open(&self.database)?, &mut std::io::sink())?;
        Ok(())
    }

    pub(crate) fn stored(&self) -> PathBuf {
        self.arena.join("stored")
    }

    pub(crate) fn restored(&self) -> PathBuf {
        self.arena.join("restored/app.db")
    }

    /// A restored file must be the database, or at least as large where bytes may differ.
    pub(crate) fn compare(&self, restored: &Path, same_bytes: bool) -> Result<()> {
        if same_bytes {
            return run(Command::new("cmp").arg(&self.database).arg(restored));
        }
        let sizes = (fs::metadata(&self.database)?.len(), fs::metadata(restored)?.len());
        match sizes.1 * 10 >= sizes.0 * 9 {
            true => Ok(()),
            false => bail!("{} has {} bytes of {}", restored.display(), sizes.1, sizes.0),
        }
    }

    /// A command that sees no configuration and puts its temporary files in the arena.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let home = self.arena.join("home");
        command.env("HOME", &home).env("TMPDIR", self.arena.join("temporary"));
        for variable in ["XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, &home);
        }
        command.env_remove("LIFEBOAT_CONFIG");
        command
    }
}

/// A command for a backup at that place.
type Backup = Box<dyn Fn(&Place) -> Command>;
/// A command for a restore of what is stored at that place.
type Restore = Box<dyn Fn(&Place) -> Result<Command>>;

/// One way to back up and restore.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) backup: Backup,
    pub(crate) stored_bytes: fn(&Place) -> Result<u64>,
    pub(crate) restore: Option<Restore>,
    /// Whether the restored file is the database to the byte.
    pub(crate) restores_bytes: bool,
    /// Whether it is measured on the large database too.
    pub(crate) at_large_size: bool,
}

/// All of them. Litestream is missing where it is not installed.
pub(crate) fn all(programs: &Programs) -> Vec<Contender> {
    let mut all = vec![script()];
    all.extend(programs.litestream.clone().map(litestream_once));
    let ours = |name, arguments: &'static [&'static str]| ours(programs, name, arguments);
    all.push(ours("lifeboat gzip, full check", &["--compress", "gzip", "--check", "full"]));
    all.push(Contender { restore: restore_ours(programs), ..ours("lifeboat (defaults)", &[]) });
    all.push(ours("lifeboat zstd:1, quick check", &["--compress", "zstd:1"]));
    all.push(Contender {
        at_large_size: true,
        ..ours("lifeboat zstd:3, no check", &["--check", "none"])
    });
    all.push(ours("lifeboat zstd:1, no check", &["--compress", "zstd:1", "--check", "none"]));
    all.push(floor(programs, "floor zstd:3", "3", false));
    all.push(floor(programs, "floor zstd:1", "1", false));
    all.push(floor(programs, "floor zstd:3, written and synced", "3", true));
    all
}

fn script() -> Contender {
    Contender {
        name: "the guide's script",
        backup: Box::new(|place| {
            let mut command = place.command(Path::new("bash"));
            let copy = place.stored().join("app.db");
            command.args(["-c", SCRIPT, "backup"]).arg(&place.database).arg(copy);
            command
        }),
        stored_bytes: stored_bytes_of_folder,
        restore: Some(Box::new(|place| {
            let mut command = place.command(Path::new("bash"));
            command.args(["-c", r#"gunzip -c "$1" > "$2""#, "restore"]);
            command.arg(place.stored().join("app.db.gz")).arg(place.restored());
            Ok(command)
        })),
        restores_bytes: false,
        at_large_size: false,
    }
}

/// Litestream changes the database, so it gets a copy of its own, made before the clock starts.
fn litestream_once(program: PathBuf) -> Contender {
    let configure = |place: &Place| -> Result<PathBuf> {
        let copy = place.arena.join("litestream/app.db");
        fs::create_dir_all(place.arena.join("litestream"))?;
        fs::copy(&place.database, &copy).context("cannot copy the database for Litestream")?;
        let path = place.arena.join("litestream.yml");
        fs::write(&path, litestream::configuration(&copy, &place.stored()))?;
        place.settle()?;
        Ok(path)
    };
    let again = program.clone();
    Contender {
        name: "litestream replicate -once",
        backup: Box::new(move |place| match configure(place) {
            Ok(path) => {
                let mut command = place.command(&program);
                command.args(["replicate", "-once", "-config"]).arg(path);
                command
            }
            // The command that fails says why.
            Err(error) => {
                let mut command = Command::new("bash");
                command.args(["-c", "echo \"$1\" >&2; exit 1", "x"]).arg(format!("{error:#}"));
                command
            }
        }),
        stored_bytes: stored_bytes_of_folder,
        restore: Some(Box::new(move |place| {
            let mut command = place.command(&again);
            let path = place.arena.join("litestream.yml");
            command.args(["restore", "-config"]).arg(path).arg("-o").arg(place.restored());
            command.arg(place.arena.join("litestream/app.db"));
            Ok(command)
        })),
        restores_bytes: false,
        at_large_size: false,
    }
}

fn ours(programs: &Programs, name: &'static str, arguments: &'static [&'static str]) -> Contender {
    let program = programs.lifeboat.clone();
    Contender {
        name,
        backup: Box::new(move |place| {
            let mut command = place.command(&program);
            command.args(["backup", "--repo", &repository(place), "--quiet"]).args(arguments);
            command.arg(&place.database);
            command
        }),
        stored_bytes: stored_bytes_of_folder,
        restore: None,
        restores_bytes: true,
        at_large_size: false,
    }
}

fn restore_ours(programs: &Programs) -> Option<Restore> {
    let program = programs.lifeboat.clone();
    Some(Box::new(move |place| {
        let mut command = place.command(&program);
        command.args(["restore", "app@latest", "--repo", &repository(place), "--quiet"]);
        command.args(["--check", "none", "--yes", "--to"]).arg(place.restored());
        Ok(command)
    }))
}

/// The least that must be done: read, BLAKE3 of each page, zstd; back: decompress, write, sync.
fn floor(programs: &Programs, name: &'static str, level: &'static str, written: bool) -> Contender {
    let program = programs.floor.clone();
    let again = program.clone();
    let artifact = |place: &Place| place.stored().join("floor.frames");
    Contender {
        name,
        backup: Box::new(move |place| {
            let mut command = place.command(&program);
            command.arg("backup").arg(&place.database).arg(level);
            if written {
                command.arg(artifact(place));
            }
            command
        }),
        stored_bytes: |place| {
            let said = fs::read_to_string(place.said())?;
            said.trim().parse().with_context(|| format!("the floor said `{}`", said.trim()))
        },
        restore: written.then(|| -> Restore {
            Box::new(move |place| {
                let mut command = place.command(&again);
                command.arg("restore").arg(artifact(place)).arg(place.restored());
                Ok(command)
            })
        }),
        restores_bytes: true,
        at_large_size: false,
    }
}

fn repository(place: &Place) -> String {
    format!("file://{}", place.stored().display())
}

fn stored_bytes_of_folder(place: &Place) -> Result<u64> {
    Ok(measure::allocated_bytes(&[place.stored()]))
}
