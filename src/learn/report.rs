//! Methods side by side: a table and curves on one self-contained HTML page.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

use super::measure::Quality;
use crate::train::Epoch;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 36.0;
const COLORS: [&str; 8] = ["#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#475569", "#0891b2", "#b91c1c"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1240px;margin:2rem auto;padding:0 1rem;color:#1e293b}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{display:block;overflow-x:auto;border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .5rem;text-align:right;border-bottom:1px solid #e2e8f0;white-space:nowrap}\
th{color:#475569;font-weight:600;vertical-align:bottom}td:first-child,th:first-child{text-align:left}td small{color:#64748b}\
td.best{font-weight:600;background:#eff6ff}svg{margin-right:1rem}text{fill:#475569;font-size:11px}\
figure{display:inline-block;margin:0 .6rem .6rem 0}figcaption{font-size:13px;color:#475569}";

/// One run of one method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Which method, with the heads or sampling that set it apart.
    pub method: String,
    /// Code bytes a row; 0 for dense exact search.
    pub bytes: usize,
    /// Inverted lists.
    pub lists: usize,
    /// Lists probed.
    pub nprobe: usize,
    /// Seed.
    pub seed: u64,
    /// What it finds.
    pub quality: Quality,
    /// Seconds of training.
    pub seconds: f64,
    /// Epochs of its main stage.
    #[serde(default)]
    pub epochs: Vec<Epoch>,
}

/// Runs of one method that differ in their seed.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// The runs, at least one.
    pub runs: Vec<&'a Run>,
}

impl Row<'_> {
    fn first(&self) -> &Run {
        self.runs[0]
    }

    /// Mean over the seeds, and half the range.
    pub fn over_seeds(&self, of: impl Fn(&Run) -> f64) -> (f64, f64) {
        let values: Vec<f64> = self.runs.iter().map(|run| of(run)).collect();
        let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        (values.iter().sum::<f64>() / values.len() as f64, (high - low) / 2.0)
    }
}

/// A figure of a run, with its heading.
type Column = (&'static str, fn(&Run) -> f64);

/// Figures of a table. Zero means not measured.
pub const COLUMNS: [Column; 8] = [
    ("candidates R@10", |run| run.quality.candidates[0]),
    ("R@100", |run| run.quality.candidates[1]),
    ("R@1000", |run| run.quality.candidates[2]),
    ("neighbours 10@100", |run| run.quality.neighbours),
    ("verified R@10", |run| run.quality.verified[0]),
    ("R@100", |run| run.quality.verified[1]),
    ("MRR@10", |run| run.quality.mrr),
    ("seconds", |run| run.seconds),
];

/// Groups of equal bytes, lists and nprobe, each with a row a method, in order of first appearance.
pub fn groups(runs: &[Run]) -> Vec<Vec<Row<'_>>> {
    let mut groups: Vec<Vec<Row<'_>>> = Vec::new();
    let key = |run: &Run| (run.bytes, run.lists, run.nprobe);
    let mut sorted: Vec<&Run> = runs.iter().collect();
    sorted.sort_by_key(|run| key(run));
    for run in sorted {
        if groups.last().is_none_or(|group| key(group[0].first()) != key(run)) {
            groups.push(Vec::new());
        }
        let group = groups.last_mut().expect("one was pushed");
        match group.iter_mut().find(|row| row.first().method == run.method) {
            Some(row) => row.runs.push(run),
            None => group.push(Row { runs: vec![run] }),
        }
    }
    groups
}

/// The name of a group.
pub fn group_title(group: &[Row<'_>]) -> String {
    let run = group[0].first();
    match (run.bytes, run.lists) {
        (0, _) => "Dense exact search".into(),
        (bytes, 1) => format!("{bytes} bytes a row, no lists"),
        (bytes, lists) => format!("{bytes} bytes a row, {lists} lists, nprobe {}", run.nprobe),
    }
}

/// A figure as it is printed: percent with its spread, or seconds; nothing where it was not measured.
pub fn cell(row: &Row<'_>, column: usize) -> (String, String) {
    let (mean, spread) = row.over_seeds(COLUMNS[column].1);
    let last = column + 1 == COLUMNS.len();
    let (mean, spread) = if last { (mean, spread) } else { (100.0 * mean, 100.0 * spread) };
    match (mean == 0.0, row.runs.len()) {
        (true, _) => (String::new(), String::new()),
        (_, 1) => (format!("{mean:.1}"), String::new()),
        _ => (format!("{mean:.1}"), format!("±{spread:.1}")),
    }
}

/// The page. `lines` say what was measured, on what.
pub fn report_page(title: &str, lines: &[String], runs: &[Run]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style><h1>{0}</h1>",
        escape(title)
    );
    lines.iter().for_each(|line| page.push_str(&format!("<p>{}</p>", escape(line))));
    page.push_str(
        "<p>Means over seeds, in percent; ± half the range. <b>Candidates</b> are ordered by codes alone, <b>verified</b> \
         ones by dense vectors. <b>Neighbours</b>: how many of the 10 exact nearest rows of the frozen vectors are among \
         the first 100 candidates.</p>",
    );
    for group in groups(runs) {
        table(&mut page, &group);
    }
    curves(&mut page, runs);
    page.push_str("</html>\n");
    page
}

fn table(page: &mut String, group: &[Row<'_>]) {
    let _ = write!(page, "<h2>{}</h2><table><tr><th>method<th>seeds", group_title(group));
    COLUMNS.iter().for_each(|(name, _)| {
        let _ = write!(page, "<th>{name}");
    });
    page.push_str("</tr>");
    let best: Vec<f64> =
        COLUMNS.iter().map(|(_, of)| group.iter().map(|row| row.over_seeds(of).0).fold(0.0, f64::max)).collect();
    for row in group {
        let _ = write!(page, "<tr><td>{}<td>{}", escape(&row.first().method), row.runs.len());
        for (column, best) in best.iter().enumerate() {
            let (mean, spread) = cell(row, column);
            let is_best = column + 1 < COLUMNS.len() && row.over_seeds(COLUMNS[column].1).0 == *best && *best > 0.0;
            let class = if is_best { " class=\"best\"" } else { "" };
            let _ = write!(page, "<td{class}>{mean} <small>{spread}</small>");
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
}

/// Loss and validation recall over epochs: a figure a group, a line a method (its first seed).
fn curves(page: &mut String, runs: &[Run]) {
    let mut seen: Vec<(usize, usize)> = Vec::new();
    for group in groups(runs) {
        let rows: Vec<&Run> = group.iter().map(|row| row.first()).filter(|run| run.epochs.len() > 1).collect();
        let Some(first) = rows.first() else { continue };
        // Runs that differ only in nprobe were trained together.
        if seen.contains(&(first.bytes, first.lists)) {
            continue;
        }
        if seen.is_empty() {
            page.push_str("<h2>Training</h2>");
        }
        seen.push((first.bytes, first.lists));
        let name = match first.lists {
            1 => format!("{} bytes, no lists", first.bytes),
            lists => format!("{} bytes, {lists} lists", first.bytes),
        };
        figure(page, &format!("{name}: loss"), &rows, |e| (e.epoch > 0).then_some(e.loss));
        figure(page, &format!("{name}: validation recall"), &rows, |e| Some(e.recall));
    }
}

fn figure(page: &mut String, caption: &str, runs: &[&Run], of: impl Fn(&Epoch) -> Option<f32>) {
    let points = |run: &Run| -> Vec<(f64, f64)> {
        run.epochs.iter().filter_map(|e| Some((e.epoch as f64, f64::from(of(e)?)))).collect()
    };
    let all: Vec<(f64, f64)> = runs.iter().flat_map(|run| points(run)).collect();
    let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.1), h.max(p.1)));
    let last = all.iter().map(|p| p.0).fold(1.0, f64::max);
    let high = if high > low { high } else { low + 1.0 };
    let x = |epoch: f64| MARGIN + epoch / last * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - (value - low) / (high - low) * (HEIGHT - 2.0 * MARGIN);
    let _ = write!(
        page,
        "<figure><figcaption>{}</figcaption><svg width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\
         <line x1=\"{MARGIN}\" y1=\"{1}\" x2=\"{2}\" y2=\"{1}\" stroke=\"#94a3b8\"/>\
         <text x=\"{MARGIN}\" y=\"{3}\">0</text><text x=\"{2}\" y=\"{3}\" text-anchor=\"end\">epoch {last}</text>\
         <text x=\"2\" y=\"{4:.1}\">{high:.2}</text><text x=\"2\" y=\"{1}\">{low:.2}</text>",
        escape(caption),
        HEIGHT - MARGIN,
        WIDTH - MARGIN,
        HEIGHT - MARGIN + 14.0,
        y(high) + 4.0
    );
    for (i, run) in runs.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        let line: Vec<String> = points(run).iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = write!(
            page,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{}\"/>\
             <text x=\"{}\" y=\"{}\" style=\"fill:{color}\">{}</text>",
            line.join(" "),
            MARGIN + 8.0 + (i % 2) as f64 * (WIDTH / 2.0 - MARGIN),
            12.0 + (i / 2) as f64 * 13.0,
            escape(&run.method)
        );
    }
    page.push_str("</svg></figure>");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(method: &str, bytes: usize, seed: u64, recall: f64) -> Run {
        let quality = Quality { candidates: [recall, recall, recall], ..Quality::default() };
        let epochs = (0..3).map(|epoch| Epoch { epoch, loss: 1.0, recall: 0.5, seconds: 1.0 }).collect();
        Run { method: method.into(), bytes, lists: 1, nprobe: 1, seed, quality, seconds: 2.0, epochs }
    }

    #[test]
    fn runs_are_grouped_by_budget_and_averaged_over_seeds() {
        let runs = [run("opq", 16, 1, 0.5), run("opq", 8, 1, 0.3), run("<b>", 8, 1, 0.6), run("opq", 8, 2, 0.4)];
        let groups = groups(&runs);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(cell(&groups[0][0], 0), ("35.0".into(), "±5.0".into()));
        assert_eq!(cell(&groups[1][0], 4), (String::new(), String::new()));
        let page = report_page("A & B", &["line".into()], &runs);
        assert!(page.contains("A &amp; B") && page.contains("&lt;b&gt;") && page.contains("<polyline"));
        assert!(!page.contains("http"), "the page needs nothing from elsewhere");
        assert_eq!(page.matches("class=\"best\"").count(), 6);
    }
}
