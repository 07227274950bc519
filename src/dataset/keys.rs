//! The caller's keys: one unsigned 64-bit integer a line, line `i` for row `i - 1`.

use std::path::Path;

use super::lines::{Lines, check_count, count_lines};
use crate::error::Result;
use crate::types::Key;

/// A file of keys, read in row order.
#[derive(Debug)]
pub struct KeyFile {
    lines: Lines,
}

impl KeyFile {
    /// Opens a file that must hold `rows` lines; they are counted at once.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` if the number of lines is another.
    pub fn open(path: &Path, rows: u64) -> Result<KeyFile> {
        check_count(path, count_lines(path)?, rows)?;
        Ok(KeyFile { lines: Lines::open(path, 64)? })
    }

    /// Reads the keys of the next `out.len()` rows.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` naming the line that is not a key, or the end of the file.
    pub fn read(&mut self, out: &mut [Key]) -> Result<()> {
        for key in out {
            *key = self.next_key()?;
        }
        Ok(())
    }

    fn next_key(&mut self) -> Result<Key> {
        let reason = match self.lines.next_line()? {
            Some(text) => match text.trim().parse() {
                Ok(key) => return Ok(key),
                Err(_) => format!("{text:?} is not a key; an integer from 0 to {} is", Key::MAX),
            },
            None => "the file ends here: more keys were asked for than it has lines".into(),
        };
        Err(self.lines.error(reason))
    }
}
