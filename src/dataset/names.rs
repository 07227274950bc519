//! Other people's ids: one text a line, line `i` for row `i - 1`; from an id to its row and back.
//!
//! Ten million ids must not cost a gigabyte, so they lie in one string, and the way from an id to its row is a sorted
//! permutation: 8 bytes an id beside its text.

use rayon::prelude::*;
use std::fmt;
use std::path::{Path, PathBuf};

use super::lines::{Lines, check_count, count_lines};
use crate::error::{Error, Result};
use crate::types::MAX_ROWS;

/// The longest id, in bytes.
const LONGEST: usize = 256;

/// The ids of the rows of a vector file.
pub struct Names {
    path: PathBuf,
    /// All ids, one behind the other.
    text: String,
    /// Where each id ends in `text`.
    ends: Vec<usize>,
    /// Rows by ascending id.
    order: Vec<u32>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("path", &self.path).field("rows", &self.ends.len()).finish_non_exhaustive()
    }
}

impl Names {
    /// Reads a file that must hold `rows` ids, all different, without blanks within.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` for another number of lines, and naming the line whose id is empty, has a blank in it, or was
    /// there before.
    pub fn read(path: &Path, rows: u64) -> Result<Names> {
        check_count(path, count_lines(path)?, rows)?;
        if rows > MAX_ROWS {
            return Err(Error::input(path, "the whole file", format!("{rows} ids; at most {MAX_ROWS} are read")));
        }
        let mut names = Names { path: path.into(), text: String::new(), ends: Vec::new(), order: Vec::new() };
        let mut lines = Lines::open(path, LONGEST)?;
        while let Some(line) = lines.next_line()? {
            let name = line.trim();
            if name.is_empty() || name.contains(char::is_whitespace) {
                let reason = format!("{line:?} is not an id: one without blanks is needed on every line");
                return Err(lines.error(reason));
            }
            names.text.push_str(name);
            names.ends.push(names.text.len());
        }
        names.order = names.sorted();
        names.check_distinct()?;
        Ok(names)
    }

    /// The row of an id, if it is one of these.
    pub fn row(&self, name: &str) -> Option<u64> {
        let at = self.order.binary_search_by(|&row| self.at(row as usize).cmp(name)).ok()?;
        Some(self.order[at].into())
    }

    /// The id of a row, if there is such a row.
    pub fn name(&self, row: u64) -> Option<&str> {
        let row = usize::try_from(row).ok().filter(|&row| row < self.ends.len())?;
        Some(self.at(row))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self, row: usize) -> &str {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[start..self.ends[row]]
    }

    fn sorted(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.ends.len() as u32).collect();
        order.par_sort_unstable_by(|&a, &b| self.at(a as usize).cmp(self.at(b as usize)).then(a.cmp(&b)));
        order
    }

    /// Names the first line that repeats an id.
    fn check_distinct(&self) -> Result<()> {
        let repeated = self.order.windows(2).filter(|pair| self.at(pair[0] as usize) == self.at(pair[1] as usize));
        let Some(pair) = repeated.min_by_key(|pair| pair[1]) else { return Ok(()) };
        let reason = format!(
            "the id {:?} is on line {} too; every row needs an id of its own",
            self.at(pair[1] as usize),
            pair[0] + 1
        );
        Err(Error::input(&self.path, format!("line {}", pair[1] + 1), reason))
    }
}
