//! Physical restores of real clusters under load: chains, damage, and the server's own programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_core::manifest::Manifest;
use lifeboat_core::{Kind, Result};
use lifeboat_postgres::recovery::assemble::Stored;
use lifeboat_postgres::recovery::plan::{Action, ClusterRequest, plan};
use lifeboat_postgres::recovery::restore::{Carry, ClusterOutcome, apply};
use lifeboat_postgres::recovery::serve::NoLog;
use lifeboat_postgres::recovery::settings::NextStart;
use lifeboat_postgres::recovery::target::{Target, Timeline};

use crate::data_folder::{Server, as_server, folder, own, program, unpack};
use crate::physical::{
    Load, assert_balanced, back_up, back_up_from, furnish, parent, server_verifies, source,
};
use crate::support::{Place, cluster, cluster_with, env, majors, options, place, run, text_of};

/// A restore of one backup to a new folder, without any log but its own.
fn restore(
    place: &Place,
    manifest: &Manifest,
    to: &Path,
    action: Action,
) -> Result<ClusterOutcome> {
    restore_chain(place, std::slice::from_ref(manifest), to, action)
}

/// The same of a chain, the oldest first.
fn restore_chain(
    place: &Place,
    chain: &[Manifest],
    to: &Path,
    action: Action,
) -> Result<ClusterOutcome> {
    let options = options();
    let stored = |manifest| Stored { repository: &place.repository, folder: "shop", manifest };
    let request = ClusterRequest {
        chain: chain.iter().map(stored).collect(),
        to,
        in_place: false,
        delta: false,
        tablespaces: &[],
        target: Target::Consistent,
        timeline: Timeline::Latest,
        action,
        options: &options,
    };
    let carry = Carry {
        supply: Arc::new(NoLog),
        next: NextStart::Plain,
        users: vec!["postgres".to_owned()],
        service: None,
        strict: true,
        deep: false,
    };
    let plan = plan(&env(), &request)?;
    apply(&env(), &request, &plan, &carry)
}

#[test]
fn a_cluster_under_load_comes_back_whole_with_its_tablespaces() {
    for major in majors() {
        let cluster = cluster(*major);
        let client = cluster.client("postgres").unwrap();
        let _space = furnish(&client);
        let load = Load::start(*major, &client);
        let place = place();
        let manifest = back_up(&place, cluster.client("postgres").unwrap()).unwrap();
        drop(load);
        let restored = folder();
        let unpacked = restored.path().join("unpacked");
        restore(&place, &manifest, &unpacked, Action::Leave).unwrap();
        server_verifies(*major, &unpacked);
        let data = restored.path().join("data");
        let outcome = restore(&place, &manifest, &data, Action::Promote).unwrap();
        let check = outcome.check.unwrap();
        assert_eq!(check.unlogged, ["postgres.public.fleeting"], "{major}");
        assert_eq!(check.rows["postgres.public.outside"], 20_000, "{major}");
        assert_eq!((check.damage.len(), outcome.pages.damaged), (0, 0), "{major}");
        assert_eq!(outcome.recovered.unwrap().timeline, 2, "{major}");
        // The live cluster's tablespace is not the restored one's.
        run(&client, "UPDATE public.outside SET y = 'z'");
        let server = Server::start(*major, &data);
        assert_balanced(&server.client("postgres"));
        let query = "SELECT count(*) FROM public.outside WHERE y = 'z'";
        assert_eq!(text_of(&server.client("postgres"), query), "0", "{major}");
        assert_eq!(text_of(&client, query), "20000", "{major}");
    }
}

#[test]
fn what_is_there_is_not_overwritten() {
    let cluster = cluster(15);
    let place = place();
    let manifest = back_up(&place, cluster.client("postgres").unwrap()).unwrap();
    let restored = folder();
    let data = restored.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("mine"), "x").unwrap();
    let error = restore(&place, &manifest, &data, Action::Leave).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    let error = restore(&place, &manifest, &cluster.data_folder(), Action::Leave).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
}

/// T37 and T38: one flipped bit anywhere in what is stored, and nothing is restored.
#[test]
fn a_flipped_bit_in_any_artifact_is_an_error() {
    let cluster = cluster(15);
    let place = place();
    let manifest = back_up(&place, cluster.client("postgres").unwrap()).unwrap();
    let restored = folder();
    // A restore does not need the hashes that the next backup compares with.
    for artifact in manifest.artifacts.iter().filter(|artifact| artifact.role != "page-hashes") {
        let path = place.folder.path().join("shop").join(&artifact.name);
        let sound = fs::read(&path).unwrap();
        for part in [10, 50, 90] {
            let mut flipped = sound.clone();
            let at = sound.len() * part / 100;
            flipped[at] ^= 4;
            fs::write(&path, &flipped).unwrap();
            let data: PathBuf = restored.path().join("data");
            let failed = restore(&place, &manifest, &data, Action::Leave);
            assert_eq!(failed.unwrap_err().kind(), Kind::CheckFailed, "{} {part}", artifact.name);
            assert!(!data.exists(), "nothing has the name that was wanted");
            let stored =
                Stored { repository: &place.repository, folder: "shop", manifest: &manifest };
            let checked = stored.check(&env());
            assert_eq!(checked.unwrap_err().kind(), Kind::CheckFailed, "{}", artifact.name);
        }
        fs::write(&path, &sound).unwrap();
    }
    let data = restored.path().join("data");
    restore(&place, &manifest, &data, Action::Leave).unwrap();
}

/// Every file below a folder, with its content.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(found.insert(name, fs::read(&path).unwrap())),
            }
        }
    }
    found
}

/// The server's own program combines a chain, and so do we: block for block the same.
#[test]
fn what_is_combined_is_what_the_servers_program_makes() {
    for major in majors().iter().filter(|major| **major >= 17) {
        let cluster = cluster_with(*major, &["summarize_wal=on"]);
        let client = cluster.client("postgres").unwrap();
        run(
            &client,
            "CREATE TABLE public.large AS SELECT g AS id, md5(g::text) AS x, 0 AS n \
             FROM generate_series(1, 100000) g; \
             CREATE TABLE public.shrinks AS SELECT * FROM public.large; \
             CREATE TABLE public.gone AS SELECT 1 AS one; CREATE INDEX ON public.large (id)",
        );
        let place = place();
        let source = source(cluster.client("postgres").unwrap());
        let mut chain = vec![back_up_from(&place, &source).unwrap()];
        // Truncated, then longer again than it ever was; changed, made anew, dropped.
        for change in [
            "UPDATE public.large SET n = 1 WHERE id % 9000 = 0; DELETE FROM public.shrinks \
             WHERE id > 500; DROP TABLE public.gone",
            "INSERT INTO public.shrinks SELECT * FROM public.large; \
             CREATE TABLE public.new AS SELECT 2 AS two; UPDATE public.large SET n = 2 WHERE id < 9",
        ] {
            run(&client, change);
            run(&client, "VACUUM public.shrinks");
            source.build_on(Some(parent(&place, &chain[chain.len() - 1])));
            chain.push(back_up_from(&place, &source).unwrap());
        }
        let folder = folder();
        let mut command = as_server(&program(*major, "pg_combinebackup"));
        for manifest in &chain {
            let data = folder.path().join(&manifest.name);
            fs::create_dir(&data).unwrap();
            command.arg(unpack(&place, manifest, &data));
        }
        own(folder.path());
        let output = command.arg("-o").arg(folder.path().join("theirs")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ours = folder.path().join("ours");
        restore_chain(&place, &chain, &ours, Action::Leave).unwrap();
        let (theirs, mut ours) = (tree(&folder.path().join("theirs")), tree(&ours));
        for (name, content) in theirs {
            let own = ours.remove(&name).unwrap_or_else(|| panic!("{major}: {name} is missing"));
            // The manifests name times and an order of their own.
            if name == "backup_manifest" {
                continue;
            }
            assert_eq!(own.len(), content.len(), "{major}: {name}");
            let differing = own.chunks(8_192).zip(content.chunks(8_192)).enumerate();
            let differing: Vec<usize> =
                differing.filter(|(_, (one, other))| one != other).map(|(at, _)| at).collect();
            assert_eq!(differing, [0; 0], "{major}: blocks of {name}");
        }
        assert!(ours.is_empty(), "{major}: {:?}", ours.keys());
        server_verifies(*major, &folder.path().join("ours"));
    }
}
