//! Learned routing: what it learns from.

use ndarray::Axis;
use std::collections::HashMap;
use std::time::Instant;

use super::{LearnReport, LearnSpec, Loaded, StageReport, seconds};
use crate::error::Result;
use crate::quantizer::Quantizer;
use crate::train::{Example, Routes, Watch, nearest, shares, train_router};
use crate::types::ListId;

/// Trains routing over the finished lists, if the spec asks for it and there are several.
pub(super) fn route(
    spec: &LearnSpec,
    loaded: &Loaded,
    quantizer: Quantizer,
    report: &mut LearnReport,
    watch: &dyn Watch,
) -> Result<Quantizer> {
    let Some(settings) = spec.routing.as_ref().filter(|_| quantizer.coarse().lists() > 1) else { return Ok(quantizer) };
    let began = Instant::now();
    let lists = quantizer.coarse().assign_rows(quantizer.map_documents(&loaded.examples.documents).view());
    let [train, valid] = routes(spec, loaded, &lists, watch)?;
    let mapped = |queries: &[u32]| {
        let rows: Vec<usize> = queries.iter().map(|&q| q as usize).collect();
        let plain = loaded.examples.queries.select(Axis(0), &rows);
        match &quantizer.heads().code_query {
            Some(head) => head.apply_rows(plain.view()),
            None => plain,
        }
    };
    let (train_queries, valid_queries) = (mapped(&train.0), mapped(&valid.0));
    let matrix = train_router(
        quantizer.coarse().centroids(),
        Routes { queries: train_queries.view(), lists: &train.1 },
        Routes { queries: valid_queries.view(), lists: &valid.1 },
        settings,
        watch,
    )?;
    report.stages.push(StageReport { stage: "routing", seconds: seconds(began), gflops: 0.0, epochs: Vec::new() });
    quantizer.with_router(matrix)
}

/// Queries, and the shares of the lists in each one's right answers.
type QueryRoutes = (Vec<u32>, Vec<Vec<(ListId, f32)>>);

/// Routes of training and of validation: labelled documents and exact nearest ones, half the weight each where there are both.
fn routes(spec: &LearnSpec, loaded: &Loaded, lists: &[ListId], watch: &dyn Watch) -> Result<[QueryRoutes; 2]> {
    let examples = &loaded.examples;
    let labelled = |pairs: &[Example]| {
        let mut labelled: HashMap<u32, Vec<ListId>> = HashMap::new();
        pairs.iter().for_each(|p| labelled.entry(p.query).or_default().push(lists[p.document as usize]));
        labelled
    };
    let (mut train, mut valid) = (labelled(&examples.train), labelled(&examples.valid));
    if train.is_empty() {
        for query in 0..examples.queries.nrows() as u32 {
            let part = if query % 20 == 19 { &mut valid } else { &mut train };
            part.insert(query, Vec::new());
        }
    }
    let mut made = Vec::new();
    for part in [train, valid] {
        let mut queries: Vec<u32> = part.keys().copied().collect();
        queries.sort_unstable();
        let rows: Vec<usize> = queries.iter().map(|&q| q as usize).collect();
        let near = match spec.routing_neighbours {
            0 => vec![Vec::new(); rows.len()],
            k => nearest(examples.queries.select(Axis(0), &rows).view(), examples.documents.view(), k, watch)?,
        };
        let of_query = |(query, near): (&u32, &Vec<u32>)| {
            let near = shares(near.iter().map(|&document| lists[document as usize]));
            let own = shares(part[query].iter().copied());
            let half = if near.is_empty() || own.is_empty() { 1.0 } else { 0.5 };
            near.into_iter().chain(own).map(|(list, share)| (list, share * half)).collect()
        };
        let routes = queries.iter().zip(&near).map(of_query).collect();
        made.push((queries, routes));
    }
    let valid = made.pop().unwrap_or_default();
    Ok([made.pop().unwrap_or_default(), valid])
}
