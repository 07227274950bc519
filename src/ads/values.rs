//! What the rows of a version are worth at the moment, in one byte each, for a scan that takes bids into account.
//!
//! The easy version asks the control table for every row that is scanned. That is two reads of memory a row where a scan spends a
//! fraction of a nanosecond. Here the values of all rows are written down as logarithms on a scale of 256 levels, at most once a
//! second and only after the table has changed (a million rows take some tens of milliseconds, on a thread that serves nobody),
//! and the scan adds them as row terms. Levels choose candidates, nothing else: eligibility is asked of every candidate, and hits are ranked by the bid of
//! the request's own epoch.

use super::control::Epoch;
use super::owners::Owners;
use super::rank::value_micros;
use crate::search::Bonus;
use crate::types::Row;

/// Levels of a logarithm above the lowest one, which is for rows without any value.
const LEVELS: f32 = 254.0;
/// Values further apart than this factor do not get further apart on the scale: nothing that cheap reaches a list of hits.
const WIDEST: f32 = 1e6;

/// The values of all rows of one version at one epoch.
#[derive(Debug)]
pub struct Values {
    levels: Vec<u8>,
    least: f32,
    step: f32,
    refused: f32,
    epoch: u64,
}

impl Values {
    /// The values that `epoch` gives, at `now` (seconds since 1970).
    pub fn new(owners: &Owners, epoch: &Epoch, now: i64, default_ctr: f32) -> Values {
        let mut refused = 0usize;
        let logs: Vec<f32> = (0..owners.rows() as Row)
            .map(|row| {
                let standing = epoch.standing(owners.of(row));
                if standing.eligible(now).is_err() {
                    refused += 1;
                    return f32::NEG_INFINITY;
                }
                (value_micros(&standing, default_ctr) as f32).ln()
            })
            .collect();
        let most = logs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let lowest = logs.iter().copied().filter(|log| log.is_finite()).fold(f32::INFINITY, f32::min);
        let refused = refused as f32 / owners.rows().max(1) as f32;
        if !most.is_finite() {
            // No row is worth anything: all alike.
            return Values { levels: vec![0; logs.len()], least: 0.0, step: 0.0, refused, epoch: epoch.number() };
        }
        let lowest = lowest.max(most - WIDEST.ln());
        let step = ((most - lowest) / LEVELS).max(f32::MIN_POSITIVE);
        // Level 1 is `lowest`; level 0 lies a step below it, which is far enough for what is worth nothing among the best.
        let level =
            |log: f32| if log.is_finite() { ((log - lowest) / step).round().clamp(0.0, LEVELS) as u8 + 1 } else { 0 };
        let levels = logs.into_iter().map(level).collect();
        Values { levels, least: lowest - step, step, refused, epoch: epoch.number() }
    }

    /// The epoch that gave them.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The share of rows that could not be shown.
    pub fn refused(&self) -> f32 {
        self.refused
    }

    /// As the scan takes them, against the power `alpha` of relevance.
    pub fn bonus(&self, alpha: f32) -> Bonus<'_> {
        Bonus { levels: &self.levels, least: self.least, step: self.step, alpha }
    }

    /// Bytes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.levels.len()
    }
}
