//! What the finished codes really return: a temporary index, searched with every query.

use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{LearnSpec, Loaded};
use crate::build::{BuildSpec, build};
use crate::error::{Error, Result};
use crate::quantizer::Quantizer;
use crate::search::{OpenOptions, SearchParams, Searcher};
use crate::train::{Candidates, Watch};
#[cfg(feature = "text")]
use crate::types::Metric;
use crate::types::{Element, Key};
use crate::vfs::RealVfs;

/// Queries of one task.
const BLOCK: usize = 64;

/// An index in a directory of its own, which goes when this does.
#[derive(Debug)]
pub struct TemporaryIndex {
    searcher: Searcher,
    /// The key (the row of the input) of every row.
    keys: Vec<Key>,
    _folder: Folder,
}

/// Removes itself.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    /// A new one beside `output`.
    fn beside(output: &Path) -> Result<Folder> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}-{number}", std::process::id()));
        let folder = Folder(output.with_file_name(name));
        std::fs::create_dir_all(&folder.0).map_err(Error::io(&folder.0))?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing else can be done about a folder that cannot be removed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl TemporaryIndex {
    /// Builds the index of `spec`'s input with `quantizer`, beside the output.
    ///
    /// # Errors
    /// As [`build`].
    pub fn build(spec: &LearnSpec, quantizer: &Quantizer, watch: &dyn Watch) -> Result<TemporaryIndex> {
        let from = BuildSpec { column: spec.column.clone(), metric: spec.metric, ..BuildSpec::new(&spec.input, "") };
        TemporaryIndex::build_from(from, Folder::beside(&spec.output)?, quantizer, spec.seed, watch)
    }

    /// Builds the index of documents in memory (n x d, of unit length, compared by cosine), beside the file or folder `output`.
    ///
    /// # Errors
    /// As [`build`].
    #[cfg(feature = "text")]
    pub fn over(
        documents: &ndarray::Array2<f32>,
        quantizer: &Quantizer,
        output: &Path,
        seed: u64,
        watch: &dyn Watch,
    ) -> Result<TemporaryIndex> {
        use crate::dataset::{Scalar, VectorWriter};
        let folder = Folder::beside(output)?;
        let input = folder.0.join("documents.npy");
        let mut writer = VectorWriter::create(&input, Scalar::F32, documents.ncols())?;
        writer.write(documents.as_slice().expect("C order"))?;
        writer.finish()?;
        let from = BuildSpec { metric: Metric::Cosine, ..BuildSpec::new(&input, "") };
        TemporaryIndex::build_from(from, folder, quantizer, seed, watch)
    }

    fn build_from(
        from: BuildSpec,
        folder: Folder,
        quantizer: &Quantizer,
        seed: u64,
        watch: &dyn Watch,
    ) -> Result<TemporaryIndex> {
        let file = folder.0.join("quantizer.bg");
        quantizer.write(&RealVfs, &file, [0; 16])?;
        let dir = folder.0.join("index");
        let build_spec = BuildSpec { output: dir.clone(), quantizer: Some(file), dense: Element::F16, seed, ..from };
        build(&build_spec, watch)?;
        TemporaryIndex::open(&dir, folder)
    }

    fn open(dir: &Path, folder: Folder) -> Result<TemporaryIndex> {
        let searcher = Searcher::open(dir, &OpenOptions::default())?;
        let keys = searcher.index().keys_of_rows()?;
        Ok(TemporaryIndex { searcher, keys, _folder: folder })
    }

    /// Searches it.
    pub fn searcher(&self) -> &Searcher {
        &self.searcher
    }

    /// The key (the row of the input) of every row.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }
}

/// The `k` best documents by codes for every query, best first, labelled ones and documents that are not in memory left out.
/// `nprobe` lists are scanned; 0: the index's default.
///
/// # Errors
/// As [`Searcher::candidates`], and what `watch` stops with.
pub fn candidates(
    index: &TemporaryIndex,
    loaded: &Loaded,
    k: usize,
    nprobe: usize,
    watch: &dyn Watch,
) -> Result<Candidates> {
    let examples = &loaded.examples;
    let place_of_row: Vec<Option<u32>> = index.keys.iter().map(|&key| loaded.place(key)).collect();
    let mut labelled = vec![Vec::new(); examples.queries.nrows()];
    let labels = examples.train.iter().chain(&examples.valid).chain(&examples.known);
    labels.for_each(|p| labelled[p.query as usize].push(p.document));
    let queries = examples.queries.as_slice().expect("C order");
    let params = SearchParams { k, candidates: k, nprobe, ..SearchParams::default() };
    watch.begin("search queries", examples.queries.nrows() as u64);
    let blocks: Result<Vec<Vec<Vec<u32>>>> = queries
        .par_chunks(BLOCK * examples.dim())
        .zip(labelled.par_chunks(BLOCK))
        .map(|(queries, labelled)| {
            watch.check()?;
            let (mut scratch, mut found) = (index.searcher.scratch(), Vec::new());
            let mut block = Vec::with_capacity(labelled.len());
            for (query, labelled) in queries.chunks(examples.dim()).zip(labelled) {
                index.searcher.candidates(query, &params, &mut scratch, &mut found)?;
                let rows = found.iter().filter_map(|(row, _)| place_of_row[*row as usize]);
                block.push(rows.filter(|row| !labelled.contains(row)).collect());
            }
            watch.advance(labelled.len() as u64);
            Ok(block)
        })
        .collect();
    Ok(Candidates { by_query: blocks?.into_iter().flatten().collect() })
}
