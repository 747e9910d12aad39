//! A repository on a drive that is there at times: real mounts, in a namespace of their own.

use std::process::{Command, Output};

use lifeboat_test_support::skipped;

use crate::support::{World, ran};

/// Steps of a shell that may mount, with the program as `$lifeboat` and the world's folder as
/// `$drive`. `None`, and a line that says so, where nothing can be mounted.
fn steps(test: &str, world: &World, as_root: bool, script: &str) -> Option<Output> {
    let shell = |script: &str| {
        let mut command = Command::new("unshare");
        if !as_root {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "--propagation", "private", "sh", "-ec", script]);
        command
    };
    let probe = shell("mount -t tmpfs tmpfs /tmp").output().unwrap();
    if !probe.status.success() {
        let reason = String::from_utf8_lossy(&probe.stderr).into_owned();
        skipped(&format!("{test}: no file system can be mounted here: {reason}"));
        return None;
    }
    let of_world = world.command(&[]);
    let mut command = shell(script);
    command.env_clear();
    for (name, value) in of_world.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.env("lifeboat", of_world.get_program()).env("drive", world.path("drive"));
    command.current_dir(world.path("data"));
    Some(command.output().unwrap())
}

/// Two repositories: one on the host's disk, one on the drive.
fn world(more: &str) -> World {
    let world = World::new();
    world.database("app.db", 500);
    std::fs::create_dir(world.path("drive")).unwrap();
    let drive = world.text("drive");
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [repository.drive]\nurl = \"file://{drive}/lifeboat\"\nmount = \"{drive}\"\n{more}\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n",
    ));
    world
}

const FUNCTIONS: &str = r#"
    expect() {
        code=$1; shift; set +e; "$@"; got=$?; set -e
        [ $got = $code ] || { echo "exit code $got of $*, not $code" >&2; exit 99; }
    }
"#;

#[test]
fn nothing_is_written_beneath_a_drive_that_is_not_mounted() {
    let test = "nothing_is_written_beneath_a_drive_that_is_not_mounted";
    let world = world("");
    let script = format!(
        r#"{FUNCTIONS}
        expect 75 "$lifeboat" backup
        expect 75 "$lifeboat" --repo drive backup
        expect 75 "$lifeboat" --repo "$drive/lifeboat" backup
        [ -z "$(ls -A "$drive")" ]
        "$lifeboat" status 2>&1 | grep -q '3 backups missed the drive of `drive`, since'
        # The folder in itself is no drive either.
        mount --bind "$drive" "$drive"
        expect 75 "$lifeboat" --repo drive backup
        umount "$drive"
        mount -t tmpfs tmpfs "$drive"
        expect 0 "$lifeboat" backup
        [ -e "$drive/lifeboat/lifeboat.json" ]
        expect 0 "$lifeboat" --repo drive verify
        umount "$drive"
        [ -z "$(ls -A "$drive")" ]
        expect 0 "$lifeboat" status > out 2>&1
        ! grep missed out
        "#
    );
    let Some(output) = steps(test, &world, false, &script) else { return };
    let ran = ran(output).expect(0);
    assert!(ran.err.contains("nothing is mounted there"), "{}", ran.err);
}

#[test]
fn a_drive_that_is_taken_away_half_way_fails_its_copy_alone() {
    let test = "a_drive_that_is_taken_away_half_way_fails_its_copy_alone";
    let world = world("");
    let script = format!(
        r#"{FUNCTIONS}
        mount -t tmpfs tmpfs "$drive"
        LIFEBOAT_PAUSE_AT=backup.before_manifest:"$PWD/held" "$lifeboat" --repo drive backup &
        while [ ! -e held ]; do kill -0 $!; sleep 0.05; done
        # While it is written to, it cannot be unmounted in passing.
        expect 32 umount "$drive"
        umount --lazy "$drive"
        rm held
        expect 75 wait $!
        [ -z "$(ls -A "$drive")" ]
        "#
    );
    let Some(output) = steps(test, &world, false, &script) else { return };
    ran(output).expect(0).says("is not there");
}

#[test]
fn another_file_system_than_the_one_that_is_named_is_absent() {
    let test = "another_file_system_than_the_one_that_is_named_is_absent";
    let uuid = "5f1d7a3e-9d0a-4b7e-8f53-2f6b0e1c9a44";
    let world = world(&format!("file_system = \"{uuid}\""));
    let script = format!(
        r#"{FUNCTIONS}
        mount -t tmpfs tmpfs "$drive"
        expect 75 "$lifeboat" --repo drive backup
        [ -z "$(ls -A "$drive")" ]
        umount "$drive"
        truncate -s 64M disk
        mkfs.ext4 -q -U {uuid} disk
        mount -o loop disk "$drive" || {{ echo no loop devices >&2; exit 77; }}
        expect 0 "$lifeboat" --repo drive backup
        umount "$drive"
        # It refuses a file system that was mounted in the second in which it was made.
        e2fsck -f -y disk >&2 || [ $? = 1 ]
        tune2fs -U 11111111-2222-3333-4444-555555555555 disk
        mount -o loop disk "$drive"
        expect 75 "$lifeboat" --repo drive backup
        umount "$drive"
        "#
    );
    let Some(output) = steps(test, &world, true, &script) else { return };
    if output.status.code() == Some(77) {
        skipped(&format!("{test}: {}", String::from_utf8_lossy(&output.stderr)));
        return;
    }
    ran(output).expect(0).says("11111111-2222-3333-4444-555555555555 is mounted");
}

#[test]
fn a_mount_that_does_not_fit_its_url_is_a_mistake_of_the_configuration() {
    let world = World::new();
    for wrong in [
        "url = \"file:///mnt/other/x\"\nmount = \"/mnt/drive\"",
        "url = \"file:///mnt/drive/x\"\nmount = \"drive\"",
        "url = \"sftp://host/mnt/drive\"\nmount = \"/mnt/drive\"",
    ] {
        world.configure(&format!("[repository.drive]\n{wrong}\n"));
        world.run(&["config", "check"]).expect(2).says("at or below the mount point");
    }
    world.configure("[repository.drive]\nurl = \"file:///mnt/x\"\nfile_system = \"1-2\"\n");
    world.run(&["config", "check"]).expect(2).says("it belongs to `mount`");
}
