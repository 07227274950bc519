//! One suite over every kernel of every instruction set that this machine has, against the scalar oracle; and of the
//! oracle itself against a plainer definition in exact or double arithmetic.

use half::f16;
use proptest::prelude::*;

use super::*;

/// A small seeded generator (splitmix64), so that a failure repeats.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Values of both signs over several orders of magnitude.
    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|_| (self.next() as i32 as f32 / 2f32.powi(31)) * 10f32.powi((self.next() % 5) as i32 - 2))
            .collect()
    }
}

/// Every table but the oracle.
fn others() -> Vec<&'static Kernels> {
    Kernels::all().into_iter().filter(|kernels| kernels.name != "scalar").collect()
}

/// One list and the tables of one query.
struct Case {
    bits: CodeBits,
    bytes: usize,
    codes: Vec<u8>,
    entries: Vec<u8>,
    terms: Vec<u8>,
    term_weight: u16,
    passing: Vec<u64>,
}

impl Case {
    fn random(bits: CodeBits, bytes: usize, rows: usize, with_terms: bool, random: &mut Random) -> Case {
        let terms = if with_terms { random.bytes(rows) } else { Vec::new() };
        // The largest table sum is 255 a subspace; the term must keep the total within 16 bits.
        let room = 65535 - 255 * 8 / bits.bits() * bytes;
        let term_weight = (room * 256 / 255).min(65535) as u16;
        let entries = random.bytes(bits.table_len(bytes));
        // Words that pass all, none, few and about half of their rows, and no words at all.
        let mut word = |_| match random.next() % 5 {
            0 => !0,
            1 => 0,
            2 => 1 << (random.next() % 64),
            _ => random.next(),
        };
        let passing = if rows % 3 == 0 { Vec::new() } else { (0..rows.div_ceil(64)).map(&mut word).collect() };
        Case { bits, bytes, codes: random.bytes(rows * bytes), entries, terms, term_weight, passing }
    }

    fn rows(&self) -> usize {
        self.codes.len() / self.bytes
    }

    /// The score of a row by its definition, from the row-major codes.
    fn score(&self, row: usize) -> u32 {
        let entry = |b: usize| {
            let byte = usize::from(self.codes[row * self.bytes + b]);
            match self.bits {
                CodeBits::Eight => u32::from(self.entries[b * 256 + byte]),
                CodeBits::Four => {
                    let even = b / 4 * 128 + b % 4 * 16;
                    u32::from(self.entries[even + byte % 16]) + u32::from(self.entries[even + 64 + byte / 16])
                }
            }
        };
        let term = self.terms.get(row).map_or(0, |&term| u32::from(term) * u32::from(self.term_weight) / 256);
        (0..self.bytes).map(entry).sum::<u32>() + term
    }

    fn survivors(&self, threshold: u32) -> Vec<(u32, u32)> {
        let passes = |row: &usize| self.passing.get(row / 64).is_none_or(|word| word >> (row % 64) & 1 == 1);
        let scored = (0..self.rows()).filter(passes).map(|row| (row as u32, self.score(row)));
        scored.filter(|&(_, score)| score >= threshold).collect()
    }

    /// What a kernel finds, with inputs that start `skew` bytes off any alignment and outputs of exactly the room that
    /// it asks for, watched behind their ends.
    fn scan(&self, kernels: &Kernels, threshold: u32, skew: usize) -> Vec<(u32, u32)> {
        let mut packed = vec![0xee; skew + packed_len(self.bits, self.bytes, self.rows())];
        pack(self.bits, self.bytes, &self.codes, &mut packed[skew..]);
        let shifted = |bytes: &[u8]| [&vec![0; skew][..], bytes].concat();
        let (entries, terms) = (shifted(&self.entries), shifted(&self.terms));
        let run = PackedRows {
            codes: &packed[skew..],
            rows: self.rows(),
            terms: &terms[skew..],
            term_weight: self.term_weight,
            passing: &self.passing,
        };
        let tables = ScanTables { entries: &entries[skew..], bytes: self.bytes };
        let room = self.rows() + 16;
        let (mut rows, mut scores) = (vec![u32::MAX; room + 16], vec![u32::MAX; room + 16]);
        let scan = if self.bits == CodeBits::Four { kernels.scan4 } else { kernels.scan8 };
        let count = scan(run, tables, threshold, &mut rows[..room], &mut scores[..room]);
        let beyond = [&rows[room..], &scores[room..]].concat();
        assert!(beyond.iter().all(|&x| x == u32::MAX), "{} wrote past its room", kernels.name);
        rows[..count].iter().copied().zip(scores[..count].iter().copied()).collect()
    }

    fn check(&self, skew: usize) {
        let mut scores: Vec<u32> = (0..self.rows()).map(|row| self.score(row)).collect();
        scores.sort_unstable();
        let middle = scores.get(scores.len() / 2).copied().unwrap_or(0);
        let top = scores.last().copied().unwrap_or(0);
        for threshold in [0, middle, top, top + 1, 65535, 65536, u32::MAX] {
            let expected = self.survivors(threshold);
            for kernels in Kernels::all() {
                let found = self.scan(kernels, threshold, skew);
                let (bits, bytes, rows) = (self.bits, self.bytes, self.rows());
                assert!(
                    found == expected,
                    "{} {bits:?} bytes {bytes} rows {rows} threshold {threshold} skew {skew}: {found:?} is not {expected:?}",
                    kernels.name
                );
            }
        }
    }
}

#[test]
fn scans_find_what_the_definition_finds_for_every_number_of_rows() {
    let mut random = Random(1);
    for rows in 0..=200 {
        for bits in [CodeBits::Four, CodeBits::Eight] {
            Case::random(bits, 8, rows, rows % 2 == 0, &mut random).check(rows % 5);
        }
    }
}

#[test]
fn scans_find_what_the_definition_finds_for_every_code_size() {
    let mut random = Random(2);
    for bytes in 1..=128 {
        for rows in [17, 130, 300] {
            Case::random(CodeBits::Eight, bytes, rows, bytes % 3 != 0, &mut random).check(bytes % 64);
            if bytes % 4 == 0 {
                Case::random(CodeBits::Four, bytes, rows, bytes % 3 != 0, &mut random).check(bytes % 64);
            }
        }
    }
}

#[test]
fn scans_keep_the_largest_scores_that_the_contract_allows() {
    let mut random = Random(3);
    // 4-bit: 256 subspaces; 8-bit: 257 of them; all at 255 make 65280 and 65535.
    for (bits, bytes) in [(CodeBits::Four, 128), (CodeBits::Eight, 257)] {
        for rows in [1, 16, 63, 64, 65, 200, 321] {
            for with_terms in [false, true] {
                let mut case = Case::random(bits, bytes, rows, with_terms, &mut random);
                case.entries.fill(255);
                case.terms.fill(255);
                case.passing.clear();
                case.check(1);
                assert!(case.survivors(65280).len() == rows, "this case is not extreme");
            }
        }
    }
}

#[test]
fn a_list_cut_at_the_scan_unit_scores_like_the_whole() {
    let mut random = Random(4);
    for bits in [CodeBits::Four, CodeBits::Eight] {
        let case = Case { passing: Vec::new(), ..Case::random(bits, 12, 300, true, &mut random) };
        let mut packed = vec![0; packed_len(bits, 12, 300)];
        pack(bits, 12, &case.codes, &mut packed);
        for cut in [SCAN_UNIT, 2 * SCAN_UNIT, bits.unit_rows() * 3] {
            for kernels in Kernels::all() {
                let scan = if bits == CodeBits::Four { kernels.scan4 } else { kernels.scan8 };
                let mut found = Vec::new();
                for part in [0..cut, cut..300] {
                    let codes = &packed[packed_len(bits, 12, part.start)..packed_len(bits, 12, part.end)];
                    let (first, terms) = (part.start as u32, &case.terms[part.clone()]);
                    let (rows, term_weight) = (part.len(), case.term_weight);
                    let run = PackedRows { codes, rows, terms, term_weight, passing: &[] };
                    let (mut rows, mut scores) = (vec![0; 316], vec![0; 316]);
                    let tables = ScanTables { entries: &case.entries, bytes: 12 };
                    let count = scan(run, tables, 0, &mut rows, &mut scores);
                    found.extend((0..count).map(|i| (rows[i] + first, scores[i])));
                }
                assert_eq!(found, case.survivors(0), "{} {bits:?} cut at {cut}", kernels.name);
            }
        }
    }
}

proptest! {
    #[test]
    fn unpacked_rows_are_the_packed_ones(bytes in 1usize..20, rows in 0usize..300, seed: u64) {
        for (bits, bytes) in [(CodeBits::Eight, bytes), (CodeBits::Four, bytes * 4)] {
            let codes = Random(seed).bytes(rows * bytes);
            let mut packed = vec![0xff; packed_len(bits, bytes, rows)];
            pack(bits, bytes, &codes, &mut packed);
            let mut out = vec![0; bytes];
            for (row, code) in codes.chunks_exact(bytes).enumerate() {
                unpack_row(bits, bytes, &packed, rows, row, &mut out);
                prop_assert_eq!(&out[..], code);
            }
            let padding = packed.len() - codes.len();
            let zeros = packed.iter().filter(|&&byte| byte == 0).count();
            prop_assert!(zeros >= padding, "padding is zero codes");
        }
    }
}

#[test]
fn the_4_bit_layout_is_the_one_in_the_picture() {
    // 17 rows of 8 bytes; byte b of row r holds 8r + b.
    let codes: Vec<u8> = (0..17 * 8).collect();
    let mut packed = vec![0; packed_len(CodeBits::Four, 8, 17)];
    pack(CodeBits::Four, 8, &codes, &mut packed);
    assert_eq!(packed.len(), 2 * 16 * 8);
    assert_eq!(packed[..8], [0, 1, 2, 3, 8, 9, 10, 11], "rows 0 and 1, bytes 0..4");
    assert_eq!(packed[64..72], [4, 5, 6, 7, 12, 13, 14, 15], "rows 0 and 1, bytes 4..8");
    assert_eq!(packed[128..136], [128, 129, 130, 131, 0, 0, 0, 0], "row 16 and padding");
}

#[test]
fn the_8_bit_layout_is_the_one_in_the_picture() {
    // 66 rows of 2 bytes; byte b of row r holds r + 100b.
    let codes: Vec<u8> = (0..66).flat_map(|r| [r, r + 100]).collect();
    let mut packed = vec![0; packed_len(CodeBits::Eight, 2, 66)];
    pack(CodeBits::Eight, 2, &codes, &mut packed);
    assert_eq!(packed.len(), 80 * 2);
    assert_eq!((packed[0], packed[63], packed[64], packed[127]), (0, 63, 100, 163), "block 0: 64 wide");
    assert_eq!(packed[128..131], [64, 65, 0], "block 1: 16 wide, byte 0");
    assert_eq!(packed[144..147], [164, 165, 0], "block 1: 16 wide, byte 1");
}

/// Calls `check` with every length up to 300, two inputs of that length and a skew.
fn every_length(seed: u64, mut check: impl FnMut(&[f32], &[f32], &mut Random)) {
    let mut random = Random(seed);
    for len in 0..=300 {
        let skew = len % 7;
        let (a, b) = (random.floats(len + skew), random.floats(len + skew));
        check(&a[skew..], &b[skew..], &mut random);
    }
}

/// Asserts that `value` is within the bound of the module's documentation of the sum of `products`.
fn assert_sum(value: f32, products: impl Iterator<Item = f64> + Clone, lanes: usize, what: &str) {
    let (len, exact, absolute) = products.fold((0, 0.0, 0.0), |(n, s, a), p| (n + 1, s + p, a + p.abs()));
    let roundings = (len / lanes + if lanes == 64 { 8 } else { 6 }) as f64;
    let bound = roundings * 2f64.powi(-24) * absolute;
    assert!((f64::from(value) - exact).abs() <= bound, "{what} of {len}: {value} is not {exact} +- {bound}");
}

#[test]
fn long_sums_are_equal_to_the_bit_and_within_their_bound() {
    every_length(5, |a, b, random| {
        let half: Vec<f16> = b.iter().map(|&x| f16::from_f32(x)).collect();
        let bytes: Vec<i8> = random.bytes(b.len()).iter().map(|&x| x.cast_signed()).collect();
        let oracle = &scalar::KERNELS;
        let wide = |b: &[f16]| -> Vec<f64> { b.iter().map(|x| f64::from(x.to_f32())).collect() };
        let scale = 0.03125;
        // Products and squares of exact values; the difference itself is rounded once before it is squared, which the
        // bound covers by its slack of one rounding a lane tree.
        let product = |y: Vec<f64>| a.iter().zip(y).map(|(&x, y)| f64::from(x) * y).collect::<Vec<_>>();
        let square = |y: Vec<f64>| {
            a.iter().zip(y).map(|(&x, y)| f64::from((f64::from(x) - y) as f32).powi(2)).collect::<Vec<_>>()
        };
        let exact = |b: &[f32]| -> Vec<f64> { b.iter().map(|&x| f64::from(x)).collect() };
        let signed = |scale: f64| -> Vec<f64> { bytes.iter().map(|&x| f64::from(x) * scale).collect() };
        for kernels in Kernels::all() {
            let all = [
                ("dot_f32", (kernels.dot_f32)(a, b), (oracle.dot_f32)(a, b), product(exact(b))),
                ("dot_f16", (kernels.dot_f16)(a, &half), (oracle.dot_f16)(a, &half), product(wide(&half))),
                ("dot_i8", (kernels.dot_i8)(a, &bytes), (oracle.dot_i8)(a, &bytes), product(signed(1.0))),
                ("l2_f32", (kernels.l2_f32)(a, b), (oracle.l2_f32)(a, b), square(exact(b))),
                ("l2_f16", (kernels.l2_f16)(a, &half), (oracle.l2_f16)(a, &half), square(wide(&half))),
                ("l2_i8", (kernels.l2_i8)(a, &bytes, scale), (oracle.l2_i8)(a, &bytes, scale), square(signed(0.03125))),
            ];
            for (what, found, expected, products) in all {
                assert!(found == expected, "{} {what} of {}: {found} is not {expected}", kernels.name, a.len());
                assert_sum(found, products.into_iter(), 64, what);
            }
        }
    });
}

#[test]
fn row_sums_are_equal_to_the_bit_and_within_their_bound() {
    let mut random = Random(6);
    for columns in (0..=70).chain([100, 128, 300]) {
        for rows in [0, 1, 3, 4, 7, 8, 9, 21] {
            let skew = (columns + rows) % 5;
            let (query, matrix) = (random.floats(skew + columns), random.floats(skew + columns * rows));
            let (query, matrix) = (&query[skew..], &matrix[skew..]);
            let mut expected = vec![0.0; rows];
            (scalar::KERNELS.dot_rows_f32)(query, matrix, &mut expected);
            for (row, &score) in expected.iter().enumerate() {
                let row = &matrix[row * columns..][..columns];
                let products = query.iter().zip(row).map(|(&x, &y)| f64::from(x) * f64::from(y));
                assert_sum(score, products, 16, "dot_rows_f32");
            }
            for kernels in others() {
                let mut found = vec![f32::NAN; rows];
                (kernels.dot_rows_f32)(query, matrix, &mut found);
                assert_eq!(found, expected, "{} {rows} rows of {columns}", kernels.name);
            }
        }
    }
}

#[test]
fn int8_row_products_are_exact() {
    let mut random = Random(7);
    let signed = |bytes: Vec<u8>| -> Vec<i8> { bytes.into_iter().map(u8::cast_signed).collect() };
    for columns in [0, 64, 128, 192, 768] {
        for rows in (0..=35).chain([64, 100]) {
            let skew = rows % 3;
            let extreme = rows % 2 == 0;
            let mut query = signed(random.bytes(skew + columns));
            let mut matrix = signed(random.bytes(skew + columns * rows));
            for (i, x) in query.iter_mut().enumerate() {
                *x = if extreme { [127, -127][i / 2 % 2] } else { (*x).max(-127) };
            }
            if extreme {
                matrix.iter_mut().for_each(|x| *x = if *x < 0 { -128 } else { 127 });
            }
            let (query, matrix) = (&query[skew..], &matrix[skew..]);
            let row = |r: usize| &matrix[r * columns..][..columns];
            let sums: Vec<i32> = (0..rows).map(|r| row(r).iter().map(|&x| i32::from(x)).sum()).collect();
            let product = |r: usize| query.iter().zip(row(r)).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
            let expected: Vec<i32> = (0..rows).map(product).collect();
            for kernels in Kernels::all() {
                let mut found = vec![i32::MIN; rows];
                (kernels.dot_rows_i8)(query, matrix, &sums, &mut found);
                assert_eq!(found, expected, "{} {rows} rows of {columns}", kernels.name);
            }
        }
    }
}

#[test]
fn codeword_tables_and_choices_are_equal_to_the_bit() {
    let mut random = Random(8);
    for count in [16, 256] {
        for dimensions in 0..=20 {
            let skew = dimensions % 3;
            let x = random.floats(dimensions + skew);
            let codewords = random.floats(dimensions * count + skew);
            let (x, codewords) = (&x[skew..], &codewords[skew..]);
            let squares = |k: usize| (0..dimensions).map(|j| codewords[j * count + k].powi(2)).sum::<f32>() / 2.0;
            let half_norms: Vec<f32> = (0..count).map(squares).collect();
            let mut expected = vec![0.0; count];
            (scalar::KERNELS.table_f32)(x, codewords, &mut expected);
            let choice = (scalar::KERNELS.nearest)(x, codewords, &half_norms);
            for kernels in others() {
                let mut found = vec![f32::NAN; count];
                (kernels.table_f32)(x, codewords, &mut found);
                assert_eq!(found, expected, "{} table of {count} x {dimensions}", kernels.name);
                let found = (kernels.nearest)(x, codewords, &half_norms);
                assert_eq!(found, choice, "{} nearest of {count} x {dimensions}", kernels.name);
            }
        }
    }
}

#[test]
fn ranges_hold_the_ends_of_every_run() {
    let mut random = Random(11);
    for run in [16, 256] {
        for runs in [1, 2, 7] {
            let values = random.floats(run * runs + 1);
            for kernels in Kernels::all() {
                let (mut low, mut high) = (vec![0.0; runs], vec![0.0; runs]);
                (kernels.ranges)(&values[1..], &mut low, &mut high);
                for (m, values) in values[1..].chunks(run).enumerate() {
                    let mut sorted = values.to_vec();
                    sorted.sort_by(f32::total_cmp);
                    assert_eq!((low[m], high[m]), (sorted[0], sorted[run - 1]), "{}", kernels.name);
                }
            }
        }
    }
}

#[test]
fn nearest_is_the_codeword_itself_and_the_first_of_equals() {
    let mut random = Random(9);
    for count in [16usize, 256] {
        // Codewords k and k + count / 2 are the same, whole numbers: costs are exact and ties are real.
        let half = count / 2;
        let rows: Vec<[f32; 3]> = (0..half).map(|k| [k as f32, (random.next() % 9) as f32, 1.0]).collect();
        let codewords: Vec<f32> =
            (0..3).flat_map(|j| (0..count).map(move |k| (j, k))).map(|(j, k)| rows[k % half][j]).collect();
        let half_norms: Vec<f32> =
            (0..count).map(|k| rows[k % half].iter().map(|c| c * c).sum::<f32>() / 2.0).collect();
        for kernels in Kernels::all() {
            for (k, row) in rows.iter().enumerate() {
                assert_eq!(usize::from((kernels.nearest)(row, &codewords, &half_norms)), k, "{}", kernels.name);
            }
            let unordered = [f32::NAN; 3];
            assert_eq!((kernels.nearest)(&unordered, &codewords, &half_norms), 0, "{} of no number", kernels.name);
        }
    }
}

#[test]
fn quantized_bytes_are_equal_and_round_half_to_even() {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 0.5, 1.5, 2.5, 254.5, 255.5, -0.5];
    let expected = [0, 255, 0, 255, 0, 0, 2, 2, 254, 255, 0];
    for kernels in Kernels::all() {
        let mut found = [9; 11];
        (kernels.quantize_u8)(&special, 0.0, 1.0, &mut found);
        assert_eq!(found, expected, "{}", kernels.name);
    }
    every_length(10, |x, _, random| {
        let (min, inv_step) = (random.floats(1)[0], random.floats(1)[0].abs() * 30.0);
        let mut expected = vec![0; x.len()];
        (scalar::KERNELS.quantize_u8)(x, min, inv_step, &mut expected);
        for kernels in others() {
            let mut found = vec![9; x.len()];
            (kernels.quantize_u8)(x, min, inv_step, &mut found);
            assert_eq!(found, expected, "{} {} values", kernels.name, x.len());
        }
    });
}

#[test]
fn prefetch_takes_any_slice() {
    let bytes = vec![1u8; 1000];
    for (from, to) in [(0, 0), (0, 1), (3, 64), (63, 65), (1, 1000), (1000, 1000)] {
        prefetch(&bytes[from..to]);
    }
    assert!(bytes.iter().all(|&byte| byte == 1));
}

#[test]
fn tables_are_found_by_name() {
    for kernels in Kernels::all() {
        assert_eq!(Kernels::named(kernels.name).unwrap().name, kernels.name);
    }
    assert_eq!(Kernels::all()[0].name, "scalar");
    assert!(Kernels::all().iter().any(|kernels| kernels.name == Kernels::detect().name));
    let unknown = Kernels::named("sse9").map(|kernels| kernels.name).unwrap_err().to_string();
    assert!(unknown.contains("sse9") && unknown.contains("avx2"), "{unknown}");
}

#[test]
#[should_panic(expected = "room for")]
fn a_scan_refuses_outputs_that_are_too_short() {
    let tables = ScanTables { entries: &[0; 256], bytes: 1 };
    let run = PackedRows { codes: &[0; 64], rows: 64, terms: &[], term_weight: 0, passing: &[] };
    (Kernels::detect().scan8)(run, tables, 0, &mut [0; 80], &mut [0; 79]);
}
