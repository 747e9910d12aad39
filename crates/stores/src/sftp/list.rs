//! Listing folders with few round trips: many folders are open at once, and of each several
//! pieces are asked for before the first one came.

use super::connection::{Connection, Failure};
use super::server::Step;
use super::wire::{self, Entry, Request, Response};

/// How many folders are read at once.
const FOLDERS: usize = 16;
/// How many pieces of a folder are asked for at once. A piece holds a hundred names or so.
const PIECES: usize = 8;

/// The entries of each of the folders, in their order; those of a folder that does not exist are
/// none.
pub(super) fn read_folders(
    connection: &mut Connection,
    folders: &[String],
) -> Step<Vec<Vec<Entry>>> {
    let mut all = Vec::with_capacity(folders.len());
    for some in folders.chunks(FOLDERS) {
        all.extend(read_some(connection, some)?);
    }
    Ok(all)
}

fn read_some(connection: &mut Connection, folders: &[String]) -> Step<Vec<Vec<Entry>>> {
    let mut opening = Vec::with_capacity(folders.len());
    for folder in folders {
        opening.push(connection.send(|id| Request::new(wire::OPENDIR, id).text(folder))?);
    }
    let mut handles = Vec::with_capacity(folders.len());
    let mut refused = None;
    for id in opening {
        handles.push(match connection.wait(id) {
            Ok(Response::Handle(handle)) => Some(handle),
            Err(Failure::Status(status)) if status.is(wire::NO_SUCH_FILE) => None,
            Err(Failure::Status(status)) => {
                refused = refused.or(Some(status));
                None
            }
            Ok(_) => return Err(connection.unexpected()),
            Err(failure) => return Err(failure),
        });
    }
    let mut found: Vec<Vec<Entry>> = folders.iter().map(|_| Vec::new()).collect();
    let mut unread: Vec<usize> =
        (0..handles.len()).filter(|place| handles[*place].is_some()).collect();
    while refused.is_none() && !unread.is_empty() {
        let mut asked = Vec::with_capacity(unread.len() * PIECES);
        for &place in &unread {
            let Some(handle) = &handles[place] else { continue };
            for _ in 0..PIECES {
                let id = connection.send(|id| Request::new(wire::READDIR, id).text(handle))?;
                asked.push((place, id));
            }
        }
        for (place, id) in asked {
            match connection.wait(id) {
                Ok(Response::Names(entries)) => found[place].extend(entries),
                Err(Failure::Status(status)) => {
                    unread.retain(|unread| *unread != place);
                    if !status.is(wire::END_OF_FILE) {
                        refused = refused.or(Some(status));
                    }
                }
                Ok(_) => return Err(connection.unexpected()),
                Err(failure) => return Err(failure),
            }
        }
    }
    for handle in handles.iter().flatten() {
        connection.close(handle);
    }
    match refused {
        Some(status) => Err(Failure::Status(status)),
        None => Ok(found),
    }
}
