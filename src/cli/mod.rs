//! The subcommands: each parses its options, calls the library, prints.

mod config;
mod demo;
mod demo_ads;
mod prompts;
mod search;
mod serve;
mod table;
mod task;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use bigrain::error::{Error, Result};
use bigrain::server::Settings;
use clap::{Args, Parser, Subcommand};

/// Two-grain embedding retrieval: small codes in memory choose candidates, dense vectors on SSD decide.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Options),
    Search(search::Options),
    Config(config::Options),
    Demo(demo::Options),
    Prompts(prompts::Options),
}

/// Where settings come from; shared by the commands that serve.
#[derive(Args)]
struct SettingsOptions {
    /// Settings file; config/server.toml explains every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on [default: 127.0.0.1:7700]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Any setting, for example --set limits.batch=64; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

/// Where changes are kept; shared by the commands that serve what there is.
#[derive(Args)]
struct StateOptions {
    /// Folder for what changes while serving: ads, control table, versions [default: none, read-only]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Folder of the text encoder for queries in words [default: the one that the index was built with]
    #[arg(long, value_name = "DIR")]
    encoder: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsOptions,
}

impl StateOptions {
    /// [`SettingsOptions::load`], with the folders for what changes and of the encoder.
    fn load(&self) -> Result<Settings> {
        let folders = [("ads.state", &self.state), ("encoder.path", &self.encoder)];
        let named = |(key, folder): (&'static str, &Option<PathBuf>)| {
            Some((key, folder.as_ref()?.to_string_lossy().into_owned()))
        };
        self.settings.load_with(folders.into_iter().filter_map(named).collect())
    }
}

impl SettingsOptions {
    /// The settings in force: flags over environment over file over defaults.
    fn load(&self) -> Result<Settings> {
        self.load_with(Vec::new())
    }

    /// [`SettingsOptions::load`], with the values of flags that only some commands have.
    fn load_with(&self, others: Vec<(&str, String)>) -> Result<Settings> {
        let mut flags: Vec<(&str, String)> =
            self.set.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        flags.extend(self.listen.clone().map(|address| ("server.listen", address)));
        flags.extend(others);
        let environment = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        Settings::load(self.config.as_deref(), environment, &flags)
    }
}

fn key_and_value(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("give KEY=VALUE, for example limits.batch=64")?;
    Ok((key.trim().to_string(), value.trim().to_string()))
}

/// Parses the command line and runs the command.
pub(crate) fn run() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Serve(options) => serve::run(&options),
        Command::Search(options) => search::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Config(options) => config::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Demo(options) => demo::run(&options),
        Command::Prompts(options) => prompts::run(&options).map(|()| ExitCode::SUCCESS),
    }
}

/// `println!` that a reader may leave.
fn say(text: &str) -> Result<()> {
    printed(std::io::stdout().write_all(format!("{text}\n").as_bytes()))
}

/// What a failed write to stdout becomes. A reader that has seen enough (`| head`) is no failure.
fn printed(outcome: std::io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(Error::io("standard output")),
    }
}
