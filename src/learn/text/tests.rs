//! From a file of pairs to an encoder and a quantizer that find what was held out.

use super::*;
use crate::quantizer::CodeShape;
use crate::sample::Rng;
use crate::simd::CodeBits;
use crate::train::{Method, Sampling, Silent};

/// Words of a query come back in its document, translated, among others; groups of two documents share half of theirs.
fn write_pairs(path: &std::path::Path, n: usize) {
    let mut rng = Rng::new(4);
    let mut lines = String::new();
    for i in 0..n {
        let words: Vec<u64> = (0..4).map(|_| rng.below(50)).collect();
        let of = |mark: &str| words.iter().map(|w| format!("{mark}{}", name(*w))).collect::<Vec<_>>().join(" ");
        let noise: Vec<String> = (0..3).map(|_| format!("z{}", name(rng.below(20)))).collect();
        lines += &format!("{}\t{} {}\tg{}\n", of("q"), of("d"), noise.join(" "), i / 2);
    }
    std::fs::write(path, lines).unwrap();
}

/// Letters for a number.
fn name(mut n: u64) -> String {
    let mut letters = String::new();
    for _ in 0..3 {
        letters.push((b'a' + (n % 7) as u8) as char);
        n /= 7;
    }
    letters
}

fn spec(dir: &std::path::Path) -> TextSpec {
    let text = TextTraining { epochs: 6, batch: 64, table_rate: 0.05, patience: 6, ..TextTraining::default() };
    TextSpec {
        pairs: Some(dir.join("pairs.tsv")),
        texts: None,
        vectors: None,
        teacher: None,
        start: None,
        tokenizer: None,
        vocabulary: 500,
        width: 16,
        dim: 16,
        text,
        codes: None,
        together: false,
        dense_weight: 1.0,
        dense: None,
        candidates: 50,
        nprobe: 0,
        valid_share: 0.1,
        test_share: 0.1,
        output: dir.join("encoder"),
        element: TableElement::F16,
        seed: 1,
    }
}

#[test]
fn all_stages_make_an_encoder_and_a_quantizer_that_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    write_pairs(&dir.path().join("pairs.tsv"), 1500);
    let shape = CodeShape::new(CodeBits::Four, 4).unwrap();
    let codes =
        CodeTraining { epochs: 4, batch: 128, ..CodeTraining::new(Method::Contrastive, Metric::Cosine, 4, shape) };
    let base = spec(dir.path());
    let dense = TextTraining { sampling: Sampling::Snowball, epochs: 3, ..base.text.clone() };
    let whole = TextSpec { codes: Some(codes), together: true, dense: Some(dense), nprobe: 4, ..base };
    let report = learn_text(&whole, &Silent).unwrap();
    let quality = report.quality.unwrap();
    let index = quality.index.unwrap();
    assert!(index.verified[0] > 0.5 && index.candidates[1] > 0.6, "{quality:?}");
    assert!(report.stages.len() == 4 && report.texts_a_second[0] > 100.0);
    let encoder = Encoder::open(&whole.output).unwrap();
    let quantizer = Quantizer::read(&RealVfs, &whole.output.join(QUANTIZER), None).unwrap();
    assert_eq!((encoder.dim(), quantizer.dim(), quantizer.dense_dim(), quantizer.code_dim()), (32, 32, 16, 16));
    assert_eq!(quantizer.encoder(), Some(encoder.id()));
    assert!(learn_text(&whole, &Silent).unwrap_err().to_string().contains("name another folder"));
    let left: Vec<_> = dir.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing else is left: {left:?}");

    // OPQ over an encoder that is taken as it is: the same candidates whether the rotation is in the quantizer or the encoder.
    let start = TextSpec { start: Some(whole.output.clone()), output: dir.path().join("second"), ..whole.clone() };
    let text = TextTraining { epochs: 0, ..whole.text.clone() };
    let plain = TextSpec { text, together: false, dense: None, ..start };
    let opq = learn_text(&plain, &Silent).unwrap().quality.unwrap();
    assert!(opq.index.unwrap().candidates[1] > 0.5, "{opq:?}");
    assert!((opq.exact.verified[0] - quality.exact.verified[0]).abs() < 0.05, "a rotation changes no exact answers");
}

#[test]
fn a_teacher_is_asked_for_what_texts_should_be() {
    let dir = tempfile::tempdir().unwrap();
    write_pairs(&dir.path().join("pairs.tsv"), 600);
    let base = spec(dir.path());
    let first = learn_text(&base, &Silent).unwrap();
    assert!(first.quality.unwrap().exact.verified[0] > 0.3 && first.quality.unwrap().index.is_none());
    let pairs = std::fs::read_to_string(dir.path().join("pairs.tsv")).unwrap();
    let texts: Vec<&str> = pairs.lines().flat_map(|line| line.split('\t').take(2)).collect();
    std::fs::write(dir.path().join("texts.txt"), texts.join("\n")).unwrap();
    let text = TextTraining { epochs: 15, ..base.text.clone() };
    let taught = TextSpec {
        pairs: None,
        texts: Some(dir.path().join("texts.txt")),
        teacher: Some(base.output.clone()),
        output: dir.path().join("copy"),
        width: 20,
        element: TableElement::I8,
        text,
        ..base
    };
    let report = learn_text(&taught, &Silent).unwrap();
    let best = report.stages[0].epochs.iter().fold(0f32, |best, e| best.max(e.recall));
    assert!(best > 0.8, "{:?}", report.stages);
    let (teacher, copy) = (Encoder::open(&dir.path().join("encoder")).unwrap(), Encoder::open(&taught.output).unwrap());
    let text = "qaba qbba qcca";
    let (a, b) = (teacher.encode_one(text).unwrap(), copy.encode_one(text).unwrap());
    assert!(a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>() > 0.6);
}

/// A table of bytes is coarser than what was trained: what is reported is what the written encoder finds.
#[test]
fn the_encoder_that_is_written_is_the_one_that_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    write_pairs(&dir.path().join("pairs.tsv"), 600);
    let spec = TextSpec { element: TableElement::I8, ..spec(dir.path()) };
    let reported = learn_text(&spec, &Silent).unwrap().quality.unwrap();
    let data = TextData::read(spec.pairs.as_ref().unwrap(), spec.valid_share, spec.test_share).unwrap();
    let examples = data.examples(&Vocabulary::open(&spec.output).unwrap()).unwrap();
    let encoder = Encoder::open(&spec.output).unwrap();
    let model = StaticModel::from_table(encoder.table().unwrap());
    let measured = Measured { model: &model, examples: &examples, test: &data.test, quantizer: None };
    let found = measure(&measured, &spec, &Silent).unwrap();
    assert_eq!((found.exact, found.queries), (reported.exact, reported.queries));
}

#[test]
fn a_teacher_of_another_dimension_is_refused_before_it_is_asked() {
    struct Asked;
    impl Watch for Asked {
        fn begin(&self, phase: &'static str, _: u64) {
            panic!("{phase}");
        }
        fn advance(&self, _: u64) {}
    }
    let dir = tempfile::tempdir().unwrap();
    write_pairs(&dir.path().join("pairs.tsv"), 300);
    let quick = |base: TextSpec| TextSpec { text: TextTraining { epochs: 1, ..base.text.clone() }, ..base };
    let small = quick(spec(dir.path()));
    let large = TextSpec { dim: 24, output: dir.path().join("large"), ..small.clone() };
    for spec in [&small, &large] {
        learn_text(spec, &Silent).unwrap();
    }
    std::fs::write(dir.path().join("texts.txt"), "qaba\ndaca\n".repeat(100)).unwrap();
    let taught = TextSpec {
        pairs: None,
        texts: Some(dir.path().join("texts.txt")),
        teacher: Some(large.output),
        start: Some(small.output.clone()),
        output: dir.path().join("taught"),
        ..small
    };
    let error = learn_text(&taught, &Asked).unwrap_err().to_string();
    assert!(error.contains("dimension of the teacher") && error.contains("16") && error.contains("24"), "{error}");
}

#[test]
fn what_does_not_go_together_is_refused_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let base = spec(dir.path());
    let refused = |spec: TextSpec| learn_text(&spec, &Silent).unwrap_err().to_string();
    assert!(refused(TextSpec { pairs: None, ..base.clone() }).contains("give --pairs"));
    assert!(refused(TextSpec { texts: Some("t".into()), ..base.clone() }).contains("--teacher"));
    assert!(refused(TextSpec { dense: Some(TextTraining::default()), ..base.clone() }).contains("--code-bytes"));
    assert!(refused(TextSpec { test_share: 0.7, ..base.clone() }).contains("test_share"));
    let shape = CodeShape::new(CodeBits::Four, 4).unwrap();
    let codes = CodeTraining::new(Method::Contrastive, Metric::Cosine, 0, shape);
    let together = |codes, dense_weight| TextSpec { codes: Some(codes), together: true, dense_weight, ..base.clone() };
    assert!(refused(together(CodeTraining { code_rate: 0.0, ..codes.clone() }, 1.0)).contains("code_rate"));
    assert!(refused(together(codes.clone(), -1.0)).contains("dense_weight"));
    let wrong = TextTraining { clip: 0.0, ..base.text.clone() };
    assert!(refused(TextSpec { text: wrong.clone(), ..base.clone() }).contains("clip"));
    assert!(refused(TextSpec { dense: Some(wrong), ..together(codes, 1.0) }).contains("clip"));
    std::fs::write(dir.path().join("file"), "x").unwrap();
    assert!(refused(TextSpec { output: dir.path().join("file"), ..base.clone() }).contains("is not a folder"));
    assert!(
        refused(TextSpec { start: Some("s".into()), tokenizer: Some("t".into()), ..base }).contains("leave it out")
    );
}
