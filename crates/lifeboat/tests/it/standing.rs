//! What was promised against what is: objectives, alerts and forecasts, as programs are told them.

use std::fs;

use serde_json::Value;

use crate::follow::wait_for;
use crate::receivers::{MailServer, Receiver};
use crate::support::{Ran, World, ran, slowly};

/// Runs the program as if it were that moment.
fn at(world: &World, clock: &str, arguments: &[&str]) -> Ran {
    ran(world.command(arguments).env("LIFEBOAT_CLOCK_AT", slowly(clock)).output().unwrap())
}

fn standing(world: &World, clock: &str) -> Value {
    at(world, clock, &["status", "--format", "json"]).expect(0).json()
}

/// The alerts of a source, as "code in repository".
fn codes(standing: &Value, source: &str) -> Vec<String> {
    let alerts = standing["alerts"].as_array().unwrap().iter();
    let alerts = alerts.filter(|alert| alert["source"] == source);
    let codes = alerts.map(|alert| alert["code"].as_str().unwrap().to_owned());
    // The disk of this machine may be nearly full.
    codes.filter(|code| code != "disk-filling").collect()
}

/// Two repositories, each with its own objectives.
fn configured(world: &World, more: &str) {
    world.database("app.db", 100);
    world.configure(&format!(
        "[repository.first]\nurl = \"file://$REPO\"\n\
         [repository.second]\nurl = \"file://$DATA/second\"\n\
         [source.app]\nsqlite = \"$DATA/app.db\"\n{more}"
    ));
}

#[test]
fn promises_are_measured_in_each_repository_and_broken_in_one() {
    let world = World::new();
    configured(&world, "rpo = \"1h\"\nrto = \"1ms\"\n");
    at(&world, "2026-03-02T10:00:00Z", &["backup"]).expect(0);
    let now = standing(&world, "2026-03-02T10:30:00Z");
    for row in now["sources"].as_array().unwrap() {
        let (rpo, rto) = (&row["objectives"]["rpo"], &row["objectives"]["rto"]);
        assert_eq!((&rpo["outcome"], &rpo["promised_ms"]), (&"kept".into(), &3_600_000.into()));
        // The clock of each of both runs begins at its moment, and goes on.
        let measured_ms = rpo["measured_ms"].as_u64().unwrap();
        assert!((1_795_000..=1_805_000).contains(&measured_ms), "{rpo}");
        assert_eq!(rto["outcome"], "unmeasured", "{rto}");
    }
    assert_eq!(codes(&now, "app"), ["restore-not-measured", "restore-not-measured"], "{now}");
    // Only one of them gets the next backup, and a drill that takes longer than a millisecond.
    at(&world, "2026-03-02T18:00:00Z", &["backup", "--repo", "first"]).expect(0);
    at(&world, "2026-03-02T18:00:01Z", &["drill", "app", "--repo", "first"]).expect(0);
    let later = standing(&world, "2026-03-02T18:10:00Z");
    let of = |repository: usize| later["sources"][repository]["objectives"].clone();
    assert_eq!(
        (&of(0)["rpo"]["outcome"], &of(1)["rpo"]["outcome"]),
        (&"kept".into(), &"broken".into())
    );
    assert_eq!(of(0)["rto"]["outcome"], "broken", "{later}");
    let said = codes(&later, "app");
    assert_eq!(said, ["stale", "restore-too-slow", "restore-not-measured"], "{later}");
    let alert = &later["alerts"][0];
    assert_eq!(alert["command"], "lifeboat backup app");
    assert!(alert["repository"].as_str().unwrap().ends_with("second"), "{alert}");
    // A copy that has not the newest backup for longer than a run takes.
    let night = standing(&world, "2026-03-03T01:00:00Z");
    assert!(codes(&night, "app").contains(&"copy-missing".to_owned()), "{night}");
}

#[test]
fn a_schedule_is_a_promise_where_no_other_was_made() {
    let world = World::new();
    configured(&world, "schedule = \"daily 02:00\"\n");
    at(&world, "2026-03-02T02:00:00Z", &["backup"]).expect(0);
    at(&world, "2026-03-03T13:00:00Z", &["status"]).expect(0);
    at(&world, "2026-03-03T15:00:00Z", &["status"]).expect(21).says("app");
    let promised = standing(&world, "2026-03-03T15:00:00Z")["sources"][0]["age_ms_max"].clone();
    assert_eq!(promised, 36 * 3_600_000);
}

/// The names of a script's rules: 1 only where something says what would be 0.
#[test]
fn a_source_without_any_promise_is_not_said_to_be_well_for_ever() {
    let world = World::new();
    configured(&world, "");
    at(&world, "2026-03-02T02:00:00Z", &["backup"]).expect(0);
    let metrics = |clock: &str| {
        let arguments = ["status", "--format", "prometheus", "--also-as", "chatbot"];
        at(&world, clock, &arguments).expect(0).out
    };
    let later = metrics("2027-03-02T02:00:00Z");
    assert!(!later.contains("\nchatbot_backup_status{"), "{later}");
    assert!(later.contains("\nchatbot_last_backup_timestamp_seconds{"), "{later}");
    fs::write(world.path("data/app.db"), "no database").unwrap();
    at(&world, "2027-03-02T03:00:00Z", &["backup"]).expect(20);
    let failed = metrics("2027-03-02T04:00:00Z");
    let line = failed.lines().find(|line| line.starts_with("chatbot_backup_status{")).unwrap();
    assert!(line.ends_with(" 0"), "{line}");
}

#[test]
fn a_repository_that_is_not_there_and_one_that_is_broken_are_told_beside_the_others() {
    let world = World::new();
    configured(&world, "rpo = \"1h\"\n");
    at(&world, "2026-03-02T10:00:00Z", &["backup", "--repo", "first"]).expect(0);
    let now = standing(&world, "2026-03-02T10:10:00Z");
    assert_eq!(codes(&now, ""), ["repository-unreadable"], "{now}");
    let up = |now: &Value, at: usize| now["repositories"][at]["is_up"].clone();
    assert_eq!((up(&now, 0), up(&now, 1)), (true.into(), false.into()));
    let metrics = at(&world, "2026-03-02T10:10:00Z", &["status", "--format", "prometheus"]).out;
    let of = |repository: &str, value: &str| {
        let end = format!("{repository}\"}} {value}");
        metrics.lines().any(|line| line.starts_with("lifeboat_target_up{") && line.ends_with(&end))
    };
    assert!(of("/repo", "1") && of("/second", "0"), "{metrics}");
    assert!(metrics.contains("code=\"repository-unreadable\",severity=\"stale\"} 1"), "{metrics}");
    fs::write(world.path("repo/lifeboat.json"), "{").unwrap();
    let blind = standing(&world, "2026-03-02T10:20:00Z");
    assert_eq!((up(&blind, 0), up(&blind, 1)), (false.into(), false.into()), "{blind}");
}

/// One source that is lost takes nothing from what is told of the others.
#[test]
fn a_pattern_that_matches_nothing_is_an_alert() {
    let world = World::new();
    configured(&world, "rpo = \"1h\"\n[source.tenants]\nsqlite = { glob = \"$DATA/t/*.db\" }\n");
    at(&world, "2026-03-02T10:00:00Z", &["backup", "app"]).expect(0);
    let now = standing(&world, "2026-03-02T10:10:00Z");
    assert_eq!(codes(&now, "tenants"), ["source-lost"], "{now}");
    assert!(now["sources"].as_array().unwrap().iter().any(|row| row["source"] == "app"));
}

#[test]
fn what_was_measured_of_a_disk_foretells_when_it_is_full() {
    let world = World::new();
    configured(&world, "rpo = \"1h\"\n");
    let at_hour = |hour: u32| format!("2026-03-02T{hour:02}:00:00Z");
    at(&world, &at_hour(0), &["backup"]).expect(0);
    let first = standing(&world, &at_hour(0));
    assert_eq!(first["repositories"][0]["forecast"], Value::Null, "{first}");
    assert!(first["repositories"][0]["space"]["free_bytes"].as_u64() > Some(0), "{first}");
    // As if others had filled it all day: each hour a hundredth of what is left now.
    let path = world.path("state/lifeboat/space");
    let free = first["repositories"][0]["space"]["free_bytes"].as_u64().unwrap();
    for name in world.names("state/lifeboat/space") {
        let file = path.join(name);
        let mut known: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let samples = (0..12_u64).map(|hour| {
            let free_bytes = free + (12 - hour) * (free / 100);
            serde_json::json!({"at": at_hour(hour as u32), "used_bytes": 1, "free_bytes": free_bytes})
        });
        known["samples"] = samples.collect();
        fs::write(&file, known.to_string()).unwrap();
    }
    let now = standing(&world, &at_hour(12));
    let full_at: jiff::Timestamp =
        now["repositories"][0]["forecast"]["full_at"].as_str().unwrap().parse().unwrap();
    // A hundred hours are left; other tests write to the same disk meanwhile.
    let left = full_at.duration_since(at_hour(12).parse().unwrap()).as_hours();
    assert!((80..120).contains(&left), "{left}: {now}");
    assert!(codes(&now, "").iter().any(|code| code == "disk-full-soon"), "{now}");
}

/// What a server shows and what a file holds, in time and no sooner than there is something to do.
#[test]
fn certificates_and_credentials_that_end_are_told() {
    let world = World::new();
    let Some(server) = MailServer::new(&world, "starttls", "ann", "secret") else { return };
    let token = world.text("token");
    fs::write(&token, "sv=2022-11-02&se=2040-01-01T00%3A00%3A00Z&sig=x\n").unwrap();
    crate::support::set_mode(std::path::Path::new(&token), 0o600);
    // One that refuses at once: what is not there at all is tried again and again.
    let refuses = Receiver::new(403);
    let (ca, port, azure) = (world.text("ca.pem"), server.port, &refuses.address);
    configured(
        &world,
        &format!(
            "rpo = \"1d\"\n[repository.far]\nurl = \"az://backups/x\"\nendpoint = \"http://{azure}\"\n\
             account = \"a\"\nsas_token = {{ file = \"{token}\" }}\n\
             [notify.mail]\nca_certificate = \"{ca}\"\ncommands = [\"prune\"]\n\
             email = {{ host = \"localhost\", port = {port}, from = \"a@b.de\", to = [\"c@d.de\"] }}\n"
        ),
    );
    let watch = |at: &str| -> Vec<(String, String, String)> {
        let ran = ran(world
            .command(&["watch", "--unattended", "--json"])
            .env("LIFEBOAT_CLOCK_AT", at)
            .output()
            .unwrap());
        let told = ran.expect(0).json();
        let alerts = told["alerts"].as_array().unwrap().iter();
        let text = |alert: &Value, key: &str| alert[key].as_str().unwrap().to_owned();
        let of =
            |alert: &Value| (text(alert, "code"), text(alert, "severity"), text(alert, "what"));
        alerts.map(of).filter(|(code, ..)| code == "certificate" || code == "credential").collect()
    };
    let now = jiff::Timestamp::now();
    let in_days = |days: i64| (now + jiff::SignedDuration::from_hours(24 * days)).to_string();
    // They are of today, and last for two days.
    let mut soon = Vec::new();
    // A server that is slow to answer is not known.
    wait_for("both certificates", || {
        soon = watch(&in_days(0));
        soon.len() == 2
    });
    let words: Vec<&str> = soon.iter().map(|(_, _, what)| what.as_str()).collect();
    assert!(words.iter().any(|what| what.contains(&format!("localhost:{port}"))), "{words:?}");
    assert!(words.iter().any(|what| what.contains("ca.pem")), "{words:?}");
    assert!(soon.iter().all(|(code, severity, _)| code == "certificate" && severity == "broken"));
    // Two weeks before their days end they are a warning; long before, nothing.
    let early = watch(&in_days(-5));
    assert!(early.len() == 2 && early.iter().all(|(_, severity, _)| severity == "warning"));
    assert_eq!(watch(&in_days(-30)), []);
    let late = watch("2039-12-25T00:00:00Z");
    let signature = late.iter().find(|(code, ..)| code == "credential").unwrap();
    assert!(signature.2.contains("`far` ends on 2040-01-01"), "{late:?}");
    assert!(late.iter().any(|(_, _, what)| what.contains(" ended on ")), "{late:?}");
    // `status` says the same without asking anybody.
    drop(server);
    let told = standing(&world, "2039-12-25T00:30:00Z");
    assert!(codes(&told, "").contains(&"credential".to_owned()), "{told}");
}
