//! The table against a naive model of it, in its life, after crashes, and with damaged files.

mod crash;
mod damage;
mod json;
mod standing;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::sample::Rng;
use crate::vfs::MemoryVfs;

const DIR: &str = "/control";
/// Ids of every level in random patches; 0 is one among ads only.
const IDS: u64 = 7;
/// Times in random patches.
const TIMES: u64 = 20;

fn open(vfs: &MemoryVfs) -> Control {
    Control::open(Arc::new(vfs.clone()), Path::new(DIR)).unwrap()
}

fn pause(level: Level, id: u64) -> Patch {
    Patch { status: Field::Set(Status::Paused), ..Patch::new(level, id) }
}

fn random_field<T>(rng: &mut Rng, value: impl FnOnce(&mut Rng) -> T) -> Field<T> {
    match rng.below(6) {
        0..3 => Field::Keep,
        3 => Field::Clear,
        _ => Field::Set(value(rng)),
    }
}

fn random_patch(rng: &mut Rng) -> Patch {
    let level = Level::ALL[rng.below(4) as usize];
    Patch {
        level,
        id: rng.below(IDS),
        parent: if level == Level::Advertiser { Field::Keep } else { random_field(rng, |rng| 1 + rng.below(IDS - 1)) },
        status: random_field(rng, |rng| if rng.below(3) == 0 { Status::Paused } else { Status::Active }),
        start: random_field(rng, |rng| rng.below(TIMES) as i64),
        end: random_field(rng, |rng| rng.below(TIMES) as i64),
        bid_micros: random_field(rng, |rng| rng.below(1000)),
        budget: random_field(rng, |rng| if rng.below(3) == 0 { Budget::Exhausted } else { Budget::Ok }),
        ctr: random_field(rng, |rng| rng.unit_f32()),
    }
}

/// Up to `most` random patches that can be applied together.
fn random_call(rng: &mut Rng, control: &Control, most: u64) -> Vec<Patch> {
    let mut earlier = Earlier::default();
    let patches = (0..=rng.below(most)).map(|_| random_patch(rng));
    patches.filter(|patch| control.check_after(patch, &mut earlier).is_ok()).collect()
}

/// What each entity said, and nothing worked out.
#[derive(Clone, Default)]
struct Model {
    said: BTreeMap<(Level, u64), Patch>,
}

impl Model {
    fn apply(&mut self, patch: &Patch) {
        let said = self.said.entry((patch.level, patch.id)).or_insert_with(|| Patch::new(patch.level, patch.id));
        fn merge<T: Copy>(field: &mut Field<T>, patch: Field<T>) {
            match patch {
                Field::Keep => {}
                Field::Clear => *field = Field::Keep,
                Field::Set(value) => *field = Field::Set(value),
            }
        }
        merge(&mut said.parent, patch.parent);
        merge(&mut said.status, patch.status);
        merge(&mut said.start, patch.start);
        merge(&mut said.end, patch.end);
        merge(&mut said.bid_micros, patch.bid_micros);
        merge(&mut said.budget, patch.budget);
        merge(&mut said.ctr, patch.ctr);
    }

    /// The entity and those above it, narrowest first, with what they said.
    fn chain(&self, level: Level, id: u64) -> Vec<Patch> {
        let mut chain = Vec::new();
        let mut next = Some((level, id));
        while let Some((level, id)) = next {
            let said = self.said.get(&(level, id)).cloned().unwrap_or_else(|| Patch::new(level, id));
            next = level.parent().zip(said.parent.set());
            chain.push(said);
        }
        chain
    }

    fn standing(&self, level: Level, id: u64) -> Standing {
        let chain = self.chain(level, id);
        let id_of = |level: Level| chain.iter().find(|said| said.level == level).map_or(0, |said| said.id);
        let blocked = chain.iter().rev().find_map(|said| {
            let (level, id) = (said.level, said.id);
            match (said.status.set(), said.budget.set()) {
                (Some(Status::Paused), _) => Some(Reason::Paused { level, id }),
                (_, Some(Budget::Exhausted)) => Some(Reason::Budget { level, id }),
                _ => None,
            }
        });
        Standing {
            from: chain.iter().filter_map(|said| said.start.set()).max().unwrap_or(i64::MIN),
            until: chain.iter().filter_map(|said| said.end.set()).min().unwrap_or(i64::MAX),
            blocked,
            bid_micros: chain.iter().find_map(|said| said.bid_micros.set()).unwrap_or(0),
            ctr: chain.iter().find_map(|said| said.ctr.set()),
            advertiser: id_of(Level::Advertiser),
            campaign: id_of(Level::Campaign),
            ad_group: id_of(Level::AdGroup),
        }
    }

    fn entity(&self, level: Level, id: u64) -> Option<Entity> {
        self.said.get(&(level, id)).map(|said| Entity {
            level,
            id,
            parent: said.parent.set(),
            status: said.status.set(),
            start: said.start.set(),
            end: said.end.set(),
            bid_micros: said.bid_micros.set(),
            budget: said.budget.set(),
            ctr: said.ctr.set(),
        })
    }

    /// Asserts that the table says the same as the model about every entity there can be.
    fn assert_equals(&self, control: &Control, context: &str) {
        // An epoch taken before an ad group is known does not know its id.
        control.owners_of_groups(1..IDS);
        self.assert_standings(control, &control.epoch(), context);
        for (level, id) in Level::ALL.into_iter().flat_map(|level| (0..IDS).map(move |id| (level, id))) {
            assert_eq!(control.entity(level, id), self.entity(level, id), "{context}: {level} {id}");
        }
    }

    fn assert_standings(&self, control: &Control, epoch: &Epoch, context: &str) {
        for id in 1..IDS {
            let found = epoch.standing(control.owner_of_group(id));
            assert_eq!(found, self.standing(Level::AdGroup, id), "{context}: ad group {id}");
        }
        for key in 0..IDS {
            let owner = control.owner_of_ad(key);
            assert!(owner.is_some() || !self.said.contains_key(&(Level::Ad, key)), "{context}: ad {key}");
            // An ad younger than the epoch has no place in it, nor in the model of its time.
            if let Some(owner) = owner.filter(|_| self.said.contains_key(&(Level::Ad, key))) {
                assert_eq!(epoch.standing(owner), self.standing(Level::Ad, key), "{context}: ad {key}");
            }
        }
    }
}
