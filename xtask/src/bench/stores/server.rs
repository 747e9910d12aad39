//! The server of object storage that all contenders use, on loopback.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::object_storage;
use crate::process::output;

pub(super) const KEY: &str = "AKIALIFEBOATBENCH001";
pub(super) const SECRET: &str = "lifeboat/bench/secret+key/of+forty+chars";
pub(super) const BUCKET: &str = "backups";
/// A tick of the kernel's account of processor time.
const TICKS_PER_S: f64 = 100.0;

/// s3s-fs, which keeps objects as files. It ends with this value.
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
    pub(super) folder: PathBuf,
}

impl Server {
    pub(super) fn start(folder: &Path) -> Result<Server> {
        let program = object_storage::s3s_fs();
        if !program.exists() {
            bail!("s3s-fs is not installed: `cargo xtask servers` installs it");
        }
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for the server")?;
        let address = listener.local_addr()?;
        drop(listener);
        let mut server =
            Server { child: child(&program, address, folder)?, address, folder: folder.into() };
        server.empty()?;
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if begun.elapsed() > Duration::from_secs(20) || server.child.try_wait()?.is_some() {
                bail!("s3s-fs did not start on {address}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// As on the first day. The server keeps nothing but files.
    pub(super) fn empty(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => fs::remove_dir_all(path)?,
                false => fs::remove_file(path)?,
            }
        }
        Ok(fs::create_dir(self.folder.join(BUCKET))?)
    }

    /// Runs it on the second core alone, as if it were another machine; or on all again.
    pub(super) fn keep_to_its_core(&self, is_alone: bool) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = if is_alone { "1".to_owned() } else { format!("0-{}", cores - 1) };
        let mut command = Command::new("taskset");
        output(command.args(["-a", "-p", "-c", &cores, &self.child.id().to_string()])).map(drop)
    }

    /// The processor time that it has taken so far, in seconds.
    pub(super) fn cpu_s(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // Behind the name: the state is the first, time in itself the 12th, in the kernel the 13th.
        let ticks = |place: usize| fields.get(place).and_then(|text| text.parse::<f64>().ok());
        let both = ticks(11).zip(ticks(12)).context("no processor time in /proc")?;
        Ok((both.0 + both.1) / TICKS_PER_S)
    }
}

fn child(program: &Path, address: SocketAddr, folder: &Path) -> Result<Child> {
    fs::create_dir_all(folder)?;
    let mut command = Command::new(program);
    command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--access-key", KEY, "--secret-key", SECRET]).arg(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("cannot start s3s-fs")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
