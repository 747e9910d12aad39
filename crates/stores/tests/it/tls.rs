//! Servers whose certificate nobody on the internet signed: theirs is an authority of one's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat_core::Kind;
use lifeboat_core::store::{get_bytes, put_bytes};
use lifeboat_stores::{BucketStore, Options};

use crate::servers::{BUCKET, Server};
use crate::world::{env, name};

/// An authority, and a certificate of it for 127.0.0.1.
struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Authority {
        let authority = Authority { folder: tempfile::tempdir().unwrap() };
        let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
            -keyout ca.key -out ca.pem -days 2 -subj '/CN=an authority of ours' 2>&1 && \
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key \
            -out server.csr -subj /CN=s3 2>&1 && \
            printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > server.ext && \
            openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile server.ext -out server.pem 2>&1";
        let mut shell = Command::new("sh");
        let out = shell.args(["-c", script]).current_dir(authority.folder.path()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        authority
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }
}

fn store(server: &Server, certificate: Option<&Path>) -> BucketStore {
    let options = Options {
        endpoint: Some(format!("https://{}", server.address)),
        ca_certificate: certificate.map(Path::to_owned),
        timeout_ms: Some(5_000),
        ..server.options()
    };
    BucketStore::open(&env(), &format!("s3://{BUCKET}/x"), &options).unwrap()
}

#[test]
fn an_authority_of_ones_own_is_trusted_where_it_is_named_and_nowhere_else() {
    let (own, other) = (Authority::new(), Authority::new());
    let Some(server) = Server::moto_by_tls(&own.path("server.pem"), &own.path("server.key")) else {
        return;
    };
    let trusted = store(&server, Some(&own.path("ca.pem")));
    put_bytes(&trusted, &name("a/b"), b"behind tls").unwrap();
    assert_eq!(get_bytes(&trusted, &name("a/b"), 100).unwrap(), b"behind tls");
    for certificate in [None, Some(other.path("ca.pem"))] {
        let error = put_bytes(&store(&server, certificate.as_deref()), &name("a/c"), b"x");
        let error = error.unwrap_err();
        assert_eq!(error.kind(), Kind::StoreUnavailable);
        assert!(format!("{error:?}").contains("certificate"), "{error:?}");
        assert!(error.hint_text().unwrap().contains("ca_certificate"), "{error:?}");
    }
    let key = Options { ca_certificate: Some(own.path("server.key")), ..server.options() };
    let wrong = BucketStore::open(&env(), &format!("s3://{BUCKET}/x"), &key).err().unwrap();
    assert_eq!(wrong.kind(), Kind::Usage, "{wrong:?}");
}
