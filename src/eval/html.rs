//! The frontier of recall and speed as one self-contained HTML page: a plot, and the table behind it.

use std::fmt::Write;

use super::measure::Outcome;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 56.0;
const COLORS: [&str; 6] = ["#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#475569"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2rem auto;padding:0 1rem;\
color:#1e293b}h1{font-size:1.3rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #e2e8f0}th{color:#475569;font-weight:600}\
tr.best td{background:#eff6ff}text{fill:#475569;font-size:12px}";

/// The page for measured settings. `title` and `lines` (what was measured, where) come above the plot.
pub fn frontier_page(title: &str, lines: &[String], outcomes: &[Outcome]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style><h1>{0}</h1>",
        escape(title)
    );
    lines.iter().for_each(|line| page.push_str(&format!("<p>{}</p>", escape(line))));
    page.push_str(&plot(outcomes));
    page.push_str(
        "<p>Marked rows are on the frontier: no other setting with the same k is both faster and better.</p>\
         <table><tr><th>k<th>nprobe<th>candidates<th>recall<th>MRR<th>queries/s<th>p50 µs<th>p99 µs\
         <th>rows scanned<th>vectors read</tr>",
    );
    for outcome in outcomes {
        let class = if on_frontier(outcome, outcomes) { " class=\"best\"" } else { "" };
        let _ = write!(
            page,
            "<tr{class}><td>{}<td>{}<td>{}<td>{:.4}<td>{:.4}<td>{:.0}<td>{:.0}<td>{:.0}<td>{:.0}<td>{:.0}</tr>",
            outcome.k,
            outcome.nprobe,
            outcome.candidates,
            outcome.recall,
            outcome.mrr,
            outcome.qps,
            outcome.p50_us,
            outcome.p99_us,
            outcome.rows_scanned,
            outcome.vectors_read
        );
    }
    page.push_str("</table></html>\n");
    page
}

fn on_frontier(outcome: &Outcome, all: &[Outcome]) -> bool {
    !all.iter().any(|other| {
        other.k == outcome.k
            && other.recall >= outcome.recall
            && other.qps >= outcome.qps
            && (other.recall > outcome.recall || other.qps > outcome.qps)
    })
}

/// Recall (linear) against queries a second (logarithmic); one colour a k, lines through the frontier.
fn plot(outcomes: &[Outcome]) -> String {
    let recalls = outcomes.iter().map(|o| o.recall);
    let low = (recalls.fold(1.0, f64::min) * 20.0).floor() / 20.0;
    let low = low.min(0.95);
    let speeds = || outcomes.iter().map(|o| o.qps.max(1.0).log10());
    let (slow, fast) = (speeds().fold(f64::MAX, f64::min).floor(), speeds().fold(0.0, f64::max).ceil());
    let fast = if fast > slow { fast } else { slow + 1.0 };
    let x = |recall: f64| MARGIN + (recall - low) / (1.0 - low) * (WIDTH - 2.0 * MARGIN);
    let y = |qps: f64| HEIGHT - MARGIN - (qps.max(1.0).log10() - slow) / (fast - slow) * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"recall against speed\">");
    axes(&mut svg, &x, &y, low, (slow as i32, fast as i32));
    let mut ks: Vec<usize> = outcomes.iter().map(|o| o.k).collect();
    ks.sort_unstable();
    ks.dedup();
    for (k, color) in ks.iter().zip(COLORS.iter().cycle()) {
        let mut line: Vec<&Outcome> = outcomes.iter().filter(|o| o.k == *k && on_frontier(o, outcomes)).collect();
        line.sort_by(|a, b| a.recall.total_cmp(&b.recall));
        let points: Vec<String> = line.iter().map(|o| format!("{:.1},{:.1}", x(o.recall), y(o.qps))).collect();
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{}\"/>",
            points.join(" ")
        );
        for o in outcomes.iter().filter(|o| o.k == *k) {
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{color}\"><title>k {k}, nprobe {}, candidates {}: \
                 recall {:.4}, {:.0} queries/s</title></circle>",
                x(o.recall),
                y(o.qps),
                o.nprobe,
                o.candidates,
                o.recall,
                o.qps
            );
        }
        if let Some(last) = line.last() {
            let (left, top) = (x(last.recall) - 8.0, y(last.qps) - 8.0);
            let _ = write!(svg, "<text x=\"{left:.1}\" y=\"{top:.1}\" text-anchor=\"end\">k = {k}</text>");
        }
    }
    svg.push_str("</svg>");
    svg
}

fn axes(svg: &mut String, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64, low: f64, (slow, fast): (i32, i32)) {
    let (left, bottom) = (MARGIN, HEIGHT - MARGIN);
    for step in 0..=5 {
        let recall = low + (1.0 - low) * f64::from(step) / 5.0;
        let _ = write!(
            svg,
            "<line x1=\"{0:.1}\" y1=\"{MARGIN}\" x2=\"{0:.1}\" y2=\"{bottom}\" stroke=\"#e2e8f0\"/>\
             <text x=\"{0:.1}\" y=\"{1}\" text-anchor=\"middle\">{recall:.2}</text>",
            x(recall),
            bottom + 18.0
        );
    }
    for power in slow..=fast {
        let qps = 10f64.powi(power);
        let _ = write!(
            svg,
            "<line x1=\"{left}\" y1=\"{0:.1}\" x2=\"{1}\" y2=\"{0:.1}\" stroke=\"#e2e8f0\"/>\
             <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{qps:.0}</text>",
            y(qps),
            WIDTH - MARGIN,
            left - 6.0,
            y(qps) + 4.0
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">recall</text><text x=\"{left}\" y=\"{}\">queries a second</text>",
        WIDTH / 2.0,
        HEIGHT - 14.0,
        MARGIN - 16.0
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
