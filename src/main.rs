//! `bigrain`: serve an index, search it from the terminal, see a first answer from a clean checkout.
//!
//! Exit code 0: done. 1: failed, with one line on stderr. 2: wrong usage. Results go to stdout, everything else to
//! stderr.

mod cli;

use std::process::ExitCode;

/// Serving allocates small answers on many threads, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
