//! What `measure-recall` tells: a table for people while it runs, JSON, a page.

use crate::outln;
use bigrain::eval::{self, Machine, Memory, Outcome, Reference};
use bigrain::search::Searcher;
use serde_json::json;

use crate::table::columns;

/// Everything that was measured. `opened` is what the process occupied when the index was open, after `open_ms`.
pub fn report(
    searcher: &Searcher,
    open_ms: f64,
    opened: Memory,
    reference: &Reference,
    queries: usize,
    outcomes: &[Outcome],
) -> serde_json::Value {
    let manifest = searcher.index().manifest();
    let disk: u64 = manifest.files.all().map(|f| f.bytes).sum();
    json!({
        "index": {
            "description": format!(
                "{} lists, {}-bit codes of {} bytes, {} dense", manifest.lists, manifest.code_bits, manifest.code_bytes, manifest.dense
            ),
            "version": manifest.id,
            "rows": manifest.rows,
            "dim": manifest.dim,
            "dense_dim": manifest.dense_dim,
            "heads": manifest.heads,
            "router": manifest.router,
            "metric": manifest.metric,
            "lists": manifest.lists,
            "code_bits": manifest.code_bits,
            "code_bytes": manifest.code_bytes,
            "dense": manifest.dense,
            "memory_bytes_per_row": searcher.memory_bytes() as f64 / manifest.rows as f64,
            "disk_bytes_per_row": disk as f64 / manifest.rows as f64,
            "open_ms": open_ms,
            "resident_when_opened": opened,
            "resident_after": Memory::now(),
        },
        "machine": Machine::this(),
        "queries": queries,
        "judged_queries": reference.judged(),
        "results": outcomes,
    })
}

/// The table for people, a line as soon as it is measured.
pub struct Table {
    /// Whether to print at all.
    pub print: bool,
    /// Whether a column for the weight is worth its room.
    pub weight: bool,
    /// Whether columns for vectors in memory, of the tier and of the page cache, are worth their room.
    pub in_memory: bool,
}

impl Table {
    /// Prints the header.
    pub fn header(&self) {
        let weight = format!("{:>7}", "weight");
        self.line(
            &weight,
            &format!("{:>5} {:>7} {:>10}", "k", "nprobe", "candidates"),
            &format!(
                "{:>8} {:>8} {:>8} {:>9} {:>8} {:>8}",
                "recall", "of cand.", "MRR", "queries/s", "p50 µs", "p99 µs"
            ),
            &format!("{:>7} {:>7} {:>7} µs  {:>9} {:>8}", "probe", "scan", "fetch", "rows", "vectors"),
            &format!(" {:>8} {:>8}", "cached", "by tier"),
        );
    }

    /// Prints a line.
    pub fn row(&self, o: &Outcome) {
        // Candidates that are chosen on the way, as by a recall target, have no recall of their own.
        let of_candidates =
            o.candidate_recall.last_key_value().map_or("-".into(), |(_, recall)| format!("{recall:.4}"));
        let (recall, mrr, qps, p50, p99) = (o.recall, o.mrr, o.qps, o.p50_us, o.p99_us);
        let (probe, scan, fetch) = (o.probe_us, o.scan_us, o.fetch_us);
        self.line(
            &format!("{:>7}", o.sparse_weight),
            &format!("{:>5} {:>7} {:>10}", o.k, o.nprobe, o.candidates),
            &format!("{recall:>8.4} {of_candidates:>8} {mrr:>8.4} {qps:>9.0} {p50:>8.1} {p99:>8.1}"),
            &format!("{probe:>7.1} {scan:>7.1} {fetch:>7.1}     {:>9.0} {:>8.0}", o.rows_scanned, o.vectors_read),
            &format!(" {:>8.1} {:>8.0}", o.vectors_cached, o.tier_scored),
        );
    }

    fn line(&self, weight: &str, setting: &str, quality: &str, work: &str, in_memory: &str) {
        if self.print {
            let weight = if self.weight { weight } else { "" };
            outln!("{setting}{weight} {quality}   {work}{}", if self.in_memory { in_memory } else { "" });
        }
    }
}

/// MRR@10 and recall by depth, of hits and of candidates, a pair of lines for each outcome; empty where hits do not reach
/// beyond the first depth.
pub fn by_depth(outcomes: &[Outcome]) -> String {
    let mut depths: Vec<usize> = outcomes.iter().flat_map(|outcome| outcome.hit_recall.keys().copied()).collect();
    depths.sort_unstable();
    depths.dedup();
    if depths.len() < 2 {
        return String::new();
    }
    let names: Vec<String> = depths.iter().map(|depth| format!("R@{depth}")).collect();
    let header: Vec<&str> =
        ["of", "k", "nprobe", "candidates", "MRR@10"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let cell = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
    let mut rows = Vec::new();
    for o in outcomes {
        let sides =
            [("candidates", o.candidate_mrr_at_10, &o.candidate_recall), ("hits", Some(o.mrr_at_10), &o.hit_recall)];
        for (name, mrr, recall) in sides.into_iter().filter(|(_, mrr, _)| mrr.is_some()) {
            let setting =
                [name.to_string(), o.k.to_string(), o.nprobe.to_string(), o.candidates.to_string(), cell(mrr)];
            let recalls = depths.iter().map(|depth| cell(recall.get(depth).copied()));
            rows.push(setting.into_iter().chain(recalls).collect());
        }
    }
    columns(&header, &rows)
}

/// The page of a [`report`].
pub fn page(report: &serde_json::Value, outcomes: &[Outcome]) -> String {
    let index = &report["index"];
    let machine = &report["machine"];
    let lines = [
        format!(
            "{} rows of {} dimensions, {}; {}. {:.1} bytes a row in memory, {:.0} on disk.",
            index["rows"],
            index["dim"],
            index["metric"].as_str().unwrap_or_default(),
            index["description"].as_str().unwrap_or_default(),
            index["memory_bytes_per_row"].as_f64().unwrap_or_default(),
            index["disk_bytes_per_row"].as_f64().unwrap_or_default(),
        ),
        format!(
            "{} on {} ({} cores, {}); dense vectors by {}.",
            match outcomes.first().map_or(0, |outcome| outcome.threads) {
                1 => "1 thread".to_string(),
                threads => format!("{threads} threads"),
            },
            machine["cpu"].as_str().unwrap_or_default(),
            machine["cores"],
            machine["simd"].as_str().unwrap_or_default(),
            outcomes.first().map_or("nothing", |outcome| outcome.store.as_str())
        ),
    ];
    eval::frontier_page("Recall and speed", &lines, outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(k: usize) -> Outcome {
        let recall = |values: &[(usize, f64)]| values.iter().copied().filter(|&(depth, _)| depth <= k).collect();
        Outcome {
            nprobe: 8,
            candidates: 100,
            k,
            sparse_weight: 0.0,
            recall_target: 0.0,
            recall: 0.75,
            mrr: 0.5,
            mrr_at_10: 0.5,
            hit_recall: recall(&[(10, 0.25), (50, 0.75)]),
            candidate_mrr_at_10: Some(0.125),
            candidate_recall: recall(&[(10, 0.0625), (50, 0.5)]),
            qps: 1.0,
            p50_us: 1.0,
            p99_us: 1.0,
            rows_scanned: 1.0,
            tier_scored: 0.0,
            vectors_read: 1.0,
            vectors_cached: 0.0,
            rounds: 1.0,
            bytes_read: 1.0,
            probe_us: 1.0,
            scan_us: 1.0,
            fetch_us: 1.0,
            threads: 1,
            batch: false,
            store: "mmap".into(),
        }
    }

    #[test]
    fn depths_are_told_of_both_grains() {
        let expected = "of           k  nprobe  candidates  MRR@10    R@10    R@50\n\
                        candidates  50       8         100  0.1250  0.0625  0.5000\n\
                        hits        50       8         100  0.5000  0.2500  0.7500\n\
                        candidates  10       8         100  0.1250  0.0625\n\
                        hits        10       8         100  0.5000  0.2500\n";
        assert_eq!(by_depth(&[outcome(50), outcome(10)]), expected);
        assert_eq!(by_depth(&[outcome(10)]), "");
    }
}
