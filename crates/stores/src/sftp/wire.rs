//! The packets of SFTP version 3: made, and taken apart. Nothing is sent or received here.
//!
//! Whatever a server sends is input: lengths are checked before anything is believed.

use jiff::Timestamp;

/// Kinds of requests.
pub(super) const INIT: u8 = 1;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const FSTAT: u8 = 8;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const STAT: u8 = 17;
pub(super) const RENAME: u8 = 18;
pub(super) const EXTENDED: u8 = 200;

/// Kinds of answers.
const VERSION: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

/// Flags of [`OPEN`].
pub(super) const OPEN_READ: u32 = 0x01;
pub(super) const OPEN_WRITE: u32 = 0x02;
pub(super) const OPEN_CREATE: u32 = 0x08;
pub(super) const OPEN_EXCLUSIVE: u32 = 0x20;

/// Codes of [`Status`].
pub(super) const OK: u32 = 0;
pub(super) const END_OF_FILE: u32 = 1;
pub(super) const NO_SUCH_FILE: u32 = 2;
pub(super) const PERMISSION_DENIED: u32 = 3;
pub(super) const FAILURE: u32 = 4;

/// The longest packet that is taken for one. Servers send at most 256 KiB and a header.
pub(super) const PACKET_BYTES_MAX: usize = 1 << 20;

const HAS_SIZE: u32 = 0x01;
const HAS_OWNER: u32 = 0x02;
const HAS_MODE: u32 = 0x04;
const HAS_TIMES: u32 = 0x08;
const HAS_EXTENDED: u32 = 0x8000_0000;

const MODE_KIND: u32 = 0o170_000;
const MODE_FOLDER: u32 = 0o040_000;
const MODE_FILE: u32 = 0o100_000;

/// A packet that is being made.
pub(super) struct Request(Vec<u8>);

impl Request {
    /// Begins a packet of that kind; `id` is that of a request, or the version in [`INIT`].
    pub(super) fn new(kind: u8, id: u32) -> Self {
        let mut bytes = vec![0, 0, 0, 0, kind];
        bytes.extend(id.to_be_bytes());
        Request(bytes)
    }

    pub(super) fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn text(mut self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        self.0.extend((text.len() as u32).to_be_bytes());
        self.0.extend(text);
        self
    }

    /// Attributes that say the mode alone.
    pub(super) fn mode(self, mode: u32) -> Self {
        self.u32(HAS_MODE).u32(mode)
    }

    /// Attributes that say nothing.
    pub(super) fn no_attributes(self) -> Self {
        self.u32(0)
    }

    /// The packet with its length before it.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        let length = (self.0.len() - 4) as u32;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// What a server says of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) bytes: Option<u64>,
    mode: Option<u32>,
    modified_s: Option<u32>,
}

impl Attributes {
    pub(super) fn is_folder(&self) -> bool {
        self.mode.is_some_and(|mode| mode & MODE_KIND == MODE_FOLDER)
    }

    pub(super) fn is_file(&self) -> bool {
        self.mode.is_some_and(|mode| mode & MODE_KIND == MODE_FILE)
    }

    pub(super) fn modified(&self) -> Timestamp {
        let seconds = self.modified_s.map(i64::from).unwrap_or_default();
        Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) attributes: Attributes,
}

/// What a server answered instead of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: u32,
    pub(super) message: String,
}

impl Status {
    pub(super) fn is(&self, code: u32) -> bool {
        self.code == code
    }
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Response {
    Status(Status),
    Handle(Vec<u8>),
    Data(Vec<u8>),
    Names(Vec<Entry>),
    Attributes(Attributes),
    Extended(Vec<u8>),
}

/// Why bytes are no packet.
pub(super) type Malformed = &'static str;

/// The length of the packet that begins a buffer, if it is there as a whole.
pub(super) fn whole_packet(buffer: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    match length {
        0..5 => Err("a packet is too short"),
        _ if length > PACKET_BYTES_MAX => Err("what it sends is not SFTP"),
        _ => Ok((rest.len() >= length).then_some(length)),
    }
}

/// The greeting: the server's version, and the extensions that it has.
pub(super) fn greeting(packet: &[u8]) -> Result<(u32, Vec<String>), Malformed> {
    let mut fields = Fields(packet);
    if fields.u8()? != VERSION {
        return Err("what it sends first is not SFTP's greeting");
    }
    let version = fields.u32()?;
    let mut extensions = Vec::new();
    while !fields.0.is_empty() {
        extensions.push(String::from_utf8_lossy(fields.text()?).into_owned());
        fields.text()?;
    }
    Ok((version, extensions))
}

/// Takes an answer apart: the id of its request, and what it says.
pub(super) fn response(packet: &[u8]) -> Result<(u32, Response), Malformed> {
    let mut fields = Fields(packet);
    let (kind, id) = (fields.u8()?, fields.u32()?);
    let response = match kind {
        STATUS => {
            let code = fields.u32()?;
            // Old servers leave the message away.
            let message = fields.text().unwrap_or_default();
            let message = String::from_utf8_lossy(message).into_owned();
            Response::Status(Status { code, message })
        }
        HANDLE => Response::Handle(fields.text()?.to_vec()),
        DATA => Response::Data(fields.text()?.to_vec()),
        NAME => {
            let count = fields.u32()?;
            let mut entries = Vec::new();
            for _ in 0..count {
                let name = fields.text()?.to_vec();
                fields.text()?;
                entries.push(Entry { name, attributes: fields.attributes()? });
            }
            Response::Names(entries)
        }
        ATTRS => Response::Attributes(fields.attributes()?),
        EXTENDED_REPLY => Response::Extended(fields.0.to_vec()),
        _ => return Err("an answer is of a kind that is not known"),
    };
    Ok((id, response))
}

/// Numbers of 64 bits, one after the other, as extensions answer.
pub(super) fn numbers<const N: usize>(bytes: &[u8]) -> Result<[u64; N], Malformed> {
    let mut fields = Fields(bytes);
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = fields.u64()?;
    }
    Ok(numbers)
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or("a packet is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| "a packet is cut short")?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| "a packet is cut short")?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn attributes(&mut self) -> Result<Attributes, Malformed> {
        let flags = self.u32()?;
        let mut found = Attributes::default();
        if flags & HAS_SIZE != 0 {
            found.bytes = Some(self.u64()?);
        }
        if flags & HAS_OWNER != 0 {
            self.take(8)?;
        }
        if flags & HAS_MODE != 0 {
            found.mode = Some(self.u32()?);
        }
        if flags & HAS_TIMES != 0 {
            self.u32()?;
            found.modified_s = Some(self.u32()?);
        }
        if flags & HAS_EXTENDED != 0 {
            for _ in 0..self.u32()? {
                self.text()?;
                self.text()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(request: Request) -> Vec<u8> {
        request.into_bytes()[4..].to_vec()
    }

    #[test]
    fn what_is_made_can_be_taken_apart() {
        let packet = Request::new(STATUS, 7).u32(NO_SUCH_FILE).text("gone").text("en");
        let status = Status { code: NO_SUCH_FILE, message: "gone".into() };
        assert_eq!(response(&body(packet)), Ok((7, Response::Status(status))));
        let packet = Request::new(ATTRS, 9).u32(HAS_SIZE | HAS_OWNER | HAS_MODE | HAS_TIMES);
        let packet = packet.u64(1 << 40).u32(1).u32(2).u32(0o100_600).u32(3).u32(1_700_000_000);
        let (id, answer) = response(&body(packet)).unwrap();
        let Response::Attributes(found) = answer else { panic!("{answer:?}") };
        assert_eq!((id, found.bytes), (9, Some(1 << 40)));
        assert!(found.is_file() && !found.is_folder());
        assert_eq!(found.modified().as_second(), 1_700_000_000);
    }

    #[test]
    fn every_cut_of_an_answer_is_an_error_and_never_a_panic() {
        let entry = |packet: Request| packet.text("a").text("-rw a").u32(HAS_SIZE).u64(5);
        let names = entry(entry(Request::new(NAME, 1).u32(2)));
        for whole in [body(names), body(Request::new(DATA, 1).text("abc"))] {
            assert!(response(&whole).is_ok());
            for length in 0..whole.len() {
                assert!(response(&whole[..length]).is_err(), "cut at {length}");
            }
        }
        // A count that no packet can hold.
        assert!(response(&body(Request::new(NAME, 1).u32(u32::MAX))).is_err());
    }

    #[test]
    fn text_of_a_shell_is_no_packet() {
        assert!(whole_packet(b"Welcome to this host\n").is_err());
        assert_eq!(whole_packet(&[0, 0, 0, 9, 2]), Ok(None));
        assert_eq!(whole_packet(&[0, 0]), Ok(None));
        assert!(whole_packet(&[0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn a_greeting_names_its_extensions() {
        let packet = Request::new(VERSION, 3).text("fsync@openssh.com").text("1");
        assert_eq!(greeting(&body(packet)), Ok((3, vec!["fsync@openssh.com".to_owned()])));
    }
}
