//! The bytes of one journal file; the module draws them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::vfs::Vfs;

const MAGIC: [u8; 12] = *b"\x93BIGJRNL\r\n\x1a\n";
const VERSION: u32 = 1;
pub(super) const HEADER: usize = 48;
/// Bytes of a record before its payload.
pub(super) const RECORD: usize = 24;

pub(super) struct Header {
    pub(super) first: u64,
    pub(super) id: [u8; 16],
}

impl Header {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.first.to_le_bytes());
        bytes.extend(self.id);
        bytes.extend([0; 4]);
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }
}

/// Appends the bytes of a record.
pub(super) fn push_record(seq: u64, synced: u64, payload: &[u8], out: &mut Vec<u8>) {
    let length = (payload.len() as u32).to_le_bytes();
    let (seq, synced) = (seq.to_le_bytes(), synced.to_le_bytes());
    let checksum =
        [&seq[..], &synced, payload].iter().fold(crc32c::crc32c(&length), |c, b| crc32c::crc32c_append(c, b));
    out.extend(length);
    out.extend(checksum.to_le_bytes());
    out.extend(seq);
    out.extend(synced);
    out.extend_from_slice(payload);
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A record found at some offset.
struct Record {
    seq: u64,
    synced: u64,
    payload: Range<usize>,
}

/// What a record at `at` says; whether it is whole is not checked.
fn peek(bytes: &[u8], at: usize) -> Option<Record> {
    let (length, seq, synced) = (word(bytes, at)?, long(bytes, at + 8)?, long(bytes, at + 16)?);
    let start = at + RECORD;
    let end = start.checked_add(length as usize).filter(|&end| end <= bytes.len())?;
    Some(Record { seq, synced, payload: start..end })
}

fn is_whole(bytes: &[u8], at: usize, record: &Record) -> bool {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[at..at + 4]), &bytes[at + 8..record.payload.end]);
    word(bytes, at + 4) == Some(checksum)
}

/// A file read whole: a file is closed soon after its 64 MiB.
pub(super) struct LogFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl LogFile {
    pub(super) fn read(vfs: &dyn Vfs, path: &Path) -> Result<LogFile> {
        let file = vfs.open(path)?;
        let mut bytes = vec![0; file.len() as usize];
        file.read_exact_at(0, &mut bytes)?;
        Ok(LogFile { path: path.into(), bytes })
    }

    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn damaged(&self, offset: usize, reason: &str) -> Error {
        let section = format!("journal, offset {offset}");
        Error::corrupt(&self.path, section, reason)
    }

    /// The journal's id, or none where there is no header.
    ///
    /// # Errors
    /// `Unsupported` for another version, `Corrupt` for the header of another file, or of another journal than `id`.
    pub(super) fn header(&self, first: u64, id: Option<&[u8; 16]>) -> Result<Option<[u8; 16]>> {
        let header = self.bytes.get(..HEADER).filter(|header| {
            header[..MAGIC.len()] == MAGIC && word(header, HEADER - 4) == Some(crc32c::crc32c(&header[..HEADER - 4]))
        });
        let Some(header) = header else { return Ok(None) };
        match word(header, 12) {
            Some(VERSION) => {}
            version => {
                return Err(Error::Unsupported {
                    what: format!("{}: journal version {}", self.path.display(), version.unwrap_or_default()),
                    remedy: format!("this bigrain reads version {VERSION}; use the one that wrote it"),
                });
            }
        }
        if long(header, 16) != Some(first) {
            return Err(self.damaged(16, "its first record is not the one that its name says"));
        }
        let found: [u8; 16] = header[24..40].try_into().expect("16 bytes");
        match id {
            Some(id) if *id != found => Err(self.damaged(24, "it belongs to another journal than the files before it")),
            _ => Ok(Some(found)),
        }
    }

    /// Whether no record from `next` on was ever written here.
    pub(super) fn is_unused(&self, next: u64) -> bool {
        self.find_record(0, next, next - 1).is_none()
    }

    /// Hands on the records from number `next` up to, but not including, `until`, or to the first that is not readable; where
    /// they end. `next` is then the number of the record that would follow.
    ///
    /// # Errors
    /// Those of `each`.
    pub(super) fn replay(
        &self,
        next: &mut u64,
        until: u64,
        each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<usize> {
        let mut at = HEADER;
        while *next < until {
            let record = peek(&self.bytes, at).filter(|r| r.seq == *next && is_whole(&self.bytes, at, r));
            let Some(record) = record else { break };
            each(record.seq, &self.bytes[record.payload.clone()])?;
            at = record.payload.end;
            *next += 1;
        }
        Ok(at)
    }

    /// Refuses records that end at offset `at` before number `until`, which is known to follow them.
    pub(super) fn check_reached(&self, at: usize, next: u64, until: u64) -> Result<()> {
        if next == until {
            return Ok(());
        }
        Err(self.damaged(at, &format!("record {next} is not readable, but all up to {until} were durable")))
    }

    /// Refuses unreadable bytes from offset `at` on, where record `next` belongs, if a later record says that it was durable.
    pub(super) fn check_tail(&self, at: usize, next: u64) -> Result<()> {
        let Some(later) = self.find_record(at, next + 1, next) else { return Ok(()) };
        let reason = format!("record {next} is not readable, but was durable before the record at {later} was written");
        Err(self.damaged(at, &reason))
    }

    /// The first offset from `at` on where a record stands whose number is at least `seq`, written when all up to `synced` were
    /// durable.
    fn find_record(&self, at: usize, seq: u64, synced: u64) -> Option<usize> {
        // Numbers beyond what the file has room for are no records; so checksums are computed for few offsets.
        let most = seq + (self.bytes.len() / RECORD) as u64;
        let fits = |r: &Record| (seq..=most).contains(&r.seq) && (synced..r.seq).contains(&r.synced);
        (at..self.bytes.len())
            .find(|&at| peek(&self.bytes, at).is_some_and(|record| fits(&record) && is_whole(&self.bytes, at, &record)))
    }
}
