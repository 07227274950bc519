//! A scorer behind HTTP: the JSON of [`super::scorer`] in a POST, to `http://host:port/path`.
//!
//! A request is HTTP/1.0 on a connection of its own: answers then end with the connection and come in one piece. TLS is absent:
//! a model that scores thousands of prompts stands next to this, or behind a proxy that does.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::scorer::{Likelihood, Scorer, answer, failed, request, shown};
use crate::error::{Error, Result};

/// Longest answer that is taken, in bytes.
const MOST: usize = 16 << 20;

/// A language model at a URL.
#[derive(Debug)]
pub struct HttpScorer {
    url: String,
    /// `host:port`.
    authority: String,
    path: String,
    limit: Duration,
    next: u64,
}

impl HttpScorer {
    /// A model at `url`; each answer may take `limit`.
    ///
    /// # Errors
    /// `InvalidParams` for what is no `http://` URL.
    pub fn new(url: &str, limit: Duration) -> Result<HttpScorer> {
        let wrong = || Error::params("url", format!("{url:?} is not of the form http://host:port/path"));
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '@';
        if authority.is_empty() || rest.contains(bad) {
            return Err(wrong());
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_string() } else { format!("{authority}:80") };
        Ok(HttpScorer { url: url.into(), authority, path: path.into(), limit, next: 0 })
    }

    /// Sends a body and returns the body of the answer, or what went wrong.
    fn post(&self, body: &str) -> std::result::Result<String, String> {
        let deadline = Instant::now() + self.limit;
        let left = || deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        let late = || format!("no whole answer came within {} s", self.limit.as_secs_f64());
        let addresses =
            self.authority.to_socket_addrs().map_err(|e| format!("{} is not known: {e}", self.authority))?;
        let mut stream = Err(format!("{} has no address", self.authority));
        for address in addresses {
            stream = TcpStream::connect_timeout(&address, left().ok_or_else(late)?)
                .map_err(|e| format!("no connection to {address}: {e}"));
            if stream.is_ok() {
                break;
            }
        }
        let mut stream = stream?;
        let head = format!(
            "POST {} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.path,
            self.authority,
            body.len()
        );
        let timed = |stream: &TcpStream| -> std::result::Result<(), String> {
            let left = Some(left().ok_or_else(late)?);
            stream.set_write_timeout(left).and_then(|()| stream.set_read_timeout(left)).map_err(|e| e.to_string())
        };
        timed(&stream)?;
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .map_err(|e| format!("the request could not be sent: {e}"))?;
        let (mut came, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            timed(&stream)?;
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(n) if came.len() + n <= MOST => came.extend_from_slice(&piece[..n]),
                Ok(_) => return Err(format!("the answer has more than {MOST} bytes")),
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return Err(late());
                }
                Err(e) => return Err(format!("the answer broke off: {e}")),
            }
        }
        body_of(&String::from_utf8_lossy(&came))
    }
}

/// The body of an answer with status 200.
fn body_of(came: &str) -> std::result::Result<String, String> {
    let Some((head, body)) = came.split_once("\r\n\r\n") else {
        return Err(format!("the answer {} is not HTTP", shown(came)));
    };
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("the answer was {} {}", shown(status), shown(body)));
    }
    let headers =
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.trim().to_lowercase(), value.trim()));
    let announced =
        headers.filter(|(name, _)| name == "content-length").find_map(|(_, value)| value.parse::<usize>().ok());
    if announced.is_some_and(|length| length > body.len()) {
        return Err(format!("the answer broke off: {} of {} bytes came", body.len(), announced.unwrap_or(0)));
    }
    Ok(body.to_string())
}

impl Scorer for HttpScorer {
    fn name(&self) -> &str {
        &self.url
    }

    fn score(&mut self, prompt: &str, completions: &[String]) -> Result<Vec<Likelihood>> {
        let id = self.next;
        self.next += 1;
        let sent = request(id, prompt, completions);
        let remedy = "see that the endpoint runs, or raise the time limit";
        let came = self.post(&sent).map_err(|came| failed(&self.url, &sent, &came, remedy))?;
        answer(&self.url, &sent, &came, id, completions.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers each connection with what `answer` makes of the request's body; none: keeps silent.
    fn endpoint(answers: Vec<Option<String>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/score", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut heads, mut silent) = (Vec::new(), Vec::new());
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut came = vec![0; 4096];
                let n = stream.read(&mut came).unwrap();
                heads.push(String::from_utf8_lossy(&came[..n]).into_owned());
                match answer {
                    Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                    None => silent.push(stream),
                }
            }
            std::thread::sleep(Duration::from_secs(if silent.is_empty() { 0 } else { 4 }));
            heads
        });
        (url, served)
    }

    #[test]
    fn an_endpoint_is_asked_and_its_failures_are_named() {
        let ok = |body: &str| Some(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        let (url, served) = endpoint(vec![
            ok(r#"{"id": 0, "loglik": [-2.5], "tokens": [3]}"#),
            Some("HTTP/1.1 503 Busy\r\n\r\nlater".into()),
            Some("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"id\"".into()),
            ok("<html>"),
            Some("hello".into()),
            None,
        ]);
        let mut scorer = HttpScorer::new(&url, Duration::from_secs(3)).unwrap();
        let mut ask = || scorer.score("Is it?\n", &["Yes".into()]);
        assert_eq!(ask().unwrap(), [Likelihood { loglik: -2.5, tokens: 3 }]);
        for message in ["503 Busy", "broke off: 5 of 900", "cannot be read", "is not HTTP", "within 3 s"] {
            let error = ask().unwrap_err().to_string();
            assert!(error.contains(message) && error.contains("Is it?"), "{message}: {error}");
        }
        let heads = served.join().unwrap();
        assert!(
            heads[0].starts_with("POST /score HTTP/1.0\r\n") && heads[0].contains("\"completions\":[\"Yes\"]"),
            "{}",
            heads[0]
        );
        let error = scorer.score("Is it?\n", &["Yes".into()]).unwrap_err().to_string();
        assert!(error.contains("no connection"), "{error}");
    }

    #[test]
    fn urls_are_checked() {
        let limit = Duration::from_secs(1);
        for bad in ["https://a/b", "a/b", "http://", "http://a b/", "http://user@host/"] {
            assert!(HttpScorer::new(bad, limit).unwrap_err().to_string().contains("http://host:port/path"), "{bad}");
        }
        let scorer = HttpScorer::new("http://model", limit).unwrap();
        assert_eq!((scorer.authority.as_str(), scorer.path.as_str()), ("model:80", "/"));
    }
}
