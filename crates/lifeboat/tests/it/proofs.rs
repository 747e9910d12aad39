//! Proofs that were changed, removed or moved are found, and the month is one page.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::World;

/// Three drills, a proof each.
fn world() -> (World, Vec<PathBuf>) {
    let world = World::new();
    world.database("app.db", 100);
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.app]\nsqlite = \"$DATA/app.db\"\n",
    );
    world.run(&["backup"]).expect(0);
    for _ in 0..3 {
        world.run(&["drill"]).expect(0);
    }
    let installation = world.names("repo/drills");
    assert_eq!(installation.len(), 1);
    let folder = world.path("repo/drills").join(&installation[0]);
    let names = world.names(&format!("repo/drills/{}", installation[0]));
    assert_eq!(names, ["0000000001.json", "0000000002.json", "0000000003.json"]);
    let proofs = names.iter().map(|name| folder.join(name)).collect();
    (world, proofs)
}

fn forget(world: &World) {
    fs::remove_dir_all(world.path("state/lifeboat/proofs")).unwrap();
}

#[test]
fn changed_removed_and_moved_proofs_are_found() {
    let (world, proofs) = world();
    world.run(&["proof", "verify"]).expect(0);
    let whole: Vec<Vec<u8>> = proofs.iter().map(|path| fs::read(path).unwrap()).collect();
    let again = || {
        for (path, bytes) in proofs.iter().zip(&whole) {
            let _ = fs::remove_file(path);
            fs::write(path, bytes).unwrap();
        }
        world.run(&["proof", "verify"]).expect(0);
    };
    let found = |what: &str| {
        world.run(&["proof", "verify"]).expect(20).says(what);
        again();
    };
    let text = String::from_utf8(whole[1].clone()).unwrap();
    let _ = fs::remove_file(&proofs[1]);
    fs::write(&proofs[1], text.replace("\"passed\": true", "\"passed\": false")).unwrap();
    found("its signature does not fit");
    fs::remove_file(&proofs[1]).unwrap();
    found("the proofs 2 to 2 are missing");
    fs::remove_file(&proofs[0]).unwrap();
    found("the proofs 1 to 1 are missing");
    fs::remove_file(&proofs[2]).unwrap();
    found("was stored by this host, and is missing");
    let _ = (fs::remove_file(&proofs[0]), fs::remove_file(&proofs[1]));
    fs::write(&proofs[0], &whole[1]).unwrap();
    fs::write(&proofs[1], &whole[0]).unwrap();
    found("it is the proof 2 of its chain");
    fs::remove_dir_all(world.path("repo/drills")).unwrap();
    world.run(&["proof", "verify"]).expect(20).says("is missing");
    fs::create_dir_all(proofs[0].parent().unwrap()).unwrap();
    again();
    fs::write(&proofs[2], "{").unwrap();
    found("is no proof");
    // A host that remembers nothing sees it by what the backup names.
    forget(&world);
    fs::remove_file(&proofs[2]).unwrap();
    found("app-");
}

#[test]
fn a_chain_that_was_cut_shows_it_for_ever() {
    let (world, proofs) = world();
    fs::remove_file(&proofs[2]).unwrap();
    world.run(&["drill"]).expect(0);
    world.run(&["proof", "verify"]).expect(20).says("the proofs 3 to 3 are missing");
}

#[test]
fn proofs_of_another_repository_or_key_are_told_apart() {
    let (world, proofs) = world();
    let key: Value = serde_json::from_slice(&fs::read(&proofs[0]).unwrap()).unwrap();
    let key = key["record"]["public_key"].as_str().unwrap().to_owned();
    world.run(&["proof", "verify", "--key", &key]).expect(0);
    world.run(&["proof", "verify", "--key", &"0".repeat(64)]).expect(20).says("not accepted");
    let exported = world.text("data/public.key");
    world.run(&["proof", "verify", "--export-key", &exported]).expect(0);
    assert_eq!(fs::read_to_string(&exported).unwrap().trim(), key);
    // Another installation has a chain of its own beside it.
    fs::remove_dir_all(world.path("state/lifeboat")).unwrap();
    world.run(&["drill"]).expect(0);
    world.run(&["proof", "verify"]).expect(0);
    assert_eq!(world.names("repo/drills").len(), 2);
    world.run(&["proof", "verify", "--key", &key]).expect(20).says("not accepted");
    // The whole chain of one repository in another is none of it.
    let second = world.path("second");
    world.run(&["backup", "--repo", second.to_str().unwrap(), "app"]).expect(0);
    let moved = second.join("drills");
    fs::create_dir_all(&moved).unwrap();
    for (path, name) in proofs.iter().zip(["0000000001.json", "0000000002.json", "0000000003.json"])
    {
        let folder = moved.join(path.parent().unwrap().file_name().unwrap());
        fs::create_dir_all(&folder).unwrap();
        fs::copy(path, folder.join(name)).unwrap();
    }
    let second = second.to_str().unwrap();
    world.run(&["proof", "verify", "--repo", second]).expect(20).says("of another repository");
}

#[test]
fn standard_tools_verify_a_proof() {
    let (world, proofs) = world();
    let script = "import json,sys,base64,binascii\n\
        p=json.load(open(sys.argv[1]));r=p['record']\n\
        c=json.dumps(r,sort_keys=True,separators=(',',':'),ensure_ascii=False).encode()\n\
        open(sys.argv[2]+'/r','wb').write(c)\n\
        open(sys.argv[2]+'/s','wb').write(binascii.unhexlify(p['signature']))\n\
        der=binascii.unhexlify('302a300506032b6570032100'+r['public_key'])\n\
        open(sys.argv[2]+'/k','wb').write(b'-----BEGIN PUBLIC KEY-----\\n'+base64.b64encode(der)+b'\\n-----END PUBLIC KEY-----\\n')\n";
    let run = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(arguments).current_dir(world.path("data")).output().unwrap()
    };
    let folder = world.text("data");
    let made = run("python3", &["-c", script, proofs[1].to_str().unwrap(), &folder]);
    assert!(made.status.success(), "{made:?}");
    let verify =
        ["pkeyutl", "-verify", "-pubin", "-inkey", "k", "-rawin", "-in", "r", "-sigfile", "s"];
    let good = run("openssl", &verify);
    assert!(good.status.success(), "{good:?}");
    fs::write(world.path("data/r"), "other").unwrap();
    assert!(!run("openssl", &verify).status.success());
}

#[test]
fn a_month_is_one_page() {
    let (world, _) = world();
    world.configure(
        "[repository.local]\nurl = \"file://$REPO\"\n[source.app]\nsqlite = \"$DATA/app.db\"\n\
         [source.other]\nsqlite = \"$DATA/other.db\"\n",
    );
    let html = world.text("data/report.html");
    let markdown = world.text("data/report.md");
    world.run(&["proof", "report", "--html", &html, "--markdown", &markdown]).expect(0);
    let page = fs::read_to_string(&html).unwrap();
    assert_eq!(page.matches("<section>").count(), 3, "{page}");
    assert!(page.contains("All 3 proofs in the repositories were verified"), "{page}");
    assert!(page.contains("other<td>0<td>0<td><td><td class=\"failed\">no drill passed"), "{page}");
    for outside in ["http://", "https://", "<script", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}: {page}");
    }
    let text = fs::read_to_string(&markdown).unwrap();
    assert!(text.contains("| app | 3 | 3 |") && text.contains("| other | 0 | **0** |"), "{text}");
    let none = world.run(&["proof", "report", "--month", "2001-02"]).expect(0);
    assert!(none.out.contains("Restore drills, February 2001"), "{}", none.out);
    world.run(&["proof", "report", "--month", "2001"]).expect(2);
}
