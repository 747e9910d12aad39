//! Data directories of real servers: their pages, `pg_control` and manifests.

use std::fs;
use std::os::unix::fs::FileExt;

use lifeboat_postgres::control::{Control, State};
use lifeboat_postgres::page::PAGE_BYTES;
use lifeboat_postgres::recovery::scan::scan_folder;

use crate::support::{cluster, env, majors, run};

#[test]
fn pages_of_each_version_are_sound_until_a_bit_flips() {
    for major in majors() {
        let cluster = cluster(*major);
        let client = cluster.client("postgres").unwrap();
        run(
            &client,
            "CREATE TABLE public.t AS SELECT g, repeat('x', g % 90) AS x \
                      FROM generate_series(1, 20000) g; CREATE INDEX ON public.t (g); \
                      VACUUM public.t; CHECKPOINT",
        );
        let data = cluster.data_folder();
        let control = Control::of_folder(&data).unwrap();
        assert!(control.data_checksums, "{major}");
        assert_eq!(control.state, State::InProduction, "{major}");
        assert_eq!((control.page_bytes, control.wal_segment_bytes), (8_192, 16 << 20));
        assert_eq!(control.limits.connections, 20, "{major}");
        let sound = scan_folder(&env(), &data).unwrap();
        assert_eq!(sound.named, [], "{major}");
        assert!(sound.pages > 1_000, "{major}: {}", sound.pages);
        let file = fs::File::options().write(true).open(table(&data)).unwrap();
        file.write_all_at(b"!", 3 * PAGE_BYTES as u64 + 5_000).unwrap();
        let damaged = scan_folder(&env(), &data).unwrap();
        assert_eq!((damaged.damaged, damaged.named[0].block), (1, 3), "{major}");
    }
}

/// The largest file of the database.
fn table(data: &std::path::Path) -> std::path::PathBuf {
    let folders = fs::read_dir(data.join("base")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    let sized = files.map(|file| file.unwrap()).map(|f| (f.metadata().unwrap().len(), f.path()));
    sized.max().unwrap().1
}
