//! What a URL `sftp://user@host:port/path` names, and how `ssh` is called for it.

use std::path::{Path, PathBuf};

use lifeboat_core::{Error, Kind, Result};

/// A folder on a host that is reached by SSH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftpAddress {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// Absolute, or relative to the folder in which a session begins.
    path: String,
    /// The configuration of `ssh` that is used instead of the user's.
    ssh_config: Option<PathBuf>,
    /// For how long a host may be silent, where that is set.
    timeout_ms: Option<u64>,
}

/// Words of `ssh -o` that hold for every connection: nothing asks, nothing hangs for ever, and
/// nothing but SFTP is carried.
const OPTIONS: &[&str] = &[
    "BatchMode=yes",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RequestTTY=no",
];

/// How long one attempt to connect may take, in seconds. `ssh` counts whole ones.
const CONNECT_S: u64 = 15;
/// A host that was never reached is given up after so long, in milliseconds.
const REACH_MS: u64 = 30_000;
/// For so long a host that was reached may be silent, in milliseconds.
const SILENT_MS: u64 = 120_000;

impl SftpAddress {
    /// Reads a URL. Errors: [`Kind::Usage`], also for one that holds a password.
    pub fn parse(url: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::new(Kind::Usage, format!("{} {what}", without_password(url)))
                .hint("write sftp://user@host/absolute/path, or sftp://user@host/~/path")
        };
        let rest = url.strip_prefix("sftp://").ok_or_else(|| wrong("is not an SFTP address"))?;
        let (authority, path) =
            rest.split_once('/').ok_or_else(|| wrong("names no folder on its host"))?;
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(decode(user).ok_or_else(|| wrong("is not a URL"))?), host),
            None => (None, authority),
        };
        if user.as_ref().is_some_and(|user| user.contains(':')) {
            return Err(Error::new(
                Kind::Usage,
                format!("{} holds a password", without_password(url)),
            )
            .hint("use a key: ssh-keygen -t ed25519, then ssh-copy-id user@host"));
        }
        let (host, port) = host_and_port(host).ok_or_else(|| wrong("has a port that is none"))?;
        let sound = |word: &str| {
            !word.is_empty()
                && !word.starts_with('-')
                && !word.chars().any(|c| c.is_whitespace() || c.is_control())
        };
        if !sound(&host) || user.as_ref().is_some_and(|user| !sound(user)) {
            return Err(wrong("names no host"));
        }
        let path = decode(path).ok_or_else(|| wrong("is not a URL"))?;
        let path = path.trim_end_matches('/');
        let path = match path.strip_prefix("~/") {
            Some(below_home) => below_home.trim_start_matches('/').to_owned(),
            None if path == "~" => String::new(),
            None => format!("/{path}"),
        };
        let climbs = path.split('/').any(|part| part == "." || part == "..");
        if climbs || path.contains('\0') {
            return Err(wrong("has a path that is not plain"));
        }
        Ok(SftpAddress { user, host, port, path, ssh_config: None, timeout_ms: None })
    }

    /// The same, reached with that configuration of `ssh` instead of the user's.
    #[must_use]
    pub fn with_ssh_config(mut self, file: Option<&Path>) -> Self {
        self.ssh_config = file.map(Path::to_owned);
        self
    }

    /// The same, given up when it is silent for so long.
    #[must_use]
    pub fn with_timeout_ms(mut self, timeout_ms: Option<u64>) -> Self {
        self.timeout_ms = timeout_ms;
        self
    }

    /// After so long no further attempt is begun to reach a host that was never reached.
    pub(super) fn reach_ms(&self) -> u64 {
        self.timeout_ms.unwrap_or(REACH_MS)
    }

    /// For how long a host may be silent.
    pub(super) fn silent_ms(&self) -> u64 {
        self.timeout_ms.unwrap_or(SILENT_MS)
    }

    /// The URL, as it is shown.
    pub(super) fn url(&self) -> String {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = match self.path.starts_with('/') {
            true => self.path.clone(),
            false => format!("/~/{}", self.path),
        };
        format!("sftp://{user}{host}{port}{}", encode(&path))
    }

    /// The path of an object, or of the folder itself for an empty name.
    pub(super) fn path(&self, name: &str) -> String {
        match (self.path.as_str(), name) {
            ("", "") => ".".to_owned(),
            ("", name) => name.to_owned(),
            ("/", name) => format!("/{name}"),
            (path, "") => path.to_owned(),
            (path, name) => format!("{path}/{name}"),
        }
    }

    /// The arguments of `ssh`.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(file) = &self.ssh_config {
            arguments.extend(["-F".to_owned(), file.to_string_lossy().into_owned()]);
        }
        for option in OPTIONS {
            arguments.extend(["-o".to_owned(), (*option).to_owned()]);
        }
        let connect_s = self.reach_ms().div_ceil(1_000).clamp(1, CONNECT_S);
        arguments.extend(["-o".to_owned(), format!("ConnectTimeout={connect_s}")]);
        if let Some(port) = self.port {
            arguments.extend(["-p".to_owned(), port.to_string()]);
        }
        if let Some(user) = &self.user {
            arguments.extend(["-l".to_owned(), user.clone()]);
        }
        arguments.extend(["-s", "--", &self.host, "sftp"].map(str::to_owned));
        arguments
    }

    /// The command with which a person tries the same connection.
    pub(super) fn command(&self, program: &str) -> String {
        let mut command = program.to_owned();
        if let Some(file) = &self.ssh_config {
            command.push_str(&format!(" -F {}", file.display()));
        }
        if let Some(port) = self.port {
            let flag = if program == "sftp" { "-P" } else { "-p" };
            command.push_str(&format!(" {flag} {port}"));
        }
        let user = self.user.as_ref().filter(|_| program != "ssh-keyscan");
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        format!("{command} {user}{}", self.host)
    }

    /// The host as `known_hosts` has it.
    pub(super) fn known_host(&self) -> String {
        match self.port {
            Some(port) if port != 22 => format!("[{}]:{port}", self.host),
            _ => self.host.clone(),
        }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }
}

fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host.to_owned(), Some(port.parse().ok()?))),
            None => port.is_empty().then(|| (host.to_owned(), None)),
        };
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host.to_owned(), Some(port.parse().ok()?))),
        None => Some((text.to_owned(), None)),
    }
}

fn without_password(url: &str) -> String {
    let Some((before, host)) = url.rsplit_once('@') else { return url.to_owned() };
    match before.strip_prefix("sftp://").and_then(|user| user.split_once(':')) {
        Some((user, _)) => format!("sftp://{user}:***@{host}"),
        None => url.to_owned(),
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

fn encode(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'%' | b'?' | b'#' | b' ' | 0..=0x1f | 0x7f.. => text.push_str(&format!("%{byte:02X}")),
            _ => text.push(char::from(byte)),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> SftpAddress {
        SftpAddress::parse(url).unwrap()
    }

    #[test]
    fn addresses_are_read_and_shown_again() {
        for url in [
            "sftp://ann@backup.example.org/srv/lifeboat",
            "sftp://backup:2222/srv/a%20b",
            "sftp://u@[2001:db8::1]:22/x",
            "sftp://host/~/lifeboat",
        ] {
            assert_eq!(parsed(url).url(), url);
        }
        assert_eq!(parsed("sftp://host/").path("a/b"), "/a/b");
        assert_eq!(parsed("sftp://host/~/").path("a"), "a");
        assert_eq!(parsed("sftp://host/~/").path(""), ".");
        assert_eq!(parsed("sftp://host/srv/").path(""), "/srv");
        assert_eq!(parsed("sftp://host/~/x").path("a"), "x/a");
    }

    #[test]
    fn what_is_no_address_says_why() {
        for url in [
            "sftp://host",
            "sftp:///path",
            "sftp://-oProxyCommand=x/path",
            "sftp://-l@host/path",
            "sftp://host:port/path",
            "sftp://a b/path",
            "sftp://host/a/../b",
            "sftp://host/%zz",
        ] {
            let error = SftpAddress::parse(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{url}");
        }
        let error = SftpAddress::parse("sftp://ann:secret@host/path").unwrap_err();
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        assert!(error.message().ends_with("holds a password"), "{error}");
    }

    #[test]
    fn the_host_is_never_an_option() {
        let arguments = parsed("sftp://ann@host:2222/x").arguments();
        let text = arguments.join(" ");
        assert!(text.ends_with("-p 2222 -l ann -s -- host sftp"), "{text}");
        assert!(!text.contains("StrictHostKeyChecking"), "{text}");
        assert!(text.contains("-o ConnectTimeout=15 "), "{text}");
    }

    #[test]
    fn a_limit_is_that_of_a_connection_too() {
        for (timeout_ms, connect_s) in [(300, 1), (5_000, 5), (5_001, 6), (60_000, 15)] {
            let address = parsed("sftp://host/x").with_timeout_ms(Some(timeout_ms));
            let text = address.arguments().join(" ");
            assert!(text.contains(&format!("-o ConnectTimeout={connect_s} ")), "{text}");
            assert_eq!((address.reach_ms(), address.silent_ms()), (timeout_ms, timeout_ms));
        }
    }
}
