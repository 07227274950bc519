//! How a command ends: 0 done, 1 failed, 2 wrong usage; one clear line on standard error where it did not succeed.

use std::fmt;
use std::io::{ErrorKind, Write, stdout};
use std::process::ExitCode;

use bigrain::error::Error;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// The command line, the environment or a configuration file asks for something that there is not.
    Usage(Error),
    /// The work itself failed.
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error)
    }
}

/// The exit code of `outcome`, after its error was printed.
pub fn finish(command: &str, outcome: Result<(), Failure>) -> ExitCode {
    let (error, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => (error, 1),
        Err(Failure::Usage(error)) => (error, 2),
    };
    // One line, whatever a file name or a parser's message holds.
    let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("{command}: {line}");
    ExitCode::from(code)
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure, and the work goes on.
pub fn write(text: fmt::Arguments<'_>) {
    if let Err(error) = stdout().write_fmt(text).and_then(|()| stdout().flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("warning: standard output: {error}");
    }
}

/// `print!` that a reader may leave.
#[macro_export]
macro_rules! out {
    ($($text:tt)*) => { $crate::shell::write(format_args!($($text)*)) };
}

/// `println!` that a reader may leave.
#[macro_export]
macro_rules! outln {
    ($($text:tt)*) => { $crate::shell::write(format_args!("{}\n", format_args!($($text)*))) };
}
