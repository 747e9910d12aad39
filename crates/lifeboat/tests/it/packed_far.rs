//! Packed logs in buckets and on hosts that are reached by SSH: every state comes back from there,
//! a standby goes on through a pack, and a copy has it too.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use lifeboat_test_support::{is_long, skipped};
use serde_json::Value;

use crate::follow::now_ms;
use crate::follow_far::{by_ssh, in_bucket};
use crate::s3_servers::{BUCKET, Server};
use crate::sshd::Sshd;
use crate::support::{Ran, World, within_one_hour};
use crate::thinning::change;

/// Four large files are a pack, as a thousand small ones are.
const MAKE: &str = "CREATE TABLE more AS SELECT randomblob(1700000) AS x";
const CHANGE: &str = "UPDATE more SET x = randomblob(1700000)";
const PACK: &str = "0000000000-0000000004.pagelogs";

/// A log with five states, four of them in a pack, in a repository far away.
struct Packed {
    world: World,
    base: String,
    /// The database at each position, and a moment at which it was that.
    states: Vec<(Vec<u8>, i64)>,
}

impl Packed {
    fn begin(world: World) -> Packed {
        within_one_hour();
        let mut packed = Packed { world, base: String::new(), states: Vec::new() };
        packed.configure("");
        let path = packed.world.database("app.db", 300);
        let image = change(&path, MAKE);
        let made = packed.run(&["backup", "--json"]).expect(0).json();
        packed.base = made[0]["backup"].as_str().unwrap().to_owned();
        packed.states.push((image, now_ms()));
        packed.standby();
        (0..5).for_each(|_| packed.add());
        packed
    }

    /// The repository keeps everything, but for states of logs as `log` says; there is another one.
    fn configure(&self, log: &str) {
        let path = self.world.path("home/config/lifeboat/config.toml");
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("keep = ").next().unwrap();
        let second = self.world.text("data/second");
        let more =
            format!("keep = \"forever\"\n{log}\n[repository.second]\nurl = \"file://{second}\"\n");
        fs::write(&path, format!("{text}{more}")).unwrap();
    }

    /// Runs a command on the repository that is far away.
    fn run(&self, words: &[&str]) -> Ran {
        self.world.run(&[words, &["--repo", "far"]].concat())
    }

    fn add(&mut self) {
        let image = change(&self.world.path("data/app.db"), CHANGE);
        self.run(&["backup", "--incremental"]).expect(0);
        self.states.push((image, now_ms()));
    }

    /// A standby that goes on to the newest state, from wherever it is.
    fn standby(&self) {
        self.run(&["restore", "app", "--to", "standby.db", "--follow", "--once"]).expect(0);
        let blob = |name: &str| -> Vec<u8> {
            let connection = rusqlite::Connection::open(self.world.path("data").join(name));
            connection.unwrap().query_row("SELECT x FROM more", [], |row| row.get(0)).unwrap()
        };
        assert!(blob("standby.db") == blob("app.db"));
    }

    fn pruned(&self) -> Value {
        self.run(&["prune", "--yes", "--json"]).expect(0).json()[0].clone()
    }

    fn log(&self) -> Value {
        self.run(&["list", "app", "--json"]).expect(0).json()[0]["log"].clone()
    }

    fn require(&self, repository: &str, words: &[&str], position: usize) {
        let all = ["restore", "--repo", repository, "--to", "back.db", "--yes"];
        self.world.run(&[&all[..], words].concat()).expect(0);
        let back = fs::read(self.world.path("data/back.db")).unwrap();
        assert!(back == self.states[position].0, "{position} of {repository}");
    }

    /// States come back: by position and by time, both of the pack, and the newest.
    fn require_some(&self, repository: &str) {
        self.require(repository, &[&format!("{}+3", self.base)], 3);
        let at = jiff::Timestamp::from_millisecond(self.states[2].1).unwrap().to_string();
        self.require(repository, &["app", "--at", &at], 2);
        self.require(repository, &["app"], self.states.len() - 1);
    }

    /// It is packed there, and used from there. What is packed lies in that folder, if so.
    fn goes_all_ways(&mut self, folder: Option<&Path>) {
        let plan = self.run(&["prune", "--dry-run"]).expect(0);
        assert!(plan.out.contains("put 4 files into 1 packs"), "{}", plan.out);
        assert_eq!(self.pruned()["log_packed"], 4);
        self.standby();
        if let Some(folder) = folder {
            let log = folder.join(format!("app/log/{}/0", self.base));
            let long_ago = SystemTime::now() - Duration::from_secs(7_200);
            let pack = fs::File::options().append(true).open(log.join(PACK)).unwrap();
            pack.set_modified(long_ago).unwrap();
            assert_eq!(self.pruned()["log_thinned"], 4);
            self.is_missed_where_it_is_gone(&log);
        }
        let log = self.log();
        assert_eq!((&log["position"], &log["states"]), (&5.into(), &5.into()), "{log}");
        self.require_some("far");
        // Whoever follows goes on behind it, and a copy has it too.
        self.states.push((change(&self.world.path("data/app.db"), CHANGE), 0));
        self.run(&["run", "--once", "app"]).expect(0);
        self.standby();
        self.world.run(&["copy", "--from", "far", "--to", "second"]).expect(0);
        self.world.run(&["verify", "--repo", "second", "--level", "full"]).expect(0);
        self.require("second", &["app"], 6);
        // It grows old as a whole.
        self.configure("log = { all = \"0s\", minutely = \"0s\", hourly = \"9d\" }");
        assert_eq!(self.pruned()["log_merged"], 1);
        let log = self.log();
        assert_eq!((&log["position"], &log["states"]), (&6.into(), &1.into()), "{log}");
        self.require("far", &["app"], 6);
    }

    fn is_missed_where_it_is_gone(&self, log: &Path) {
        let away = self.world.path("data/away");
        fs::rename(log.join(PACK), &away).unwrap();
        let state = format!("{}+3", self.base);
        let lost = self.run(&["restore", &state, "--to", "x.db"]).expect(22);
        lost.says("what can be restored instead");
        self.run(&["verify", "--level", "quick"]).expect(20);
        fs::rename(&away, log.join(PACK)).unwrap();
    }
}

#[test]
fn a_log_is_packed_in_a_bucket() {
    let Some(server) = Server::s3s() else { return };
    let folder = server.folder().join(BUCKET).join("chat");
    let mut packed = Packed::begin(in_bucket(&format!("http://{}", server.address)));
    packed.goes_all_ways(Some(&folder));
}

/// Another server, with LIFEBOAT_LONG_TESTS=1.
#[test]
fn a_log_is_packed_in_a_bucket_of_another_server() {
    if !is_long() {
        return skipped("a log in packs on moto: with LIFEBOAT_LONG_TESTS=1");
    }
    let Some(server) = Server::moto() else { return };
    let mut packed = Packed::begin(in_bucket(&format!("http://{}", server.address)));
    packed.goes_all_ways(None);
}

#[test]
fn a_log_is_packed_on_a_host_by_ssh() {
    let Some(server) = Sshd::start("a_log_is_packed_on_a_host_by_ssh", "") else { return };
    let mut packed = Packed::begin(by_ssh(&server));
    packed.goes_all_ways(Some(&server.path("lifeboat")));
}
