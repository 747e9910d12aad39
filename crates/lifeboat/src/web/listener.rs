//! Where connections come from: an address of the network, or a socket with a path.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::config::listen::{Address, Listen};
use crate::control;

/// From where all comes that comes by a socket with a path.
pub(super) const BY_SOCKET: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What waits for connections.
pub(super) enum Listener {
    Network(TcpListener),
    /// Its path is removed with this.
    Socket(UnixListener, PathBuf),
}

impl Listener {
    /// Begins to wait there.
    pub(super) async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Network(address) => Ok(Listener::Network(TcpListener::bind(address).await?)),
            Address::Socket(path) => {
                // One that answers is of somebody who lives; others are what a killed one left.
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                let listener = control::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Socket(UnixListener::from_std(listener)?, path.clone()))
            }
        }
    }

    /// Where that is, as a browser takes it: by a socket it is what asks there that has a name.
    pub(super) fn url(&self, listen: &Listen) -> io::Result<String> {
        match (self, listen.names.first()) {
            (Listener::Network(listener), _) => {
                Ok(format!("{}://{}/", listen.scheme(), listener.local_addr()?))
            }
            (Listener::Socket(..), Some(name)) => Ok(format!("https://{name}/")),
            (Listener::Socket(..), None) => Ok("http://localhost/".to_owned()),
        }
    }

    /// The next connection, and from which address it is.
    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Stream>, IpAddr)> {
        match self {
            Listener::Network(listener) => {
                let (stream, from) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok((Box::new(stream), from.ip().to_canonical()))
            }
            Listener::Socket(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), BY_SOCKET))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Socket(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}
