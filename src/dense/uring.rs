//! Reads through io_uring: a batch is submitted with one system call, and records are scored as their reads complete.
//!
//! Every thread has a ring of its own (in its [`FetchScratch`]), so nothing is locked. A ring is empty between fetches:
//! also after an error, all reads in flight are awaited before the buffers may be used again.

use io_uring::{IoUring, opcode, types};
use std::io;
use std::os::fd::AsRawFd;

use super::reads::{Read, ShardFile, Slot, deliver, plan};
use super::{FetchScratch, FetchStats, RecordLayout, RecordRef};
use crate::error::{Error, Result};
use crate::types::Row;

/// Reads in flight.
const DEPTH: usize = 64;

/// A thread's ring.
pub(super) struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

/// Whether this system lets us make a ring and read with it (containers often forbid it).
pub(super) fn probe() -> io::Result<()> {
    let ring = IoUring::new(8)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    if probe.is_supported(opcode::Read::CODE) { Ok(()) } else { Err(io::Error::other("it lacks the read operation")) }
}

/// See [`super::DenseSet::for_each`].
pub(super) fn for_each(
    files: &[ShardFile],
    layout: &RecordLayout,
    rows: &[Row],
    scratch: &mut FetchScratch,
    f: &mut dyn FnMut(usize, RecordRef<'_>),
) -> Result<FetchStats> {
    let mut reads = std::mem::take(&mut scratch.plan);
    plan(layout, rows, &mut reads);
    let mut batch = Batch { files, layout, rows, reads: &reads };
    let done = batch.run(scratch, f);
    let bytes = reads.iter().map(|read| read.length as usize).sum();
    let stats = FetchStats { vectors: rows.len(), bytes, reads: reads.len() };
    scratch.plan = reads;
    done.map(|()| stats)
}

/// What one fetch reads.
struct Batch<'a> {
    files: &'a [ShardFile],
    layout: &'a RecordLayout,
    rows: &'a [Row],
    reads: &'a [Read],
}

impl Batch<'_> {
    fn run(&mut self, scratch: &mut FetchScratch, f: &mut dyn FnMut(usize, RecordRef<'_>)) -> Result<()> {
        let FetchScratch { ring, slots, .. } = scratch;
        let ring = match ring {
            Some(ring) => ring,
            None => ring.insert(Ring(IoUring::new(DEPTH as u32).map_err(Error::io(&self.files[0].path))?)),
        };
        if slots.len() < DEPTH {
            slots.resize_with(DEPTH, Slot::default);
        }
        let mut free: usize = DEPTH;
        let mut free_slots: [usize; DEPTH] = std::array::from_fn(|i| i);
        let mut next = 0;
        let mut outcome = Ok(());
        while free < DEPTH || (next < self.reads.len() && outcome.is_ok()) {
            while free > 0 && next < self.reads.len() && outcome.is_ok() {
                free -= 1;
                let slot = free_slots[free];
                if let Err(error) = self.submit(ring, slots, slot, next) {
                    free += 1;
                    outcome = Err(error);
                }
                next += 1;
            }
            if free == DEPTH {
                break;
            }
            if let Err(error) = ring.0.submit_and_wait(1)
                && error.kind() != io::ErrorKind::Interrupted
            {
                self.abandon(scratch);
                return Err(Error::io(&self.files[0].path)(error));
            }
            while let Some(done) = ring.0.completion().next() {
                let slot = done.user_data() as usize;
                free_slots[free] = slot;
                free += 1;
                if outcome.is_ok() {
                    outcome = self.complete(&mut slots[slot], done.result(), f);
                }
            }
        }
        outcome
    }

    /// Queues a read into a slot's buffer.
    fn submit(&self, ring: &mut Ring, slots: &mut [Slot], slot: usize, index: usize) -> Result<()> {
        let read = &self.reads[index];
        let shard = &self.files[read.shard];
        let Some(file) = shard.file.as_file() else {
            return Err(Error::io(&shard.path)(io::Error::other("a simulated file cannot be read by a ring")));
        };
        slots[slot].read = index;
        let buffer = slots[slot].buffer(read);
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.as_mut_ptr(), read.length as u32)
            .offset(read.offset)
            .build()
            .user_data(slot as u64);
        // SAFETY: the buffer belongs to a slot of the scratch, which is not moved, grown or read before the completion
        // of this entry has been taken from the ring: `run` returns only when every entry has completed (or leaks the
        // buffers and the ring, see `abandon`). The file lives as long as the set of shards.
        unsafe { ring.0.submission().push(&entry) }
            .map_err(|_| Error::io(&shard.path)(io::Error::other("the ring is full")))
    }

    /// Hands out what a read brought; a read that was cut short (by a signal) is completed at once.
    fn complete(&self, slot: &mut Slot, result: i32, f: &mut dyn FnMut(usize, RecordRef<'_>)) -> Result<()> {
        let read = &self.reads[slot.read];
        let shard = &self.files[read.shard];
        if result < 0 && result != -libc_eagain() {
            return Err(Error::io(&shard.path)(io::Error::from_raw_os_error(-result)));
        }
        if (result as i64) < read.length as i64 {
            shard.file.read_exact_at(read.offset, slot.buffer(read))?;
        }
        deliver(self.files, self.layout, self.rows, read, slot, f)
    }

    /// The ring itself failed with reads in flight: their buffers must outlive them, so they are given up.
    fn abandon(&self, scratch: &mut FetchScratch) {
        std::mem::forget(std::mem::take(&mut scratch.slots));
        std::mem::forget(scratch.ring.take());
    }
}

fn libc_eagain() -> i32 {
    rustix::io::Errno::AGAIN.raw_os_error()
}
