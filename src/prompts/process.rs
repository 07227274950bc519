//! A scorer that is another process: one JSON object a line into its standard input, one out of its standard output.
//!
//! Two threads stand between, so that a process that neither reads nor writes costs the time limit and no more. At most one line that
//! nobody has asked for waits in memory; a process that writes more waits.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

use super::scorer::{Likelihood, Scorer, answer, failed, request};
use crate::error::{Error, Result};

/// Longest line that is taken from a process, in bytes.
const MOST: u64 = 16 << 20;
/// How long a process that has closed its output is given to end by itself.
const TO_END: Duration = Duration::from_secs(1);

/// A running process that scores. It is ended with this value.
#[derive(Debug)]
pub struct ProcessScorer {
    name: String,
    child: Child,
    requests: Sender<String>,
    lines: Receiver<std::io::Result<String>>,
    limit: Duration,
    next: u64,
}

impl ProcessScorer {
    /// Starts a process: its program and arguments. Each answer may take `limit`; the first also covers its start.
    ///
    /// # Errors
    /// `Io` where it does not start, `InvalidParams` for an empty command.
    pub fn start(command: &[String], limit: Duration) -> Result<ProcessScorer> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(Error::params("process", "the command is empty; give a program and its arguments"));
        };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Error::io(program))?;
        let (mut input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (requests, to_send) = channel::<String>();
        std::thread::spawn(move || {
            // A process that has closed its input is found out by its silence.
            for line in to_send {
                if input.write_all(line.as_bytes()).and_then(|()| input.flush()).is_err() {
                    return;
                }
            }
        });
        let (came, lines) = sync_channel(1);
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            // Nothing, at the end; an error is the last that is sent.
            while let Some(line) = read_line(&mut output, MOST).transpose() {
                let is_last = line.is_err();
                if came.send(line).is_err() || is_last {
                    return;
                }
            }
        });
        Ok(ProcessScorer { name: command.join(" "), child, requests, lines, limit, next: 0 })
    }

    /// What to say of a process that has closed its output, which mostly means that it has ended.
    fn ended(&mut self, sent: &str) -> Error {
        let deadline = Instant::now() + TO_END;
        let came = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break format!("the process ended ({status}) without an answer"),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) => {
                    // It is of no more use; whether it can be killed shows when it is dropped.
                    let _ = self.child.kill();
                    break "the process closed its output without an answer and was ended".to_string();
                }
                Err(error) => break format!("nothing is known of the process any more: {error}"),
            }
        };
        failed(&self.name, sent, &came, "look at what it printed")
    }
}

/// The next line, without more than `most` bytes of it in memory; none at the end.
fn read_line(from: &mut impl BufRead, most: u64) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let read = from.by_ref().take(most).read_until(b'\n', &mut line)?;
    if read as u64 == most && line.last() != Some(&b'\n') {
        return Err(std::io::Error::other(format!("a line has more than {most} bytes")));
    }
    Ok((read > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
}

impl Scorer for ProcessScorer {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, prompt: &str, completions: &[String]) -> Result<Vec<Likelihood>> {
        let id = self.next;
        self.next += 1;
        let sent = request(id, prompt, completions);
        // Whether it can still be reached is told by what comes.
        let _ = self.requests.send(format!("{sent}\n"));
        match self.lines.recv_timeout(self.limit) {
            Ok(Ok(line)) => answer(&self.name, &sent, &line, id, completions.len()),
            Ok(Err(error)) => {
                Err(failed(&self.name, &sent, &format!("its output cannot be read: {error}"), "start it again"))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.ended(&sent)),
            Err(RecvTimeoutError::Timeout) => {
                let came = format!("no answer came within {} s", self.limit.as_secs_f64());
                Err(failed(&self.name, &sent, &came, "raise the time limit or look at what the process does"))
            }
        }
    }
}

impl Drop for ProcessScorer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn shell(script: &str, limit: f64) -> ProcessScorer {
        let command = ["/bin/sh", "-c", script].map(String::from);
        ProcessScorer::start(&command, Duration::from_secs_f64(limit)).unwrap()
    }

    fn ask(scorer: &mut ProcessScorer) -> Result<Vec<Likelihood>> {
        scorer.score("Is it?\n", &["Yes".into(), "No".into()])
    }

    #[test]
    fn a_process_answers_line_by_line() {
        let script = r#"i=0; while read -r line; do echo "{\"id\": $i, \"loglik\": [-1.5, -$i], \"tokens\": [1, 2]}"; i=$((i+1)); done"#;
        let mut scorer = shell(script, 20.0);
        for i in 0..3 {
            let scored = ask(&mut scorer).unwrap();
            assert_eq!(scored[1], Likelihood { loglik: -f64::from(i), tokens: 2 });
        }
    }

    #[test]
    fn a_process_that_dies_hangs_or_talks_nonsense_is_an_error_that_says_so() {
        let cases = [
            ("exit 3", 20.0, "the process ended (exit status: 3)"),
            ("read -r line; kill -9 $$", 20.0, "the process ended (signal: 9"),
            ("exec sleep 60", 0.3, "no answer came within 0.3 s"),
            ("exec 1>&-; exec sleep 100000", 20.0, "the process closed its output without an answer"),
            ("read -r line; echo loading weights; cat", 20.0, "\"loading weights\" cannot be read"),
            (
                "read -r line; echo '{\"id\": 0, \"loglik\": [-1], \"tokens\": [1]}'; cat",
                20.0,
                "1 logarithms and 1 numbers",
            ),
        ];
        for (script, limit, message) in cases {
            let begun = Instant::now();
            let error = ask(&mut shell(script, limit)).unwrap_err().to_string();
            assert!(error.contains(message) && error.contains("Is it?") && error.contains("Scores so far"), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(15), "{script}: the process was waited for");
        }
    }

    #[test]
    fn a_process_that_never_reads_cannot_block_whoever_asks() {
        let mut scorer = shell("exec sleep 60", 0.3);
        // Far more than a pipe holds.
        let error = scorer.score(&"x".repeat(1 << 22), &["a".into()]).unwrap_err().to_string();
        assert!(error.contains("no answer came"), "{error}");
    }

    #[test]
    fn lines_that_are_too_long_are_refused_and_not_cut() {
        let mut text = &b"abc\nabcd\n"[..];
        assert_eq!(read_line(&mut text, 4).unwrap(), Some("abc\n".into()));
        assert!(read_line(&mut text, 4).unwrap_err().to_string().contains("more than 4 bytes"));
        assert_eq!(read_line(&mut &b"abc"[..], 4).unwrap(), Some("abc".into()));
        assert_eq!(read_line(&mut &b""[..], 4).unwrap(), None);
    }

    #[test]
    fn a_process_that_talks_without_being_asked_is_held_back() {
        // What is written beyond a pipe and a line or two is not taken: the shell never comes to its last word.
        let dir = tempfile::tempdir().unwrap();
        let done = dir.path().join("done");
        let line = "x".repeat(1 << 16);
        let script = format!("i=0; while [ $i -lt 40 ]; do echo {line}; i=$((i+1)); done; echo > {}", done.display());
        let mut scorer = shell(&script, 20.0);
        assert!(ask(&mut scorer).unwrap_err().to_string().contains("cannot be read"));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!done.exists(), "all 2.6 MB were taken");
    }

    #[test]
    fn commands_that_cannot_start_are_refused() {
        let limit = Duration::from_secs(1);
        assert!(ProcessScorer::start(&[], limit).unwrap_err().to_string().contains("the command is empty"));
        let error = ProcessScorer::start(&["no-such-program-here".into()], limit).unwrap_err().to_string();
        assert!(error.contains("no-such-program-here"), "{error}");
    }
}
