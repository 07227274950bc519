//! Which candidates may be among the best k, by what is in memory.
//!
//! The int8 tier gives bounds of every candidate's exact score ([`crate::dense::Int8Tier::bounds`]). Where k candidates reach a score for
//! certain, one that cannot reach it is no hit: it is left out unread, and the answer is that of verifying all of them. Where rows are
//! views, it takes as many candidates as hold k documents for certain.

use super::Searcher;
use super::params::{SearchParams, SearchStats, Work};
use crate::dense::TierQuery;
use crate::topk::split_key;

/// Rows asked of memory ahead of the one being scored.
const AHEAD: usize = 4;

impl Searcher {
    /// Moves the candidates that may be among the best `params.k` to the front of `keys`, and says how many they are: all of
    /// them where there is no tier, or not more than are wanted. The dense query is in `work`.
    pub(super) fn narrow(
        &self,
        keys: &mut [u64],
        params: &SearchParams,
        work: &mut Work,
        stats: &mut SearchStats,
    ) -> usize {
        let Some(tier) = self.index.dense().tier() else { return keys.len() };
        let enough = self.certain_rows(params.k);
        if enough == 0 || keys.len() <= enough {
            return keys.len();
        }
        let Work { dense_query, lows, highs, .. } = work;
        let (query, metric) = (TierQuery::new(dense_query), self.metric());
        lows.clear();
        highs.clear();
        keys.iter().take(AHEAD).for_each(|&key| tier.prefetch(split_key(key).1));
        for (i, &key) in keys.iter().enumerate() {
            if let Some(&later) = keys.get(i + AHEAD) {
                tier.prefetch(split_key(later).1);
            }
            let (low, high) = tier.bounds(self.kernels, metric, query, split_key(key).1);
            lows.push(params.mixed(low, key));
            highs.push(params.mixed(high, key));
        }
        let (_, &mut certain, _) = lows.select_nth_unstable_by(enough - 1, |a, b| b.total_cmp(a));
        let mut wanted = 0;
        for i in 0..keys.len() {
            if highs[i] >= certain {
                keys[wanted] = keys[i];
                wanted += 1;
            }
        }
        stats.tier_scored += keys.len() as u32;
        wanted
    }
}
