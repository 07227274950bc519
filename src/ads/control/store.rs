//! The bytes of patches in the journal and of the snapshot.
//!
//! A journal record is one byte, [`RECORD_VERSION`], then the patches of one call by `bincode` in its standard configuration. A
//! field can be added to [`Patch`] only with a new version, which reads the old one too.
//!
//! The snapshot is a file of [`Kind::Control`]; its index id is the journal's id. `META` holds the epoch's number (u64), the other
//! sections one value for each entity that said something, widest level first:
//! ```text
//! LEVL u8   place of the level in Level::ALL        IDS_ u64
//! PRNT u64  id of the entity above; 0: none         STAT u8   0: not said, 1: active, 2: paused
//! STRT i64  least value: not said                   END_ i64  largest value: not said
//! BIDS u64  largest value: not said                 BUDG u8   0: not said, 1: ok, 2: exhausted
//! CTRS f32  not a number: not said
//! ```

use bytemuck::Pod;
use std::path::{Path, PathBuf};

use super::epoch::{Entry, Epoch};
use super::patch::{Budget, Field, Level, Patch, Status};
use super::table::Table;
use crate::error::{Error, Result};
use crate::format::{FileReader, FileWriter, Kind, as_bytes};
use crate::journal::Journal;
use crate::vfs::{Vfs, replace_file};

const RECORD_VERSION: u8 = 1;
/// Memory that the patches of one record may take.
const DECODED_BYTES: usize = 64 << 20;
const SNAPSHOT: &str = "control.bg";
/// Entities whose values are written at a time.
const BLOCK: usize = 64 << 10;

/// A call's patches as a journal record.
pub(super) fn encode(patches: &[Patch]) -> Result<Vec<u8>> {
    let encoded = bincode::encode_to_vec(patches, bincode::config::standard());
    let encoded = encoded.map_err(|error| Error::params("patches", format!("they cannot be written: {error}")))?;
    Ok([&[RECORD_VERSION], &encoded[..]].concat())
}

/// The patches of record `seq` of the journal in `dir`.
pub(super) fn decode(dir: &Path, seq: u64, record: &[u8]) -> Result<Vec<Patch>> {
    let damaged = |reason: String| Error::corrupt(dir, format!("journal record {seq}"), reason);
    match record.split_first() {
        Some((&RECORD_VERSION, payload)) => {
            let config = bincode::config::standard().with_limit::<DECODED_BYTES>();
            let (patches, length): (Vec<Patch>, usize) =
                bincode::decode_from_slice(payload, config).map_err(|error| damaged(error.to_string()))?;
            match length == payload.len() {
                true => Ok(patches),
                false => Err(damaged(format!("{} bytes follow its patches", payload.len() - length))),
            }
        }
        Some((version, _)) => Err(Error::Unsupported {
            what: format!("{}: journal record {seq} of version {version}", dir.display()),
            remedy: format!("this bigrain reads version {RECORD_VERSION}; use the one that wrote it"),
        }),
        None => Err(damaged("it is empty".into())),
    }
}

/// Replaces the snapshot in `dir` by one of this epoch.
pub(super) fn write_snapshot(vfs: &dyn Vfs, dir: &Path, journal_id: &str, epoch: &Epoch) -> Result<()> {
    let index_id = bytes_of(journal_id)?;
    replace_file(vfs, &dir.join(SNAPSHOT), |beside| {
        let mut file = FileWriter::create(vfs, beside, Kind::Control, index_id)?;
        file.write_array(*b"META", &[epoch.number()])?;
        let mut columns = Columns { file, epoch };
        columns.write(*b"LEVL", |level, _| level as u8)?;
        columns.write(*b"IDS_", |_, entry| entry.id)?;
        columns.write(*b"PRNT", |level, entry| epoch.parent_id(level, entry))?;
        columns.write(*b"STAT", |_, entry| entry.record.status.map_or(0, |status| status as u8 + 1))?;
        columns.write(*b"STRT", |_, entry| entry.record.start().unwrap_or(i64::MIN))?;
        columns.write(*b"END_", |_, entry| entry.record.end().unwrap_or(i64::MAX))?;
        columns.write(*b"BIDS", |_, entry| entry.record.bid().unwrap_or(u64::MAX))?;
        columns.write(*b"BUDG", |_, entry| entry.record.budget.map_or(0, |budget| budget as u8 + 1))?;
        columns.write(*b"CTRS", |_, entry| entry.record.ctr().unwrap_or(f32::NAN))?;
        columns.file.finish().map(|_| ())
    })
}

/// A journal's id as the bytes of an index id.
fn bytes_of(journal_id: &str) -> Result<[u8; 16]> {
    let parsed = u128::from_str_radix(journal_id, 16);
    let parsed = parsed.map_err(|_| Error::mismatch("journal id", "32 hexadecimal digits", journal_id))?;
    Ok(parsed.to_be_bytes())
}

struct Columns<'e> {
    file: FileWriter,
    epoch: &'e Epoch,
}

impl Columns<'_> {
    fn write<T: Pod>(&mut self, tag: [u8; 4], value: impl Fn(Level, &Entry) -> T) -> Result<()> {
        self.file.begin(tag)?;
        let mut block = Vec::with_capacity(BLOCK);
        for level in Level::ALL {
            for entry in self.epoch.entries[level as usize].iter().filter(|entry| entry.described) {
                block.push(value(level, entry));
                if block.len() == BLOCK {
                    self.file.write(as_bytes(&block))?;
                    block.clear();
                }
            }
        }
        self.file.write(as_bytes(&block))?;
        self.file.end()
    }
}

/// Applies the snapshot in `dir`, if there is one; the number of its epoch, or 0.
pub(super) fn read_snapshot(vfs: &dyn Vfs, dir: &Path, table: &mut Table) -> Result<u64> {
    let path = dir.join(SNAPSHOT);
    if !vfs.exists(&path)? {
        return Ok(0);
    }
    let file = FileReader::open(vfs, &path, Kind::Control, None)?;
    let meta: Vec<u64> = file.read_array(*b"META")?;
    let [number] = meta[..] else {
        return Err(Error::corrupt(&path, "META", format!("{} values, not one", meta.len())));
    };
    let rows = Rows::read(&file)?;
    for row in 0..rows.ids.len() {
        let patch = rows.patch(row)?;
        patch.check().map_err(|error| rows.damaged(row, &error.to_string()))?;
        table.apply(&patch);
    }
    Ok(number)
}

/// The columns of a snapshot.
struct Rows {
    path: PathBuf,
    levels: Vec<u8>,
    ids: Vec<u64>,
    parents: Vec<u64>,
    statuses: Vec<u8>,
    starts: Vec<i64>,
    ends: Vec<i64>,
    bids: Vec<u64>,
    budgets: Vec<u8>,
    ctrs: Vec<f32>,
}

impl Rows {
    fn read(file: &FileReader) -> Result<Rows> {
        let ids: Vec<u64> = file.read_array(*b"IDS_")?;
        let count = ids.len();
        Ok(Rows {
            path: file.path().into(),
            levels: column(file, *b"LEVL", count)?,
            parents: column(file, *b"PRNT", count)?,
            statuses: column(file, *b"STAT", count)?,
            starts: column(file, *b"STRT", count)?,
            ends: column(file, *b"END_", count)?,
            bids: column(file, *b"BIDS", count)?,
            budgets: column(file, *b"BUDG", count)?,
            ctrs: column(file, *b"CTRS", count)?,
            ids,
        })
    }

    fn damaged(&self, row: usize, reason: &str) -> Error {
        Error::corrupt(&self.path, format!("entity {row}"), reason)
    }

    /// The patch that says what entity `row` says.
    fn patch(&self, row: usize) -> Result<Patch> {
        let level = Level::ALL.get(usize::from(self.levels[row]));
        let level = *level.ok_or_else(|| self.damaged(row, &format!("there is no level {}", self.levels[row])))?;
        let status = match self.statuses[row] {
            0 => Field::Keep,
            1 => Field::Set(Status::Active),
            2 => Field::Set(Status::Paused),
            other => return Err(self.damaged(row, &format!("there is no status {other}"))),
        };
        let budget = match self.budgets[row] {
            0 => Field::Keep,
            1 => Field::Set(Budget::Ok),
            2 => Field::Set(Budget::Exhausted),
            other => return Err(self.damaged(row, &format!("there is no budget {other}"))),
        };
        Ok(Patch {
            level,
            id: self.ids[row],
            parent: unless(self.parents[row], 0, Field::Clear),
            status,
            start: unless(self.starts[row], i64::MIN, Field::Keep),
            end: unless(self.ends[row], i64::MAX, Field::Keep),
            bid_micros: unless(self.bids[row], u64::MAX, Field::Keep),
            budget,
            ctr: if self.ctrs[row].is_nan() { Field::Keep } else { Field::Set(self.ctrs[row]) },
        })
    }
}

/// A column with `count` values.
fn column<T: Pod>(file: &FileReader, tag: [u8; 4], count: usize) -> Result<Vec<T>> {
    let values: Vec<T> = file.read_array(tag)?;
    match values.len() == count {
        true => Ok(values),
        false => {
            let reason = format!("{} values for {count} entities", values.len());
            Err(Error::corrupt(file.path(), String::from_utf8_lossy(&tag), reason))
        }
    }
}

fn unless<T: PartialEq>(value: T, unsaid: T, field: Field<T>) -> Field<T> {
    if value == unsaid { field } else { Field::Set(value) }
}

/// Checks that the journal goes on where the snapshot of epoch `included` ends, and belongs to it.
///
/// # Errors
/// `Corrupt` where records between them are missing, `Mismatch` where the snapshot belongs to another journal.
pub(super) fn check_journal(vfs: &dyn Vfs, dir: &Path, included: u64, journal: &Journal) -> Result<()> {
    let path = dir.join(SNAPSHOT);
    if vfs.exists(&path)? {
        FileReader::open(vfs, &path, Kind::Control, Some(&bytes_of(&journal.id())?))?;
    }
    let missing = |reason: String| Err(Error::corrupt(dir, "journal", reason));
    let (first, last) = (journal.first_seq(), journal.last_seq());
    if first > included + 1 {
        return missing(format!("its first record is {first}, but {SNAPSHOT} ends with epoch {included}"));
    }
    if last < included {
        return missing(format!("its last record is {last}, but {SNAPSHOT} was written at epoch {included}"));
    }
    Ok(())
}
