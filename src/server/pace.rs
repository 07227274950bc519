//! Connections that ask for more than can even be refused.
//!
//! A refusal costs some tens of microseconds of reading, routing and writing: little, but at ten times of what can be searched all
//! processors are busy refusing. So refusals have a rate ([`Refusals`]), and a connection whose refusal is beyond it is not read from until
//! its turn comes ([`Paced`]): what it sends meanwhile waits in the socket, and a client that goes on sending is slowed down by TCP
//! itself. Below that rate, and for connections that are not refused, nothing changes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};

/// Refusals that may come at once before any of them is beyond the rate, as the time in which so many may come.
const BURST: Duration = Duration::from_millis(500);

/// How many refusals a second there may be.
#[derive(Debug)]
pub(super) struct Refusals {
    begun: Instant,
    /// Time of one refusal; zero sets no limit.
    each: Duration,
    /// The longest time that a connection is not read from.
    longest: Duration,
    /// When all refusals so far are paid for, in nanoseconds after `begun`.
    paid_ns: AtomicU64,
}

impl Refusals {
    /// At most `per_second`; 0 sets no limit. `queue` is how long requests may wait: connections rest for three quarters of that at most,
    /// so that they are back before the work that made them wait is done and the workers have none.
    pub(super) fn new(per_second: u64, queue: Duration) -> Refusals {
        let each = Duration::from_secs(1).checked_div(u32::try_from(per_second).unwrap_or(u32::MAX));
        let longest = queue * 3 / 4;
        Refusals { begun: Instant::now(), each: each.unwrap_or_default(), longest, paid_ns: AtomicU64::new(0) }
    }

    /// Counts a refusal; until when its connection should rest, if it is beyond the rate.
    pub(super) fn refuse(&self, now: Instant) -> Option<Instant> {
        let (at, each) = (now.saturating_duration_since(self.begun).as_nanos() as u64, self.each.as_nanos() as u64);
        let most = at + (BURST + self.longest).as_nanos() as u64;
        let next = |paid: u64| (paid.max(at) + each).min(most);
        let before = self.paid_ns.fetch_update(Relaxed, Relaxed, |paid| Some(next(paid))).unwrap_or_default();
        let rest = Duration::from_nanos(next(before) - at).checked_sub(BURST)?;
        Some(now + rest).filter(|_| !rest.is_zero())
    }
}

/// Until when a connection rests; shared by the connection and the requests that it brings.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    begun: Instant,
    until_ns: Arc<AtomicU64>,
}

impl Pace {
    /// A connection that does not rest.
    pub(super) fn new() -> Pace {
        Pace { begun: Instant::now(), until_ns: Arc::default() }
    }

    /// Nothing is read from the connection until then.
    pub(super) fn rest(&self, until: Instant) {
        let until = until.saturating_duration_since(self.begun).as_nanos() as u64;
        self.until_ns.store(until, Relaxed);
    }

    /// Until when it rests, if it does.
    fn resting(&self) -> Option<Instant> {
        let until = self.begun + Duration::from_nanos(self.until_ns.load(Relaxed));
        (until > self.begun && until > Instant::now()).then_some(until)
    }
}

/// A connection that is not read from while it rests.
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pace: Pace) -> Paced<S> {
        Paced { stream, pace, sleep: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while let Some(until) = self.pace.resting() {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until.into())));
            if sleep.deadline() != until.into() {
                sleep.as_mut().reset(until.into());
            }
            ready!(sleep.as_mut().poll(cx));
        }
        self.sleep = None;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[test]
    fn refusals_beyond_the_rate_rest_until_their_turn_and_those_below_do_not() {
        let (refusals, start) = (Refusals::new(100, Duration::from_millis(400)), Instant::now());
        // Fifty may come at once, half a second of them; each later one waits ten milliseconds longer.
        assert!((0..50).all(|_| refusals.refuse(start).is_none()));
        let rests: Vec<Duration> = (0..5).filter_map(|_| Some(refusals.refuse(start)? - start)).collect();
        let near = |found: Duration, ms: u64| found.abs_diff(Duration::from_millis(ms)) < Duration::from_millis(1);
        assert!(rests.len() == 5 && rests.iter().zip(1..).all(|(&rest, turn)| near(rest, 10 * turn)), "{rests:?}");
        // Nobody rests for longer than three quarters of the queue, and as soon as the refusals are paid for nobody rests at all.
        let last = (0..1_000).filter_map(|_| refusals.refuse(start)).last().unwrap();
        assert!(near(last - start, 300));
        let later = start + Duration::from_secs(3);
        assert!((0..10).all(|i| refusals.refuse(later + Duration::from_millis(10 * i)).is_none()));
        let unlimited = Refusals::new(0, Duration::from_millis(400));
        assert!((0..100_000).all(|_| unlimited.refuse(start).is_none()));
    }

    #[tokio::test]
    async fn a_resting_connection_is_written_to_and_read_from_later() {
        let (mut client, server) = duplex(64);
        let pace = Pace::new();
        let mut paced = Paced::new(server, pace.clone());
        client.write_all(b"one").await.unwrap();
        let mut buffer = [0; 3];
        paced.read_exact(&mut buffer).await.unwrap();
        pace.rest(Instant::now() + Duration::from_secs(3_600));
        client.write_all(b"two").await.unwrap();
        paced.write_all(b"503").await.unwrap();
        client.read_exact(&mut buffer).await.unwrap();
        let read = tokio::time::timeout(Duration::from_millis(20), paced.read_exact(&mut buffer)).await;
        assert!(read.is_err(), "it was read while it rested");
        pace.rest(Instant::now());
        paced.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"two");
    }
}
