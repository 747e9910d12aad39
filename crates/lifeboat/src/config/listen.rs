//! Where the web page is, and who may reach it: what a configuration says, and what it may not.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The files by which a browser knows that it is us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsConfig {
    /// The certificate, with those that lead from it to one that browsers know (PEM).
    #[schemars(example = &"/etc/lifeboat/web.crt")]
    pub(crate) certificate: PathBuf,
    /// Its private key (PEM).
    #[schemars(example = &"/etc/lifeboat/web.key")]
    pub(crate) key: PathBuf,
}

/// By what it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// An address of the network.
    Network(SocketAddr),
    /// A socket with a path, for its owner alone: what connects there speaks for others.
    Socket(PathBuf),
}

/// Where the page is, as far as that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    /// The address.
    pub(crate) address: Address,
    /// The certificate.
    pub(crate) tls: Option<TlsConfig>,
    /// Who speaks for others.
    pub(crate) proxies: Vec<IpAddr>,
    /// The names by which it is asked for, beside addresses and `localhost`.
    pub(crate) names: Vec<String>,
}

impl Address {
    fn read(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match Path::new(path).is_absolute() {
                true => Ok(Address::Socket(path.into())),
                false => Err("write the whole path, as unix:/run/lifeboat/page.sock".to_owned()),
            };
        }
        text.parse().map(Address::Network).map_err(|_| {
            "this is no address with a port: write 127.0.0.1:6464, [::1]:6464 or unix:/PATH"
                .to_owned()
        })
    }

    fn of_network(&self) -> Option<&SocketAddr> {
        match self {
            Address::Network(address) => Some(address),
            Address::Socket(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Network(address) => address.fmt(formatter),
            Address::Socket(path) => path.display().fmt(formatter),
        }
    }
}

impl Listen {
    /// An address of this host alone.
    pub(crate) fn at(address: SocketAddr) -> Self {
        let address = Address::Network(address);
        Listen { address, tls: None, proxies: Vec::new(), names: Vec::new() }
    }

    /// Of what a configuration says; the key that is wrong, and why.
    pub(crate) fn read(
        address: &str,
        tls: Option<&TlsConfig>,
        proxies: &[String],
        names: &[String],
    ) -> Result<Self, (&'static str, String)> {
        let address = Address::read(address).map_err(|why| ("listen", why))?;
        if matches!(address, Address::Socket(_)) && (tls.is_some() || !proxies.is_empty()) {
            let message = "by a socket with a path only its owner connects, and without TLS";
            return Err((if tls.is_some() { "tls" } else { "proxy" }, message.to_owned()));
        }
        let mut proxies: Vec<IpAddr> =
            proxies.iter().map(|proxy| proxy.parse()).collect::<Result<_, _>>().map_err(|_| {
                ("proxy", "write the addresses of the proxies, as 10.0.0.7".to_owned())
            })?;
        let is_name = |name: &String| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
            !name.is_empty() && name.bytes().all(plain)
        };
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            let message = format!("`{}` is no host name", name.escape_debug());
            return Err(("names", message));
        }
        if matches!(address, Address::Socket(_)) {
            // Only the owner connects there, and says for whom.
            proxies.push(Ipv4Addr::UNSPECIFIED.into());
        }
        let is_far = |address: &SocketAddr| !address.ip().is_loopback();
        if address.of_network().is_some_and(is_far) && tls.is_none() && proxies.is_empty() {
            let message = "others reach this address, who would read and change all that goes by: \
                           set `tls`, or name the `proxy` that has it, or listen on 127.0.0.1";
            return Err(("listen", message.to_owned()));
        }
        let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Listen { address, tls: tls.cloned(), proxies, names })
    }

    /// Whether all who reach it are on this host.
    pub(crate) fn is_of_this_host_alone(&self) -> bool {
        let is_near = |address: &SocketAddr| address.ip().is_loopback();
        self.address.of_network().is_some_and(is_near) && self.proxies.is_empty()
    }

    /// How its addresses begin.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_reach_it_by_tls_or_by_a_proxy_that_is_named() {
        let tls = TlsConfig { certificate: "/c".into(), key: "/k".into() };
        let read = |address, tls, proxies: &[&str], names: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let (proxies, names): (Vec<String>, Vec<String>) = (owned(proxies), owned(names));
            Listen::read(address, tls, &proxies, &names).map_err(|(key, _)| key)
        };
        assert!(read("127.0.0.1:1", None, &[], &[]).unwrap().is_of_this_host_alone());
        assert!(read("[::1]:1", None, &[], &[]).is_ok());
        assert_eq!(read("0.0.0.0:1", None, &[], &[]), Err("listen"));
        assert_eq!(read("10.0.0.1:1", Some(&tls), &[], &[]).unwrap().scheme(), "https");
        assert!(!read("127.0.0.1:1", None, &["::1"], &[]).unwrap().is_of_this_host_alone());
        assert!(read("10.0.0.1:1", None, &["10.0.0.7"], &["Backup.example.org"]).is_ok());
        assert_eq!(read("localhost:1", None, &[], &[]), Err("listen"));
        assert_eq!(read("127.0.0.1:1", None, &["proxy"], &[]), Err("proxy"));
        assert_eq!(read("127.0.0.1:1", None, &[], &["a/b"]), Err("names"));
        let socket = read("unix:/run/page.sock", None, &[], &[]).unwrap();
        assert!(!socket.is_of_this_host_alone(), "what connects there speaks for others");
        assert_eq!(read("unix:page.sock", None, &[], &[]), Err("listen"));
        assert_eq!(read("unix:/p", Some(&tls), &[], &[]), Err("tls"));
        assert_eq!(read("unix:/p", None, &["10.0.0.7"], &[]), Err("proxy"));
    }
}
