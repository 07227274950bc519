//! A durable log of numbered records, for what must be kept before it is acknowledged.
//!
//! The easy version appends `length | checksum | payload` to one file and syncs. It departs from that in this:
//! - Records are numbered without gaps, so that a file that was lost, or taken from elsewhere, is noticed.
//! - The log is cut into files, so that what is no longer needed ([`Journal::trim`]) can go.
//! - A crash may tear the records that were being written. They were not acknowledged, so they are cut off; but damage to records
//!   that *were* synced must never be taken for that. Every record therefore says up to which number all were durable when it
//!   was written: whoever finds such a record after unreadable bytes knows that synced ones are missing.
//! - Files are never shortened. Records after a tear go to a new file, whose name says where the old one ends.
//!
//! ```text
//! DIR/log-00000000000000000001.bg        named by the number of its first record
//!
//! offset
//!      0  magic           93 42 49 47 4a 52 4e 4c 0d 0a 1a 0a     \x93 BIGJRNL CR LF ^Z LF
//!     12  version  u32    1
//!     16  first    u64    number of its first record
//!     24  id       16     equal in all files of a journal
//!     40  zeros    u32
//!     44  crc32c   u32    of bytes 0..44
//!     48  records, one after the other:
//!         length   u32    of the payload
//!         crc32c   u32    of all else in the record
//!         seq      u64    its number; the first record of a journal is 1
//!         synced   u64    all records up to this number were durable before this one was written
//!         payload
//! ```
//! All integers are little-endian. A journal is opened by one process at a time.

mod file;
mod group;
#[cfg(test)]
mod tests;

pub use group::Grouped;

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::hex;
use crate::vfs::{Vfs, WriteFile, create_dir_durably, lock_dir};
use file::{HEADER, Header, LogFile};

/// A file longer than this is followed by a new one.
const FILE_BYTES: u64 = 64 << 20;
/// No file begins with a higher number: beyond it, numbers of records could overflow.
const MAX_FIRST: u64 = u64::MAX / 2;
/// The longest payload, bytes.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// An open journal. Its directory may hold other files.
pub struct Journal {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    id: [u8; 16],
    /// All files, oldest first; never empty. The last one is written to.
    files: Vec<Span>,
    file: Box<dyn WriteFile>,
    last_seq: u64,
    cut: Option<Cut>,
    /// Why nothing can be written any more.
    broken: Option<(ErrorKind, String)>,
    /// None on simulated file systems.
    _lock: Option<File>,
}

/// One file.
struct Span {
    path: PathBuf,
    first: u64,
    bytes: u64,
}

/// The end of a file that was left out when the journal was opened: records that a crash tore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub path: PathBuf,
    /// Where the torn record begins.
    pub offset: u64,
    /// Bytes left out.
    pub bytes: u64,
}

impl Journal {
    /// Opens the journal in `dir`, or creates one; calls `replay(seq, payload)` for every record in order. Where the disk is too full to
    /// go on after a torn end, all can be read and nothing appended.
    ///
    /// # Errors
    /// `Corrupt` with file and offset where a record that was durable is damaged or missing, `Unsupported` for a newer format,
    /// `InvalidParams` where the journal is open elsewhere, `Io`, and what `replay` gives. Nothing replayed may be used then.
    pub fn open(vfs: Arc<dyn Vfs>, dir: &Path, replay: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<Journal> {
        create_dir_durably(&*vfs, dir)?;
        let lock = lock_dir(&*vfs, dir, "journal", "another process has opened the journal in")?;
        let mut spans = list_files(&*vfs, dir)?;
        let Some(first) = spans.first().map(|span| span.first) else {
            return Journal::create(vfs, dir, new_id(), 1, lock);
        };
        let (mut next, mut id, mut tail) = (first, None, Tail::Whole);
        for at in 0..spans.len() {
            let after = spans.get(at + 1).map(|span| span.first);
            let log = LogFile::read(&*vfs, &spans[at].path)?;
            spans[at].bytes = log.len();
            match log.header(spans[at].first, id.as_ref())? {
                Some(found) => id = Some(found),
                // The header is synced before the first record is written, and the first file of a trimmed journal is old.
                None if after.is_none() && log.is_unused(next) && (at > 0 || next == 1) => {
                    tail = Tail::Unused;
                    break;
                }
                None => return Err(log.damaged(0, "it does not begin as a journal file does")),
            }
            let end = log.replay(&mut next, after.unwrap_or(u64::MAX), replay)?;
            match after {
                Some(after) => log.check_reached(end, next, after)?,
                None => log.check_tail(end, next)?,
            }
            let (offset, length) = (end as u64, log.len());
            if after.is_none() && offset < length {
                tail = Tail::Torn(Cut { path: spans[at].path.clone(), offset, bytes: length - offset });
            }
        }
        Journal::resume(vfs, dir, id.unwrap_or_else(new_id), spans, next, tail, lock)
    }

    /// An empty journal whose first record will be `first`.
    fn create(vfs: Arc<dyn Vfs>, dir: &Path, id: [u8; 16], first: u64, lock: Option<File>) -> Result<Journal> {
        let (span, file) = create_file(&*vfs, dir, id, first)?;
        let (files, last_seq) = (vec![span], first - 1);
        Ok(Journal { vfs, dir: dir.into(), id, files, file, last_seq, cut: None, broken: None, _lock: lock })
    }

    /// Goes on with files that were read. What was replayed may have been read from memory that a killed process left to the
    /// system, so it is made durable before anything is written after it.
    fn resume(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        id: [u8; 16],
        mut files: Vec<Span>,
        next: u64,
        tail: Tail,
        lock: Option<File>,
    ) -> Result<Journal> {
        if matches!(tail, Tail::Unused) {
            files.pop();
        }
        let mut last = match files.last() {
            Some(span) => vfs.open_append(&span.path)?,
            None => return Journal::create(vfs, dir, id, next, lock),
        };
        last.sync()?;
        vfs.sync_dir(dir)?;
        let mut journal = Journal {
            vfs,
            dir: dir.into(),
            id,
            files,
            file: last,
            last_seq: next - 1,
            cut: None,
            broken: None,
            _lock: lock,
        };
        if let Tail::Whole = tail {
            return Ok(journal);
        }
        let started = journal.start_file();
        match journal.note(started) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::StorageFull => {}
            started => started?,
        }
        if let Tail::Torn(cut) = tail {
            journal.cut = Some(cut);
        }
        Ok(journal)
    }

    /// Appends payloads as consecutive records and syncs once; durable when it returns. The number of the last one.
    ///
    /// # Errors
    /// `InvalidParams` for a payload above [`MAX_PAYLOAD`], `Io`. After a failed write or sync nobody can say what is on disk, so
    /// every later call fails too, until the journal is opened again.
    pub fn append(&mut self, payloads: &[Vec<u8>]) -> Result<u64> {
        check_lengths(payloads)?;
        self.check_writable()?;
        if payloads.is_empty() {
            return Ok(self.last_seq);
        }
        let written = self.write(payloads);
        self.note(written)?;
        self.last_seq += payloads.len() as u64;
        Ok(self.last_seq)
    }

    fn write(&mut self, payloads: &[Vec<u8>]) -> Result<()> {
        if self.current().bytes >= FILE_BYTES {
            self.start_file()?;
        }
        let mut bytes = Vec::with_capacity(payloads.iter().map(|payload| file::RECORD + payload.len()).sum());
        for (seq, payload) in (self.last_seq + 1..).zip(payloads) {
            file::push_record(seq, self.last_seq, payload, &mut bytes);
        }
        self.file.write_all(&bytes)?;
        self.file.sync()?;
        let at = self.files.len() - 1;
        self.files[at].bytes += bytes.len() as u64;
        Ok(())
    }

    /// Number of the last record; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Number of the oldest record that is kept (of the next one where none is).
    pub fn first_seq(&self) -> u64 {
        self.files[0].first
    }

    /// The records as they are now, to be read while others append. Trimming removes the files beneath.
    pub fn records(&self) -> Records {
        let files = self.files.iter().map(|span| (span.path.clone(), span.first)).collect();
        Records { vfs: self.vfs.clone(), files, last_seq: self.last_seq }
    }

    /// Tells this journal from others: 32 hexadecimal digits.
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    /// What opening left out, if a crash had torn the end.
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// Starts a new file, and removes the files whose records are all at or below `seq`.
    ///
    /// # Errors
    /// `Io`. Where the new file cannot be made, later writes fail as after a failed append; a file that cannot be removed is left
    /// to the next call.
    pub fn trim(&mut self, seq: u64) -> Result<()> {
        self.check_writable()?;
        if self.last_seq >= self.current().first {
            let started = self.start_file();
            self.note(started)?;
        }
        while self.files.len() > 1 && self.files[1].first <= seq.saturating_add(1) {
            match self.vfs.remove_file(&self.files[0].path) {
                // An earlier call removed it, and could not make that durable.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            }
            // One at a time: a crash must not keep an older file and lose a younger one.
            self.vfs.sync_dir(&self.dir)?;
            self.files.remove(0);
        }
        Ok(())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|span| span.bytes).sum()
    }

    fn current(&self) -> &Span {
        &self.files[self.files.len() - 1]
    }

    fn start_file(&mut self) -> Result<()> {
        let (span, file) = create_file(&*self.vfs, &self.dir, self.id, self.last_seq + 1)?;
        self.files.push(span);
        self.file = file;
        Ok(())
    }

    fn check_writable(&self) -> Result<()> {
        match &self.broken {
            None => Ok(()),
            Some((kind, reason)) => {
                let what = format!("an earlier write failed ({reason}); see to the disk, then restart to write again");
                Err(Error::io(&self.current().path)(io::Error::new(*kind, what)))
            }
        }
    }

    /// Remembers a failed write.
    fn note(&mut self, outcome: Result<()>) -> Result<()> {
        if let Err(error) = &outcome {
            let kind = if let Error::Io { source, .. } = error { source.kind() } else { ErrorKind::Other };
            self.broken = Some((kind, error.to_string()));
        }
        outcome
    }
}

fn check_lengths(payloads: &[Vec<u8>]) -> Result<()> {
    match payloads.iter().map(Vec::len).find(|&len| len > MAX_PAYLOAD) {
        Some(long) => Err(Error::params("record", format!("{long} bytes are more than the {MAX_PAYLOAD} of a record"))),
        None => Ok(()),
    }
}

/// The records that a journal had at some moment.
pub struct Records {
    vfs: Arc<dyn Vfs>,
    /// Path and first number of each file.
    files: Vec<(PathBuf, u64)>,
    last_seq: u64,
}

impl Records {
    /// Number of the last of them.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Calls `each(seq, payload)` for every record from number `from` on, in order.
    ///
    /// # Errors
    /// `Corrupt` for a record that is not readable any more, `Io`, and what `each` gives.
    pub fn replay(&self, from: u64, each: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        for (at, (path, first)) in self.files.iter().enumerate() {
            let until = self.files.get(at + 1).map_or(self.last_seq + 1, |file| file.1);
            if until <= from {
                continue;
            }
            let log = LogFile::read(&*self.vfs, path)?;
            let mut next = *first;
            let wanted = &mut |seq, payload: &[u8]| if seq < from { Ok(()) } else { each(seq, payload) };
            let end = log.replay(&mut next, until, wanted)?;
            log.check_reached(end, next, until)?;
        }
        Ok(())
    }
}

/// How the last file ends.
enum Tail {
    /// With its last record.
    Whole,
    /// With a record that a crash tore.
    Torn(Cut),
    /// It was being created.
    Unused,
}

fn new_id() -> [u8; 16] {
    let mut id = [0; 16];
    for (part, n) in id.chunks_exact_mut(8).zip(0u64..) {
        part.copy_from_slice(&RandomState::new().hash_one(n).to_le_bytes());
    }
    id
}

/// Creates the file of records from `first` on; it is durable, name and all, before a record is written.
fn create_file(vfs: &dyn Vfs, dir: &Path, id: [u8; 16], first: u64) -> Result<(Span, Box<dyn WriteFile>)> {
    let path = dir.join(format!("log-{first:020}.bg"));
    let mut file = vfs.create(&path)?;
    file.write_all(&Header { first, id }.to_bytes())?;
    file.sync()?;
    vfs.sync_dir(dir)?;
    Ok((Span { path, first, bytes: HEADER as u64 }, file))
}

/// The journal files of a directory, oldest first.
fn list_files(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<Span>> {
    let span = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let digits = name.strip_prefix("log-")?.strip_suffix(".bg").filter(|digits| digits.len() == 20)?;
        // Numbers that no journal reaches name files of others.
        let first = digits.parse().ok().filter(|first| (1..=MAX_FIRST).contains(first))?;
        Some(Span { path, first, bytes: 0 })
    };
    // Twenty digits with leading zeros: by name is by number.
    Ok(vfs.list(dir)?.into_iter().filter_map(span).collect())
}
