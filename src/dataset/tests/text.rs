//! Judgements, ids, runs, keys and records.

use super::*;

#[test]
fn truth_reads_every_integer_type() {
    let folder = folder();
    let expected = Truth { k: 2, rows: vec![7, 1, 0, 300] };
    let cases: [(&str, Vec<u8>); 5] = [
        ("<i4", [7i32, 1, 0, 300].into_iter().flat_map(i32::to_le_bytes).collect()),
        ("<u4", [7u32, 1, 0, 300].into_iter().flat_map(u32::to_le_bytes).collect()),
        ("<i8", [7i64, 1, 0, 300].into_iter().flat_map(i64::to_le_bytes).collect()),
        ("<u8", [7u64, 1, 0, 300].into_iter().flat_map(u64::to_le_bytes).collect()),
        ("ivecs", [2u32, 7, 1, 2, 0, 300].into_iter().flat_map(u32::to_le_bytes).collect()),
    ];
    for (kind, bytes) in cases {
        let dictionary = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (2, 2), }}");
        let header = [b"\x93NUMPY\x01\0", &(dictionary.len() as u16).to_le_bytes()[..], dictionary.as_bytes()].concat();
        let path = match kind {
            "ivecs" => write(&folder, "t.ivecs", &bytes),
            _ => write(&folder, "t.npy", &[header, bytes].concat()),
        };
        let truth = Truth::read(&path).unwrap();
        assert_eq!(truth, expected, "{kind}");
        assert_eq!((truth.queries(), truth.nearest(1)), (2, &[0, 300][..]));
        truth.check(&path, 2, 301).unwrap();
        refused(truth.check(&path, 2, 300), &["row 1", "300 at rank 1"]);
        refused(truth.check(&path, 3, 301), &["expected 3", "found 2"]);
    }
}

#[test]
fn wrong_truth_is_refused() {
    let folder = folder();
    let padded: Vec<u8> = [2i32, 7, 1, 2, 0, -1].into_iter().flat_map(i32::to_le_bytes).collect();
    refused(Truth::read(&write(&folder, "a.ivecs", &padded)), &["row 1", "rank 1", "negative"]);
    let floats = super::super::npy::header(Scalar::F32, 1, 1);
    refused(Truth::read(&write(&folder, "a.npy", &[&floats[..], &[0; 4]].concat())), &["F32", "row numbers"]);
    refused(Truth::read(&write(&folder, "a.tsv", b"1")), &["a.tsv", ".ivecs"]);
}

/// Judgements as tuples, of a file without ids.
fn judged(path: &Path) -> Result<Vec<(u64, u64, f32)>> {
    Ok(read_qrels(path, Naming::default())?.iter().map(|j| (j.query, j.document, j.grade)).collect())
}

#[test]
fn judgements_read_in_both_forms() {
    let folder = folder();
    let path = write(&folder, "q.tsv", b"0\t12\t2\n\n1\t5\t0.5\r\n2 Q0 7 -1\n2\t0\t12\t1");
    assert_eq!(judged(&path).unwrap(), [(0, 12, 2.0), (1, 5, 0.5), (2, 7, -1.0), (2, 12, 1.0)]);
    for (line, parts) in [
        ("0\t12", ["0\\t12", "2 columns", "TREC"]),
        ("0\t0\t12\t1\tx", ["x", "5 columns", "TREC"]),
        ("q1\t1\t1", ["query \"q1\"", "not a row number", "--query-ids"]),
        ("0\t-1\t1", ["document \"-1\"", "not a row number", "--document-ids"]),
        ("0\t2\tNaN", ["grade", "NaN", "finite"]),
        ("0\t0\t1\t2", ["line 1 again", "0\\t0\\t1\\t2", "keep one"]),
    ] {
        let path = write(&folder, "bad.tsv", format!("0\t1\t1\n\n{line}\n").as_bytes());
        refused(judged(&path), &["bad.tsv: line 3"]);
        refused(judged(&path), &parts);
    }
    refused(judged(&write(&folder, "empty.tsv", b"\n")), &["no judgements"]);
    refused(judged(&write(&folder, "binary.tsv", &[0; 9999])), &["line 1", "longer than"]);
    refused(judged(&write(&folder, "latin.tsv", b"0\t1\t1\n\xe9")), &["line 2", "UTF-8"]);
}

#[test]
fn ids_lead_to_rows_and_back() {
    let folder = folder();
    let path = write(&folder, "ids.txt", "\u{feff}1185869\r\nD-2\n 7 \nq\u{e9}\n0".as_bytes());
    let names = Names::read(&path, 5).unwrap();
    for (row, name) in (0..).zip(["1185869", "D-2", "7", "q\u{e9}", "0"]) {
        assert_eq!((names.row(name), names.name(row)), (Some(row), Some(name)));
    }
    assert_eq!((names.row("1"), names.row(""), names.row("zzz"), names.name(5)), (None, None, None, None));
    refused(Names::read(&path, 6), &["ids.txt: line 6", "5 lines for 6 vectors"]);
    let bad = |text: &str| Names::read(&write(&folder, "bad.txt", text.as_bytes()), 4);
    refused(bad("a\nb\na\nb\n"), &["bad.txt: line 3", "\"a\" is on line 1 too", "of its own"]);
    refused(bad("a\n\nb\nc\n"), &["line 2", "\"\" is not an id"]);
    refused(bad("a\nb c\nd\ne\n"), &["line 2", "\"b c\" is not an id", "without blanks"]);
    refused(bad(&format!("a\n{}\nb\nc\n", "x".repeat(300))), &["line 2", "longer than"]);
}

#[test]
fn judgements_are_read_by_id() {
    let folder = folder();
    let queries = Names::read(&write(&folder, "queries.txt", b"q5\n3\n"), 2).unwrap();
    let documents = Names::read(&write(&folder, "documents.txt", b"d0\nd1\n0\n"), 3).unwrap();
    let both = Naming { queries: Some(&queries), documents: Some(&documents) };
    let path = write(&folder, "a.qrels", b"3 0 0 1\nq5 0 d1 2\n");
    let found: Vec<_> = read_qrels(&path, both).unwrap().iter().map(|j| (j.query, j.document)).collect();
    // The query 3 and the document 0 are ids here, not rows.
    assert_eq!(found, [(1, 2), (0, 1)]);
    let one = Naming { queries: Some(&queries), documents: None };
    let path = write(&folder, "b.qrels", b"q5 1 1\nq9 1 1\n");
    refused(read_qrels(&path, one), &["b.qrels: line 2", "query \"q9\" is not in", "queries.txt", "take the line out"]);
    let path = write(&folder, "c.qrels", b"q5 d7 1\n");
    refused(read_qrels(&path, both), &["c.qrels: line 1", "document \"d7\" is not in", "documents.txt"]);
}

#[test]
fn runs_are_written_as_trec_reads_them() {
    let folder = folder();
    let path = folder.path().join("a.run");
    let mut run = RunWriter::create(&path, "bigrain").unwrap();
    run.write("q1", [("d7", 0.1f32), ("d3", -2.0)]).unwrap();
    run.write(2, [] as [(u64, f32); 0]).unwrap();
    run.write(3, [(9, 1.0f32 / 3.0)]).unwrap();
    run.finish().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "q1 Q0 d7 1 0.1 bigrain\nq1 Q0 d3 2 -2 bigrain\n3 Q0 9 1 0.33333334 bigrain\n");
    refused(RunWriter::create(&path, "two words"), &["tag", "two words"]);
    refused(RunWriter::create(&folder.path().join("no/such.run"), "x"), &["such.run"]);
}

#[test]
fn keys_are_read_and_counted() {
    let folder = folder();
    for text in ["5\n18446744073709551615\n0\n", "\u{feff}5\r\n 18446744073709551615\r\n0"] {
        let path = write(&folder, "k.txt", text.as_bytes());
        let mut file = KeyFile::open(&path, 3).unwrap();
        let (mut first, mut rest) = ([0], [0; 2]);
        file.read(&mut first).unwrap();
        file.read(&mut rest).unwrap();
        assert_eq!((first, rest), ([5], [u64::MAX, 0]));
        refused(file.read(&mut first), &["line 4", "ends here"]);
        refused(KeyFile::open(&path, 4), &["line 4", "3 lines for 4 vectors"]);
        refused(KeyFile::open(&path, 2), &["line 3", "3 lines for 2 vectors"]);
    }
    for bad in ["", "-1", "1.5", "x", "18446744073709551616"] {
        let path = write(&folder, "bad.txt", format!("1\n{bad}\n3\n").as_bytes());
        refused(KeyFile::open(&path, 3).unwrap().read(&mut [0; 3]), &["line 2", bad, "not a key"]);
    }
}

/// All records of a file.
fn records(path: &Path, rows: u64) -> Result<Vec<String>> {
    let mut file = FieldFile::open(path, rows)?;
    (0..rows)
        .map(|_| {
            let mut record = String::from("left over");
            file.read(&mut record).map(|()| record)
        })
        .collect()
}

#[test]
fn json_lines_pass_as_they_were_written() {
    let folder = folder();
    let path = write(&folder, "a.jsonl", b" {\"price\": 1.10, \"n\": 9007199254740993}\r\n{}\n");
    assert_eq!(records(&path, 2).unwrap(), [r#"{"price": 1.10, "n": 9007199254740993}"#, "{}"]);
    for bad in ["[1]", "1", "{\"a\": }", "{} {}", "", "{\"a\": NaN}"] {
        let path = write(&folder, "bad.jsonl", format!("{{}}\n{bad}\n").as_bytes());
        refused(records(&path, 2), &["line 2", "not a JSON object"]);
    }
    refused(records(&path, 3), &["2 lines for 3 vectors"]);
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    refused(records(&write(&folder, "deep.jsonl", deep.as_bytes()), 1), &["line 1", "recursion"]);
}

#[test]
fn tables_become_objects() {
    let folder = folder();
    let path = write(&folder, "a.tsv", b"name\tprice\tsku\nA \"B\"\t1.50\t007\n\t-3e2\tInfinity\n");
    let found = records(&path, 2).unwrap();
    assert_eq!(
        found,
        [r#"{"name":"A \"B\"","price":1.50,"sku":"007"}"#, r#"{"name":null,"price":-3e2,"sku":"Infinity"}"#]
    );
    assert!(found.iter().all(|record| serde_json::from_str::<serde_json::Value>(record).unwrap().is_object()));
    refused(records(&write(&folder, "b.tsv", b"a\tb\n1\n"), 1), &["line 2", "1 cells", "header has 2"]);
    refused(records(&write(&folder, "c.tsv", b"a\ta\n1\t2\n"), 1), &["line 1", "\"a\"", "repeated"]);
    refused(records(&write(&folder, "d.tsv", b"a\t\n1\t2\n"), 1), &["line 1", "empty"]);
    refused(records(&write(&folder, "e.tsv", b""), 1), &["line 1", "header"]);
    refused(records(&write(&folder, "f.txt", b"a,b\n"), 1), &["f.txt", ".csv"]);
}

#[test]
fn comma_separated_records_are_read_with_their_quotes() {
    let folder = folder();
    let text = "\u{feff}name,price,sku,on\r\n\"A, \"\"B\"\"\",1.50,007,true\r\n\"two\nlines\",,\" x\",no";
    let path = write(&folder, "a.csv", text.as_bytes());
    let due = [
        r#"{"name":"A, \"B\"","price":1.50,"sku":"007","on":true}"#,
        r#"{"name":"two\nlines","price":null,"sku":" x","on":"no"}"#,
    ];
    assert_eq!(records(&path, 2).unwrap(), due);
    refused(records(&path, 3), &["2 lines for 3 vectors"]);
    refused(records(&write(&folder, "b.csv", b"a,b\n1,2\n1\n"), 2), &["line 3", "1 cells", "header has 2"]);
    refused(records(&write(&folder, "c.csv", b"a,a\n1,2\n"), 1), &["line 1", "\"a\"", "repeated"]);
    refused(records(&write(&folder, "d.csv", b""), 0), &["line 1", "header"]);
    refused(records(&write(&folder, "e.csv", b"a\n\xff\n"), 1), &["line 2", "UTF-8"]);
    let open_quote = ["a,b\n1,\"".as_bytes(), &vec![b'x'; 17 << 20], b"\n"].concat();
    refused(records(&write(&folder, "f.csv", &open_quote), 1), &["longer than", "quotation mark"]);
}

#[test]
fn cells_are_read_as_those_who_know_say() {
    let folder = folder();
    for (name, text) in
        [("a.tsv", "a\tb\tc\n1\t[\"x\"]\ttrue\n2\tx\t\n"), ("a.csv", "a,b,c\n1,\"[\"\"x\"\"]\",true\n2,x,\n")]
    {
        let path = write(&folder, name, text.as_bytes());
        let how = [("a", Cells::Strings), ("b", Cells::Lists), ("none", Cells::Strings)];
        let mut file = FieldFile::open(&path, 2).unwrap();
        assert!(file.is_table());
        file.set_cells(&how.map(|(name, how)| (name.to_string(), how)).into());
        let mut read = || {
            let mut out = String::new();
            file.read(&mut out).map(|()| out)
        };
        assert_eq!(read().unwrap(), r#"{"a":"1","b":["x"],"c":true}"#, "{name}");
        assert_eq!(read().unwrap(), r#"{"a":"2","b":"x","c":null}"#, "{name}");
        refused(read(), &["ends here"]);
    }
}
