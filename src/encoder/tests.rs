//! Small made models against a plain double-precision forward pass; damaged and mismatched folders.

use std::path::Path;

use serde_json::json;

use super::testing::*;
use super::*;
use crate::sample::Rng;

/// The definition, a sequence at a time, in f64.
struct Plain(Tensors);

impl Plain {
    fn at(&self, name: &str, row: usize, width: usize) -> Vec<f64> {
        self.0[name].1[row * width..(row + 1) * width].iter().map(|&v| f64::from(v)).collect()
    }

    fn linear(&self, name: &str, x: &[f64], out: usize) -> Vec<f64> {
        let bias = self.at(&format!("{name}.bias"), 0, out);
        let row = |i| self.at(&format!("{name}.weight"), i, x.len());
        (0..out).map(|i| bias[i] + row(i).iter().zip(x).map(|(w, x)| w * x).sum::<f64>()).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let deviation = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n + 1e-12).sqrt();
        let (w, b) = (self.at(&format!("{name}.weight"), 0, x.len()), self.at(&format!("{name}.bias"), 0, x.len()));
        (0..x.len()).map(|i| (x[i] - mean) / deviation * w[i] + b[i]).collect()
    }

    fn layer(&self, layer: usize, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let project = |part: &str| -> Vec<Vec<f64>> {
            x.iter().map(|x| self.linear(&name(&format!("attention.self.{part}")), x, H)).collect()
        };
        let (q, k, v) = (project("query"), project("key"), project("value"));
        let width = H / HEADS;
        let mut out = Vec::new();
        for (i, x) in x.iter().enumerate() {
            let mut mixed = vec![0.0; H];
            for head in 0..HEADS {
                let span = head * width..(head + 1) * width;
                let dot = |j: usize| span.clone().map(|c| q[i][c] * k[j][c]).sum::<f64>() / (width as f64).sqrt();
                let weights: Vec<f64> = (0..q.len()).map(|j| dot(j).exp()).collect();
                let sum: f64 = weights.iter().sum();
                span.for_each(|c| mixed[c] = (0..v.len()).map(|j| weights[j] / sum * v[j][c]).sum());
            }
            let mixed = self.linear(&name("attention.output.dense"), &mixed, H);
            let x: Vec<f64> = x.iter().zip(mixed).map(|(a, b)| a + b).collect();
            let x = self.norm(&name("attention.output.LayerNorm"), &x);
            let mut wide = self.linear(&name("intermediate.dense"), &x, WIDE);
            wide.iter_mut().for_each(|v| *v *= 0.5 * (1.0 + erf(*v / 2f64.sqrt())));
            let down = self.linear(&name("output.dense"), &wide, H);
            let x: Vec<f64> = x.iter().zip(down).map(|(a, b)| a + b).collect();
            out.push(self.norm(&name("output.LayerNorm"), &x));
        }
        out
    }

    /// The states of the last layer.
    fn states(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let sum = |i: usize, token: u32| {
            let parts = [("word", token as usize), ("position", i), ("token_type", 0)];
            let rows = parts.map(|(of, row)| self.at(&format!("embeddings.{of}_embeddings.weight"), row, H));
            let sum: Vec<f64> = (0..H).map(|c| rows.iter().map(|row| row[c]).sum()).collect();
            self.norm("embeddings.LayerNorm", &sum)
        };
        let x = tokens.iter().enumerate().map(|(i, &t)| sum(i, t)).collect();
        (0..LAYERS).fold(x, |x, layer| self.layer(layer, &x))
    }
}

/// The integral by Simpson's rule.
fn erf(x: f64) -> f64 {
    let steps = 400;
    let at = |i: i32| (-(x * f64::from(i) / f64::from(steps)).powi(2)).exp();
    let weight = |i: i32| if i == 0 || i == steps { 1.0 } else { f64::from(2 + 2 * (i % 2)) };
    let sum: f64 = (0..=steps).map(|i| weight(i) * at(i)).sum();
    sum * x / f64::from(steps) / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
}

fn unit(mut x: Vec<f64>) -> Vec<f64> {
    let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt();
    x.iter_mut().for_each(|v| *v /= norm);
    x
}

fn near(found: &[f32], expected: &[f64]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| (f64::from(*f) - e).abs() < 2e-5)
}

const TEXTS: [&str; 5] = ["Red shoes", "blue", "red red red . blue shoe", "shoes .", "unheard words"];

#[test]
fn a_bert_is_its_definition() {
    let dir = tempfile::tempdir().unwrap();
    write_bert(dir.path());
    let encoder = Encoder::open(dir.path()).unwrap();
    let plain = Plain(bert_tensors());
    assert_eq!((encoder.dim(), encoder.kind(), encoder.max_tokens()), (H, "bert", POSITIONS));
    assert_eq!(encoder.tokens("Red shoes").unwrap(), [2, 4, 5, 7, 3]);
    let vectors = encoder.encode(&TEXTS).unwrap();
    for (text, row) in TEXTS.iter().zip(vectors.rows()) {
        let states = plain.states(&encoder.tokens(text).unwrap());
        let mean = (0..H).map(|c| states.iter().map(|s| s[c]).sum::<f64>()).collect();
        assert!(near(row.as_slice().unwrap(), &unit(mean)), "{text}");
        assert_eq!(encoder.encode_one(text).unwrap().len(), H);
    }
    write_json(dir.path(), "1_Pooling/config.json", &json!({"pooling_mode_cls_token": true}));
    let first = Encoder::open(dir.path()).unwrap().encode_one(TEXTS[0]).unwrap();
    let states = plain.states(&encoder.tokens(TEXTS[0]).unwrap());
    assert!(near(&first, &unit(states[0].clone())));
}

#[test]
fn long_texts_are_cut_to_the_model_s_tokens() {
    let dir = tempfile::tempdir().unwrap();
    write_bert(dir.path());
    let encoder = Encoder::open_with(dir.path(), EncoderOptions { max_tokens: Some(4) }).unwrap();
    assert_eq!(encoder.tokens("red blue red blue").unwrap(), [2, 4, 6, 3]);
    let whole = Encoder::open(dir.path()).unwrap();
    assert_eq!(whole.tokens(&"red ".repeat(10_000)).unwrap().len(), POSITIONS);
    write_json(dir.path(), "sentence_bert_config.json", &json!({"max_seq_length": 5}));
    assert_eq!(Encoder::open(dir.path()).unwrap().max_tokens(), 5);
    let wrong = Encoder::open_with(dir.path(), EncoderOptions { max_tokens: Some(6) }).unwrap_err();
    assert!(wrong.to_string().contains("3 to 5"), "{wrong}");
}

#[test]
fn a_static_encoder_sums_its_table() {
    let dir = tempfile::tempdir().unwrap();
    for scaled in [false, true] {
        let tensors = write_table(dir.path(), scaled);
        let encoder = Encoder::open(dir.path()).unwrap();
        let table = &tensors["embedding.weight"].1;
        let mut sum = vec![0f64; 4];
        for token in [4, 5, 7usize] {
            let weight = tensors.get("token.weight").map_or(1.0, |w| w.1[token]);
            (0..4).for_each(|c| sum[c] += f64::from(weight * table[token * 4 + c]));
        }
        if let Some((_, p)) = tensors.get("projection.weight") {
            sum = (0..6).map(|i| (0..4).map(|c| f64::from(p[i * 4 + c]) * sum[c]).sum()).collect();
        }
        assert_eq!((encoder.dim(), encoder.kind()), (sum.len(), "static"));
        assert!(near(&encoder.encode_one("red shoes").unwrap(), &unit(sum)));
    }
}

#[test]
fn unknown_tokens_are_left_out_where_the_model_wants_that() {
    let dir = tempfile::tempdir().unwrap();
    write_table(dir.path(), false);
    let plain = Encoder::open(dir.path()).unwrap();
    assert_eq!(plain.tokens("red unheard shoes").unwrap(), [4, 1, 5, 7]);
    write_json(dir.path(), "config.json", &json!({"model_type": "model2vec", "normalize": true}));
    let encoder = Encoder::open(dir.path()).unwrap();
    assert_eq!(encoder.tokens("red unheard shoes").unwrap(), [4, 5, 7]);
    assert_eq!(encoder.encode_one("unheard red").unwrap(), plain.encode_one("red").unwrap());
    let short = encoder.with_max_tokens(2).unwrap();
    assert_eq!(short.tokens("unheard red unheard blue red").unwrap(), [4, 6], "they take no place of others either");
    assert!(short.tokens("unheard unheard").unwrap_err().to_string().contains("no token"));
    assert!(short.with_max_tokens(0).unwrap_err().to_string().contains("1 to 512"));
}

#[test]
fn a_sum_of_nothing_is_no_vector() {
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = write_table(dir.path(), false);
    let blue = 6 * 4..7 * 4;
    tensors.get_mut("embedding.weight").unwrap().1[blue].fill(0.0);
    write_tensors(dir.path(), &tensors);
    let encoder = Encoder::open(dir.path()).unwrap();
    assert!(encoder.encode_one("blue").unwrap_err().to_string().contains("no direction"));
    let (vectors, bad) = encoder.encode_each(&["red", "blue", ""]);
    assert_eq!(bad.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [1, 2]);
    assert!(bad[0].1.contains("no direction") && vectors.row(1).iter().all(|v| v.is_nan()), "{bad:?}");
    assert_eq!(vectors.row(0).to_vec(), encoder.encode_one("red").unwrap());
    assert!(encoder.encode(&["red", "blue"]).unwrap_err().to_string().contains("text 1"));
}

#[test]
fn texts_that_cannot_be_encoded_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write_bert(dir.path());
    let encoder = Encoder::open(dir.path()).unwrap();
    let long = "a".repeat(MAX_TEXT + 1);
    for (text, expected) in [("", "empty"), (" \n", "empty"), (&*long, "1048577 bytes"), ("\u{200b}\u{1}", "no token")]
    {
        let error = encoder.encode(&["red", text]).unwrap_err().to_string();
        assert!(error.contains("text 1") && error.contains(expected), "{error}");
    }
    let (vectors, bad) = encoder.encode_each(&["", "red", " "]);
    assert_eq!(bad.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 2]);
    assert!(vectors.row(0).iter().all(|v| v.is_nan()) && vectors.row(2).iter().all(|v| v.is_nan()));
    assert_eq!(vectors.row(1).to_vec(), encoder.encode_one("red").unwrap());
    assert_eq!(encoder.encode::<&str>(&[]).unwrap().dim(), (0, H));
    assert!(encoder.encode_one(&"red ".repeat(MAX_TEXT / 4)).is_ok(), "a megabyte of words");
}

/// A configuration of pooling in which these modes are on.
fn write_pooling(dir: &Path, on: &[&str]) {
    let modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"];
    let mut config = serde_json::Map::from_iter([("word_embedding_dimension".to_string(), json!(H))]);
    config.extend(modes.map(|mode| (format!("pooling_mode_{mode}"), json!(on.contains(&mode)))));
    write_json(dir, "1_Pooling/config.json", &config.into());
}

#[test]
fn folders_that_do_not_fit_together_are_refused() {
    type Spoil = fn(&Path);
    let spoiled: [(Spoil, &str); 13] = [
        (|dir| std::fs::remove_file(dir.join(files::TOKENIZER)).unwrap(), "tokenizer.json"),
        (|dir| std::fs::remove_file(dir.join(files::WEIGHTS)).unwrap(), "model.safetensors"),
        (|dir| write_tokenizer(dir, &["[UNK]", "[CLS]", "red"]), "[SEP]"),
        (|dir| write_tokenizer(dir, &[&WORDS[..], &["more"]].concat()), "not below the 9 rows"),
        (|dir| std::fs::write(dir.join(files::TOKENIZER), "{}").unwrap(), "not a tokenizer"),
        (|dir| std::fs::write(dir.join("config.json"), "{").unwrap(), "line 1"),
        (|dir| write_json(dir, "config.json", &json!({"model_type": "t5"})), "t5"),
        (
            |dir| write_pooling(dir, &["mean_tokens", "max_tokens"]),
            "pooling_mode_max_tokens and pooling_mode_mean_tokens",
        ),
        (|dir| write_pooling(dir, &["cls_token", "weightedmean_tokens"]), "pooling_mode_weightedmean_tokens"),
        (|dir| write_pooling(dir, &[]), "no mode"),
        (|dir| write_json(dir, "modules.json", &json!([{"path": "2_Dense", "type": "models.Dense"}])), "models.Dense"),
        (
            |dir| {
                let mut tensors = bert_tensors();
                tensors.remove("encoder.layer.1.output.dense.bias");
                write_tensors(dir, &tensors);
            },
            "encoder.layer.1.output.dense.bias",
        ),
        (
            |dir| {
                let mut tensors = bert_tensors();
                tensors.get_mut("embeddings.LayerNorm.bias").unwrap().1[3] = f32::NAN;
                write_tensors(dir, &tensors);
            },
            "element 3",
        ),
    ];
    for (spoil, expected) in spoiled {
        let dir = tempfile::tempdir().unwrap();
        write_bert(dir.path());
        spoil(dir.path());
        let error = Encoder::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn damaged_weights_are_refused_and_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    write_bert(dir.path());
    let path = dir.path().join(files::WEIGHTS);
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 4, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(Encoder::open(dir.path()).is_err());
    }
    let mut rng = Rng::new(1);
    for _ in 0..100 {
        let mut changed = bytes.clone();
        changed[rng.below(2000) as usize] ^= 1 << rng.below(8);
        std::fs::write(&path, &changed).unwrap();
        if let Ok(encoder) = Encoder::open(dir.path()) {
            assert_eq!(encoder.encode_one("red shoes").unwrap().len(), H);
        }
    }
}

#[test]
fn equal_encoders_have_equal_ids() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_bert(a.path());
    write_table(b.path(), true);
    let id = |dir: &Path| Encoder::open(dir).unwrap().id().to_string();
    assert_eq!(id(a.path()), id(a.path()));
    assert_ne!(id(a.path()), id(b.path()));
    assert_eq!(id(a.path()).len(), 32);
    let mut seen = vec![id(a.path())];
    write_pooling(a.path(), &["mean_tokens"]);
    assert_eq!(id(a.path()), seen[0], "what is said is what was taken");
    write_json(a.path(), "sentence_bert_config.json", &json!({"max_seq_length": 5}));
    assert_eq!(id(a.path()), seen[0], "how much is read is not part of it");
    write_pooling(a.path(), &["cls_token"]);
    seen.push(id(a.path()));
    for (name, value) in
        [("layer_norm_eps", json!(1e-5)), ("hidden_act", json!("relu")), ("num_attention_heads", json!(2))]
    {
        let mut config = bert_config();
        config[name] = value;
        write_json(a.path(), "config.json", &config);
        seen.push(id(a.path()));
    }
    write_json(b.path(), "config.json", &json!({"model_type": "static"}));
    seen.push(id(b.path()));
    write_json(b.path(), "config.json", &json!({"model_type": "model2vec"}));
    seen.push(id(b.path()));
    let different: std::collections::HashSet<&String> = seen.iter().collect();
    assert_eq!(different.len(), seen.len(), "{seen:?}");
}

#[test]
fn batches_hold_everything_once() {
    let sequences: Vec<Vec<u32>> = (0..100).map(|i| vec![0; 1 + i * 7 % 90]).collect();
    let order: Vec<usize> = (0..100).collect();
    let batches = batches(&order, &sequences);
    assert_eq!(batches.concat(), order);
    assert!(batches.len() > 1);
    assert!(batches.iter().all(|b| b.iter().map(|&i| sequences[i].len()).sum::<usize>() <= BATCH_TOKENS));
}
