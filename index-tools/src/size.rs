//! Sizes in bytes as people write and read them.

use std::fmt;
use std::str::FromStr;

use bigrain::error::{Error, Result};

/// Units by what they are written as, without the optional `iB` or `B`.
const UNITS: [(&str, u32); 5] = [("", 0), ("k", 10), ("m", 20), ("g", 30), ("t", 40)];

/// A number of bytes. Written as `4GiB`, `4G`, `512MiB`, `1.5g` or a plain number of bytes; every unit is a power of
/// 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Size> {
        let wrong =
            || Error::params("size", format!("{text:?} is not a size; write 512MiB, 4GiB or a number of bytes"));
        let digits = text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = text.trim()[digits.len()..].to_ascii_lowercase();
        let unit = unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit);
        let (_, shift) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let factor = 1u64 << shift;
        let digits = digits.trim();
        if let Ok(whole) = digits.parse::<u64>() {
            return whole.checked_mul(factor).map(Size).ok_or_else(wrong);
        }
        let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let value = digits.parse::<f64>().ok().filter(|_| plain).ok_or_else(wrong)? * factor as f64;
        if value < u64::MAX as f64 { Ok(Size(value as u64)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Size {
    /// The largest unit that keeps the number above 1, with three figures.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, shift) = UNITS.iter().rev().find(|(_, shift)| self.0 >> shift > 0).unwrap_or(&UNITS[0]);
        if *shift == 0 {
            return f.pad(&format!("{} B", self.0));
        }
        let value = self.0 as f64 / (1u64 << shift) as f64;
        let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
        f.pad(&format!("{value:.decimals$} {}iB", if *name == "k" { "K".into() } else { name.to_uppercase() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_writing_is_read() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("512MiB", 512 << 20),
            ("512 MB", 512 << 20),
            ("4G", 4 << 30),
            ("4GiB", 4 << 30),
            ("1.5g", 3 << 29),
            ("2t", 2 << 40),
        ] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "G", "4X", "-1", "1e3", "4 GiB of", "99999999999999T", "1.2.3", "inf", "nan"] {
            let message = text.parse::<Size>().unwrap_err().to_string();
            assert!(message.contains("512MiB"), "{text}: {message}");
        }
    }

    #[test]
    fn sizes_print_with_three_figures() {
        let shown = [7, 2048, 512 << 20, 1_234_567_890].map(|bytes| Size(bytes).to_string());
        assert_eq!(shown, ["7 B", "2.00 KiB", "512 MiB", "1.15 GiB"]);
    }
}
