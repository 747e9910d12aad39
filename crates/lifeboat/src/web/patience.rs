//! How long a visitor may take, and how much room one of them gets.
//!
//! Whoever sends or takes byte after byte, each a little later, would else hold a place for ever,
//! and all places soon: the head of a request, its body, and what is answered each have their time,
//! and no address gets all places.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};

/// How long the head of a request may take, the beginning of TLS, and the body.
pub(super) const SEND: Duration = Duration::from_secs(10);
/// How long a visitor may take nothing of what is answered.
pub(super) const TAKE: Duration = Duration::from_secs(30);
/// What a form may be at most, in bytes.
pub(super) const FORM_BYTES_MAX: usize = 64 << 10;

/// A stream whose other side must go on taking what is sent.
pub(super) struct Patient<S> {
    stream: S,
    most: Duration,
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// At most so long nothing is taken.
    pub(super) fn new(stream: S, most: Duration) -> Self {
        Patient { stream, most, waits: None }
    }

    fn timed<T>(&mut self, cx: &mut Context<'_>, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if sent.is_ready() {
            self.waits = None;
            return sent;
        }
        let most = self.most;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(most)));
        waits.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed(cx, sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.timed(cx, sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(cx);
        self.timed(cx, sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.timed(cx, sent)
    }
}

/// The request with all of its body, which has to come within that time.
pub(super) async fn whole(request: Request, most: Duration) -> Result<Request, StatusCode> {
    let (head, body) = request.into_parts();
    match timeout(most, to_bytes(body, FORM_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(head, Body::from(bytes))),
        Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

/// The places for connections.
pub(super) struct Places {
    all: Arc<Semaphore>,
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    most: u32,
}

/// One of them, free again when this is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Places {
    /// So many.
    pub(super) fn new(most: u32) -> Self {
        let all = Arc::new(Semaphore::new(most as usize));
        Places { all, taken: Arc::default(), most }
    }

    /// Waits until there is one. Who finds none waits outside.
    pub(super) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// Gives it to an address; `None` where that has half of all already, and is none that speaks
    /// for many.
    pub(super) fn give(
        &self,
        permit: OwnedSemaphorePermit,
        address: IpAddr,
        is_proxy: bool,
    ) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let theirs = taken.get(&address).copied().unwrap_or(0);
        if !is_proxy && theirs >= (self.most as usize).div_ceil(2) {
            return None;
        }
        taken.insert(address, theirs + 1);
        Some(Place { _permit: permit, taken: Arc::clone(&self.taken), address })
    }

    /// Waits until nobody has one any more.
    pub(super) async fn empty(&self) {
        let _ = self.all.acquire_many(self.most).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        match taken.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.address)),
        }
    }
}

fn lock(taken: &Mutex<BTreeMap<IpAddr, usize>>) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const SHORT: Duration = Duration::from_millis(30);
    const LONG: Duration = Duration::from_secs(600);

    fn wait<T>(what: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what)
    }

    #[test]
    fn who_takes_nothing_is_left() {
        wait(async {
            let (ours, mut theirs) = duplex(8);
            let mut ours = Patient::new(ours, SHORT);
            let error = ours.write_all(&[0; 64]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            // Who takes it piece by piece gets all of it.
            let mut got = vec![0; 8];
            theirs.read_exact(&mut got).await.unwrap();
            let mut ours = Patient::new(ours.stream, LONG);
            let sent = tokio::spawn(async move { ours.write_all(&[7; 64]).await });
            let mut got = vec![0; 64];
            theirs.read_exact(&mut got).await.unwrap();
            sent.await.unwrap().unwrap();
            assert_eq!(got, [7; 64]);
        });
    }

    #[test]
    fn a_body_comes_whole_and_in_time_or_not_at_all() {
        // A body that never ends, as a stream that nobody writes to.
        struct Never;
        impl axum::body::HttpBody for Never {
            type Data = axum::body::Bytes;
            type Error = io::Error;
            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
                Poll::Pending
            }
        }
        let of = |body: Body, most| wait(whole(Request::new(body), most)).map(drop);
        assert_eq!(of(Body::from("a=b"), LONG), Ok(()));
        assert_eq!(of(Body::new(Never), SHORT), Err(StatusCode::REQUEST_TIMEOUT));
        let large = Body::from(vec![0; FORM_BYTES_MAX + 1]);
        assert_eq!(of(large, LONG), Err(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[test]
    fn no_address_has_all_places_but_a_proxy() {
        wait(async {
            let places = Places::new(4);
            let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
            let give = async |last, is_proxy| {
                places.give(places.free().await.unwrap(), address(last), is_proxy)
            };
            let first = give(1, false).await;
            let second = give(1, false).await;
            assert!(first.is_some() && second.is_some());
            assert!(give(1, false).await.is_none());
            let other = give(2, false).await;
            assert!(other.is_some());
            // What was refused took no place.
            drop(first);
            assert!(give(1, false).await.is_some());
            let proxied = (give(9, true).await, give(9, true).await);
            assert!(proxied.0.is_some() && proxied.1.is_some());
            drop((second, other, proxied));
            places.empty().await;
            assert!(lock(&places.taken).is_empty());
        });
    }
}
