//! Schedules: the units are ones that systemd reads and calls safe, the line of cron runs, and
//! files of others stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{Ran, World, mode, ran};

/// A source whose name has all that must be escaped, one that is stopped, one of files.
fn configured() -> World {
    let world = World::new();
    world.database("app.db", 10);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"0 4 1 * 5\"\n\
         [source.\"a %s $HOME 'é\"]\nsqlite = \"$DATA/app.db\"\nschedule = \"daily 02:00\"\n\
         [source.cold]\nsqlite = { path = \"$DATA/app.db\", method = \"cold\" }\n\
         service = \"app.service\"\nschedule = \"weekly\"\n\
         [source.own]\nsqlite = { path = \"$DATA/app.db\", method = \"cold\" }\n\
         service = { stop = [\"true\"], start = [\"true\"] }\nschedule = \"monthly\"\n\
         [source.keys]\nfiles = [\"/etc/hostname\"]\n",
    );
    world
}

fn install(world: &World, arguments: &[&str]) -> Ran {
    let root = world.text("root");
    world.run(&[&["install"][..], arguments, &["--root", &root]].concat())
}

fn units(world: &World) -> Vec<PathBuf> {
    let folder = world.path("root/etc/systemd/system");
    let names = world.names("root/etc/systemd/system");
    names.iter().map(|name| folder.join(name)).collect()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// What systemd-analyze says; `None`, with the reason on the screen, where there is none.
fn analyze(arguments: &[&str], units: &[PathBuf]) -> Option<Output> {
    let output = Command::new("systemd-analyze").args(arguments).args(units).output();
    if let Err(error) = &output {
        let what = format!("systemd-analyze (package systemd) does not start: {error}");
        lifeboat_test_support::skipped(&what);
    }
    output.ok()
}

#[test]
fn the_units_are_ones_that_systemd_reads() {
    let world = configured();
    install(&world, &["systemd", "--yes", "--on-failure", "alert@%n.service"])
        .expect(0)
        .says("keys: it has no `schedule`");
    let units = units(&world);
    // Four backups and the verify; there is nothing to prune.
    assert_eq!(units.len(), 10, "{units:?}");
    assert!(units.iter().all(|unit| mode(unit) == 0o644));
    let Some(output) = analyze(&["verify", "--man=no"], &units) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    // It leaves with 0 also where it says that a line is unknown.
    assert!(output.status.success() && !said.contains("lifeboat"), "{said}");
}

#[test]
fn the_services_may_do_little() {
    let world = configured();
    install(&world, &["systemd", "--yes"]).expect(0);
    for unit in units(&world).iter().filter(|unit| unit.extension().unwrap() == "service") {
        // Commands of the configuration keep their capabilities.
        let threshold = if unit.ends_with("lifeboat-backup-own.service") { 45 } else { 20 };
        let threshold = format!("--threshold={threshold}");
        let one = std::slice::from_ref(unit);
        let Some(output) = analyze(&["security", "--offline=true", &threshold], one) else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{unit:?}\n{said}");
    }
}

#[test]
fn a_service_writes_only_where_its_run_must() {
    let world = configured();
    install(&world, &["systemd", "--yes"]).expect(0);
    assert!(world.path("repo").is_dir(), "systemd cannot open what is not there");
    let service = text(&world.path("root/etc/systemd/system/lifeboat-backup-app.service"));
    let line = |folder: &str| format!("ReadWritePaths=\"-{}\"\n", world.text(folder));
    for folder in ["repo", "state/lifeboat", "data"] {
        assert!(service.contains(&line(folder)), "{folder} is missing in {service}");
    }
    // This world is in /tmp, which a private one would hide.
    assert!(service.contains("PrivateTmp=no\n"), "{service}");
    assert_eq!(service.matches("ReadWritePaths=").count(), 4, "{service}");
    assert!(!service.contains("KillMode="), "{service}");
    let cold = text(&world.path("root/etc/systemd/system/lifeboat-backup-cold.service"));
    // What starts the application again must not be killed with the run.
    assert!(cold.contains("KillMode=process\n"), "{cold}");
    let timer = text(&world.path("root/etc/systemd/system/lifeboat-backup-app.timer"));
    assert!(timer.contains("OnCalendar=*-*-01 04:00:00\nOnCalendar=Fri *-*-* 04:00:00\n"));
    assert!(timer.contains("Persistent=true\n"));
}

#[test]
fn a_user_gets_units_without_what_needs_root() {
    let world = configured();
    let ran = install(&world, &["systemd", "--user", "--yes"]).expect(0);
    let folder = format!("root{}/systemd/user", world.text("home/config"));
    let service = text(&world.path(&folder).join("lifeboat-backup-app.service"));
    assert!(service.contains("NoNewPrivileges=yes\n"), "{service}");
    for needs_root in ["ProtectSystem", "CapabilityBoundingSet", "PrivateNetwork", "ReadWrite"] {
        assert!(!service.contains(needs_root), "{service}");
    }
    assert!(ran.err.contains("lifeboat-backup-app.timer"), "{}", ran.err);
}

#[test]
fn a_dry_run_and_a_question_without_a_terminal_write_nothing() {
    let world = configured();
    let ran = install(&world, &["systemd", "--dry-run"]).expect(0);
    assert!(ran.out.contains("OnCalendar=*-*-* 02:00:00\n"), "{}", ran.out);
    install(&world, &["systemd"]).expect(24).says("lifeboat-backup-app.timer");
    install(&world, &["cron"]).expect(24);
    assert!(!world.path("root").exists() && !world.path("repo").exists());
}

#[test]
fn what_was_written_is_removed_and_nothing_else() {
    let world = configured();
    install(&world, &["systemd", "--yes"]).expect(0);
    install(&world, &["systemd"]).expect(0).says("nothing to do");
    let folder = world.path("root/etc/systemd/system");
    fs::write(folder.join("lifeboat-backup-mine.service"), "[Service]\n").unwrap();
    fs::write(folder.join("other.timer"), "# Written by `lifeboat install`").unwrap();
    // A source that is gone takes its units with it.
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"hourly\"\n",
    );
    install(&world, &["systemd", "--yes"]).expect(0);
    assert_eq!(
        world.names("root/etc/systemd/system"),
        [
            "lifeboat-backup-app.service",
            "lifeboat-backup-app.timer",
            "lifeboat-backup-mine.service",
            "lifeboat-verify.service",
            "lifeboat-verify.timer",
            "other.timer"
        ]
    );
    // The configuration may be gone by then.
    fs::remove_file(world.path("home/config/lifeboat/config.toml")).unwrap();
    install(&world, &["systemd", "--uninstall", "--yes"]).expect(0);
    let left = world.names("root/etc/systemd/system");
    assert_eq!(left, ["lifeboat-backup-mine.service", "other.timer"]);
}

#[test]
fn a_file_of_somebody_else_ends_it_before_anything_is_changed() {
    let world = configured();
    let folder = world.path("root/etc/systemd/system");
    fs::create_dir_all(&folder).unwrap();
    let masked = folder.join("lifeboat-backup-own.timer");
    std::os::unix::fs::symlink("/dev/null", &masked).unwrap();
    install(&world, &["systemd", "--yes"]).expect(23).says("lifeboat-backup-own.timer is not");
    assert_eq!(world.names("root/etc/systemd/system"), ["lifeboat-backup-own.timer"]);
    let crontab = world.path("root/etc/cron.d/lifeboat");
    fs::create_dir_all(crontab.parent().unwrap()).unwrap();
    fs::write(&crontab, "0 * * * * root true\n").unwrap();
    install(&world, &["cron", "--yes"]).expect(23);
    install(&world, &["cron", "--uninstall", "--yes"]).expect(0);
    assert_eq!(text(&crontab), "0 * * * * root true\n");
}

/// The lines are run as cron runs them: `\%` is `%`, the rest is for the shell.
#[test]
fn the_lines_of_cron_back_up() {
    let world = configured();
    install(&world, &["cron", "--yes"]).expect(0);
    let crontab = text(&world.path("root/etc/cron.d/lifeboat"));
    let lines: Vec<&str> = crontab.lines().filter(|line| line.contains(" root ")).collect();
    assert_eq!(lines.len(), 5, "{crontab}");
    assert!(crontab.contains("0 4 1 * 5 root "), "{crontab}");
    for line in lines.iter().filter(|line| !line.contains("backup cold")) {
        let (_, command) = line.split_once(" root ").unwrap();
        assert!(!command.replace("\\%", "").contains('%'), "{command}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &command.replace("\\%", "%")]).env_clear().current_dir("/");
        let output = shell.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{command}: {said}");
    }
    let ran = world.run(&["list", "--json"]).expect(0);
    assert_eq!(ran.json().as_array().unwrap().len(), 3, "{}", ran.out);
    install(&world, &["cron", "--uninstall", "--yes"]).expect(0);
    assert_eq!(world.names("root/etc/cron.d"), [""; 0]);
    let own = world.run(&["install", "cron", "--user"]).expect(0);
    assert!(own.out.contains("\n0 0 * * 1 ") && !own.out.contains(" root "), "{}", own.out);
}

#[test]
fn what_cannot_be_a_schedule_is_pointed_at() {
    let world = World::new();
    world.database("app.db", 1);
    let with = |schedule: &str| {
        world.configure(&format!("[source.app]\nsqlite = \"$DATA/app.db\"\n{schedule}"));
    };
    with("schedule = \"daily 25:00\"\n");
    world.run(&["config", "check"]).expect(2).says("config.toml:3:1: `25:00` is not a time");
    with("");
    install(&world, &["systemd"]).expect(2).says("no source of the configuration");
    with("schedule = \"Mon 02:00\"\n");
    install(&world, &["cron"]).expect(2).says("cron has no equal of `Mon 02:00`");
}

fn pruned_and_hooked(world: &World, more: &str) {
    world.configure(&format!(
        "{more}[repository.local]\nurl = \"file://$REPO\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"hourly\"\n\
         keep = {{ last = 3 }}\ntime_limit = \"8h\"\n\
         [source.hooked]\nfiles = [\"/etc/hostname\"]\nschedule = \"weekly\"\n\
         hooks = {{ before = \"true\" }}\nkeep = \"forever\"\n"
    ));
}

#[test]
fn backups_are_pruned_and_verified_by_schedule_too() {
    let world = World::new();
    world.database("app.db", 10);
    pruned_and_hooked(&world, "");
    install(&world, &["systemd", "--yes"]).expect(0);
    let unit = |name: &str| text(&world.path("root/etc/systemd/system").join(name));
    let prune = unit("lifeboat-prune.service");
    assert!(prune.contains(" prune --unattended\n"), "{prune}");
    // The databases are none of its business.
    assert!(!prune.contains(&format!("\"-{}\"", world.text("data"))), "{prune}");
    assert!(prune.contains(&format!("\"-{}\"", world.text("repo"))), "{prune}");
    assert!(unit("lifeboat-prune.timer").contains("OnCalendar=*-*-* 04:30:00\n"));
    assert!(unit("lifeboat-verify.timer").contains("OnCalendar=Sun *-*-* 05:00:00\n"));
    // A run ends by itself before systemd ends it.
    let backup = unit("lifeboat-backup-app.service");
    assert!(backup.contains("TimeoutStartSec=29400s\n"), "{backup}");
    assert!(backup.contains("CapabilityBoundingSet=") && !backup.contains("KillMode"), "{backup}");
    // Commands of the configuration may need the network and rights, and still write nowhere else.
    let hooked = unit("lifeboat-backup-hooked.service");
    assert!(hooked.contains("ProtectSystem=strict\n"), "{hooked}");
    assert!(!hooked.contains("CapabilityBoundingSet=") && hooked.contains("AF_INET"), "{hooked}");
    let units = units(&world);
    if let Some(output) = analyze(&["verify", "--man=no"], &units) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("lifeboat"), "{said}");
    }
    pruned_and_hooked(&world, "[hooks]\nafter = \"true\"\n");
    install(&world, &["systemd", "--yes"]).expect(0);
    assert!(unit("lifeboat-prune.service").contains("AF_INET"));
    // With backups that are pruned as they are made, there is nothing left to do.
    let config = world.path("home/config/lifeboat/config.toml");
    let kept = text(&config).replace("last = 3 }", "last = 3 }\nprune = \"after-backup\"");
    fs::write(&config, kept).unwrap();
    install(&world, &["systemd", "--yes"]).expect(0);
    assert!(!world.names("root/etc/systemd/system").contains(&"lifeboat-prune.timer".to_owned()));
    install(&world, &["systemd", "--uninstall", "--yes"]).expect(0);
    assert_eq!(world.names("root/etc/systemd/system"), [""; 0]);
}

#[test]
fn a_scheduled_prune_waits_without_failing_and_an_approval_is_asked_for() {
    let world = World::new();
    world.database("app.db", 10);
    pruned_and_hooked(&world, "[hooks]\nbefore = 'echo \"$LIFEBOAT_COMMAND\" >> log'\n");
    let config = world.path("home/config/lifeboat/config.toml");
    let keep = |last: &str| {
        let kept = text(&config).replace("last = 3", last).replace("last = 5", last);
        fs::write(&config, kept).unwrap();
    };
    keep("last = 5");
    for _ in 0..6 {
        world.run(&["backup", "app", "--no-hooks"]).expect(0);
    }
    let outcome = || {
        let ran = world.run(&["prune", "--unattended", "--json"]).expect(0);
        ran.json()[0]["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(outcome(), "pruned");
    assert_eq!(text(&world.path("data/log")), "prune\n");
    assert_eq!(outcome(), "nothing-to-do");
    // More would go, and there is no newer backup: the next run will do.
    keep("last = 3");
    assert_eq!(outcome(), "waiting");
    world.run(&["prune", "--unattended"]).expect(0).says("no good backup is newer");
    world.run(&["prune", "--yes"]).expect(23);
    // There is one, and another rule than at the last prune: that is for a person to say.
    world.run(&["backup", "app", "--no-hooks"]).expect(0);
    world.run(&["prune", "--unattended"]).expect(23).says("--approve");
    assert_eq!(world.run(&["list", "app", "--json"]).expect(0).json().as_array().unwrap().len(), 6);
}

/// Sources of servers: each in another place, with its password from elsewhere.
fn servers(world: &World) {
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.socket]\npostgres = { host = \"/var/run/postgresql\", dbname = \"a\" }\n\
         schedule = \"daily\"\n\
         [source.host]\npostgres = { url = \"postgresql://ann@localhost/a\", \
         password = { credential = \"ann\" } }\nschedule = \"daily\"\n\
         [source.away]\npostgres = { url = \"postgresql://ann@db.example/a?sslmode=require\", \
         password = { env = \"ANN\" } }\nschedule = \"daily\"\n\
         [source.named]\npostgres = { service = \"main\" }\nschedule = \"daily\"\n\
         [source.box]\npostgres = { dbname = \"a\", command = [\"docker\", \"exec\", \"-i\", \"db\"] }\n\
         schedule = \"daily\"\n",
    );
}

#[test]
fn the_units_of_servers_reach_them_and_nothing_else() {
    let world = World::new();
    servers(&world);
    let root = world.text("root");
    let passwords = world.text("home/pgpass");
    let mut command = world.command(&["install", "systemd", "--yes", "--root", &root]);
    ran(command.env("PGPASSFILE", &passwords).output().unwrap())
        .expect(0)
        .says("away: its password is in the variable ANN, which no schedule has");
    let service = |name: &str| {
        text(&world.path(&format!("root/etc/systemd/system/lifeboat-backup-{name}.service")))
    };
    let families = "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n";
    let socket = service("socket");
    assert!(socket.contains("PrivateNetwork=yes\n") && !socket.contains(families), "{socket}");
    // All who may come in by the password file still do.
    assert!(socket.contains(&format!("Environment=\"PGPASSFILE={passwords}\"\n")), "{socket}");
    let host = service("host");
    assert!(host.contains(families) && !host.contains("PrivateNetwork"), "{host}");
    assert!(host.contains("IPAddressDeny=any\nIPAddressAllow=localhost\n"), "{host}");
    assert!(host.contains("LoadCredential=ann\n"), "{host}");
    for name in ["away", "named", "box"] {
        let other = service(name);
        assert!(other.contains(families) && !other.contains("IPAddressDeny"), "{name}: {other}");
    }
    assert!(service("away").contains("CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_CHOWN\n"));
    let units = units(&world);
    let Some(output) = analyze(&["verify", "--man=no"], &units) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("lifeboat"), "{said}");
}

#[test]
fn a_socket_in_a_temporary_folder_is_not_hidden() {
    let world = World::new();
    world.configure(
        "[repository.local]\nurl = \"file:///srv/lifeboat-of-test\"\n\
         [source.tmp]\npostgres = { host = \"/tmp/sockets\", dbname = \"a\" }\n\
         schedule = \"daily\"\n",
    );
    let ran = install(&world, &["systemd", "--dry-run"]).expect(0);
    let backup = ran.out.split("==>").find(|text| text.contains("backup-tmp.service")).unwrap();
    assert!(backup.contains("PrivateTmp=no\n"), "{backup}");
}

/// One service instead of timers: it may do what all of them may, and no more.
#[test]
fn the_agent_is_a_service_that_systemd_reads() {
    let world = configured();
    install(&world, &["systemd", "--yes"]).expect(0);
    install(&world, &["systemd", "--agent", "--yes", "--on-failure", "alert@%n.service"]).expect(0);
    let units = units(&world);
    let names: Vec<_> = units.iter().map(|unit| unit.file_name().unwrap()).collect();
    assert_eq!(names, ["lifeboat-agent.service"], "timers and a service would do all of it twice");
    let service = text(&units[0]);
    for line in ["Type=notify\n", "WatchdogSec=60s\n", "TimeoutStopSec=210s\n", "OnFailure=alert"] {
        assert!(service.contains(line), "{line} is missing in {service}");
    }
    assert!(service.contains("WantedBy=multi-user.target\n"), "{service}");
    let Some(output) = analyze(&["verify", "--man=no"], &units) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("lifeboat"), "{said}");
    // One source has commands of its own, which keep their capabilities.
    let output = analyze(&["security", "--offline=true", "--threshold=45"], &units).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    install(&world, &["systemd", "--yes"]).expect(0);
    assert!(!world.names("root/etc/systemd/system").contains(&"lifeboat-agent.service".to_owned()));
}

/// Whatever a schedule can have, as timers, as the agent, of the system and of a user.
#[test]
fn units_of_every_kind_are_read() {
    let world = World::new();
    world.database("app.db", 10);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [repository.far]\nurl = \"sftp://me@far.example/backups\"\n\
         [repository.drive]\nurl = \"file://$DATA/drive/backups\"\nmount = \"$DATA/drive\"\n\
         [drill]\nschedule = \"monthly\"\nrebuild = \"0 6 1 * *\"\n\
         [notify.ops]\nwebhook = { credential = \"ops\" }\n\
         [agent]\nlisten = \"127.0.0.1:6464\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\nschedule = \"hourly\"\n\
         keep = { last = 3 }\n\
         [source.main]\npostgres = { url = \"postgresql://ann@db.example/a\", physical = true, \
         receive = true, password = { credential = \"ann\" } }\nschedule = \"daily 02:00\"\n",
    );
    let names = [
        "backup-app",
        "backup-main",
        "copy-drive",
        "copy-far",
        "drill",
        "drill-rebuild",
        "prune",
        "verify",
        "watch",
    ];
    for (options, count) in
        [(&[][..], 2 * names.len()), (&["--user"], 2 * names.len()), (&["--agent"], 1)]
    {
        let arguments = [&["systemd", "--yes"], options].concat();
        install(&world, &arguments).expect(0);
        let folder = match options.contains(&"--user") {
            true => world.path(&format!("root{}/systemd/user", world.text("home/config"))),
            false => world.path("root/etc/systemd/system"),
        };
        let mut files: Vec<PathBuf> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), count, "{files:?}");
        if options.is_empty() {
            let there = |name: &str| folder.join(format!("lifeboat-{name}.service")).exists();
            assert!(names.iter().all(|name| there(name)), "{files:?}");
            // What the watch asks a server for it needs the password for, as a backup does.
            let watch = text(&folder.join("lifeboat-watch.service"));
            assert!(watch.contains("LoadCredential=ann\nLoadCredential=ops\n"), "{watch}");
        }
        let Some(output) = analyze(&["verify", "--man=no"], &files) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("lifeboat"), "{options:?}: {said}");
    }
    // None of them is left behind, whichever way it was made.
    install(&world, &["systemd", "--yes"]).expect(0);
    install(&world, &["systemd", "--uninstall", "--yes"]).expect(0);
    assert_eq!(world.names("root/etc/systemd/system"), [""; 0]);
}
