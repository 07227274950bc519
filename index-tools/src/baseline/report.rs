//! Frontiers side by side: of the index, and of each baseline.

use bigrain::eval::Outcome;
use bigrain::search::Searcher;
use serde::Serialize;
use std::fmt::Write;

use super::{Baseline, Point};
use crate::table::{columns, grouped};

/// The settings of one engine that no other setting of it beats at both recall and speed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Frontier {
    /// Hits wanted.
    pub k: usize,
    /// `bigrain`, or `FAISS` and a factory string.
    pub engine: String,
    /// Bytes a row that searching needs in memory; None where they are not known.
    pub bytes_per_row: Option<f64>,
    /// Fastest first.
    pub points: Vec<Best>,
}

/// A point of a frontier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Best {
    /// Mean recall in the first k.
    pub recall: f64,
    /// Queries a second.
    pub qps: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// How to search so.
    pub setting: String,
}

impl From<&Outcome> for Best {
    fn from(o: &Outcome) -> Best {
        let mut setting = match o.recall_target > 0.0 {
            true => format!("recall target {}", o.recall_target),
            false => format!("nprobe {}, candidates {}", o.nprobe, o.candidates),
        };
        if o.sparse_weight > 0.0 {
            // Writing to a string does not fail.
            let _ = write!(setting, ", weight {}", o.sparse_weight);
        }
        Best { recall: o.recall, qps: o.qps, p50_us: o.p50_us, setting }
    }
}

impl From<&Point> for Best {
    fn from(point: &Point) -> Best {
        let named = [("nprobe", point.setting.nprobe), ("k_factor", point.setting.refine)];
        let told: Vec<String> =
            named.iter().filter_map(|(name, value)| Some(format!("{name} {}", (*value)?))).collect();
        let setting = if told.is_empty() { "defaults".into() } else { told.join(", ") };
        Best { recall: point.recall, qps: point.qps, p50_us: point.p50_us, setting }
    }
}

/// Those of all engines, by k, the index first.
pub fn frontiers(searcher: &Searcher, outcomes: &[Outcome], baselines: &[Baseline]) -> Vec<Frontier> {
    let mut ks: Vec<usize> = outcomes.iter().map(|outcome| outcome.k).collect();
    ks.sort_unstable();
    ks.dedup();
    let mut all = Vec::new();
    for k in ks {
        let of_index = outcomes.iter().filter(|outcome| outcome.k == k).map(Best::from).collect();
        let bytes_per_row = Some(searcher.memory_bytes() as f64 / searcher.rows() as f64);
        all.push(Frontier { k, engine: "bigrain".into(), bytes_per_row, points: best(of_index) });
        all.extend(baselines.iter().map(|baseline| {
            let points = baseline.results.iter().filter(|point| point.setting.k == k).map(Best::from).collect();
            let engine = format!("FAISS {}", baseline.factory);
            Frontier { k, engine, bytes_per_row: baseline.bytes_per_row, points: best(points) }
        }));
    }
    all
}

/// Those that are better than every faster one.
fn best(mut points: Vec<Best>) -> Vec<Best> {
    points.sort_by(|a, b| b.qps.total_cmp(&a.qps).then(b.recall.total_cmp(&a.recall)));
    let mut highest = f64::NEG_INFINITY;
    points.retain(|point| {
        let better = point.recall > highest;
        highest = highest.max(point.recall);
        better
    });
    points
}

/// A table for each k.
pub fn describe(frontiers: &[Frontier]) -> String {
    let header = ["engine", "recall", "queries/s", "p50 us", "setting", "bytes a row"];
    let mut out = String::new();
    for of_k in frontiers.chunk_by(|a, b| a.k == b.k) {
        let rows: Vec<Vec<String>> = of_k
            .iter()
            .flat_map(|frontier| {
                let bytes = frontier.bytes_per_row.map_or("not known".into(), |bytes| format!("{bytes:.1}"));
                frontier.points.iter().map(move |point| {
                    let speed = [grouped(point.qps.round() as u64), format!("{:.1}", point.p50_us)];
                    let [qps, p50] = speed;
                    let name = frontier.engine.clone();
                    vec![name, format!("{:.4}", point.recall), qps, p50, point.setting.clone(), bytes.clone()]
                })
            })
            .collect();
        // Writing to a string does not fail.
        let _ = write!(out, "\nFrontiers at k = {}\n{}", of_k[0].k, columns(&header, &rows));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(recall: f64, qps: f64) -> Best {
        Best { recall, qps, p50_us: 1e6 / qps, setting: format!("nprobe {}", (recall * 100.0).round()) }
    }

    #[test]
    fn a_frontier_has_no_point_that_another_beats() {
        let points = vec![point(0.5, 1_000.0), point(0.75, 2_000.0), point(0.875, 500.0), point(0.75, 800.0)];
        assert_eq!(best(points), [point(0.75, 2_000.0), point(0.875, 500.0)]);
        // Of those as fast as each other, the better one.
        assert_eq!(best(vec![point(0.25, 10.0), point(0.5, 10.0)]), [point(0.5, 10.0)]);
    }

    #[test]
    fn engines_stand_under_each_other_by_k() {
        let of = |k, engine: &str, bytes_per_row, points| Frontier { k, engine: engine.into(), bytes_per_row, points };
        let table = describe(&[
            of(10, "bigrain", Some(143.25), vec![point(0.75, 20_000.0)]),
            of(10, "FAISS Flat", None, vec![point(1.0, 500.0)]),
            of(100, "bigrain", Some(143.25), vec![point(0.5, 10_000.0)]),
        ]);
        let expected = "\nFrontiers at k = 10\n\
                        engine      recall  queries/s  p50 us     setting  bytes a row\n\
                        bigrain     0.7500     20,000    50.0   nprobe 75        143.2\n\
                        FAISS Flat  1.0000        500  2000.0  nprobe 100    not known\n\
                        \nFrontiers at k = 100\n\
                        engine   recall  queries/s  p50 us    setting  bytes a row\n\
                        bigrain  0.5000     10,000   100.0  nprobe 50        143.2\n";
        assert_eq!(table, expected);
    }
}
