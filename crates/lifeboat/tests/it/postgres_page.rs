//! The page `docs/postgres.md`: its commands, all of them, in their order, on a real server. Ports
//! and folders of the page stand for those of the test; everything else runs as it is written.

use std::fs;
use std::io::Write;
use std::process::Command;

use crate::postgres_server::Server;
use crate::support::{Ran, World, ran};

const PAGE: &str = include_str!("../../../../docs/postgres.md");

/// The blocks of the page in that language.
fn blocks(language: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open: Option<&str> = None;
    for line in PAGE.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(_), Some(_)) => open = None,
            (Some(begun), None) => {
                open = Some(begun);
                if begun == language {
                    found.push(String::new());
                }
            }
            (None, Some(begun)) if begun == language => {
                found.last_mut().unwrap().push_str(&format!("{line}\n"));
            }
            (None, _) => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    found
}

struct Host {
    world: World,
    server: Server,
}

impl Host {
    /// Places of the page, as they are here.
    fn here(&self, text: &str) -> String {
        text.replace("/var/backups/lifeboat", &self.world.text("repo"))
            .replace("/data/backups", &self.world.text("data"))
            .replace("127.0.0.1:5432", &format!("127.0.0.1:{}", self.server.port()))
    }

    fn shell(&self, lines: &str) -> Ran {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_lifeboat")).parent().unwrap();
        let path = format!("{}:/usr/lib/postgresql/15/bin:/usr/bin:/bin", program.display());
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &self.here(lines)])
            .env_clear()
            .env("PATH", path)
            .env("PGPORT", self.server.port().to_string())
            .env("HOME", self.world.path("home"))
            .env("XDG_CONFIG_HOME", self.world.path("home/config"))
            .env("XDG_STATE_HOME", self.world.path("state"))
            .env("TMPDIR", self.world.path("tmp"))
            .current_dir(self.world.path("data"))
            .output()
            .unwrap();
        ran(output)
    }

    #[track_caller]
    fn runs(&self, lines: &str) -> Ran {
        let ran = self.shell(lines);
        assert_eq!(ran.code, 0, "{lines}\n{}\n{}", ran.out, ran.err);
        ran
    }
}

#[test]
fn every_block_of_the_page_is_of_a_kind_that_is_run() {
    let fences = PAGE.lines().filter(|line| line.starts_with("```")).count();
    let run = ["sh", "sql", "toml", "text"].map(|language| blocks(language).len());
    assert_eq!(fences, 2 * run.iter().sum::<usize>());
    assert_eq!(run, [6, 1, 2, 1]);
}

#[test]
fn the_page_works_as_it_is_written() {
    let host = Host { world: World::new(), server: Server::tcp(15) };
    let server = &host.server;
    server.sql("postgres", "CREATE DATABASE chatbot; ALTER ROLE postgres PASSWORD 'super'");
    server.sql(
        "chatbot",
        "CREATE TABLE public.message (id int PRIMARY KEY, body text); \
         INSERT INTO public.message SELECT i, 'message ' || i FROM generate_series(1, 500) AS i; \
         ALTER TABLE public.message ENABLE ROW LEVEL SECURITY",
    );
    server.sql("postgres", &blocks("sql")[0]);
    let shell = blocks("sh");
    host.runs(&shell[0]);
    // The page has a second role, the superuser.
    let mut passwords =
        fs::OpenOptions::new().append(true).open(host.world.path("home/.pgpass")).unwrap();
    writeln!(passwords, "127.0.0.1:*:*:postgres:super").unwrap();

    let configurations = blocks("toml");
    host.world.configure(&host.here(&configurations[1]));
    let all = host.runs("lifeboat backup --json").json().to_string();
    for source in ["server-chatbot", "server-postgres"] {
        assert!(all.contains(source), "{all}");
    }
    host.world.configure(&host.here(&configurations[0]));
    let before = server.text("chatbot");
    let shown = host.runs(&shell[1]).out;
    for said in ["disk pages       not verified", "role passwords   true", "500 in public.message"]
    {
        assert!(shown.contains(said), "{said}: {shown}");
    }

    server.sql("chatbot", "DELETE FROM public.message WHERE id > 7");
    let restore = &shell[2];
    let (restores, undo) = restore.rsplit_once("lifeboat undo").unwrap();
    host.runs(restores);
    assert_eq!(server.text("look"), before);
    assert_eq!(server.text("chatbot"), before);
    host.runs(&format!("lifeboat undo{undo}"));
    assert_eq!(server.ask("chatbot", "SELECT count(*) FROM message"), ["7"]);
    // The one that was made before the restore is newer, and not meant.
    host.runs(&shell[3]);
    assert_eq!(server.ask("part", "SELECT count(*) FROM message"), ["500"]);

    let counted = host.runs(&shell[4]).out;
    assert!(counted.contains("CREATE ROLE backup;") && counted.ends_with("\n500\n"), "{counted}");

    // The guide's script, with its messages among the statements.
    let output = server.tool("pg_dump", "look").arg("--verbose").output().unwrap();
    let text = String::from_utf8([output.stderr, output.stdout].concat()).unwrap();
    fs::write(host.world.path("data/admin_postgres_20251104_120000.sql"), text).unwrap();
    host.runs("gzip admin_postgres_20251104_120000.sql");
    let restored = host.runs(&shell[5]);
    assert!(restored.err.contains("were left out"), "{}", restored.err);
    assert_eq!(server.text("old"), before);
}
