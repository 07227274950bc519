//! What a list has of a column, in three words: enough to pass over many lists without looking at their rows.

use super::columns::{Column, Data};
use crate::types::Row;

/// Ordinals of the rows of one list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListSummary {
    /// The least ordinal; above `largest` if no row has a value.
    least: u64,
    largest: u64,
    /// Bit `ordinal % 64` of every ordinal.
    signature: u64,
}

impl ListSummary {
    const EMPTY: ListSummary = ListSummary { least: u64::MAX, largest: 0, signature: 0 };

    fn add(&mut self, ordinal: u64) {
        self.least = self.least.min(ordinal);
        self.largest = self.largest.max(ordinal);
        self.signature |= 1 << (ordinal % 64);
    }

    /// Whether a row may have an ordinal within `low ..= high`.
    pub(super) fn may_have(&self, low: u64, high: u64) -> bool {
        self.least <= high && low <= self.largest && self.signature & signature(low, high) != 0
    }
}

/// The bits of all ordinals within `low ..= high`.
fn signature(low: u64, high: u64) -> u64 {
    match high - low {
        63.. => u64::MAX,
        more => (u64::MAX >> (63 - more)).rotate_left((low % 64) as u32),
    }
}

/// The summaries of all lists.
pub(super) fn summarise(column: &Column, list_starts: &[Row]) -> Vec<ListSummary> {
    let mut lists = vec![ListSummary::EMPTY; list_starts.len() - 1];
    match &column.data {
        Data::Postings(postings) => {
            for value in 0..postings.values() {
                let mut list = 0;
                for &row in postings.rows(value) {
                    // Rows ascend; most often the next row is in the same list or not far behind.
                    if row >= list_starts[list + 1] {
                        list += list_starts[list + 1..].partition_point(|&start| start <= row);
                    }
                    lists[list].add(value as u64);
                }
            }
        }
        data => {
            let null = column.encoding.width().null();
            for (summary, range) in lists.iter_mut().zip(list_starts.windows(2)) {
                let ordinals = (range[0] as usize..range[1] as usize).map(|row| data.ordinal(row));
                ordinals.filter(|&ordinal| ordinal != null).for_each(|ordinal| summary.add(ordinal));
            }
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_has_the_bits_of_its_range_and_no_other() {
        for low in 0..130u64 {
            for high in low..low + 70 {
                let due = (low..=high).fold(0u64, |bits, ordinal| bits | 1 << (ordinal % 64));
                assert_eq!(signature(low, high), due, "{low} {high}");
            }
        }
        assert_eq!(signature(0, u64::MAX), u64::MAX);
    }
}
