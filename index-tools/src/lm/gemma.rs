//! The forward pass of a Gemma-3 language model, and the log-likelihood of completions by it.
//!
//! ```text
//! x = embedding * sqrt(width)
//! each layer:  x += norm(attention(norm(x)));   x += norm(down(gelu(gate h) * up h)), h = norm(x)
//! logits = embedding . norm(x)
//! ```
//! Heads of queries and keys are normalised and turned by their position. One layer in six looks at everything before a token, with a
//! slower turn; the others at the last `sliding_window` tokens. Keys and values of a prompt are kept: the completions of a
//! request branch off it, and the next request goes on from where it differs.
//!
//! A product with few rows is made of inner products: a general one would first copy the matrix, and the table of tokens alone is two
//! thirds of a small model.

use bigrain::error::{Error, Result};
use bigrain::linalg::{norm2, product_nn, product_nt};
use bigrain::simd::Kernels;
use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::gguf::Gguf;
use super::tokens::Vocabulary;

/// Of how many layers one looks at all tokens.
const GLOBAL_EVERY: usize = 6;
/// Base of the turns of the other layers; that of the global ones is in the file.
const LOCAL_BASE: f64 = 10_000.0;
/// The model of so many layers (27B) scales its scores by the width over the heads, the others by the width of a head.
const LAYERS_OF_LARGEST: usize = 62;
/// The most completions of a request, and tokens of all of them.
const MOST_COMPLETIONS: usize = 256;
const MOST_TOKENS: usize = 8_192;
/// Rows whose logits are in memory at a time: a row of a large vocabulary is a megabyte.
const LOGIT_ROWS: usize = 32;
/// Products of up to so many rows are made of inner products.
const FEW_ROWS: usize = 8;
/// Rows of a matrix that stay in the cache while all rows of a few meet them.
const CACHED_ROWS: usize = 64;

/// What a completion got.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Natural logarithm of its probability after the prompt.
    pub loglik: f64,
    /// Tokens it consists of.
    pub tokens: usize,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    query: Array2<f32>,
    key: Array2<f32>,
    value: Array2<f32>,
    query_norm: Vec<f32>,
    key_norm: Vec<f32>,
    output: Array2<f32>,
    after_attention_norm: Vec<f32>,
    feed_norm: Vec<f32>,
    gate: Array2<f32>,
    up: Array2<f32>,
    down: Array2<f32>,
    after_feed_norm: Vec<f32>,
}

/// Keys and values of the tokens of a prompt, a pair of matrices (tokens x width) a layer.
#[derive(Debug, Default)]
struct Memory {
    tokens: Vec<u32>,
    layers: Vec<(Array2<f32>, Array2<f32>)>,
}

/// A model, ready to score.
#[derive(Debug)]
pub struct Gemma {
    vocabulary: Vocabulary,
    embedding: Array2<f32>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    epsilon: f32,
    /// Heads of queries, heads of keys, width of a head.
    heads: (usize, usize, usize),
    window: usize,
    global_base: f64,
    /// Positions are divided by it in the global layers.
    global_stretch: f64,
    /// What scores of attention are multiplied by.
    score_scale: f32,
    context: usize,
    memory: Memory,
}

/// The rows of one pass: their tokens, positions, and which rows of the pass each may look at besides what is kept.
struct Rows {
    tokens: Vec<u32>,
    positions: Vec<usize>,
    /// The first row of the branch that the row belongs to.
    branch: Vec<usize>,
    /// Rows of the pass that continue the prompt; all branches see them.
    trunk: usize,
}

impl Gemma {
    /// Unpacks the model in a file.
    ///
    /// # Errors
    /// `InvalidInput`, `Mismatch` and `Unsupported` where the file is not a whole model of this family.
    pub fn read(file: &Gguf) -> Result<Gemma> {
        let family = file.text("general.architecture")?;
        if family != "gemma3" {
            let what = format!("{}: a model of the family {family:?}", file.path().display());
            return Err(Error::Unsupported { what, remedy: "give one of the family gemma3".into() });
        }
        let size = |name: &str| file.size(&format!("gemma3.{name}"));
        let vocabulary = Vocabulary::read(file)?;
        let width = size("embedding_length")?;
        let heads = (size("attention.head_count")?, size("attention.head_count_kv")?, size("attention.key_length")?);
        if heads.0 % heads.1 != 0 || heads.2 % 2 != 0 {
            return Err(Error::input(file.path(), "heads", format!("{heads:?} do not divide; fetch the file again")));
        }
        let (feed, count) = (size("feed_forward_length")?, size("block_count")?);
        let layers = (0..count).map(|i| Layer::read(file, i, width, heads, feed)).collect::<Result<_>>()?;
        let scaled_by = if count == LAYERS_OF_LARGEST { width / heads.0 } else { heads.2 };
        Ok(Gemma {
            embedding: file.weights("token_embd.weight", (vocabulary.len(), width))?,
            vocabulary,
            layers,
            norm: vector(file, "output_norm.weight", width)?,
            epsilon: file.number("gemma3.attention.layer_norm_rms_epsilon")? as f32,
            heads,
            window: size("attention.sliding_window")?,
            global_base: file.number("gemma3.rope.freq_base")?,
            global_stretch: stretch(file)?,
            score_scale: 1.0 / (scaled_by as f32).sqrt(),
            context: size("context_length")?,
            memory: Memory::default(),
        })
    }

    /// The pieces of the model.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The log-likelihood of each completion after `prompt`. A prompt of more than `most` tokens loses its beginning.
    ///
    /// # Errors
    /// `InvalidParams` where a completion has no token, or there are too many or too long ones.
    pub fn score(&mut self, prompt: &str, completions: &[&str], most: usize) -> Result<Vec<Scored>> {
        if completions.len() > MOST_COMPLETIONS {
            let reason = format!("{} of them; send at most {MOST_COMPLETIONS} a request", completions.len());
            return Err(Error::params("completions", reason));
        }
        let mut tokens = self.vocabulary.tokens(prompt);
        tokens.drain(..tokens.len().saturating_sub(most));
        tokens.insert(0, self.vocabulary.begin());
        let completions: Vec<Vec<u32>> = completions.iter().map(|text| self.vocabulary.tokens(text)).collect();
        if let Some(empty) = completions.iter().position(Vec::is_empty) {
            return Err(Error::params("completions", format!("completion {empty} is empty; give at least a letter")));
        }
        let all: usize = completions.iter().map(Vec::len).sum();
        if all > MOST_TOKENS {
            let reason = format!("they have {all} tokens; send at most {MOST_TOKENS} a request");
            return Err(Error::params("completions", reason));
        }
        let longest = completions.iter().map(Vec::len).max().unwrap_or(0);
        if tokens.len() + longest > self.context {
            let reason =
                format!("{} tokens and a completion of {longest} exceed the model's {}", tokens.len(), self.context);
            return Err(Error::params("prompt", format!("{reason}; cut the prompt")));
        }
        Ok(self.score_tokens(&tokens, &completions))
    }

    fn score_tokens(&mut self, prompt: &[u32], completions: &[Vec<u32>]) -> Vec<Scored> {
        let shared = prompt.iter().zip(&self.memory.tokens).take_while(|(a, b)| a == b).count();
        // The last token of the prompt runs again: what follows it is asked for.
        let kept = shared.min(prompt.len() - 1);
        let rows = Rows::new(prompt, kept, completions);
        let output = self.pass(&rows, kept);
        self.memory.tokens.clear();
        self.memory.tokens.extend_from_slice(prompt);
        let (first, wanted) = rows.wanted(completions);
        let asked: Vec<usize> = std::iter::once(rows.trunk - 1).chain(first.iter().copied()).collect();
        let mut logs = self.logs(output.select(Axis(0), &asked).view(), &wanted).into_iter();
        let mut scored: Vec<Scored> = Vec::with_capacity(completions.len());
        for completion in completions {
            scored.push(Scored { loglik: logs.next().unwrap_or(0.0), tokens: completion.len() });
        }
        for (scored, completion) in scored.iter_mut().zip(completions) {
            scored.loglik += logs.by_ref().take(completion.len() - 1).sum::<f64>();
        }
        scored
    }

    /// Logarithms of probabilities: `wanted` names, for each row of `output` in turn, the tokens asked for.
    fn logs(&self, output: ArrayView2<'_, f32>, wanted: &[Vec<u32>]) -> Vec<f64> {
        let normal = self.normed(output.to_owned(), &self.norm);
        let of_row = |(row, wanted): (ndarray::ArrayView1<'_, f32>, &Vec<u32>)| {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&v| f64::from(v - largest).exp()).sum();
            let total = f64::from(largest) + sum.ln();
            wanted.iter().map(|&token| f64::from(row[token as usize]) - total).collect::<Vec<f64>>()
        };
        let mut out = Vec::new();
        for (rows, wanted) in normal.axis_chunks_iter(Axis(0), LOGIT_ROWS).zip(wanted.chunks(LOGIT_ROWS)) {
            let logits = product(rows, &self.embedding);
            out.extend(logits.rows().into_iter().zip(wanted).flat_map(of_row));
        }
        out
    }

    /// Runs the rows through all layers, after the first `kept` tokens of memory, which the trunk then extends.
    fn pass(&mut self, rows: &Rows, kept: usize) -> Array2<f32> {
        let width = self.embedding.ncols();
        let scale = (width as f32).sqrt();
        let mut x = Array2::zeros((rows.tokens.len(), width));
        for (mut row, &token) in x.rows_mut().into_iter().zip(&rows.tokens) {
            row.zip_mut_with(&self.embedding.row(token as usize), |x, e| *x = e * scale);
        }
        let mut memory = std::mem::take(&mut self.memory.layers);
        memory.resize_with(self.layers.len(), || {
            (Array2::zeros((0, self.kv_width())), Array2::zeros((0, self.kv_width())))
        });
        for (number, (layer, memory)) in self.layers.iter().zip(&mut memory).enumerate() {
            let attended = self.attention(layer, (number + 1) % GLOBAL_EVERY == 0, x.view(), rows, kept, memory);
            x += &self.normed(attended, &layer.after_attention_norm);
            let h = self.normed(x.clone(), &layer.feed_norm);
            let mut gate = product(h.view(), &layer.gate);
            gate.zip_mut_with(&product(h.view(), &layer.up), |g, up| *g = gelu(*g) * up);
            x += &self.normed(product(gate.view(), &layer.down), &layer.after_feed_norm);
        }
        self.memory.layers = memory;
        x
    }

    fn kv_width(&self) -> usize {
        self.heads.1 * self.heads.2
    }

    fn normed(&self, mut x: Array2<f32>, weight: &[f32]) -> Array2<f32> {
        x.rows_mut()
            .into_iter()
            .for_each(|mut row| norm_row(row.as_slice_mut().expect("C order"), weight, self.epsilon));
        x
    }

    fn attention(
        &self,
        layer: &Layer,
        global: bool,
        x: ArrayView2<'_, f32>,
        rows: &Rows,
        kept: usize,
        memory: &mut (Array2<f32>, Array2<f32>),
    ) -> Array2<f32> {
        let (query_heads, key_heads, dim) = self.heads;
        let (base, stretch) = if global { (self.global_base, self.global_stretch) } else { (LOCAL_BASE, 1.0) };
        let turn = |x: &mut Array2<f32>, norm: &[f32]| self.norm_and_turn(x, norm, &rows.positions, base, stretch);
        let h = self.normed(x.to_owned(), &layer.attention_norm);
        let mut queries = product(h.view(), &layer.query);
        let mut keys = product(h.view(), &layer.key);
        let values = product(h.view(), &layer.value);
        turn(&mut queries, &layer.query_norm);
        turn(&mut keys, &layer.key_norm);
        let join = |old: &Array2<f32>, new: &Array2<f32>| {
            ndarray::concatenate(Axis(0), &[old.slice(s![..kept, ..]), new.view()]).expect("equal widths")
        };
        let (keys, values) = (join(&memory.0, &keys), join(&memory.1, &values));
        let window = if global { usize::MAX } else { self.window };
        let mut out = Array2::zeros((x.nrows(), query_heads * dim));
        for head in 0..query_heads {
            let from = head / (query_heads / key_heads) * dim;
            let (own_keys, own_values) = (columns(&keys, from, dim), columns(&values, from, dim));
            let mut scores = product(columns(&queries, head * dim, dim).view(), &own_keys);
            for (row, mut scores) in scores.rows_mut().into_iter().enumerate() {
                rows.softmax(row, kept, window, self.score_scale, scores.as_slice_mut().expect("C order"));
            }
            let mut mixed = Array2::zeros((x.nrows(), dim));
            product_nn(scores.view(), own_values.view(), mixed.view_mut());
            out.slice_mut(s![.., head * dim..(head + 1) * dim]).assign(&mixed);
        }
        let length = kept + rows.trunk;
        *memory = (keys.slice(s![..length, ..]).to_owned(), values.slice(s![..length, ..]).to_owned());
        product(out.view(), &layer.output)
    }

    /// Normalises every head of every row, and turns it by the position of its row: value i and value i + dim/2 are a
    /// point in a plane, turned by `position / stretch / base^(2i / dim)`.
    fn norm_and_turn(&self, x: &mut Array2<f32>, weight: &[f32], positions: &[usize], base: f64, stretch: f64) {
        let dim = self.heads.2;
        let half = dim / 2;
        let rates: Vec<f64> = (0..half).map(|i| base.powf(-2.0 * i as f64 / dim as f64) / stretch).collect();
        for (mut row, &position) in x.rows_mut().into_iter().zip(positions) {
            let turns: Vec<(f32, f32)> = rates
                .iter()
                .map(|rate| {
                    let (sin, cos) = (position as f64 * rate).sin_cos();
                    (sin as f32, cos as f32)
                })
                .collect();
            for head in row.as_slice_mut().expect("C order").chunks_exact_mut(dim) {
                norm_row(head, weight, self.epsilon);
                let (first, second) = head.split_at_mut(half);
                for ((a, b), (sin, cos)) in first.iter_mut().zip(second).zip(&turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

impl Rows {
    /// The prompt from token `kept` on, then the completions but for their last tokens.
    fn new(prompt: &[u32], kept: usize, completions: &[Vec<u32>]) -> Rows {
        let mut tokens = prompt[kept..].to_vec();
        let trunk = tokens.len();
        let mut positions: Vec<usize> = (kept..prompt.len()).collect();
        let mut branch = vec![0; trunk];
        for completion in completions {
            let before = &completion[..completion.len() - 1];
            branch.extend(std::iter::repeat_n(tokens.len(), before.len()));
            tokens.extend_from_slice(before);
            positions.extend(prompt.len()..prompt.len() + before.len());
        }
        Rows { tokens, positions, branch, trunk }
    }

    /// Rows after the trunk, and the tokens that are asked for after the trunk and after each of them.
    fn wanted(&self, completions: &[Vec<u32>]) -> (Vec<usize>, Vec<Vec<u32>>) {
        let mut wanted = vec![completions.iter().map(|c| c[0]).collect()];
        wanted.extend(completions.iter().flat_map(|c| c[1..].iter().map(|&token| vec![token])));
        ((self.trunk..self.tokens.len()).collect(), wanted)
    }

    /// Row `row` of scores (kept tokens, then the rows of the pass) becomes weights of what the row may look at.
    fn softmax(&self, row: usize, kept: usize, window: usize, scale: f32, scores: &mut [f32]) {
        let position = self.positions[row];
        let sees = |at: usize| {
            let (other, own) = match at.checked_sub(kept) {
                None => (at, true),
                Some(at) => (self.positions[at], at < self.trunk || (at >= self.branch[row] && row >= self.trunk)),
            };
            own && at <= kept + row && other <= position && position - other < window
        };
        let mut largest = f32::NEG_INFINITY;
        for (at, score) in scores.iter_mut().enumerate() {
            *score = if sees(at) { *score * scale } else { f32::NEG_INFINITY };
            largest = largest.max(*score);
        }
        let mut sum = 0.0;
        for score in scores.iter_mut() {
            *score = (*score - largest).exp();
            sum += *score;
        }
        scores.iter_mut().for_each(|score| *score /= sum);
    }
}

impl Layer {
    fn read(file: &Gguf, number: usize, width: usize, heads: (usize, usize, usize), feed: usize) -> Result<Layer> {
        let (queries, keys) = (heads.0 * heads.2, heads.1 * heads.2);
        let name = |part: &str| format!("blk.{number}.{part}.weight");
        let matrix = |part: &str, rows, columns| file.weights(&name(part), (rows, columns));
        let norm = |part: &str, length| vector(file, &name(part), length);
        Ok(Layer {
            attention_norm: norm("attn_norm", width)?,
            query: matrix("attn_q", queries, width)?,
            key: matrix("attn_k", keys, width)?,
            value: matrix("attn_v", keys, width)?,
            query_norm: norm("attn_q_norm", heads.2)?,
            key_norm: norm("attn_k_norm", heads.2)?,
            output: matrix("attn_output", width, queries)?,
            after_attention_norm: norm("post_attention_norm", width)?,
            feed_norm: norm("ffn_norm", width)?,
            gate: matrix("ffn_gate", feed, width)?,
            up: matrix("ffn_up", feed, width)?,
            down: matrix("ffn_down", width, feed)?,
            after_feed_norm: norm("post_ffw_norm", width)?,
        })
    }
}

fn vector(file: &Gguf, name: &str, length: usize) -> Result<Vec<f32>> {
    Ok(file.weights(name, (1, length))?.into_raw_vec_and_offset().0)
}

/// The factor by which a file stretches the positions of its global layers; 1 where it says nothing of it.
fn stretch(file: &Gguf) -> Result<f64> {
    if !file.has("gemma3.rope.scaling.factor") {
        return Ok(1.0);
    }
    let (kind, factor) = (file.text("gemma3.rope.scaling.type")?, file.number("gemma3.rope.scaling.factor")?);
    if kind == "none" {
        return Ok(1.0);
    }
    if kind != "linear" || !(1.0..=1024.0).contains(&factor) {
        let what = format!("{}: positions scaled as {kind:?} by {factor}", file.path().display());
        return Err(Error::Unsupported { what, remedy: "give a model that scales them linearly, by 1 or more".into() });
    }
    Ok(factor)
}

/// `x w'`, in parallel over blocks of outputs, whose sums do not depend on the threads.
fn product(x: ArrayView2<'_, f32>, w: &Array2<f32>) -> Array2<f32> {
    const BLOCK: usize = 4_096;
    if w.nrows() <= BLOCK {
        return serial_product(x, w.view());
    }
    let blocks: Vec<Array2<f32>> =
        w.axis_chunks_iter(Axis(0), BLOCK).into_par_iter().map(|w| serial_product(x, w)).collect();
    let mut out = Array2::zeros((x.nrows(), w.nrows()));
    for (at, block) in blocks.iter().enumerate() {
        out.slice_mut(s![.., at * BLOCK..at * BLOCK + block.ncols()]).assign(block);
    }
    out
}

fn serial_product(x: ArrayView2<'_, f32>, w: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut out = Array2::zeros((x.nrows(), w.nrows()));
    if x.nrows() > FEW_ROWS {
        product_nt(x, w, out.view_mut());
        return out;
    }
    let kernels = Kernels::detect();
    for (at, w) in w.axis_chunks_iter(Axis(0), CACHED_ROWS).enumerate() {
        let to = at * CACHED_ROWS..at * CACHED_ROWS + w.nrows();
        for (x, mut out) in x.rows().into_iter().zip(out.rows_mut()) {
            let out = &mut out.as_slice_mut().expect("C order")[to.clone()];
            (kernels.dot_rows_f32)(x.to_slice().expect("C order"), w.to_slice().expect("C order"), out);
        }
    }
    out
}

fn columns(x: &Array2<f32>, from: usize, count: usize) -> Array2<f32> {
    x.slice(s![.., from..from + count]).as_standard_layout().to_owned()
}

/// `x` becomes `x / rms(x) * weight`.
fn norm_row(x: &mut [f32], weight: &[f32], epsilon: f32) {
    let square = norm2(x) / x.len() as f32;
    let scale = 1.0 / (square + epsilon).sqrt();
    x.iter_mut().zip(weight).for_each(|(x, w)| *x *= scale * w);
}

/// The Gaussian error linear unit by its usual hyperbolic tangent: `x / 2 (1 + tanh(u)) = x / (1 + exp(-2 u))`.
fn gelu(x: f32) -> f32 {
    x / (1.0 + (-1.595_769 * (x + 0.044_715 * x * x * x)).exp())
}

#[cfg(test)]
mod tests;
