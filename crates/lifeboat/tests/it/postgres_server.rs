//! Real servers of PostgreSQL for the tests, and the program beside them.

use std::io::Write;
use std::process::{Command, Stdio};

use lifeboat_postgres::{Client, Session, ThrowAwayCluster};
pub(crate) use lifeboat_test_support::postgres::{
    folders, kinds_of_majors, majors, majors_if_long,
};
pub(crate) use lifeboat_test_support::skipped;

use crate::support::{Ran, World, ran};

/// Who may come in how: by the socket everybody, over TCP with a password.
const ACCESS: &str = "local all all trust\nlocal replication all trust\n\
    host all,replication all 127.0.0.1/32 scram-sha-256\n";

/// A server of its own for one test.
pub(crate) struct Server {
    cluster: ThrowAwayCluster,
    port: Option<u16>,
    _access: Option<tempfile::NamedTempFile>,
}

impl Server {
    /// One that is reached by its socket alone.
    pub(crate) fn new(major: u32) -> Server {
        Server::with(major, &[])
    }

    /// The same with more settings: `name=value`.
    pub(crate) fn with(major: u32, settings: &[&str]) -> Server {
        let cluster = lifeboat_test_support::postgres::cluster(major, settings);
        Server { cluster, port: None, _access: None }
    }

    /// One that listens on 127.0.0.1 and wants a password there.
    pub(crate) fn tcp(major: u32) -> Server {
        let mut access = tempfile::Builder::new().prefix("lifeboat-hba-").tempfile().unwrap();
        access.write_all(ACCESS.as_bytes()).unwrap();
        // The server runs as another user.
        crate::support::set_mode(access.path(), 0o644);
        let hba = format!("hba_file={}", access.path().display());
        let port = lifeboat_test_support::free_port();
        let port_setting = format!("port={port}");
        let settings = ["listen_addresses=127.0.0.1", hba.as_str(), port_setting.as_str()];
        let server = Server::with(major, &settings);
        Server { port: Some(port), _access: Some(access), ..server }
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap()
    }

    /// The folder of the socket.
    pub(crate) fn sockets(&self) -> String {
        self.cluster.address("postgres").get("host").unwrap().to_owned()
    }

    /// A URL by the socket, as that role.
    pub(crate) fn url_as(&self, role: &str, database: &str) -> String {
        let port = self.port.map(|port| format!("&port={port}")).unwrap_or_default();
        format!("postgresql:///{database}?host={}&user={role}{port}", self.sockets())
    }

    /// A URL by the socket, as the superuser.
    pub(crate) fn url(&self, database: &str) -> String {
        self.url_as("postgres", database)
    }

    /// A client of a database in it, as the superuser.
    pub(crate) fn client(&self, database: &str) -> Client {
        self.cluster.client(database).unwrap()
    }

    /// A session that stays open.
    pub(crate) fn session(&self, database: &str) -> Session {
        Session::open(&self.client(database), "the test").unwrap()
    }

    /// Runs statements.
    #[track_caller]
    pub(crate) fn sql(&self, database: &str, statements: &str) {
        self.session(database).execute(statements).unwrap();
    }

    /// A program of the server's version, on a database.
    pub(crate) fn tool(&self, name: &str, database: &str) -> Command {
        let client = self.client(database);
        let program = client.program(name, Some(self.cluster.major())).unwrap();
        client.command(&program)
    }

    /// The lines that a query answers.
    #[track_caller]
    pub(crate) fn ask(&self, database: &str, query: &str) -> Vec<String> {
        let mut command = self.tool("psql", database);
        let output = command.args(["-XAtc", query]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// The databases that are no templates, sorted.
    pub(crate) fn databases(&self) -> Vec<String> {
        self.ask("template1", "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")
    }

    /// The whole database as text, without what differs from dump to dump.
    #[track_caller]
    pub(crate) fn text(&self, database: &str) -> String {
        let output = self.tool("pg_dump", database).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let same =
            |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
        text.lines().filter(same).collect::<Vec<_>>().join("\n")
    }

    /// Waits until a query answers something.
    pub(crate) fn wait_for(&self, query: &str) {
        for _ in 0..3_000 {
            if !self.ask("template1", query).is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("nobody answers {query}");
    }
}

/// The program in a world, with the client programs of all versions on its `PATH`.
pub(crate) fn command(world: &World, arguments: &[&str]) -> Command {
    let mut paths = folders();
    paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let mut command = world.command(arguments);
    command.env("PATH", std::env::join_paths(paths).unwrap());
    command
}

/// Runs it.
pub(crate) fn run(world: &World, arguments: &[&str]) -> Ran {
    ran(command(world, arguments).output().unwrap())
}

/// A world with one source `shop`, which is that database.
pub(crate) fn world_of(url: &str) -> World {
    world_with(url, "")
}

/// The same, with more lines about the database.
pub(crate) fn world_with(url: &str, more: &str) -> World {
    let world = World::new();
    configure(&world, url, more);
    world
}

/// Writes the configuration of a source `shop`.
pub(crate) fn configure(world: &World, url: &str, more: &str) {
    world.configure(&format!(
        "[repository.local]\nurl = \"file://$REPO\"\n\
         [source.shop.postgres]\nurl = \"{url}\"\n{more}"
    ));
}

/// A small shop: two tables, a view of both, and a sequence.
pub(crate) const SHOP: &str = "
CREATE TABLE public.customer (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE public.item (id serial PRIMARY KEY, customer int REFERENCES public.customer, price numeric);
CREATE VIEW public.spent AS SELECT customer, sum(price) AS total FROM public.item GROUP BY customer;
INSERT INTO public.customer SELECT i, 'name ' || i FROM generate_series(1, 100) AS i;
INSERT INTO public.item (customer, price)
  SELECT 1 + i % 100, i * 0.5 FROM generate_series(1, 1000) AS i;
";

/// A server with a database `shop`.
pub(crate) fn shop(major: u32) -> Server {
    let server = Server::new(major);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", SHOP);
    server
}
