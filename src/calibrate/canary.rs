//! Canary queries: sample queries with the scores of their exact answers, written beside the index that they are about.

use std::path::Path;

use crate::error::Result;
use crate::eval::{Reference, exact_scores};
use crate::index::{Canary, Index, OpenOptions};
use crate::search::Searcher;
use crate::simd::Kernels;
use crate::vfs::Vfs;

/// Most canary queries of an index: enough for a recall within a point or two, few enough to be asked in a moment.
pub const MOST_CANARIES: usize = 200;
/// Exact answers of each.
const ANSWERS: usize = 10;
/// Name of the file within the folder of a version.
const FILE: &str = "canary.bg";

/// Gives the index in `dir` the first [`MOST_CANARIES`] of `queries` (n x dim) as canary queries: finds their exact answers, writes them into the folder
/// of the version, then names them in the manifest. Does nothing where dense heads make scores others than those of the answers.
///
/// # Errors
/// Those of opening and searching; `Io`.
pub fn write_canary(vfs: &dyn Vfs, dir: &Path, queries: &[f32]) -> Result<()> {
    let searcher = Searcher::new(Index::open_on(vfs, dir, &OpenOptions::default())?, Kernels::detect());
    let queries = &queries[..queries.len().min(MOST_CANARIES * searcher.dim())];
    let k = ANSWERS.min(searcher.documents() as usize);
    let Reference::Neighbours(scores) = exact_scores(&searcher, queries, k)? else { return Ok(()) };
    let canary = Canary { k, queries: queries.to_vec(), scores: scores.concat() };
    let mut manifest = searcher.index().manifest().clone();
    let id = manifest.id_bytes().expect("checked when read");
    let folder = dir.join(&manifest.folder);
    manifest.files.canary = Some(canary.write(vfs, &folder.join(FILE), id)?);
    vfs.sync_dir(&folder)?;
    manifest.write(vfs, dir)
}
