//! The hidden name that an object has in a folder while it is written: `.NAME.ID.part`.

use lifeboat_core::env::Env;

/// A new one for an object with that file name. A file's name has at most 255 bytes, and the hidden
/// name adds to it.
pub(crate) fn name(env: &Env, file_name: &str) -> String {
    let mut id = [0; 8];
    env.random.fill(&mut id);
    let mut id = format!("{:016x}", u64::from_le_bytes(id));
    id.truncate(254_usize.saturating_sub(file_name.len() + 6).clamp(4, 16));
    format!(".{file_name}.{id}.part")
}

/// Whether a file's name is such a one.
pub(crate) fn is_one(file_name: &str) -> bool {
    let inner = file_name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".part"));
    let Some((name, id)) = inner.and_then(|inner| inner.rsplit_once('.')) else { return false };
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    !name.is_empty() && (4..=16).contains(&id.len()) && id.bytes().all(is_digit)
}
