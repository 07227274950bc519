//! The bin, vecs, npy and raw formats: bytes made by hand, so that reader and writer are not each other's only witness.

use half::f16;

use super::super::npy;
use super::*;

/// An `.fbin` file.
pub(super) fn bin(values: &[f32], dim: u32) -> Vec<u8> {
    let rows = (values.len() / dim as usize) as u32;
    let header = [rows, dim].into_iter().flat_map(u32::to_le_bytes);
    header.chain(values.iter().flat_map(|v| v.to_le_bytes())).collect()
}

/// A vecs file; `encode` writes one value.
fn vecs<const N: usize>(values: &[f32], dim: usize, encode: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    let row = |row: &[f32]| {
        let dim = (dim as u32).to_le_bytes().to_vec();
        [dim, row.iter().flat_map(|&v| encode(v)).collect()].concat()
    };
    values.chunks(dim).flat_map(row).collect()
}

/// An `.npy` file of version `major` with a given dictionary.
fn numpy(major: u8, dictionary: &str, values: &[u8]) -> Vec<u8> {
    let length = dictionary.len() as u32;
    let length = if major == 1 { (length as u16).to_le_bytes().to_vec() } else { length.to_le_bytes().to_vec() };
    [b"\x93NUMPY", &[major, 0][..], &length, dictionary.as_bytes(), values].concat()
}

fn dictionary(descr: &str, shape: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}      \n")
}

#[test]
fn every_type_reads_back() {
    let folder = folder();
    // 700 x 600 values: more than a mebibyte, so that reads cross the limits of the buffer.
    let (rows, dim) = (700, 600);
    let values = matrix(rows, dim);
    let bytes = |encode: &dyn Fn(f32) -> Vec<u8>| values.iter().flat_map(|&v| encode(v)).collect::<Vec<u8>>();
    let shape = dictionary("'<f4'", "(700, 600)");
    let floats = bytes(&|v| v.to_le_bytes().into());
    let halves = bytes(&|v| f16::from_f32(v).to_le_bytes().into());
    let small = bytes(&|v| vec![v as u8]);
    let counts: Vec<u8> = [700u32, 600].into_iter().flat_map(u32::to_le_bytes).collect();
    let files: [(&str, Vec<u8>); 11] = [
        ("1.npy", numpy(1, &shape, &floats)),
        ("2.npy", numpy(2, &shape, &floats)),
        ("3.npy", numpy(3, &shape, &floats)),
        ("h.npy", numpy(1, &dictionary("'<f2'", "(700, 600)"), &halves)),
        ("u.npy", numpy(1, &dictionary("'|u1'", "(700, 600)"), &small)),
        ("i.npy", numpy(1, &dictionary("'|i1'", "(700,600)"), &small)),
        ("a.fbin", bin(&values, 600)),
        ("a.u8bin", [counts.clone(), small.clone()].concat()),
        ("a.FVECS", vecs(&values, dim, f32::to_le_bytes)),
        ("a.bvecs", vecs(&values, dim, |v| [v as u8])),
        ("a.ivecs", vecs(&values, dim, |v| (v as i32).to_le_bytes())),
    ];
    for (name, bytes) in files {
        check_access(&write(&folder, name, &bytes), &values, dim);
    }
}

#[test]
fn negative_and_extreme_values_keep_their_sign() {
    let folder = folder();
    let signed = write(&folder, "a.i8bin", &[&[1, 0, 0, 0, 3, 0, 0, 0][..], &[0x80, 0xff, 0x7f]].concat());
    assert_eq!(read_all(&signed).unwrap(), [-128.0, -1.0, 127.0]);
    let unsigned = write(&folder, "a.u8bin", &[&[1, 0, 0, 0, 3, 0, 0, 0][..], &[0x80, 0xff, 0x7f]].concat());
    assert_eq!(read_all(&unsigned).unwrap(), [128.0, 255.0, 127.0]);
    let halves: Vec<u8> = [-1.5, f32::INFINITY].iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    let halves = write(&folder, "a.npy", &numpy(1, &dictionary("'<f2'", "(1, 2)"), &halves));
    assert_eq!(read_all(&halves).unwrap(), [-1.5, f32::INFINITY]);
}

#[test]
fn one_row_and_one_dimension_are_enough() {
    let folder = folder();
    check_access(&write(&folder, "row.fbin", &bin(&matrix(1, 7), 7)), &matrix(1, 7), 7);
    check_access(&write(&folder, "column.fbin", &bin(&matrix(7, 1), 1)), &matrix(7, 1), 1);
    check_access(&write(&folder, "one.fvecs", &vecs(&[5.0], 1, f32::to_le_bytes)), &[5.0], 1);
}

#[test]
fn every_truncation_and_every_trailing_byte_is_refused() {
    let folder = folder();
    let good = matrix(3, 2);
    let npy = [&npy::header(Scalar::F32, 3, 2)[..], &good.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()];
    for (name, bytes) in [("a.npy", npy.concat()), ("a.fbin", bin(&good, 2))] {
        assert_eq!(read_all(&write(&folder, name, &bytes)).unwrap(), good);
        for length in 0..bytes.len() {
            refused(open(&write(&folder, name, &bytes[..length])), &[name, "header"]);
        }
        let long = bytes.len() + 1;
        let both = [format!("byte {}", bytes.len()), format!("has {long}")];
        refused(open(&write(&folder, name, &[&bytes[..], b"x"].concat())), &["trailing", &both[0], &both[1]]);
        let both = [format!("need {}", bytes.len()), format!("has {}", bytes.len() - 1)];
        refused(open(&write(&folder, name, &bytes[..bytes.len() - 1])), &["truncated", &both[0], &both[1]]);
    }
    let bytes = vecs(&good, 2, f32::to_le_bytes);
    for length in (0..bytes.len()).filter(|length| length % 12 != 0) {
        let short = write(&folder, "a.fvecs", &bytes[..length]);
        refused(open(&short), &["a.fvecs", "truncated"]);
    }
    refused(open(&write(&folder, "b.fvecs", b"")), &["empty"]);
}

#[test]
fn a_ragged_row_is_named() {
    let folder = folder();
    let mut bytes = vecs(&matrix(5, 2), 2, f32::to_le_bytes);
    bytes[3 * 12] = 9;
    let path = write(&folder, "a.fvecs", &bytes);
    refused(read_all(&path), &["row 3", "ragged", "9 dimensions", "row 0 says 2"]);
    // Rows before it can be read.
    let mut out = [0.0; 6];
    open(&path).unwrap().read(0, &mut out).unwrap();
    assert_eq!(out[..], matrix(3, 2));
}

#[test]
fn claims_are_compared_with_the_length_before_anything_is_allocated() {
    let folder = folder();
    let most = [0xff; 8];
    refused(open(&write(&folder, "a.fbin", &most)), &["4294967295 rows x 4294967295 dimensions", "truncated"]);
    refused(open(&write(&folder, "a.fvecs", &most)), &["4294967295 dimensions", "has 8"]);
    let shape = format!("({}, {})", u64::MAX, u64::MAX);
    refused(open(&write(&folder, "a.npy", &numpy(1, &dictionary("'<f4'", &shape), b""))), &["more than 2^64"]);
    refused(open(&write(&folder, "b.npy", b"\x93NUMPY\x02\0\xff\xff\xff\xff")), &["claims 4294967295 bytes"]);
    for (name, rows, dim) in [("0.fbin", 0u32, 4u32), ("1.fbin", 4, 0)] {
        let bytes: Vec<u8> = [rows, dim].into_iter().flat_map(u32::to_le_bytes).collect();
        refused(open(&write(&folder, name, &bytes)), &["nothing to read"]);
    }
    refused(open(&write(&folder, "0.fvecs", &[0; 8])), &["row 0", "0 dimensions"]);
}

#[test]
fn numpy_headers_that_cannot_be_read_say_what_to_do() {
    let folder = folder();
    let fortran = "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }";
    let cases: [(&str, &[&str]); 10] = [
        (fortran, &["Fortran", "ascontiguousarray"]),
        (&dictionary("'<f8'", "(1, 1)"), &["<f8", "astype"]),
        (&dictionary("'>f4'", "(1, 1)"), &[">f4"]),
        (&dictionary("'<i4'", "(1, 1)"), &["I32", "astype"]),
        (&dictionary("[('x', '<f4')]", "(1, 1)"), &["[('x'"]),
        (&dictionary("'<f4'", "(1,)"), &["shape [1]", "reshape"]),
        (&dictionary("'<f4'", "(1, 1, 1)"), &["shape [1, 1, 1]", "reshape"]),
        (&dictionary("'<f4'", "(1, -1)"), &["not a tuple"]),
        ("{'descr': '<f4', 'fortran_order': False}", &["no key 'shape'"]),
        ("", &["no key 'descr'"]),
    ];
    for (text, parts) in cases {
        refused(open(&write(&folder, "a.npy", &numpy(1, text, &[0; 4]))), parts);
    }
    refused(open(&write(&folder, "b.npy", &numpy(4, &dictionary("'<f4'", "(1, 1)"), &[0; 4]))), &["version 4"]);
    refused(open(&write(&folder, "c.npy", b"PK\x03\x04 a zip file")), &["not an .npy file"]);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_named() {
    let folder = folder();
    let path = write(&folder, "a.fbin", &bin(&matrix(9, 2), 2));
    let mut file = open(&path).unwrap();
    fs::write(&path, b"short").unwrap();
    refused(file.read(4, &mut [0.0; 2]), &["row 4", "shorter"]);
}

#[test]
fn raw_values_are_read_by_the_dimension_in_the_name() {
    let folder = folder();
    let bytes: Vec<u8> = matrix(8, 3).iter().flat_map(|v| v.to_le_bytes()).collect();
    check_access(&write(&folder, "docs.3.memmap", &bytes), &matrix(8, 3), 3);
    check_access(&write(&folder, "v1.0.12.BIN", &bytes), &matrix(2, 12), 12);
    for name in ["docs.memmap", "docs.x.memmap", "docs.0.bin", "3.memmap", "docs.-3.bin"] {
        refused(open(&write(&folder, name, &bytes)), &[name, "unknown dimension", "ln -s", "768"]);
    }
    refused(open(&write(&folder, "a.5.memmap", &bytes)), &["96 bytes", "rows of 5 x 4 bytes"]);
    let headed = write(&folder, "a.3.bin", &bin(&matrix(8, 3), 3));
    refused(open(&headed), &["104 bytes", "with a header", ".fbin"]);
    refused(open(&write(&folder, "b.3.bin", b"")), &["nothing to read"]);
    refused(open(&write(&folder, "c.18446744073709551615.bin", &bytes)), &["18446744073709551615 x 4"]);
}
