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

/// The highest level.
const HIGHEST: f32 = 255.0;
/// Level of the lowest value. Level 0 is for rows without any: the levels between keep it apart from what pays little.
const GAP: f32 = 64.0;
/// What is worth nothing lies at least so many times below the lowest value.
const WORTHLESS: f32 = 1e3;
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
        let refused = refused as f32 / owners.rows().max(1) as f32;
        let (levels, least, step) = levels(&logs);
        Values { levels, least, step, refused, epoch: epoch.number() }
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

/// The level of every logarithm of a value, the logarithm that level 0 stands for, and the distance of two levels.
fn levels(logs: &[f32]) -> (Vec<u8>, f32, f32) {
    let most = logs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !most.is_finite() {
        // No row is worth anything: all alike.
        return (vec![0; logs.len()], 0.0, 0.0);
    }
    let lowest = logs.iter().copied().filter(|log| log.is_finite()).fold(f32::INFINITY, f32::min);
    let lowest = lowest.max(most - WIDEST.ln());
    let step = ((most - lowest) / (HIGHEST - GAP)).max(WORTHLESS.ln() / GAP);
    let level = |&log: &f32| match log.is_finite() {
        true => (GAP + (log - lowest) / step).round().clamp(GAP, HIGHEST) as u8,
        false => 0,
    };
    (logs.iter().map(level).collect(), lowest - GAP * step, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worth_nothing_lies_far_below_all_that_pays() {
        for bids in [vec![1.0, 1.0], vec![1.0, 2.0, 50.0], vec![1.0, 1e6], vec![1e-9, 1.0]] {
            let mut logs: Vec<f32> = bids.iter().map(|bid: &f32| bid.ln()).collect();
            logs.push(f32::NEG_INFINITY);
            let (levels, least, step) = levels(&logs);
            let log_at = |row: usize| least + step * f32::from(levels[row]);
            let (nothing, most) = (bids.len(), bids.len() - 1);
            assert!(log_at(0) - log_at(nothing) > 0.99 * WORTHLESS.ln(), "{bids:?} {levels:?}");
            assert!((log_at(most) - logs[most]).abs() <= 0.51 * step, "{bids:?} {levels:?}");
        }
        assert_eq!(levels(&[f32::NEG_INFINITY; 2]), (vec![0, 0], 0.0, 0.0));
    }
}
