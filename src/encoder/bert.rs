//! The forward pass of a BERT (post-norm transformer encoder, absolute positions).
//!
//! The tokens of a batch lie one after the other, without padding: T rows. A layer is
//! ```text
//! [q | k | v] = x Wqkv' + b                                  T x 3h, one product
//! a = softmax(q k' / sqrt(h / heads)) v                       sequence by sequence, head by head
//! x = norm(x + a Wo' + b);  x = norm(x + act(x Wi' + b) Wd' + b)
//! ```
//! Then the rows of a sequence are averaged, or its first is taken. Each batch runs on one thread: batches are what is parallel.

use ndarray::{Array2, ArrayView2, Axis, concatenate, s};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::files::{Folder, Weights};
use super::math;
use crate::error::{Error, Result};
use crate::linalg::{product_nn, product_nt};

/// A BERT's weights.
#[derive(Debug)]
pub(super) struct Bert {
    /// Tokens x h.
    words: Array2<f32>,
    /// Positions x h, with the vector of the first token type added.
    positions: Array2<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
    activation: Activation,
    pooling: Pooling,
    max_tokens: usize,
}

#[derive(Debug)]
struct Layer {
    query_key_value: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// `y = x W' + b`, W: out x in.
#[derive(Debug)]
struct Linear {
    weight: Array2<f32>,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pooling {
    Mean,
    First,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Activation {
    Gelu,
    GeluTanh,
    Relu,
}

impl Activation {
    fn apply(self, x: &mut [f32]) {
        match self {
            Activation::Gelu => math::gelu(x),
            Activation::GeluTanh => math::gelu_tanh(x),
            Activation::Relu => math::relu(x),
        }
    }
}

#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "epsilon")]
    layer_norm_eps: f32,
    position_embedding_type: Option<String>,
}

fn gelu() -> String {
    "gelu".into()
}

fn epsilon() -> f32 {
    1e-12
}

#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Bert {
    pub(super) fn read(folder: &Folder) -> Result<Bert> {
        let path = folder.path("config.json");
        let config: Config =
            folder.json("config.json")?.ok_or_else(|| Error::input(&path, "the file", "it is missing"))?;
        let h = config.hidden_size;
        if h == 0 || config.num_attention_heads == 0 || !h.is_multiple_of(config.num_attention_heads) {
            let heads = config.num_attention_heads;
            return Err(Error::input(&path, "hidden_size", format!("{h} cannot be shared by {heads} heads")));
        }
        if let Some(kind) = config.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(unsupported(folder, format!("position_embedding_type {kind:?}"), "absolute positions"));
        }
        let activation = match config.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => return Err(unsupported(folder, format!("hidden_act {other:?}"), "gelu, gelu_new or relu")),
        };
        let weights = folder.weights()?;
        let prefix = if weights.has("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        let reader = Reader { weights: &weights, prefix, epsilon: config.layer_norm_eps };
        let words = reader.table("embeddings.word_embeddings.weight", h)?;
        let positions = reader.matrix("embeddings.position_embeddings.weight", (config.max_position_embeddings, h))?;
        let types = reader.table("embeddings.token_type_embeddings.weight", h)?;
        let layers = (0..config.num_hidden_layers).map(|i| reader.layer(i, h, config.intermediate_size));
        let (pooling, limit) = sentence_settings(folder)?;
        Ok(Bert {
            positions: positions + types.row(0),
            norm: reader.norm("embeddings.LayerNorm", h)?,
            layers: layers.collect::<Result<_>>()?,
            heads: config.num_attention_heads,
            activation,
            pooling,
            max_tokens: limit.unwrap_or(usize::MAX).min(config.max_position_embeddings),
            words,
        })
    }

    pub(super) fn dim(&self) -> usize {
        self.words.ncols()
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.words.nrows()
    }

    pub(super) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// What its vectors depend on beside weights and tokens.
    pub(super) fn settings(&self) -> String {
        let (layers, epsilon) = (self.layers.len(), self.norm.epsilon);
        format!(
            "bert, {layers} layers, {} heads, {:?}, epsilon {epsilon:e}, {:?}",
            self.heads, self.activation, self.pooling
        )
    }

    /// The vectors of sequences of tokens, a row each, before they are scaled.
    pub(super) fn forward(&self, sequences: &[&[u32]]) -> Array2<f32> {
        let mut x = self.embed(sequences);
        for layer in &self.layers {
            let mixed = self.attend(&layer.query_key_value.apply(x.view()), sequences);
            x += &layer.output.apply(mixed.view());
            layer.attention_norm.apply(&mut x);
            let mut wide = layer.up.apply(x.view());
            self.activation.apply(wide.as_slice_mut().expect("C order"));
            x += &layer.down.apply(wide.view());
            layer.norm.apply(&mut x);
        }
        self.pool(&x, sequences)
    }

    fn embed(&self, sequences: &[&[u32]]) -> Array2<f32> {
        let tokens = sequences.iter().map(|sequence| sequence.len()).sum();
        let mut x = Array2::zeros((tokens, self.dim()));
        let placed = sequences.iter().flat_map(|sequence| sequence.iter().enumerate());
        for (mut row, (position, &token)) in x.rows_mut().into_iter().zip(placed) {
            row.assign(&self.words.row(token as usize));
            row += &self.positions.row(position);
        }
        self.norm.apply(&mut x);
        x
    }

    /// Attention of every sequence within itself: from T x 3h to T x h.
    fn attend(&self, query_key_value: &Array2<f32>, sequences: &[&[u32]]) -> Array2<f32> {
        let (h, width) = (self.dim(), self.dim() / self.heads);
        let scale = 1.0 / (width as f32).sqrt();
        let mut out = Array2::zeros((query_key_value.nrows(), h));
        let mut first = 0;
        for sequence in sequences {
            let rows = first..first + sequence.len();
            let mut scores = Array2::zeros((sequence.len(), sequence.len()));
            let mut mixed = Array2::zeros((sequence.len(), width));
            for head in 0..self.heads {
                let part = |of: usize| {
                    let columns = of * h + head * width..of * h + (head + 1) * width;
                    query_key_value.slice(s![rows.clone(), columns]).as_standard_layout().into_owned()
                };
                product_nt(part(0).view(), part(1).view(), scores.view_mut());
                for mut row in scores.rows_mut() {
                    math::softmax(row.as_slice_mut().expect("C order"), scale);
                }
                product_nn(scores.view(), part(2).view(), mixed.view_mut());
                out.slice_mut(s![rows.clone(), head * width..(head + 1) * width]).assign(&mixed);
            }
            first = rows.end;
        }
        out
    }

    fn pool(&self, x: &Array2<f32>, sequences: &[&[u32]]) -> Array2<f32> {
        let mut out = Array2::zeros((sequences.len(), self.dim()));
        let mut first = 0;
        for (mut row, sequence) in out.rows_mut().into_iter().zip(sequences) {
            match self.pooling {
                Pooling::First => row.assign(&x.row(first)),
                Pooling::Mean => {
                    let rows = x.slice(s![first..first + sequence.len(), ..]);
                    row.assign(&rows.mean_axis(Axis(0)).expect("a sequence is not empty"));
                }
            }
            first += sequence.len();
        }
        out
    }
}

impl Linear {
    fn apply(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut y = Array2::zeros((x.nrows(), self.weight.nrows()));
        product_nt(x, self.weight.view(), y.view_mut());
        for mut row in y.rows_mut() {
            row.iter_mut().zip(&self.bias).for_each(|(y, b)| *y += b);
        }
        y
    }
}

impl Norm {
    fn apply(&self, x: &mut Array2<f32>) {
        for mut row in x.rows_mut() {
            math::layer_norm(row.as_slice_mut().expect("C order"), &self.weight, &self.bias, self.epsilon);
        }
    }
}

/// Names of tensors to weights.
struct Reader<'a> {
    weights: &'a Weights<'a>,
    prefix: &'static str,
    epsilon: f32,
}

impl Reader<'_> {
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A matrix of any height.
    fn table(&self, name: &str, width: usize) -> Result<Array2<f32>> {
        let table = self.weights.matrix(&self.name(name))?;
        match table.ncols() == width {
            true => Ok(table),
            false => Err(Error::mismatch(format!("columns of tensor {name}"), width, table.ncols())),
        }
    }

    fn matrix(&self, name: &str, shape: (usize, usize)) -> Result<Array2<f32>> {
        self.weights.matrix_of(&self.name(name), shape)
    }

    fn linear(&self, name: &str, output: usize, input: usize) -> Result<Linear> {
        let weight = self.matrix(&format!("{name}.weight"), (output, input))?;
        Ok(Linear { weight, bias: self.weights.vector(&self.name(&format!("{name}.bias")), output)? })
    }

    fn norm(&self, name: &str, h: usize) -> Result<Norm> {
        let read = |part: &str| self.weights.vector(&self.name(&format!("{name}.{part}")), h);
        Ok(Norm { weight: read("weight")?, bias: read("bias")?, epsilon: self.epsilon })
    }

    fn layer(&self, number: usize, h: usize, wide: usize) -> Result<Layer> {
        let name = |part: &str| format!("encoder.layer.{number}.{part}");
        let parts = ["query", "key", "value"].map(|part| self.linear(&name(&format!("attention.self.{part}")), h, h));
        let [query, key, value] = parts;
        let (query, key, value) = (query?, key?, value?);
        let weights = [query.weight.view(), key.weight.view(), value.weight.view()];
        Ok(Layer {
            query_key_value: Linear {
                weight: concatenate(Axis(0), &weights).expect("equal widths"),
                bias: [query.bias, key.bias, value.bias].concat(),
            },
            output: self.linear(&name("attention.output.dense"), h, h)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"), h)?,
            up: self.linear(&name("intermediate.dense"), wide, h)?,
            down: self.linear(&name("output.dense"), h, wide)?,
            norm: self.norm(&name("output.LayerNorm"), h)?,
        })
    }
}

/// How the folder says that tokens become one vector, and how many it wants to see.
fn sentence_settings(folder: &Folder) -> Result<(Pooling, Option<usize>)> {
    let modules: Vec<Module> = folder.json("modules.json")?.unwrap_or_default();
    let mut pooling = "1_Pooling".to_string();
    for module in modules {
        match module.kind.rsplit('.').next() {
            Some("Pooling") => pooling = module.path,
            Some("Transformer" | "Normalize") => {}
            _ => {
                let what = format!("a module {} in modules.json", module.kind);
                return Err(unsupported(folder, what, "a transformer, pooling and normalisation only"));
            }
        }
    }
    let stated: Option<Map<String, Value>> = folder.json(&format!("{pooling}/config.json"))?;
    let modes = stated.iter().flatten().filter(|(name, on)| name.starts_with("pooling_mode") && **on != false);
    let pooling = match (&stated, &modes.map(|(name, _)| name.as_str()).collect::<Vec<_>>()[..]) {
        (None, _) | (_, ["pooling_mode_mean_tokens"]) => Pooling::Mean,
        (_, ["pooling_mode_cls_token"]) => Pooling::First,
        (_, modes) => {
            let modes = if modes.is_empty() { "no mode".into() } else { modes.join(" and ") };
            let what = format!("{modes} in {pooling}/config.json");
            return Err(unsupported(folder, what, "the mean of tokens or the first one, and nothing beside it"));
        }
    };
    let limit = folder.json::<SentenceConfig>("sentence_bert_config.json")?.and_then(|config| config.max_seq_length);
    Ok((pooling, limit))
}

fn unsupported(folder: &Folder, what: String, remedy: &str) -> Error {
    Error::Unsupported {
        what: format!("{what} of the encoder in {}", folder.path("").display()),
        remedy: format!("use a model with {remedy}"),
    }
}
