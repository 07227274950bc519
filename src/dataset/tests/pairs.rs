//! Pairs and their split.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::sync::Arc;

use super::super::split::{Components, Fractions, Side, Split};
use super::*;
use crate::vfs::testing::{Fault, FaultyVfs};
use crate::vfs::{MemoryVfs, RealVfs, Vfs};

const SHARES: Fractions = Fractions { valid: 0.1, test: 0.2 };

fn pair(query: u64, document: u64) -> Pair {
    Pair { query, document }
}

/// Query `i` with document `i`.
fn diagonal(rows: u64) -> Vec<Pair> {
    (0..rows).map(|row| pair(row, row)).collect()
}

/// The number of the part that each pair is in.
fn parts(split: &Split) -> HashMap<Pair, usize> {
    let numbered = split.parts().into_iter().enumerate();
    numbered.flat_map(|(number, (_, pairs))| pairs.iter().map(move |&pair| (pair, number))).collect()
}

#[test]
fn pairs_are_read_with_and_without_grades() {
    let folder = folder();
    let path = write(&folder, "p.tsv", b"0\t12\n\n 3 5 2\r\n1\t7\t0\n1\t8\t-1\n0\t12\t0.5");
    assert_eq!(read_pairs(&path, 4, 13).unwrap(), [pair(0, 12), pair(3, 5), pair(0, 12)]);
    assert_eq!(read_pairs(&path, u64::MAX, u64::MAX).unwrap().len(), 3);
    refused(read_pairs(&path, 3, 13), &["p.tsv: line 3", "query row 3", "queries has 3 rows"]);
    refused(read_pairs(&path, 4, 12), &["line 1", "document row 12", "documents has 12 rows"]);
    // A pair without relevance must name rows that exist all the same.
    refused(read_pairs(&write(&folder, "g.tsv", b"0\t9\t0\n"), 1, 9), &["line 1", "document row 9"]);
}

#[test]
fn what_is_no_pair_is_refused_by_line() {
    let folder = folder();
    for (line, part) in [("7", "7"), ("q1\t1", "q1"), ("0\t-1", "-1"), ("0\t1\tNaN", "NaN"), ("0\t1\t1\t1", "1\\t1")] {
        let path = write(&folder, "bad.tsv", format!("0\t1\n{line}\n").as_bytes());
        refused(read_pairs(&path, 9, 9), &["bad.tsv: line 2", part, "document row"]);
    }
    for empty in [&b""[..], b"\n \n", b"0\t1\t0\n"] {
        refused(read_pairs(&write(&folder, "none.tsv", empty), 9, 9), &["none.tsv", "no pairs"]);
    }
}

#[test]
fn unconnected_pairs_are_divided_by_the_fractions() {
    let pairs = diagonal(1000);
    let split = Components::new(pairs.clone()).split(SHARES, 7).unwrap();
    assert_eq!([split.test.len(), split.valid.len(), split.train.len()], [200, 100, 700]);
    assert_eq!((split.pairs(), split.components, split.largest), (1000, 1000, 1));
    assert_eq!(parts(&split).len(), 1000, "no pair is lost or doubled");
    assert!(split.train.is_sorted_by_key(|pair| pair.query), "the order of the file is kept");
    let again = Components::new(pairs.clone()).split(SHARES, 7).unwrap();
    assert_eq!(split, again);
    let other = Components::new(pairs).split(SHARES, 8).unwrap();
    assert_ne!(split.test, other.test);
    let shared = other.test.iter().filter(|pair| split.test.contains(pair)).count();
    assert!((15..75).contains(&shared), "{shared} of 200 drawn twice where 40 are expected");
}

#[test]
fn the_order_of_pairs_does_not_move_them() {
    let chains: Vec<Pair> = (0..300).flat_map(|i| [pair(3 * i, i), pair(3 * i + 1, i), pair(3 * i + 2, i)]).collect();
    let split = Components::new(chains.clone()).split(SHARES, 1).unwrap();
    assert_eq!((split.components, split.largest), (300, 3));
    let backwards = Components::new(chains.into_iter().rev().collect()).split(SHARES, 1).unwrap();
    assert_eq!(parts(&split), parts(&backwards));
}

#[test]
fn connected_rows_stay_together() {
    let folder = folder();
    // Documents 2i and 2i + 1 share a label, and so do queries 4i and 4i + 3: blocks of four. Document 399 has no pair, but
    // links 398 (by its own label) to the blocks of 0 and 200.
    let mut documents: Vec<String> = (0..400).map(|row| format!("d{}", row / 2)).collect();
    documents[8].clear();
    let queries: String =
        (0..400).map(|row| if row % 4 % 3 == 0 { format!("q{}\n", row / 4) } else { "\n".into() }).collect();
    let linked: String = (0..400).map(|row| if [0, 200, 399].contains(&row) { "same \r\n" } else { "\n" }).collect();
    let mut components = Components::new(diagonal(399));
    components.connect_groups(Side::Documents, &write(&folder, "d.txt", documents.join("\n").as_bytes())).unwrap();
    components.connect_groups(Side::Queries, &write(&folder, "q.txt", queries.as_bytes())).unwrap();
    components.connect_groups(Side::Documents, &write(&folder, "l.txt", linked.as_bytes())).unwrap();
    let split = components.split(SHARES, 3).unwrap();
    // Of 100 blocks three are linked, and two are broken: document 8 shares no label with 9, and of the last block only
    // 396 and 397 are left together, with 398 in the large component.
    assert_eq!((split.components, split.largest), (100, 9));
    let part_of = parts(&split);
    for rows in [[0, 3, 200, 203], [201, 202, 0, 398], [4, 5, 6, 7], [8, 10, 11, 11]] {
        let found: HashSet<usize> = rows.iter().map(|&row| part_of[&pair(row, row)]).collect();
        assert_eq!(found.len(), 1, "rows {rows:?} are in parts {found:?}");
    }
    assert!((60..=100).contains(&split.test.len()) && (20..=60).contains(&split.valid.len()));
}

#[test]
fn labels_of_two_files_are_different() {
    let folder = folder();
    let path = write(&folder, "same.txt", &b"a\n".repeat(50));
    let mut components = Components::new(diagonal(100));
    refused(components.connect_groups(Side::Queries, &path), &["same.txt: line 51", "query row 99", "every row"]);
    let first = [b"a\n".repeat(50), b"\n".repeat(50)].concat();
    let second = [b"\n".repeat(50), b"a\n".repeat(50)].concat();
    let mut components = Components::new(diagonal(100));
    components.connect_groups(Side::Queries, &write(&folder, "1.txt", &first)).unwrap();
    components.connect_groups(Side::Queries, &write(&folder, "2.txt", &second)).unwrap();
    refused(components.split(SHARES, 1), &["invalid", "no pair", "2 components", "largest of 50"]);
}

#[test]
fn an_empty_part_names_its_fraction() {
    let one = || Components::new(vec![pair(0, 0), pair(0, 1), pair(1, 1)]);
    refused(one().split(Fractions { valid: 0.1, test: 0.1 }, 1), &["test", "--test", "3 pairs in 1 components"]);
    refused(one().split(Fractions { valid: 0.1, test: 0.8 }, 1), &["valid", "--valid"]);
    let many = || Components::new(diagonal(20));
    refused(many().split(Fractions { valid: 0.5, test: 0.49 }, 1), &["train", "lower"]);
    for (valid, test, part) in [(0.0, 0.5, "valid"), (0.5, f64::NAN, "test"), (1.0, 0.5, "valid"), (0.5, 0.5, "lower")]
    {
        refused(many().split(Fractions { valid, test }, 1), &["invalid", part]);
    }
}

#[test]
fn a_split_is_written_and_read_again() {
    let folder = folder();
    let split = Components::new(diagonal(50)).split(SHARES, 1).unwrap();
    let dir = folder.path().join("a/b");
    split.write(&RealVfs, &dir).unwrap();
    for (part, pairs) in split.parts() {
        assert_eq!(read_pairs(&dir.join(format!("{part}.pairs.tsv")), 50, 50).unwrap(), pairs);
    }
    assert_eq!(RealVfs.list(&dir).unwrap().len(), 3, "nothing else is left");
}

#[test]
fn a_failed_write_leaves_the_old_split() {
    let (memory, dir) = (MemoryVfs::new(), Path::new("/split"));
    let split = |rows| Components::new(diagonal(rows)).split(SHARES, 1).unwrap();
    let files = || ["train", "valid", "test"].map(|part| memory.bytes(&dir.join(format!("{part}.pairs.tsv"))).unwrap());
    split(50).write(&memory, dir).unwrap();
    let old = files();
    // The folder, and for each part: create, write, sync. Renaming comes after.
    for operation in 0..10 {
        let full = FaultyVfs::once(Arc::new(memory.clone()), operation, Fault::Error(ErrorKind::StorageFull));
        refused(split(60).write(&full, dir), &["/split"]);
        assert_eq!(files(), old, "operation {operation}");
    }
    split(60).write(&memory, dir).unwrap();
    assert_ne!(files(), old);
}
