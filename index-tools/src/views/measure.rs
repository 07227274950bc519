//! Recall of mentions in a real index: built with views, and searched.

use std::collections::HashSet;
use std::path::Path;

use bigrain::build::{BuildSpec, build};
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::error::{Error, Result};
use bigrain::heads::{Head, Heads};
use bigrain::index::OpenOptions;
use bigrain::quantizer::CodeShape;
use bigrain::search::{Further, SearchParams, Searcher};
use bigrain::simd::CodeBits;
use bigrain::train::{CODE_ROWS, QuantizerSpec, Watch, train_quantizer};
use bigrain::types::{Metric, Row};
use bigrain::vfs::RealVfs;
use ndarray::ArrayView2;
use rayon::prelude::*;
use serde::Serialize;

use super::{Encoded, ViewSet};

/// Which views of an entity an index has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// The global view alone.
    Single,
    /// Local views.
    Local,
    /// The global view, then the local ones.
    Both,
}

/// All of them.
pub const VARIANTS: [Variant; 3] = [Variant::Single, Variant::Local, Variant::Both];

/// How an index is made and asked.
#[derive(Clone, Copy, Debug)]
pub struct Searched {
    /// Code bytes a row.
    pub code_bytes: usize,
    /// Whether residuals are rotated before they are coded.
    pub opq: bool,
    /// Rows whose dense vectors are read, for each mention.
    pub candidates: usize,
    /// Entities of an answer.
    pub k: usize,
    /// Of lists and codes.
    pub seed: u64,
}

/// What an index finds.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// With as many dense vectors read as said, whatever the number of views.
    #[serde(flatten)]
    pub equal: Answers,
    /// With as many dense vectors read for each entity of that number as it has views.
    pub by_views: Answers,
    /// Rows of the index.
    pub rows: u64,
    /// Code bytes of a row.
    pub code_bytes: usize,
    /// Code bytes of an entity.
    pub code_bytes_per_entity: f64,
    /// Bytes of an entity that searching keeps in memory, all in all.
    pub memory_per_entity: f64,
    /// Bytes of an entity on disk, dense vectors included.
    pub disk_per_entity: f64,
}

/// What the mentions find.
#[derive(Clone, Debug, Serialize)]
pub struct Answers {
    /// Share of the mentions whose entity comes first.
    pub recall_at_1: f64,
    /// Share of the mentions whose entity is in the answer.
    pub recall_at_k: f64,
    /// Dense vectors read for a mention, mean.
    pub vectors_read: f64,
    /// Entities found for a mention, mean.
    pub found: f64,
    /// Microseconds of a search, mean, one thread at a time.
    pub microseconds: f64,
    /// Of the mentions whose first entity is the right one: the share that its global view puts there.
    pub global_where_right: f64,
    /// The same where it is another one.
    pub global_where_wrong: f64,
}

/// Builds an index of `variant` below `dir`, with `heads` (query, document) if there are any, and asks it every mention.
///
/// # Errors
/// Those of training codes, building and searching.
pub fn measure(
    dir: &Path,
    encoded: &Encoded,
    variant: Variant,
    heads: Option<(&Head, &Head)>,
    searched: Searched,
    watch: &dyn Watch,
) -> Result<Measured> {
    let ViewSet { vectors, starts, .. } = encoded.views(variant);
    let keys = starts.windows(2).enumerate().flat_map(|(entity, w)| (w[0]..w[1]).map(move |_| entity));
    std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let path = |name: &str| dir.join(name);
    let mut writer = VectorWriter::create(&path("views.fbin"), Scalar::F32, vectors.ncols())?;
    writer.write(vectors.as_slice().expect("C order"))?;
    writer.finish()?;
    let lines: String = keys.map(|key| format!("{key}\n")).collect();
    std::fs::write(path("keys.txt"), lines).map_err(Error::io(path("keys.txt")))?;
    quantizer(vectors.view(), heads, searched, &path("quantizer.bg"), watch)?;
    let spec = BuildSpec {
        keys: Some(path("keys.txt")),
        views: true,
        quantizer: Some(path("quantizer.bg")),
        seed: searched.seed,
        ..BuildSpec::new(path("views.fbin"), path("index"))
    };
    let report = build(&spec, watch)?;
    let searcher = Searcher::open(&spec.output, &OpenOptions::default())?;
    let entities = encoded.entities() as f64;
    let by_views = (searched.candidates as f64 * report.rows as f64 / entities).round() as usize;
    let global = globals(&searcher, variant)?;
    let answers = |candidates| Ok::<_, Error>(Answers::of(&ask(&searcher, encoded, searched, candidates, &global)?));
    let (rows, per_entity) = (report.rows, report.rows as f64 / entities);
    Ok(Measured {
        equal: answers(searched.candidates)?,
        by_views: answers(by_views)?,
        rows,
        code_bytes: report.code_bytes,
        code_bytes_per_entity: report.code_bytes as f64 * per_entity,
        memory_per_entity: report.memory_bytes_per_row * per_entity,
        disk_per_entity: report.disk_bytes as f64 / entities,
    })
}

impl Answers {
    fn of(found: &[Found]) -> Answers {
        let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
        let count = |of: &dyn Fn(&Found) -> bool| found.iter().filter(|found| of(found)).count();
        let mean = |of: &dyn Fn(&Found) -> f64| found.iter().map(of).sum::<f64>() / found.len() as f64;
        let right = count(&|found| found.rank == Some(0));
        Answers {
            recall_at_1: share(right, found.len()),
            recall_at_k: share(count(&|found| found.rank.is_some()), found.len()),
            vectors_read: mean(&|found| f64::from(found.read)),
            found: mean(&|found| found.entities as f64),
            microseconds: mean(&|found| found.microseconds),
            global_where_right: share(count(&|found| found.rank == Some(0) && found.global), right),
            global_where_wrong: share(count(&|found| found.rank != Some(0) && found.global), found.len() - right),
        }
    }
}

/// Which rows are global views beside local ones.
fn globals(searcher: &Searcher, variant: Variant) -> Result<HashSet<Row>> {
    if variant != Variant::Both {
        return Ok(HashSet::new());
    }
    let mut rows = HashSet::new();
    for key in 0..searcher.documents() {
        match searcher.index().rows(key)?[..] {
            [] | [_] => {}
            [first, ..] => {
                rows.insert(first);
            }
        }
    }
    Ok(rows)
}

/// Lists and codes of the vectors as the document head maps them; the heads go with them, for codes and for dense vectors.
fn quantizer(
    vectors: ArrayView2<'_, f32>,
    heads: Option<(&Head, &Head)>,
    searched: Searched,
    path: &Path,
    watch: &dyn Watch,
) -> Result<()> {
    let mapped = heads.map_or_else(|| vectors.to_owned(), |(_, document)| document.apply_rows(vectors));
    let spec = QuantizerSpec {
        metric: Metric::Cosine,
        lists: ((vectors.nrows() as f64).sqrt() / 2.0).ceil() as usize,
        shape: CodeShape::new(CodeBits::Eight, searched.code_bytes)?,
        opq: searched.opq,
        code_rows: CODE_ROWS,
        seed: searched.seed,
    };
    let trained = train_quantizer(mapped.view(), &spec, watch)?;
    let quantizer = match heads {
        None => trained,
        Some((query, document)) => trained.with_heads(Heads {
            code_query: Some(query.clone()),
            code_document: Some(document.clone()),
            dense_query: Some(query.clone()),
            dense_document: Some(document.clone()),
        })?,
    };
    quantizer.write(&RealVfs, path, [1; 16]).map(drop)
}

/// What a mention found.
struct Found {
    rank: Option<usize>,
    entities: usize,
    /// Whether the first of them owes its place to its global view.
    global: bool,
    read: u32,
    microseconds: f64,
}

fn ask(
    searcher: &Searcher,
    encoded: &Encoded,
    searched: Searched,
    candidates: usize,
    global: &HashSet<Row>,
) -> Result<Vec<Found>> {
    // All lists: what is compared are views and codes, not the choice of lists. One round: lists that are short stay so, or the budget would
    // not be equal.
    let params = SearchParams {
        k: searched.k,
        nprobe: searcher.index().manifest().lists,
        candidates,
        further: Further::NOT,
        ..SearchParams::default()
    };
    let mentions: Vec<(&[f32], u64)> = encoded
        .mentions
        .rows()
        .into_iter()
        .map(|row| row.to_slice().expect("C order"))
        .zip(encoded.gold.iter().map(|&gold| u64::from(gold)))
        .collect();
    let one = |scratch: &mut (_, Vec<_>), (vector, gold): &(&[f32], u64)| -> Result<Found> {
        let begun = std::time::Instant::now();
        let stats = searcher.search(vector, &params, &mut scratch.0, &mut scratch.1)?;
        let microseconds = begun.elapsed().as_secs_f64() * 1e6;
        let rank = scratch.1.iter().position(|hit| hit.key == *gold);
        let first_is_global = scratch.1.first().is_some_and(|hit| global.contains(&hit.row));
        Ok(Found { rank, entities: scratch.1.len(), global: first_is_global, read: stats.vectors_read, microseconds })
    };
    mentions.par_iter().map_init(|| (searcher.scratch(), Vec::new()), one).collect()
}

#[cfg(test)]
mod tests {
    use bigrain::sample::Rng;
    use bigrain::train::Silent;
    use ndarray::Array2;

    use super::super::{Entities, Mentions, Words, moved};
    use super::*;

    const DIM: usize = 12;
    const ENTITIES: usize = 90;

    fn unit(mut vector: Vec<f32>) -> Vec<f32> {
        let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|v| *v /= norm);
        vector
    }

    fn matrix(rows: &[Vec<f32>]) -> Array2<f32> {
        Array2::from_shape_vec((rows.len(), DIM), rows.concat()).unwrap()
    }

    /// Entities of one to four local views that have nothing in common, and as global view their mean; mentions near a local view.
    fn made() -> Encoded {
        let mut rng = Rng::new(5);
        let mut random = || unit((0..DIM).map(|_| rng.normal()).collect());
        let (mut local, mut global, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        for entity in 0..ENTITIES {
            let views: Vec<Vec<f32>> = (0..1 + entity % 4).map(|_| random()).collect();
            global.push(unit((0..DIM).map(|at| views.iter().map(|view| view[at]).sum()).collect()));
            local.extend(views);
            starts.push(local.len());
        }
        let (mut gold, mut asked) = (Vec::new(), Vec::new());
        for entity in 0..ENTITIES {
            for view in &local[starts[entity]..starts[entity + 1]] {
                gold.push(entity as u32);
                asked.push(unit(view.iter().zip(random()).map(|(a, b)| a + 0.2 * b).collect()));
            }
        }
        let empty = |count: usize| vec![Vec::new(); count];
        let (words, ..) = Words::new(&Entities::default(), &Mentions::default());
        let single = ViewSet { vectors: matrix(&global), starts: (0..=ENTITIES).collect(), words: empty(ENTITIES) };
        let of_local = ViewSet { vectors: matrix(&local), words: empty(local.len()), starts };
        let both = single.before(&of_local, &|entity| entity % 4 == 0);
        Encoded { mentions: matrix(&asked), gold, sets: [single, of_local, both], words }
    }

    #[test]
    fn views_find_what_their_mean_does_not_and_the_budget_is_kept() {
        let (dir, encoded) = (tempfile::tempdir().unwrap(), made());
        let searched = Searched { code_bytes: 12, opq: false, candidates: 20, k: 10, seed: 1 };
        let [single, local, both] =
            VARIANTS.map(|variant| measure(dir.path(), &encoded, variant, None, searched, &Silent).unwrap());
        let locals = (0..ENTITIES).map(|entity| 1 + entity as u64 % 4).sum::<u64>();
        // Of an entity with one view the global one is left out.
        let globals = (0..ENTITIES).filter(|entity| entity % 4 > 0).count() as u64;
        assert_eq!([single.rows, local.rows, both.rows], [ENTITIES as u64, locals, locals + globals]);
        for measured in [&single, &local, &both] {
            let (equal, by_views) = (&measured.equal, &measured.by_views);
            let budget = (20.0 * measured.rows as f64 / ENTITIES as f64).round();
            assert_eq!((equal.vectors_read, by_views.vectors_read), (20.0, budget));
            assert!(equal.found <= 10.0 && equal.recall_at_1 <= equal.recall_at_k, "{equal:?}");
        }
        assert!(local.equal.recall_at_1 > 0.95 && single.equal.recall_at_1 < 0.8, "{local:?} {single:?}");
        assert_eq!([single.equal.global_where_right, local.equal.global_where_wrong], [0.0; 2]);
        assert!(both.equal.global_where_right < 0.1, "{both:?}");
        // What an index finds that leaves little out, and exact scores without and with global views.
        let [without, with, alone] = moved(&encoded, None, &[f32::NEG_INFINITY, 0.0, 10.0], 10)[..] else { panic!() };
        assert!((without.recall_at_1 - local.by_views.recall_at_1).abs() < 0.02, "{without:?} {local:?}");
        assert!((with.recall_at_1 - both.by_views.recall_at_1).abs() < 0.02, "{with:?} {both:?}");
        // Global views far above all others: those of entities that have none are found no more.
        assert!(alone.recall_at_1 < with.recall_at_1, "{alone:?}");
    }
}
