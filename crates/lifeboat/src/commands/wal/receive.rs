//! `lifeboat wal receive`: the log as the server writes it, for a loss of seconds.

use std::process::ExitCode;

use lifeboat_core::env::Env;
use lifeboat_core::retry::{Retry, may_pass};
use lifeboat_core::{Error, Kind, Result};
use lifeboat_postgres::wal::Lsn;
use lifeboat_postgres::wal::receive::{self, ReceiveOptions, Received, Until};
use serde_json::json;

use super::exit::Rule;
use super::limit::Limit;
use super::{Subject, target};
use crate::config::values::{Period, Size};
use crate::session::Session;
use crate::signals;
use crate::ui::units;

/// Between two attempts to connect: they grow from one second to half a minute.
const RETRY: Retry = Retry { times: u32::MAX, delay_ms: 1_000, delay_ms_max: 30_000 };
/// What came is durable after so many bytes at the latest.
const FLUSH_BYTES: u64 = 4 << 20;

/// Receive the log as the server writes it
///
/// What a server wrote is in every repository of the source, read back, within --every; the server
/// keeps the rest for the replication slot, which is made if it is not there and stays. Pieces of a
/// segment become one when it is whole. It runs until it is told to end, and connects again when
/// the connection or a repository was lost; it follows the server to another timeline.
///
/// With --synchronous it stores at once. A server with synchronous_standby_names = 'lifeboat' then
/// lets no transaction end before it is in the repositories.
///
/// A slot that nobody reads fills the disk of the server. With --slot-max a slot that holds on to
/// more is a warning; with --drop-slot it is removed, which leaves a gap, and the exit code is 22.
/// That holds while a repository is away too.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The source of the configuration; needed where there are several clusters
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
    /// The name of the replication slot
    #[arg(long, value_name = "NAME", default_value = "lifeboat", value_parser = slot_name)]
    slot: String,
    /// How long what came may wait until it is stored: 1s, 10s
    #[arg(long, value_name = "TIME", default_value = "2s")]
    every: Period,
    /// Store at once what came
    #[arg(long, conflicts_with = "every")]
    synchronous: bool,
    /// End when this place of the log is durable: 0/3000028
    #[arg(long, value_name = "LSN")]
    until: Option<Lsn>,
    /// End when all is durable that the server had written at the start
    #[arg(long, conflicts_with = "until")]
    once: bool,
    /// How much of the log the slot may hold on to: 10GB
    #[arg(long, value_name = "SIZE")]
    slot_max: Option<Size>,
    /// Remove the slot when it holds on to more
    #[arg(long, requires = "slot_max")]
    drop_slot: bool,
    /// End with an error when a segment takes longer, as where a repository neither answers nor
    /// fails
    #[arg(long, value_name = "TIME", default_value = "10m")]
    limit: Period,
}

fn slot_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    match (1..=63).contains(&text.len()) && text.bytes().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err("a slot's name has lower-case letters, digits and _".to_owned()),
    }
}

pub(super) fn run(session: &Session, args: &Args) -> Result<ExitCode> {
    let mut env = session.env()?;
    env.stop = signals::catch();
    let target = target(session, args.source.as_deref())?;
    let Some(cluster) = &target.cluster else {
        return Err(Error::new(Kind::Usage, "the source has no server"));
    };
    let client = cluster.client()?;
    let subject = Subject::of(session, &env, Some(&target.name))?;
    let options = ReceiveOptions {
        slot: args.slot.clone(),
        flush_ms: if args.synchronous { 0 } else { args.every.milliseconds },
        flush_bytes: FLUSH_BYTES,
        until: args.until.map(Until::Place).or(args.once.then_some(Until::Now)),
        slot_bytes_max: args.slot_max.map(|size| size.bytes),
        drop_slot: args.drop_slot,
        scratch: session.folders.scratch.clone(),
    };
    let archive = |system: u64| {
        let (archive, failures) = subject.for_writing(session, &env, system)?;
        // What is not in all of them is not safe.
        super::all_of(failures).map(|()| archive)
    };
    let mut failed = 0;
    // Started again by its service, it looks at the slot first.
    let limit = Limit::begin(session, args.limit, Rule::Ours);
    loop {
        limit.alive();
        let begun_ms = env.clock.monotonic_ms();
        let alive = || limit.alive();
        let error = match receive::receive(&env, &client, &options, &archive, &alive) {
            Ok(received) => return end(session, &target.name, received),
            Err(error) => error,
        };
        if error.kind() == Kind::NotCovered && args.drop_slot {
            receive::drop_slot(&env, &client, &args.slot)?;
            return Err(error);
        }
        // A once-only run is somebody's who can try again.
        let is_lasting = options.until.is_none();
        let passes = may_pass(error.kind()) || error.kind() == Kind::StoreAbsent;
        failed = if env.elapsed_ms(begun_ms) > RETRY.delay_ms_max { 1 } else { failed + 1 };
        // Told to end while it waits, it ends as it does at work.
        let error = match passes && is_lasting {
            true => match again(&env, &target.name, &error, failed) {
                Ok(()) => continue,
                Err(end) => end,
            },
            false => error,
        };
        if is_lasting && signals::is_end(&error) {
            // It runs until it is told to end: the slot keeps what was not stored.
            session.printer.note("ended: what was not stored yet is kept by the slot");
            return Ok(ExitCode::SUCCESS);
        }
        return Err(error);
    }
}

fn again(env: &Env, name: &str, error: &Error, failed: u32) -> Result<()> {
    let mut random = [0; 8];
    env.random.fill(&mut random);
    let delay_ms = RETRY.delay_ms(failed, u64::from_le_bytes(random));
    let seconds = delay_ms.div_ceil(1_000);
    env.warn(name, &format!("{error}; connecting again in {seconds} s"));
    env.pause_ms(delay_ms)
}

fn end(session: &Session, name: &str, received: Received) -> Result<ExitCode> {
    let Received { flushed, timeline } = received;
    match session.printer.json() {
        true => session.printer.json_data(&json!({
            "source": name, "flushed": flushed.to_string(), "timeline": timeline,
        }))?,
        false => {
            let name = units::one_line(name);
            session.printer.note(&format!("{name}: the log is safe up to {flushed}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
