//! `cargo bench --no-default-features --bench io [-- --size GIB] [--rounds N] [--dir FOLDER]`: what it costs to fetch 64
//! records at random places of dense shards, by every way of reading.
//!
//! The shards (2 GiB for each size of record, at most 4; made for the run in a folder under the target directory, and
//! deleted after it) hold f32 records of 1 KB and 3 KB, a page each. Every way first proves its bytes on random rows. Then
//! the ways take turns within each round, and the figure is the median of the rounds:
//! - *warm*: the whole file was read before, and the same set stays open;
//! - *cold*: the set is opened anew after the system has dropped the file from its page cache;
//! - *direct*: past the page cache.
//!
//! The bound to compare with is what bare threads draw from the device with direct reads of a page each, at queue depth
//! 1 and at larger ones: the best of them is called the bound of the device. All fetching is done by one thread. MB/s are
//! of the bytes asked for: whole pages where reads are issued, records in a map (whose faults bring whole pages too).

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bigrain::dense::{DenseSet, DenseWriter, FetchScratch, OpenOptions, RecordLayout, Store};
use bigrain::format::{FileEntry, PAGE};
use bigrain::types::{Element, Row};
use bigrain::vfs::{RealVfs, Vfs};

const ID: [u8; 16] = *b"bench of reading";
/// Rows of one fetch, as a search verifies them.
const BATCH: usize = 64;
/// Dimensions of f32 records of 1 KB and of 3 KB.
const DIMS: [usize; 2] = [253, 765];
/// Reads in flight of the bare threads.
const DEPTHS: [usize; 4] = [1, 16, 64, 128];
/// Least seconds of one timing.
const SLICE: f64 = 0.7;
/// Batches of one timing of cold reads, few against the file, so that they meet few pages that they read themselves.
const COLD_BATCHES: usize = 60;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The command line.
struct Options {
    gibibytes: f64,
    rounds: usize,
    dir: PathBuf,
}

impl Options {
    fn parse() -> Outcome<Options> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let mut options = Options { gibibytes: 2.0, rounds: 5, dir: target.join("bench-io") };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--size" => options.gibibytes = value.parse()?,
                "--rounds" => options.rounds = value.parse()?,
                "--dir" => options.dir = PathBuf::from(value),
                other => return Err(format!("{other} is not one of --size, --rounds, --dir").into()),
            }
        }
        if options.gibibytes.is_nan() || !(0.01..=4.0).contains(&options.gibibytes) || options.rounds == 0 {
            return Err("--size is between 0.01 and 4 GiB, --rounds at least 1".into());
        }
        Ok(options)
    }
}

/// A seeded stream (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (high * end) >> 32
    }

    fn batch(&mut self, rows: u64, out: &mut Vec<Row>) {
        out.clear();
        out.extend((0..BATCH).map(|_| self.below(rows) as Row));
        out.sort_unstable();
        out.dedup();
    }
}

/// Shards of one size of record.
struct Shards {
    dir: PathBuf,
    layout: RecordLayout,
    rows: u64,
    entries: Vec<FileEntry>,
}

/// First value of a row's vector; the others are this one plus their place, so that bytes are checked cheaply.
fn first_value(row: Row) -> f32 {
    (row.wrapping_mul(2_654_435_761) >> 12) as f32
}

impl Shards {
    /// Writes pages of records until they take `gibibytes`.
    fn write(dir: &Path, dim: usize, gibibytes: f64) -> Outcome<Shards> {
        let layout = RecordLayout::new(Element::F32, dim);
        let per_page = PAGE / layout.stride() as u64;
        let rows = (gibibytes * (1u64 << 30) as f64) as u64 / PAGE * per_page;
        fs::create_dir_all(dir)?;
        let mut writer = DenseWriter::new(&RealVfs, dir, ID, layout);
        let (mut vector, mut record) = (vec![0.0; dim], vec![0; layout.stride()]);
        for row in 0..rows as Row {
            vector.iter_mut().enumerate().for_each(|(i, v)| *v = first_value(row) + i as f32);
            layout.encode(&vector, u64::from(row) + 7, &mut record)?;
            writer.push_record(&record)?;
        }
        Ok(Shards { dir: dir.to_path_buf(), layout, rows, entries: writer.finish()? })
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.entries.iter().map(|entry| self.dir.join(&entry.name))
    }

    fn open(&self, store: Store, direct: bool) -> Outcome<DenseSet> {
        let options = OpenOptions { store, direct, ..OpenOptions::default() };
        let set = DenseSet::open(&RealVfs, &self.dir, &self.entries, &ID, self.layout, self.rows, &options)?;
        if set.notes().is_empty() { Ok(set) } else { Err(set.notes().join("; ").into()) }
    }

    /// Asks the system to drop the files from its page cache. Pages that are mapped stay, so no map may be open.
    fn drop_cache(&self) -> Outcome<()> {
        for path in self.paths() {
            rustix::fs::fadvise(File::open(path)?, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    /// Reads the files once, which leaves them in the page cache.
    fn warm_cache(&self) -> Outcome<()> {
        let mut buffer = vec![0; 1 << 20];
        for path in self.paths() {
            let mut file = File::open(path)?;
            while file.read(&mut buffer)? > 0 {}
        }
        Ok(())
    }

    /// Fetches random rows and looks at every value.
    fn prove(&self, set: &DenseSet) -> Outcome<()> {
        let (mut random, mut rows, mut scratch) = (Random(3), Vec::new(), FetchScratch::default());
        let mut vector = vec![0.0; self.layout.dim()];
        for _ in 0..20 {
            random.batch(self.rows, &mut rows);
            let mut proved = 0;
            set.for_each(&rows, &mut scratch, &mut |i, record| {
                record.decode(&mut vector);
                let first = first_value(rows[i]);
                let right = vector.iter().enumerate().all(|(d, &v)| v == first + d as f32);
                assert!(right && record.key() == u64::from(rows[i]) + 7, "{}: row {} is wrong", set.store(), rows[i]);
                proved += 1;
            })?;
            assert_eq!(proved, rows.len(), "{}: rows are missing", set.store());
        }
        Ok(())
    }
}

/// One way of reading.
#[derive(Clone, Copy, PartialEq)]
struct Way {
    name: &'static str,
    store: Store,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Warm,
    Cold,
    Direct,
}

const WAYS: [Way; 8] = [
    Way { name: "mmap, warm", store: Store::Mmap, kind: Kind::Warm },
    Way { name: "pread, warm", store: Store::Pread, kind: Kind::Warm },
    Way { name: "uring, warm", store: Store::Uring, kind: Kind::Warm },
    Way { name: "mmap, cold", store: Store::Mmap, kind: Kind::Cold },
    Way { name: "pread, cold", store: Store::Pread, kind: Kind::Cold },
    Way { name: "uring, cold", store: Store::Uring, kind: Kind::Cold },
    Way { name: "pread, direct", store: Store::Pread, kind: Kind::Direct },
    Way { name: "uring, direct", store: Store::Uring, kind: Kind::Direct },
];

/// What one timing found.
#[derive(Clone, Copy)]
struct Figure {
    records: f64,
    reads: f64,
    bytes: f64,
    /// Milliseconds of a fetch of [`BATCH`] rows.
    batch_ms: f64,
}

/// Fetches batches for at least [`SLICE`] seconds, or [`COLD_BATCHES`] of them.
fn time(shards: &Shards, set: &DenseSet, cold: bool, random: &mut Random) -> Outcome<Figure> {
    let (mut rows, mut scratch) = (Vec::new(), FetchScratch::default());
    let (mut records, mut reads, mut bytes, mut batches) = (0, 0, 0, 0);
    let mut sum = 0u64;
    let start = Instant::now();
    while if cold { batches < COLD_BATCHES } else { start.elapsed().as_secs_f64() < SLICE } {
        random.batch(shards.rows, &mut rows);
        let stats = set.for_each(&rows, &mut scratch, &mut |_, record| sum = sum.wrapping_add(record.key()))?;
        (records, reads, bytes) = (records + stats.vectors, reads + stats.reads, bytes + stats.bytes);
        batches += 1;
    }
    std::hint::black_box(sum);
    let seconds = start.elapsed().as_secs_f64();
    let [records, reads, bytes] = [records, reads, bytes].map(|n| n as f64 / seconds);
    Ok(Figure { records, reads, bytes, batch_ms: seconds * 1e3 / f64::from(batches as u32) })
}

/// Direct reads of random pages a second by `depth` threads, with nothing of this library but opening and reading.
fn bare(shards: &Shards, depth: usize, seed: u64) -> Outcome<f64> {
    let files = shards.paths().map(|path| RealVfs.open_direct(&path)).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let reads: usize = std::thread::scope(|scope| {
        let worker = |thread: usize| {
            let (files, mut random) = (&files, Random(seed * 1000 + thread as u64 + 1));
            move || -> bigrain::error::Result<usize> {
                let mut bytes = vec![0u8; PAGE as usize * 2];
                let aligned = bytes.as_ptr().align_offset(PAGE as usize);
                let page = &mut bytes[aligned..][..PAGE as usize];
                let mut reads = 0;
                while start.elapsed().as_secs_f64() < SLICE {
                    let file = &files[random.below(files.len() as u64) as usize];
                    file.read_exact_at(random.below(file.len() / PAGE) * PAGE, page)?;
                    reads += 1;
                }
                Ok(reads)
            }
        };
        let threads: Vec<_> = (0..depth).map(|thread| scope.spawn(worker(thread))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a reader does not panic"))
            .sum::<bigrain::error::Result<_>>()
    })?;
    Ok(reads as f64 / start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures one size of record.
fn measure(shards: &Shards, rounds: usize, out: &mut dyn Write) -> Outcome<()> {
    for way in WAYS {
        shards.prove(&shards.open(way.store, way.kind == Kind::Direct)?).map_err(|e| format!("{}: {e}", way.name))?;
    }
    let mut figures = vec![Vec::new(); WAYS.len()];
    let mut bares = vec![Vec::new(); DEPTHS.len()];
    let mut random = Random(11);
    for round in 0..rounds {
        shards.warm_cache()?;
        for kind in [Kind::Warm, Kind::Cold, Kind::Direct] {
            for (way, figures) in WAYS.iter().zip(&mut figures).filter(|(way, _)| way.kind == kind) {
                if kind != Kind::Warm {
                    shards.drop_cache()?;
                }
                let set = shards.open(way.store, kind == Kind::Direct)?;
                if kind == Kind::Warm {
                    // The first touch of a page of a map is not what a warm one costs.
                    set.for_each(
                        &(0..shards.rows as Row).collect::<Vec<_>>(),
                        &mut FetchScratch::default(),
                        &mut |_, _| {},
                    )?;
                }
                figures.push(time(shards, &set, kind == Kind::Cold, &mut random)?);
            }
        }
        for (&depth, rates) in DEPTHS.iter().zip(&mut bares) {
            rates.push(bare(shards, depth, round as u64)?);
        }
    }
    print(shards, &figures, &bares, out)
}

fn print(shards: &Shards, figures: &[Vec<Figure>], bares: &[Vec<f64>], out: &mut dyn Write) -> Outcome<()> {
    let bares: Vec<f64> = bares.iter().map(|rates| median(rates.clone())).collect();
    let bound = bares.iter().copied().fold(0.0, f64::max);
    let (stride, gib) = (shards.layout.stride(), (shards.layout.file_bytes(shards.rows) as f64) / (1u64 << 30) as f64);
    writeln!(out, "\nRecords of {stride} bytes, {} rows, {gib:.1} GiB\n", shards.rows)?;
    writeln!(out, "| way | records/s | reads/s | MB/s | ms a batch of {BATCH} | share of the device |")?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|")?;
    for (way, figures) in WAYS.iter().zip(figures) {
        let of = |f: fn(&Figure) -> f64| median(figures.iter().map(f).collect());
        // A map issues its reads by page faults, one a record where a record is a page.
        let reads = if way.store == Store::Mmap { "-".to_string() } else { format!("{:.0}", of(|f| f.reads)) };
        let share = match way.kind {
            Kind::Warm => "-".to_string(),
            _ => format!("{:.0} %", 100.0 * of(|f| f.reads.max(f.records)) / bound),
        };
        let (records, mb, ms) = (of(|f| f.records), of(|f| f.bytes) / 1e6, of(|f| f.batch_ms));
        writeln!(out, "| {} | {records:.0} | {reads} | {mb:.0} | {ms:.3} | {share} |", way.name)?;
    }
    for (depth, rate) in DEPTHS.iter().zip(&bares) {
        let mb = rate * PAGE as f64 / 1e6;
        writeln!(
            out,
            "| bare direct reads of a page, {depth} in flight | - | {rate:.0} | {mb:.0} | - | {:.0} % |",
            100.0 * rate / bound
        )?;
    }
    writeln!(out, "\nBound of the device found: {bound:.0} reads of 4 KiB a second.")?;
    Ok(out.flush()?)
}

fn main() -> Outcome<()> {
    let options = Options::parse()?;
    let run = || -> Outcome<()> {
        let mut out = BufWriter::new(std::io::stdout());
        for dim in DIMS {
            let shards = Shards::write(&options.dir, dim, options.gibibytes)?;
            measure(&shards, options.rounds, &mut out)?;
            fs::remove_dir_all(&options.dir)?;
        }
        Ok(())
    };
    let done = run();
    if options.dir.exists() {
        fs::remove_dir_all(&options.dir)?;
    }
    done
}
