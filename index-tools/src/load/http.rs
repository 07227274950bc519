//! As much of an HTTP/1.1 client as a load needs: requests are bytes that lie ready, answers are read to their end.
//!
//! A general client would cost several times more processor time a request, on a machine that it may share with the server.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use bigrain::error::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest head of an answer.
const HEAD: usize = 64 << 10;
/// The longest answer.
const ANSWER: usize = 1 << 30;

/// A server and a collection on it.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) address: SocketAddr,
    host: String,
    prefix: String,
    api_key: Option<String>,
}

impl Target {
    /// The collection `collection` at `url` (`http://host:port`, perhaps with a path before `/v1`); `api_key` is sent as a
    /// Bearer token.
    ///
    /// # Errors
    /// A URL of another kind; a host without an address; a key or name that cannot stand in a head.
    pub fn new(url: &str, collection: &str, api_key: Option<String>) -> Result<Target> {
        let wrong = |reason: String| Error::params("url", format!("{url:?} {reason}"));
        let rest = url.strip_prefix("http://");
        let rest = rest.ok_or_else(|| wrong("does not start with http:// (TLS is not spoken here)".to_string()))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host.to_string()
        } else {
            format!("{host}:80")
        };
        let mut addresses = with_port.to_socket_addrs().map_err(|error| wrong(format!("has no address: {error}")))?;
        let address = addresses.next().ok_or_else(|| wrong("has no address".to_string()))?;
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain(url) || !plain(collection) || !api_key.as_deref().is_none_or(plain) {
            return Err(wrong("the collection or the API key has a space or a character beyond ASCII".to_string()));
        }
        let path = path.trim_end_matches('/');
        let before = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Target { address, host: host.to_string(), prefix: format!("{before}/v1/collections/{collection}"), api_key })
    }

    /// The bytes of one request for `path` within the collection.
    pub(super) fn request(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Vec<u8> {
        let Target { host, prefix, .. } = self;
        let key = self.api_key.as_ref().map_or(String::new(), |key| format!("authorization: Bearer {key}\r\n"));
        let length = body.len();
        let head = format!(
            "{method} {prefix}{path} HTTP/1.1\r\nhost: {host}\r\n{key}content-type: {media_type}\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }
}

/// Why there was no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection was made.
    Connect(io::Error),
    /// The connection ended before a byte of an answer: where it was used before, the server may have closed it meanwhile.
    Unanswered,
    /// It ended, or what came was no HTTP answer, in the middle.
    Broken(io::Error),
}

impl Failure {
    /// What it is counted as.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Failure::Connect(_) => "connect",
            Failure::Unanswered => "closed",
            Failure::Broken(_) => "broken",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect(error) => write!(f, "no connection: {error}"),
            Failure::Unanswered => write!(f, "the connection was closed without an answer"),
            Failure::Broken(error) => write!(f, "{error}"),
        }
    }
}

/// One answer.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
    /// Whether the server closes the connection after it.
    pub(super) closes: bool,
}

/// A kept-alive connection.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> std::result::Result<Connection, Failure> {
        let stream = TcpStream::connect(address).await.map_err(Failure::Connect)?;
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        Ok(Connection { stream, buffer: Vec::new() })
    }

    /// Sends `request` and reads its answer.
    pub(super) async fn ask(&mut self, request: &[u8]) -> std::result::Result<Reply<'_>, Failure> {
        self.buffer.clear();
        // A server that sheds may answer and close before it has read everything: what counts is whether it answered.
        let _ = self.stream.write_all(request).await;
        let head = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.buffer.len() > HEAD {
                return Err(broken("the head of the answer does not end"));
            }
            self.read_more().await?;
        };
        let Head { status, length, closes } = Head::parse(&self.buffer[..head])?;
        while self.buffer.len() < head + length {
            self.read_more().await?;
        }
        Ok(Reply { status, body: &self.buffer[head..head + length], closes })
    }

    async fn read_more(&mut self) -> std::result::Result<(), Failure> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) if self.buffer.is_empty() => Err(Failure::Unanswered),
            Ok(0) => Err(broken("the connection ended in the middle of an answer")),
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::Broken(error)),
        }
    }
}

fn broken(what: &str) -> Failure {
    Failure::Broken(io::Error::new(io::ErrorKind::InvalidData, what))
}

pub(super) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: usize,
    closes: bool,
}

impl Head {
    fn parse(head: &[u8]) -> std::result::Result<Head, Failure> {
        let text = std::str::from_utf8(head).map_err(|_| broken("the head of the answer is no text"))?;
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default();
        let status = start.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let status = status.ok_or_else(|| broken("what answers is no HTTP/1.1 server"))?;
        let (mut length, mut closes) = (None, start.starts_with("HTTP/1.0"));
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().ok().filter(|length| *length <= ANSWER);
            } else if name.eq_ignore_ascii_case("connection") {
                closes |= value.eq_ignore_ascii_case("close");
            }
        }
        let length = length.or((status == 204).then_some(0));
        let length = length.ok_or_else(|| broken("the answer has no usable Content-Length"))?;
        Ok(Head { status, length, closes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_good_and_bad() {
        let parse = |text: &str| Head::parse(text.as_bytes()).ok();
        let head = |status, length, closes| Some(Head { status, length, closes });
        assert_eq!(parse("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n"), head(200, 12, false));
        assert_eq!(parse("HTTP/1.1 503 Busy\r\nContent-Length:0\r\nConnection: Close\r\n\r\n"), head(503, 0, true));
        assert_eq!(parse("HTTP/1.1 204 No Content\r\n\r\n"), head(204, 0, false));
        for bad in [
            "",
            "SSH-2.0",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn targets_good_and_bad() {
        let target = Target::new("http://127.0.0.1:7700/before/", "ads", Some("k".to_string())).unwrap();
        let request = String::from_utf8(target.request("POST", "/search", "application/json", b"{}")).unwrap();
        assert!(
            request.starts_with("POST /before/v1/collections/ads/search HTTP/1.1\r\nhost: 127.0.0.1:7700\r\n"),
            "{request}"
        );
        assert!(
            request.contains("\r\nauthorization: Bearer k\r\n") && request.ends_with("content-length: 2\r\n\r\n{}")
        );
        assert_eq!(Target::new("http://127.0.0.1", "ads", None).unwrap().address.port(), 80);
        for (url, collection) in
            [("https://127.0.0.1", "ads"), ("127.0.0.1:7700", "ads"), ("http://127.0.0.1:1", "a b")]
        {
            assert!(Target::new(url, collection, None).is_err(), "{url} {collection}");
        }
    }
}
