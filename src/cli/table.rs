//! Hits as a table for people.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The widest a column gets.
const WIDEST: usize = 64;

/// One line of the table.
pub(super) struct Line {
    pub(super) key: u64,
    pub(super) score: f32,
    /// The stored fields; empty without any.
    pub(super) fields: Map<String, Value>,
    /// How it was found; empty where nobody asked.
    pub(super) found: Map<String, Value>,
}

/// Rank, score, key, how it was found, and a column for each field of the first hit (`title` first).
pub(super) fn table(lines: &[Line]) -> String {
    let mut names: Vec<&str> =
        lines.first().map_or_else(Vec::new, |line| line.fields.keys().map(String::as_str).collect());
    names.sort_by_key(|name| *name != "title"); // Stable: the rest keeps its order.
    let ways: Vec<&str> = lines.first().map_or_else(Vec::new, |line| line.found.keys().map(String::as_str).collect());
    let header =
        ["", "score", "key"].into_iter().chain(ways.iter().chain(&names).copied()).map(str::to_string).collect();
    let mut rows: Vec<Vec<String>> = vec![header];
    for (rank, line) in lines.iter().enumerate() {
        let mut row = vec![(rank + 1).to_string(), format!("{:.4}", line.score), line.key.to_string()];
        row.extend(ways.iter().map(|name| cell(line.found.get(*name))));
        row.extend(names.iter().map(|name| cell(line.fields.get(*name))));
        rows.push(row);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..ways.len() + names.len() + 3).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate();
        let numbers = 3 + ways.len();
        let cells = cells.map(|(at, (cell, width))| match at < numbers {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

/// A value on one line: control characters could do anything to a terminal.
fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    match text.chars().count() {
        0..=WIDEST => clean.collect(),
        _ => clean.take(WIDEST - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up_and_nothing_reaches_the_terminal_raw() {
        let found = |list: u64| json!({"list": list}).as_object().unwrap().clone();
        let line = |key, score, fields: Value| Line {
            key,
            score,
            fields: fields.as_object().unwrap().clone(),
            found: found(key % 10),
        };
        let lines = [
            line(7, 0.5, json!({"price": 3, "title": "a\u{1b}[2Jb"})),
            line(12345, -1.25, json!({"title": "x".repeat(100)})),
        ];
        let text = table(&lines);
        let rows: Vec<&str> = text.lines().collect();
        let place = |row: &str, text: &str| row.split_once(text).unwrap().0.chars().count();
        assert_eq!(place(rows[0], "title"), place(rows[1], "a [2Jb"));
        assert_eq!(place(rows[0], "price"), place(rows[1], "3"));
        assert_eq!(place(rows[0], "t  title"), place(rows[1], "7  a [2Jb"));
        assert!(rows[2].ends_with('…') && rows[2].contains("-1.2500"), "{text}");
    }

    #[test]
    fn hits_without_fields_are_rank_score_and_key() {
        assert_eq!(
            table(&[Line { key: 7, score: 0.5, fields: Map::new(), found: Map::new() }]),
            "    score  key\n1  0.5000    7\n"
        );
    }
}
