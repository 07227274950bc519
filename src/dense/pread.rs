//! Positioned reads. What lies in the page cache is read at once by the calling thread; the rest goes to a fixed pool of
//! threads, many reads at a time, and is scored as it arrives.
//!
//! Threads are started when the index is opened. A query sends its buffers to the pool and gets them back through a
//! channel of its own, so nothing is shared between queries but the queue.

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use std::sync::Arc;

use super::cache::PageCache;
use super::reads::{Fetch, Read, ShardFile, Slot, Source, fetch};
use super::{FetchScratch, FetchStats, OnRecord, RecordLayout};
use crate::error::{Error, Result};
use crate::types::Row;

/// Threads that wait for the device.
const THREADS: usize = 32;
/// Reads of one query in flight.
const IN_FLIGHT: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct PreadReader {
    files: Arc<Vec<ShardFile>>,
    jobs: Sender<Job>,
}

/// A read for the pool.
struct Job {
    slot: Slot,
    shard: usize,
    offset: u64,
    length: u64,
    reply: Sender<Reply>,
}

/// A buffer that comes home, and whether it was filled.
type Reply = (Slot, Result<()>);

/// Where a thread's reads come back.
#[derive(Debug)]
pub(super) struct Replies {
    sender: Sender<Reply>,
    receiver: Receiver<Reply>,
}

impl Default for Replies {
    fn default() -> Replies {
        let (sender, receiver) = unbounded();
        Replies { sender, receiver }
    }
}

impl PreadReader {
    pub(super) fn new(files: Vec<ShardFile>) -> PreadReader {
        let files = Arc::new(files);
        let (jobs, queue) = bounded::<Job>(THREADS * 4);
        for i in 0..THREADS {
            let (files, queue) = (Arc::clone(&files), queue.clone());
            // They end when the sender is dropped with the reader. A system that cannot start one has fewer.
            let _ = std::thread::Builder::new().name(format!("bigrain-read-{i}")).spawn(move || serve(&files, &queue));
        }
        PreadReader { files, jobs }
    }

    /// See [`super::DenseSet::for_each`].
    pub(super) fn for_each(
        &self,
        layout: &RecordLayout,
        cache: Option<&PageCache>,
        rows: &[Row],
        scratch: &mut FetchScratch,
        f: OnRecord<'_>,
    ) -> Result<FetchStats> {
        let source = Source { files: &self.files, layout, cache };
        fetch(source, rows, scratch, f, |fetch, scratch, f| {
            // Taken, and given back only with every reply received: after a panic of `f`, or without a pool, replies
            // may still come, and they must not be taken for those of the next fetch.
            let replies = scratch.replies.take().unwrap_or_default();
            let mut in_flight = 0;
            let mut outcome = self.run(fetch, &replies, &mut in_flight, &mut scratch.slots, f);
            while in_flight > 0 {
                let (slot, read) = receive(&replies, &mut in_flight);
                outcome = outcome.and_then(|()| read.and_then(|()| fetch.deliver(&slot, f)));
                scratch.slots.push(slot);
            }
            scratch.replies = Some(replies);
            outcome
        })
    }

    /// Does every read or hands it to the pool; ends at the first error, with `in_flight` replies to come.
    fn run(
        &self,
        fetch: &Fetch<'_>,
        replies: &Replies,
        in_flight: &mut usize,
        slots: &mut Vec<Slot>,
        f: OnRecord<'_>,
    ) -> Result<()> {
        for (i, read) in fetch.reads.iter().enumerate() {
            let mut slot = slots.pop().unwrap_or_default();
            slot.read = i;
            if read_cached(&self.files[read.shard], read, &mut slot) {
                let delivered = fetch.deliver(&slot, f);
                slots.push(slot);
                delivered?;
                continue;
            }
            let Read { shard, offset, length, .. } = *read;
            let reply = replies.sender.clone();
            if self.jobs.send(Job { slot, shard, offset, length, reply }).is_err() {
                let reason = std::io::Error::other("no thread could be started to read it");
                return Err(Error::io(&self.files[shard].path)(reason));
            }
            *in_flight += 1;
            if *in_flight == IN_FLIGHT {
                let (slot, read) = receive(replies, in_flight);
                let delivered = read.and_then(|()| fetch.deliver(&slot, f));
                slots.push(slot);
                delivered?;
            }
        }
        Ok(())
    }
}

/// Waits for one read.
fn receive(replies: &Replies, in_flight: &mut usize) -> Reply {
    *in_flight -= 1;
    replies.receiver.recv().expect("the sender lives beside the receiver")
}

/// Reads what lies in the page cache without waiting for the device; false if not all of it does.
#[cfg(target_os = "linux")]
fn read_cached(shard: &ShardFile, read: &Read, slot: &mut Slot) -> bool {
    use rustix::io::{ReadWriteFlags, preadv2};
    let Some(file) = shard.file.as_file().filter(|_| !shard.direct) else { return false };
    let buffer = slot.buffer(read.length);
    let length = buffer.len();
    let slices = &mut [std::io::IoSliceMut::new(buffer)];
    preadv2(file, slices, read.offset, ReadWriteFlags::NOWAIT).is_ok_and(|n| n == length)
}

/// Other systems cannot tell.
#[cfg(not(target_os = "linux"))]
fn read_cached(_: &ShardFile, _: &Read, _: &mut Slot) -> bool {
    false
}

/// A thread of the pool.
fn serve(files: &[ShardFile], queue: &Receiver<Job>) {
    while let Ok(Job { mut slot, shard, offset, length, reply }) = queue.recv() {
        let done = files[shard].file.read_exact_at(offset, slot.buffer(length));
        // A query that gave up does not listen.
        let _ = reply.send((slot, done));
    }
}
