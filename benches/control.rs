//! What the control table costs: `cargo bench --bench control`.
//!
//! Durable calls on the real file system, in the folder for temporary files, so that its syncs are part of the figures; the same pause in
//! memory, which is the work without them; what a candidate of a search costs; a million ads with records of their own.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bigrain::ads::control::{Control, Field, Level, MAX_PATCHES, Owner, Patch, Status};
use bigrain::build::peak_memory;
use bigrain::error::{Error, Result};
use bigrain::sample::Rng;
use bigrain::vfs::{MemoryVfs, RealVfs, Vfs};

/// Ad groups of the campaign that is paused.
const EACH: u64 = 1_000;

fn main() -> Result<()> {
    for all in [10_000, 1_000_000] {
        pausing_a_campaign(all)?;
    }
    updates_a_second()?;
    the_cost_of_a_standing()?;
    ads_with_records_of_their_own()
}

fn temporary() -> Result<tempfile::TempDir> {
    tempfile::tempdir().map_err(Error::io("folder for temporary files"))
}

fn open(vfs: Arc<dyn Vfs>, dir: &Path) -> Result<Control> {
    Control::open(vfs, dir)
}

fn in_memory() -> Result<Control> {
    open(Arc::new(MemoryVfs::new()), Path::new("/control"))
}

/// `groups` ad groups spread over campaigns of `each`, in an order that scatters those of one campaign.
fn groups(groups: u64, each: u64) -> impl Iterator<Item = Patch> {
    let campaigns = groups / each;
    (0..groups).map(move |n| Patch {
        parent: Field::Set(1 + n % campaigns),
        bid_micros: Field::Set(n),
        ..Patch::new(Level::AdGroup, 1 + n)
    })
}

/// `ads` ads with a click rate and status of their own in `groups` ad groups.
fn ads(ads: u64, groups: u64) -> impl Iterator<Item = Patch> {
    (0..ads).map(move |key| Patch {
        parent: Field::Set(1 + key % groups),
        ctr: Field::Set(0.01),
        status: Field::Set(Status::Active),
        ..Patch::new(Level::Ad, key)
    })
}

fn load(control: &Control, patches: impl Iterator<Item = Patch>) -> Result<()> {
    let mut patches = patches.peekable();
    while patches.peek().is_some() {
        control.apply(patches.by_ref().take(MAX_PATCHES).collect())?;
    }
    Ok(())
}

fn pause(level: Level, id: u64) -> Patch {
    Patch { status: Field::Set(Status::Paused), ..Patch::new(level, id) }
}

/// Milliseconds that `work` takes, the median of several.
fn median(times: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let begin = Instant::now();
        work()?;
        taken.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken[times / 2])
}

fn pausing_a_campaign(all: u64) -> Result<()> {
    let dir = temporary()?;
    let (durable, volatile) = (open(Arc::new(RealVfs), dir.path())?, in_memory()?);
    for control in [&durable, &volatile] {
        load(control, groups(all, EACH))?;
        load(control, ads(100_000, all))?;
    }
    let time = |control: &Control, level, id| median(21, || control.apply(vec![pause(level, id)]).map(drop));
    let one = time(&durable, Level::AdGroup, 5)?;
    let (campaign, work) = (time(&durable, Level::Campaign, 2)?, time(&volatile, Level::Campaign, 2)?);
    println!(
        "of {all} ad groups: pause one {one:.2} ms, a campaign of {EACH} {campaign:.2} ms, {work:.2} ms in memory"
    );
    Ok(())
}

fn updates_a_second() -> Result<()> {
    const CALLS: u64 = 500;
    let dir = temporary()?;
    let control = open(Arc::new(RealVfs), dir.path())?;
    load(&control, groups(10_000, 100))?;
    for threads in [1, 4, 16, 64] {
        let begin = Instant::now();
        let work = |thread: u64| -> Result<()> {
            (0..CALLS).try_for_each(|n| {
                let group = 1 + (thread * CALLS + n) % 10_000;
                let bid = Patch { bid_micros: Field::Set(n), ..Patch::new(Level::AdGroup, group) };
                control.apply(vec![bid]).map(drop)
            })
        };
        std::thread::scope(|scope| {
            let work = &work;
            let callers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
            callers.into_iter().try_for_each(|caller| caller.join().expect("no caller panics"))
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        println!("{threads} callers: {:.0} calls/s, each durable", (threads * CALLS) as f64 / seconds);
    }
    Ok(())
}

fn the_cost_of_a_standing() -> Result<()> {
    const CALLS: usize = 4_000_000;
    let control = in_memory()?;
    load(&control, groups(1_000_000, 100))?;
    load(&control, ads(1_000_000, 1_000_000))?;
    let epoch = control.epoch();
    let mut rng = Rng::new(1);
    for all in [1_000, 1_000_000] {
        let of_groups: Vec<Owner> = (0..CALLS).map(|_| control.owner_of_group(1 + rng.below(all))).collect();
        let of_ads: Vec<Owner> = (0..CALLS).filter_map(|_| control.owner_of_ad(rng.below(all))).collect();
        for (kind, owners) in [("ad groups", of_groups), ("ads of their own", of_ads)] {
            let ms = median(5, || {
                let open = owners.iter().filter(|&&owner| epoch.standing(owner).eligible(0).is_ok()).count();
                assert_eq!(black_box(open), CALLS);
                Ok(())
            })?;
            println!("standing, at random among {all} {kind}: {:.1} ns", ms * 1e6 / CALLS as f64);
        }
    }
    Ok(())
}

fn ads_with_records_of_their_own() -> Result<()> {
    let dir = temporary()?;
    let real = || open(Arc::new(RealVfs), dir.path());
    let begin = Instant::now();
    let control = real()?;
    load(&control, groups(10_000, 100))?;
    load(&control, ads(1_000_000, 10_000))?;
    println!("applied in {:.2} s; journal {} MiB", begin.elapsed().as_secs_f64(), control.journal_bytes() >> 20);
    let entities = control.epoch().memory_bytes() >> 20;
    println!("memory: {entities} MiB of entities, {} MiB at the peak of this bench", peak_memory() >> 20);
    drop(control);
    let begin = Instant::now();
    let control = real()?;
    println!("opened from the journal in {:.2} s", begin.elapsed().as_secs_f64());
    let begin = Instant::now();
    control.checkpoint(0)?;
    println!("checkpoint in {:.2} s", begin.elapsed().as_secs_f64());
    drop(control);
    let begin = Instant::now();
    let control = real()?;
    println!("opened from the snapshot in {:.2} s", begin.elapsed().as_secs_f64());
    let update = Patch { ctr: Field::Set(0.5), ..Patch::new(Level::Ad, 5) };
    println!("one update among them {:.2} ms", median(101, || control.apply(vec![update.clone()]).map(drop))?);
    Ok(())
}
