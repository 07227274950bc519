//! `check-index`: reads every byte of an index.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use index_tools::{out, outln};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use bigrain::dense::Store;
use bigrain::error::{Error, Result};
use bigrain::index::{Index, OpenOptions};
use clap::Parser;
use index_tools::progress::Progress;
use index_tools::shell::{Failure, finish};
use index_tools::size::Size;
use index_tools::table::{duration, grouped, pairs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Read every byte of an index and say whether it is what was built.
///
/// Checks the manifest, every checksum, the bounds that searching relies on, the zeros between sections, and that keys,
/// rows and vectors agree. Ends with 0 if all is well; else with 1 and one line that names the file, the section and
/// the record or offset of the first damage.
///
/// Example:
///
///     check-index index --json
#[derive(Debug, Parser)]
#[command(name = "check-index", version, verbatim_doc_comment)]
struct Arguments {
    /// The index directory
    dir: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let started = Instant::now();
    let outcome = check(&arguments.dir);
    match &outcome {
        Ok(index) => report(index, &arguments, started.elapsed().as_secs_f64()),
        Err(error) if arguments.json => outln!("{:#}", damage(error)),
        Err(_) => {}
    }
    finish("check-index", outcome.map(drop).map_err(Failure::Failed))
}

fn check(dir: &Path) -> Result<Index> {
    // Positioned reads, which merge neighbouring pages: faults of a map would read them one by one.
    let index = Index::open(dir, &OpenOptions { store: Store::Pread, ..OpenOptions::default() })?;
    let progress = Progress::start("check-index", "units", dir)?;
    index.check(&progress)?;
    Ok(index)
}

fn report(index: &Index, arguments: &Arguments, seconds: f64) {
    let manifest = index.manifest();
    let (files, bytes) = manifest.files.all().fold((0, 0), |(files, bytes), entry| (files + 1, bytes + entry.bytes));
    if arguments.json {
        let (id, rows) = (&manifest.id, manifest.rows);
        let result =
            serde_json::json!({"ok": true, "id": id, "rows": rows, "files": files, "bytes": bytes, "seconds": seconds});
        outln!("{result:#}");
        return;
    }
    let facts = [
        ("index", format!("{} is whole", arguments.dir.display())),
        ("id", manifest.id.clone()),
        ("rows", grouped(manifest.rows)),
        ("files", format!("{files}, {}", Size(bytes))),
        ("time", duration(seconds)),
    ];
    out!("{}", pairs(&facts));
}

/// The first damage, for machines.
fn damage(error: &Error) -> serde_json::Value {
    match error {
        Error::Corrupt { path, section, reason } => {
            serde_json::json!({"ok": false, "file": path, "section": section, "reason": reason})
        }
        other => serde_json::json!({"ok": false, "reason": other.to_string()}),
    }
}
