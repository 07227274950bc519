//! What the tests of several files share: a made source, a pool in a folder, a scorer that needs no model.

use std::path::Path;

use super::scorer::failed;
use super::{Clusters, Likelihood, Pool, PoolSpec, PromptIndex, Scorer};
use crate::encoder::testing::write_static;
use crate::error::Result;
use crate::train::Silent;

/// Says that a completion is the likelier the more of the prompt's words it has; may fail after some answers.
#[derive(Debug)]
pub(crate) struct Words {
    name: String,
    left: usize,
}

impl Default for Words {
    fn default() -> Self {
        Words { name: "words".into(), left: usize::MAX }
    }
}

impl Words {
    pub(crate) fn failing_after(answers: usize) -> Words {
        Words { left: answers, ..Words::default() }
    }

    pub(crate) fn named(name: &str) -> Words {
        Words { name: name.into(), ..Words::default() }
    }
}

impl Scorer for Words {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, prompt: &str, completions: &[String]) -> Result<Vec<Likelihood>> {
        if self.left == 0 {
            return Err(failed(&self.name, prompt, "it was told to fail", "tell it otherwise"));
        }
        self.left -= 1;
        let of = |completion: &String| {
            let count = prompt.split_whitespace().filter(|word| word == completion).count();
            Likelihood { loglik: -5.0 / (1.0 + count as f64), tokens: 1 }
        };
        Ok(completions.iter().map(of).collect())
    }
}

/// Words that the made encoder knows, and some that it does not.
pub(super) const WORDS: [&str; 6] = ["red", "blue", "shoe", "hat", "shoes", "a"];

/// A source of three data sets with a template or two each, 40 examples a template.
pub(crate) fn write_source(path: &Path) {
    let mut text = "template\tprompt\tcompletion\n".to_string();
    for (template, answers) in [
        ("imdb_a", &["Yes", "No"][..]),
        ("imdb_b", &["good", "bad"]),
        ("ag_news_a", &["Sports", "Business"]),
        ("glue_mrpc_same", &["yes", "no"]),
    ] {
        for i in 0..40 {
            let words: Vec<&str> = (0..4).map(|j| WORDS[(i * 7 + j * (i % 5 + 1)) % WORDS.len()]).collect();
            let answer = answers[i % 2];
            text += &format!("{template}\t{} number {i} {template} ?\\n\t{answer}<|endoftext|>\n", words.join(" "));
        }
    }
    std::fs::write(path, text).unwrap();
}

/// A pool of the made source in `dir`, without paraphrases, opened untuned.
pub(crate) fn made_pool(dir: &Path) -> PromptIndex {
    let (source, encoder) = (dir.join("source.tsv"), dir.join("encoder"));
    std::fs::create_dir_all(&encoder).unwrap();
    write_source(&source);
    write_static(&encoder);
    let spec = PoolSpec { leave_out: ["paraphrase".to_string()].into(), ..PoolSpec::default() };
    let pool = Pool::from_tsv(&source, &Clusters::default_table(), &spec).unwrap();
    PromptIndex::create(&dir.join("pool"), &pool, &spec, (&encoder, None), &Silent).unwrap();
    PromptIndex::open(&dir.join("pool"), "untuned", None).unwrap()
}
