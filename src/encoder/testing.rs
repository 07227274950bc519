//! Small made models for tests.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::files;
use crate::sample::Rng;

pub(super) const WORDS: [&str; 9] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "shoe", "blue", "##s", "."];
pub(super) const H: usize = 12;
pub(super) const HEADS: usize = 3;
pub(super) const WIDE: usize = 20;
pub(super) const LAYERS: usize = 2;
pub(super) const POSITIONS: usize = 16;

/// Tensors by name, with their shapes.
pub(super) type Tensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

pub(super) fn write_tensors(dir: &Path, tensors: &Tensors) {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, v))| (name.clone(), shape.clone(), v.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the shape fits"))
    });
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(dir.join(files::WEIGHTS), file).unwrap();
}

pub(super) fn write_json(dir: &Path, name: &str, value: &serde_json::Value) {
    std::fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
    std::fs::write(dir.join(name), value.to_string()).unwrap();
}

pub(super) fn write_tokenizer(dir: &Path, words: &[&str]) {
    let vocabulary: HashMap<&str, usize> = words.iter().enumerate().map(|(i, w)| (*w, i)).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": {"strategy": {"Fixed": 8}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [], "post_processor": null, "decoder": null,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary},
    });
    write_json(dir, files::TOKENIZER, &tokenizer);
}

pub(super) fn bert_tensors() -> Tensors {
    let mut rng = Rng::new(3);
    let mut tensors = Tensors::new();
    let mut add = |name: String, shape: &[usize]| {
        let v = (0..shape.iter().product()).map(|_| rng.normal() * 0.3).collect();
        tensors.insert(name, (shape.to_vec(), v));
    };
    for (name, rows) in [("word", WORDS.len()), ("position", POSITIONS), ("token_type", 2)] {
        add(format!("embeddings.{name}_embeddings.weight"), &[rows, H]);
    }
    let mut linear = |name: String, shape: &[usize]| {
        add(format!("{name}.weight"), shape);
        add(format!("{name}.bias"), &shape[..1]);
    };
    linear("embeddings.LayerNorm".into(), &[H]);
    for layer in 0..LAYERS {
        for part in ["self.query", "self.key", "self.value", "output.dense"] {
            linear(format!("encoder.layer.{layer}.attention.{part}"), &[H, H]);
        }
        linear(format!("encoder.layer.{layer}.attention.output.LayerNorm"), &[H]);
        linear(format!("encoder.layer.{layer}.intermediate.dense"), &[WIDE, H]);
        linear(format!("encoder.layer.{layer}.output.dense"), &[H, WIDE]);
        linear(format!("encoder.layer.{layer}.output.LayerNorm"), &[H]);
    }
    tensors
}

pub(super) fn bert_config() -> serde_json::Value {
    json!({"model_type": "bert", "hidden_size": H, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": WIDE, "max_position_embeddings": POSITIONS, "hidden_act": "gelu", "layer_norm_eps": 1e-12})
}

pub(super) fn write_bert(dir: &Path) {
    write_tensors(dir, &bert_tensors());
    write_tokenizer(dir, &WORDS);
    write_json(dir, "config.json", &bert_config());
}

pub(super) fn write_table(dir: &Path, scaled: bool) -> Tensors {
    let mut rng = Rng::new(5);
    let mut random = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f32>>();
    let mut tensors = Tensors::from([("embedding.weight".into(), (vec![WORDS.len(), 4], random(WORDS.len() * 4)))]);
    if scaled {
        tensors.insert("token.weight".into(), (vec![WORDS.len()], random(WORDS.len())));
        tensors.insert("projection.weight".into(), (vec![6, 4], random(24)));
    }
    write_tensors(dir, &tensors);
    write_tokenizer(dir, &WORDS);
    tensors
}

/// A static encoder of 6 dimensions that knows a few words.
pub(crate) fn write_static(dir: &Path) {
    write_table(dir, true);
}
