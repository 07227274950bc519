//! Figures, on the real file system. `cargo test --lib ads::control::tests::speed -- --ignored --nocapture --test-threads 1`

use std::hint::black_box;
use std::time::Instant;

use super::*;
use crate::vfs::RealVfs;

fn real(dir: &Path) -> Control {
    Control::open(Arc::new(RealVfs), dir).unwrap()
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

fn load(control: &Control, patches: impl Iterator<Item = Patch>) {
    let mut patches = patches.peekable();
    while patches.peek().is_some() {
        control.apply(patches.by_ref().take(MAX_PATCHES).collect()).unwrap();
    }
}

fn apply(control: &Control, patch: Patch) {
    control.apply(vec![patch]).unwrap();
}

/// Milliseconds that `work` takes, the median of several.
fn median(times: usize, mut work: impl FnMut()) -> f64 {
    let mut taken: Vec<f64> = (0..times)
        .map(|_| {
            let begin = Instant::now();
            work();
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    taken.sort_by(f64::total_cmp);
    taken[times / 2]
}

#[test]
#[ignore = "a measurement"]
fn pausing_a_campaign_of_a_thousand_ad_groups() {
    for (all, each) in [(10_000, 1000), (1_000_000, 1000)] {
        let dir = tempfile::tempdir().unwrap();
        let control = real(dir.path());
        load(&control, groups(all, each));
        load(&control, ads(100_000, all));
        let one = median(21, || apply(&control, pause(Level::AdGroup, 5)));
        let campaign = median(21, || apply(&control, pause(Level::Campaign, 2)));
        let work = median(21, || control.work_in(vec![(vec![pause(Level::Campaign, 2)], 1_000_000)]));
        println!(
            "of {all} ad groups: pause one {one:.2} ms, a campaign of {each} {campaign:.2} ms, {work:.2} ms of it not disk"
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn updates_a_second() {
    const EACH: u64 = 500;
    let dir = tempfile::tempdir().unwrap();
    let control = real(dir.path());
    load(&control, groups(10_000, 100));
    for threads in [1, 4, 16, 64] {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let control = &control;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let bid = Patch {
                            bid_micros: Field::Set(n),
                            ..Patch::new(Level::AdGroup, 1 + (thread * EACH + n) % 10_000)
                        };
                        apply(control, bid);
                    }
                });
            }
        });
        let seconds = begin.elapsed().as_secs_f64();
        println!("{threads} callers: {:.0} calls/s, each durable", (threads * EACH) as f64 / seconds);
    }
}

#[test]
#[ignore = "a measurement"]
fn the_cost_of_a_standing() {
    const CALLS: usize = 4_000_000;
    let control = open(&MemoryVfs::new());
    load(&control, groups(1_000_000, 100));
    load(&control, ads(1_000_000, 1_000_000));
    let epoch = control.epoch();
    let mut rng = Rng::new(1);
    for (what, all) in [("1,000", 1000), ("1,000,000", 1_000_000)] {
        let of_groups: Vec<Owner> = (0..CALLS).map(|_| control.owner_of_group(1 + rng.below(all))).collect();
        let of_ads: Vec<Owner> = (0..CALLS).map(|_| control.owner_of_ad(rng.below(all)).unwrap()).collect();
        for (kind, owners) in [("ad groups", of_groups), ("ads of their own", of_ads)] {
            let ms = median(5, || {
                let open = owners.iter().filter(|&&owner| epoch.standing(owner).eligible(0).is_ok()).count();
                assert_eq!(black_box(open), CALLS);
            });
            println!("standing, at random among {what} {kind}: {:.1} ns", ms * 1e6 / CALLS as f64);
        }
    }
    let begin = Instant::now();
    let epochs = 10_000_000;
    (0..epochs).for_each(|_| drop(black_box(control.epoch())));
    println!("epoch(): {:.1} ns", begin.elapsed().as_secs_f64() * 1e9 / f64::from(epochs));
}

#[test]
#[ignore = "a measurement"]
fn a_million_ads_with_records_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let control = real(dir.path());
    let before = resident_mib();
    let begin = Instant::now();
    load(&control, groups(10_000, 100));
    load(&control, ads(1_000_000, 10_000));
    println!("applied in {:.2} s; journal {} MiB", begin.elapsed().as_secs_f64(), control.journal_bytes() >> 20);
    println!(
        "memory: {} MiB of entities, {} MiB resident",
        control.epoch().memory_bytes() >> 20,
        resident_mib() - before
    );
    drop(control);
    let mut opened = None;
    let open = |opened: &mut Option<Control>| {
        let begin = Instant::now();
        *opened = Some(real(dir.path()));
        begin.elapsed().as_secs_f64()
    };
    println!("opened from the journal in {:.2} s", open(&mut opened));
    let begin = Instant::now();
    assert!(opened.as_ref().unwrap().checkpoint(0).unwrap());
    println!("checkpoint in {:.2} s", begin.elapsed().as_secs_f64());
    drop(opened.take());
    println!("opened from the snapshot in {:.2} s", open(&mut opened));
    let control = opened.unwrap();
    let update = median(101, || apply(&control, Patch { ctr: Field::Set(0.5), ..Patch::new(Level::Ad, 5) }));
    let work = median(101, || control.work_in(vec![(vec![pause(Level::Ad, 7)], 1_000_000)]));
    println!("one update among them {update:.2} ms, {work:.3} ms of it not disk");
}

fn resident_mib() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    (pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096) >> 20
}
