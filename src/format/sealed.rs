//! JSON that carries its own checksum: its first line holds the CRC-32C (hexadecimal) of every byte after that line.
//! ```text
//! {"crc32c": "89abcdef",
//! "format": 1, ...
//! ```

use std::path::Path;

use crate::error::{Error, Result};

/// The bytes of a file with `json`, which is a pretty-printed object that is not empty.
pub fn seal_json(json: &str) -> Vec<u8> {
    let rest = json.strip_prefix("{\n").expect("an object with fields");
    let rest = format!("{rest}\n");
    format!("{{\"crc32c\": \"{:08x}\",\n{rest}", crc32c::crc32c(rest.as_bytes())).into_bytes()
}

/// The object in the bytes of such a file, without its checksum.
///
/// # Errors
/// `Corrupt` where the checksum is missing or wrong.
pub fn unseal_json(path: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    let wrong = |reason: String| Error::corrupt(path, "header", reason);
    let (stated, rest) = split_checksum(bytes).ok_or_else(|| wrong("its first line holds no checksum".into()))?;
    let found = crc32c::crc32c(rest);
    if found != stated {
        return Err(wrong(format!("its checksum is {found:08x}, not the {stated:08x} it states")));
    }
    Ok([b"{".as_slice(), rest].concat())
}

/// The stated checksum and the bytes it covers.
fn split_checksum(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let digits = bytes.strip_prefix(b"{\"crc32c\": \"")?;
    let (digits, rest) = digits.split_at_checked(8)?;
    let rest = rest.strip_prefix(b"\",\n")?;
    let lower = digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f'));
    lower.then(|| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()).flatten().map(|crc| (crc, rest))
}
