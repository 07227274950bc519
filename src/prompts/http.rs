//! A scorer behind HTTP: the JSON of [`super::scorer`] in a POST, to `http://host:port/path`.
//!
//! A request is HTTP/1.0 on a connection of its own, so that an answer comes in one piece: as long as it says, or until the connection
//! ends. TLS is absent: a model that scores thousands of prompts stands next to this, or behind a proxy that does.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::scorer::{Likelihood, Scorer, answer, failed, request, shown};
use crate::error::{Error, Result};

/// Longest answer that is taken, in bytes.
const MOST: usize = 16 << 20;
/// Bytes that are sent between two looks at the time.
const PIECE: usize = 64 << 10;

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
        let time = Time { limit: self.limit, deadline: Instant::now() + self.limit };
        let mut stream = self.connect(&time)?;
        let head = format!(
            "POST {} HTTP/1.0\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.path,
            self.authority,
            body.len()
        );
        for piece in format!("{head}{body}").as_bytes().chunks(PIECE) {
            time.bound(&stream)?;
            stream.write_all(piece).map_err(|e| time.or_late(&e, "the request could not be sent"))?;
        }
        let (mut came, mut piece) = (Vec::new(), vec![0; PIECE]);
        loop {
            time.bound(&stream)?;
            let read = stream.read(&mut piece).map_err(|e| time.or_late(&e, "the answer broke off"))?;
            came.extend_from_slice(&piece[..read]);
            if came.len() > MOST {
                return Err(format!("the answer has more than {MOST} bytes"));
            }
            if read == 0 || is_whole(&came) {
                return body_of(&came);
            }
        }
    }

    fn connect(&self, time: &Time) -> std::result::Result<TcpStream, String> {
        let mut stream = Err(format!("{} has no address", self.authority));
        for address in self.addresses(time)? {
            stream = TcpStream::connect_timeout(&address, time.left()?)
                .map_err(|e| format!("no connection to {address}: {e}"));
            if stream.is_ok() {
                break;
            }
        }
        stream
    }

    /// A resolver may take as long as it likes, so another thread waits for it.
    fn addresses(&self, time: &Time) -> std::result::Result<Vec<SocketAddr>, String> {
        let (authority, (found, came)) = (self.authority.clone(), channel());
        std::thread::spawn(move || {
            // Whoever asked may have gone.
            let _ = found.send(authority.to_socket_addrs().map(Iterator::collect));
        });
        let came = came
            .recv_timeout(time.left()?)
            .map_err(|_| format!("{} could not be looked up in time", self.authority))?;
        came.map_err(|e| format!("{} is not known: {e}", self.authority))
    }
}

/// How long an exchange may take.
struct Time {
    limit: Duration,
    deadline: Instant,
}

impl Time {
    fn left(&self) -> std::result::Result<Duration, String> {
        let left = self.deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        left.ok_or_else(|| self.late())
    }

    /// Lets no read or write last beyond what is left.
    fn bound(&self, stream: &TcpStream) -> std::result::Result<(), String> {
        let left = Some(self.left()?);
        stream.set_write_timeout(left).and_then(|()| stream.set_read_timeout(left)).map_err(|e| e.to_string())
    }

    fn late(&self) -> String {
        format!("no whole answer came within {} s", self.limit.as_secs_f64())
    }

    fn or_late(&self, error: &std::io::Error, what: &str) -> String {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => self.late(),
            _ => format!("{what}: {error}"),
        }
    }
}

/// Head and body, once the head is there.
fn parts(came: &[u8]) -> Option<(String, &[u8])> {
    let end = came.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&came[..end]).into_owned(), &came[end + 4..]))
}

/// A header's value.
fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// Whether all that the answer announces has come.
fn is_whole(came: &[u8]) -> bool {
    let Some((head, body)) = parts(came) else { return false };
    let length = header(&head, "content-length").and_then(|value| value.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

/// The body of an answer with status 200.
fn body_of(came: &[u8]) -> std::result::Result<String, String> {
    let Some((head, body)) = parts(came) else {
        return Err(format!("the answer {} is not HTTP", shown(&String::from_utf8_lossy(came))));
    };
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("the answer was {} {}", shown(status), shown(&String::from_utf8_lossy(body))));
    }
    if let Some(coding) = header(&head, "transfer-encoding").filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err(format!(
            "the answer has the transfer coding {coding:?}; the endpoint must answer with a Content-Length"
        ));
    }
    let length = match header(&head, "content-length") {
        None => body.len(),
        Some(value) => value.parse().map_err(|_| format!("the answer's Content-Length is {value:?}, no number"))?,
    };
    match body.get(..length) {
        Some(body) => Ok(String::from_utf8_lossy(body).into_owned()),
        None => Err(format!("the answer broke off: {} of {length} bytes came", body.len())),
    }
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
            Some("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".into()),
            None,
        ]);
        let mut scorer = HttpScorer::new(&url, Duration::from_secs(3)).unwrap();
        let mut ask = || scorer.score("Is it?\n", &["Yes".into()]);
        assert_eq!(ask().unwrap(), [Likelihood { loglik: -2.5, tokens: 3 }]);
        for message in ["503 Busy", "broke off: 5 of 900", "cannot be read", "is not HTTP", "\"chunked\"", "within 3 s"]
        {
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
    fn an_answer_is_taken_when_it_is_whole_though_the_connection_stays_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/score", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut came = vec![0; 4096];
            let n = stream.read(&mut came).unwrap();
            let body = r#"{"id": 0, "loglik": [-1], "tokens": [1]}"#;
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
            // Until the other side closes, which it does when it has what it wants.
            let rest = stream.read(&mut came[n..]);
            (String::from_utf8_lossy(&came[..n]).into_owned(), rest.is_ok_and(|n| n == 0))
        });
        let mut scorer = HttpScorer::new(&url, Duration::from_secs(600)).unwrap();
        assert_eq!(scorer.score("a", &["b".into()]).unwrap()[0].loglik, -1.0);
        let (head, closed) = served.join().unwrap();
        assert!(closed && head.contains("\r\nConnection: close\r\n"), "{head}");
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
