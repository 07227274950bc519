//! `bigrain config`: the settings in force.

use std::io::Write;

use bigrain::error::Result;
use clap::Args;

use super::{StateOptions, printed};

/// Print the settings that `serve` would run with, each with its origin
///
/// A setting is taken from the first of: flag, environment (BIGRAIN_<SECTION>_<KEY>), --config file, default. The
/// output is a settings file itself.
#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    settings: StateOptions,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Result<()> {
    let settings = options.settings.load()?;
    settings.config()?;
    let text = if options.json { format!("{}\n", settings.to_json()) } else { settings.to_toml() };
    printed(std::io::stdout().write_all(text.as_bytes()))
}
