//! Where a database is: what PostgreSQL's client library calls connection parameters.
//!
//! Read from a URL (`postgres://`, `postgresql://`), from keywords and values, from a PDO data
//! source name (`pgsql:host=...`), or from parts. The password is taken out at once and kept apart:
//! it never reaches a command line, a message or a manifest.

use std::collections::BTreeMap;

pub(crate) use lifeboat_core::secret::Secret;
use lifeboat_core::{Error, Kind, Result};

/// The parameters of a connection, without secrets, and the password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// By the names that the client library has for them: "host", "port", "user", "dbname".
    parameters: BTreeMap<String, String>,
    /// The password, where the address held one or one was given.
    pub password: Option<Secret>,
}

/// Parameters that no configuration of ours sets: they would reach a command line with a secret,
/// or change what the programs print.
const REFUSED: &[&str] = &["sslpassword", "options", "replication", "client_encoding"];

impl Address {
    /// Reads what a person wrote, whichever way.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let scheme = ["postgres://", "postgresql://"];
        let address = match scheme.iter().find_map(|scheme| text.strip_prefix(scheme)) {
            Some(rest) => of_url(rest),
            None => match text.strip_prefix("pgsql:") {
                Some(rest) => of_pairs(rest.split(';').map(str::to_owned)),
                None if text.contains('=') => of_keywords(text),
                None => Err("it is neither a URL nor keywords and values".to_owned()),
            },
        };
        let address = address.map_err(|why| {
            Error::new(Kind::Usage, format!("the address of a PostgreSQL database is wrong: {why}"))
                .hint("write postgresql://USER@HOST:5432/DATABASE; special characters as %40")
        })?;
        address.check()
    }

    fn check(self) -> Result<Self> {
        if let Some(refused) = REFUSED.iter().find(|name| self.parameters.contains_key(**name)) {
            return Err(Error::new(
                Kind::Usage,
                format!("the parameter `{refused}` is not for the address of a database"),
            )
            .hint("remove it; for `sslpassword` use a key without one, readable by its owner"));
        }
        Ok(self)
    }

    /// All parameters by their names, without the password.
    pub(crate) fn parameters(&self) -> &BTreeMap<String, String> {
        &self.parameters
    }

    /// A parameter that is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Sets a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.parameters.insert(name.to_owned(), value.into());
        self
    }

    /// The same server, another database.
    #[must_use]
    pub fn with_database(self, database: &str) -> Self {
        self.with("dbname", database)
    }

    /// The database's name, where the address says it.
    pub fn database(&self) -> Option<&str> {
        self.get("dbname")
    }

    /// Keywords and values, as the client programs take them after `-d`: without the password.
    pub fn conninfo(&self) -> String {
        let pairs = self.parameters.iter().map(|(name, value)| {
            let value = value.replace('\\', r"\\").replace('\'', r"\'");
            format!("{name}='{value}'")
        });
        pairs.collect::<Vec<_>>().join(" ")
    }

    /// A URL that a person can use: with the role, never with a password.
    pub fn url(&self) -> String {
        let label = self.label();
        match (self.get("user"), label.strip_prefix("postgresql://")) {
            (Some(user), Some(rest)) => format!("postgresql://{}@{rest}", encoded(user)),
            _ => label,
        }
    }

    /// A URL for labels: what names the same database whoever reads it. Never with a password, nor
    /// with details of TLS.
    pub fn label(&self) -> String {
        let mut label = String::from("postgresql://");
        if let Some(service) = self.get("service") {
            label.push_str(&format!("service={}", encoded(service)));
        }
        let (hosts, ports) = (self.get("host"), self.get("port"));
        let host = hosts.or(self.get("hostaddr")).unwrap_or_default();
        let by_socket = host.starts_with('/') || host.starts_with('@');
        if !by_socket {
            let ports: Vec<&str> = ports.unwrap_or_default().split(',').collect();
            let places = host.split(',').enumerate().map(|(index, host)| {
                let host = match host.contains(':') {
                    true => format!("[{host}]"),
                    false => encoded(host),
                };
                match ports.get(index).or(ports.first()).filter(|port| !port.is_empty()) {
                    Some(port) if !host.is_empty() => format!("{host}:{port}"),
                    _ => host,
                }
            });
            label.push_str(&places.collect::<Vec<_>>().join(","));
        }
        label.push('/');
        label.push_str(&encoded(self.database().unwrap_or_default()));
        if by_socket {
            label.push_str(&format!("?host={}", encoded_path(host)));
            if let Some(port) = ports {
                label.push_str(&format!("&port={port}"));
            }
        } else if let (true, Some(port)) = (host.is_empty(), ports) {
            label.push_str(&format!("?port={port}"));
        }
        label
    }
}

/// What is behind the scheme. A password may hold an `@` that nobody encoded: the last one before
/// the path ends it.
fn of_url(rest: &str) -> Result<Address, String> {
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, query),
        None => (rest, ""),
    };
    // Where a password holds a `/` the user part ends behind it all the same: at the last `@`.
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, rest),
    };
    let (hosts, database) = match place.split_once('/') {
        Some((hosts, database)) => (hosts, database),
        None => (place, ""),
    };
    let mut address = Address::default();
    if let Some(user) = user {
        let (user, password) = match user.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (user, None),
        };
        address.set("user", &decoded(user)?);
        if let Some(password) = password {
            address.set("password", &decoded(password)?);
        }
    }
    address.set_hosts(hosts)?;
    address.set("dbname", &decoded(database)?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| format!("`{pair}` behind the ? has no value"))?;
        // A relic of JDBC's URLs that the client library takes too.
        let (name, value) = match (name, decoded(value)?) {
            ("ssl", value) if value == "true" => ("sslmode", "require".to_owned()),
            (name, value) => (name, value),
        };
        address.set_known(&decoded(name)?, &value)?;
    }
    Ok(address)
}

impl Address {
    /// Sets what is not empty, the password apart.
    fn set(&mut self, name: &str, value: &str) {
        match name {
            _ if value.is_empty() => {}
            "password" => self.password = Some(Secret::new(value)),
            _ => {
                self.parameters.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    fn set_known(&mut self, name: &str, value: &str) -> Result<(), String> {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        match !name.is_empty() && name.bytes().all(is_word) {
            true => self.set(name, value),
            false => return Err(format!("`{name}` is not the name of a parameter")),
        }
        Ok(())
    }

    /// One host or several, each with or without a port; IPv6 in brackets.
    fn set_hosts(&mut self, text: &str) -> Result<(), String> {
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for one in text.split(',') {
            let (host, port) = match one.strip_prefix('[') {
                Some(rest) => {
                    let (host, after) =
                        rest.split_once(']').ok_or("an IPv6 address lacks its `]`")?;
                    (host, after.strip_prefix(':').unwrap_or(""))
                }
                None => one.rsplit_once(':').unwrap_or((one, "")),
            };
            if !port.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!("`{port}` is not a port"));
            }
            hosts.push(decoded(host)?);
            ports.push(port.to_owned());
        }
        self.set("host", &hosts.join(","));
        if ports.iter().any(|port| !port.is_empty()) {
            self.set("port", &ports.join(","));
        }
        Ok(())
    }
}

/// `host=localhost port=5432`, values in quotes where they hold spaces.
fn of_keywords(text: &str) -> Result<Address, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or("a keyword has no `=`")?;
        let mut value = String::new();
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut letters = after.char_indices().skip(usize::from(quoted));
        let mut end = after.len();
        let mut closed = !quoted;
        while let Some((index, letter)) = letters.next() {
            match letter {
                '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
                '\'' if quoted => {
                    (closed, end) = (true, index + 1);
                    break;
                }
                letter if !quoted && letter.is_whitespace() => {
                    end = index;
                    break;
                }
                letter => value.push(letter),
            }
        }
        if !closed {
            return Err("a quote is not closed".to_owned());
        }
        pairs.push(format!("{}={value}", name.trim()));
        rest = after[end..].trim_start();
    }
    of_pairs(pairs.into_iter())
}

fn of_pairs(pairs: impl Iterator<Item = String>) -> Result<Address, String> {
    let mut address = Address::default();
    for pair in pairs.filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("a keyword has no `=`")?;
        address.set_known(name.trim(), value)?;
    }
    Ok(address)
}

fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()].map(|digit| {
            digit.and_then(|digit| char::from(digit).to_digit(16)).map(|digit| digit as u8)
        });
        match digits {
            [Some(high), Some(low)] if high * 16 + low != 0 => bytes.push(high * 16 + low),
            _ => return Err("a % is not followed by two hexadecimal digits".to_owned()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

fn encoded_path(text: &str) -> String {
    encoded(text).replace("%2F", "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, Option<String>) {
        let address = Address::parse(text).unwrap();
        let password = address.password.as_ref().map(|password| password.expose().to_owned());
        (address.conninfo(), password)
    }

    #[test]
    fn urls_are_read_as_people_write_them() {
        let cases = [
            (
                "postgresql://ann:secret@db.example:5433/chat",
                "dbname='chat' host='db.example' port='5433' user='ann'",
                Some("secret"),
            ),
            ("postgres://localhost/chat", "dbname='chat' host='localhost'", None),
            (
                "postgres://ann@localhost/chat?sslmode=require",
                "dbname='chat' host='localhost' sslmode='require' user='ann'",
                None,
            ),
            (
                "postgresql://ann:p%40ss%2Fw@127.0.0.1/chat",
                "dbname='chat' host='127.0.0.1' user='ann'",
                Some("p@ss/w"),
            ),
            (
                "postgresql://ann:p@ss@127.0.0.1/chat",
                "dbname='chat' host='127.0.0.1' user='ann'",
                Some("p@ss"),
            ),
            ("postgresql:///chat?host=/run/pg", "dbname='chat' host='/run/pg'", None),
            ("postgresql://%2Frun%2Fpg/chat", "dbname='chat' host='/run/pg'", None),
            ("postgresql://[::1]:5432/chat", "dbname='chat' host='::1' port='5432'", None),
            (
                "postgresql://a:1,b/chat?target_session_attrs=primary",
                "dbname='chat' host='a,b' port='1,' target_session_attrs='primary'",
                None,
            ),
        ];
        for (url, conninfo, password) in cases {
            assert_eq!(parsed(url), (conninfo.to_owned(), password.map(str::to_owned)), "{url}");
        }
    }

    #[test]
    fn keywords_and_data_source_names_are_read() {
        let cases = [
            ("host=localhost dbname = 'my chat' password='it''s'", "a keyword has no `=`"),
            ("host=localhost dbname='my", "a quote is not closed"),
        ];
        for (text, why) in cases {
            let error = Address::parse(text).unwrap_err();
            assert!(error.message().contains(why), "{text}: {error}");
        }
        assert_eq!(
            parsed(r"host=localhost dbname='my \'chat\'' password=a\ b user=ann"),
            (r"dbname='my \'chat\'' host='localhost' user='ann'".into(), Some("a b".into()))
        );
        assert_eq!(
            parsed("pgsql:host=localhost;port=5432;dbname=chat;user=ann;password=x y"),
            ("dbname='chat' host='localhost' port='5432' user='ann'".into(), Some("x y".into()))
        );
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for wrong in [
            "postgresql://ann:hush@localhost:54x/chat",
            "postgresql://ann:hush%4@localhost/chat",
            "postgresql://ann:hush@localhost/chat?sslmode",
            "postgresql://ann:hush@localhost/chat?options=-cx",
            "mysql://ann:hush@localhost/chat",
            "",
        ] {
            let error = Address::parse(wrong).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{wrong}");
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
        let address = Address::parse("postgresql://ann:hush@localhost/chat").unwrap();
        assert!(
            !format!("{address:?} {} {}", address.label(), address.conninfo()).contains("hush")
        );
    }

    #[test]
    fn labels_are_addresses_again() {
        for (text, label) in [
            ("postgresql://ann:x@h:5433/my%20chat", "postgresql://h:5433/my%20chat"),
            ("postgresql:///chat?host=/run/my%20pg", "postgresql:///chat?host=/run/my%20pg"),
            ("postgresql://[::1]/chat", "postgresql://[::1]/chat"),
            ("postgresql:///chat?port=5433", "postgresql:///chat?port=5433"),
            ("service=main dbname=chat", "postgresql://service=main/chat"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.label(), label);
            if !label.contains("service") {
                assert_eq!(Address::parse(label).unwrap().label(), label);
            }
        }
    }

    #[test]
    fn a_url_for_people_names_the_role() {
        let address = Address::parse("postgresql://a%20b:hush@h/chat").unwrap();
        assert_eq!(address.url(), "postgresql://a%20b@h/chat");
        let address = Address::parse("postgresql://ann@/chat?host=/run/pg&port=5").unwrap();
        assert_eq!(address.url(), "postgresql://ann@/chat?host=/run/pg&port=5");
        assert_eq!(Address::parse(&address.url()).unwrap(), address);
    }

    proptest::proptest! {
        #[test]
        fn any_password_survives_its_encoding(password in "\\PC{1,20}", name in "\\PC{1,20}") {
            let url = format!("postgresql://ann:{}@h/{}", encoded(&password), encoded(&name));
            let address = Address::parse(&url).unwrap();
            let read = address.password.as_ref().map(Secret::expose);
            proptest::prop_assert_eq!(read, Some(password.as_str()));
            proptest::prop_assert_eq!(address.parameters.get("dbname"), Some(&name));
        }

        #[test]
        fn conninfo_is_read_as_it_was_written(value in "\\PC{1,20}") {
            let address = Address::default().with("dbname", value.clone());
            let again = Address::parse(&address.conninfo()).unwrap();
            proptest::prop_assert_eq!(again.parameters.get("dbname"), Some(&value));
        }
    }
}
