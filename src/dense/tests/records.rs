//! Records and plans by themselves: the drawn bytes, the stated bounds, where records lie, which reads bring them.

use proptest::prelude::*;

use super::*;
use crate::dense::reads::{Read, plan};

fn record(element: Element, vector: &[f32], key: Key) -> Vec<u8> {
    let layout = RecordLayout::new(element, vector.len());
    let mut out = vec![0xee; layout.stride()];
    layout.encode(vector, key, &mut out).unwrap();
    out
}

fn decoded(element: Element, vector: &[f32]) -> Vec<f32> {
    let layout = RecordLayout::new(element, vector.len());
    let bytes = record(element, vector, 0);
    let mut out = vec![f32::NAN; vector.len()];
    // A record begins at a multiple of 4, which a vector of bytes need not.
    let mut words = vec![0u32; bytes.len() / 4];
    bytemuck::cast_slice_mut(&mut words).copy_from_slice(&bytes);
    RecordRef::new(&layout, bytemuck::cast_slice(&words)).decode(&mut out);
    out
}

#[test]
fn the_drawn_bytes_are_the_written_bytes() {
    let key = 0x0102_0304_0506_0708;
    let tail = |bytes: &[u8]| [bytes, &[8, 7, 6, 5, 4, 3, 2, 1]].concat();
    let expected = [
        (Element::F32, tail(&[0, 0, 128, 63, 0, 0, 0, 192, 0, 0, 0, 63])),
        (Element::F16, tail(&[0, 60, 0, 192, 0, 56, 0, 0])),
        // 1, -2 and .5 over a scale of 2/127 are 63.5 (to even: 64), -127 and 31.75.
        (Element::I8, tail(&[&[64, 129, 32, 0][..], &(2f32 / 127.0).to_le_bytes()].concat())),
    ];
    for (element, body) in expected {
        let crc = crc32c::crc32c(&body).to_le_bytes();
        assert_eq!(record(element, &[1.0, -2.0, 0.5], key), [&body[..], &crc].concat(), "{element}");
    }
}

#[test]
fn extremes_are_kept_or_refused() {
    assert_eq!(decoded(Element::I8, &[0.0; 5]), [0.0; 5]);
    assert_eq!(decoded(Element::F16, &[65_504.0, -65_504.0]), [65_504.0, -65_504.0]);
    let tiny = f32::from_bits(1);
    assert_eq!(decoded(Element::F32, &[tiny, f32::MAX]), [tiny, f32::MAX]);
    assert!(decoded(Element::I8, &[f32::MAX, 1.0]).iter().all(|v| v.is_finite()));
    let layout = RecordLayout::new(Element::F16, 2);
    let error = layout.encode(&[1.0, -70_000.0], 42, &mut vec![0; layout.stride()]).unwrap_err().to_string();
    assert!(error.contains("42") && error.contains("-70000") && error.contains("f32"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn rounding_stays_within_the_stated_bounds(
        values in prop::collection::vec((-1f32..1.0, -148i32..120), 1..40), shift in -40i32..120,
    ) {
        // Vectors of one magnitude, f16's and i8's usual case, and of all magnitudes.
        let wild: Vec<f32> = values.iter().map(|(m, e)| m * 2f32.powi(*e)).collect();
        let tame: Vec<f32> = values.iter().map(|(m, _)| m * 2f32.powi(-shift)).collect();
        for vector in [wild, tame] {
            let max = vector.iter().fold(0f64, |m, &v| m.max(f64::from(v).abs()));
            let bound = max / 254.0 * (1.0 + 2f64.powi(-14)) + 2f64.powi(-142);
            for (&x, y) in vector.iter().zip(decoded(Element::I8, &vector)) {
                prop_assert!((f64::from(x) - f64::from(y)).abs() <= bound, "i8 {x:e} is {y:e}, largest {max:e}");
            }
            let small: Vec<f32> = vector.iter().map(|v| v.clamp(-65_504.0, 65_504.0)).collect();
            for (&x, y) in small.iter().zip(decoded(Element::F16, &small)) {
                let bound = if x.abs() < 2f32.powi(-14) { 2f64.powi(-25) } else { f64::from(x.abs()) * 2f64.powi(-11) };
                prop_assert!((f64::from(x) - f64::from(y)).abs() <= bound, "f16 {x:e} is {y:e}");
            }
            prop_assert_eq!(decoded(Element::F32, &vector), vector);
        }
    }

    #[test]
    fn records_lie_apart_and_straddle_no_page(element in prop::sample::select(&ELEMENTS[..]), dim in 1usize..5000) {
        let layout = RecordLayout::new(element, dim);
        let stride = layout.stride() as u64;
        prop_assert_eq!(stride % 4, 0);
        prop_assert!(layout.section_bytes(layout.rows_per_shard()) <= 1 << 30, "a shard is larger than it may be");
        for at in (0..600).chain([layout.rows_per_shard() - 1]) {
            let (start, end) = (layout.offset(at), layout.offset(at) + stride);
            prop_assert_eq!(end + layout.gap_after(at), layout.offset(at + 1));
            prop_assert!(layout.gap_after(at) < stride.min(PAGE), "room for another record is left");
            prop_assert!(stride > PAGE || start / PAGE == (end - 1) / PAGE);
        }
        let rows = layout.rows_per_shard();
        prop_assert_eq!((layout.shards(0), layout.shards(1), layout.shards(rows), layout.shards(rows + 1)), (0, 1, 1, 2));
        prop_assert_eq!((layout.shard_rows(0, rows + 1), layout.shard_rows(1, rows + 1)), (rows, 1));
        prop_assert_eq!((layout.place(0), layout.place(rows as Row)), ((0, 0), (1, 0)));
    }

    #[test]
    fn plans_bring_every_row_once(
        element in prop::sample::select(&ELEMENTS[..]), dim in 1usize..9000, steps in prop::collection::vec(0u32..40, 1..100),
    ) {
        let layout = RecordLayout::new(element, dim).with_rows_per_shard(300);
        let rows: Vec<Row> = steps.iter().scan(0, |row, step| { *row += step; Some(*row) }).collect();
        let end = u64::from(*rows.last().unwrap()) + 1;
        let mut reads = vec![Read { shard: 9, offset: 9, length: 9, rows: 0..9 }];
        plan(&layout, &rows, &mut reads);
        let mut next = 0;
        for read in &reads {
            prop_assert_eq!((read.offset % PAGE, read.length % PAGE, read.rows.start), (0, 0, next));
            next = read.rows.end;
            let section = layout.section_bytes(layout.shard_rows(read.shard, end)).next_multiple_of(PAGE);
            prop_assert!(read.offset >= PAGE && read.offset + read.length <= PAGE + section, "beyond the file");
            let several = rows[read.rows.start] != rows[read.rows.end - 1];
            prop_assert!(!several || read.length <= 16 << 10, "merged to {}", read.length);
            for &row in &rows[read.rows.clone()] {
                let (shard, at) = layout.place(row);
                let start = PAGE + layout.offset(at);
                prop_assert_eq!(shard, read.shard);
                prop_assert!(start >= read.offset && start + layout.stride() as u64 <= read.offset + read.length);
            }
        }
        prop_assert_eq!(next, rows.len());
    }
}

#[test]
fn neighbours_are_read_together_and_strangers_apart() {
    // Four records a page.
    let layout = RecordLayout::new(Element::F32, 253).with_rows_per_shard(400);
    assert_eq!(layout.stride(), 1024);
    let read = |shard, page: u64, pages: u64, rows| Read { shard, offset: page * PAGE, length: pages * PAGE, rows };
    let mut reads = Vec::new();
    plan(&layout, &[0, 1, 9, 24, 399, 400], &mut reads);
    // Pages 1, 1 and 3 (a gap of one page is read along); page 7, three further; the next shard.
    assert_eq!(reads, [read(0, 1, 3, 0..3), read(0, 7, 1, 3..4), read(0, 100, 1, 4..5), read(1, 1, 1, 5..6)]);
    plan(&layout, &(0..20).collect::<Vec<_>>(), &mut reads);
    assert_eq!(reads, [read(0, 1, 4, 0..16), read(0, 5, 1, 16..20)], "16 KiB, then another");
}
