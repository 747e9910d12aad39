//! The first words of a connection: who we are, and the proof of it.

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::connection::ReplicationConnection;
use super::parameters::{Parameters, Place, TlsMode};
use super::tls;
use super::wire::Wire;
use crate::address::Secret;
use crate::client::ClientOptions;

/// What a connection is for.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// Commands of the replication protocol.
    Replication,
    /// Statements in a database, with settings of the session: `-c name=value`.
    Statements { settings: &'a str },
}

/// Connects to the first place that answers, and logs in.
pub(super) fn open(
    env: &Env,
    parameters: &Parameters,
    options: &ClientOptions,
    purpose: Purpose<'_>,
    what: &str,
) -> Result<ReplicationConnection> {
    let mut last = None;
    for place in &parameters.places {
        env.proceed()?;
        let wire = match Wire::connect(env, place, parameters.connect_timeout_ms, what) {
            Ok(wire) => wire,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        let password = parameters.password_for(place, options);
        return log_in(wire, place, parameters, purpose, password.as_ref());
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::Usage, format!("{what}: no host is named"))))
}

fn log_in(
    mut wire: Wire,
    place: &Place,
    parameters: &Parameters,
    purpose: Purpose<'_>,
    password: Option<&Secret>,
) -> Result<ReplicationConnection> {
    if let (Place::Host { name, .. }, true) = (place, parameters.tls_mode != TlsMode::Disable)
        && wire.may_be_tls()
    {
        let secured = wire.upgrade(tls::config(parameters)?, name)?;
        if !secured && parameters.tls_mode > TlsMode::Prefer {
            let message = format!("{}: the server does not offer TLS", wire.what());
            return Err(Error::new(Kind::SourceUnavailable, message)
                .hint("set `ssl = on` there, or ask for less: sslmode=prefer"));
        }
    }
    let mut words = vec![
        ("user", parameters.user.as_str()),
        ("application_name", "lifeboat"),
        ("client_encoding", "UTF8"),
    ];
    match purpose {
        Purpose::Replication => words.push(("replication", "true")),
        Purpose::Statements { settings } => {
            words.extend(parameters.database.as_deref().map(|database| ("database", database)));
            words.push(("options", settings));
        }
    }
    frontend::startup_message(words, &mut wire.outbox)
        .map_err(|error| Error::io(Kind::Usage, "a parameter of the connection", error))?;
    wire.flush()?;
    let mut connection = ReplicationConnection::new(wire);
    authenticate(&mut connection, parameters, password)?;
    connection.until_ready()?;
    Ok(connection)
}

fn authenticate(
    connection: &mut ReplicationConnection,
    parameters: &Parameters,
    password: Option<&Secret>,
) -> Result<()> {
    let mut scram: Option<ScramSha256> = None;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let tag = connection.message_within(parameters.connect_timeout_ms)?;
        if tag != b'R' || attempts > 20 {
            return Err(connection.unexpected(tag));
        }
        let body = connection.body().to_vec();
        let Some((kind, data)) = body.split_first_chunk::<4>() else {
            return Err(connection.unexpected(tag));
        };
        let what = connection.what().to_owned();
        let needed = || {
            password.map(|password| password.expose().as_bytes()).ok_or_else(|| {
                Error::new(
                    Kind::SourceUnavailable,
                    format!("{what}: the server wants a password of `{}`", parameters.user),
                )
                .hint(
                    "give one: password = { file = \"...\" }, or a line in ~/.pgpass whose \
                     database is `replication` or `*`",
                )
            })
        };
        let refused = |error: std::io::Error| {
            Error::io(Kind::SourceUnavailable, format!("{what}: the log-in failed"), error)
        };
        let outbox = connection.outbox();
        match u32::from_be_bytes(*kind) {
            0 => return Ok(()),
            3 => frontend::password_message(needed()?, outbox).map_err(refused)?,
            5 => {
                let salt = data.first_chunk::<4>().copied().unwrap_or_default();
                let hash = md5_hash(parameters.user.as_bytes(), needed()?, salt);
                frontend::password_message(hash.as_bytes(), outbox).map_err(refused)?;
            }
            10 => {
                let offered = data.split(|byte| *byte == 0).any(|name| name == b"SCRAM-SHA-256");
                if !offered {
                    return Err(Error::new(
                        Kind::SourceUnavailable,
                        format!("{what}: the server offers no way to log in that we know"),
                    ));
                }
                let started = ScramSha256::new(needed()?, ChannelBinding::unsupported());
                frontend::sasl_initial_response(SCRAM_SHA_256, started.message(), outbox)
                    .map_err(refused)?;
                scram = Some(started);
            }
            11 => {
                let Some(scram) = &mut scram else { return Err(connection.unexpected(tag)) };
                scram.update(data).map_err(refused)?;
                frontend::sasl_response(scram.message(), outbox).map_err(refused)?;
            }
            12 => {
                let Some(scram) = &mut scram else { return Err(connection.unexpected(tag)) };
                // The server proves here that it knows the password too.
                scram.finish(data).map_err(refused)?;
                continue;
            }
            _ => {
                return Err(Error::new(
                    Kind::SourceUnavailable,
                    format!("{what}: the server wants GSSAPI or SSPI, which is not supported here"),
                )
                .hint("allow scram-sha-256 or a certificate for this role in pg_hba.conf"));
            }
        }
        connection.flush()?;
    }
}
