//! `lm-scorer`: a language model as a process that scores answers.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use std::io::{BufRead, Read, stdin};
use std::path::PathBuf;
use std::process::ExitCode;

use bigrain::error::{Error, Result};
use clap::Parser;
use index_tools::lm::{Gemma, Gguf};
use index_tools::outln;
use index_tools::shell::{Failure, finish};
use serde::Deserialize;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Score answers with a language model: one JSON object a line in, one out, in order.
///
///     in:   {"id": 1, "prompt": "The capital of France is", "completions": [" Paris", " Rome"]}
///     out:  {"id": 1, "loglik": [-1.2, -5.3], "tokens": [1, 1]}
///     or:   {"id": 1, "error": "completion 1 is empty; give at least a letter"}
///
/// The model is a .gguf file of the Gemma-3 family. A request has at most 256 completions of 8,192 tokens together, and a line a MiB.
/// `bigrain prompts` starts this command where it is told to:
///
///     bigrain prompts score ... --process "lm-scorer --model model.gguf --most 600"
#[derive(Debug, Parser)]
#[command(name = "lm-scorer", version, verbatim_doc_comment)]
struct Arguments {
    /// The model, a .gguf file
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Tokens of a prompt that are read at most; the beginning of a longer one is cut
    #[arg(long, value_name = "N", default_value_t = 1024)]
    most: usize,
    /// Threads [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// Bytes of a line at most.
const MOST_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct Asked {
    id: Value,
    prompt: String,
    completions: Vec<String>,
}

fn main() -> ExitCode {
    finish("lm-scorer", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(threads) = arguments.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build_global();
        pool.map_err(|e| Failure::Usage(Error::params("threads", e.to_string())))?;
    }
    let mut model = Gemma::read(&Gguf::open(&arguments.model)?)?;
    let mut input = stdin().lock();
    while let Some(line) = next_line(&mut input).map_err(Error::io("standard input"))? {
        match line {
            Line::Whole(line) if line.trim().is_empty() => {}
            Line::Whole(line) => outln!("{}", answer(&mut model, &line, arguments.most)),
            Line::TooLong => {
                let error = format!("the line has more than {MOST_BYTES} bytes; shorten the prompt or the completions");
                outln!("{}", json!({"id": null, "error": error}));
            }
        }
    }
    Ok(())
}

/// A line of the input.
#[derive(Debug, PartialEq)]
enum Line {
    Whole(String),
    /// It was passed over.
    TooLong,
}

/// The next line; none at the end.
fn next_line(input: &mut impl BufRead) -> std::io::Result<Option<Line>> {
    let mut line = Vec::new();
    if next_piece(input, &mut line)? {
        return Ok((!line.is_empty()).then(|| Line::Whole(String::from_utf8_lossy(&line).into_owned())));
    }
    while !next_piece(input, &mut line)? {}
    Ok(Some(Line::TooLong))
}

/// Reads to the end of the line, but no further than a line may be long; whether it came to the end.
fn next_piece(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let read = input.by_ref().take(MOST_BYTES).read_until(b'\n', line)?;
    Ok(line.last() == Some(&b'\n') || (read as u64) < MOST_BYTES)
}

/// The answer to a line; a bad line is answered, too.
fn answer(model: &mut Gemma, line: &str, most: usize) -> Value {
    let asked: Asked = match serde_json::from_str(line) {
        Ok(asked) => asked,
        Err(error) => return json!({"id": null, "error": format!("the line is not a request: {error}")}),
    };
    let completions: Vec<&str> = asked.completions.iter().map(String::as_str).collect();
    match model.score(&asked.prompt, &completions, most) {
        Ok(scored) => {
            let loglik: Vec<f64> = scored.iter().map(|s| s.loglik).collect();
            let tokens: Vec<usize> = scored.iter().map(|s| s.tokens).collect();
            json!({"id": asked.id, "loglik": loglik, "tokens": tokens})
        }
        Err(error) => json!({"id": asked.id, "error": error.to_string()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_too_long_are_passed_over() {
        let long = "x".repeat(MOST_BYTES as usize * 2 + 5);
        let text = format!("first\n{long}\nlast");
        let mut input = text.as_bytes();
        let lines: Vec<Line> = std::iter::from_fn(|| next_line(&mut input).unwrap()).collect();
        assert_eq!(lines, [Line::Whole("first\n".into()), Line::TooLong, Line::Whole("last".into())]);
    }
}
