//! Progress of long work on standard error, and how a signal stops it.
//!
//! On a terminal: one bar a phase, with rate and time left. Elsewhere (a log, a pipe): one line every ten seconds, from a
//! thread of its own, so that a phase that does not report for a while is still seen to be alive. What is worth a line of its
//! own, such as the result of an epoch of training, is printed when it comes.

use std::io::{self, ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bigrain::error::{Error, Result};
use bigrain::train::Watch;
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::table::{duration, grouped};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows the phases of a command.
pub struct Progress {
    view: View,
    /// Set by a signal.
    stopped: Arc<AtomicBool>,
    /// What the work is about, for the message of a stopped one.
    subject: PathBuf,
    command: &'static str,
}

enum View {
    Bars { unit: &'static str, current: Mutex<ProgressBar> },
    Lines { phase: Arc<Mutex<Option<Phase>>>, ticker: Ticker },
}

/// The phase that is running.
#[derive(Clone)]
struct Phase {
    name: &'static str,
    total: u64,
    done: u64,
    started: Instant,
}

impl Progress {
    /// Starts to show the progress of `command`, counted in `unit`s; SIGINT and SIGTERM stop it at the next safe point,
    /// a second one at once. `subject` is the file or directory that the work is about.
    ///
    /// # Errors
    /// `Io` if signals cannot be caught.
    pub fn start(command: &'static str, unit: &'static str, subject: &Path) -> Result<Progress> {
        let view = match io::stderr().is_terminal() {
            true => View::Bars { unit, current: Mutex::new(ProgressBar::hidden()) },
            false => {
                let phase = Arc::new(Mutex::new(None));
                View::Lines { ticker: Ticker::start(command, unit, Arc::clone(&phase)), phase }
            }
        };
        let stopped = stop_on_signals().map_err(Error::io(subject))?;
        Ok(Progress { view, stopped, subject: subject.to_path_buf(), command })
    }
}

/// A flag that the first signal sets; the second one ends the process.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stopped))?;
        signal_hook::flag::register(signal, Arc::clone(&stopped))?;
    }
    Ok(stopped)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch for Progress {
    fn begin(&self, phase: &'static str, total: u64) {
        match &self.view {
            View::Bars { unit, current } => {
                let template =
                    format!("{{msg:14}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left");
                let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
                let bar = ProgressBar::new(total).with_style(style).with_message(phase);
                bar.enable_steady_tick(Duration::from_millis(200));
                std::mem::replace(&mut *locked(current), bar).finish();
            }
            View::Lines { phase: current, .. } => {
                *locked(current) = Some(Phase { name: phase, total, done: 0, started: Instant::now() });
            }
        }
    }

    fn advance(&self, units: u64) {
        match &self.view {
            View::Bars { current, .. } => locked(current).inc(units),
            View::Lines { phase, .. } => {
                if let Some(phase) = &mut *locked(phase) {
                    phase.done += units;
                }
            }
        }
    }

    fn note(&self, line: &str) {
        match &self.view {
            View::Bars { current, .. } => locked(current).println(line),
            View::Lines { .. } => eprintln!("{}: {line}", self.command),
        }
    }

    fn check(&self) -> Result<()> {
        if !self.stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        let reason = "stopped by a signal before the work was done; what was there before is still there";
        Err(Error::io(&self.subject)(io::Error::new(ErrorKind::Interrupted, reason)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match &mut self.view {
            View::Bars { current, .. } => locked(current).finish_and_clear(),
            View::Lines { ticker, .. } => ticker.stop(),
        }
    }
}

/// The thread that prints lines.
struct Ticker {
    /// Dropped to end the thread.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(command: &'static str, unit: &'static str, phase: Arc<Mutex<Option<Phase>>>) -> Ticker {
        let (alive, ended) = channel::<()>();
        let thread = std::thread::spawn(move || {
            while ended.recv_timeout(LINE_EVERY) == Err(RecvTimeoutError::Timeout) {
                let current = locked(&phase).clone();
                if let Some(phase) = current {
                    eprintln!("{command}: {}", phase.line(unit, phase.started.elapsed().as_secs_f64()));
                }
            }
        });
        Ticker { alive: Some(alive), thread: Some(thread) }
    }

    fn stop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            // It prints lines and nothing else; were it to panic, there would be none to miss.
            let _ = thread.join();
        }
    }
}

impl Phase {
    /// `encode: 1,000 of 4,000 rows (25%), 500/s, 6.00 s left`
    fn line(&self, unit: &str, seconds: f64) -> String {
        let percent = (self.done * 100).checked_div(self.total).unwrap_or(100);
        let counted = format!("{}: {} of {} {unit} ({percent}%)", self.name, grouped(self.done), grouped(self.total));
        if self.done == 0 || seconds <= 0.0 {
            return counted;
        }
        let rate = self.done as f64 / seconds;
        let left = self.total.saturating_sub(self.done) as f64 / rate;
        format!("{counted}, {}/s, {} left", grouped(rate as u64), duration(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_state_share_rate_and_time_left() {
        let phase = Phase { name: "encode", total: 4_000, done: 1_000, started: Instant::now() };
        assert_eq!(phase.line("rows", 2.0), "encode: 1,000 of 4,000 rows (25%), 500/s, 6.00 s left");
        let unstarted = Phase { done: 0, ..phase };
        assert_eq!(unstarted.line("rows", 2.0), "encode: 0 of 4,000 rows (0%)");
    }
}
