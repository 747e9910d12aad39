//! A database that is compressed, under whatever name: unpacked to a file that nobody sees.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use lifeboat_core::env::Env;
use lifeboat_core::{Error, Kind, Result};

/// So many layers, one within the other, are taken off.
const LAYERS_MAX: usize = 4;
const BUFFER_BYTES: usize = 1 << 20;

/// Takes off what is compressed. Says of each layer what it was.
pub(crate) fn unpack(
    env: &Env,
    mut file: File,
    scratch: &Path,
    said: &mut Vec<String>,
) -> Result<File> {
    for _ in 0..LAYERS_MAX {
        let mut first = [0; 4];
        if file.read_exact_at(&mut first, 0).is_err() {
            return Ok(file);
        }
        let (name, mut reader): (_, Box<dyn Read + '_>) = match first {
            [0x1f, 0x8b, 8, _] => ("gzip", Box::new(flate2::read::MultiGzDecoder::new(&file))),
            [0x28, 0xb5, 0x2f, 0xfd] => {
                ("zstd", Box::new(zstd::Decoder::new(&file).map_err(|e| unpacking(scratch, e))?))
            }
            _ => return Ok(file),
        };
        let target = unseen_file(scratch)?;
        let ended = copy(env, &mut reader, &target, scratch)?;
        drop(reader);
        said.push(match ended {
            None => format!("it is a {name} file, and was unpacked"),
            Some(why) => format!("it is a {name} file, of which only the beginning came: {why}"),
        });
        (&target).seek(SeekFrom::Start(0)).map_err(|error| unpacking(scratch, error))?;
        file = target;
    }
    Ok(file)
}

/// A new file without a name, beside that path.
fn unseen_file(beside: &Path) -> Result<File> {
    let failed = |error| unpacking(beside, error);
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(beside).map_err(failed)?;
    fs::remove_file(beside).map_err(failed)?;
    Ok(file)
}

/// Copies until the stream ends; what is wrong with the stream ends it too, and is returned.
fn copy(env: &Env, reader: &mut dyn Read, mut to: &File, path: &Path) -> Result<Option<String>> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        env.proceed()?;
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(count) => to.write_all(&buffer[..count]).map_err(|e| unpacking(path, e))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Some(error.to_string())),
        }
    }
}

fn unpacking(path: &Path, error: io::Error) -> Error {
    Error::io(Kind::Failed, format!("cannot unpack to {}", path.display()), error)
}
