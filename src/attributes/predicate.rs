//! A filter as ranges of ordinals, evaluated 64 rows a word.

use std::sync::{Arc, OnceLock};

use super::columns::{Column, Data};
use super::meaning::Meaning;
use crate::simd::Kernels;
use crate::types::{ListId, Row};

/// Up to this many ranges, the kernel is called for each of them. Over lists of 500 rows twenty calls cost as much as a look at a
/// table of bits for each row (`benches/filters.rs`).
const MOST_RANGES: usize = 12;
/// [`Predicate::share`] looks at all rows of an index with no more than this, else at about half as many.
const COUNTED_ROWS: usize = 1 << 16;
/// Runs of neighbouring rows that a sample consists of.
const SAMPLED_RUNS: usize = 256;

/// A compiled filter. It owns what it reads, and clones share it.
#[derive(Clone, Debug)]
pub struct Predicate {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rows: usize,
    list_starts: Arc<[Row]>,
    must: Vec<Clause>,
    should: Vec<Clause>,
    must_not: Vec<Clause>,
    share: OnceLock<f32>,
}

/// Room for the words of a part of a filter.
#[derive(Clone, Debug, Default)]
pub struct PredicateScratch {
    words: Vec<u64>,
}

/// One condition: which ordinals of which column pass.
#[derive(Clone, Debug)]
pub(super) struct Clause {
    column: Arc<Column>,
    /// Sorted, not touching, ends included.
    ranges: Vec<(u64, u64)>,
    /// Where there are many ranges over ordinals of at most 16 bits: one bit an ordinal.
    table: Vec<u64>,
}

impl Clause {
    pub(super) fn new(column: Arc<Column>, meaning: &Meaning) -> Clause {
        let ranges = column.encoding.ranges(meaning);
        let mut table = Vec::new();
        if ranges.len() > MOST_RANGES && matches!(column.data, Data::U8(_) | Data::U16(_)) {
            // Null is the largest ordinal of the width, and its bit stays 0.
            table = vec![0u64; (column.encoding.width().null() as usize + 1).div_ceil(64)];
            for ordinal in ranges.iter().flat_map(|&(low, high)| low..=high) {
                table[ordinal as usize / 64] |= 1 << (ordinal % 64);
            }
        }
        Clause { column, ranges, table }
    }

    fn may_pass(&self, list: usize) -> bool {
        let summary = &self.column.lists[list];
        self.ranges.iter().any(|&(low, high)| summary.may_have(low, high))
    }

    /// Adds the bits of the rows `first ..` that pass.
    fn add(&self, kernels: &Kernels, first: Row, rows: usize, words: &mut [u64]) {
        let from = first as usize;
        match &self.column.data {
            Data::U8(ordinals) => self.add_narrow(&ordinals[from..from + rows], kernels.between_u8, words),
            Data::U16(ordinals) => self.add_narrow(&ordinals[from..from + rows], kernels.between_u16, words),
            Data::U32(ordinals) => self.add_wide(&ordinals[from..from + rows], kernels.between_u32, words),
            Data::U64(ordinals) => self.add_wide(&ordinals[from..from + rows], kernels.between_u64, words),
            Data::Postings(postings) => {
                for value in self.ranges.iter().flat_map(|&(low, high)| low..=high) {
                    for &row in postings.rows_within(value as usize, first, u64::from(first) + rows as u64) {
                        words[(row - first) as usize / 64] |= 1 << ((row - first) % 64);
                    }
                }
            }
        }
    }

    fn add_narrow<T: Ordinal>(&self, ordinals: &[T], between: fn(&[T], T, T, &mut [u64]), words: &mut [u64]) {
        if self.table.is_empty() {
            return self.add_ranges(ordinals, between, words);
        }
        for (word, ordinals) in words.iter_mut().zip(ordinals.chunks(64)) {
            for (bit, ordinal) in ordinals.iter().enumerate() {
                let ordinal: u64 = (*ordinal).into();
                *word |= (self.table[ordinal as usize / 64] >> (ordinal % 64) & 1) << bit;
            }
        }
    }

    fn add_wide<T: Ordinal>(&self, ordinals: &[T], between: fn(&[T], T, T, &mut [u64]), words: &mut [u64]) {
        if self.ranges.len() <= MOST_RANGES {
            return self.add_ranges(ordinals, between, words);
        }
        for (word, ordinals) in words.iter_mut().zip(ordinals.chunks(64)) {
            for (bit, ordinal) in ordinals.iter().enumerate() {
                let ordinal: u64 = (*ordinal).into();
                let at = self.ranges.partition_point(|range| range.1 < ordinal);
                *word |= u64::from(self.ranges.get(at).is_some_and(|range| range.0 <= ordinal)) << bit;
            }
        }
    }

    fn add_ranges<T: Ordinal>(&self, ordinals: &[T], between: fn(&[T], T, T, &mut [u64]), words: &mut [u64]) {
        for &(low, high) in &self.ranges {
            // Ranges lie below null, so within the width.
            if let (Ok(low), Ok(high)) = (T::try_from(low), T::try_from(high)) {
                between(ordinals, low, high, words);
            }
        }
    }
}

trait Ordinal: Copy + Into<u64> + TryFrom<u64> {}
impl<T: Copy + Into<u64> + TryFrom<u64>> Ordinal for T {}

impl Predicate {
    pub(super) fn new(rows: usize, list_starts: Arc<[Row]>, parts: [Vec<Clause>; 3]) -> Predicate {
        let [must, should, must_not] = parts;
        let share = OnceLock::new();
        Predicate { shared: Arc::new(Shared { rows, list_starts, must, should, must_not, share }) }
    }

    /// Whether one row passes.
    ///
    /// # Panics
    /// If the index has no such row.
    pub fn passes(&self, row: Row) -> bool {
        let (mut words, mut scratch) = (Vec::new(), PredicateScratch::default());
        self.words(Kernels::detect(), row, 1, &mut words, &mut scratch);
        words[0] & 1 == 1
    }

    /// The bits of rows `first .. first + rows`: bit `i` of word `j` is row `first + 64 j + i`. Clears and fills `words`
    /// (`rows.div_ceil(64)` of them); bits beyond the rows are 0.
    ///
    /// # Panics
    /// If the index has no such rows.
    pub fn words(
        &self,
        kernels: &Kernels,
        first: Row,
        rows: usize,
        words: &mut Vec<u64>,
        scratch: &mut PredicateScratch,
    ) {
        let Shared { must, should, must_not, .. } = &*self.shared;
        let part = &mut scratch.words;
        words.clear();
        words.resize(rows.div_ceil(64), 0);
        match must.split_first() {
            Some((clause, _)) => clause.add(kernels, first, rows, words),
            None => fill(words, rows),
        }
        let mut and = |clauses: &[Clause], mask: fn(u64) -> u64| {
            // What does not pass by now will not pass.
            if words.iter().all(|&word| word == 0) {
                return;
            }
            part.clear();
            part.resize(words.len(), 0);
            clauses.iter().for_each(|clause| clause.add(kernels, first, rows, part));
            words.iter_mut().zip(&*part).for_each(|(word, &part)| *word &= mask(part));
        };
        must.iter().skip(1).for_each(|clause| and(std::slice::from_ref(clause), |part| part));
        if !should.is_empty() {
            and(should, |part| part);
        }
        if !must_not.is_empty() {
            and(must_not, |part| !part);
        }
    }

    /// Whether a row of `list` may pass: false is certain, true is not.
    ///
    /// # Panics
    /// If the index has no such list.
    pub fn may_pass(&self, list: ListId) -> bool {
        let Shared { must, should, .. } = &*self.shared;
        let list = list as usize;
        must.iter().all(|clause| clause.may_pass(list))
            && (should.is_empty() || should.iter().any(|clause| clause.may_pass(list)))
    }

    /// The share of the rows that pass: exact for up to 65,536 rows, else estimated from 256 runs of 128 rows spread over the
    /// index; where no row of the sample passes it is that of half a row of the sample. Computed once.
    pub fn share(&self) -> f32 {
        *self.shared.share.get_or_init(|| {
            let rows = self.shared.rows;
            let kernels = Kernels::detect();
            if rows <= COUNTED_ROWS {
                return self.count(kernels, 0, rows) as f32 / rows.max(1) as f32;
            }
            let run = COUNTED_ROWS / 2 / SAMPLED_RUNS;
            let starts = (0..SAMPLED_RUNS).map(|at| at * (rows - run) / (SAMPLED_RUNS - 1));
            let passed: usize = starts.map(|first| self.count(kernels, first, run)).sum();
            (passed as f32).max(0.5) / (run * SAMPLED_RUNS) as f32
        })
    }

    fn count(&self, kernels: &Kernels, first: usize, rows: usize) -> usize {
        let (mut words, mut scratch) = (Vec::new(), PredicateScratch::default());
        self.words(kernels, first as Row, rows, &mut words, &mut scratch);
        words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Puts all rows that pass into `out`, ascending, and returns true; or returns false as soon as there are more than
    /// `most`, with `out` in an unspecified state.
    pub fn rows(&self, kernels: &Kernels, most: usize, out: &mut Vec<Row>) -> bool {
        out.clear();
        let (mut words, mut scratch) = (Vec::new(), PredicateScratch::default());
        for (list, range) in self.shared.list_starts.windows(2).enumerate() {
            if range[0] == range[1] || !self.may_pass(list as ListId) {
                continue;
            }
            self.words(kernels, range[0], (range[1] - range[0]) as usize, &mut words, &mut scratch);
            for (word, first) in words.iter().zip((range[0]..).step_by(64)) {
                let mut left = *word;
                while left != 0 {
                    out.push(first + left.trailing_zeros());
                    left &= left - 1;
                }
            }
            if out.len() > most {
                return false;
            }
        }
        true
    }
}

/// Sets the first `rows` bits of zeroed words.
fn fill(words: &mut [u64], rows: usize) {
    words.fill(u64::MAX);
    if let Some(last) = words.last_mut().filter(|_| !rows.is_multiple_of(64)) {
        *last = (1 << (rows % 64)) - 1;
    }
}
