//! One error type, sorted by what the reader should do about it.
//!
//! Every message names the bad value and the remedy; the server maps variants to status codes in one `match`, the
//! command-line tools print one line and exit with 1.

use std::io;
use std::path::{Path, PathBuf};

/// What the library returns when it cannot do what was asked.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a read, write, rename or map of `path`.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file of an index is not what was written: restore it from a copy or build the index again.
    #[error("{}: section {section} is damaged: {reason}; restore the file from a copy or build the index again", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// The section within it (`header` for the envelope), with the offset or row where known.
        section: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A file, setting or machine feature that this build does not know.
    #[error("{what} is not supported: {remedy}")]
    Unsupported {
        /// The thing asked for, with its value.
        what: String,
        /// What to do instead.
        remedy: String,
    },
    /// Two things that must agree do not: a dimension, a metric, an index id.
    #[error("{what} does not match: expected {expected}, found {found}")]
    Mismatch {
        /// What was compared.
        what: String,
        /// The value required.
        expected: String,
        /// The value given.
        found: String,
    },
    /// A parameter out of its range.
    #[error("invalid {name}: {reason}")]
    InvalidParams {
        /// The parameter's public name.
        name: &'static str,
        /// The value, the range, the remedy.
        reason: String,
    },
    /// A file given by the user holds something that cannot be used.
    #[error("{}: {place}: {reason}", path.display())]
    InvalidInput {
        /// The user's file.
        path: PathBuf,
        /// Where: `row 17`, `line 3`, `header`.
        place: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Training has left the finite numbers, or the neighbourhood of anything useful.
    #[error("training diverged at step {step}: {reason}; {remedy}")]
    Diverged {
        /// The step at which it was noticed, from 0.
        step: u64,
        /// The loss, or what else shows it.
        reason: String,
        /// What to change.
        remedy: String,
    },
    /// Too much work is queued; try again later.
    #[error("overloaded: {0} requests are waiting; retry later")]
    Overloaded(usize),
    /// The deadline passed before the answer was complete.
    #[error("the deadline of {0} ms passed; raise timeout_ms or lower nprobe or candidates")]
    DeadlineExceeded(u64),
}

impl Error {
    /// An [`Error::Io`] about `path`; shaped for `map_err`. The path is copied only when there is an error.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// An [`Error::Corrupt`].
    pub fn corrupt(path: impl AsRef<Path>, section: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Corrupt { path: path.as_ref().to_path_buf(), section: section.into(), reason: reason.into() }
    }

    /// An [`Error::InvalidParams`].
    pub fn params(name: &'static str, reason: impl Into<String>) -> Error {
        Error::InvalidParams { name, reason: reason.into() }
    }

    /// An [`Error::InvalidInput`].
    pub fn input(path: impl AsRef<Path>, place: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::InvalidInput { path: path.as_ref().to_path_buf(), place: place.into(), reason: reason.into() }
    }

    /// An [`Error::Mismatch`].
    pub fn mismatch(what: impl Into<String>, expected: impl ToString, found: impl ToString) -> Error {
        Error::Mismatch { what: what.into(), expected: expected.to_string(), found: found.to_string() }
    }
}
