//! Where the web page is, and who may reach it: what a configuration says, and what it may not.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

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

/// Where the page is, as far as that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    /// The address.
    pub(crate) address: SocketAddr,
    /// The certificate.
    pub(crate) tls: Option<TlsConfig>,
    /// Who speaks for others.
    pub(crate) proxies: Vec<IpAddr>,
    /// The names by which it is asked for, beside addresses and `localhost`.
    pub(crate) names: Vec<String>,
}

impl Listen {
    /// An address of this host alone.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Listen { address, tls: None, proxies: Vec::new(), names: Vec::new() }
    }

    /// Of what a configuration says; the key that is wrong, and why.
    pub(crate) fn read(
        address: &str,
        tls: Option<&TlsConfig>,
        proxies: &[String],
        names: &[String],
    ) -> Result<Self, (&'static str, String)> {
        let address: SocketAddr = address.parse().map_err(|_| {
            let message = "this is no address with a port: write 127.0.0.1:6464 or [::1]:6464";
            ("listen", message.to_owned())
        })?;
        let proxies: Vec<IpAddr> =
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
        if !address.ip().is_loopback() && tls.is_none() && proxies.is_empty() {
            let message = "others reach this address, who would read and change all that goes by: \
                           set `tls`, or name the `proxy` that has it, or listen on 127.0.0.1";
            return Err(("listen", message.to_owned()));
        }
        let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Listen { address, tls: tls.cloned(), proxies, names })
    }

    /// Whether all who reach it are on this host.
    pub(crate) fn is_of_this_host_alone(&self) -> bool {
        self.address.ip().is_loopback() && self.proxies.is_empty()
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
    }
}
