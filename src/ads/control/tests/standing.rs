//! What holds for an ad, while patches come.

use super::*;

#[test]
fn random_patches_give_the_standings_of_a_naive_walk() {
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let vfs = MemoryVfs::new();
        let mut control = open(&vfs);
        let mut model = Model::default();
        let mut seen = Vec::new();
        for step in 0..20 {
            let context = format!("seed {seed}, step {step}");
            let call = random_call(&mut rng, &control, 6);
            let number = control.apply(call.clone()).unwrap();
            call.iter().for_each(|patch| model.apply(patch));
            assert_eq!(control.epoch().number(), number, "{context}");
            model.assert_equals(&control, &context);
            seen.push((control.epoch(), model.clone()));
            match rng.below(10) {
                0 => assert!(control.checkpoint(0).unwrap(), "{context}"),
                1 => {
                    // Owners mean nothing in a table opened anew, so neither can epochs of the one before be asked.
                    seen.clear();
                    drop(control);
                    control = open(&vfs);
                    assert_eq!(control.epoch().number(), number, "{context}");
                    model.assert_equals(&control, &context);
                }
                _ => {}
            }
        }
        for (epoch, model) in seen {
            model.assert_standings(&control, &epoch, &format!("seed {seed}, epoch {}", epoch.number()));
        }
    }
}

#[test]
fn a_flight_begins_with_its_first_second_and_ends_before_its_last() {
    let standing = Standing { from: 10, until: 20, ..Standing::OPEN };
    assert_eq!(standing.eligible(9), Err(Reason::NotStarted));
    assert_eq!(standing.eligible(10), Ok(()));
    assert_eq!(standing.eligible(19), Ok(()));
    assert_eq!(standing.eligible(20), Err(Reason::Ended));
    let reason = Reason::Paused { level: Level::AdGroup, id: 3 };
    assert_eq!(Standing { blocked: Some(reason), ..standing }.eligible(9), Err(reason));
    assert_eq!(reason.to_string(), "ad_group 3 is paused");
}

#[test]
fn a_pause_names_who_paused_and_is_over_when_it_is_taken_back() {
    let control = open(&MemoryVfs::new());
    let tree = [(Level::Campaign, 7, 1), (Level::AdGroup, 70, 7), (Level::Ad, 700, 70)];
    let tree = tree.map(|(level, id, parent)| Patch { parent: Field::Set(parent), ..Patch::new(level, id) });
    control.apply(tree.to_vec()).unwrap();
    let ad = control.owner_of_ad(700).unwrap();
    let before = control.epoch();
    control.apply(vec![pause(Level::Campaign, 7)]).unwrap();
    let paused = control.epoch();
    control.apply(vec![pause(Level::Advertiser, 1), pause(Level::Ad, 700)]).unwrap();
    control.apply(vec![Patch { status: Field::Clear, ..Patch::new(Level::Campaign, 7) }]).unwrap();
    let reason = |epoch: &Epoch| epoch.standing(ad).eligible(0);
    assert_eq!(reason(&before), Ok(()));
    assert_eq!(reason(&paused), Err(Reason::Paused { level: Level::Campaign, id: 7 }));
    assert_eq!(reason(&control.epoch()), Err(Reason::Paused { level: Level::Advertiser, id: 1 }));
    let Standing { advertiser, campaign, ad_group, .. } = paused.standing(ad);
    assert_eq!((advertiser, campaign, ad_group), (1, 7, 70));
}

#[test]
fn ad_groups_that_nobody_described_are_active_without_a_bid() {
    let control = open(&MemoryVfs::new());
    let old = control.epoch();
    let owner = control.owner_of_group(5);
    let expected = Standing { ad_group: 5, ..Standing::OPEN };
    assert_eq!(control.epoch().standing(owner), expected);
    assert_eq!(old.standing(owner), Standing::OPEN);
    assert_eq!(
        control.owners_of_groups([6, 5, 0, 6]),
        [control.owner_of_group(6), owner, Owner::NONE, control.owner_of_group(6)]
    );
    assert_eq!(control.owner_of_ad(5), None);
    assert_eq!(control.entity(Level::AdGroup, 5), None);
    assert_eq!(Owner::from_bits(owner.to_bits()), owner);
    assert_eq!((control.epoch().number(), control.epoch().counts()), (0, [0, 0, 2, 0]));
}

#[test]
fn an_ad_whose_record_is_younger_than_the_epoch_is_stopped() {
    let control = open(&MemoryVfs::new());
    let before = control.epoch();
    control.apply(vec![Patch { parent: Field::Clear, ..pause(Level::Ad, 9) }]).unwrap();
    let owner = control.owner_of_ad(9).unwrap();
    assert_eq!(before.standing(owner).eligible(0), Err(Reason::Unknown));
    let reason = Reason::Paused { level: Level::Ad, id: 9 };
    assert_eq!(control.epoch().standing(owner).eligible(0), Err(reason));
}

#[test]
fn flights_are_checked_after_the_patches_before_them() {
    let control = open(&MemoryVfs::new());
    let start = Patch { start: Field::Set(100), ..Patch::new(Level::Campaign, 7) };
    let end = Patch { end: Field::Set(50), ..Patch::new(Level::Campaign, 7) };
    let refused = control.apply(vec![start.clone(), end.clone()]).unwrap_err().to_string();
    assert!(refused.contains("invalid end"), "{refused}");
    let mut earlier = Earlier::default();
    control.check_after(&start, &mut earlier).unwrap();
    control.check_after(&end, &mut earlier).unwrap_err();
    control.check_after(&Patch { end: Field::Set(150), ..end.clone() }, &mut earlier).unwrap();
    // Two calls at the same time may leave a flight without a second: what does not touch it is taken all the same.
    let mut table = Table::new();
    [start, end].iter().for_each(|patch| table.apply(patch));
    table.check_all(&[pause(Level::Campaign, 7)]).unwrap();
    table.check_all(&[Patch { end: Field::Clear, ..Patch::new(Level::Campaign, 7) }]).unwrap();
    table.check_all(&[Patch { end: Field::Set(60), ..Patch::new(Level::Campaign, 7) }]).unwrap_err();
}

#[test]
fn ads_with_records_of_their_own_are_listed() {
    let control = open(&MemoryVfs::new());
    let own = |key| Patch { parent: Field::Clear, ..Patch::new(Level::Ad, key) };
    control.apply((0..600).map(own).collect()).unwrap();
    let epoch = control.epoch();
    let ads: Vec<_> = epoch.ads().collect();
    let expected: Vec<_> = (0..600).map(|key| (key, control.owner_of_ad(key).unwrap())).collect();
    assert_eq!(ads, expected);
    assert_eq!(epoch.standing(ads[0].1), Standing::OPEN);
}

#[test]
fn a_bad_patch_is_refused_by_field_and_spoils_its_call() {
    let control = open(&MemoryVfs::new());
    control.apply(vec![Patch { start: Field::Set(100), ..Patch::new(Level::Campaign, 7) }]).unwrap();
    let campaign = || Patch::new(Level::Campaign, 7);
    let cases = [
        ("id", Patch { id: 0, ..pause(Level::Campaign, 0) }),
        ("patch", campaign()),
        ("parent", Patch { parent: Field::Set(0), ..campaign() }),
        ("parent", Patch { parent: Field::Set(1), ..Patch::new(Level::Advertiser, 1) }),
        ("parent", pause(Level::Ad, 1)),
        ("end", Patch { end: Field::Set(100), ..campaign() }),
        ("end", Patch { start: Field::Set(5), end: Field::Set(4), ..Patch::new(Level::Campaign, 8) }),
        ("start", Patch { start: Field::Set(1_764_000_000_000), ..campaign() }),
        ("end", Patch { end: Field::Set(i64::MAX), ..campaign() }),
        ("bid_micros", Patch { bid_micros: Field::Set(MAX_BID_MICROS + 1), ..campaign() }),
        ("ctr", Patch { ctr: Field::Set(1.5), ..campaign() }),
        ("ctr", Patch { ctr: Field::Set(f32::NAN), ..campaign() }),
    ];
    for (field, patch) in cases {
        let refused = |result: Result<()>| match result {
            Err(Error::InvalidParams { name, reason }) => {
                assert_eq!(name, field, "{reason}");
                reason
            }
            other => panic!("{patch:?}: {other:?}"),
        };
        let reason = refused(control.check(&patch));
        assert_eq!(refused(control.apply(vec![pause(Level::Campaign, 7), patch.clone()]).map(|_| ())), reason);
    }
    let milliseconds = Patch { start: Field::Set(1_764_000_000_000), ..campaign() };
    assert!(control.check(&milliseconds).unwrap_err().to_string().contains("milliseconds?"));
    assert_eq!(control.epoch().number(), 1);
    assert_eq!(control.entity(Level::Campaign, 7).unwrap().status, None);
    let too_many = vec![pause(Level::Campaign, 7); MAX_PATCHES + 1];
    assert!(control.apply(too_many).unwrap_err().to_string().contains("100001"));
}

#[test]
fn an_ad_may_name_its_ad_group_earlier_in_the_same_call() {
    let control = open(&MemoryVfs::new());
    let named = Patch { parent: Field::Set(70), ..Patch::new(Level::Ad, 700) };
    assert!(control.apply(vec![pause(Level::Ad, 700), named.clone()]).is_err());
    control.apply(vec![named, pause(Level::Ad, 700)]).unwrap();
    let standing = control.epoch().standing(control.owner_of_ad(700).unwrap());
    assert_eq!(standing.blocked, Some(Reason::Paused { level: Level::Ad, id: 700 }));
}

#[test]
fn callers_at_the_same_time_each_get_their_epoch() {
    const THREADS: u64 = 6;
    const CALLS: u64 = 40;
    let vfs = MemoryVfs::new();
    let control = open(&vfs);
    let numbers: Vec<u64> = std::thread::scope(|scope| {
        let call = |thread: u64| {
            let control = &control;
            move || -> Vec<u64> {
                let patch = |n| Patch { bid_micros: Field::Set(n), ..Patch::new(Level::AdGroup, 1 + thread) };
                let apply = |n| {
                    let number = control.apply(vec![patch(n)]).unwrap();
                    let epoch = control.epoch();
                    assert!(epoch.number() >= number);
                    assert_eq!(epoch.standing(control.owner_of_group(1 + thread)).bid_micros, n);
                    number
                };
                (1..=CALLS).map(apply).collect()
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(call(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=THREADS * CALLS).collect::<Vec<_>>());
    drop(control);
    let control = open(&vfs);
    assert_eq!(control.epoch().number(), THREADS * CALLS);
    assert!((1..=THREADS).all(|id| control.entity(Level::AdGroup, id).unwrap().bid_micros == Some(CALLS)));
}
