//! A tar stream as a server writes it, read while it goes by.
//!
//! Only what a base backup holds is taken: files, folders and links with short names. Everything
//! else is refused, never skipped.

use lifeboat_core::{Error, Kind, Result};
use tar::{EntryType, Header};

pub(super) const BLOCK_BYTES: usize = 512;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file of so many bytes.
    File(u64),
    /// A folder.
    Folder,
    /// A symbolic link to that place.
    Link(String),
}

/// An entry of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarEntry {
    /// Its path, without `./` in front and `/` at the end.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner and group on the server's host.
    pub owner: (u32, u32),
    /// Its header, as it came.
    pub header: Vec<u8>,
}

/// Gets what a stream holds, in order.
pub trait TarSink {
    /// An entry begins. A file's bytes follow, then its end; of the others nothing follows.
    fn entry(&mut self, entry: &TarEntry) -> Result<()>;
    /// The next bytes of the file.
    fn data(&mut self, bytes: &[u8]) -> Result<()>;
    /// The file ended.
    fn end(&mut self) -> Result<()>;
}

/// Cuts a stream into entries.
#[derive(Default)]
pub struct TarStream {
    /// A header that has begun.
    header: Vec<u8>,
    /// Bytes of the file that are still to come.
    file_bytes_left: u64,
    /// Bytes behind it that fill its last block.
    padding_left: usize,
    in_file: bool,
    ended: bool,
}

impl TarStream {
    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut dyn TarSink) -> Result<()> {
        while !bytes.is_empty() {
            if self.in_file {
                bytes = self.take_file(bytes, sink)?;
            } else if self.padding_left > 0 {
                let skipped = self.padding_left.min(bytes.len());
                self.padding_left -= skipped;
                bytes = &bytes[skipped..];
            } else {
                let missing = BLOCK_BYTES - self.header.len();
                let (now, later) = bytes.split_at(missing.min(bytes.len()));
                self.header.extend_from_slice(now);
                bytes = later;
                if self.header.len() == BLOCK_BYTES {
                    self.take_header(sink)?;
                    self.header.clear();
                }
            }
        }
        Ok(())
    }

    /// The stream is over. It must not have ended within an entry.
    pub fn finish(&self) -> Result<()> {
        match self.in_file || self.padding_left > 0 || !self.header.is_empty() {
            true => Err(damaged("it is cut short")),
            false => Ok(()),
        }
    }

    fn take_file<'a>(&mut self, bytes: &'a [u8], sink: &mut dyn TarSink) -> Result<&'a [u8]> {
        let count = self.file_bytes_left.min(bytes.len() as u64) as usize;
        let (now, later) = bytes.split_at(count);
        sink.data(now)?;
        self.file_bytes_left -= count as u64;
        if self.file_bytes_left == 0 {
            self.in_file = false;
            sink.end()?;
        }
        Ok(later)
    }

    fn take_header(&mut self, sink: &mut dyn TarSink) -> Result<()> {
        if self.header.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return Ok(());
        }
        if self.ended {
            return Err(damaged("something follows its end"));
        }
        let entry = read_header(&self.header)?;
        sink.entry(&entry)?;
        if let EntryKind::File(bytes) = entry.kind {
            let beyond = (bytes % BLOCK_BYTES as u64) as usize;
            self.padding_left = (BLOCK_BYTES - beyond) % BLOCK_BYTES;
            self.file_bytes_left = bytes;
            self.in_file = bytes > 0;
            if bytes == 0 {
                sink.end()?;
            }
        }
        Ok(())
    }
}

pub(super) fn read_header(bytes: &[u8]) -> Result<TarEntry> {
    let header = Header::from_byte_slice(bytes);
    let failed = |error: std::io::Error| damaged("a header cannot be read").caused_by(error);
    let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum();
    if header.cksum().map_err(failed)? != sum + 8 * u32::from(b' ') {
        return Err(damaged("the checksum of a header is wrong"));
    }
    let name = header.path_bytes();
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).map_err(|_| damaged("a name in it is no UTF-8"))
    };
    let full = text(&name)?;
    let path = full.strip_prefix("./").unwrap_or(&full).trim_end_matches('/').to_owned();
    let kind = match header.entry_type() {
        EntryType::Regular => EntryKind::File(header.entry_size().map_err(failed)?),
        EntryType::Directory => EntryKind::Folder,
        EntryType::Symlink => EntryKind::Link(text(&header.link_name_bytes().unwrap_or_default())?),
        other => return Err(damaged(&format!("{path} is of kind {:?}", other.as_byte() as char))),
    };
    let number = |read: std::io::Result<u64>| u32::try_from(read.unwrap_or(0)).unwrap_or(0);
    let owner = (number(header.uid()), number(header.gid()));
    let mode = header.mode().map_err(failed)? & 0o777;
    Ok(TarEntry { path, kind, mode, owner, header: bytes.to_vec() })
}

fn damaged(why: &str) -> Error {
    Error::new(Kind::CheckFailed, format!("the tar stream is damaged: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<(String, Vec<u8>, bool)>);

    impl TarSink for Seen {
        fn entry(&mut self, entry: &TarEntry) -> Result<()> {
            self.0.push((entry.path.clone(), Vec::new(), false));
            Ok(())
        }

        fn data(&mut self, bytes: &[u8]) -> Result<()> {
            self.0.last_mut().unwrap().1.extend_from_slice(bytes);
            Ok(())
        }

        fn end(&mut self) -> Result<()> {
            self.0.last_mut().unwrap().2 = true;
            Ok(())
        }
    }

    fn sample() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in [("a/empty", 0), ("a/one", 1), ("b", 512), ("c", 1_300)] {
            let mut header = Header::new_ustar();
            header.set_size(bytes);
            header.set_mode(0o600);
            let content: Vec<u8> = (0..bytes).map(|at| at as u8 | 1).collect();
            builder.append_data(&mut header, path, &content[..]).unwrap();
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder.append_link(&mut header, "pg_tblspc/5", "/elsewhere").unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn pieces_of_any_size_give_the_same_entries() {
        let whole = sample();
        let read = |piece: usize| {
            let (mut stream, mut seen) = (TarStream::default(), Seen::default());
            whole.chunks(piece).for_each(|bytes| stream.push(bytes, &mut seen).unwrap());
            stream.finish().unwrap();
            seen.0
        };
        let at_once = read(whole.len());
        assert_eq!(at_once.len(), 5);
        assert!(at_once[..4].iter().all(|(.., ended)| *ended));
        assert_eq!(at_once[3].1.len(), 1_300);
        for piece in [1, 7, 511, 512, 513, 1_024] {
            assert_eq!(read(piece), at_once, "{piece}");
        }
    }

    #[test]
    fn what_is_cut_or_changed_is_refused() {
        let whole = sample();
        let read = |bytes: &[u8]| {
            let mut stream = TarStream::default();
            stream.push(bytes, &mut Seen::default()).and_then(|()| stream.finish())
        };
        for cut in [100, 600, 512 * 3 + 1, 512 * 5 + 100] {
            assert!(read(&whole[..cut]).is_err(), "{cut}");
        }
        for at in [0, 101, 125, 150, 156] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "{at}");
        }
        let mut behind = whole.clone();
        behind.extend_from_slice(&whole[..512]);
        assert!(read(&behind).is_err(), "an entry behind the end");
    }
}
