//! IDX, gzip, the writer, and damage of any kind to any format.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

/// An IDX file of `rows` images of 2 x 3.
fn idx(rows: u32) -> Vec<u8> {
    let header = [0x0803u32, rows, 2, 3].into_iter().flat_map(u32::to_be_bytes);
    header.chain(matrix(rows as usize, 6).iter().map(|&v| v as u8)).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn images_are_flattened_plain_and_compressed() {
    let folder = folder();
    check_access(&write(&folder, "images-idx3-ubyte", &idx(50)), &matrix(50, 6), 6);
    check_access(&write(&folder, "images-idx3-ubyte.gz", &gzip(&idx(50))), &matrix(50, 6), 6);
    let members = [gzip(&idx(50)[..100]), gzip(&idx(50)[100..])].concat();
    check_access(&write(&folder, "two-members-ubyte.gz", &members), &matrix(50, 6), 6);
}

#[test]
fn wrong_idx_files_are_refused() {
    let folder = folder();
    let plain = |bytes: &[u8]| open(&write(&folder, "a-ubyte", bytes));
    refused(plain(b"PNG."), &["not an IDX file"]);
    refused(plain(&[0, 0, 0x0d, 2, 0, 0, 0, 1, 0, 0, 0, 1]), &["0x0d", "unsigned bytes"]);
    refused(plain(&[0, 0, 8, 1, 0, 0, 0, 1, 5]), &["rank 1", "labels"]);
    refused(plain(&idx(0)), &["nothing to read"]);
    refused(plain(&idx(3)[..20]), &["truncated", "34", "20"]);
    refused(plain(&[&idx(3)[..], b"x"].concat()), &["trailing"]);
    refused(plain(&[&[0, 0, 8, 9][..], &[0xff; 36]].concat()), &["more than 2^64"]);
}

#[test]
fn damaged_streams_are_refused_where_they_end() {
    let folder = folder();
    let packed = |bytes: &[u8]| read_all(&write(&folder, "a-ubyte.gz", bytes));
    refused(packed(&gzip(&idx(50)[..200])), &["row 30", "the header says 50 rows", "truncated"]);
    refused(packed(&gzip(&[&idx(50)[..], b"x"].concat())), &["after the last row", "50 rows x 6"]);
    refused(packed(&idx(50)), &["header"]);
    refused(packed(b""), &["header", "truncated"]);
    let good = gzip(&idx(50));
    for length in 0..good.len() {
        let message = message(packed(&good[..length]));
        assert!(message.contains("truncated"), "{length}: {message}");
    }
    // A claim that no stream of this length could keep.
    let huge: Vec<u8> = [0x0803u32, u32::MAX, 2, 3].into_iter().flat_map(u32::to_be_bytes).collect();
    refused(open(&write(&folder, "b-ubyte.gz", &gzip(&huge))), &["cannot come from"]);
}

#[test]
fn what_is_written_reads_back() {
    let folder = folder();
    let values = matrix(40, 5);
    for (name, scalar) in [
        ("f.npy", Scalar::F32),
        ("h.npy", Scalar::F16),
        ("u.npy", Scalar::U8),
        ("i.npy", Scalar::I8),
        ("a.fbin", Scalar::F32),
        ("a.u8bin", Scalar::U8),
        ("a.i8bin", Scalar::I8),
    ] {
        let path = folder.path().join(name);
        let mut writer = VectorWriter::create(&path, scalar, 5).unwrap();
        for piece in values.chunks(35) {
            writer.write(piece).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 40);
        check_access(&path, &values, 5);
    }
}

#[test]
fn the_writer_refuses_what_would_be_lost() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let mut writer = VectorWriter::create(&path("a.i8bin"), Scalar::I8, 2).unwrap();
    writer.write(&[-128.4, 127.4]).unwrap();
    refused(writer.write(&[0.0, 0.0, 0.0, 127.5]), &["row 2", "127.5", "I8"]);
    refused(writer.write(&[f32::NAN, 0.0]), &["NaN"]);
    refused(writer.write(&[0.0; 3]), &["multiple of 2"]);
    drop(writer);
    refused(open(&path("a.i8bin")), &["nothing to read"]);
    refused(VectorWriter::create(&path("a.fbin"), Scalar::U8, 2), &["U8", ".fbin", "F32"]);
    refused(VectorWriter::create(&path("a.csv"), Scalar::F32, 2), &["a.csv", ".npy"]);
    refused(VectorWriter::create(&path("a.npy"), Scalar::F32, 0), &["0 dimensions"]);
    refused(VectorWriter::create(&path("a.npy"), Scalar::U64, 2), &["U64"]);
}

/// A good file of every format, to damage.
fn good_files() -> Vec<(&'static str, Vec<u8>)> {
    let values = matrix(4, 3);
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let vecs: Vec<u8> = bytes.chunks(12).flat_map(|row| [&[3, 0, 0, 0], row].concat()).collect();
    vec![
        ("a.npy", [&super::super::npy::header(Scalar::F32, 4, 3)[..], &bytes].concat()),
        ("a.fbin", flat::bin(&values, 3)),
        ("a.fvecs", vecs.clone()),
        ("a.bvecs", vecs),
        ("a-ubyte", idx(4)),
        ("a-ubyte.gz", gzip(&idx(4))),
        #[cfg(feature = "parquet")]
        ("a.parquet", super::parquet::sample_file()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any damage is an error or other values: never a panic.
    #[test]
    fn damage_never_panics(
        which in 0usize..7,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<Option<prop::sample::Index>>(),
    ) {
        let files = good_files();
        let (name, mut bytes) = files[which % files.len()].clone();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(length) = length {
            bytes.truncate(length.index(bytes.len()));
        }
        let folder = folder();
        let path = write(&folder, name, &bytes);
        if let Ok(mut file) = open(&path) {
            let mut row = vec![0.0; file.dim()];
            let all = (0..file.rows()).try_for_each(|at| file.read(at, &mut row));
            prop_assert!(all.is_err() || file.rows() <= 1 << 20);
        }
        let _ = Truth::read(&path);
    }

    /// Bytes that were never a file.
    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), magic in 0usize..5) {
        let magic: &[u8] = [&b""[..], b"\x93NUMPY\x01\0", b"\0\0\x08\x02", b"PAR1", b"\x1f\x8b\x08\0"][magic];
        let folder = folder();
        for (name, _) in good_files() {
            let path = write(&folder, name, &[magic, &bytes].concat());
            let _ = open(&path).map(|mut file| file.read(0, &mut vec![0.0; file.dim()]));
        }
        for name in ["a.jsonl", "a.tsv", "a.ivecs"] {
            let path = write(&folder, name, &bytes);
            let _ = FieldFile::open(&path, 1).map(|mut file| file.read(&mut String::new()));
            let _ = KeyFile::open(&path, 1).map(|mut file| file.read(&mut [0]));
            let _ = read_qrels(&path, Naming::default());
            let _ = Truth::read(&path);
        }
    }
}
