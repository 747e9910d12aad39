//! Sealing: what is stored is encrypted in the age format, and what is read is opened again.
//!
//! Whoever writes backups needs the recipients alone, which are public; only an [`Identity`] opens
//! what was sealed to them, with us or with `age -d`. Nothing else in the house knows of the crate
//! behind it. Its randomness comes from the operating system and not from `Env`: a key that could
//! be foreseen, be it by a simulation, is none.

mod identity;
mod label;
mod recipient;

use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use age::{DecryptError, Decryptor, Encryptor};

use self::label::{Label, Looking};
use crate::error::{Error, Kind, Result};

pub use identity::{AskPassphrase, Identity, Passphrase, protect};
pub use recipient::Recipients;

/// The ending of the name of whatever is sealed.
pub const SUFFIX: &str = ".age";

/// The word that manifests have for the format.
pub const WORD: &str = "age";

/// What a sealed stream begins with.
const MAGIC: &[u8] = b"age-encryption.org/v1\n";

/// What it begins with in the form of text.
const ARMOR: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";

/// Where identities come from when something sealed is to be opened. Asked no sooner than that: a
/// passphrase may be needed.
pub trait Keys: Send + Sync {
    /// All identities that were named. [`Kind::WrongKey`] if none was.
    fn identity(&self) -> Result<Arc<Identity>>;
}

/// Whether a stream that begins with these bytes is sealed.
pub fn is_sealed(first_bytes: &[u8]) -> bool {
    let begins = |with: &[u8]| {
        let bytes = with.len().min(first_bytes.len());
        bytes >= 16 && first_bytes[..bytes] == with[..bytes]
    };
    begins(MAGIC) || begins(ARMOR)
}

/// Seals what is written into it. Without [`Sealing::finish`] it stays a stream that cannot be
/// opened.
pub struct Sealing<W: Write>(age::stream::StreamWriter<W>);

impl<W: Write> Sealing<W> {
    /// Begins a stream to those recipients.
    pub fn begin(recipients: &Recipients, output: W) -> std::io::Result<Self> {
        let encryptor =
            Encryptor::with_recipients(recipients.each()).map_err(std::io::Error::other)?;
        encryptor.wrap_output(output).map(Sealing)
    }

    /// The same, with a label that can be read without a key: what it is, in a word, and its
    /// bytes.
    pub fn begin_labelled(
        recipients: &Recipients,
        (kind, bytes): (&str, &[u8]),
        output: W,
    ) -> std::io::Result<Self> {
        let label = Label { kind, bytes };
        let each = std::iter::once(&label as &dyn age::Recipient).chain(recipients.each());
        let encryptor = Encryptor::with_recipients(each).map_err(std::io::Error::other)?;
        encryptor.wrap_output(output).map(Sealing)
    }

    /// Ends the stream, and gives back where it went.
    pub fn finish(self) -> std::io::Result<W> {
        self.0.finish()
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Seals a small object.
pub fn seal_bytes(recipients: &Recipients, plain: &[u8]) -> Result<Vec<u8>> {
    let sealed = (|| {
        let mut sealing = Sealing::begin(recipients, Vec::new())?;
        sealing.write_all(plain)?;
        sealing.finish()
    })();
    sealed.map_err(|error| Error::new(Kind::Failed, "cannot seal it").caused_by(error))
}

/// The label of that kind in the head of a sealed stream; without a key nobody knows whether it is
/// the one that it was sealed with. `None` where it has none.
pub fn label_of(kind: &str, sealed: impl Read) -> Result<Option<Vec<u8>>> {
    let looking = Looking::for_kind(kind);
    let opened = Decryptor::new_buffered(BufReader::with_capacity(4 << 10, sealed))
        .and_then(|head| head.decrypt(std::iter::once(&looking as &dyn age::Identity)));
    match opened {
        Err(DecryptError::NoMatchingKeys) => Ok(looking.found()),
        Err(DecryptError::Io(error)) => Err(read_error(error)),
        Err(error) => Err(Error::new(Kind::CheckFailed, "its seal is damaged").caused_by(error)),
        Ok(_) => Err(Error::new(Kind::Failed, "a label opened a seal")),
    }
}

/// What can be read from any place on.
pub trait ReadSeek: Read + Seek {}

impl<R: Read + Seek> ReadSeek for R {}

/// Opens a small object, whose plain bytes are no more than the sealed ones.
pub fn open_bytes(opener: &Opener, object: &str, sealed: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(sealed.len());
    opener.open(object, sealed)?.read_to_end(&mut plain).map_err(|error| {
        let message = format!("{object} is damaged");
        match error.downcast::<Error>() {
            Ok(error) => error.context(message),
            Err(error) => Error::new(Kind::CheckFailed, message).caused_by(error),
        }
    })?;
    Ok(plain)
}

/// An identity for an object, with what the object's manifest says of its recipients.
#[derive(Clone)]
pub struct Opener {
    identity: Arc<Identity>,
    sealed_to: Vec<String>,
}

impl Opener {
    /// `sealed_to` may be empty where nobody knows.
    pub fn new(identity: Arc<Identity>, sealed_to: &[String]) -> Self {
        Opener { identity, sealed_to: sealed_to.to_vec() }
    }

    /// Opens a stream: its plain bytes. [`Kind::WrongKey`] if it was sealed to others,
    /// [`Kind::CheckFailed`] if it is damaged; so are errors while it is read.
    pub fn open<'r, R: Read + Send + 'r>(
        &self,
        object: &str,
        sealed: R,
    ) -> Result<Box<dyn Read + Send + 'r>> {
        let mut sealed = BufReader::with_capacity(256 << 10, sealed);
        let first = std::io::BufRead::fill_buf(&mut sealed).map_err(read_error)?;
        match first.starts_with(&ARMOR[..16]) {
            true => self.open_binary(object, age::armor::ArmoredReader::new(sealed)),
            false => self.open_binary(object, sealed),
        }
    }

    /// The same, to read from any place on. A stream in the form of text cannot be.
    pub fn open_parts<'r, R: Read + Seek + Send + 'r>(
        &self,
        object: &str,
        sealed: R,
    ) -> Result<Box<dyn ReadSeek + Send + 'r>> {
        let opened =
            Decryptor::new(sealed).and_then(|decryptor| decryptor.decrypt(self.identity.each()));
        match opened {
            Ok(reader) => Ok(Box::new(Opened(reader))),
            Err(error) => Err(self.unopened(object, error)),
        }
    }

    fn unopened(&self, object: &str, error: DecryptError) -> Error {
        match error {
            DecryptError::NoMatchingKeys => self.wrong_key(object),
            DecryptError::Io(error) => read_error(error),
            error => Error::new(Kind::CheckFailed, "its seal is damaged").caused_by(error),
        }
    }

    fn open_binary<'r, R: std::io::BufRead + Send + 'r>(
        &self,
        object: &str,
        sealed: R,
    ) -> Result<Box<dyn Read + Send + 'r>> {
        let opened = Decryptor::new_buffered(sealed)
            .and_then(|decryptor| decryptor.decrypt(self.identity.each()));
        match opened {
            Ok(reader) => Ok(Box::new(Opened(reader))),
            Err(error) => Err(self.unopened(object, error)),
        }
    }

    fn wrong_key(&self, object: &str) -> Error {
        let given = self.identity.recipients().join(", ");
        let mut message = format!("{object} was not sealed to the key that was given ({given})");
        if !self.sealed_to.is_empty() {
            message.push_str(&format!(", but to {}", self.sealed_to.join(", ")));
        }
        Error::new(Kind::WrongKey, message)
            .hint("name the file of a key that it was sealed to: --identity FILE")
    }
}

/// An error of the reader below the seal is its own; one of the seal means damage.
fn read_error(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::new(Kind::CheckFailed, "its seal is damaged").caused_by(error),
    }
}

/// The plain bytes of a sealed stream. Its errors hold ours.
struct Opened<R: Read>(age::stream::StreamReader<R>);

impl<R: Read> Read for Opened<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                Err(std::io::Error::other(read_error(error)))
            }
            read => read,
        }
    }
}

impl<R: Read + Seek> Seek for Opened<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to).map_err(|error| std::io::Error::other(read_error(error)))
    }
}

/// What opens an object that says that it is sealed, or the error that says what is missing.
pub fn opener_of(keys: Option<&dyn Keys>, object: &str, sealed_to: &[String]) -> Result<Opener> {
    let Some(keys) = keys else {
        let mut message = format!("{object} is sealed, and no key was given");
        if !sealed_to.is_empty() {
            message.push_str(&format!("; it opens with that of {}", sealed_to.join(" or ")));
        }
        return Err(Error::new(Kind::WrongKey, message).hint(
            "name the file of the key: --identity FILE, or identity = { file = \"...\" } in the \
             configuration",
        ));
    };
    Ok(Opener::new(keys.identity()?, sealed_to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (Arc<Identity>, Recipients) {
        let identity = Identity::generate();
        let recipients = Recipients::parse(identity.recipients()).unwrap();
        (Arc::new(identity), recipients)
    }

    #[test]
    fn what_is_sealed_opens_with_each_of_its_keys() {
        let ((one, _), (two, _)) = (key(), key());
        let names = [one.recipients(), two.recipients()].concat();
        let sealed = seal_bytes(&Recipients::parse(&names).unwrap(), b"content").unwrap();
        assert!(is_sealed(&sealed) && !sealed.windows(7).any(|bytes| bytes == b"content"));
        for identity in [one, two] {
            let opener = Opener::new(identity, &names);
            assert_eq!(open_bytes(&opener, "x", &sealed).unwrap(), b"content");
        }
    }

    #[test]
    fn a_label_is_read_without_a_key_and_others_open_what_has_one() {
        let (identity, recipients) = key();
        for length in [0, 1, 47, 48, 49, 140, 144] {
            let bytes = vec![7; length];
            let mut sealing =
                Sealing::begin_labelled(&recipients, ("pagelog", &bytes), Vec::new()).unwrap();
            sealing.write_all(b"content").unwrap();
            let sealed = sealing.finish().unwrap();
            assert_eq!(label_of("pagelog", &sealed[..]).unwrap(), Some(bytes));
            assert_eq!(label_of("other", &sealed[..]).unwrap(), None);
            let opener = Opener::new(Arc::clone(&identity), &[]);
            assert_eq!(open_bytes(&opener, "x", &sealed).unwrap(), b"content");
            // What is changed in the label is seen by whoever has the key.
            let at = sealed.windows(7).position(|window| window == b"pagelog").unwrap();
            let mut changed = sealed.clone();
            changed[at] = b'P';
            let error = open_bytes(&opener, "x", &changed).unwrap_err();
            assert_eq!(error.kind(), Kind::CheckFailed);
        }
        let unlabelled = seal_bytes(&recipients, b"content").unwrap();
        assert_eq!(label_of("pagelog", &unlabelled[..]).unwrap(), None);
        assert_eq!(label_of("x", &b"no seal"[..]).unwrap_err().kind(), Kind::CheckFailed);
    }

    #[test]
    fn a_wrong_key_is_no_damage_and_names_the_right_one() {
        let ((_, recipients), (other, _)) = (key(), key());
        let sealed = seal_bytes(&recipients, b"content").unwrap();
        let error = open_bytes(&Opener::new(other, recipients.names()), "x", &sealed).unwrap_err();
        assert_eq!(error.kind(), Kind::WrongKey);
        assert!(error.message().contains(&recipients.names()[0]), "{error}");
    }

    #[test]
    fn a_cut_or_flipped_stream_is_damaged_wherever_it_is() {
        let (identity, recipients) = key();
        let plain = vec![7; 200_000];
        let sealed = seal_bytes(&recipients, &plain).unwrap();
        let opener = Opener::new(identity, &[]);
        for cut in [0, 10, 100, 300, 70_000, sealed.len() - 1] {
            let error = open_bytes(&opener, "x", &sealed[..cut]).unwrap_err();
            assert_eq!(error.kind(), Kind::CheckFailed, "{cut}: {error:?}");
        }
        for place in [3, sealed.len() / 2, sealed.len() - 1] {
            let mut flipped = sealed.clone();
            flipped[place] ^= 1;
            let error = open_bytes(&opener, "x", &flipped).unwrap_err();
            assert_eq!(error.kind(), Kind::CheckFailed, "{place}: {error:?}");
        }
    }
}
