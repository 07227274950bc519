//! Positioned reads. What lies in the page cache is read at once by the calling thread; the rest goes to a fixed pool of
//! threads, many reads at a time, and is scored as it arrives.
//!
//! Threads are started when the index is opened. A query sends its buffers to the pool and gets them back through a
//! channel of its own, so nothing is shared between queries but the queue.

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use std::sync::Arc;

use super::reads::{Read, ShardFile, Slot, deliver, plan};
use super::{FetchScratch, FetchStats, RecordLayout, RecordRef};
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
    direct: bool,
}

/// A read for the pool.
struct Job {
    slot: Slot,
    read: Read,
    reply: Sender<(Slot, Result<()>)>,
}

/// Where a thread's reads come back.
#[derive(Debug)]
pub(super) struct Replies {
    sender: Sender<(Slot, Result<()>)>,
    receiver: Receiver<(Slot, Result<()>)>,
}

impl Replies {
    fn new() -> Replies {
        let (sender, receiver) = unbounded();
        Replies { sender, receiver }
    }
}

impl PreadReader {
    pub(super) fn new(files: Vec<ShardFile>, direct: bool) -> PreadReader {
        let files = Arc::new(files);
        let (jobs, queue) = bounded::<Job>(THREADS * 4);
        for i in 0..THREADS {
            let (files, queue) = (Arc::clone(&files), queue.clone());
            // They end when the sender is dropped with the reader. A system that cannot start one has fewer.
            let _ = std::thread::Builder::new().name(format!("bigrain-read-{i}")).spawn(move || serve(&files, &queue));
        }
        PreadReader { files, jobs, direct }
    }

    /// See [`super::DenseSet::for_each`].
    pub(super) fn for_each(
        &self,
        layout: &RecordLayout,
        rows: &[Row],
        scratch: &mut FetchScratch,
        f: &mut dyn FnMut(usize, RecordRef<'_>),
    ) -> Result<FetchStats> {
        let mut reads = std::mem::take(&mut scratch.plan);
        plan(layout, rows, &mut reads);
        let done = self.run(layout, rows, &reads, scratch, f);
        let bytes = reads.iter().map(|read| read.length as usize).sum();
        let stats = FetchStats { vectors: rows.len(), bytes, reads: reads.len() };
        scratch.plan = reads;
        done.map(|()| stats)
    }

    fn run(
        &self,
        layout: &RecordLayout,
        rows: &[Row],
        reads: &[Read],
        scratch: &mut FetchScratch,
        f: &mut dyn FnMut(usize, RecordRef<'_>),
    ) -> Result<()> {
        let FetchScratch { slots, channel, .. } = scratch;
        let replies = channel.get_or_insert_with(Replies::new);
        let mut in_flight = 0;
        let mut outcome = Ok(());
        for (i, read) in reads.iter().enumerate() {
            if in_flight == IN_FLIGHT {
                in_flight -= 1;
                outcome = outcome.and(self.receive(layout, rows, reads, replies, slots, f));
            }
            if outcome.is_err() {
                break;
            }
            let mut slot = slots.pop().unwrap_or_default();
            slot.read = i;
            if !self.direct && self.read_cached(read, &mut slot) {
                outcome = deliver(&self.files, layout, rows, read, &slot, f);
                slots.push(slot);
                continue;
            }
            slot.buffer(read);
            let job = Job { slot, read: read.clone(), reply: replies.sender.clone() };
            if self.jobs.send(job).is_err() {
                return Err(stopped(&self.files[read.shard]));
            }
            in_flight += 1;
        }
        // Every buffer comes home, also after an error.
        for _ in 0..in_flight {
            let received = self.receive(layout, rows, reads, replies, slots, f);
            outcome = outcome.and(received);
        }
        outcome
    }

    /// Waits for one read and hands out its records.
    fn receive(
        &self,
        layout: &RecordLayout,
        rows: &[Row],
        reads: &[Read],
        replies: &Replies,
        slots: &mut Vec<Slot>,
        f: &mut dyn FnMut(usize, RecordRef<'_>),
    ) -> Result<()> {
        let (slot, read) = replies.receiver.recv().map_err(|_| stopped(&self.files[0]))?;
        let delivered = read.and_then(|()| deliver(&self.files, layout, rows, &reads[slot.read], &slot, f));
        slots.push(slot);
        delivered
    }

    /// Reads without waiting for the device; false if that would not do.
    fn read_cached(&self, read: &Read, slot: &mut Slot) -> bool {
        let shard = &self.files[read.shard];
        let buffer = slot.buffer(read);
        #[cfg(target_os = "linux")]
        if let Some(file) = shard.file.as_file() {
            use rustix::io::{ReadWriteFlags, preadv2};
            let length = buffer.len();
            let slices = &mut [std::io::IoSliceMut::new(buffer)];
            return preadv2(file, slices, read.offset, ReadWriteFlags::NOWAIT).is_ok_and(|n| n == length);
        }
        shard.file.read_exact_at(read.offset, buffer).is_ok()
    }
}

/// A thread of the pool.
fn serve(files: &[ShardFile], queue: &Receiver<Job>) {
    while let Ok(Job { mut slot, read, reply }) = queue.recv() {
        let done = files[read.shard].file.read_exact_at(read.offset, slot.buffer(&read));
        // A query that gave up does not listen.
        let _ = reply.send((slot, done));
    }
}

fn stopped(file: &ShardFile) -> Error {
    Error::io(&file.path)(std::io::Error::other("the reader threads could not be started"))
}
