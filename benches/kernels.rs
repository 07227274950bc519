//! `cargo bench --bench kernels [-- WORD]`: what every kernel costs, for each instruction set of this machine (only
//! kernels whose name contains WORD).
//!
//! Each kernel first proves its answer against the scalar oracle on the very data that is then timed. The instruction
//! sets take turns within each round; the figures are the median and the best of the rounds. Beside the time stand the bytes read a
//! second, as a share of what a plain streaming sum reads from data of the same size, and, for AVX-512, the bound that
//! the execution ports of Zen 4 set (see [`Shape::bound`]) and how far the best round is from it.

use std::hint::black_box;
use std::time::Instant;

use bigrain::simd::{CodeBits, Kernels, PackedRows, ScanTables, pack, packed_len};
use half::f16;

/// Rounds, each timing every instruction set once; odd, so that the median is one of them.
const ROUNDS: usize = 31;

/// How long one timing lasts at least, in seconds: shorter than a slice of the scheduler, so that on a machine with
/// other work most timings are not interrupted and the median is one of these.
const SLICE: f64 = 0.0005;

/// One line of the result before it is measured.
struct Shape {
    kernel: &'static str,
    what: String,
    /// Rows that one call handles, and bytes of rows that it reads.
    rows: usize,
    bytes: usize,
    /// Cycles a row below which AVX-512 cannot go on Zen 4, which a cycle executes two 512-bit operations of any sort, of
    /// these one multiply-add or dot and one permute or shift, and one 512-bit load.
    bound: f64,
}

/// What the machine can do, measured in this process.
struct Machine {
    /// Cycles a nanosecond.
    gigahertz: f64,
    /// (bytes of the buffer, GB/s) of a streaming sum, smallest first.
    bandwidth: Vec<(usize, f64)>,
}

impl Machine {
    fn measure() -> Machine {
        let mut x = 3u64;
        let mut chain = || {
            for _ in 0..1000 {
                x = x.wrapping_mul(x) ^ 5; // a multiplication waits 3 cycles, the exclusive or 1
            }
            black_box(x);
        };
        let chain = median((0..ROUNDS).map(|_| seconds(&mut chain)).collect());
        let sizes = [24 << 10, 512 << 10, 8 << 20, 256 << 20];
        let bandwidth = sizes.map(|bytes| {
            let data = vec![1u64; bytes / 8];
            (bytes, bytes as f64 / median((0..ROUNDS).map(|_| time_sum(&data)).collect()) / 1e9)
        });
        Machine { gigahertz: 4000.0 / (chain * 1e9), bandwidth: bandwidth.to_vec() }
    }

    /// GB/s of the streaming sum over the smallest buffer that is no smaller than `bytes`.
    fn bandwidth_for(&self, bytes: usize) -> f64 {
        let fits = self.bandwidth.iter().find(|(size, _)| *size >= bytes);
        fits.or(self.bandwidth.last()).map_or(f64::NAN, |(_, rate)| *rate)
    }
}

/// A streaming sum with 16 independent lanes, which the compiler turns into plain vector loads and additions.
fn sum(data: &[u64]) -> u64 {
    let mut lanes = [0u64; 16];
    for block in data.as_chunks::<16>().0 {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane = lane.wrapping_add(*x);
        }
    }
    lanes.iter().fold(0, |a, b| a.wrapping_add(*b))
}

fn time_sum(data: &[u64]) -> f64 {
    seconds(&mut || {
        black_box(sum(data));
    })
}

/// Seconds a call, over as many calls as fill [`SLICE`].
fn seconds(call: &mut dyn FnMut()) -> f64 {
    let mut calls = 1;
    loop {
        let start = Instant::now();
        for _ in 0..calls {
            call();
        }
        let elapsed = start.elapsed().as_secs_f64();
        if elapsed >= SLICE {
            return elapsed / calls as f64;
        }
        calls = (calls as f64 * (1.2 * SLICE / elapsed.max(1e-7)).clamp(1.5, 100.0)).ceil() as usize;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs shapes and prints their lines.
struct Bench {
    machine: Machine,
    word: String,
}

impl Bench {
    fn wants(&self, kernel: &str) -> bool {
        kernel.contains(&self.word)
    }

    /// Times `call` with every instruction set; `call` returns what must be equal to the oracle's answer.
    fn run<T: PartialEq>(&self, shape: &Shape, mut call: impl FnMut(&Kernels) -> T) {
        let sets = Kernels::all();
        let expected = call(sets[0]);
        for kernels in &sets {
            assert!(call(kernels) == expected, "{} {} {} is wrong", kernels.name, shape.kernel, shape.what);
        }
        let mut times = vec![Vec::new(); sets.len()];
        for _ in 0..ROUNDS {
            for (kernels, times) in sets.iter().zip(&mut times) {
                // The oracle only gives scale; it would take most of the time.
                if kernels.name != "scalar" || times.len() < 3 {
                    times.push(seconds(&mut || {
                        black_box(call(kernels));
                    }));
                }
            }
        }
        for (kernels, times) in sets.iter().zip(times) {
            let best = times.iter().copied().fold(f64::INFINITY, f64::min);
            self.print(shape, kernels.name, median(times), best);
        }
    }

    fn print(&self, shape: &Shape, set: &str, seconds: f64, best: f64) {
        let ns = seconds * 1e9 / shape.rows as f64;
        let best = best * 1e9 / shape.rows as f64;
        let rate = shape.bytes as f64 / seconds / 1e9;
        let share = 100.0 * rate / self.machine.bandwidth_for(shape.bytes);
        let bound = match set {
            "avx512" => {
                let bound = shape.bound / self.machine.gigahertz;
                format!("{bound:.3} | {:.2}x", best / bound)
            }
            _ => " | ".to_string(),
        };
        println!(
            "| {} | {} | {set} | {ns:.3} | {best:.3} | {:.1} | {rate:.1} | {share:.0} % | {bound} |",
            shape.kernel,
            shape.what,
            1e3 / ns
        );
    }
}

/// A seeded stream of bytes (xorshift64*).
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| f32::from(self.byte()) - 127.5).collect()
    }

    fn signed(&mut self, len: usize) -> Vec<i8> {
        (0..len).map(|_| self.byte().cast_signed().max(-127)).collect()
    }
}

/// Scans `rows` rows in lists of `list` rows, of which about one in a thousand survives, with row terms or without.
fn scan(bench: &Bench, bits: CodeBits, bytes: usize, rows: usize, list: usize, with_terms: bool) {
    let mut random = Random(7);
    let entries = random.bytes(bits.table_len(bytes));
    let tables = ScanTables { entries: &entries, bytes };
    let terms = if with_terms { random.bytes(list) } else { Vec::new() };
    let lists: Vec<Vec<u8>> = (0..rows / list)
        .map(|_| {
            let mut packed = vec![0; packed_len(bits, bytes, list)];
            pack(bits, bytes, &random.bytes(list * bytes), &mut packed);
            packed
        })
        .collect();
    let (mut found, mut scores) = (vec![0; list + 16], vec![0; list + 16]);
    let mut scan_all = |kernels: &Kernels, threshold: u32| {
        let kernel = if bits == CodeBits::Four { kernels.scan4 } else { kernels.scan8 };
        let mut survivors = (0, 0u64);
        for codes in &lists {
            let run = PackedRows { codes, rows: list, terms: &terms, term_weight: 300, passing: &[] };
            let count = kernel(run, tables, threshold, &mut found, &mut scores);
            let total: u64 = found[..count].iter().zip(&scores).map(|(&row, &score)| u64::from(row ^ score)).sum();
            survivors = (survivors.0 + count, survivors.1 + total);
        }
        survivors
    };
    let mut threshold = 0;
    while scan_all(Kernels::detect(), threshold).0 > rows / 1000 {
        threshold += 1 + threshold / 500;
    }
    let shape = Shape {
        kernel: if bits == CodeBits::Four { "scan4" } else { "scan8" },
        what: format!(
            "{bytes} B, lists of {list}{}, {}",
            if with_terms { " with terms" } else { "" },
            size(rows * bytes)
        ),
        rows: rows / list * list,
        bytes: lists.len() * lists[0].len(),
        // Both do 7 operations for 64 bytes of codes.
        bound: bytes as f64 * 3.5 / 64.0,
    };
    bench.run(&shape, |kernels| scan_all(kernels, threshold));
}

fn size(bytes: usize) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

fn scans(bench: &Bench) {
    for bits in [CodeBits::Four, CodeBits::Eight] {
        if !bench.wants(if bits == CodeBits::Four { "scan4" } else { "scan8" }) {
            continue;
        }
        for bytes in [8, 16, 32, 64, 96] {
            scan(bench, bits, bytes, (256 << 10) / bytes, (256 << 10) / bytes, false);
        }
        scan(bench, bits, 32, 8192, 8192, true);
        scan(bench, bits, 32, 8192, 117, false);
        scan(bench, bits, 32, 8192, 1000, false);
        scan(bench, bits, 32, 4 << 20, 4 << 20, false);
    }
}

/// Verification: one query with 100 vectors one after the other, as candidates are scored.
fn dense(bench: &Bench, dimension: usize) {
    const VECTORS: usize = 100;
    let mut random = Random(8);
    let query = random.floats(dimension);
    let f32s = random.floats(dimension * VECTORS);
    let f16s: Vec<f16> = f32s.iter().map(|&x| f16::from_f32(x)).collect();
    let i8s = random.signed(dimension * VECTORS);
    let shape = |kernel, element: usize, bound: f64| Shape {
        kernel,
        what: format!("{dimension} dimensions"),
        rows: VECTORS,
        bytes: VECTORS * dimension * element,
        bound: bound * dimension as f64 / 16.0,
    };
    // Loads a 16 elements: a whole register of the query, and a whole, a half or a quarter one of the vector.
    if bench.wants("dot_f32") {
        bench.run(&shape("dot_f32", 4, 2.0), |k| {
            f32s.chunks_exact(dimension).map(|v| (k.dot_f32)(&query, v)).sum::<f32>()
        });
    }
    if bench.wants("dot_f16") {
        bench.run(&shape("dot_f16", 2, 1.5), |k| {
            f16s.chunks_exact(dimension).map(|v| (k.dot_f16)(&query, v)).sum::<f32>()
        });
    }
    if bench.wants("dot_i8") {
        bench
            .run(&shape("dot_i8", 1, 1.5), |k| i8s.chunks_exact(dimension).map(|v| (k.dot_i8)(&query, v)).sum::<f32>());
    }
    if bench.wants("l2_f32") {
        bench.run(&shape("l2_f32", 4, 2.0), |k| {
            f32s.chunks_exact(dimension).map(|v| (k.l2_f32)(&query, v)).sum::<f32>()
        });
    }
    if bench.wants("l2_f16") {
        bench.run(&shape("l2_f16", 2, 1.5), |k| {
            f16s.chunks_exact(dimension).map(|v| (k.l2_f16)(&query, v)).sum::<f32>()
        });
    }
    if bench.wants("l2_i8") {
        bench.run(&shape("l2_i8", 1, 2.0), |k| {
            i8s.chunks_exact(dimension).map(|v| (k.l2_i8)(&query, v, 0.5)).sum::<f32>()
        });
    }
}

/// Probing: one query against every centroid.
fn rows(bench: &Bench, columns: usize, rows: usize) {
    let mut random = Random(9);
    let shape = |kernel, element: usize, bound: f64| Shape {
        kernel,
        what: format!("{rows} x {columns}, {}", size(rows * columns * element)),
        rows,
        bytes: rows * columns * element,
        bound: bound * (columns * element) as f64 / 64.0,
    };
    if bench.wants("dot_rows_i8") {
        let (query, matrix) = (random.signed(columns), random.signed(rows * columns));
        let sums: Vec<i32> = matrix.chunks_exact(columns).map(|row| row.iter().map(|&x| i32::from(x)).sum()).collect();
        let mut out = vec![0; rows];
        bench.run(&shape("dot_rows_i8", 1, 9.0 / 8.0), |k| {
            (k.dot_rows_i8)(&query, &matrix, &sums, &mut out);
            out.iter().fold(0, |a, b| a ^ b)
        });
    }
    if bench.wants("dot_rows_f32") {
        let (query, matrix) = (random.floats(columns), random.floats(rows * columns));
        let mut out = vec![0.0; rows];
        bench.run(&shape("dot_rows_f32", 4, 5.0 / 4.0), |k| {
            (k.dot_rows_f32)(&query, &matrix, &mut out);
            out[0].to_bits() ^ out[rows / 2].to_bits() ^ out[rows - 1].to_bits()
        });
    }
}

/// Score tables of a query and codes of a row: `subspaces` codebooks of `count` codewords of `dimension` dimensions.
fn codewords(bench: &Bench, subspaces: usize, count: usize, dimension: usize) {
    let mut random = Random(10);
    let x = random.floats(subspaces * dimension);
    let books = random.floats(subspaces * dimension * count);
    let norms: Vec<f32> = random.floats(subspaces * count);
    let mut table = vec![0.0; subspaces * count];
    let mut bytes = vec![0; subspaces * count];
    let shape = |kernel, element: usize, bound: f64| Shape {
        kernel,
        what: format!("{subspaces} subspaces of {count} x {dimension}"),
        rows: subspaces,
        bytes: subspaces * count * element,
        bound: bound * count as f64 / 16.0,
    };
    let pieces = || x.chunks_exact(dimension).zip(books.chunks_exact(dimension * count));
    if bench.wants("table_f32") {
        bench.run(&shape("table_f32", dimension * 4, dimension as f64), |k| {
            pieces().zip(table.chunks_exact_mut(count)).for_each(|((x, book), out)| (k.table_f32)(x, book, out));
            table[0].to_bits() ^ table[subspaces * count - 1].to_bits()
        });
    }
    if bench.wants("nearest") {
        // Beside the multiply-adds: compare, two choices and the next codewords' numbers.
        bench.run(&shape("nearest", dimension * 4, dimension as f64 + 2.0), |k| {
            let chosen = pieces().zip(norms.chunks_exact(count)).map(|((x, book), norms)| (k.nearest)(x, book, norms));
            chosen.fold(0u32, |a, b| a.rotate_left(1) ^ u32::from(b))
        });
    }
    if bench.wants("quantize_u8") {
        // Subtract, multiply, two clamps, convert, narrow, store.
        bench.run(&shape("quantize_u8", 4, 3.5), |k| {
            (k.quantize_u8)(&books[..subspaces * count], -100.0, 1.1, &mut bytes);
            bytes.iter().fold(0, |a, b| a ^ b)
        });
    }
}

fn main() {
    let word = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let bench = Bench { machine: Machine::measure(), word };
    println!("{:.2} GHz; streaming sum by 16-byte loads:", bench.machine.gigahertz);
    for (bytes, rate) in &bench.machine.bandwidth {
        println!("- {}: {rate:.1} GB/s", size(*bytes));
    }
    println!(
        "\n| kernel | shape | set | ns a row | best | M rows/s | GB/s | of streaming | bound ns | best to bound |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    scans(&bench);
    for dimension in [100, 128, 768] {
        dense(&bench, dimension);
    }
    for (columns, count) in [(128, 1024), (128, 65536), (768, 1024), (768, 65536)] {
        rows(&bench, columns, count);
    }
    for (subspaces, count, dimension) in [(32, 256, 4), (96, 256, 8), (64, 16, 2), (192, 16, 4)] {
        codewords(&bench, subspaces, count, dimension);
    }
}
