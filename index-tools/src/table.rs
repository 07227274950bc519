//! Tables for people: a name and a value a line, or columns of numbers.

use std::fmt::Write;

/// Digits in groups of three: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = (0..digits.len().div_ceil(3))
        .rev()
        .map(|i| {
            let end = digits.len() - 3 * i;
            &digits[end.saturating_sub(3)..end]
        })
        .collect();
    groups.join(",")
}

/// Seconds as people say them: `0.42 s`, `12.3 s`, `4 min 05 s`, `3 h 20 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.2} s"),
        10..120 => format!("{seconds:.1} s"),
        120..7200 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Lines of `name  value`, values in one column.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in pairs {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:width$}  {value}");
    }
    out
}

/// A header and rows of cells: the first column to the left, the others to the right.
pub fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|name| (*name).to_string()).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|i| rows.iter().chain([&header]).map(|row| row.get(i).map_or(0, String::len)).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in [&header].into_iter().chain(rows) {
        for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if i == 0 { write!(out, "{cell:width$}") } else { write!(out, "  {cell:>width$}") };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 12, 999, 1000, 1_234_567].map(grouped), ["0", "12", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn durations_read_as_people_say_them() {
        let said = [0.421, 9.996, 61.04, 245.0, 12_000.0].map(duration);
        assert_eq!(said, ["0.42 s", "10.0 s", "61.0 s", "4 min 05 s", "3 h 20 min"]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["assign".to_string(), "12".to_string()], vec!["encode".to_string(), "1,234".to_string()]];
        assert_eq!(columns(&["phase", "rows"], &rows), "phase    rows\nassign     12\nencode  1,234\n");
        assert_eq!(pairs(&[("rows", "3".to_string()), ("lists", "2".to_string())]), "rows   3\nlists  2\n");
    }
}
