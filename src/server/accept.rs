//! The accept loop.
//!
//! The easy version is `axum::serve`. The departures:
//! - *Header timeout*: `axum::serve` has none, so a client that sends one header byte a minute holds a connection for
//!   ever. Here hyper closes it; the same timer ends idle kept-alive connections. Connections that came together do not end
//!   together ([`header_timeout`]): a thousand ends at once, and a thousand new connections after them, would make all
//!   others wait.
//! - *Connection cap*: beyond it a connection is told 503 and closed. It costs no task.
//! - *Drain with an end*: after the shutdown signal nothing is accepted, idle connections close, running requests get
//!   `timeouts.drain_ms`; what is left then is cut.
//!
//! - *TLS*, where the settings name a certificate ([`super::tls`]): the handshake has a time limit of its own and is done by
//!   the connection's task, so that a slow one holds up nobody.
//!
//! - *Refusals have a rate* ([`super::pace`]): a connection whose refusal is beyond it is not read from for a while.
//!
//! Deliberately absent: HTTP/2 (it multiplies what one connection can ask for; put a proxy in front).

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::pace::{Pace, Paced};
use super::routes::router;
use super::service::Service;

/// Most bytes of a request's headers.
const HEADER_BYTES: usize = 64 << 10;

/// What a connection beyond the cap is told.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 159\r\n\r\n{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
\"code\":\"too_many_connections\",\"detail\":\"too many connections are open\",\"remedy\":\"retry later\"}";

/// Serves `service` on `listener` until `shutdown` resolves, then drains. Returns whether all requests were answered.
pub async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>, service: Arc<Service>) -> bool {
    let mut connections = JoinSet::new();
    let graceful = GracefulShutdown::new();
    let routes = TowerToHyperService::new(router(service.clone()));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).max_buf_size(HEADER_BYTES);
    let longest = Duration::from_millis(service.config().timeouts.header_ms);
    let mut accepted_before = 0_u64;
    let mut shutdown = pin!(shutdown);
    let mut seconds = interval(Duration::from_secs(1));
    seconds.tick().await; // The first one comes at once.
    if let Ok(address) = listener.local_addr() {
        let _ = service.platform.address.set(address);
    }
    loop {
        service.metrics.connections.store(connections.len() as u64, Relaxed);
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            _ = seconds.tick() => service.platform.status.tick(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() >= service.config().limits.connections => {
                    service.metrics.refused.fetch_add(1, Relaxed);
                    // Without a handshake there is nothing that could be said.
                    if service.platform.tls.is_none() {
                        refuse(&stream);
                    }
                }
                Ok((stream, _)) => {
                    // Answers are small and written at once: waiting to fill packets would only delay them.
                    let _ = stream.set_nodelay(true);
                    let (service, watcher) = (service.clone(), graceful.watcher());
                    let (mut builder, routes) = (builder.clone(), routes.clone());
                    builder.header_read_timeout(header_timeout(longest, accepted_before));
                    accepted_before += 1;
                    connections.spawn(async move {
                        let pace = Pace::new();
                        let known = pace.clone();
                        let routes = service_fn(move |mut request: Request<Incoming>| {
                            request.extensions_mut().insert(known.clone());
                            routes.call(request)
                        });
                        // Errors here are the client's going away or sending what is not HTTP; hyper has answered 400.
                        match handshake(&service, stream).await {
                            Some(Connection::Plain(stream)) => {
                                let io = TokioIo::new(Paced::new(stream, pace));
                                watcher.watch(builder.serve_connection(io, routes)).await.is_ok()
                            }
                            Some(Connection::Encrypted(stream)) => {
                                let io = TokioIo::new(Paced::new(*stream, pace));
                                watcher.watch(builder.serve_connection(io, routes)).await.is_ok()
                            }
                            None => false,
                        }
                    });
                }
                Err(error) => {
                    // Out of file handles, most likely: let some connections end.
                    tracing::warn!(%error, "accept failed");
                    sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    service.drain();
    let drained = timeout(Duration::from_millis(service.config().timeouts.drain_ms), graceful.shutdown()).await.is_ok();
    connections.shutdown().await;
    drained
}

/// How long a client may take for the headers of a request, the `turn`th since the start: four fifths of `longest` up to
/// all of it. Turns by the golden ratio keep any run of connections spread evenly over that fifth.
fn header_timeout(longest: Duration, turn: u64) -> Duration {
    /// The fractional part of the golden ratio, of 2^64.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let fraction = (turn.wrapping_mul(GOLDEN) >> 32) as f64 / 2.0_f64.powi(32);
    longest.mul_f64(1.0 - fraction / 5.0)
}

/// A connection on which HTTP can be spoken.
enum Connection {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// Begins to encrypt the connection, if the settings ask for it; none where the client does not, or not in time.
async fn handshake(service: &Service, stream: TcpStream) -> Option<Connection> {
    let Some(acceptor) = &service.platform.tls else { return Some(Connection::Plain(stream)) };
    let limit = Duration::from_millis(service.config().tls.handshake_ms);
    match timeout(limit, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(Connection::Encrypted(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Tells a connection beyond the cap to come back, as far as that is possible without waiting for it.
fn refuse(stream: &TcpStream) {
    // Closing a socket with unread input resets the connection and may take the answer with it.
    let _ = stream.try_read(&mut [0; 4096]);
    let _ = stream.try_write(TOO_MANY);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn connections_that_came_together_end_apart() {
        let longest = Duration::from_secs(10);
        for first in [0, 12_345, u64::MAX - 500] {
            let mut limits: Vec<_> =
                (0..1000).map(|turn| super::header_timeout(longest, first.wrapping_add(turn))).collect();
            limits.sort();
            assert!(limits[0] >= Duration::from_secs(8) && limits[999] <= longest, "{limits:?}");
            // Two seconds hold a thousand ends: never more than 25 in any 20 ms.
            assert!(limits.windows(25).all(|some| some[24] - some[0] > Duration::from_millis(20)), "{limits:?}");
        }
    }

    #[test]
    fn the_refusal_states_its_true_length() {
        let text = std::str::from_utf8(super::TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
    }
}
