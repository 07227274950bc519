//! `make-ads`: ads for measurements of any size, made of real products.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bigrain::dataset::{Scalar, VectorFile, VectorWriter};
use bigrain::error::{Error, Result};
use bigrain::train::Watch;
use clap::Parser;
use index_tools::ads::{Maker, Product};
use index_tools::outln;
use index_tools::progress::Progress;
use index_tools::shell::{Failure, finish};
use rayon::prelude::*;
use std::collections::HashMap;

/// Ads made before they are written.
const PIECE: u64 = 8_192;

/// Make ads from products: vectors, attributes, and the control table above them.
///
/// The products are replicated with jitter in vector and price, and dealt to ad
/// groups, campaigns and advertisers with bids and click rates. The same options
/// give the same files.
///
/// Writes into --output: vectors.npy (f16), attributes.jsonl, control.ndjson (to be
/// sent to PATCH .../control). Keys are row numbers.
///
/// Example, a million ads, and an index of them:
///
///     make-ads --products testdata/products --rows 1000000 --output ads
///     build-index --input ads/vectors.npy --attributes ads/attributes.jsonl \
///         --dense i8 --output ads/index
#[derive(Debug, Parser)]
#[command(name = "make-ads", version, verbatim_doc_comment)]
struct Arguments {
    /// Folder with products.tsv (id, title, supplier, price_cents) and vectors.npy
    #[arg(long, value_name = "DIR")]
    products: PathBuf,
    /// Number of ads
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    rows: u64,
    /// Other seeds make other ads
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for the files
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

fn main() -> ExitCode {
    finish("make-ads", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let progress = Progress::start("make-ads", "ads", &arguments.output)?;
    let mut file = VectorFile::open(&arguments.products.join("vectors.npy"), None)?;
    let products = read_products(&arguments.products.join("products.tsv"))?;
    if file.rows() != products.len() as u64 {
        return Err(Error::mismatch("number of product vectors", products.len(), file.rows()).into());
    }
    let mut vectors = vec![0.0; products.len() * file.dim()];
    file.read(0, &mut vectors)?;
    std::fs::create_dir_all(&arguments.output).map_err(Error::io(&arguments.output))?;
    let maker = Maker::new(&products, &vectors, arguments.seed);
    write_control(&maker, &arguments.output.join("control.ndjson"))?;
    write_ads(&maker, file.dim(), arguments, &progress)?;
    outln!("{} ads of {} products in {}", arguments.rows, products.len(), arguments.output.display());
    Ok(())
}

fn write_control(maker: &Maker<'_>, path: &Path) -> Result<()> {
    let write = || {
        let mut out = BufWriter::new(File::create(path)?);
        maker.control(|line| writeln!(out, "{line}"))?;
        out.flush()
    };
    write().map_err(Error::io(path))
}

fn write_ads(maker: &Maker<'_>, dim: usize, arguments: &Arguments, watch: &dyn Watch) -> Result<()> {
    let path = arguments.output.join("attributes.jsonl");
    let mut vectors = VectorWriter::create(&arguments.output.join("vectors.npy"), Scalar::F16, dim)?;
    let mut records = BufWriter::new(File::create(&path).map_err(Error::io(&path))?);
    watch.begin("make ads", arguments.rows);
    for first in (0..arguments.rows).step_by(PIECE as usize) {
        watch.check()?;
        let numbers: Vec<u64> = (first..arguments.rows.min(first + PIECE)).collect();
        let mut piece = vec![0.0; numbers.len() * dim];
        let make = |(&number, out): (&u64, &mut [f32])| {
            maker.vector(number, out);
            maker.record(number).to_string()
        };
        let lines: Vec<String> = numbers.par_iter().zip(piece.par_chunks_mut(dim)).map(make).collect();
        vectors.write(&piece)?;
        lines.iter().try_for_each(|line| writeln!(records, "{line}")).map_err(Error::io(&path))?;
        watch.advance(numbers.len() as u64);
    }
    records.flush().map_err(Error::io(&path))?;
    vectors.finish().map(drop)
}

fn read_products(path: &Path) -> Result<Vec<Product>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let mut suppliers: HashMap<String, u64> = HashMap::new();
    let mut product = |(number, line): (usize, &str)| {
        let cells: Vec<&str> = line.split('\t').collect();
        let &[_, title, supplier, price] = &cells[..] else {
            let reason = format!("{} cells, not the 4 of id, title, supplier, price_cents", cells.len());
            return Err(Error::input(path, format!("line {}", number + 1), reason));
        };
        let price_cents = price.parse().map_err(|_| {
            Error::input(path, format!("line {}", number + 1), format!("price_cents {price:?} is no integer"))
        })?;
        let next = suppliers.len() as u64;
        let supplier_number = *suppliers.entry(supplier.to_string()).or_insert(next);
        Ok(Product { title: title.into(), supplier: supplier.into(), supplier_number, price_cents })
    };
    let products: Vec<Product> = text.lines().enumerate().skip(1).map(&mut product).collect::<Result<_>>()?;
    match products.is_empty() {
        true => Err(Error::input(path, "line 2", "there is no product")),
        false => Ok(products),
    }
}
