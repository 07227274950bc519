//! Who answers for each row of a version: four bytes a row.
//!
//! The easy version looks the ad group of every candidate up in the attributes and the group in a map. Here that is done once, when
//! a version is opened: a row holds the ordinal of its ad group in the control table, or of the ad itself once that has a record of
//! its own. What the table says may change with every request; who answers for a row changes only when an ad gets its first
//! record, which is one atomic store.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::control::{Control, Owner};
use crate::attributes::{Columns, Value};
use crate::error::Result;
use crate::index::Index;
use crate::types::{Key, Row};

/// The owner of every row of one index.
#[derive(Debug)]
pub struct Owners {
    of_row: Box<[AtomicU32]>,
}

impl Owners {
    /// Reads the ad groups of all rows from the attribute `group` (an integer above 0; rows without it belong to no group), and
    /// finds the rows of ads that have a record of their own.
    ///
    /// # Errors
    /// `Io` and `Corrupt` where keys cannot be read.
    pub fn new(index: &Index, control: &Control, group: &str) -> Result<Owners> {
        let rows = index.manifest().rows as Row;
        let columns = index.attributes();
        let of = |row| columns.and_then(|columns| group_of(columns, group, row));
        // Ids are looked up once each, however many rows have them.
        let groups: Vec<Option<u64>> = (0..rows).map(of).collect();
        let ids: HashSet<u64> = groups.iter().flatten().copied().collect();
        let ids: Vec<u64> = ids.into_iter().collect();
        let known: HashMap<u64, Owner> =
            ids.iter().copied().zip(control.owners_of_groups(ids.iter().copied())).collect();
        let owner = |group: Option<u64>| group.and_then(|id| known.get(&id).copied()).unwrap_or(Owner::NONE);
        let owners =
            Owners { of_row: groups.into_iter().map(|group| AtomicU32::new(owner(group).to_bits())).collect() };
        for (key, owner) in control.epoch().ads() {
            owners.set(index, key, owner)?;
        }
        Ok(owners)
    }

    /// The owner of a row.
    #[inline]
    pub fn of(&self, row: Row) -> Owner {
        Owner::from_bits(self.of_row[row as usize].load(Relaxed))
    }

    /// Notes that the ad `key` has a record of its own, if the index has the ad.
    pub fn set(&self, index: &Index, key: Key, owner: Owner) -> Result<()> {
        if let Some(row) = index.row(key)? {
            self.of_row[row as usize].store(owner.to_bits(), Relaxed);
        }
        Ok(())
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.of_row.len()
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.of_row.len() * 4
    }
}

fn group_of(columns: &Columns, name: &str, row: Row) -> Option<u64> {
    as_group(&columns.value(name, row)?)
}

/// The ad group that a record names, a JSON object.
pub(super) fn group_in(record: &str, name: &str) -> Option<u64> {
    let object: serde_json::Value = serde_json::from_str(record).ok()?;
    object.get(name)?.as_u64().filter(|&id| id > 0)
}

/// The ad group that a value names.
pub(super) fn as_group(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(id) => u64::try_from(*id).ok().filter(|&id| id > 0),
        _ => None,
    }
}
