//! What travels in bodies: requests as they may be written, answers as they are sent. Meaning is checked in `plan`.
//!
//! Unknown fields are refused everywhere: a mistyped `nprob` that is silently passed over would be a wrong answer.

mod ads;
mod search;
mod versions;

pub(super) use ads::*;
pub(super) use search::*;
pub(super) use versions::*;
