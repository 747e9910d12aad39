//! Connections: taken, answered, and ended.
//!
//! One thread waits for all of them and does nothing while nobody asks; what a page needs is read
//! and drawn on others. A connection that says nothing is closed, and so is one too many.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lifeboat_core::{Error, Kind, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::look::Looks;
use super::router::{self, Web};
use crate::session::Session;

/// So many connections are open at once.
const CONNECTIONS_MAX: usize = 256;
/// So many pages are drawn at once.
const DRAWN_MAX: usize = 4;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long those that are being answered may take when all ends.
const END: Duration = Duration::from_secs(5);

/// Listens there until a signal comes.
pub(crate) fn serve(session: &Session, address: SocketAddr) -> Result<ExitCode> {
    let failed = |error| Error::io(Kind::Failed, "cannot begin to listen", error);
    let clock = session.env()?.clock;
    let web = Arc::new(Web { looks: Looks::new(session.again()), clock });
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let (sender, receiver) = watch::channel(None);
    std::thread::spawn(move || {
        for signal in signals.forever() {
            // The one who listens may be gone already.
            let _ = sender.send(Some(signal));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(DRAWN_MAX)
        .thread_keep_alive(Duration::from_secs(10))
        .build()
        .map_err(failed)?;
    runtime.block_on(listen(session, address, router::router(web), receiver))
}

async fn listen(
    session: &Session,
    address: SocketAddr,
    router: Router,
    mut ending: watch::Receiver<Option<i32>>,
) -> Result<ExitCode> {
    let failed = |error| {
        Error::io(Kind::Failed, format!("cannot listen on {address}"), error)
            .hint("another program may listen there: choose another `listen` of `agent`")
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    session.printer.note(&format!("listening on http://{bound}/"));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let signal = loop {
        // Who finds no place waits outside.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break None };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.changed() => break *ending.borrow(),
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Such as no more files: that passes, and is no reason to end.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (router, mut ending) = (router.clone(), ending.clone());
        tokio::spawn(async move {
            let service = TowerToHyperService::new(router);
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                _ = ending.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(place);
        });
    };
    // All places are free again when all connections are closed.
    let all = places.acquire_many(u32::try_from(CONNECTIONS_MAX).unwrap_or(1));
    let _ = tokio::time::timeout(END, all).await;
    match signal {
        Some(SIGINT) => Err(Error::new(Kind::Interrupted, "interrupted")),
        _ => Err(Error::new(Kind::Terminated, "ended by SIGTERM")),
    }
}
