//! Reads through io_uring: a batch is submitted with one system call, and records are scored as their reads complete.
//!
//! Every thread has a ring of its own (in its [`FetchScratch`]), so nothing is locked. The ring owns the buffers that the
//! kernel writes to, and is empty between fetches: after an error the reads in flight are awaited, and a ring that is
//! dropped with reads in flight, as when a caller's function panics, awaits them too before its buffers go.

use io_uring::{IoUring, opcode, types};
use std::io;
use std::os::fd::AsRawFd;

use super::reads::{Fetch, Slot, Source, fetch};
use super::{FetchScratch, FetchStats, OnRecord};
use crate::error::{Error, Result};
use crate::types::Row;

/// Reads in flight, and entries of the submission queue.
const DEPTH: usize = 64;

/// A thread's ring and its buffers.
pub(super) struct Ring {
    uring: IoUring,
    slots: Vec<Slot>,
    /// Slots whose buffers the kernel does not have.
    free: Vec<usize>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("free", &self.free.len()).finish_non_exhaustive()
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
    source: Source<'_>,
    rows: &[Row],
    scratch: &mut FetchScratch,
    f: OnRecord<'_>,
) -> Result<FetchStats> {
    fetch(source, rows, scratch, f, |fetch, scratch, f| {
        // Taken, and given back only when it is empty.
        let mut ring = match scratch.ring.take() {
            Some(ring) => ring,
            None => Ring::new().map_err(Error::io(&source.files[0].path))?,
        };
        let outcome = run(fetch, &mut ring, f);
        if ring.is_empty() {
            scratch.ring = Some(ring);
        }
        outcome
    })
}

fn run(fetch: &Fetch<'_>, ring: &mut Ring, f: OnRecord<'_>) -> Result<()> {
    let mut next = 0;
    let mut outcome = Ok(());
    loop {
        while outcome.is_ok() && next < fetch.reads.len() && !ring.free.is_empty() {
            outcome = ring.push(fetch, next);
            next += 1;
        }
        if ring.is_empty() {
            return outcome;
        }
        ring.wait().map_err(Error::io(&fetch.source.files[0].path))?;
        while let Some((slot, result)) = ring.completed() {
            if outcome.is_ok() {
                outcome = complete(fetch, &mut ring.slots[slot], result, f);
            }
        }
    }
}

/// Hands out what a read brought. A read that was interrupted, would have blocked or was cut short is done over, and
/// waited for: all three are rare, and the last one may be the end of a damaged file, which has to be told from it.
fn complete(fetch: &Fetch<'_>, slot: &mut Slot, result: i32, f: OnRecord<'_>) -> Result<()> {
    let read = &fetch.reads[slot.read];
    let shard = &fetch.source.files[read.shard];
    match u64::try_from(result) {
        Ok(length) if length == read.length => {}
        Err(_) if !passes(&io::Error::from_raw_os_error(-result)) => {
            return Err(Error::io(&shard.path)(io::Error::from_raw_os_error(-result)));
        }
        _ => shard.file.read_exact_at(read.offset, slot.buffer(read.length))?,
    }
    fetch.deliver(slot, f)
}

/// Whether what failed may well succeed when it is tried again.
fn passes(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, ResourceBusy, WouldBlock};
    matches!(error.kind(), Interrupted | WouldBlock | ResourceBusy)
}

impl Ring {
    fn new() -> io::Result<Ring> {
        let slots = std::iter::repeat_with(Slot::default).take(DEPTH).collect();
        Ok(Ring { uring: IoUring::new(DEPTH as u32)?, slots, free: (0..DEPTH).collect() })
    }

    /// Whether the kernel has none of the buffers.
    fn is_empty(&self) -> bool {
        self.free.len() == DEPTH
    }

    /// Queues read `index` into a free slot's buffer.
    fn push(&mut self, fetch: &Fetch<'_>, index: usize) -> Result<()> {
        let read = &fetch.reads[index];
        let shard = &fetch.source.files[read.shard];
        let failed = |reason| Error::io(&shard.path)(io::Error::other(reason));
        let file = shard.file.as_file().ok_or_else(|| failed("a simulated file cannot be read by a ring"))?;
        let slot = self.free.pop().ok_or_else(|| failed("the ring is full"))?;
        self.slots[slot].read = index;
        let buffer = self.slots[slot].buffer(read.length);
        // Reads are of one record or a few pages, so 32 bits hold the length.
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.as_mut_ptr(), buffer.len() as u32)
            .offset(read.offset)
            .build()
            .user_data(slot as u64);
        // SAFETY: the buffer is writable for its whole length, and belongs to a slot that is not free: nothing reads,
        // grows or frees it until `completed` has seen this entry complete, for `Drop` waits for that, or gives the
        // buffers away for good. The file is open until the kernel has taken the entry, because `wait` returns only
        // then and the caller waits before it gives up `fetch`; from then on the kernel holds the file itself.
        if unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.free.push(slot);
            return Err(failed("the ring is full"));
        }
        Ok(())
    }

    /// Gives the kernel all that is queued, and waits until something has completed.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            match self.uring.submit_and_wait(1) {
                Ok(_) if self.uring.submission().is_empty() => return Ok(()),
                Ok(_) => {}
                // Out of memory for a moment, or a signal came.
                Err(error) if passes(&error) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
    }

    /// The slot and the result of a completed read; the slot is free again.
    fn completed(&mut self) -> Option<(usize, i32)> {
        let done = self.uring.completion().next()?;
        let slot = done.user_data() as usize;
        self.free.push(slot);
        Some((slot, done.result()))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while !self.is_empty() {
            if self.wait().is_err() {
                // The kernel may still write to the buffers, and will not say when it is done: they are never freed.
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
            while self.completed().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::RecordLayout;
    use crate::dense::reads::{ShardFile, plan};
    use crate::format::{FileReader, Kind, PAGE};
    use crate::types::Element;
    use crate::vfs::RealVfs;
    use std::path::Path;

    /// One shard of ten records of 400 bytes, its reads for rows 2 and 3, and what is done with them.
    fn with_fetch(test: impl Fn(&Fetch<'_>, &Path)) {
        let dir = tempfile::tempdir().unwrap();
        let layout = RecordLayout::new(Element::F32, 97);
        let mut writer = crate::dense::DenseWriter::new(&RealVfs, dir.path(), [0; 16], layout);
        for key in 0..10 {
            let mut record = vec![0; layout.stride()];
            layout.encode(&[0.5; 97], key, &mut record).unwrap();
            writer.push_record(&record).unwrap();
        }
        let path = dir.path().join(&writer.finish().unwrap()[0].name);
        let file = FileReader::open(&RealVfs, &path, Kind::Dense, None).unwrap();
        let files = ShardFile::open_all(&RealVfs, vec![file], false, &mut Vec::new());
        let mut reads = Vec::new();
        plan(&layout, &[2, 3], &mut reads);
        let source = Source { files: &files, layout: &layout, cache: None };
        test(&Fetch { source, rows: &[2, 3], reads: &reads }, &path);
    }

    fn keys_after(fetch: &Fetch<'_>, result: i32) -> Result<Vec<u64>> {
        let mut keys = Vec::new();
        let mut slot = Slot::default();
        slot.buffer(fetch.reads[0].length);
        complete(fetch, &mut slot, result, &mut |_, record| keys.push(record.key()))?;
        Ok(keys)
    }

    #[test]
    fn reads_that_did_not_complete_are_done_over_or_told() {
        use rustix::io::Errno;
        with_fetch(|fetch, path| {
            for result in [-Errno::AGAIN.raw_os_error(), -Errno::INTR.raw_os_error(), 0, 1, PAGE as i32 - 512] {
                assert_eq!(keys_after(fetch, result).unwrap(), [2, 3], "{result}");
            }
            let failed = keys_after(fetch, -Errno::IO.raw_os_error()).unwrap_err();
            assert!(matches!(&failed, Error::Io { path: named, .. } if named == path), "{failed}");
            // The buffer was never filled: a full length alone proves nothing.
            assert!(matches!(keys_after(fetch, PAGE as i32), Err(Error::Corrupt { .. })));
            std::fs::File::options().write(true).open(path).unwrap().set_len(PAGE + 100).unwrap();
            let Err(Error::Io { source, .. }) = keys_after(fetch, 100) else { panic!("a cut file") };
            assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof);
        });
    }

    #[test]
    fn a_ring_awaits_its_reads_before_its_buffers_go() {
        if let Err(error) = probe() {
            eprintln!("SKIPPED: io_uring: {error}");
            return;
        }
        with_fetch(|fetch, _| {
            let mut ring = Ring::new().unwrap();
            (0..DEPTH).for_each(|_| ring.push(fetch, 0).unwrap());
            assert!(ring.push(fetch, 0).is_err(), "no slot is free");
            ring.wait().unwrap();
            assert_eq!(ring.completed().unwrap().1, PAGE as i32);
            assert!(!ring.is_empty());
            drop(ring);
        });
    }
}
