//! Connections: taken, answered, and ended.
//!
//! One thread waits for all of them and does nothing while nobody asks; what a page needs is read
//! and drawn on others. A connection that says nothing is closed, and so is one too many.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lifeboat_core::{Error, Kind, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::access;
use super::guard::From;
use super::listener::{Listener, Stream};
use super::look::Looks;
use super::patience::{Patient, Places, SEND, TAKE};
use super::router::{self, Web};
use super::sessions::Sessions;
use crate::agent;
use crate::config::listen::{Listen, TlsConfig};
use crate::control;
use crate::memory;
use crate::private;
use crate::session::Session;

/// So many connections are open at once.
const CONNECTIONS_MAX: u32 = 256;
/// So many pages are drawn at once.
const DRAWN_MAX: usize = 4;
/// How long the first look is waited for.
const FIRST: Duration = Duration::from_secs(3);
/// How long those that are being answered may take when all ends.
const END: Duration = Duration::from_secs(5);

/// Where the page of this user is now, as a browser takes it.
pub(crate) fn address(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("address")).ok()?;
    Some(text.trim().to_owned())
}

/// Listens there until a signal comes.
pub(crate) fn serve(session: &Session, listen: Listen) -> Result<ExitCode> {
    let failed = |error| Error::io(Kind::Failed, "cannot begin to listen", error);
    let folder = access::folder(session)?;
    if !listen.is_of_this_host_alone() && access::read(&folder)?.is_empty() {
        let message = format!("others reach {}, and nobody is named who may enter", listen.address);
        return Err(Error::new(Kind::Refused, message).hint("lifeboat web password NAME"));
    }
    let tls = listen.tls.as_ref().map(acceptor).transpose()?;
    memory::share_heaps();
    let web = Arc::new(Web {
        looks: Looks::new(session.again()),
        env: session.env()?,
        sessions: Sessions::read(folder.join("sessions.json")),
        agent: control::path(session),
        base: Arc::new(agent::base(session)?),
        rate: Mutex::default(),
        tokens: Mutex::default(),
        seen: Mutex::default(),
        folder: folder.clone(),
        listen: listen.clone(),
    });
    let looks = Arc::clone(&web.looks);
    // What ended up to now is in the first look.
    let _ = web.agent();
    looks.begin(web.env.clock.now());
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let (sender, ending) = watch::channel(false);
    std::thread::spawn(move || {
        for _ in signals.forever() {
            // The one who listens may be gone already.
            let _ = sender.send(true);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(DRAWN_MAX)
        .thread_keep_alive(Duration::from_secs(10))
        .build()
        .map_err(failed)?;
    let door = Door { listen, tls, folder, looks, ending };
    runtime.block_on(door.open(session, router::router(web)))?;
    // What is still being drawn or told is for nobody any more.
    runtime.shutdown_background();
    // It runs until it is told to end: that is no failure.
    session.printer.note("ended: the page is shown no more");
    Ok(ExitCode::SUCCESS)
}

/// What speaks TLS with that certificate.
fn acceptor(tls: &TlsConfig) -> Result<TlsAcceptor> {
    let wrong = |path: &Path, why: String| {
        Error::new(Kind::Usage, format!("cannot use {}: {why}", path.display()))
            .hint("`tls` of `agent` names a certificate and its key, both as PEM")
    };
    let certificates = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| wrong(&tls.certificate, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|error| wrong(&tls.key, error.to_string()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(|error| wrong(&tls.certificate, error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Where connections come in.
struct Door {
    listen: Listen,
    tls: Option<TlsAcceptor>,
    folder: PathBuf,
    looks: Arc<Looks>,
    ending: watch::Receiver<bool>,
}

impl Door {
    async fn open(mut self, session: &Session, router: Router) -> Result<()> {
        let address = &self.listen.address;
        let failed = |error| {
            Error::io(Kind::Failed, format!("cannot listen on {address}"), error)
                .hint("another program may listen there: choose another `listen` of `agent`")
        };
        let listener = Listener::bind(address).await.map_err(failed)?;
        let url = listener.url(&self.listen).map_err(failed)?;
        // That of the one before leads nowhere, or here.
        let _ = fs::remove_file(self.folder.join("address"));
        // Nobody is told where it is before it can answer at once, unless that takes long.
        let looks = Arc::clone(&self.looks);
        let looked = tokio::task::spawn_blocking(move || looks.wait_for_first(FIRST));
        tokio::select! {
            _ = looked => {}
            _ = self.ending.changed() => return Ok(()),
        }
        // Where it cannot be written, `web open` goes by the configuration.
        let _ = private::replace(&self.folder.join("address"), url.as_bytes());
        session.printer.note(&format!("listening on {url}"));
        let places = Places::new(CONNECTIONS_MAX);
        loop {
            let come = async {
                let free = places.free().await;
                (free, listener.accept().await)
            };
            let (free, accepted) = tokio::select! {
                come = come => come,
                _ = self.ending.changed() => break,
            };
            match accepted {
                Ok((stream, from)) if self.may_connect(from) => {
                    let is_proxy = self.listen.proxies.contains(&from);
                    let place = free.and_then(|free| places.give(free, from, is_proxy));
                    let Some(place) = place else { continue };
                    let answering = self.answer(stream, from, router.clone());
                    tokio::spawn(async move {
                        answering.await;
                        drop(place);
                    });
                }
                Ok(_) => {}
                // Such as no more files: that passes, and is no reason to end.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        // All places are free again when all connections are closed.
        let _ = tokio::time::timeout(END, places.empty()).await;
        Ok(())
    }

    /// Where proxies are named, nobody else may.
    fn may_connect(&self, from: IpAddr) -> bool {
        let proxies = &self.listen.proxies;
        proxies.is_empty() || proxies.contains(&from)
    }

    fn answer(
        &self,
        stream: Box<dyn Stream>,
        from: IpAddr,
        router: Router,
    ) -> impl Future<Output = ()> + use<> {
        let (tls, ending) = (self.tls.clone(), self.ending.clone());
        let router = router.layer(Extension(From(from)));
        async move {
            let stream = Patient::new(stream, TAKE);
            match tls {
                None => talk(stream, router, ending).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(SEND, tls.accept(stream)).await {
                        talk(stream, router, ending).await;
                    }
                }
            }
        }
    }
}

/// Answers what comes by a connection, until it or everything ends.
async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    mut ending: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Who asked for something and went away asked for it all the same.
        .half_close(true)
        .header_read_timeout(SEND)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        // Whoever goes away goes away.
        _ = connection.as_mut() => {}
        _ = ending.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(Duration::from_secs(2), connection).await;
        }
    }
}
